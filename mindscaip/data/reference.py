"""Per-element reference energies and the scale of the forces: what a model adds to and divides out of its output.

``E = sum_i E0(Z_i) + E_model``: with a good ``E0`` the model learns only the binding, a few eV per atom instead of
thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from mindscaip.data.collection import Collection
from mindscaip.data.formats import STORE_SUFFIXES, read_structures
from mindscaip.data.store import Store
from mindscaip.data.structure import MAX_ATOMIC_NUMBER, Structure
from mindscaip.errors import MindscaipError

_KEYS = 2 * np.random.default_rng(0).integers(0, 2**62, MAX_ATOMIC_NUMBER + 1).astype(np.uint64) + np.uint64(1)


def read_isolated_energies(path: str | Path, *, energy_key: str | None = None) -> dict[str, float]:
    """Return the energy of the isolated atom in eV by element symbol.

    Args:
        path: an extended XYZ file with one atom per frame, or a store that holds isolated-atom energies.
        energy_key: name of the energy in the comment line where it is not one of the known names.

    Raises:
        MindscaipError: a frame with several atoms, an element given twice with different energies, a store without
            isolated-atom energies.
    """
    path = Path(path)
    if path.suffix.lower() in STORE_SUFFIXES:
        with Store(path) as store:
            if not store.isolated_energies:
                raise MindscaipError(
                    f"{path} holds no isolated-atom energies; give them as an .xyz file of single atoms"
                )
            return dict(store.isolated_energies)
    energies: dict[str, float] = {}
    for frame, structure in enumerate(read_structures(path, energy_key=energy_key, labels="optional")):
        if len(structure) != 1:
            raise MindscaipError(
                f"frame {frame} of {path} has {len(structure)} atoms; isolated atoms come one per frame"
            )
        symbol = structure.symbols[0]
        if structure.energy is None:
            raise MindscaipError(f"frame {frame} of {path} ({symbol}) has no energy; name it with energy_key")
        if energies.setdefault(symbol, structure.energy) != structure.energy:
            raise MindscaipError(
                f"{path} gives {symbol} twice, with {energies[symbol]} and {structure.energy} eV; keep one"
            )
    return energies


def reference_energies(
    structures: Iterable[Structure],
    isolated: Mapping[str, float] | None = None,
    *,
    subtract: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the reference energy in eV of every element in ``structures``.

    Isolated-atom energies are taken as they are. Without them, the energies are the least-squares solution of
    ``sum_Z n_Z E0(Z) = E`` over the structures (give the training part only). Compositions often do not determine it
    (one molecule; CH2 and C2H4): then, among the solutions that fit equally well, the one with the smallest deviation
    from the mean energy per atom is returned, so that no element takes an extreme value.

    Args:
        structures: with energies, unless ``isolated`` is given; a stream or a
            :class:`~mindscaip.data.collection.Collection`, of which some hundreds are in memory at a time.
        isolated: energy of the isolated atom by symbol, at the level of theory of the structures.
        subtract: energies per element that are taken off the structures' energies before the fit.

    Raises:
        MindscaipError: an element that ``isolated`` lacks; a structure without energy; no structures.
    """
    fit = _CompositionFit()
    if isinstance(structures, Collection):
        for rows in structures.rows():
            fit.add_rows(rows.compositions(), rows.energies, energy_needed=isolated is None)
    else:
        for structure in structures:
            fit.add(structure, energy_needed=isolated is None)
    if fit.count == 0:
        raise MindscaipError("there are no structures to take reference energies from; the training part is empty")
    if isolated is None:
        return fit.solve(subtract or {})
    missing = [symbol for symbol in fit.elements() if symbol not in isolated]
    if missing:
        raise MindscaipError(
            f"there is no isolated-atom energy for {', '.join(missing)}; add it, or let reference energies be "
            "fitted to the training part (data.isolated=none)"
        )
    return {symbol: float(isolated[symbol]) for symbol in fit.elements()}


