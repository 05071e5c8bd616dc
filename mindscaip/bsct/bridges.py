"""Bonds of a molecule and the bridges among them: bonds that split it into two fragments of more than one atom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from mindscaip.errors import MindscaipError

MIN_FRAGMENT = 2
"""Atoms in the smaller fragment."""
PERCEIVED = 1.25
"""Two atoms are taken for bonded when they are closer than this many sums of their covalent radii. On the 321
unperturbed geometries of the published scans this finds the published fragments in every case, as any factor from 1.15
to 1.25 does."""
RING, SINGLE_ATOM = "ring", "single atom"


@dataclass(frozen=True)
class Bridge:
    """A bond that splits its molecule: the bonded atoms (ascending) and the side of every atom, 0 or 1, ``[n]``."""

    atoms: tuple[int, int]
    labels: np.ndarray


def bond_type(first: int, second: int) -> str:
    """``"C-O"`` for the atomic numbers 8 and 6: symbols in alphabetical order."""
    return "-".join(sorted((chemical_symbols[first], chemical_symbols[second])))


def split_at(num_atoms: int, bonds: Iterable[tuple[int, int]], bond: tuple[int, int]) -> np.ndarray | None:
    """Sides of the atoms when ``bond`` is cut: 0 with its first atom, 1 with its second; None for a bond in a ring.

    ``bonds`` are those of one connected molecule.
    """
    neighbors: dict[int, list[int]] = defaultdict(list)
    for i, j in bonds:
        if {i, j} != set(bond):
            neighbors[i].append(j)
            neighbors[j].append(i)
    labels = np.ones(num_atoms, dtype=np.int64)
    labels[bond[0]] = 0
    waiting = [bond[0]]
    while waiting:
        for atom in neighbors[waiting.pop()]:
            if labels[atom] == 1:
                labels[atom] = 0
                waiting.append(atom)
    return labels if labels[bond[1]] == 1 else None


def bridge_bonds(
    num_atoms: int, bonds: Sequence[tuple[int, int]]
) -> tuple[list[Bridge], dict[tuple[int, int], tuple[str, str]]]:
    """The bonds to scan, and for every other bond the rule (``ring`` or ``single atom``) and the sentence why not."""
    bridges: list[Bridge] = []
    excluded: dict[tuple[int, int], tuple[str, str]] = {}
    for i, j in bonds:
        bond = (min(i, j), max(i, j))
        labels = split_at(num_atoms, bonds, bond)
        if labels is None:
            excluded[bond] = RING, "the bond is in a ring: cutting it does not split the molecule"
        elif min(labels.sum(), num_atoms - labels.sum()) < MIN_FRAGMENT:
            excluded[bond] = SINGLE_ATOM, "one of the fragments is a single atom"
        else:
            bridges.append(Bridge(bond, labels))
    return bridges, excluded


def perceive_bonds(numbers: np.ndarray, positions: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The bonds of a geometry: pairs closer than ``PERCEIVED`` times the sum of their covalent radii.

    Args:
        numbers: atomic numbers, ``[n]``.
        positions: A, ``[n, 3]``.
    """
    i, j = np.triu_indices(len(numbers), k=1)
    distance = np.linalg.norm(positions[i] - positions[j], axis=1)
    bonded = distance < PERCEIVED * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    return tuple(zip(i[bonded].tolist(), j[bonded].tolist(), strict=True))


def count_pieces(num_atoms: int, bonds: Iterable[tuple[int, int]]) -> int:
    """Into how many molecules the atoms fall."""
    root = list(range(num_atoms))

    def find(atom: int) -> int:
        while root[atom] != atom:
            root[atom] = root[root[atom]]
            atom = root[atom]
        return atom

    for i, j in bonds:
        root[find(i)] = find(j)
    return len({find(atom) for atom in range(num_atoms)})


def checked_bond(text: str) -> str:
    """``"C-O"`` for ``"O-C"``.

    Raises:
        MindscaipError: not two elements.
    """
    symbols = text.split("-")
    if len(symbols) != 2 or not all(symbol in atomic_numbers and symbol != "X" for symbol in symbols):
        raise MindscaipError(f"{text!r} is not a bond type; write two elements such as C-O")
    return bond_type(*(atomic_numbers[symbol] for symbol in symbols))
