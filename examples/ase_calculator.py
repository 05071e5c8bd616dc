"""A model.pt as an ASE calculator: energy, forces and a geometry optimisation.

python examples/ase_calculator.py model.pt molecule.xyz
"""

from __future__ import annotations

import sys

import numpy as np
from ase.io import read
from ase.optimize import BFGS

from mindscaip.engines.ase import MindscaipCalculator


def main(model: str, file: str, steps: int = 50) -> None:
    """Print energy and largest force of ``file`` (any format of ASE) before and after ``steps`` of BFGS."""
    atoms = read(file)
    atoms.calc = MindscaipCalculator(model)
    for when in ("as read", "optimised"):
        energy = atoms.get_potential_energy()
        largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
        print(f"{when:>10}: energy {energy:.6f} eV, largest force {largest:.4f} eV/A")
        if when == "as read":
            BFGS(atoms, logfile=None).run(fmax=0.01, steps=steps)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
