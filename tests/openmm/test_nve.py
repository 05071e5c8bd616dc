"""NVE in OpenMM against a velocity Verlet written out in NumPy."""

from pathlib import Path

import numpy as np
import pytest

from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import evaluate
from mindscaip.engines.record import standard_masses
from mindscaip.errors import MindscaipError
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, KELVIN_TO_EV
from tests.ase_engine.cases import structures, write_special
from tests.toys import write_toy

pytest.importorskip("openmm", reason="openmm is not installed: pip install 'mindscaip[openmm]'")
pytest.importorskip("openmmtorch", reason="openmmtorch is not installed: pip install 'mindscaip[openmm]'")

from mindscaip.engines.openmm import openmm_box, run_nve

CASES = structures()
FCC = np.array([[0.0, 3.1, 3.0], [3.3, 0.1, 3.0], [3.2, 2.9, 0.0]])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model.pt")


def thermal(structure: Structure, kelvin: float) -> np.ndarray:
    """Maxwell-Boltzmann velocities in A/fs."""
    width = np.sqrt(KELVIN_TO_EV * kelvin / (standard_masses(structure.numbers) * AMU_ANGSTROM2_PER_FS2_TO_EV))
    return np.random.default_rng(4).normal(size=(len(structure), 3)) * width[:, None]


