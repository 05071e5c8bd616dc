"""Physics of the eager model in float64: derivatives, invariances, limits."""

import numpy as np
import pytest
import torch

from mindscaip.data.structure import Structure
from mindscaip.graph.neighbors import neighbor_list
from tests.models import REFERENCES, energy_forces_virial, random_structure, small_model

MODES = [{"ranking": "source"}, {"ranking": "mutual"}]
CELLS = [None, 6.0, 3.0]
"""Free, larger than the cutoff, smaller than the cutoff."""


def structure_of(box: float | None) -> Structure:
    return random_structure(4 if box == 3.0 else 20, box=box)


def richardson(function, h: float) -> np.ndarray:
    """Derivative at 0 by central differences, sixth order."""
    d1, d2, d3 = ((function(n * h) - function(-n * h)) / (2 * n * h) for n in (1, 2, 3))
    return 1.5 * d1 - 0.6 * d2 + 0.1 * d3


@pytest.mark.parametrize("box", CELLS)
@pytest.mark.parametrize("mode", MODES)
def test_forces_are_minus_the_gradient(mode, box):
    model, structure = small_model(**mode), structure_of(box)
    _, forces, _ = energy_forces_virial(model, structure)
    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = rng.normal(size=forces.shape)
        direction /= np.linalg.norm(direction)

        def energy(h: float, direction=direction) -> float:
            moved = Structure(structure.numbers, structure.positions + h * direction, structure.cell, structure.pbc)
            return energy_forces_virial(model, moved)[0].sum()

        slope = richardson(energy, 2e-3)
        assert slope == pytest.approx(-(forces * direction).sum(), abs=1e-7 * np.linalg.norm(forces))


@pytest.mark.parametrize("box", CELLS[1:])
@pytest.mark.parametrize("mode", MODES)
def test_virial_is_minus_the_strain_derivative(mode, box):
    model, structure = small_model(**mode), structure_of(box)
    _, _, virial = energy_forces_virial(model, structure)
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (2, 0), (1, 2)]:
        strain = np.zeros((3, 3))
        strain[a, b] = 1.0

        def energy(h: float, strain=strain) -> float:
            deform = np.eye(3) + h * strain
            moved = Structure(structure.numbers, structure.positions @ deform, structure.cell @ deform, structure.pbc)
            return energy_forces_virial(model, moved)[0].sum()

        assert richardson(energy, 5e-4) == pytest.approx(-virial[a, b], abs=1e-7 * np.linalg.norm(virial))


def test_net_force_vanishes():
    _, forces, _ = energy_forces_virial(small_model(), random_structure(20))
    assert np.abs(forces.sum(0)).max() < 1e-12 * np.abs(forces).max() * len(forces)


@pytest.mark.parametrize("box", CELLS)
def test_permutation_translation_and_lattice_shifts_change_nothing(box):
    model, structure = small_model(), structure_of(box)
    energies, forces, virial = energy_forces_virial(model, structure)
    rng = np.random.default_rng(2)
    order = rng.permutation(len(structure))
    shifts = rng.integers(-2, 3, (len(structure), 3)) @ structure.cell
    moved = Structure(
        structure.numbers[order],
        (structure.positions + shifts)[order] + np.array([0.3, -7.1, 2.2]),
        structure.cell,
        structure.pbc,
    )
    other_energies, other_forces, other_virial = energy_forces_virial(model, moved)
    assert np.abs(other_energies - energies[order]).max() < 1e-10
    assert np.abs(other_forces - forces[order]).max() < 1e-10
    assert np.abs(other_virial - virial).max() < 1e-9


def test_a_supercell_has_as_many_times_the_energy():
    model, cell = small_model(), random_structure(4, box=3.0)
    energies, forces, virial = energy_forces_virial(model, cell)
    offsets = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)]) * 3.0
    super_cell = Structure(
        np.tile(cell.numbers, 8),
        np.concatenate([cell.positions + o for o in offsets]),
        cell.cell * 2,
        cell.pbc,
    )
    super_energies, super_forces, super_virial = energy_forces_virial(model, super_cell)
    assert np.abs(super_energies - np.tile(energies, 8)).max() < 1e-10
    assert np.abs(super_forces - np.tile(forces, (8, 1))).max() < 1e-10
    assert np.abs(super_virial - 8 * virial).max() < 1e-9


