"""Labelled structures to train on, with their neighbour lists: from memory or from stores, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mindscaip.data.collection import Collection
from mindscaip.data.structure import Structure
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.training.batch import Batch

DEFAULT_CACHE_MB = 256.0
_RELEASE_EVERY = 32
"""Structures after which the pages read from stores are given back (one is spread over some 0.6 MB of them)."""


class StructureDataset:
    """Labelled structures by index, and batches of them as graphs.

    Neighbour lists are built when they are needed. Those that fit into ``cache_mb`` are kept for the next epochs: the
    first that come stay. Each epoch is a new permutation of all structures, and there keeping a fixed part saves that
    part of the work, while evicting the least recently used saves next to nothing.

    Attributes:
        structures: what it draws from.
        cutoff: reach of the neighbour lists in A.
        num_atoms: atoms of each structure, int64 ``[M]``.
        workers: processes that prepare batches; 0: a thread.

    Args:
        cache_mb: memory for neighbour lists in MB.

    Raises:
        MindscaipError: a structure has no energy or no forces.
    """

    def __init__(
        self,
        structures: Sequence[Structure],
        cutoff: float,
        *,
        cache_mb: float = DEFAULT_CACHE_MB,
        workers: int = 0,
    ) -> None:
        self.structures = structures if isinstance(structures, Collection) else Collection([structures])
        self.structures.check_labels()
        self.cutoff = cutoff
        self.workers = workers
        self.num_atoms = self.structures.num_atoms
        self._edges: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._cache_left = int(cache_mb * 1e6)
        self._read = 0

    def __len__(self) -> int:
        return len(self.structures)

    def without_cache(self) -> StructureDataset:
        """The same data for another process, which keeps no neighbour lists of its own."""
        other = StructureDataset.__new__(StructureDataset)
        other.__dict__.update(self.__dict__, _edges={}, _cache_left=0)
        return other

    def _graph(self, index: int, structure: Structure) -> tuple[np.ndarray, np.ndarray]:
        """Edges of a structure: index int32 ``[2, E]`` and vectors float64 ``[E, 3]``."""
        kept = self._edges.get(index)
        if kept is not None:
            return kept
        edges = neighbor_list(structure, self.cutoff)
        graph = edges.index.astype(np.int32), edges.vectors
        size = graph[0].nbytes + graph[1].nbytes
        if size <= self._cache_left:
            self._cache_left -= size
            self._edges[index] = graph
        return graph

    def batch(self, indices: Sequence[int], rotations: np.ndarray | None = None) -> Batch:
        """Gather structures; ``rotations`` float64 ``[B, 3, 3]`` turn each of them (edges, forces, stress)."""
        structures = [self.structures[i] for i in indices]
        graphs = [self._graph(i, s) for i, s in zip(indices, structures, strict=True)]
        self._read += len(structures)
        if self._read >= _RELEASE_EVERY:
            self._read = 0
            self.structures.release()
        sizes = np.array([len(s) for s in structures])
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        edge_index = np.concatenate([index for index, _ in graphs], axis=1).astype(np.int64)
        edge_index += np.repeat(offsets, [index.shape[1] for index, _ in graphs])
        vectors = [v for _, v in graphs]
        forces = [np.asarray(s.forces) for s in structures]
        stresses = [np.full((3, 3), np.nan) if s.stress is None else s.stress for s in structures]
        if rotations is not None:
            vectors = [v @ r.T for v, r in zip(vectors, rotations, strict=True)]
            forces = [f @ r.T for f, r in zip(forces, rotations, strict=True)]
            stresses = [r @ s @ r.T for s, r in zip(stresses, rotations, strict=True)]
        return Batch(
            numbers=torch.from_numpy(np.concatenate([s.numbers for s in structures])),
            atom_structure=torch.from_numpy(np.repeat(np.arange(len(structures)), sizes)),
            num_atoms=torch.from_numpy(sizes),
            edge_index=torch.from_numpy(edge_index),
            edge_vectors=torch.from_numpy(np.concatenate(vectors)),
            energy=torch.tensor([s.energy for s in structures], dtype=torch.float64),
            forces=torch.from_numpy(np.concatenate(forces)).to(torch.float32),
            volume=torch.tensor([abs(np.linalg.det(s.cell)) if s.pbc.all() else 0.0 for s in structures]).double(),
            stress=torch.from_numpy(np.stack(stresses)).to(torch.float32),
        )
