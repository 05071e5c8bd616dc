"""TorchForce over a model.pt against the ASE calculator, and the sentence for each mistake."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.units import ANGSTROM_TO_NM, EV_TO_KJ_PER_MOL
from tests.ase_engine.cases import structures, write_special
from tests.toys import write_toy

mm = pytest.importorskip("openmm", reason="openmm is not installed: pip install 'mindscaip[openmm]'")
pytest.importorskip("openmmtorch", reason="openmmtorch is not installed: pip install 'mindscaip[openmm]'")

from mindscaip.engines import openmm as engine  # noqa: E402
from mindscaip.engines import openmm_install  # noqa: E402
from tests.openmm.tools import (  # noqa: E402
    FORCE_TO_EV_PER_ANGSTROM,
    ase_results,
    energy_and_forces,
    topology_of,
)

PLATFORMS = ("Reference", "CPU")
CASES = structures()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model.pt")


@pytest.fixture(scope="module")
def oriented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_special(tmp_path_factory.mktemp("oriented") / "model.pt", "oriented")


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("model", ["toy", "oriented"])
@pytest.mark.parametrize("name", CASES)
def test_equals_ase(name: str, model: str, platform: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(model)
    structure = CASES[name]
    system = engine.create_system(topology_of(structure), path)
    assert system.usesPeriodicBoundaryConditions() == bool(structure.pbc.all())
    energy, forces = energy_and_forces(system, structure.positions, platform)
    wanted_energy, wanted_forces = ase_results(structure, path)
    assert abs(energy - wanted_energy) < 1e-9 * len(structure)
    np.testing.assert_allclose(forces, wanted_forces, atol=1e-8, rtol=0)


def test_float32_model(tmp_path: Path) -> None:
    model = write_toy(tmp_path / "model.pt", dtype="float32")
    structure = CASES["periodic liquid"]
    energy, forces = energy_and_forces(engine.create_system(topology_of(structure), model), structure.positions, "CPU")
    wanted_energy, wanted_forces = ase_results(structure, model)
    assert abs(energy - wanted_energy) < 1e-6 * len(structure)
    np.testing.assert_allclose(forces, wanted_forces, atol=1e-5, rtol=0)


def test_float32_positions(toy: Path) -> None:
    """What a GPU platform in single precision hands over: the rounding of the positions and nothing more."""
    structure = CASES["periodic liquid"]
    module = engine.torch_force(toy, topology_of(structure)).getModule()
    positions = torch.from_numpy(structure.positions * ANGSTROM_TO_NM)
    # 1.25 nm and 1.5 nm are exact in float32, so that only positions are rounded.
    box = torch.diag(torch.tensor([1.25, 1.25, 1.5], dtype=torch.float64))
    rounded = positions.to(torch.float32)
    energy, forces = module(rounded, box.to(torch.float32))
    exact_energy, exact_forces = module(rounded.to(torch.float64), box)
    assert float(energy) == pytest.approx(float(exact_energy), abs=1e-9)
    torch.testing.assert_close(forces, exact_forces, atol=1e-8, rtol=0)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_region_of_a_system(toy: Path, platform: str) -> None:
    """Atoms outside the region feel nothing; the order of ``atoms`` is free; the box still counts."""
    structure = CASES["periodic liquid"]
    atoms = [40, 3, 17, 58, 4, 5, 9]
    system = engine.create_system(topology_of(structure), toy, atoms=atoms)
    energy, forces = energy_and_forces(system, structure.positions, platform)
    part = Structure(structure.numbers[atoms], structure.positions[atoms], structure.cell, structure.pbc)
    wanted_energy, wanted_forces = ase_results(part, toy)
    assert abs(energy - wanted_energy) < 1e-9 * len(atoms)
    np.testing.assert_allclose(forces[atoms], wanted_forces, atol=1e-8, rtol=0)
    rest = np.setdiff1d(np.arange(len(structure)), atoms)
    assert np.abs(wanted_forces).max() > 1e-3
    assert np.array_equal(forces[rest], np.zeros((len(rest), 3)))


def test_region_excludes_particles_without_element(toy: Path) -> None:
    numbers = np.array([6, 0, 8])
    force = engine.torch_force(toy, numbers, atoms=[0, 2])
    system = mm.System()
    for _ in numbers:
        system.addParticle(1.0)
    system.addForce(force)
    positions = np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 1.3]])  # where the second stands is not the model's concern
    energy, forces = energy_and_forces(system, positions, "Reference")
    wanted_energy, wanted_forces = ase_results(Structure(numbers[[0, 2]], positions[[0, 2]]), toy)
    assert abs(energy - wanted_energy) < 1e-9
    np.testing.assert_allclose(forces[[0, 2]], wanted_forces, atol=1e-8, rtol=0)


def test_system_from_atomic_numbers(toy: Path) -> None:
    structure = CASES["molecule"]
    system = engine.create_system(structure.numbers, toy)
    assert not system.usesPeriodicBoundaryConditions()
    masses = [system.getParticleMass(i)._value for i in range(len(structure))]
    np.testing.assert_allclose(masses[:4], [12.011, 12.011, 15.999, 1.008], atol=1e-3)
    energy, _ = energy_and_forces(system, structure.positions, "CPU")
    assert abs(energy - ase_results(structure, toy)[0]) < 1e-9 * len(structure)
    dummy = engine.create_system([6, 0, 8], toy, atoms=[0, 2])
    assert dummy.getParticleMass(1)._value == 0.0


def test_box_changes_between_calls(toy: Path) -> None:
    structure = CASES["periodic liquid"]
    system = engine.create_system(topology_of(structure), toy)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("CPU"))
    for scale in (1.0, 0.93, 1.1):
        scaled = Structure(structure.numbers, structure.positions * scale, structure.cell * scale, structure.pbc)
        context.setPeriodicBoxVectors(*(mm.Vec3(*row) for row in scaled.cell * ANGSTROM_TO_NM))
        context.setPositions(scaled.positions * ANGSTROM_TO_NM)
        energy = context.getState(getEnergy=True).getPotentialEnergy()._value / EV_TO_KJ_PER_MOL
        assert abs(energy - ase_results(scaled, toy)[0]) < 1e-9 * len(structure)


def test_adds_to_forces_that_are_there(toy: Path) -> None:
    """Beside another force, in its own force group."""
    structure = CASES["molecule"]
    topology = topology_of(structure)
    system = engine.create_system(topology, toy)
    spring = mm.HarmonicBondForce()
    spring.addBond(0, 1, 0.1, 1000.0)
    spring.setForceGroup(3)
    system.addForce(spring)
    both, _ = energy_and_forces(system, structure.positions, "Reference")
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(structure.positions * ANGSTROM_TO_NM)
    alone = context.getState(getEnergy=True, groups={3}).getPotentialEnergy()._value / EV_TO_KJ_PER_MOL
    assert alone > 0.01
    assert abs(both - alone - ase_results(structure, toy)[0]) < 1e-9 * len(structure)


needs_matching_openmm = pytest.mark.skipif(
    engine.installed_version("openmmtorch") == "1.5" and engine.release(mm.version.short_version) != "8.5",
    reason=f"openmmtorch 1.5 reads XML only with OpenMM 8.5, not {mm.version.short_version}: pip install openmm==8.5.2",
)

RELOAD = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mindscaip", "vesin", "ase"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocker())
try:
    import mindscaip
except ImportError:
    pass
else:
    raise SystemExit("mindscaip was importable")
import numpy as np, torch, openmm, openmmtorch  # torch first: it loads the libraries that openmmtorch links

folder, platform = sys.argv[1:]
system = openmm.XmlSerializer.deserialize(open(folder + "/system.xml").read())
positions = np.load(folder + "/positions.npy")
context = openmm.Context(system, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName(platform))
context.setPositions(positions)
state = context.getState(getEnergy=True, getForces=True)
forces = state.getForces(asNumpy=True)._value
context.getIntegrator().step(3)
np.savez(folder + "/out.npz", energy=state.getPotentialEnergy()._value, forces=forces)
"""