@dataclass
class _CompositionFit:
    """Least squares of energies on compositions, accumulated over the distinct compositions of a stream."""

    count: int = 0
    totals: dict[bytes, tuple[int, float]] = field(default_factory=dict)

    def add(self, structure: Structure, *, energy_needed: bool) -> None:
        energy = structure.energy
        if energy_needed and energy is None:
            raise MindscaipError(f"structure {self.count} has no energy; reference energies cannot be fitted without")
        self.count += 1
        key = np.bincount(structure.numbers, minlength=MAX_ATOMIC_NUMBER + 1).astype(np.int64).tobytes()
        n, total = self.totals.get(key, (0, 0.0))
        self.totals[key] = (n + 1, total + (energy or 0.0))

    def add_rows(self, compositions: np.ndarray, energies: np.ndarray, *, energy_needed: bool) -> None:
        """The same for many structures: counts of elements ``[m, 119]``, energies ``[m]``, NaN where there is none."""
        if energy_needed and np.isnan(energies).any():
            missing = self.count + int(np.isnan(energies).argmax())
            raise MindscaipError(f"structure {missing} has no energy; reference energies cannot be fitted without")
        self.count += len(energies)
        # Rows are told apart by one number each: their product with odd random integers, modulo 2^64.
        keys = compositions.astype(np.uint64) @ _KEYS[: compositions.shape[1]]
        _, first, owner = np.unique(keys, return_index=True, return_inverse=True)
        sums = np.bincount(owner, weights=np.nan_to_num(energies), minlength=len(first))
        sizes = np.bincount(owner, minlength=len(first))
        for row, size, total in zip(compositions[first].astype(np.int64), sizes, sums, strict=True):
            n, before = self.totals.get(row.tobytes(), (0, 0.0))
            self.totals[row.tobytes()] = (n + int(size), before + float(total))

    def _compositions(self) -> np.ndarray:
        return np.array([np.frombuffer(key, dtype=np.int64) for key in self.totals])

    def elements(self) -> list[str]:
        return [chemical_symbols[z] for z in np.flatnonzero(self._compositions().sum(axis=0))]

    def solve(self, subtract: Mapping[str, float]) -> dict[str, float]:
        compositions = self._compositions()
        present = np.flatnonzero(compositions.sum(axis=0))
        x = compositions[:, present].astype(np.float64)
        counts = np.array([n for n, _ in self.totals.values()], dtype=np.float64)
        means = np.array([total / n for n, total in self.totals.values()])
        means -= x @ np.array([subtract.get(chemical_symbols[z], 0.0) for z in present])
        # Rows weighted by the number of structures of a composition (its mean suffices) and by 1/N: errors per atom.
        weights = np.sqrt(counts) / x.sum(axis=1)
        # Solved for the deviation from one energy for all atoms, so that "smallest norm" means "least spread".
        per_atom = x.sum(axis=1)
        common = float((weights * per_atom) @ (weights * means) / ((weights * per_atom) @ (weights * per_atom)))
        change, *_ = np.linalg.lstsq(x * weights[:, None], (means - common * per_atom) * weights, rcond=1e-8)
        return {chemical_symbols[z]: float(common + e) for z, e in zip(present, change, strict=True)}


def force_scale(structures: Iterable[Structure]) -> float:
    """Return the root mean square of all force components in eV/A.

    Raises:
        MindscaipError: no structure has forces.
    """
    total, count = 0.0, 0
    if isinstance(structures, Collection):
        for rows in structures.rows():
            total += float(np.nansum(rows.forces**2))
            count += int(np.count_nonzero(~np.isnan(rows.forces)))
        structures = ()
    for structure in structures:
        if structure.forces is not None:
            total += float(np.sum(structure.forces**2))
            count += structure.forces.size
    if count == 0:
        raise MindscaipError("no structure has forces; their scale cannot be taken")
    return float(np.sqrt(total / count))
