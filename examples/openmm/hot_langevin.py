"""Does a molecule survive heat? Langevin dynamics at high temperature, and the most stretched bond along it.

python examples/openmm/hot_langevin.py model.pt molecule.xyz [steps [kelvin]]
"""

from __future__ import annotations

import sys

import numpy as np
import openmm
from ase.data import covalent_radii
from ase.io import read
from openmm import unit

from mindscaip.data.structure import Structure
from mindscaip.engines.openmm import create_system, openmm_errors
from mindscaip.errors import MindscaipError
from mindscaip.units import ANGSTROM_TO_NM, NM_TO_ANGSTROM

BROKEN = 2.0
"""A bond this many times as long as at the start is broken."""


def bonds_of(structure: Structure) -> np.ndarray:
    """Pairs of atoms closer than 1.25 times the sum of their covalent radii, ``[B, 2]``."""
    radii = covalent_radii[structure.numbers]
    distances = np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=2)
    return np.argwhere(np.triu(distances < 1.25 * (radii[:, None] + radii[None]), 1))


def main(model: str, file: str, steps: int = 20000, kelvin: float = 1000.0) -> float | None:
    """Print temperature and largest stretch; returns the time in ps at which a bond broke, or None."""
    structure = Structure.from_ase(read(file))
    i, j = bonds_of(structure).T
    start = np.linalg.norm(structure.positions[i] - structure.positions[j], axis=1)
    integrator = openmm.LangevinMiddleIntegrator(kelvin * unit.kelvin, 10 / unit.picosecond, 0.5 * unit.femtosecond)
    context = openmm.Context(create_system(structure.numbers, model), integrator)
    context.setPositions(structure.positions * ANGSTROM_TO_NM)
    context.setVelocitiesToTemperature(kelvin * unit.kelvin)
    every = max(1, steps // 20)
    for _ in range(0, steps, every):
        with openmm_errors():
            integrator.step(every)
            state = context.getState(positions=True, energy=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) * NM_TO_ANGSTROM
        stretch = (np.linalg.norm(positions[i] - positions[j], axis=1) / start).max() if len(start) else 0.0
        time = state.getTime().value_in_unit(unit.picosecond)
        temperature = 2 * state.getKineticEnergy() / (3 * len(structure) * unit.MOLAR_GAS_CONSTANT_R)
        print(f"{time:8.3f} ps  {temperature.value_in_unit(unit.kelvin):7.0f} K  longest bond x {stretch:.2f}")
        if stretch > BROKEN:
            print(f"a bond broke by {time:.3f} ps")
            return time
    print("all bonds held")
    return None


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4, 5):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:3], *map(int, sys.argv[3:]))
    except MindscaipError as error:
        sys.exit(f"error: {error}")
