"""Splits into training, validation and test parts: by rule or by file, seeded, disjoint, without leakage when asked.

Conformers of one molecule are near copies of each other: with some in training and some in the test part, the test
error flatters. A split by group keeps every group in one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from mindscaip.data.collection import Collection
from mindscaip.data.readers.base import molecule_of
from mindscaip.errors import MindscaipError, did_you_mean


def random_split(
    total: int,
    sizes: Sequence[float | int],
    *,
    seed: int = 0,
    groups: Sequence[str] | np.ndarray | None = None,
) -> list[np.ndarray]:
    """Split ``range(total)`` at random into one part per size and a last part with the rest.

    Args:
        total: number of structures.
        sizes: of the parts but the last: a float below 1 is a fraction of ``total``, an int is a count. ``[0.1]`` gives
            ``[10 %, 90 %]``.
        seed: the same seed gives the same split.
        groups: group of each structure (names or numbers); whole groups go to one part then, and sizes are met as
            nearly as that allows (the group that crosses a boundary goes to the part if more than half of it fits).

    Returns:
        Sorted index arrays (int64), disjoint, together ``range(total)``.

    Raises:
        MindscaipError: sizes that do not fit, or a part that stays empty although its size is above zero.
    """
    counts = [_count(size, total) for size in sizes]
    if sum(counts) > total:
        raise MindscaipError(f"the split asks for {sum(counts)} structures, but there are {total}; ask for fewer")
    rng = np.random.default_rng(seed)
    if groups is None:
        order = rng.permutation(total)
        bounds = np.cumsum(counts)
        return [np.sort(part) for part in np.split(order, bounds)]
    if len(groups) != total:
        raise MindscaipError(f"there are {len(groups)} groups for {total} structures; give one to each")
    return _split_groups(counts, np.asarray(groups), rng)


def subsample(indices: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """A random choice of ``count`` of ``indices``; a smaller one is a part of a larger one of the same seed.

    Files hold their structures molecule by molecule or frame by frame, so the first of them are no sample of the whole.

    Args:
        indices: ``[M]`` of structures, each once.
        count: how many to take; all where there are no more.
        seed: the same seed gives the same choice.

    Returns:
        Sorted indices ``[min(count, M)]``, in the type of ``indices``.

    Raises:
        MindscaipError: a count below 0.
    """
    if count < 0:
        raise MindscaipError(f"{count} structures cannot be chosen; ask for 0 or more")
    indices = np.asarray(indices)
    return np.sort(indices[np.random.default_rng(seed).permutation(len(indices))[:count]])


def _count(size: float | int, total: int) -> int:
    if isinstance(size, bool) or size < 0 or (isinstance(size, float) and not (size < 1 or size.is_integer())):
        raise MindscaipError(f"the split size {size!r} is neither a fraction from 0 to 1 nor a whole number")
    if isinstance(size, float) and size < 1:
        return round(size * total) if size == 0 else max(1, round(size * total))
    return int(size)


def _split_groups(counts: list[int], groups: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    names, membership, members = np.unique(groups, return_inverse=True, return_counts=True)
    needed = sum(count > 0 for count in counts) + (sum(counts) < len(groups))
    if len(names) < needed:
        raise MindscaipError(
            f"there are {len(names)} groups for {needed} parts; split by structure, or add molecules to the data"
        )
    order = list(rng.permutation(len(names)))
    part_of_group = np.full(len(names), len(counts))
    wanted_parts = [i for i, count in enumerate(counts) if count > 0]
    for rank, part in enumerate(wanted_parts):
        # Leave at least one group for each part that is still to come.
        spare = len(wanted_parts) - rank - 1 + (sum(counts) < len(groups))
        taken = 0
        while len(order) > spare and (taken == 0 or taken + members[order[0]] / 2 <= counts[part]):
            group = order.pop(0)
            part_of_group[group] = part
            taken += members[group]
    part_of_structure = part_of_group[membership]
    return [np.flatnonzero(part_of_structure == part) for part in range(len(counts) + 1)]


def formulas(structures: Collection) -> list[str]:
    """The formula of each structure, elements by atomic number (``H6 C2 O1``)."""
    names: dict[bytes, str] = {}
    found: list[str] = []
    for rows in structures.rows():
        for counts in rows.compositions().astype(np.int64):
            key = counts.tobytes()
            if key not in names:
                names[key] = " ".join(f"{chemical_symbols[z]}{counts[z]}" for z in np.flatnonzero(counts))
            found.append(names[key])
    return found


def molecules(structures: Collection) -> list[str]:
    """What each structure must not be parted from: its molecule (group without subset), else its formula."""
    named = [molecule_of(group) for group in structures.groups]
    if all(named):
        return named
    return [name or formula for name, formula in zip(named, formulas(structures), strict=True)]


def split_by_rule(structures: Collection, rule: str, fraction: float, seed: int = 0) -> tuple[Collection, Collection]:
    """Training and validation part by a rule.

    Args:
        structures: all of them.
        rule: ``random``: by structure; ``group``: all structures of a molecule in one part (see :func:`molecules`);
            ``composition``: all structures of one formula in one part.
        fraction: of the validation part.
        seed: the same seed gives the same split.

    Raises:
        MindscaipError: as :func:`random_split`.
    """
    makers = {"random": lambda s: None, "group": molecules, "composition": formulas}
    if rule not in makers:
        raise MindscaipError(f"there is no split {rule!r}{did_you_mean(rule, makers)}; known are {', '.join(makers)}")
    validation, training = random_split(len(structures), [fraction], seed=seed, groups=makers[rule](structures))
    return (
        structures.select(structures.indices[training]),
        structures.select(structures.indices[validation]),
    )


def split_by_file(structures: Collection, path: str | Path) -> tuple[Collection, Collection]:
    """Training part, and the validation part that a text file lists, one group or index per line.

    A line is the name of a group, or of a molecule in one, or (where no group is called so) the index of a structure,
    counted from 0 over all training files. Empty lines and lines that begin with ``#`` are skipped.

    Raises:
        MindscaipError: no such file, or a line that is neither a group nor an index in range.
    """
    path = Path(path)
    if not path.is_file():
        raise MindscaipError(f"{path} does not exist or is not a file; it should list what validates, one per line")
    groups = structures.groups
    by_name: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        for name in {group, molecule_of(group)} - {""}:
            by_name.setdefault(name, []).append(index)
    chosen = np.zeros(len(structures), dtype=bool)
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        if line in by_name:
            chosen[by_name[line]] = True
        elif line.isdigit() and int(line) < len(structures):
            chosen[int(line)] = True
        else:
            raise MindscaipError(
                f"line {number} of {path}: {line!r} is neither a group of the data{did_you_mean(line, by_name)} nor an "
                f"index from 0 to {len(structures) - 1}"
            )
    return structures.select(structures.indices[~chosen]), structures.select(structures.indices[chosen])


@dataclass(frozen=True)
class Leakage:
    """What two parts share.

    Attributes:
        groups: names of molecules that occur in both, sorted.
        copies: number of structures of the second part whose geometry is in the first.
        examples: indices (in the second part) of some of these.
    """

    groups: tuple[str, ...]
    copies: int
    examples: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.groups) or self.copies > 0

    def __str__(self) -> str:
        parts = []
        if self.groups:
            names = ", ".join(self.groups[:5]) + (", ..." if len(self.groups) > 5 else "")
            parts.append(f"{len(self.groups)} molecules are in both: {names}")
        if self.copies:
            numbers = ", ".join(map(str, self.examples)) + (", ..." if self.copies > len(self.examples) else "")
            parts.append(f"{self.copies} structures of the second are copies of ones of the first ({numbers})")
        return "; ".join(parts) or "nothing in common"


def shared_molecules(first: Collection, second: Collection) -> tuple[str, ...]:
    """Names of molecules that occur in both parts, sorted."""
    shared = {molecule_of(g) for g in set(first.groups)} & {molecule_of(g) for g in set(second.groups)}
    return tuple(sorted(shared - {""}))


def find_leakage(first: Collection, second: Collection) -> Leakage:
    """Molecules by name and geometries by hash that occur in both parts (training, validation)."""
    copies = np.flatnonzero(np.isin(second.geometry_hashes(), first.geometry_hashes()))
    return Leakage(shared_molecules(first, second), len(copies), tuple(copies[:5].tolist()))
