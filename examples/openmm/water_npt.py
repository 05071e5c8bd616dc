"""Periodic water at 300 K and 1 bar with a model.pt: Langevin dynamics and a Monte Carlo barostat.

python examples/openmm/water_npt.py model.pt [steps]
"""

from __future__ import annotations

import sys

import openmm
from openmm import app, unit

from mindscaip.contract import load_exported
from mindscaip.engines.openmm import create_system, openmm_errors, precision_of
from mindscaip.errors import MindscaipError


def main(model: str, steps: int = 2000, edge_nm: float = 1.25) -> float:
    """Print the density along the run; returns the last one in g/cm^3."""
    exported = load_exported(model)
    # OpenMM's own water places the molecules; from here on the model alone moves them.
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(app.ForceField("tip3p.xml"), boxSize=openmm.Vec3(edge_nm, edge_nm, edge_nm) * unit.nanometer)

    system = create_system(modeller.topology, exported)
    system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 25))
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond)
    simulation = app.Simulation(modeller.topology, system, integrator)
    with openmm_errors():
        simulation.context.setPositions(modeller.positions)
        simulation.minimizeEnergy(maxIterations=10)
        simulation.context.setVelocitiesToTemperature(300 * unit.kelvin)
        print(f"{system.getNumParticles()} atoms on {precision_of(simulation.context, system.getForce(0), exported)}")
        every = max(1, steps // 10)
        simulation.reporters.append(
            app.StateDataReporter(sys.stdout, every, time=True, temperature=True, density=True, separator="\t")
        )
        simulation.step(steps)
    mass = sum((system.getParticleMass(i) for i in range(system.getNumParticles())), 0 * unit.dalton)
    volume = simulation.context.getState().getPeriodicBoxVolume()
    density = (mass / volume).value_in_unit(unit.gram / unit.item / unit.centimeter**3)
    print(f"density {density:.4f} g/cm^3")
    return density


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        main(sys.argv[1], *map(int, sys.argv[2:]))
    except MindscaipError as error:
        sys.exit(f"error: {error}")
