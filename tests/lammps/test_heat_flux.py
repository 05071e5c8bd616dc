"""What ``compute heat/flux`` gives is part of the motion of the energy's centre; the rest is named and measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.derivatives import forces_from_edge_gradients
from tests.lammps.test_runs import heat_flux
from tests.models import random_structure, write_small_model

STEP = 1e-5
"""Of the differences in time, in units of A over the velocities."""


def test_the_flux_and_its_remainder_are_the_motion_of_the_centre_of_energy(tmp_path: Path) -> None:
    """``d/dt sum_k r_k (E_k + K_k)`` of a free cluster, from differences along the motion.

    With ``w_e = v_j - v_i`` and ``m_e`` the middle of an edge, it is the flux of the pair style plus
    ``R = sum_k r_k dE_k/dt - sum_e m_e (g_e . w_e)``: the pair style puts the work on an edge at its middle, while the
    energies that it changes are those of atoms some cutoffs around.
    """
    path = write_small_model(tmp_path / "model.pt")
    exported = load_exported(path)
    structure = random_structure(14, size=4.5, seed=4)
    rng = np.random.default_rng(1)
    velocities = rng.normal(size=(14, 3))
    masses = rng.uniform(1.0, 3.0, size=14)

    def evaluate(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        edges = neighbor_list(Structure(structure.numbers, positions), exported.contract.list_cutoff)
        energies, gradients, _ = exported.module(
            torch.from_numpy(structure.numbers), torch.from_numpy(edges.index), torch.from_numpy(edges.vectors)
        )
        forces = forces_from_edge_gradients(gradients, torch.from_numpy(edges.index), 14)
        return energies.numpy(), gradients.numpy(), forces.numpy(), edges.index

    _, gradients, forces, (i, j) = evaluate(structure.positions)
    kinetic = 0.5 * masses * (velocities**2).sum(axis=1)

    def centre(time: float) -> np.ndarray:
        """Of the energy, ``time`` from now along the motion under the forces of now."""
        positions = structure.positions + time * velocities + 0.5 * time**2 * forces / masses[:, None]
        moved = velocities + time * forces / masses[:, None]
        return (evaluate(positions)[0] + 0.5 * masses * (moved**2).sum(axis=1)) @ positions

    exact = (centre(STEP) - centre(-STEP)) / (2 * STEP)
    flux = heat_flux(path, structure, velocities, kinetic)
    ahead, behind = (evaluate(structure.positions + sign * STEP * velocities)[0] for sign in (1, -1))
    change = (ahead - behind) / (2 * STEP)
    power = np.einsum("ec,ec->e", gradients, velocities[j] - velocities[i])
    middles = 0.5 * (structure.positions[i] + structure.positions[j])
    remainder = change @ structure.positions - power @ middles
    assert np.abs(exact - flux - remainder).max() < 1e-6 * np.abs(exact).max()
    assert np.abs(change.sum() - power.sum()) < 1e-6 * np.abs(power).sum()
    # Beside the work that the flux holds, the remainder is no small correction: docs/lammps.md says so.
    vectors = structure.positions[j] - structure.positions[i]
    work = 0.5 * np.einsum("ec,ec,ed->d", gradients, velocities[i] + velocities[j], vectors)
    assert np.linalg.norm(remainder) > 0.1 * np.linalg.norm(work)
