"""openmm-ml: whole systems and a peptide in classical water, checked term by term."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindscaip.data.structure import Structure
from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.errors import MindscaipError
from mindscaip.units import EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM
from tests.toys import write_toy

mm = pytest.importorskip("openmm", reason="openmm is not installed: pip install 'mindscaip[openmm]'")
pytest.importorskip("openmmtorch", reason="openmmtorch is not installed: pip install 'mindscaip[openmm]'")
openmmml = pytest.importorskip("openmmml", reason="openmmml is not installed: pip install 'mindscaip[openmm]'")

from openmm import app, unit  # noqa: E402

from mindscaip.engines import openmm as engine  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples" / "openmm"
REGION = list(range(22))
CUTOFF_NM = 1.05


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model.pt")


class Solvated:
    """Acetyl-alanine-N-methylamide (atoms 0 to 21) in TIP3P water, by AMBER ff14SB."""

    def __init__(self) -> None:
        pdb = app.PDBFile(str(EXAMPLES / "alanine-dipeptide.pdb"))
        self.forcefield = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
        modeller = app.Modeller(pdb.topology, pdb.positions)
        modeller.addSolvent(self.forcefield, boxSize=mm.Vec3(2.2, 2.2, 2.2) * unit.nanometer)
        self.peptide = pdb.topology
        self.topology = modeller.topology
        self.positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
        self.box = np.eye(3) * 2.2
        self.classical = self.system(constraints=None)

    def system(self, **options: object) -> "mm.System":
        return self.forcefield.createSystem(
            self.topology, nonbondedMethod=app.PME, nonbondedCutoff=CUTOFF_NM * unit.nanometer, **options
        )

    def model(self, path: Path, periodic: bool = True) -> tuple[float, np.ndarray]:
        """Energy and forces of the region alone by the ASE calculator, in kJ/mol and kJ/mol/nm."""
        numbers = [atom.element.atomic_number for atom in self.topology.atoms()][:22]
        structure = Structure(
            np.array(numbers),
            self.positions[:22] * NM_TO_ANGSTROM,
            self.box * NM_TO_ANGSTROM,
            np.full(3, periodic),
        )
        atoms = structure.to_ase()
        atoms.calc = MindscaipCalculator(path)
        return (
            atoms.get_potential_energy() * EV_TO_KJ_PER_MOL,
            atoms.get_forces() * EV_TO_KJ_PER_MOL * NM_TO_ANGSTROM,
        )


@pytest.fixture(scope="module")
def solvated() -> Solvated:
    return Solvated()


def terms(system: "mm.System", positions: np.ndarray, **parameters: float) -> tuple[dict[str, float], np.ndarray]:
    """Energy of every class of force (kJ/mol) and all forces together, on the platform of double precision."""
    names = []
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
        # A TorchForce that a System hands out is a plain Force to Python.
        names.append({"Force": "model", "PythonForce": "model"}.get(type(force).__name__, type(force).__name__))
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    for name, value in parameters.items():
        context.setParameter(name, value)
    energies = {
        name: context.getState(energy=True, groups={group}).getPotentialEnergy()._value
        for group, name in enumerate(names)
    }
    energies["all"] = context.getState(energy=True).getPotentialEnergy()._value
    return energies, context.getState(forces=True).getForces(asNumpy=True)._value


def test_entry_point_is_light_and_breaks_nothing(tmp_path: Path) -> None:
    """``import openmmml`` finds the potential without importing torch, and works where the rest is missing."""
    code = (
        "import sys\n"
        "for name in ('torch', 'ase', 'openmmtorch', 'vesin', 'h5py'): sys.modules[name] = None\n"
        "import openmmml\n"
        "assert 'mindscaip' in openmmml.MLPotential._implFactories\n"
        "print(sorted(m for m in sys.modules if m.startswith('mindscaip')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.strip().endswith("'mindscaip.engines', 'mindscaip.engines.openmm_ml', 'mindscaip.errors']")


@pytest.mark.parametrize("backend", ["torch", "python"])
def test_whole_system(backend: str, toy: Path, solvated: Solvated) -> None:
    potential = openmmml.MLPotential("mindscaip", modelPath=str(toy))
    assert potential._impl.getMLLongRange() is False
    system = potential.createSystem(solvated.peptide, backend=backend)
    assert not system.usesPeriodicBoundaryConditions()
    assert [engine.potentials_in(system)[0].backend, system.getNumForces()] == [backend, 2]  # and the CMMotionRemover
    energies, forces = terms(system, solvated.positions[:22])
    wanted, wanted_forces = solvated.model(toy, periodic=False)
    assert energies["all"] == pytest.approx(wanted, abs=1e-7)
    np.testing.assert_allclose(forces, wanted_forces, atol=1e-6)


def test_mixed_system_term_by_term(toy: Path, solvated: Solvated) -> None:
    """Energy = classical + model - classical of the region, for each class of force, and so for the forces."""
    potential = openmmml.MLPotential("mindscaip", modelPath=toy)
    mixed = potential.createMixedSystem(solvated.topology, solvated.classical, REGION)
    assert mixed.usesPeriodicBoundaryConditions()
    found, forces = terms(mixed, solvated.positions)
    classical, classical_forces = terms(solvated.classical, solvated.positions)
    # The region by itself: without lattice sums and cutoffs, since it is smaller than the cutoff.
    span = np.linalg.norm(solvated.positions[:22, None] - solvated.positions[None, :22], axis=2).max()
    assert 0.8 < span < CUTOFF_NM
    alone = solvated.forcefield.createSystem(solvated.peptide, nonbondedMethod=app.NoCutoff)
    region, region_forces = terms(alone, solvated.positions[:22])
    model, model_forces = solvated.model(toy)

    for name in ("HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "NonbondedForce"):
        assert abs(region[name]) > 1.0
        assert found[name] == pytest.approx(classical[name] - region[name], abs=1e-6), name
    assert found["model"] == pytest.approx(model, abs=1e-7)
    assert found["all"] == pytest.approx(classical["all"] - region["all"] + model, abs=1e-6)
    wanted = classical_forces.copy()
    wanted[:22] += model_forces - region_forces
    np.testing.assert_allclose(forces, wanted, atol=1e-5)


def across_the_boundary(solvated: Solvated) -> tuple[np.ndarray, np.ndarray]:
    """Positions with the region in one piece, and the same with each of its atoms in the first cell."""
    shifted = solvated.positions - solvated.positions[5]
    folded = shifted.copy()
    folded[:22] -= np.floor(folded[:22] / 2.2) * 2.2
    assert (np.abs(folded - shifted).max(axis=1) > 1).sum() > 5
    return shifted, folded


def test_region_across_the_boundary_counts_once(toy: Path, solvated: Solvated) -> None:
    """Each atom of the region in whichever cell: model and classical forces see the same molecule."""
    mixed = openmmml.MLPotential("mindscaip", modelPath=toy).createMixedSystem(
        solvated.topology, solvated.classical, REGION
    )
    shifted, folded = across_the_boundary(solvated)
    (first, first_forces), (second, second_forces) = terms(mixed, shifted), terms(mixed, folded)
    for name, energy in first.items():
        assert second[name] == pytest.approx(energy, abs=1e-5), name
    np.testing.assert_allclose(first_forces, second_forces, atol=1e-5)
    assert first["model"] == pytest.approx(solvated.model(toy)[0], abs=1e-7)


def test_interpolated_region_in_one_piece(toy: Path, solvated: Solvated) -> None:
    """The classical terms inside ``lambda_interpolate`` do not see the box, so a cut region is refused."""
    system = openmmml.MLPotential("mindscaip", modelPath=toy).createMixedSystem(
        solvated.topology, solvated.classical, REGION, interpolate=True
    )
    shifted, folded = across_the_boundary(solvated)
    assert np.isfinite(terms(system, shifted)[0]["all"])
    with pytest.raises(MindscaipError, match="the region is cut by a boundary of the box"), engine.openmm_errors():
        terms(system, folded)


@pytest.mark.parametrize("backend", ["torch", "python"])
def test_interpolation_between_pure_ends(backend: str, toy: Path, solvated: Solvated) -> None:
    potential = openmmml.MLPotential("mindscaip", modelPath=toy)
    system = potential.createMixedSystem(
        solvated.topology, solvated.classical, REGION, interpolate=True, backend=backend
    )
    assert [p.backend for p in engine.potentials_in(system)] == [backend]
    engine.check_model(system, toy)
    mixed = potential.createMixedSystem(solvated.topology, solvated.classical, REGION)
    low, low_forces = terms(system, solvated.positions, lambda_interpolate=0.0)
    high, high_forces = terms(system, solvated.positions, lambda_interpolate=1.0)
    between, between_forces = terms(system, solvated.positions, lambda_interpolate=0.3)
    classical, classical_forces = terms(solvated.classical, solvated.positions)
    end, end_forces = terms(mixed, solvated.positions)
    assert abs(end["all"] - classical["all"]) > 1.0
    # The constant of Coulomb's law in openmm-ml has nine digits.
    assert low["all"] == pytest.approx(classical["all"], abs=1e-4)
    np.testing.assert_allclose(low_forces, classical_forces, atol=1e-3)
    assert high["all"] == pytest.approx(end["all"], abs=1e-6)
    np.testing.assert_allclose(high_forces, end_forces, atol=1e-5)
    assert between["all"] == pytest.approx(0.7 * low["all"] + 0.3 * high["all"], abs=1e-6)
    np.testing.assert_allclose(between_forces, 0.7 * low_forces + 0.3 * high_forces, atol=1e-6)


def test_mixed_system_runs(toy: Path, solvated: Solvated, tmp_path: Path) -> None:
    """Rigid water, flexible region, barostat, XML: a few steps as users take them."""
    classical = solvated.system(constraints=app.HBonds, rigidWater=True)
    before = classical.getNumConstraints()
    potential = openmmml.MLPotential("mindscaip", modelPath=toy)
    system = potential.createMixedSystem(solvated.topology, classical, REGION, forceGroup=5)
    assert system.getNumConstraints() == before - 12
    assert system.getForce(system.getNumForces() - 1).getForceGroup() == 5
    barostat = mm.MonteCarloBarostat(1.0, 300.0, 1)
    barostat.setRandomNumberSeed(3)
    system.addForce(barostat)
    engine.write_system(system, tmp_path / "mixed.xml")
    system = engine.read_system(tmp_path / "mixed.xml", toy)
    integrator = mm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
    integrator.setRandomNumberSeed(3)
    simulation = app.Simulation(solvated.topology, system, integrator, mm.Platform.getPlatformByName("CPU"))
    simulation.context.setPositions(solvated.positions)
    simulation.minimizeEnergy(maxIterations=3)
    simulation.context.setVelocitiesToTemperature(300.0, 1)
    # The barostat may refuse its move at any one step, but not at all of many.
    box = [simulation.context.getState().getPeriodicBoxVectors()[0][0]._value]
    while box[-1] == box[0] and len(box) <= 40:
        simulation.step(1)
        box.append(simulation.context.getState().getPeriodicBoxVectors()[0][0]._value)
    assert np.isfinite(simulation.context.getState(energy=True).getPotentialEnergy()._value)
    assert box[-1] != box[0]


def test_mistakes(toy: Path, solvated: Solvated, tmp_path: Path) -> None:
    build = openmmml.MLPotential
    for sentence, call in (
        ("give MLPotential.*modelPath", lambda: build("mindscaip")),
        ("no such file", lambda: build("mindscaip", modelPath="absent.pt")),
        ("no option 'modelpath' .did you mean 'modelPath'", lambda: build("mindscaip", modelpath=str(toy))),
    ):
        with pytest.raises(MindscaipError, match=sentence):
            call()
    potential = build("mindscaip", modelPath=toy)
    with pytest.raises(MindscaipError, match=r"no option 'image' \(did you mean 'images'\?\)"):
        potential.createMixedSystem(solvated.topology, solvated.classical, REGION, image="all")
    with pytest.raises(MindscaipError, match="atom 5 is in atoms more than once"):
        potential.createMixedSystem(solvated.topology, solvated.classical, [5, 6, 5])
    with pytest.raises(MindscaipError, match="periodic is True and the topology has no box"):
        potential.createSystem(solvated.peptide, periodic=True)
    constrained = solvated.system(constraints=app.HBonds)
    with pytest.raises(MindscaipError, match="particles 0 and 1 of the region are constrained"):
        potential.createMixedSystem(solvated.topology, constrained, REGION, removeConstraints=False)
    with pytest.warns(engine.RegionWarning, match="cuts the bond between atoms 4 and 6"):
        potential.createMixedSystem(solvated.topology, solvated.classical, REGION[:6])
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(toy.read_bytes()[:-100])
    with pytest.raises(MindscaipError, match=r"not a whole model\.pt"):
        build("mindscaip", modelPath=truncated).createSystem(solvated.peptide)


def test_virtual_sites_and_extra_particles_are_refused(toy: Path) -> None:
    forcefield = app.ForceField("amber14/tip4pew.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(forcefield, model="tip4pew", boxSize=mm.Vec3(1.2, 1.2, 1.2) * unit.nanometer)
    system = forcefield.createSystem(modeller.topology, nonbondedCutoff=0.5 * unit.nanometer)
    potential = openmmml.MLPotential("mindscaip", modelPath=toy)
    with pytest.raises(MindscaipError, match=r"particle 3 of the region has no element \(a virtual site"):
        potential.createMixedSystem(modeller.topology, system, [0, 1, 2, 3])
    with pytest.raises(MindscaipError, match="particle 3 of the region has no element"):
        potential.createSystem(modeller.topology)


@pytest.mark.parametrize("backend", ["torch", "python"])
def test_a_region_that_sees_its_own_images(backend: str, toy: Path) -> None:
    """The classical lattice sums count them already: an error in a mixed system, unless asked for."""
    numbers, positions = [6, 8], np.array([[0.0, 0, 0], [0.3, 0, 0]])

    def energy(edge: float, **options: str) -> float:
        system = mm.System()
        for _ in numbers:
            system.addParticle(12.0)
        system.setDefaultPeriodicBoxVectors(*(mm.Vec3(*row) for row in np.eye(3) * edge))
        system.addForce(engine.torch_force(toy, numbers, periodic=True, backend=backend, **options))
        context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
        context.setPositions(positions)
        with engine.openmm_errors():
            return context.getState(energy=True).getPotentialEnergy()._value

    large = energy(0.81, images="nearest")  # the toy reaches 0.5 nm
    assert large == energy(0.81) == energy(5.0, images="nearest")
    for edge in (0.79, 0.45):
        with pytest.raises(MindscaipError, match="the region sees its own periodic images"):
            energy(edge, images="nearest")
        assert energy(edge) != large
