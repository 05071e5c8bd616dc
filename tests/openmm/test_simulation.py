"""What users do with a System: reporters, minimiser, restarts, force groups, barostats, XML, both backends."""

import io
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from mindscaip.data.structure import Structure
from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.errors import MindscaipError
from mindscaip.units import ANGSTROM_TO_NM, EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM
from tests.ase_engine.cases import structures
from tests.toys import write_toy

mm = pytest.importorskip("openmm", reason="openmm is not installed: pip install 'mindscaip[openmm]'")
pytest.importorskip("openmmtorch", reason="openmmtorch is not installed: pip install 'mindscaip[openmm]'")

from openmm import app, unit  # noqa: E402

from mindscaip.engines import openmm as engine  # noqa: E402
from mindscaip.engines import openmm_force, openmm_install  # noqa: E402
from tests.openmm.tools import ase_results, energy_and_forces, topology_of  # noqa: E402

CASES = structures()
BACKENDS = pytest.mark.parametrize("backend", ["torch", "python"])
BAR_PER_EV_PER_A3 = 1.602176634e6
BUILT_FOR = openmm_install.OPENMMTORCH_BUILT_FOR["1.5"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model.pt")


def simulation(toy: Path, name: str, integrator: "mm.Integrator", *forces: "mm.Force", **options: object):
    structure = CASES[name]
    topology = topology_of(structure)
    system = engine.create_system(topology, toy, **options)
    for force in forces:
        system.addForce(force)
    made = app.Simulation(topology, system, integrator, mm.Platform.getPlatformByName("CPU"))
    made.context.setPositions(structure.positions * ANGSTROM_TO_NM)
    return made


def snapshot(context: "mm.Context", like: Structure) -> tuple[Structure, float, np.ndarray]:
    """Structure (A), energy (eV) and forces (eV/A) of a Context."""
    state = context.getState(positions=True, energy=True, forces=True)
    cell = state.getPeriodicBoxVectors(asNumpy=True)._value * NM_TO_ANGSTROM if like.pbc.all() else like.cell
    structure = Structure(like.numbers, state.getPositions(asNumpy=True)._value * NM_TO_ANGSTROM, cell, like.pbc)
    forces = state.getForces(asNumpy=True)._value / (EV_TO_KJ_PER_MOL * NM_TO_ANGSTROM)
    return structure, state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL, forces


def check_against_ase(context: "mm.Context", like: Structure, model: Path) -> Structure:
    structure, energy, forces = snapshot(context, like)
    wanted_energy, wanted_forces = ase_results(structure, model)
    assert abs(energy - wanted_energy) < 1e-9 * len(structure)
    np.testing.assert_allclose(forces, wanted_forces, atol=1e-8, rtol=0)
    return structure


@pytest.mark.parametrize("name", CASES)
def test_backends_agree_to_rounding(name: str, toy: Path) -> None:
    structure = CASES[name]
    results = []
    for backend in ("torch", "python"):
        system = engine.create_system(topology_of(structure), toy, backend=backend)
        copy = mm.XmlSerializer.deserialize(mm.XmlSerializer.serialize(system))
        assert copy.usesPeriodicBoundaryConditions() == bool(structure.pbc.all())
        results += [energy_and_forces(s, structure.positions, "CPU") for s in (system, copy)]
    for energy, forces in results[1:]:
        assert abs(energy - results[0][0]) < 1e-12 * len(structure)
        np.testing.assert_allclose(forces, results[0][1], atol=1e-11, rtol=0)


@BACKENDS
def test_simulation_with_reporters_and_minimiser(backend: str, toy: Path, tmp_path: Path) -> None:
    integrator = mm.LangevinMiddleIntegrator(300 * unit.kelvin, 10 / unit.picosecond, 0.5 * unit.femtosecond)
    run = simulation(toy, "molecule", integrator, backend=backend)
    before = run.context.getState(energy=True).getPotentialEnergy()
    run.minimizeEnergy(maxIterations=10)
    assert run.context.getState(energy=True).getPotentialEnergy() < before
    run.context.setVelocitiesToTemperature(300 * unit.kelvin, 3)
    text = io.StringIO()
    run.reporters = [
        app.StateDataReporter(text, 5, step=True, potentialEnergy=True, temperature=True, separator=" "),
        app.PDBReporter(str(tmp_path / "run.pdb"), 10),
        app.DCDReporter(str(tmp_path / "run.dcd"), 5),
    ]
    run.step(10)
    assert len(text.getvalue().splitlines()) == 3
    run.reporters.clear()
    assert (tmp_path / "run.pdb").read_text().count("HETATM") == 9
    assert (tmp_path / "run.dcd").stat().st_size > 2 * 9 * 12
    check_against_ase(run.context, CASES["molecule"], toy)


@BACKENDS
def test_restarts_continue_the_trajectory(backend: str, toy: Path, tmp_path: Path) -> None:
    """Checkpoint and State XML: the second half is the second half of the run in one go."""

    def fresh():
        return simulation(toy, "periodic liquid", mm.VerletIntegrator(0.0005), backend=backend)

    first = fresh()
    first.context.setVelocitiesToTemperature(300, 1)
    first.step(4)
    first.saveCheckpoint(str(tmp_path / "run.chk"))
    first.saveState(str(tmp_path / "run.xml"))
    first.step(4)
    wanted = first.context.getState(positions=True).getPositions(asNumpy=True)._value
    for load, file in ((app.Simulation.loadCheckpoint, "run.chk"), (app.Simulation.loadState, "run.xml")):
        second = fresh()
        load(second, str(tmp_path / file))
        second.step(4)
        found = second.context.getState(positions=True).getPositions(asNumpy=True)._value
        np.testing.assert_allclose(found, wanted, atol=1e-12, rtol=0)


@BACKENDS
def test_several_force_groups(backend: str, toy: Path) -> None:
    """Two models and a spring, each in its own group, and an integrator that takes groups apart."""
    structure = CASES["molecule"]
    spring = mm.HarmonicBondForce()
    spring.addBond(0, 1, 0.1, 1000.0)
    spring.setForceGroup(3)
    part = engine.torch_force(toy, structure.numbers, atoms=[0, 1, 2], force_group=2, backend=backend)
    integrator = mm.MTSIntegrator(0.001, [(1, 1), (2, 1), (3, 2)])
    run = simulation(toy, "molecule", integrator, spring, part, force_group=1, backend=backend)

    def energy(groups: set[int]) -> float:
        return run.context.getState(energy=True, groups=groups).getPotentialEnergy()._value / EV_TO_KJ_PER_MOL

    three = Structure(structure.numbers[:3], structure.positions[:3])
    assert energy({1}) == pytest.approx(ase_results(structure, toy)[0], abs=1e-8)
    assert energy({2}) == pytest.approx(ase_results(three, toy)[0], abs=1e-8)
    assert energy({3}) > 0.01
    assert energy({0}) == 0.0
    assert energy({1, 2, 3}) == pytest.approx(energy({1}) + energy({2}) + energy({3}), abs=1e-10)
    run.step(3)
    with pytest.raises(MindscaipError, match="force_group is 32"):
        engine.torch_force(toy, [6], force_group=32)


@BACKENDS
def test_barostat_sees_the_stress_of_ase(backend: str, toy: Path) -> None:
    barostat = mm.MonteCarloBarostat(1.0, 300.0, 1)
    run = simulation(toy, "periodic liquid", mm.VerletIntegrator(0.0005), barostat, backend=backend)
    structure = CASES["periodic liquid"]
    atoms = structure.to_ase()
    atoms.calc = MindscaipCalculator(toy)
    wanted = -atoms.get_stress()[:3].mean() * BAR_PER_EV_PER_A3
    assert abs(wanted) > 1000.0

    # What a move of the barostat does: box and every molecule (here: atom) scaled alike.
    energies = []
    for volume in (1.0 + 1e-5, 1.0 - 1e-5):
        scale = volume ** (1 / 3) * ANGSTROM_TO_NM
        run.context.setPeriodicBoxVectors(*(mm.Vec3(*row) for row in structure.cell * scale))
        run.context.setPositions(structure.positions * scale)
        energies.append(run.context.getState(energy=True).getPotentialEnergy()._value / EV_TO_KJ_PER_MOL)
    pressure = -(energies[0] - energies[1]) / (2e-5 * atoms.get_volume()) * BAR_PER_EV_PER_A3
    assert pressure == pytest.approx(wanted, rel=1e-6)

    run.context.setPeriodicBoxVectors(*(mm.Vec3(*row) for row in structure.cell * ANGSTROM_TO_NM))
    run.context.setPositions(structure.positions * ANGSTROM_TO_NM)
    if backend == "torch":  # OpenMM's binding of this function keeps Python's lock
        with pytest.raises(MindscaipError, match="backend='python'"), engine.openmm_errors():
            barostat.computeCurrentPressure(run.context)
        return
    # Without velocities there is the virial alone.
    found = barostat.computeCurrentPressure(run.context).value_in_unit(unit.bar)
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "flexible"])
@pytest.mark.parametrize("name", ["periodic liquid", "triclinic cell smaller than the cutoff"])
def test_a_hundred_barostat_moves(name: str, kind: str, toy: Path) -> None:
    pressure = 5000.0 if name == "periodic liquid" else 2e5  # bar, so that the cell moves both ways
    if kind == "isotropic":
        barostat = mm.MonteCarloBarostat(pressure, 3000.0, 1)
    elif kind == "anisotropic":
        if name != "periodic liquid":
            pytest.skip("OpenMM's anisotropic barostat wants a rectangular box")
        barostat = mm.MonteCarloAnisotropicBarostat(mm.Vec3(1, 1, 1) * pressure, 3000.0, True, True, True, 1)
    else:
        barostat = mm.MonteCarloFlexibleBarostat(pressure, 3000.0, 1)
    barostat.setRandomNumberSeed(5)
    run = simulation(toy, name, mm.LangevinMiddleIntegrator(3000.0, 10.0, 0.0002), barostat)
    run.step(100)
    structure = check_against_ase(run.context, CASES[name], toy)
    assert np.abs(np.diag(structure.cell) / np.diag(CASES[name].cell) - 1).max() > 1e-3
    if kind == "flexible" and name == "periodic liquid":
        assert abs(structure.cell[1, 0]) > 1e-4


