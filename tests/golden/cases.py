"""The golden cases: structures with the energies, forces and virials that every engine has to give."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindscaip.data.structure import Structure

FOLDER = Path(__file__).parent
DTYPES = ("float64", "float32")
# eV/atom, eV/A, eV. The virial of the float32 model sums forces of 1e-5 eV/A over distances of A.
TOLERANCES = {"float64": (1e-9, 1e-8, 1e-8), "float32": (1e-6, 1e-5, 1e-4)}


@dataclass(frozen=True)
class GoldenCase:
    """One structure; ``expected[dtype]`` holds energy, atom_energies, forces and virial."""

    name: str
    structure: Structure
    expected: dict[str, dict[str, np.ndarray]]

    def check(
        self,
        dtype: str,
        *,
        energy: float | None = None,
        atom_energies: np.ndarray | None = None,
        forces: np.ndarray | None = None,
        virial: np.ndarray | None = None,
    ) -> None:
        """Compare what is given; a symmetric ``virial`` is compared with the symmetric part of the expected one."""
        expected = self.expected[dtype]
        energy_tolerance, force_tolerance, virial_tolerance = TOLERANCES[dtype]
        if energy is not None:
            assert abs(energy - float(expected["energy"])) <= energy_tolerance * len(self.structure)
        if atom_energies is not None:
            assert np.abs(atom_energies - expected["atom_energies"]).max() <= energy_tolerance
        if forces is not None:
            assert np.abs(forces - expected["forces"]).max() <= force_tolerance
        if virial is not None:
            wanted = expected["virial"]
            if np.array_equal(virial, virial.T):
                wanted = 0.5 * (wanted + wanted.T)
            assert np.abs(virial - wanted).max() <= virial_tolerance


def model_path(dtype: str) -> Path:
    return FOLDER / f"model-{dtype}.pt"


OLDER_MODEL = FOLDER / "model-before-stages.pt"
"""A file of the first version, without the stages by which several ranks share a model."""


def golden_cases() -> list[GoldenCase]:
    raw = json.loads((FOLDER / "cases.json").read_text())
    assert len(raw) == 6
    return [
        GoldenCase(
            name,
            Structure(case["numbers"], case["positions"], case["cell"], case["pbc"]),
            {
                dtype: {key: np.asarray(value) for key, value in values.items()}
                for dtype, values in case["expected"].items()
            },
        )
        for name, case in raw.items()
    ]
