"""Labelled structures to train on, with their neighbour lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.graph.neighbors import Edges, neighbor_list
from mindscaip.training.batches import Batch


class StructureDataset:
    """Labelled structures with their neighbour lists, which are built once and kept.

    Attributes:
        cutoff: reach of the neighbour lists in A.
        num_atoms: atoms of each structure, int64 ``[M]``.

    Raises:
        MindscaipError: a structure has no energy or no forces.
    """

    def __init__(self, structures: Sequence[Structure], cutoff: float) -> None:
        for index, structure in enumerate(structures):
            if structure.energy is None or structure.forces is None:
                missing = "energy" if structure.energy is None else "forces"
                raise MindscaipError(f"structure {index} has no {missing} to train on; label the data or name the keys")
        self.structures = structures
        self.cutoff = cutoff
        self.num_atoms = np.array([len(structure) for structure in structures], dtype=np.int64)
        self._edges: dict[int, Edges] = {}

    def __len__(self) -> int:
        return len(self.structures)

    def edges(self, index: int) -> Edges:
        if index not in self._edges:
            self._edges[index] = neighbor_list(self.structures[index], self.cutoff)
        return self._edges[index]

    def batch(self, indices: Sequence[int], rotations: np.ndarray | None = None) -> Batch:
        """Gather structures; ``rotations`` float64 ``[B, 3, 3]`` turn each of them (edges, forces, stress)."""
        structures = [self.structures[i] for i in indices]
        edges = [self.edges(i) for i in indices]
        sizes = np.array([len(s) for s in structures])
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        vectors = [e.vectors for e in edges]
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
            edge_index=torch.from_numpy(np.concatenate([e.index + o for e, o in zip(edges, offsets, strict=True)], 1)),
            edge_vectors=torch.from_numpy(np.concatenate(vectors)),
            energy=torch.tensor([s.energy for s in structures], dtype=torch.float64),
            forces=torch.from_numpy(np.concatenate(forces)).to(torch.float32),
            volume=torch.tensor([abs(np.linalg.det(s.cell)) if s.pbc.all() else 0.0 for s in structures]).double(),
            stress=torch.from_numpy(np.stack(stresses)).to(torch.float32),
        )
