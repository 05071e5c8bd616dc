"""A MinDScAIP model in OpenMM beyond the first call: repeated evaluations and a few steps of NVE."""

import os
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.engines.batched import evaluate
from mindscaip.studies.nve import initial_velocities
from tests.golden.cases import DTYPES, golden_cases, model_path

mm = pytest.importorskip("openmm", reason="openmm is not installed: pip install 'mindscaip[openmm]'")
pytest.importorskip("openmmtorch", reason="openmmtorch is not installed: pip install 'mindscaip[openmm]'")

from mindscaip.engines import openmm as engine  # noqa: E402
from mindscaip.units import ANGSTROM_TO_NM, EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM  # noqa: E402

CASES = golden_cases()


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_calls(dtype: str, platform: str) -> None:
    """TorchScript compiles again at the second and third call; nothing may change."""
    case = CASES[0]
    system = mm.System()
    for _ in case.structure.numbers:
        system.addParticle(1.0)
    system.addForce(engine.torch_force(model_path(dtype), case.structure.numbers))
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(platform))
    context.setPositions(case.structure.positions * ANGSTROM_TO_NM)
    for _ in range(4):
        state = context.getState(getEnergy=True, getForces=True)
        case.check(
            dtype,
            energy=state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL,
            forces=state.getForces(asNumpy=True)._value / (EV_TO_KJ_PER_MOL * NM_TO_ANGSTROM),
        )


def test_energy_along_a_run() -> None:
    """Recorded potential energies are those of the recorded positions."""
    structure = CASES[0].structure
    rng = np.random.default_rng(0)
    velocities = rng.normal(size=structure.positions.shape) * 0.01
    record = engine.run_nve(model_path("float64"), structure, velocities, 0.5, 10, 5, "CPU")
    assert record.step.tolist() == [0, 5, 10]
    frames = [type(structure)(structure.numbers, p, structure.cell, structure.pbc) for p in record.positions]
    for energy, prediction in zip(record.potential_eV, evaluate(model_path("float64"), frames), strict=True):
        assert abs(energy - prediction.energy) < 1e-9 * len(structure)


@pytest.mark.parametrize("ensemble", ["as read", "squeezed and sheared"])
def test_water_equals_ase(ensemble: str) -> None:
    """64 molecules of water from a reference set, whole and in part, in its box and in a triclinic one."""
    root = Path(os.environ.get("MINDSCAIP_DATA", Path(__file__).parents[3] / "shared" / "data"))
    file = root / "water" / "high_level_water.xyz"
    if not file.is_file():
        pytest.skip(f"{file} is absent; set MINDSCAIP_DATA to the folder of reference data")
    atoms = read(file, index=0)
    if ensemble != "as read":
        shear = np.array([[0.98, 0, 0], [0.11, 1.01, 0], [-0.07, 0.13, 0.99]])
        atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    structure = Structure(atoms.numbers, atoms.positions, atoms.cell.array, np.ones(3, bool))
    part = np.arange(len(structure))[::-1][:90]  # any order, some atoms left out
    for region in (None, part):
        system = mm.System()
        for _ in structure.numbers:
            system.addParticle(1.0)
        system.setDefaultPeriodicBoxVectors(*(mm.Vec3(*row) for row in structure.cell * ANGSTROM_TO_NM))
        system.addForce(engine.torch_force(model_path("float64"), structure.numbers, atoms=region, periodic=True))
        context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("CPU"))
        context.setPositions(structure.positions * ANGSTROM_TO_NM)
        state = context.getState(getEnergy=True, getForces=True)
        forces = state.getForces(asNumpy=True)._value / (EV_TO_KJ_PER_MOL * NM_TO_ANGSTROM)
        chosen = np.arange(len(structure)) if region is None else region
        alone = Structure(
            structure.numbers[chosen], structure.positions[chosen], structure.cell, np.ones(3, bool)
        ).to_ase()
        alone.calc = MindscaipCalculator(model_path("float64"))
        energy = state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL
        assert abs(energy - alone.get_potential_energy()) < 1e-9 * len(alone)
        np.testing.assert_allclose(forces[chosen], alone.get_forces(), atol=1e-8, rtol=0)
        assert np.abs(forces[chosen]).max() > 0.01


def test_energy_error_is_of_second_order() -> None:
    """The model itself, on a molecule that vibrates about the minimum of its own surface."""
    exported = load_exported(model_path("float64"))
    structure = CASES[0].structure
    velocities = initial_velocities(structure, 100.0, seed=3)
    errors = []
    for timestep in (0.4, 0.2):
        total = engine.run_nve(exported, structure, velocities, timestep, round(6 / timestep), 1, "CPU").total_eV
        errors.append(np.abs(total - total[0]).max())
    assert errors[0] > 1e-9
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize("precision", ["double", "single"])
def test_gpu_platforms(precision: str) -> None:
    """OpenCL, CUDA and HIP where this machine has them."""
    case = CASES[0]
    tried = 0
    for index in range(mm.Platform.getNumPlatforms()):
        platform = mm.Platform.getPlatform(index)
        if "Precision" not in platform.getPropertyNames():
            continue
        system = mm.System()
        for _ in case.structure.numbers:
            system.addParticle(1.0)
        system.addForce(engine.torch_force(model_path("float64"), case.structure.numbers))
        try:
            context = mm.Context(system, mm.VerletIntegrator(0.001), platform, {"Precision": precision})
        except mm.OpenMMException:
            continue  # the platform is there, a device is not
        tried += 1
        context.setPositions(case.structure.positions * ANGSTROM_TO_NM)
        state = context.getState(getEnergy=True, getForces=True)
        energy = state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL
        forces = state.getForces(asNumpy=True)._value / (EV_TO_KJ_PER_MOL * NM_TO_ANGSTROM)
        if precision == "double":
            case.check("float64", energy=energy, forces=forces)
        else:  # a total energy of -1e5 kJ/mol has few digits behind the point in float32
            np.testing.assert_allclose(energy, float(case.expected["float64"]["energy"]), rtol=1e-6)
            np.testing.assert_allclose(forces, case.expected["float64"]["forces"], atol=1e-4)
    if not tried:
        pytest.skip("no GPU platform of OpenMM works on this machine")
