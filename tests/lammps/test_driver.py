"""The Python driver: NVE records, files that it writes and reads, and its refusals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase import units as ase_units

from mindscaip import units
from mindscaip.data.structure import Structure
from mindscaip.engines import lammps as driver
from mindscaip.engines.lammps import (
    LOG_FILE,
    evaluate,
    launch_command,
    open_universe,
    read_dump,
    read_frames,
    read_thermo,
    run_nve,
    write_data,
)
from mindscaip.engines.record import standard_masses
from mindscaip.errors import MindscaipError
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV
from tests.golden.cases import golden_cases, model_path
from tests.models import random_structure, write_small_model
from tests.reference import python_reference

MODEL = model_path("float64")
ETHANOL = golden_cases()[0].structure


def velocity_verlet(structure: Structure, velocities: np.ndarray, timestep: float, steps: int) -> list[np.ndarray]:
    """Positions of a plain velocity Verlet in Python, for comparison."""
    masses = standard_masses(structure.numbers)[:, None] * AMU_ANGSTROM2_PER_FS2_TO_EV
    positions, velocities = structure.positions.copy(), velocities.copy()
    trajectory = [positions.copy()]
    forces = python_reference(MODEL, structure).forces
    for _ in range(steps):
        velocities += 0.5 * timestep * forces / masses
        positions += timestep * velocities
        moved = Structure(structure.numbers, positions, structure.cell, structure.pbc)
        forces = python_reference(MODEL, moved).forces
        velocities += 0.5 * timestep * forces / masses
        trajectory.append(positions.copy())
    return trajectory


def start(structure: Structure, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.004, size=structure.positions.shape)


@pytest.mark.parametrize("style", ["metal", "real"])
def test_nve_follows_python_step_by_step(plugin: Path, tmp_path: Path, style: str) -> None:
    velocities = start(ETHANOL, 1)
    record = run_nve(MODEL, ETHANOL, velocities, 0.5, 40, every=10, units=style, work=tmp_path, threads=1)
    expected = velocity_verlet(ETHANOL, velocities, 0.5, 40)
    assert record.step.tolist() == [0, 10, 20, 30, 40]
    assert record.time_fs.tolist() == [0.0, 5.0, 10.0, 15.0, 20.0]
    # LAMMPS's constants, 6e-8 from CODATA in metal units, are what keeps this from rounding.
    tolerance = {"metal": 1e-7, "real": 2e-9}[style]
    for step, positions in zip(record.step, record.positions, strict=True):
        assert np.abs(positions - expected[step]).max() < tolerance
    assert np.abs(record.velocities[0] - velocities).max() < 1e-15
    assert record.potential_eV[0] == pytest.approx(python_reference(MODEL, ETHANOL).energy, abs=1e-8)
    assert np.ptp(record.total_eV) < 0.2 * np.ptp(record.kinetic_eV)
    assert record.engine.startswith("LAMMPS ")
    assert {"in.lammps", "structure.data", "log.lammps", "atoms.dump"} <= {file.name for file in tmp_path.iterdir()}


def test_nve_of_atoms_outside_a_turned_cell(plugin: Path) -> None:
    structure = random_structure(8, box=6.0, seed=4)
    turn = np.linalg.qr(np.array([[0.3, 0.8, -0.2], [0.9, -0.1, 0.4], [-0.2, 0.5, 0.7]]))[0]
    structure = Structure(structure.numbers, structure.positions @ turn, structure.cell @ turn, structure.pbc)
    structure.positions[::3] += np.array([2.0, -1.0, 1.0]) @ structure.cell
    velocities = start(structure, 2)
    record = run_nve(MODEL, structure, velocities, 0.5, 20, every=20, threads=1)
    assert np.abs(record.positions[0] - structure.positions).max() < 1e-12
    assert np.abs(record.velocities[0] - velocities).max() < 1e-14
    assert np.abs(record.positions[-1] - velocity_verlet(structure, velocities, 0.5, 20)[-1]).max() < 2e-9


def test_drift_of_nve_is_second_order(plugin: Path, tmp_path: Path) -> None:
    """Half the step, a quarter of the energy error, while atoms cross the box and the neighbour list is built anew.

    A wind through the periodic box changes no distance, but it moves every atom out of its list again and again.
    """
    structure = random_structure(24, box=6.5, seed=3)
    velocities = start(structure, 3) + np.array([0.2, 0.13, -0.1])
    errors = []
    for timestep, steps in ((0.4, 60), (0.2, 120)):
        record = run_nve(MODEL, structure, velocities, timestep, steps, work=tmp_path, threads=1)
        errors.append(np.abs(record.total_eV - record.total_eV[0]).max())
        builds = re.findall(r"Neighbor list builds = (\d+)", (tmp_path / LOG_FILE).read_text())
        assert int(builds[-1]) >= 8
    assert errors[1] > 0.0
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_ase_atoms_are_taken(plugin: Path) -> None:
    atoms = Atoms("OH2", positions=[[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])  # planar
    expected = python_reference(MODEL, Structure.from_ase(atoms))
    assert evaluate(MODEL, atoms, threads=1).energy == pytest.approx(expected.energy, abs=3e-9)


def test_data_file_reads_back(tmp_path: Path) -> None:
    from ase.io import read

    structure = Structure([8, 1, 1], [[0.1, 0.2, 0.3], [1.0, 0.1, 0.2], [0.3, 1.1, 0.4]], np.eye(3) * 7.0, [True] * 3)
    velocities = start(structure, 5)
    assert write_data(tmp_path / "s.data", structure, velocities) == ["H", "O"]
    atoms = read(tmp_path / "s.data", format="lammps-data", atom_style="atomic", units="metal")
    assert (atoms.numbers == structure.numbers).all()
    assert atoms.positions == pytest.approx(structure.positions, abs=1e-14)
    assert np.asarray(atoms.cell) == pytest.approx(structure.cell, abs=1e-14)
    assert atoms.get_velocities() / units.ANGSTROM_PER_FS_TO_ASE_VELOCITY == pytest.approx(velocities / 1000.0)


def test_thermo_of_the_last_run_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.lammps"
    log.write_text(
        "   Step   PotEng\n 0 1.5\nLoop time of 1\n   Step   PotEng\n 0 2.5\nWARNING: something (x.cpp:1)\n"
        "TWO words\n 10 -3.5e-1\nLoop time of 1\n"
    )
    thermo = read_thermo(log)
    assert thermo["Step"].tolist() == [0.0, 10.0]
    assert thermo["PotEng"].tolist() == [2.5, -0.35]
    log.write_text("nothing\n")
    with pytest.raises(MindscaipError, match="no thermodynamic output"):
        read_thermo(log)


def test_dump_that_is_cut_off(tmp_path: Path) -> None:
    dump = tmp_path / "atoms.dump"
    frame = (
        "ITEM: TIMESTEP\n{0}\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS mm mm mm\n0 1\n0 1\n0 1\nITEM: ATOMS id x\n"
    )
    dump.write_text(frame.format(0) + "1 0.5\n2 0.75\n" + frame.format(5) + "1 1.5\n2 1.75\n")
    steps, values = read_dump(dump, 1)
    assert steps.tolist() == [0, 5]
    assert values[:, :, 0].tolist() == [[0.5, 0.75], [1.5, 1.75]]
    dump.write_text(frame.format(0) + "1 0.5\n")
    with pytest.raises(MindscaipError, match="not a whole LAMMPS dump"):
        read_dump(dump, 1)
    dump.write_text(frame.format(0) + "1 0.5\n3 0.75\n")
    with pytest.raises(MindscaipError, match="atoms are missing"):
        read_dump(dump, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": "reel"}, "'reel' are not supported .*'real'"),
        ({"structure": Structure([14], [[0.0, 0, 0]])}, "element Si"),
        ({"model_path": "absent.pt"}, "absent.pt: no such file"),
        ({"threads": 0}, "threads 0"),
    ],
)
def test_mistakes_of_evaluate(plugin: Path, change: dict, words: str) -> None:
    with pytest.raises(MindscaipError, match=words):
        evaluate(**({"model_path": MODEL, "structure": ETHANOL} | change))


@pytest.mark.parametrize(
    ("velocities", "timestep", "steps", "words"),
    [
        (np.zeros((2, 3)), 0.5, 10, r"velocities have shape \(2, 3\)"),
        (np.full((9, 3), np.nan), 0.5, 10, "not finite"),
        (np.zeros((9, 3)), 0.0, 10, "timestep 0.0"),
        (np.zeros((9, 3)), 0.5, -1, "steps -1"),
    ],
)
def test_mistakes_of_run_nve(velocities: np.ndarray, timestep: float, steps: int, words: str) -> None:
    with pytest.raises(MindscaipError, match=words):
        run_nve(MODEL, ETHANOL, velocities, timestep, steps)


def test_errors_of_lammps_are_passed_on(plugin: Path) -> None:
    together = Structure([6, 6], [[0.0, 0, 0], [0.0, 0, 0]])
    with pytest.raises(MindscaipError, match=r"LAMMPS stopped: .* atom 1 .* stand on the same place"):
        evaluate(MODEL, together, threads=1)


def test_missing_plugin(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_plugin", lambda: None)
    monkeypatch.delenv("LAMMPS_PLUGIN_PATH", raising=False)
    with pytest.raises(MindscaipError, match="run: mindscaip lammps build"):
        evaluate(MODEL, ETHANOL)


def test_two_ranks_follow_one_and_leave_files_that_others_read(plugin: Path, tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "model.pt")
    structure = random_structure(24, box=8.0, seed=6)
    velocities = start(structure, 5)
    reached: list[tuple[int, int]] = []
    one = run_nve(model, structure, velocities, 0.5, 30, every=10, threads=1)
    work = tmp_path / "run"
    two = run_nve(
        model, structure, velocities, 0.5, 30, every=10, threads=1, ranks=2, work=work,
        progress=lambda step, steps: reached.append((step, steps)),
    )  # fmt: skip
    assert reached == [(0, 30), (10, 30), (20, 30), (30, 30)]
    assert np.abs(two.positions - one.positions).max() < 1e-10
    assert np.abs(two.total_eV - one.total_eV).max() < 1e-9 * len(structure)
    grid = re.search(r"(\d) by (\d) by (\d) MPI processor grid", (work / "log.lammps").read_text())
    assert grid is not None
    assert sorted(grid.groups()) == ["1", "1", "2"]

    frames = read_frames(work)
    assert len(frames) == 4
    for atoms, positions, speeds in zip(frames, two.positions, two.velocities, strict=True):
        assert (atoms.numbers == structure.numbers).all()
        assert np.abs(atoms.positions - positions).max() < 1e-9
        assert np.abs(atoms.cell.array - structure.cell).max() < 1e-9
        assert np.abs(atoms.get_velocities() * ase_units.fs - speeds).max() < 1e-9
    universe = open_universe(work)
    assert "".join(universe.atoms.elements) == "".join(structure.symbols)
    for frame, positions, time in zip(universe.trajectory, two.positions, two.time_fs, strict=True):
        assert np.abs(frame.positions - positions).max() < 1e-4  # MDAnalysis keeps float32
        assert frame.time == pytest.approx(time / 1000.0)


def test_folders_and_ranks_that_cannot_be(tmp_path: Path) -> None:
    for reader in (read_frames, open_universe):
        with pytest.raises(MindscaipError, match=r"holds no in\.lammps; give the work folder of a run"):
            reader(tmp_path)
    with pytest.raises(MindscaipError, match="ranks 0 is not a number of MPI ranks"):
        launch_command(0)
