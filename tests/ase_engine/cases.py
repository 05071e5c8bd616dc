"""Structures on which every engine has to agree, and toy models with special habits."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mindscaip.contract import Contract, write_exported
from mindscaip.data.structure import Structure
from tests.models import ethanol

PERIODIC = np.ones(3, dtype=bool)


def _scattered(count: int, cell: np.ndarray, closest: float, seed: int) -> np.ndarray:
    """Random positions in ``cell`` with no two (images included) closer than ``closest`` (A)."""
    rng = np.random.default_rng(seed)
    shifts = np.array(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, -1).T @ cell
    kept: list[np.ndarray] = []
    while len(kept) < count:
        candidate = rng.uniform(0, 1, 3) @ cell
        if all(np.linalg.norm(candidate - other + shifts, axis=1).min() > closest for other in kept):
            kept.append(candidate)
    return np.array(kept)


def structures() -> dict[str, Structure]:
    """The six cases, by name."""
    molecule = ethanol()
    liquid_cell = np.diag([11.0, 12.0, 13.0])
    liquid = _scattered(60, liquid_cell, 1.4, 1)
    liquid[::7] += liquid_cell[0] * 2 - liquid_cell[2]  # some atoms stand in other cells
    tiny = np.array([[3.1, 0.0, 0.0], [0.9, 3.3, 0.0], [-1.1, 0.7, 3.5]])
    return {
        "molecule": molecule,
        "molecule in a large box": Structure(
            molecule.numbers, molecule.positions + 19.0, cell=np.eye(3) * 40.0, pbc=PERIODIC
        ),
        "periodic liquid": Structure(np.array([8, 1, 1, 6, 7, 1] * 10), liquid, cell=liquid_cell, pbc=PERIODIC),
        "triclinic cell smaller than the cutoff": Structure(
            np.array([6, 8]), np.array([[0.2, 0.1, 0.3], [1.7, 1.9, 1.6]]), cell=tiny, pbc=PERIODIC
        ),
        "single atom": Structure(np.array([7]), np.array([[0.3, -0.2, 5.0]])),
        "two atoms beyond the cutoff": Structure(np.array([6, 8]), np.array([[0.0, 0, 0], [0, 0, 30.0]])),
    }


class _Direct(torch.nn.Module):
    """Forces as a direct output that no energy has: ``F_i = (Z_i, 0, 1)``."""

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        forces = torch.zeros((numbers.size(0), 3), dtype=edge_vectors.dtype, device=edge_vectors.device)
        forces[:, 0] = numbers.to(forces.dtype)
        forces[:, 2] = 1.0
        return 2.0 * numbers.to(torch.float64), torch.zeros_like(edge_vectors), forces


class _NotFinite(torch.nn.Module):
    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        energies = torch.full((numbers.size(0),), float("nan"), dtype=torch.float64, device=numbers.device)
        return energies, torch.zeros_like(edge_vectors), torch.zeros((0, 3), dtype=edge_vectors.dtype)


class _Oriented(torch.nn.Module):
    """An energy that depends on orientation, ``sum_e w (r_e . a)^2``: no equivariance is built into the real model."""

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        axis = torch.tensor([0.3, -0.2, 0.9], dtype=edge_vectors.dtype, device=edge_vectors.device)
        along = edge_vectors @ axis
        reach = torch.relu(1.0 - (edge_vectors * edge_vectors).sum(1) / 25.0)
        energy = torch.zeros(numbers.size(0), dtype=edge_vectors.dtype, device=edge_vectors.device)
        energy = energy.index_add(0, edge_index[0], reach**3 * along**2)
        gradient = (2.0 * reach**3 * along).unsqueeze(1) * axis - ((6.0 / 25.0) * reach**2 * along**2).unsqueeze(
            1
        ) * edge_vectors
        return energy.to(torch.float64), gradient, torch.zeros((0, 3), dtype=edge_vectors.dtype)


MODULES = {"direct": _Direct, "not finite": _NotFinite, "oriented": _Oriented}


def write_special(path: Path, kind: str) -> Path:
    """Write one of ``MODULES`` as a ``model.pt``."""
    contract = Contract(
        elements=("H", "C", "N", "O"),
        cutoff=5.0,
        list_cutoff=5.0,
        k=30,
        num_layers=0,
        dtype="float64",
        conservative=kind != "direct",
        smooth=True,
        ranking="source",
        parameters=0,
    )
    write_exported(torch.jit.script(MODULES[kind]().eval()), path, contract, {"kind": kind})
    return path
