"""What the tests of the OpenMM engine share: topologies, one evaluation in OpenMM, the same in ASE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm as mm
from openmm import app, unit

from mindscaip.data.structure import Structure
from mindscaip.engines import openmm as engine
from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.units import ANGSTROM_TO_NM, EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM

FORCE_TO_EV_PER_ANGSTROM = 1.0 / (EV_TO_KJ_PER_MOL * NM_TO_ANGSTROM)


def topology_of(structure: Structure) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for number, symbol in zip(structure.numbers, structure.symbols, strict=True):
        topology.addAtom(symbol, app.Element.getByAtomicNumber(int(number)), residue)
    if structure.pbc.all():
        box, rotation = engine.openmm_box(structure.cell)
        assert np.array_equal(rotation, np.eye(3))
        topology.setPeriodicBoxVectors([mm.Vec3(*row) for row in box * ANGSTROM_TO_NM] * unit.nanometer)
    return topology


def energy_and_forces(system: mm.System, positions: np.ndarray, platform: str) -> tuple[float, np.ndarray]:
    """eV and eV/A at positions in A."""
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(platform))
    context.setPositions(positions * ANGSTROM_TO_NM)
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / EV_TO_KJ_PER_MOL
    return energy, state.getForces(asNumpy=True)._value * FORCE_TO_EV_PER_ANGSTROM


def ase_results(structure: Structure, model: Path) -> tuple[float, np.ndarray]:
    atoms = structure.to_ase()
    atoms.calc = MindscaipCalculator(model)
    return atoms.get_potential_energy(), atoms.get_forces()
