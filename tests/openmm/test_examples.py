"""The scripts of ``examples/openmm``, shortened, and the C++ program over what one of them writes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mindscaip.data.structure import Structure
from mindscaip.engines.batched import evaluate
from mindscaip.errors import MindscaipError
from mindscaip.units import EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM
from tests.ase_engine.cases import structures
from tests.toys import write_toy

mm = pytest.importorskip("openmm", reason="openmm is not installed: pip install 'mindscaip[openmm]'")
pytest.importorskip("openmmtorch", reason="openmmtorch is not installed: pip install 'mindscaip[openmm]'")

from mindscaip.engines.openmm import create_system, run_nve  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples" / "openmm"
MOLECULE = structures()["molecule"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model.pt")


@pytest.fixture
def molecule(tmp_path: Path) -> Path:
    path = tmp_path / "molecule.xyz"
    MOLECULE.to_ase().write(path)
    return path


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads a script by its name, with its folder on the path as when it is run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name: str) -> ModuleType:
        spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


TRIED = {
    "nve_molecule",
    "water_npt",
    "hot_langevin",
    "ligand_in_water",
    "free_energy",
    "serialise",
    "run_elsewhere",
}


def test_every_script_is_tried() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == TRIED


def test_nve_molecule(example, toy: Path, molecule: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("nve_molecule").main(str(toy), str(molecule), 20)
    assert "double precision, float64 model: energy drift" in capsys.readouterr().out


def test_water_npt(example, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    density = example("water_npt").main(str(toy), 30, edge_nm=0.9)
    printed = capsys.readouterr().out
    assert 0.3 < density < 1.5
    assert "double precision, float64 model" in printed
    assert len(printed.splitlines()) == 13


def test_hot_langevin(example, toy: Path, molecule: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The toy only repels: a bond has to break."""
    script = example("hot_langevin")
    assert len(script.bonds_of(MOLECULE)) == 8
    assert script.main(str(toy), str(molecule), 4) is None
    assert script.main(str(toy), str(molecule), 800, 3000.0) > 0.0
    assert "a bond broke by" in capsys.readouterr().out


def test_ligand_in_water(example, toy: Path) -> None:
    pytest.importorskip("openmmml", reason="openmmml is not installed: pip install 'mindscaip[openmm]'")
    assert example("ligand_in_water").main(str(toy), 4) < 0.0


