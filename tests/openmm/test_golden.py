"""The golden files through OpenMM, at the start and over a few steps of NVE."""

import numpy as np
import pytest

from mindscaip.engines.batched import evaluate
from tests.golden.cases import DTYPES, GoldenCase, golden_cases, model_path

mm = pytest.importorskip("openmm", reason="openmm is not installed: pip install 'mindscaip[openmm]'")
pytest.importorskip("openmmtorch", reason="openmmtorch is not installed: pip install 'mindscaip[openmm]'")

from mindscaip.engines import openmm as engine  # noqa: E402
from mindscaip.units import ANGSTROM_TO_NM, EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM  # noqa: E402

CASES = golden_cases()


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_energy_and_forces(case: GoldenCase, dtype: str, platform: str) -> None:
    structure = case.structure
    assert structure.pbc.all() or not structure.pbc.any()
    periodic = bool(structure.pbc.all())
    system = mm.System()
    for _ in structure.numbers:
        system.addParticle(1.0)
    force = engine.torch_force(model_path(dtype), structure.numbers, periodic=periodic)
    if periodic:
        box, rotation = engine.openmm_box(structure.cell)
        assert np.array_equal(rotation, np.eye(3)), "golden cells stand in OpenMM's orientation"
        system.setDefaultPeriodicBoxVectors(*(mm.Vec3(*row) for row in box * ANGSTROM_TO_NM))
    system.addForce(force)
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(platform))
    context.setPositions(structure.positions * ANGSTROM_TO_NM)
    # TorchScript recompiles after the first calls, which is looked at where it is cheap.
    for _ in range(3 if case.name == CASES[0].name and platform == "CPU" else 1):
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
