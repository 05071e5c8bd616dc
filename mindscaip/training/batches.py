"""From structures to batches: one larger graph per batch, with labels and random rotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.graph.neighbors import Edges, neighbor_list


@dataclass
class Batch:
    """Several structures as one graph.

    Attributes:
        numbers: int64 ``[N]``.
        atom_structure: which structure each atom belongs to, int64 ``[N]``.
        num_atoms: atoms per structure, int64 ``[B]``.
        edge_index: int64 ``[2, E]``.
        edge_vectors: A, float64 ``[E, 3]``.
        energy: eV, float64 ``[B]``.
        forces: eV/A, float32 ``[N, 3]``.
        volume: A^3, float64 ``[B]``; 0 where not periodic.
        stress: eV/A^3, float32 ``[B, 3, 3]``; NaN where there is no label.
    """

    numbers: Tensor
    atom_structure: Tensor
    num_atoms: Tensor
    edge_index: Tensor
    edge_vectors: Tensor
    energy: Tensor
    forces: Tensor
    volume: Tensor
    stress: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @property
    def edge_structure(self) -> Tensor:
        """Which structure each edge belongs to, int64 ``[E]``."""
        return self.atom_structure[self.edge_index[0]]


class StructureDataset:
    """Labelled structures with their neighbour lists, which are built once and kept.

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


def random_rotations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform rotation matrices ``[count, 3, 3]`` (from uniform unit quaternions)."""
    w, x, y, z = (q := rng.normal(size=(4, count))) / np.linalg.norm(q, axis=0)
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
            np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
            np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
        ],
        axis=1,
    )


def epoch_batches(
    dataset: StructureDataset, batch_size: int, *, seed: int, epoch: int, rotate: bool, start: int = 0
) -> Iterator[Batch]:
    """Shuffled batches of one epoch from batch ``start`` on.

    Order and rotations are functions of (seed, epoch, batch), so a resumed run sees what an uninterrupted one sees.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(dataset))
    for step in range(start, num_batches(dataset, batch_size)):
        indices = order[step * batch_size : (step + 1) * batch_size].tolist()
        rng = np.random.default_rng([seed, epoch, step])
        yield dataset.batch(indices, random_rotations(len(indices), rng) if rotate else None)


def num_batches(dataset: StructureDataset, batch_size: int) -> int:
    return -(-len(dataset) // batch_size)