@needs_matching_openmm
@pytest.mark.parametrize(
    ("name", "platform"), [("molecule", "Reference"), ("triclinic cell smaller than the cutoff", "CPU")]
)
def test_serialised_system_runs_without_mindscaip(name: str, platform: str, toy: Path, tmp_path: Path) -> None:
    structure = CASES[name]
    system = engine.create_system(topology_of(structure), toy)
    (tmp_path / "system.xml").write_text(mm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", structure.positions * ANGSTROM_TO_NM)
    script = tmp_path / "reload.py"
    script.write_text(RELOAD)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), platform],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    out = np.load(tmp_path / "out.npz")
    wanted_energy, wanted_forces = ase_results(structure, toy)
    assert abs(float(out["energy"]) / EV_TO_KJ_PER_MOL - wanted_energy) < 1e-9 * len(structure)
    np.testing.assert_allclose(out["forces"] * FORCE_TO_EV_PER_ANGSTROM, wanted_forces, atol=1e-8, rtol=0)


@needs_matching_openmm
@pytest.mark.parametrize("name", CASES)
def test_reloaded_system_equals_the_first(name: str, toy: Path) -> None:
    structure = CASES[name]
    system = engine.create_system(topology_of(structure), toy, atoms=list(range(len(structure)))[::-1])
    copy = mm.XmlSerializer.deserialize(mm.XmlSerializer.serialize(system))
    first = energy_and_forces(system, structure.positions, "CPU")
    second = energy_and_forces(copy, structure.positions, "CPU")
    assert abs(first[0] - second[0]) < 1e-12 * len(structure)
    np.testing.assert_allclose(first[1], second[1], atol=1e-12, rtol=0)


