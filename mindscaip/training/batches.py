"""Batches: several structures as one larger graph, their order in an epoch, and random rotations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mindscaip.training.dataset import StructureDataset


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
