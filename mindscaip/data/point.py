"""Energy and forces of one geometry: what every reference calculator is, and how it fails.

ASE's language and units: eV, eV/A, Angstrom.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.data import ground_state_magnetic_moments

from mindscaip.errors import MindscaipError


class CalculationError(MindscaipError):
    """A calculator found no answer for one geometry (no self-consistency, a value that is not finite).

    The geometry is at fault, not the input as a whole: whoever labels many geometries records it and goes on.
    """


class PointCalculator(Calculator):
    """A calculator whose results all come from one calculation, :meth:`_compute`."""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results``; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise MindscaipError("the calculator was given no atoms; call it through an ase.Atoms object")
        self.results = self._compute(self.atoms)

    def _compute(self, atoms: Atoms) -> dict[str, Any]:
        """Results of ``atoms`` in ASE's units."""
        raise NotImplementedError


def single_point(calculator: BaseCalculator, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Return energy in eV and forces in eV/A, ``[N, 3]``.

    Raises:
        CalculationError: the calculator failed or gave a value that is not finite.
    """
    try:
        energy = float(calculator.get_property("energy", atoms))
        forces = np.array(calculator.get_property("forces", atoms), dtype=np.float64)
    except CalculationError:
        raise
    except Exception as error:
        raise CalculationError(f"the calculator failed with {type(error).__name__}: {error}") from error
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise CalculationError(f"the calculator gave a value that is not finite (energy {energy} eV)")
    return energy, forces


def unpaired_electrons(numbers: np.ndarray) -> int:
    """Number of unpaired electrons of a neutral system: the ground state of an atom, else 0 or 1 by parity."""
    numbers = np.asarray(numbers)
    if len(numbers) == 1:
        z = int(numbers[0])
        if 57 <= z <= 71:  # xTB has three valence electrons there: the f shell is in the core
            return 1
        return round(ground_state_magnetic_moments[z])
    return int(numbers.sum()) % 2
