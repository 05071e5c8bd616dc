"""Errors of predictions against labels, defined once.

With ``dE = E_model - E_label`` of a structure of ``N`` atoms:

``energy``
    ``dE / N`` per structure, meV/atom
``energy_*_shifted``
    the same after the per-element constants that fit best were removed: ``dE - sum_Z n_Z c_Z`` with ``n_Z`` the number
    of atoms of element ``Z`` and ``c`` the least-squares solution of ``sum_Z (n_Z / N) c_Z = dE / N`` over *all*
    structures (the smallest where there are many). Potentials count energies from different zeros, and this is what
    is left of the difference; where all structures have one composition it removes the mean of ``dE``.
``forces``
    components, meV/A
``stress``
    the nine components, meV/A^3

Of elements, ``forces`` are over the atoms of the element, energy and stress over the structures that hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mindscaip.data.structure import MAX_ATOMIC_NUMBER, Structure
from mindscaip.errors import MindscaipError
from mindscaip.units import EV_TO_MEV

if TYPE_CHECKING:
    from mindscaip.engines.batched import Prediction


def error_statistics(structures: Sequence[Structure], predictions: Sequence[Prediction]) -> dict[str, float]:
    """MAE and RMSE: ``energy_*`` per atom in meV/atom, ``forces_*`` over components in meV/A, ``stress_*`` in meV/A^3.

    The stress is left out unless some structure has a label and the model a stress.

    Raises:
        MindscaipError: no structures, or one without energy or forces.
    """
    errors = ErrorTable()
    for index, (structure, prediction) in enumerate(zip(structures, predictions, strict=True)):
        if structure.forces is None:
            raise MindscaipError(f"structure {index} has no energy or no forces to compare with")
        errors.add(structure, prediction, where=f"structure {index}")
    found = errors.overall()
    return {name: value for name, value in found.items() if not name.endswith("_shifted")}


class ErrorTable:
    """Errors of one potential, gathered structure by structure, of all and of any part of the structures.

    Memory does not grow with the number of atoms: a structure leaves its energies and sums of its other errors.
    """

    def __init__(self) -> None:
        self._energy: list[tuple[float, float]] = []
        self._sums: list[tuple[float, float, int, float, float, int]] = []
        self._composition: list[int] = []
        self._compositions: dict[bytes, int] = {}
        self._counts: list[np.ndarray] = []
        self._by_element = np.zeros((3, MAX_ATOMIC_NUMBER + 1))
        self._stacked: np.ndarray | None = None
        self._gathered: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._energy)

    def add(self, structure: Structure, prediction: Prediction, where: str = "a structure") -> None:
        """Take in one structure; forces and stress where both label and prediction are there.

        Raises:
            MindscaipError: it has no energy.
        """
        if structure.energy is None:
            raise MindscaipError(f"{where} has no energy or no forces to compare with")
        self._energy.append((structure.energy, prediction.energy))
        counts = np.bincount(structure.numbers, minlength=MAX_ATOMIC_NUMBER + 1)
        index = self._compositions.setdefault(counts.tobytes(), len(self._compositions))
        if index == len(self._counts):
            self._counts.append(counts)
        self._composition.append(index)
        forces, stress = (0.0, 0.0, 0), (0.0, 0.0, 0)
        if structure.forces is not None:
            difference = prediction.forces - structure.forces
            forces = _sums(difference)
            for row, values in enumerate(
                (np.abs(difference).sum(1), (difference**2).sum(1), np.full(len(structure), 3))
            ):
                self._by_element[row] += np.bincount(structure.numbers, values, minlength=MAX_ATOMIC_NUMBER + 1)
        if structure.stress is not None and prediction.stress is not None:
            stress = _sums(prediction.stress - structure.stress)
        self._sums.append((*forces, *stress))

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur."""
        return np.flatnonzero(self._table().sum(0)).tolist()

    def overall(self) -> dict[str, float]:
        """Errors of all structures.

        Raises:
            MindscaipError: there are none.
        """
        return self.of(np.arange(len(self)))

    def of(self, chosen: np.ndarray) -> dict[str, float]:
        """Errors of some structures by their numbers (in the order in which they came) or a mask.

        Keys: ``energy_mae``, ``energy_rmse``, ``energy_mae_shifted``, ``energy_rmse_shifted``, and where there are
        labels ``forces_mae``, ``forces_rmse``, ``stress_mae``, ``stress_rmse``.

        Raises:
            MindscaipError: none is chosen.
        """
        difference, shift, sums = self._gather()
        energy = difference[chosen]
        if not len(energy):
            raise MindscaipError("there are no structures to evaluate on")
        errors = _mae_and_rmse("energy", *_sums(energy))
        shifted = _mae_and_rmse("energy", *_sums(energy - shift[chosen]))
        errors |= {f"{name}_shifted": value for name, value in shifted.items()}
        total = sums[chosen].sum(0)
        return errors | _mae_and_rmse("forces", *total[:3]) | _mae_and_rmse("stress", *total[3:])

    def of_element(self, number: int) -> dict[str, float]:
        """Errors of an element: forces of its atoms, energy and stress of the structures that hold it."""
        holds = (self._table()[:, number] > 0)[self._index()]
        errors = {name: value for name, value in self.of(holds).items() if not name.startswith("forces")}
        return errors | _mae_and_rmse("forces", *self._by_element[:, number])

    def atoms_of(self, number: int) -> int:
        """How many atoms of an element there are."""
        return int(self._table()[:, number][self._index()].sum())

    def structures_with(self, number: int) -> int:
        """How many structures hold an element."""
        return int((self._table()[:, number] > 0)[self._index()].sum())

    def energies(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Label and prediction, eV, and the number of atoms, of every structure."""
        table = np.array(self._energy).reshape(-1, 2)
        return table[:, 0], table[:, 1], self._atoms()

    def relative_energies(self) -> tuple[np.ndarray, np.ndarray]:
        """Label and prediction per atom (eV) over the per-element constants that fit the *labels* best."""
        label, prediction, atoms = self.energies()
        base = self._fit(label / atoms)
        return label / atoms - base, prediction / atoms - base

    def shift(self) -> np.ndarray:
        """What is removed from the prediction per atom of each structure in the shifted errors, eV."""
        return self._gather()[1]

    def _gather(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every structure: ``dE / N`` and its shift (eV), and sums and numbers of the other errors."""
        if self._gathered is None or self._gathered[0] != len(self):
            label, prediction, atoms = self.energies()
            difference = (prediction - label) / atoms
            shift = self._fit(difference) if len(difference) else difference
            self._gathered = (len(self), difference, shift, np.array(self._sums).reshape(-1, 6))
        return self._gathered[1:]

    def _fit(self, per_atom: np.ndarray) -> np.ndarray:
        """Least squares of ``per_atom`` by the share of each element, at each structure.

        Structures of one composition are one row of the equations, weighted by their number.
        """
        share = self._table() / self._table().sum(1, keepdims=True)
        index = self._index()
        number = np.bincount(index, minlength=len(share))
        mean = np.bincount(index, per_atom, minlength=len(share)) / number
        weight = np.sqrt(number)
        constants = np.linalg.lstsq(share * weight[:, None], mean * weight, rcond=1e-10)[0]
        return (share @ constants)[index]

    def _table(self) -> np.ndarray:
        """Atoms of each element in each composition, float64 ``[C, 119]``."""
        if self._stacked is None or len(self._stacked) != len(self._counts):
            self._stacked = np.array(self._counts, dtype=np.float64).reshape(-1, MAX_ATOMIC_NUMBER + 1)
        return self._stacked

    def _index(self) -> np.ndarray:
        """The composition of each structure."""
        return np.array(self._composition, dtype=np.int64)

    def _atoms(self) -> np.ndarray:
        return self._table().sum(1)[self._index()]


def _sums(values: np.ndarray) -> tuple[float, float, int]:
    """Of magnitudes, of squares, and the number."""
    return float(np.abs(values).sum()), float((values**2).sum()), values.size


def _mae_and_rmse(name: str, magnitudes: float, squares: float, count: float) -> dict[str, float]:
    if not count:
        return {}
    return {
        f"{name}_mae": float(magnitudes / count) * EV_TO_MEV,
        f"{name}_rmse": float(np.sqrt(squares / count)) * EV_TO_MEV,
    }
