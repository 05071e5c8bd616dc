"""One atomic structure with its labels: the currency between files, stores, graphs and engines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from mindscaip.errors import MindscaipError

MAX_ATOMIC_NUMBER = 118


@dataclass
class Structure:
    """Atoms, cell and (optional) reference labels, in internal units.

    Attributes:
        numbers: atomic numbers, int64 ``[N]``.
        positions: Cartesian positions in A, float64 ``[N, 3]``.
        cell: lattice vectors as rows in A, float64 ``[3, 3]``; zeros where the structure is not periodic.
        pbc: periodic along each lattice vector, bool ``[3]``.
        energy: total energy in eV, or None.
        forces: eV/A, float64 ``[N, 3]``, or None.
        stress: eV/A^3 in ASE's sign (positive under tension), float64 ``[3, 3]``, or None.
        group: name of what it belongs to (molecule, subset); splits never cut through a group when asked not to.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    group: str = ""

    def __post_init__(self) -> None:
        self.numbers = np.asarray(self.numbers, dtype=np.int64).reshape(-1)
        self.positions = np.asarray(self.positions, dtype=np.float64)
        self.cell = np.asarray(self.cell, dtype=np.float64)
        self.pbc = np.asarray(self.pbc, dtype=bool)
        n = len(self.numbers)
        self._check_shape("positions", self.positions, (n, 3))
        self._check_shape("cell", self.cell, (3, 3))
        self._check_shape("pbc", self.pbc, (3,))
        if n and not 1 <= self.numbers.min() <= self.numbers.max() <= MAX_ATOMIC_NUMBER:
            bad = (self.numbers < 1) | (self.numbers > MAX_ATOMIC_NUMBER)
            raise MindscaipError(f"atomic number {self.numbers[bad][0]} is not an element (1 to {MAX_ATOMIC_NUMBER})")
        if self.forces is not None:
            self.forces = np.asarray(self.forces, dtype=np.float64)
            self._check_shape("forces", self.forces, (n, 3))
        if self.stress is not None:
            self.stress = np.asarray(self.stress, dtype=np.float64)
            self._check_shape("stress", self.stress, (3, 3))
        if self.energy is not None:
            self.energy = float(self.energy)
        for name in ("positions", "cell"):
            # A sum is finite only if every summand is; it costs half of looking at each.
            values = getattr(self, name)
            if not math.isfinite(values.sum()) and not np.isfinite(values).all():
                raise MindscaipError(f"{name} of a structure hold a value that is not finite; repair the input file")
        if self.pbc.any() and abs(np.linalg.det(self.full_cell())) < 1e-9:
            raise MindscaipError("a periodic structure needs linearly independent lattice vectors along pbc")

    @staticmethod
    def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise MindscaipError(f"{name} has shape {array.shape}, expected {shape}")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def symbols(self) -> list[str]:
        return [chemical_symbols[z] for z in self.numbers]

    def full_cell(self) -> np.ndarray:
        """The cell with unit vectors (orthogonal where possible) in place of zero rows, for volumes and inverses."""
        from ase.geometry.cell import complete_cell

        return complete_cell(self.cell)

    @classmethod
    def from_ase(cls, atoms: Atoms, *, group: str = "") -> Structure:
        """Take over an ``ase.Atoms`` with the labels of its single-point calculator, if it has one."""
        energy = forces = stress = None
        if atoms.calc is not None:
            results = atoms.calc.results
            energy = results.get("energy")
            forces = results.get("forces")
            if results.get("stress") is not None:
                stress = atoms.get_stress(voigt=False)
        return cls(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=np.asarray(atoms.cell),
            pbc=atoms.pbc,
            energy=energy,
            forces=forces,
            stress=stress,
            group=group,
        )

    def to_ase(self) -> Atoms:
        """Return ``ase.Atoms`` with a single-point calculator that holds the labels."""
        atoms = Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)
        results = {"energy": self.energy, "forces": self.forces}
        if self.stress is not None:
            results["stress"] = self.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        results = {key: value for key, value in results.items() if value is not None}
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms
