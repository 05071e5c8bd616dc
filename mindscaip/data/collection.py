"""Structures of several files as one sequence: those of stores stay on disk, those of other files are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from ase.data import chemical_symbols

from mindscaip.data.store import Store
from mindscaip.data.structure import MAX_ATOMIC_NUMBER, Structure
from mindscaip.errors import MindscaipError

CHUNK = 512
"""Structures that are gathered at once: each may stand on other pages of the file."""
DIGITS = 4
"""Decimals of A within which positions count as equal."""


@dataclass(frozen=True)
class Rows:
    """Some structures as arrays: what statistics need, without an object per structure.

    Attributes:
        num_atoms: int64 ``[m]``.
        numbers: atomic numbers one structure after the other, uint8 ``[a]``.
        energies: eV, float64 ``[m]``, NaN where there is none.
        forces: eV/A, float64 ``[a, 3]``, NaN where there are none.
        positions: A, float64 ``[a, 3]``.
        cell: A, float64 ``[m, 3, 3]``, zero where a structure is not periodic.
    """

    num_atoms: np.ndarray
    numbers: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    positions: np.ndarray
    cell: np.ndarray

    def compositions(self) -> np.ndarray:
        """How often each element occurs in each structure, int64 ``[m, 119]``."""
        owner = np.repeat(np.arange(len(self.num_atoms)), self.num_atoms)
        width = MAX_ATOMIC_NUMBER + 1
        counts = np.bincount(owner * width + self.numbers, minlength=len(self.num_atoms) * width)
        return counts.reshape(len(self.num_atoms), width)

    def geometry_hashes(self) -> np.ndarray:
        """64 bits per structure from elements, positions and cell, each rounded to 1e-4 A, uint64 ``[m]``.

        Equal for copies, whatever the order of the atoms; copies that are moved or turned are not found.
        """
        with np.errstate(over="ignore"):
            word = _mix(self.numbers.astype(np.uint64))
            for axis in range(3):
                word = _mix(word + _rounded(self.positions[:, axis]))
            starts = np.cumsum(self.num_atoms) - self.num_atoms
            total = np.add.reduceat(word, starts) + self.num_atoms.astype(np.uint64)
            for entry in range(9):
                total = _mix(total + _rounded(self.cell.reshape(-1, 9)[:, entry]))
        return total


class Collection(Sequence[Structure]):
    """Structures by index, from lists and stores. Views are cheap: :meth:`select` copies indices only.

    Args:
        parts: lists of structures and open stores, one after the other.
        indices: which of them, and in which order; by default all.
    """

    def __init__(self, parts: Sequence[Sequence[Structure] | Store], indices: np.ndarray | None = None) -> None:
        self.parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.indices = np.arange(self._starts[-1]) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Structure: ...
    @overload
    def __getitem__(self, index: slice) -> Collection: ...
    def __getitem__(self, index: int | slice) -> Structure | Collection:
        """One structure, or the view of a slice."""
        if isinstance(index, slice):
            return self.select(self.indices[index])
        position = int(self.indices[index])
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self.parts[part][position - int(self._starts[part])]

    def select(self, indices: np.ndarray) -> Collection:
        """The view with other ``indices``, counted over all parts."""
        view = Collection.__new__(Collection)
        view.parts, view._starts, view.indices = self.parts, self._starts, np.asarray(indices, dtype=np.int64)
        return view

    @property
    def num_atoms(self) -> np.ndarray:
        """Atoms of each structure, int64 ``[M]``."""
        sizes = [
            part.num_atoms if isinstance(part, Store) else np.array([len(s) for s in part], dtype=np.int64)
            for part in self.parts
        ]
        return np.concatenate([*sizes, np.empty(0, np.int64)]).astype(np.int64)[self.indices]

    @property
    def groups(self) -> list[str]:
        """The group of each structure."""
        names: list[str] = []
        for part in self.parts:
            names += part.groups if isinstance(part, Store) else [structure.group for structure in part]
        return [names[i] for i in self.indices]

    def elements(self) -> list[str]:
        """Symbols of the elements present, by atomic number."""
        present = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=bool)
        for rows in self.rows():
            present[rows.numbers] = True
        return [chemical_symbols[z] for z in np.flatnonzero(present)]

    def rows(self) -> Iterator[Rows]:
        """All structures as arrays, some hundreds at a time; what was read is not kept in memory."""
        for start in range(0, len(self), CHUNK):
            yield self._gather(self.indices[start : start + CHUNK])
            self.release()

    def _gather(self, indices: np.ndarray) -> Rows:
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        pieces = []
        for cut in np.split(np.arange(len(indices)), np.flatnonzero(np.diff(owners)) + 1):
            part = self.parts[owners[cut[0]]]
            local = indices[cut] - self._starts[owners[cut[0]]]
            pieces.append(_store_rows(part, local) if isinstance(part, Store) else _list_rows(part, local))
        return Rows(*(np.concatenate([getattr(p, name) for p in pieces]) for name in Rows.__dataclass_fields__))

    def geometry_hashes(self) -> np.ndarray:
        """:meth:`Rows.geometry_hashes` of all structures, uint64 ``[M]``."""
        return np.concatenate([np.empty(0, np.uint64), *(rows.geometry_hashes() for rows in self.rows())])

    def release(self) -> None:
        """Give the memory of mapped pages back to the operating system (they are read again when asked for)."""
        for part in self.parts:
            if isinstance(part, Store):
                part.release()

    def count_stresses(self) -> int:
        """How many structures, of those that are periodic in all directions, have a stress."""
        labelled = [
            ~np.isnan(part.stresses).any(axis=(1, 2)) & part.pbc.astype(bool).all(axis=1)
            if isinstance(part, Store) and part.has_stress
            else np.zeros(len(part), dtype=bool)
            if isinstance(part, Store)
            else np.array([s.stress is not None and bool(s.pbc.all()) for s in part], dtype=bool)
            for part in self.parts
        ]
        return int(np.concatenate([*labelled, np.empty(0, dtype=bool)])[self.indices].sum())

    def check_labels(self) -> None:
        """Make sure that every structure has an energy and forces.

        Raises:
            MindscaipError: names the first that has not.
        """
        first = 0
        for rows in self.rows():
            without_energy = np.isnan(rows.energies)
            owner = np.repeat(np.arange(len(rows.num_atoms)), rows.num_atoms)
            without_forces = np.zeros(len(rows.num_atoms), dtype=bool)
            without_forces[owner[np.isnan(rows.forces[:, 0])]] = True
            bad = np.flatnonzero(without_energy | without_forces)
            if len(bad):
                missing = "energy" if without_energy[bad[0]] else "forces"
                raise MindscaipError(
                    f"structure {first + bad[0]} has no {missing} to train on; label the data or name the keys"
                )
            first += len(rows.num_atoms)


def geometry_hash(structure: Structure) -> int:
    """:meth:`Rows.geometry_hashes` of one structure."""
    return int(_list_rows([structure], np.zeros(1, dtype=np.int64)).geometry_hashes()[0])


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 10**DIGITS).astype(np.int64).view(np.uint64)


def _mix(word: np.ndarray) -> np.ndarray:
    """Spread every bit over all 64 (the finaliser of SplitMix64)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _store_rows(store: Store, indices: np.ndarray) -> Rows:
    starts = store.offsets[indices]
    sizes = store.offsets[indices + 1] - starts
    total = int(sizes.sum())
    atoms = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(total)
    forces = store.forces
    return Rows(
        num_atoms=sizes,
        numbers=store.numbers[atoms],
        energies=np.asarray(store.energies[indices]),
        forces=np.full((total, 3), np.nan) if forces is None else forces[atoms],
        positions=store.positions[atoms],
        cell=np.where(store.pbc[indices].any(axis=1)[:, None, None], store.cells[indices], 0.0),
    )


def _list_rows(structures: Sequence[Structure], indices: np.ndarray) -> Rows:
    some = [structures[i] for i in indices]
    return Rows(
        num_atoms=np.array([len(s) for s in some], dtype=np.int64),
        numbers=np.concatenate([s.numbers for s in some]).astype(np.uint8),
        energies=np.array([np.nan if s.energy is None else s.energy for s in some], dtype=np.float64),
        forces=np.concatenate([np.full((len(s), 3), np.nan) if s.forces is None else s.forces for s in some]),
        positions=np.concatenate([s.positions for s in some]),
        cell=np.stack([s.cell if s.pbc.any() else np.zeros((3, 3)) for s in some]),
    )