def test_periodic_model_without_a_box(toy: Path) -> None:
    """The default box of OpenMM is nobody's choice: a periodic force wants one from its user."""
    structure = CASES["molecule"]
    for particles in (topology_of(structure), structure.numbers):
        with pytest.raises(MindscaipError, match="periodic is True and there is no box"):
            engine.create_system(particles, toy, periodic=True)
        with pytest.raises(MindscaipError, match=r"OpenMM refuses the box .*openmm_box"):
            engine.create_system(particles, toy, box=[[1.0, 0, 0], [0.9, 1.0, 0], [0, 0, 1.0]])
        with pytest.raises(MindscaipError, match="OpenMM refuses the box"):
            engine.create_system(particles, toy, box=[1.0, 1.0])
        system = engine.create_system(particles, toy, box=np.eye(3))
        assert system.usesPeriodicBoundaryConditions()
        assert system.getDefaultPeriodicBoxVectors()[2][2]._value == 1.0
        part = Structure(structure.numbers, structure.positions, np.eye(3) * 10.0, np.ones(3, bool))
        energy = energy_and_forces(system, structure.positions, "CPU")[0]
        assert abs(energy - ase_results(part, toy)[0]) < 1e-9 * len(part)
    with pytest.raises(MindscaipError, match="periodic is True and the topology has no box"):
        engine.torch_force(toy, topology_of(structure), periodic=True)


def test_auto_falls_back_and_says_so_once(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structure = CASES["molecule"]
    wanted = ase_results(structure, toy)[0]
    cases = (
        ("torch", "2.8", "built for torch 2.8"),
        ("openmm", "8.4", "built for OpenMM 8.4, and OpenMM .* reading a System from XML crashes"),
    )
    for package, release, sentence in cases:
        built = {**BUILT_FOR, package: release}
        monkeypatch.setattr(openmm_install, "OPENMMTORCH_BUILT_FOR", {"1.5": built})
        monkeypatch.setattr(openmm_install, "installed_version", lambda name: "1.5")
        with pytest.warns(engine.BackendWarning, match=f"PythonForce takes the place.*{sentence}.*pip install"):
            system = engine.create_system(structure.numbers, toy)
        assert [p.backend for p in engine.potentials_in(system)] == ["python"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            engine.create_system(structure.numbers, toy)
        assert abs(energy_and_forces(system, structure.positions, "CPU")[0] - wanted) < 1e-9 * len(structure)
    with pytest.raises(MindscaipError, match=r"no backend named 'tensor' .* known: auto, torch, python"):
        engine.create_system(structure.numbers, toy, backend="tensor")
    with pytest.raises(MindscaipError, match=r"images is 'near'.*did you mean 'nearest'"):
        engine.create_system(structure.numbers, toy, images="near")
    monkeypatch.delattr(mm, "PythonForce")
    with pytest.raises(MindscaipError, match=r"has no PythonForce; install OpenMM 8\.5"):
        engine.create_system(structure.numbers, toy, backend="python")
    assert openmm_force.BACKENDS[0] == "auto"


@BACKENDS
def test_mistakes_during_a_run(backend: str, toy: Path) -> None:
    """The same sentence from both backends."""

    def energy(numbers: list[int], positions: np.ndarray) -> float:
        system = mm.System()
        for _ in positions:
            system.addParticle(12.0)
        system.addForce(engine.torch_force(toy, numbers, backend=backend))
        with engine.openmm_errors():
            return energy_and_forces(system, positions, "Reference")[0]

    pair = np.array([[0.0, 0, 0], [0, 0, 1.5]])
    for numbers, positions, sentence in (
        ([6], pair, "the force was built for 1 particles, the System has 2"),
        ([6, 6], pair * np.nan, "a position is not finite"),
        ([6, 6], pair * 0, "two atoms stand on the same place"),
    ):
        with pytest.raises(MindscaipError, match=f"^{sentence}"):
            energy(numbers, positions)


@BACKENDS
def test_files_know_their_model(backend: str, toy: Path, tmp_path: Path) -> None:
    structure = CASES["molecule"]
    system = engine.create_system(structure.numbers, toy, backend=backend)
    path = tmp_path / "system.xml"
    engine.write_system(system, path)
    copy = engine.read_system(path, toy)
    (held,) = engine.potentials_in(copy)
    assert (held.force, held.backend) == (0, backend)
    assert held.contract.elements == ("H", "C", "N", "O")
    other = write_toy(tmp_path / "other.pt", cutoff=4.5)
    with pytest.raises(MindscaipError, match=r"made from a model with hash \w{12}, and .*other\.pt has \w{12}"):
        engine.read_system(path, other)
    empty = tmp_path / "empty.xml"
    engine.write_system(mm.System(), empty)
    assert engine.potentials_in(engine.read_system(empty)) == []
    with pytest.raises(MindscaipError, match="holds no mindscaip model"):
        engine.read_system(empty, toy)
    with pytest.raises(MindscaipError, match="cannot be read"):
        engine.read_system(tmp_path / "absent.xml")
    (tmp_path / "broken.xml").write_text(path.read_text()[:2000])
    with pytest.raises(MindscaipError, match=r"broken\.xml: .* give the XML file of a System"):
        engine.read_system(tmp_path / "broken.xml")
    (tmp_path / "force.xml").write_text(mm.XmlSerializer.serialize(mm.VerletIntegrator(0.001)))
    with pytest.raises(MindscaipError, match="it holds a VerletIntegrator"):
        engine.read_system(tmp_path / "force.xml")
    assert pickle.dumps(held.contract)


def test_precision_is_stated(toy: Path, tmp_path: Path) -> None:
    single = write_toy(tmp_path / "single.pt", dtype="float32")
    for model, dtype in ((toy, "float64"), (single, "float32")):
        exported = engine.as_exported(model)
        for backend in ("torch", "python"):
            system = engine.create_system([6, 8], exported, backend=backend)
            context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("CPU"))
            precision = engine.precision_of(context, system.getForce(0), exported)
            assert str(precision) == f"CPU, double precision, {dtype} model"

    class Mixed:
        """A GPU platform's answers."""

        def getPlatform(self):
            return self

        def getName(self):
            return "CUDA"

        def getPropertyNames(self):
            return ("Precision",)

        def getPropertyValue(self, context: object, name: str) -> str:
            return "mixed"

    force = engine.torch_force(toy, [6], backend="torch")
    found = engine.precision_of(Mixed(), force, engine.as_exported(toy))
    assert str(found) == "CUDA, mixed precision, float64 model, float32 positions"
    force = engine.torch_force(toy, [6], backend="python")
    assert "float32" not in str(engine.precision_of(Mixed(), force, engine.as_exported(toy)))
