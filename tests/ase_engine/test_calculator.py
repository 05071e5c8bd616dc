"""The ASE calculator and the batched evaluation over a model.pt with a known potential."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.engines.batched import evaluate
from mindscaip.errors import MindscaipError
from tests.ase_engine.cases import structures, write_special
from tests.golden.cases import golden_cases, model_path
from tests.reference import python_reference
from tests.toys import write_toy

CASES = structures()
PERIODIC_CASES = [name for name, s in CASES.items() if s.pbc.all()]
STEP = 2e-3


def five_point(energies: list[float]) -> float:
    """Derivative from energies at -2, -1, 1 and 2 steps; the error falls with the fourth power of the step."""
    return (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * STEP)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model.pt")


@pytest.fixture(scope="module")
def oriented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_special(tmp_path_factory.mktemp("oriented") / "model.pt", "oriented")


def with_calculator(structure: Structure, model: Path) -> Atoms:
    atoms = structure.to_ase()
    atoms.calc = MindscaipCalculator(model)
    return atoms


@pytest.mark.parametrize("name", CASES)
def test_equals_the_module_itself(name: str, toy: Path) -> None:
    atoms = with_calculator(CASES[name], toy)
    wanted = python_reference(toy, CASES[name])
    n = len(atoms)
    assert abs(atoms.get_potential_energy() - wanted.energy) < 1e-12 * n
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_potential_energies(), wanted.atom_energies, atol=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), wanted.forces, atol=1e-12)
    if CASES[name].pbc.all():
        stress = -wanted.symmetric_virial / atoms.get_volume()
        np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, atol=1e-13)


@pytest.mark.parametrize("model", ["toy", "oriented"])
@pytest.mark.parametrize("name", CASES)
def test_forces_are_energy_differences(name: str, model: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(model)
    structure = CASES[name]
    forces = evaluate(path, [structure])[0].forces
    atoms = range(len(structure))[:: max(1, len(structure) // 5)]
    scale = max(1.0, np.abs(forces).max())
    for a in atoms:
        for axis in range(3):
            displaced = []
            for step in (-2, -1, 1, 2):
                positions = structure.positions.copy()
                positions[a, axis] += step * STEP
                displaced.append(Structure(structure.numbers, positions, structure.cell, structure.pbc))
            energies = [p.energy for p in evaluate(path, displaced)]
            assert abs(-five_point(energies) - forces[a, axis]) < 1e-7 * scale


@pytest.mark.parametrize("model", ["toy", "oriented"])
@pytest.mark.parametrize("name", PERIODIC_CASES)
def test_stress_is_the_strain_derivative(name: str, model: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(model)
    structure = CASES[name]
    prediction = evaluate(path, [structure])[0]
    assert prediction.stress is not None
    assert prediction.virial is not None
    volume = abs(np.linalg.det(structure.cell))
    measured = np.zeros((3, 3))
    for a in range(3):
        for b in range(a, 3):
            strained = []
            for step in (-2, -1, 1, 2):
                strain = np.zeros((3, 3))
                strain[a, b] += 0.5 * step * STEP
                strain[b, a] += 0.5 * step * STEP
                deform = np.eye(3) + strain
                strained.append(
                    Structure(structure.numbers, structure.positions @ deform, structure.cell @ deform, structure.pbc)
                )
            measured[a, b] = measured[b, a] = five_point([p.energy for p in evaluate(path, strained)])
    scale = max(1.0, np.abs(measured).max())
    assert np.abs(measured).max() > 1e-3
    np.testing.assert_allclose(prediction.stress * volume, measured, atol=2e-7 * scale)
    symmetric = 0.5 * (prediction.virial + prediction.virial.T)
    np.testing.assert_allclose(-symmetric, prediction.stress * volume, atol=1e-12 * scale)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_equal_single_structures(batch_size: int, toy: Path) -> None:
    chosen = list(CASES.values())
    seen: list[int] = []
    together = evaluate(load_exported(toy), chosen, batch_size, on_batch=seen.append)
    assert sum(seen) == len(chosen) == 6
    for structure, prediction in zip(chosen, together, strict=True):
        wanted = python_reference(toy, structure)
        assert abs(prediction.energy - wanted.energy) < 1e-12 * len(structure)
        np.testing.assert_allclose(prediction.atom_energies, wanted.atom_energies, atol=1e-12)
        np.testing.assert_allclose(prediction.forces, wanted.forces, atol=1e-12)
        np.testing.assert_allclose(prediction.virial, wanted.virial, atol=1e-11)
        assert (prediction.stress is not None) == bool(structure.pbc.all())


def test_float32_model(tmp_path: Path, toy: Path) -> None:
    single = write_toy(tmp_path / "single.pt", dtype="float32")
    for structure in CASES.values():
        a, b = evaluate(single, [structure])[0], evaluate(toy, [structure])[0]
        assert a.forces.dtype == np.float64
        assert abs(a.energy - b.energy) < 1e-6 * len(structure)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-5)


def test_isolated_atoms_have_their_own_energy(toy: Path) -> None:
    far = CASES["two atoms beyond the cutoff"]
    prediction = evaluate(toy, [far])[0]
    np.testing.assert_allclose(prediction.atom_energies, [-0.6, -0.8], atol=1e-15)
    assert np.abs(prediction.forces).max() == 0.0


def test_results_follow_the_atoms(toy: Path) -> None:
    atoms = with_calculator(CASES["periodic liquid"], toy)
    first = atoms.get_stress().copy()
    atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
    assert np.abs(atoms.get_stress() - first).max() > 1e-6
    np.testing.assert_allclose(atoms.get_forces(), python_reference(toy, Structure.from_ase(atoms)).forces, atol=1e-12)


def test_direct_forces(tmp_path: Path) -> None:
    model = write_special(tmp_path / "model.pt", "direct")
    atoms = with_calculator(CASES["periodic liquid"], model)
    np.testing.assert_array_equal(atoms.get_forces()[:, 0], atoms.numbers)
    np.testing.assert_array_equal(atoms.get_forces()[:, 2], 1.0)
    with pytest.raises(PropertyNotImplementedError, match="direct output"):
        atoms.get_stress()


def test_stress_of_a_molecule(toy: Path) -> None:
    with pytest.raises(PropertyNotImplementedError, match="three periodic directions"):
        with_calculator(CASES["molecule"], toy).get_stress()


def test_mistakes_have_sentences(tmp_path: Path, toy: Path) -> None:
    molecule = CASES["molecule"]
    atoms = with_calculator(molecule, toy)
    atoms.numbers[0] = 9
    with pytest.raises(MindscaipError, match=r"element F .* knows H C N O"):
        atoms.get_potential_energy()

    atoms = with_calculator(molecule, toy)
    atoms.positions[3, 1] = np.nan
    with pytest.raises(MindscaipError, match="position of atom 3"):
        atoms.get_forces()

    atoms = with_calculator(molecule, toy)
    atoms.positions[3] = atoms.positions[4]
    with pytest.raises(MindscaipError, match="same place"):
        atoms.get_forces()

    not_finite = write_special(tmp_path / "nan.pt", "not finite")
    with pytest.raises(MindscaipError, match="are not finite"):
        with_calculator(molecule, not_finite).get_potential_energy()
    with pytest.raises(MindscaipError, match="structure 1 "):
        evaluate(toy, [molecule, Structure(np.array([16]), np.zeros((1, 3)))])
    with pytest.raises(MindscaipError, match="batch_size is 0"):
        evaluate(toy, [molecule], 0)
    with pytest.raises(MindscaipError, match="no such file"):
        MindscaipCalculator(tmp_path / "absent.pt")
    assert evaluate(toy, []) == []


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_caller_without_gradients(mode: type, dtype: str) -> None:
    """Every call gives the same forces, whatever the caller does with gradients (TorchScript compiles at call two)."""
    case = golden_cases()[0]
    model = load_exported(model_path(dtype))
    with mode():
        for _ in range(3):
            prediction = evaluate(model, [case.structure])[0]
            case.check(dtype, energy=prediction.energy, forces=prediction.forces, virial=prediction.virial)
