"""Free energy from the classical force field to the model along ``lambda_interpolate``, in outline.

python examples/openmm/free_energy.py model.pt [steps per window]

Thermodynamic integration, ``dF = int_0^1 <dU/dlambda> dlambda``, for the molecule of ``ligand_in_water.py``. The same
in vacuum, subtracted, corrects a classical solvation free energy. Real use: more windows and samples, and their errors.
"""

from __future__ import annotations

import sys

import numpy as np
import openmm
from ligand_in_water import solvated
from openmm import unit
from openmmml import MLPotential

from mindscaip.engines.openmm import openmm_errors
from mindscaip.errors import MindscaipError

PARAMETER = "lambda_interpolate"


def main(model: str, steps: int = 2000, windows: int = 5, samples: int = 10) -> float:
    """Print ``<dU/dlambda>`` of each window; returns the free energy in kJ/mol."""
    topology, positions, classical, region = solvated()
    system = MLPotential("mindscaip", modelPath=model).createMixedSystem(topology, classical, region, interpolate=True)
    for force in system.getForces():
        if isinstance(force, openmm.CustomCVForce):
            force.addEnergyParameterDerivative(PARAMETER)
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond)
    context = openmm.Context(system, integrator)
    context.setPositions(positions)
    means = []
    points = np.linspace(0.0, 1.0, windows)
    with openmm_errors():
        context.setParameter(PARAMETER, 0.0)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=20)
        context.setVelocitiesToTemperature(300 * unit.kelvin)
        for point in points:
            context.setParameter(PARAMETER, point)
            integrator.step(steps // 5)  # to equilibrate
            derivatives = []
            for _ in range(samples):
                integrator.step(max(1, steps // samples))
                state = context.getState(parameterDerivatives=True)
                derivatives.append(state.getEnergyParameterDerivatives()[PARAMETER])
            means.append(float(np.mean(derivatives)))
            print(f"lambda {point:.2f}: <dU/dlambda> {means[-1]:12.3f} kJ/mol")
    free_energy = float(np.trapezoid(means, points))
    print(f"free energy from the force field to the model: {free_energy:.3f} kJ/mol")
    return free_energy


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        main(sys.argv[1], *map(int, sys.argv[2:]))
    except MindscaipError as error:
        sys.exit(f"error: {error}")