def test_openmm_imported_before_torch(toy: Path) -> None:
    """OpenMM loads its plugins at import, when torch's libraries may not be there yet."""
    code = (
        "import sys, openmm; assert 'torch' not in sys.modules\n"
        "from mindscaip.engines.openmm import torch_force\n"
        "system = openmm.System(); system.addParticle(1.0); system.addForce(torch_force(sys.argv[1], [7]))\n"
        "context = openmm.Context(system, openmm.VerletIntegrator(0.001))\n"
        "context.setPositions([openmm.Vec3(0, 0, 0)])\n"
        "print(context.getState(getEnergy=True).getPotentialEnergy()._value)\n"
    )
    root = str(Path(engine.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, str(toy)], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) == pytest.approx(-0.7 * EV_TO_KJ_PER_MOL)
    assert done.stderr == ""


def test_direct_forces_warn(tmp_path: Path) -> None:
    model = write_special(tmp_path / "model.pt", "direct")
    structure = CASES["molecule"]
    with pytest.warns(UserWarning, match="direct output"):
        system = engine.create_system(topology_of(structure), model)
    energy, forces = energy_and_forces(system, structure.positions, "Reference")
    assert energy == pytest.approx(2.0 * structure.numbers.sum(), abs=1e-9)
    np.testing.assert_allclose(forces[:, 0], structure.numbers, atol=1e-10)


