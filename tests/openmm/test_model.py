"""A MinDScAIP model in OpenMM beyond the first call: repeated evaluations and a few steps of NVE."""

import numpy as np
import pytest

from mindscaip.engines.batched import evaluate
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
