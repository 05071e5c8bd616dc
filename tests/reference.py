"""Energies, forces and virials of a ``model.pt`` straight from its contract: what every engine has to reproduce.

Nothing here is shared with an engine except the neighbour list, the call of the module and the signs of
``mindscaip.model.derivatives``; the file works with any exported model and any structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mindscaip.contract import ExportedModel, load_exported
from mindscaip.data.structure import Structure
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.derivatives import forces_from_edge_gradients, virial_from_edge_gradients


@dataclass(frozen=True)
class Reference:
    """Results of one structure.

    Attributes:
        energy: total energy in eV.
        forces: eV/A, float64 ``[N, 3]``.
        virial: ``-sum_e r_e (x) g_e`` in eV, float64 ``[3, 3]``, not symmetrised.
        atom_energies: eV, float64 ``[N]``.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    atom_energies: np.ndarray

    @property
    def symmetric_virial(self) -> np.ndarray:
        """Derivative with respect to a symmetric strain: ``(W + W^T) / 2`` in eV, float64 ``[3, 3]``."""
        return 0.5 * (self.virial + self.virial.T)


@lru_cache(maxsize=8)
def _load(path: Path, modified_ns: int) -> ExportedModel:
    return load_exported(path)


def python_reference(model_path: str | Path, structure: Structure) -> Reference:
    """Evaluate ``structure`` (unwrapped or wrapped, any cell) with the exported model at ``model_path`` on the CPU."""
    path = Path(model_path)
    exported = _load(path, path.stat().st_mtime_ns)
    edges = neighbor_list(structure, exported.contract.list_cutoff)
    numbers = torch.from_numpy(structure.numbers)
    index = torch.from_numpy(edges.index)
    vectors = torch.from_numpy(edges.vectors)
    atom_energies, gradients, direct = exported.module(numbers, index, vectors)
    if exported.contract.conservative:
        forces = forces_from_edge_gradients(gradients.double(), index, len(structure))
    else:
        forces = direct.double()
    virial = virial_from_edge_gradients(gradients.double(), vectors)
    return Reference(
        energy=float(atom_energies.sum()),
        forces=forces.detach().numpy(),
        virial=virial.detach().numpy(),
        atom_energies=atom_energies.detach().numpy(),
    )
