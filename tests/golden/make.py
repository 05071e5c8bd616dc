"""Write the golden files: two small models with random weights, and what they say of six structures.

Run as ``python -m tests.golden.make``. Expected values come from the eager model, not from the exported file,
so that the export is tested as well. ``model-before-stages.pt`` is not written: it is a file of the first version,
which engines still run on one rank.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from mindscaip.data.structure import Structure
from mindscaip.export import export_model
from tests.models import ELEMENTS, energy_forces_virial, ethanol, random_structure, small_model

FOLDER = Path(__file__).parent
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def structures() -> dict[str, Structure]:
    liquid = random_structure(60, box=9.0, seed=11)
    outside = liquid.positions.copy()
    outside[::7] += [18.0, -9.0, 0.0]  # some atoms stand in other cells
    periodic = [True] * 3
    molecule = ethanol()
    return {
        "molecule": molecule,
        "molecule in a large box": Structure(molecule.numbers, molecule.positions + 19.0, np.eye(3) * 40.0, periodic),
        "periodic liquid": Structure(liquid.numbers, outside, liquid.cell, periodic),
        "triclinic cell smaller than the cutoff": Structure(
            [6, 8], [[0.2, 0.1, 0.3], [1.7, 1.9, 1.6]], [[3.1, 0, 0], [0.9, 3.3, 0], [-1.1, 0.7, 3.5]], periodic
        ),
        "single atom": Structure([8], [[0.3, -0.2, 5.0]]),
        "two atoms beyond the cutoff": Structure([6, 8], [[0.0, 0, 0], [0, 0, 30.0]]),
    }


def main() -> None:
    cases = {}
    for name, structure in structures().items():
        expected = {}
        for dtype, torch_dtype in DTYPES.items():
            energies, forces, virial = energy_forces_virial(small_model(dtype=torch_dtype, seed=7), structure)
            expected[dtype] = {
                "energy": float(energies.sum()),
                "atom_energies": energies.tolist(),
                "forces": forces.tolist(),
                "virial": virial.tolist(),
            }
        cases[name] = {
            "numbers": structure.numbers.tolist(),
            "positions": structure.positions.tolist(),
            "cell": structure.cell.tolist(),
            "pbc": structure.pbc.tolist(),
            "expected": expected,
        }
    (FOLDER / "cases.json").write_text(json.dumps(cases) + "\n")
    for dtype in DTYPES:
        model = small_model(seed=7)
        metadata = {"kind": "random weights", "made_by": "python -m tests.golden.make"}
        export_model(model, FOLDER / f"model-{dtype}.pt", elements=ELEMENTS, k=model.k, dtype=dtype, metadata=metadata)


if __name__ == "__main__":
    main()
