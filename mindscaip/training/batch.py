"""What the model is trained on in one step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


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
        noise: displacement over its standard deviation, float32 ``[N, 3]``; None unless the batch is corrupted.
        corrupted: which atoms are displaced, bool ``[N]``; None unless the batch is corrupted.
        counts: False for the stand-in of a process whose share is empty.
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
    noise: Tensor | None = None
    corrupted: Tensor | None = None
    counts: bool = True

    def to(self, device: torch.device | str) -> Batch:
        moved: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved |= {name: value.to(device) for name, value in moved.items() if isinstance(value, Tensor)}
        return Batch(**moved)

    @property
    def edge_structure(self) -> Tensor:
        """Which structure each edge belongs to, int64 ``[E]``."""
        return self.atom_structure[self.edge_index[0]]
