"""Run what serialise.py wrote; needs torch, openmm and openmmtorch, and not mindscaip.

python examples/openmm/run_elsewhere.py [folder [steps]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch  # noqa: F401  first: openmm's torch plugin needs the libraries that it loads

import openmm  # isort: skip
import openmmtorch  # noqa: F401  isort: skip


def main(folder: str = ".", steps: int = 100) -> None:
    """Constant energy, 0.5 fs: print the energies along the run."""
    system = openmm.XmlSerializer.deserialize((Path(folder) / "system.xml").read_text())
    state = openmm.XmlSerializer.deserialize((Path(folder) / "state.xml").read_text())
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(state.getPositions())
    context.setVelocities(state.getVelocities())
    for done in range(0, steps + 1, max(1, steps // 10)):
        now = context.getState(energy=True)
        print(f"step {done:6d}  potential {now.getPotentialEnergy()}  kinetic {now.getKineticEnergy()}")
        integrator.step(max(1, steps // 10))


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit(__doc__)
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