def numpy_verlet(
    model: Path, structure: Structure, velocities: np.ndarray, timestep: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (A) and velocities (A/fs) at every step, by ASE-side forces."""
    exported = load_exported(model)
    mass = (standard_masses(structure.numbers) * AMU_ANGSTROM2_PER_FS2_TO_EV)[:, None]
    x, v = structure.positions.copy(), velocities.copy()
    xs, vs = [x.copy()], [v.copy()]

    def acceleration() -> np.ndarray:
        return evaluate(exported, [Structure(structure.numbers, x, structure.cell, structure.pbc)])[0].forces / mass

    a = acceleration()
    for _ in range(steps):
        v = v + 0.5 * timestep * a
        x = x + timestep * v
        a = acceleration()
        v = v + 0.5 * timestep * a
        xs.append(x.copy())
        vs.append(v.copy())
    return np.array(xs), np.array(vs)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("name", ["molecule", "triclinic cell smaller than the cutoff"])
def test_every_step_equals_numpy(name: str, platform: str, toy: Path) -> None:
    """Both platforms integrate in double precision: rounding is all that separates the trajectories."""
    structure = CASES[name]
    velocities = thermal(structure, 300.0)
    record = run_nve(toy, structure, velocities, 0.5, 200, 1, platform)
    xs, vs = numpy_verlet(toy, structure, velocities, 0.5, 200)
    assert record.positions.shape == xs.shape == (201, len(structure), 3)
    assert np.abs(xs[-1] - xs[0]).max() > 0.1
    assert np.abs(record.positions - xs).max() < 1e-11
    assert np.abs(record.velocities - vs).max() < 1e-12


def test_record_is_complete(toy: Path) -> None:
    structure = CASES["molecule"]
    velocities = thermal(structure, 300.0)
    record = run_nve(toy, structure, velocities, 0.25, 50, 20, "CPU")
    assert record.engine.startswith("OpenMM 8")
    assert record.engine.endswith(" CPU, double precision, float64 model")
    assert record.step.tolist() == [0, 20, 40]
    np.testing.assert_allclose(record.time_fs, [0.0, 5.0, 10.0])
    assert record.num_atoms == 9
    np.testing.assert_allclose(record.total_eV, record.potential_eV + record.kinetic_eV, rtol=0, atol=0)
    np.testing.assert_allclose(record.velocities[0], velocities, atol=1e-16)
    for frame in range(3):
        wanted = evaluate(toy, [Structure(structure.numbers, record.positions[frame])])[0].energy
        assert abs(record.potential_eV[frame] - wanted) < 1e-9 * 9
    mass = standard_masses(structure.numbers)[:, None] * AMU_ANGSTROM2_PER_FS2_TO_EV
    kinetic = 0.5 * (mass * velocities**2).sum()
    assert record.kinetic_eV[0] == pytest.approx(kinetic, rel=1e-12)
    assert record.temperature[0] == pytest.approx(2 * kinetic / (27 * KELVIN_TO_EV), rel=1e-12)
    assert run_nve(toy, structure, velocities, 0.5, 0).step.tolist() == [0]


def test_energy_error_is_of_second_order(toy: Path) -> None:
    structure = CASES["molecule"]
    velocities = thermal(structure, 300.0)
    errors = []
    for timestep in (1.0, 0.5):
        total = run_nve(toy, structure, velocities, timestep, round(40 / timestep), 1, "CPU").total_eV
        errors.append(np.abs(total - total[0]).max())
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize("cell", [FCC, -FCC, FCC[[1, 0, 2]]], ids=["turned", "mirrored", "left-handed"])
def test_any_cell_and_a_model_that_feels_orientation(cell: np.ndarray, tmp_path: Path) -> None:
    """OpenMM wants its own form of the box; the model sees the structure as given."""
    model = write_special(tmp_path / "model.pt", "oriented")
    structure = Structure(
        np.array([6, 8]), np.array([[0.1, 0, 0], [1.5, 1.4, 1.6]]), cell=cell, pbc=np.ones(3, dtype=bool)
    )
    velocities = thermal(structure, 300.0)
    record = run_nve(model, structure, velocities, 0.5, 20)
    xs, vs = numpy_verlet(model, structure, velocities, 0.5, 20)
    assert abs(record.potential_eV[0] - evaluate(model, [structure])[0].energy) < 1e-9
    assert np.abs(record.positions - xs).max() < 1e-11
    assert np.abs(record.velocities - vs).max() < 1e-12


def test_openmm_box_spans_the_same_lattice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        cell = rng.normal(size=(3, 3)) * 5
        box, rotation = openmm_box(cell)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert (np.diag(box) > 0).all()
        assert np.array_equal(box, np.tril(box))
        assert abs(box[1, 0]) <= box[0, 0] / 2 + 1e-9
        assert abs(box[2, 0]) <= box[0, 0] / 2 + 1e-9
        assert abs(box[2, 1]) <= box[1, 1] / 2 + 1e-9
        integers = box @ rotation.T @ np.linalg.inv(cell)
        np.testing.assert_allclose(integers, np.round(integers), atol=1e-8)
        assert abs(np.linalg.det(integers)) == pytest.approx(1.0)


def test_mistakes(toy: Path) -> None:
    structure = CASES["molecule"]
    still = np.zeros((9, 3))
    slab = Structure(structure.numbers, structure.positions, np.eye(3) * 20, np.array([True, True, False]))
    with pytest.raises(MindscaipError, match=r"velocities have shape \(8, 3\)"):
        run_nve(toy, structure, still[1:], 0.5, 10)
    with pytest.raises(MindscaipError, match="timestep 0"):
        run_nve(toy, structure, still, 0.0, 10)
    with pytest.raises(MindscaipError, match="every 0"):
        run_nve(toy, structure, still, 0.5, 10, 0)
    with pytest.raises(MindscaipError, match="no platform 'Quantum'"):
        run_nve(toy, structure, still, 0.5, 10, 1, "Quantum")
    with pytest.raises(MindscaipError, match="in all three directions or in none"):
        run_nve(toy, slab, still, 0.5, 10)
    with pytest.raises(MindscaipError, match="velocities hold a value that is not finite"):
        run_nve(toy, structure, still + np.inf, 0.5, 10)
    with pytest.raises(MindscaipError, match="not finite"):
        run_nve(toy, structure, still + 1e200, 1e200, 10)


def test_both_backends_give_one_trajectory(toy: Path) -> None:
    structure = CASES["periodic liquid"]
    velocities = thermal(structure, 300.0)
    first, second = (run_nve(toy, structure, velocities, 0.5, 20, 5, "CPU", backend) for backend in ("torch", "python"))
    np.testing.assert_allclose(first.positions, second.positions, atol=1e-11, rtol=0)
    np.testing.assert_allclose(first.total_eV, second.total_eV, atol=1e-10, rtol=0)
    assert first.engine == second.engine
