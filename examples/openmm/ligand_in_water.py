"""A molecule by a model.pt in classical water: openmm-ml's mixed system, AMBER and TIP3P around it.

python examples/openmm/ligand_in_water.py model.pt [steps]

The molecule is acetyl-alanine-N-methylamide, whose classical parameters OpenMM's own AMBER files hold. For a molecule
that they do not know, give ForceField templates of your own (openmmforcefields makes them).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential

from mindscaip.engines.openmm import openmm_errors
from mindscaip.errors import MindscaipError

PDB = Path(__file__).with_name("alanine-dipeptide.pdb")


def solvated(edge_nm: float = 2.2) -> tuple[app.Topology, np.ndarray, openmm.System, list[int]]:
    """Topology, positions (nm), classical System and the indices of the molecule."""
    pdb = app.PDBFile(str(PDB))
    forcefield = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(forcefield, boxSize=openmm.Vec3(edge_nm, edge_nm, edge_nm) * unit.nanometer)
    classical = forcefield.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=1 * unit.nanometer, rigidWater=True
    )
    region = [atom.index for atom in modeller.topology.atoms() if atom.residue.name in ("ACE", "ALA", "NME")]
    return modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer)), classical, region


def main(model: str, steps: int = 2000) -> float:
    """Run at 300 K and 1 bar; returns the last potential energy in kJ/mol."""
    topology, positions, classical, region = solvated()
    system = MLPotential("mindscaip", modelPath=model).createMixedSystem(topology, classical, region)
    system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 25))
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond)
    simulation = app.Simulation(topology, system, integrator)
    with openmm_errors():
        simulation.context.setPositions(positions)
        simulation.minimizeEnergy(maxIterations=20)
        simulation.context.setVelocitiesToTemperature(300 * unit.kelvin)
        simulation.reporters.append(
            app.StateDataReporter(sys.stdout, max(1, steps // 10), time=True, potentialEnergy=True, temperature=True)
        )
        simulation.step(steps)
        energy = simulation.context.getState(energy=True).getPotentialEnergy()
    return energy.value_in_unit(unit.kilojoule_per_mole)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        main(sys.argv[1], *map(int, sys.argv[2:]))
    except MindscaipError as error:
        sys.exit(f"error: {error}")