def test_free_energy(example, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openmmml", reason="openmmml is not installed: pip install 'mindscaip[openmm]'")
    assert np.isfinite(example("free_energy").main(str(toy), 5, windows=2, samples=2))
    assert capsys.readouterr().out.count("<dU/dlambda>") == 2


def test_serialise_and_run_elsewhere(example, toy: Path, molecule: Path, tmp_path: Path) -> None:
    """Where mindscaip cannot be imported."""
    example("serialise").main(str(toy), str(molecule), str(tmp_path / "out"))
    for name in ("mindscaip", "ase", "vesin"):
        (tmp_path / "hidden" / name).mkdir(parents=True)
        (tmp_path / "hidden" / name / "__init__.py").write_text("raise ImportError('hidden')\n")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "run_elsewhere.py"), str(tmp_path / "out"), "20"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hidden"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 11
    wanted = evaluate(toy, [MOLECULE])[0].energy * EV_TO_KJ_PER_MOL
    assert float(lines[0].split("potential ")[1].split()[0]) == pytest.approx(wanted, abs=1e-6)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mindscaip_run``, built."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake to build plugins/openmm with: apt-get install cmake (or pip install cmake)")
    if shutil.which(os.environ.get("CXX") or "c++") is None:
        pytest.skip("no C++ compiler to build plugins/openmm with: apt-get install g++")
    if not (Path(mm.version.openmm_library_path).parent / "include" / "OpenMM.h").is_file():
        pytest.skip("this openmm came without its headers: pip install openmm==8.5.2")
    build = tmp_path_factory.mktemp("build")
    for command in (
        [cmake, "-S", str(REPOSITORY / "plugins" / "openmm"), "-B", str(build), f"-DPYTHON={sys.executable}"],
        [cmake, "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "mindscaip_run"


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    return subprocess.run(
        [str(program), *map(str, arguments)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_the_program_gives_the_trajectory_of_python(
    platform: str, program: Path, example, toy: Path, molecule: Path, tmp_path: Path
) -> None:
    example("serialise").main(str(toy), str(molecule), str(tmp_path))
    start = mm.XmlSerializer.deserialize((tmp_path / "state.xml").read_text())
    velocities = start.getVelocities(asNumpy=True)._value * NM_TO_ANGSTROM / 1000.0
    done = run(program, tmp_path / "system.xml", tmp_path / "state.xml", tmp_path / "last.xml", 50, 0.5, platform, 10)
    assert done.returncode == 0, done.stderr
    rows = np.array([line.split() for line in done.stdout.splitlines()], dtype=float)
    assert rows[:, 0].tolist() == [0, 10, 20, 30, 40, 50]
    record = run_nve(toy, MOLECULE, velocities, 0.5, 50, 10, platform)
    np.testing.assert_allclose(rows[:, 2] / EV_TO_KJ_PER_MOL, record.potential_eV, atol=1e-6)
    np.testing.assert_allclose(rows[:, 4] / EV_TO_KJ_PER_MOL, record.total_eV, atol=1e-6)
    last = mm.XmlSerializer.deserialize((tmp_path / "last.xml").read_text())
    positions = last.getPositions(asNumpy=True)._value * NM_TO_ANGSTROM
    # Masses of the two systems differ in the last digits of the units.
    np.testing.assert_allclose(positions, record.positions[-1], atol=1e-5)
    assert abs(positions - MOLECULE.positions).max() > 0.05


def test_the_program_in_a_small_triclinic_cell(program: Path, toy: Path, tmp_path: Path) -> None:
    structure = structures()["triclinic cell smaller than the cutoff"]
    system = create_system(structure.numbers, toy, box=structure.cell / NM_TO_ANGSTROM)
    assert system.usesPeriodicBoundaryConditions()
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions / NM_TO_ANGSTROM)
    for name, thing in (("system", system), ("state", context.getState(positions=True))):
        (tmp_path / f"{name}.xml").write_text(mm.XmlSerializer.serialize(thing))
    done = run(program, tmp_path / "system.xml", tmp_path / "state.xml", tmp_path / "last.xml", 2, 0.5)
    assert done.returncode == 0, done.stderr
    wanted = evaluate(toy, [Structure(structure.numbers, structure.positions, structure.cell, structure.pbc)])[0]
    assert float(done.stdout.split()[2]) == pytest.approx(wanted.energy * EV_TO_KJ_PER_MOL, abs=1e-6)


def test_mistakes_of_the_program(program: Path, example, toy: Path, molecule: Path, tmp_path: Path) -> None:
    example("serialise").main(str(toy), str(molecule), str(tmp_path))
    files = [tmp_path / "system.xml", tmp_path / "state.xml", tmp_path / "last.xml"]
    for arguments, sentence in (
        ([], "usage: mindscaip_run"),
        ([tmp_path / "absent.xml", *files[1:], 1, 0.5], "absent.xml: cannot be read"),
        ([*files, "many", 0.5], "STEPS is 'many'; give a whole number"),
        ([*files, 1, "fast"], "TIMESTEP_FS is 'fast'; give femtoseconds"),
        ([*files, 1, 0.5, "Quantum"], "Quantum"),
    ):
        done = run(program, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert sentence in done.stderr
    state = mm.XmlSerializer.deserialize(files[1].read_text())
    system = mm.XmlSerializer.deserialize(files[0].read_text())
    while system.getNumForces():
        system.removeForce(0)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(state.getPositions(asNumpy=True) * 0.0)
    files[1].write_text(mm.XmlSerializer.serialize(context.getState(positions=True)))
    done = run(program, *files, 5, 0.5)
    assert done.returncode == 1
    assert done.stderr == "error: two atoms stand on the same place\n"


def test_examples_name_mistakes(example, toy: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.xyz"
    gold.write_text("1\n\nAu 0 0 0\n")
    with pytest.raises(MindscaipError, match="element Au"):
        example("hot_langevin").main(str(toy), str(gold))