def test_mistakes_at_build(toy: Path, tmp_path: Path) -> None:
    molecule = topology_of(CASES["molecule"])
    build = engine.torch_force
    cases: list[tuple[str, object]] = [
        ("element F .* knows H C N O", lambda: build(toy, [9, 6])),
        ("atom 9 is out of range: there are 9", lambda: build(toy, molecule, atoms=[0, 9])),
        ("atom -1 is out of range", lambda: build(toy, molecule, atoms=[-1])),
        ("atom 2 is in atoms more than once", lambda: build(toy, molecule, atoms=[2, 1, 2])),
        ("give a list of particle indices", lambda: build(toy, molecule, atoms=[])),
        ("give a list of particle indices", lambda: build(toy, molecule, atoms=[0.5])),
        ("topology has no box", lambda: build(toy, molecule, periodic=True)),
        ("particle 1 of the region has no element", lambda: build(toy, [6, 0, 8])),
        ("atomic number 200 is not", lambda: build(toy, [200])),
        ("neither a Topology nor", lambda: build(toy, "CCO")),
        ("neither a Topology nor", lambda: build(toy, ["C"])),
        ("there are no particles", lambda: build(toy, [])),
        ("no such file", lambda: build(tmp_path / "absent.pt", molecule)),
    ]
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(toy.read_bytes()[:-100])
    cases.append(("not a whole model.pt", lambda: build(truncated, molecule)))
    foreign = tmp_path / "foreign.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(foreign))
    cases.append(("no mindscaip contract", lambda: build(foreign, molecule)))
    for sentence, call in cases:
        with pytest.raises(MindscaipError, match=sentence):
            call()  # type: ignore[operator]


def test_mistakes_against_a_system(toy: Path) -> None:
    system = mm.System()
    for _ in range(3):
        system.addParticle(12.0)
    with pytest.raises(MindscaipError, match="System has 3 particles and the topology 9"):
        engine.add_to_system(system, toy, topology_of(CASES["molecule"]))
    system.addConstraint(0, 1, 0.1)
    with pytest.raises(MindscaipError, match="particles 0 and 1 of the region are constrained"):
        engine.add_to_system(system, toy, [6, 1, 1])
    engine.add_to_system(system, toy, [6, 1, 1], atoms=[1, 2])
    assert system.getNumForces() == 1
    system.setParticleMass(2, 0.0)
    system.setVirtualSite(2, mm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    with pytest.raises(MindscaipError, match="particle 2 of the region is a virtual site"):
        engine.add_to_system(system, toy, [6, 1, 1], atoms=[1, 2])


def test_mistakes_while_running(toy: Path, tmp_path: Path) -> None:
    def run(model: Path, numbers: list[int], positions: np.ndarray) -> None:
        system = mm.System()
        for _ in positions:
            system.addParticle(12.0)
        system.addForce(engine.torch_force(model, numbers))
        with engine.openmm_errors():
            energy_and_forces(system, positions, "CPU")

    pair = np.array([[0.0, 0, 0], [0, 0, 1.5]])
    with pytest.raises(MindscaipError, match=r"^the force was built for 1 particles, the System has 2"):
        run(toy, [6], pair)
    with pytest.raises(MindscaipError, match=r"^a position is not finite"):
        run(toy, [6, 6], pair * np.nan)
    module = engine.torch_force(toy, [6, 6]).getModule()
    with pytest.raises(torch.jit.Error, match="mindscaip: a position is not finite"):
        module(torch.full((2, 3), float("inf"), dtype=torch.float64))
    with pytest.raises(MindscaipError, match=r"^two atoms stand on the same place"):
        run(toy, [6, 6], pair * 0.0)
    with pytest.raises(MindscaipError, match=r"^energy or forces are not finite"):
        run(write_special(tmp_path / "nan.pt", "not finite"), [6, 6], pair)


def test_missing_and_mismatched_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "2.13.0")
        patch.setattr(openmm_install, "installed_version", lambda name: "1.5")
        with pytest.raises(MindscaipError, match=r"openmmtorch 1\.5 is built for torch 2\.9, and torch 2\.13\.0"):
            engine.import_openmm_torch()
    for name, sentence in (("openmm", "OpenMM does not import"), ("openmmtorch", "openmmtorch .* does not import")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(MindscaipError, match=f"{sentence}.*pip install .*torch==2.9.1"):
                engine.import_openmm_torch()