def test_a_batch_is_one_larger_graph():
    model = small_model()
    one, two = random_structure(9, seed=4), random_structure(13, box=6.0, seed=5)
    parts = [energy_forces_virial(model, s)[0] for s in (one, two)]
    edges = [neighbor_list(s, model.list_cutoff) for s in (one, two)]
    together, _ = model(
        torch.from_numpy(np.concatenate([one.numbers, two.numbers])),
        torch.from_numpy(np.concatenate([edges[0].index, edges[1].index + 9], 1)),
        torch.from_numpy(np.concatenate([e.vectors for e in edges])),
    )
    assert np.abs(together.detach().numpy() - np.concatenate(parts)).max() < 1e-10


def test_an_atom_beyond_the_interaction_range_changes_nothing_to_the_last_bit():
    model, structure = small_model(), random_structure(12)
    # Two layers and the ranks reach at most (2 * 2 + 1) list radii.
    far = structure.positions.max(0) + 5 * model.list_cutoff
    results = [
        energy_forces_virial(model, Structure(np.append(structure.numbers, 8), np.vstack([structure.positions, place])))
        for place in (far, 3.7 * far)
    ]
    for before, after in zip(*results, strict=True):
        assert np.array_equal(before, after)
    without = energy_forces_virial(model, structure)
    assert np.abs(results[0][0][:-1] - without[0]).max() < 1e-11
    assert np.abs(results[0][1][:-1] - without[1]).max() < 1e-13


def test_isolated_and_absent_atoms_have_an_energy():
    model = small_model()
    energies, forces, virial = energy_forces_virial(model, Structure([8], [[0.0, 0, 0]]))
    assert np.isfinite(energies).all()
    assert abs(energies[0] - REFERENCES["O"]) < 20.0
    assert not forces.any()
    assert not virial.any()
    none = torch.zeros(0, dtype=torch.int64)
    energies, _ = model(none, none.reshape(2, 0), torch.zeros((0, 3), dtype=torch.float64))
    assert energies.shape == (0,)


def test_an_unknown_element_is_refused():
    with pytest.raises(RuntimeError, match="not in the model"):
        energy_forces_virial(small_model(), Structure([8, 7], [[0.0, 0, 0], [1.0, 0, 0]]))


@pytest.mark.parametrize("ranking", ["source", "mutual"])
def test_energy_is_smooth_while_a_neighbour_enters(ranking):
    """Fourth differences fall as h^4 while an atom drifts through the ranks and the cutoff of a dense cluster."""
    model, structure = small_model(ranking=ranking), random_structure(25, size=5.0, seed=3)
    path = np.linspace(0.0, 4.0, 401)

    def energies(points: np.ndarray) -> np.ndarray:
        out = []
        for t in points:
            positions = structure.positions.copy()
            positions[0] += t * np.array([0.48, 0.6, 0.64])
            out.append(energy_forces_virial(model, Structure(structure.numbers, positions))[0].sum())
        return np.array(out)

    values = energies(path)
    coarse = np.abs(np.diff(values[::2], 4)).max()
    fine = np.abs(np.diff(values, 4)).max()
    assert coarse > 1e-6  # something happens along the path
    assert fine < coarse / 8  # a jump would stay, a kink would fall by 2


def test_hard_knn_jumps_and_is_found_out():
    model, structure = small_model(kind="knn"), random_structure(25, size=5.0, seed=3)
    jumps = []
    for h in (1e-2, 5e-3):
        values = []
        for t in np.arange(0.0, 2.0, h):
            positions = structure.positions.copy()
            positions[0] += t * np.array([0.48, 0.6, 0.64])
            values.append(energy_forces_virial(model, Structure(structure.numbers, positions))[0].sum())
        jumps.append(np.abs(np.diff(values, 4)).max())
    assert jumps[1] > jumps[0] / 2


def test_direct_forces_are_an_output():
    model, structure = small_model(head="direct"), random_structure(6)
    edges = neighbor_list(structure, model.list_cutoff)
    _, forces = model(
        torch.from_numpy(structure.numbers), torch.from_numpy(edges.index), torch.from_numpy(edges.vectors)
    )
    assert forces.shape == (6, 3)
    assert forces.abs().max() > 0


def test_float32_stays_close_to_float64():
    double, single = small_model(), small_model(dtype=torch.float32)
    structure = random_structure(20)
    reference, forces, _ = energy_forces_virial(double, structure)
    energies, single_forces, _ = energy_forces_virial(single, structure)
    assert energies.dtype == np.float64
    assert np.abs(energies - reference).max() < 1e-5
    assert np.abs(single_forces - forces).max() < 1e-4 * np.abs(forces).max()
