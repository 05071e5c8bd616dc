"""Velocities, drift and comparison against closed forms; the ASE run against second-order convergence."""

import numpy as np
import pytest

from mindscaip.data.structure import Structure
from mindscaip.engines.record import NVERecord, standard_masses
from mindscaip.errors import MindscaipError
from mindscaip.studies.nve import compare, drift, initial_velocities, relax, run_nve
from mindscaip.studies.start import read_start
from mindscaip.studies.write import write_record
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, KELVIN_TO_EV
from tests.models import random_structure
from tests.toys import write_toy

WATER = Structure([8, 1, 1], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
CO2 = Structure([8, 6, 8], [[0.0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])


def record_of(total: np.ndarray, num_atoms: int = 2) -> NVERecord:
    frames = len(total)
    zeros = np.zeros((frames, num_atoms, 3))
    step = np.arange(frames)
    return NVERecord("test", step, step * 1.0, total, np.zeros(frames), total, zeros, zeros, np.zeros(frames))


@pytest.mark.parametrize(("structure", "freedom"), [(WATER, 3), (CO2, 4), (random_structure(9, box=5.0), 24)])
def test_velocities_have_the_temperature_and_no_net_motion(structure, freedom):
    velocities = initial_velocities(structure, 300.0, seed=1)
    masses = standard_masses(structure.numbers)
    kinetic = 0.5 * AMU_ANGSTROM2_PER_FS2_TO_EV * (masses[:, None] * velocities**2).sum()
    assert kinetic == pytest.approx(0.5 * freedom * KELVIN_TO_EV * 300.0, rel=1e-12)
    assert np.abs(masses @ velocities).max() < 1e-14
    if not structure.pbc.any():
        assert np.abs((masses[:, None] * np.cross(structure.positions, velocities)).sum(0)).max() < 1e-13
    assert np.array_equal(velocities, initial_velocities(structure, 300.0, seed=1))
    assert not np.array_equal(velocities, initial_velocities(structure, 300.0, seed=2))


def test_one_atom_stands_still():
    assert not initial_velocities(Structure([6], [[1.0, 2, 3]]), 300.0).any()


def test_a_negative_temperature_is_refused():
    with pytest.raises(MindscaipError, match=r"temperature -1\.0 K"):
        initial_velocities(WATER, -1.0)


def test_drift_of_a_straight_line():
    result = drift(record_of(5.0 + 1e-6 * np.arange(101)))  # 1e-6 eV per fs, two atoms
    assert result.max_deviation == pytest.approx(0.05)
    assert result.end_deviation == pytest.approx(0.05)
    assert result.slope == pytest.approx(500.0)
    assert result.slope_error == pytest.approx(0.0, abs=1e-6)
    assert result.fluctuation == pytest.approx(0.0, abs=1e-9)


def test_drift_of_noise_has_an_error_that_covers_it():
    noise = np.random.default_rng(0).normal(size=1000) * 1e-3
    result = drift(record_of(noise - noise[0]))
    assert result.fluctuation == pytest.approx(0.5, rel=0.1)
    assert abs(result.slope) < 4 * result.slope_error


def test_nve_conserves_energy_to_second_order(tmp_path):
    model = write_toy(tmp_path / "toy.pt")
    structure = random_structure(8, size=4.0, seed=2)
    velocities = initial_velocities(structure, 300.0)
    deviations = [drift(run_nve("ase", model, structure, velocities, 20.0 / n, n)).max_deviation for n in (20, 40, 80)]
    assert deviations[0] > 1e-7
    assert deviations[0] / deviations[1] == pytest.approx(4.0, rel=0.15)
    assert deviations[1] / deviations[2] == pytest.approx(4.0, rel=0.15)


def test_compare_finds_the_difference():
    a, b = record_of(np.zeros(3)), record_of(np.array([0.0, 0.0, 0.002]))
    b.positions[2, 1] = [0.3, 0.4, 0.0]
    agreement = compare(a, b)
    assert np.allclose(agreement.energy, [0, 0, 1.0])
    assert np.allclose(agreement.position, [0, 0, 0.5])
    with pytest.raises(MindscaipError, match="different steps"):
        compare(a, record_of(np.zeros(4)))


def test_relax_finds_no_force(tmp_path):
    model = write_toy(tmp_path / "toy.pt")
    start = Structure([8, 8], [[0.0, 0, 0], [1.0, 0, 0]])
    relaxed = relax(model, start)  # the toy repels: the pair goes to the cutoff
    assert np.linalg.norm(relaxed.positions[1] - relaxed.positions[0]) > 3.0
    with pytest.raises(MindscaipError, match="did not converge in 1 steps"):
        relax(model, start, fmax=1e-6, steps=1)


def test_an_unknown_engine():
    with pytest.raises(MindscaipError, match=r"no engine named 'opnmm' .did you mean 'openmm'"):
        run_nve("opnmm", "model.pt", WATER, np.zeros((3, 3)), 0.5, 1)


def test_written_records_read_back(tmp_path):
    from ase.io import read

    model = write_toy(tmp_path / "toy.pt")
    record = run_nve("ase", model, WATER, initial_velocities(WATER, 300.0), 0.5, 4, 2)
    write_record(tmp_path / "out", WATER, record)
    frames = read(tmp_path / "out" / "trajectory.xyz", ":")
    assert len(frames) == 3
    assert frames[2].get_total_energy() == pytest.approx(record.total_eV[2], abs=1e-6)
    rows = np.loadtxt(tmp_path / "out" / "nve.csv", delimiter=",", skiprows=1)
    assert np.allclose(rows[:, 4], record.total_eV, rtol=1e-15)


def test_starts(tmp_path):
    (tmp_path / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    assert read_start(str(tmp_path / "water.xyz")).symbols == ["O", "H", "H"]
    with pytest.raises(MindscaipError, match="no such structure file"):
        read_start(str(tmp_path / "nowhere.xyz"))
    (tmp_path / "bad.xyz").write_text("3\n\nO 0 0\n")
    with pytest.raises(MindscaipError, match="cannot read"):
        read_start(str(tmp_path / "bad.xyz"))


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_a_start_that_cannot_be(engine: str, tmp_path):
    """The same sentences from every engine, before anything is computed."""
    if engine == "openmm":
        pytest.importorskip("openmm")
    model = write_toy(tmp_path / "toy.pt")
    still = np.zeros((3, 3))
    for velocities, timestep, steps, every, sentence in (
        (still[:2], 0.5, 1, 1, r"velocities have shape \(2, 3\)"),
        (still * np.nan, 0.5, 1, 1, "velocities hold a value that is not finite"),
        (still, -0.5, 1, 1, "timestep -0.5"),
        (still, 0.5, -1, 1, "steps -1"),
        (still, 0.5, 1, 0, "every 0"),
    ):
        with pytest.raises(MindscaipError, match=sentence):
            run_nve(engine, model, WATER, velocities, timestep, steps, every)


@pytest.mark.parametrize("engine", ["ase", "openmm", "lammps"])
def test_progress_reaches_the_last_step(engine, tmp_path):
    model = write_toy(tmp_path / "model.pt")
    structure = Structure([6, 8], [[0.0, 0, 0], [1.2, 0, 0]])
    told: list[tuple[int, int]] = []
    run_nve(engine, model, structure, np.zeros((2, 3)), 0.5, 4, 2, progress=lambda *step: told.append(step))
    assert told[-1] == (4, 4)
    assert told == sorted(told)


def test_ranks_are_for_lammps_only(tmp_path):
    model = write_toy(tmp_path / "model.pt")
    with pytest.raises(MindscaipError, match="2 MPI ranks in openmm: only lammps"):
        run_nve("openmm", model, Structure([6], np.zeros((1, 3))), np.zeros((1, 3)), 0.5, 1, ranks=2)
