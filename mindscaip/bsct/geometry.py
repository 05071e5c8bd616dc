"""The frames of a scan: bond lengths by the covalent radii, and the check that no other atoms collide.

The table of radii is ASE's ``covalent_radii`` (Cordero et al. 2008, doi:10.1039/b801115j); the bond lengths of the
published scans are exactly these. Fragments move by :func:`mindscaip.bsct.dataset.displace`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from ase.data import covalent_radii

from mindscaip.bsct.bridges import bridge_bonds, perceive_bonds, split_at
from mindscaip.bsct.dataset import displace
from mindscaip.errors import MindscaipError

SHORTEST, LONGEST = 0.5, 2.0
"""Bond lengths of a scan, in units of the sum of the two covalent radii."""
OVERLAP = 0.9
"""Closest approach of any other pair, in units of the sum of its covalent radii. Relaxed double and triple bonds are
shorter (C=O 0.85, C=C 0.88, C#N 0.79), so that by the published rule a molecule with one has no scan at all."""
PUBLISHED_FRAMES = 100


def scan_lengths(numbers: np.ndarray, bond: tuple[int, int], frames: int = PUBLISHED_FRAMES) -> np.ndarray:
    """Step 2: the bond lengths in A, ``[frames]``."""
    total = covalent_radii[numbers[list(bond)]].sum()
    return np.linspace(SHORTEST * total, LONGEST * total, frames)


def closest_approach(
    numbers: np.ndarray,
    positions: np.ndarray,
    bond: tuple[int, int],
    without: Iterable[tuple[int, int]] = (),
) -> tuple[float, int, tuple[int, int]]:
    """Step 3: the smallest distance of a pair other than ``bond``, in units of the sum of its covalent radii.

    Args:
        positions: A, ``[K, n, 3]``.
        without: further pairs to leave out, such as the bonds of the molecule.

    Returns:
        the ratio, the frame and the pair (ascending); infinity where no pair is left.
    """
    count = len(numbers)
    looked_at = np.triu(np.ones((count, count), dtype=bool), k=1)
    for ends in (bond, *without):
        looked_at[min(ends), max(ends)] = False
    i, j = np.nonzero(looked_at)
    if len(i) == 0:
        return float("inf"), 0, bond
    ratio = np.linalg.norm(positions[:, i] - positions[:, j], axis=2) / (
        covalent_radii[numbers[i]] + covalent_radii[numbers[j]]
    )
    frame, pair = np.unravel_index(int(np.argmin(ratio)), ratio.shape)
    return float(ratio[frame, pair]), int(frame), (int(i[pair]), int(j[pair]))


def scan_bond(
    numbers: np.ndarray, positions0: np.ndarray, bond: tuple[int, int], *, frames: int = PUBLISHED_FRAMES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bond lengths ``[K]`` and positions ``[K, n, 3]`` in A, and fragment labels ``[n]``, of the scan of one bond.

    Bonds are perceived from the geometry. Whether atoms collide is not looked at here.

    Args:
        numbers: atomic numbers, ``[n]``.
        positions0: the unperturbed geometry in A, ``[n, 3]``.
        bond: the two atoms; the first has label 0.

    Raises:
        MindscaipError: the atoms are not bonded, or the bond is in a ring or to a single atom.
    """
    i, j = bond
    bonded = perceive_bonds(numbers, positions0)
    if (min(bond), max(bond)) not in bonded:
        raise MindscaipError(f"atoms {i} and {j} are not bonded in this geometry")
    _, excluded = bridge_bonds(len(numbers), bonded)
    if (min(bond), max(bond)) in excluded:
        raise MindscaipError(f"the bond of atoms {i} and {j}: {excluded[min(bond), max(bond)][1]}")
    labels = split_at(len(numbers), bonded, bond)
    assert labels is not None
    lengths = scan_lengths(numbers, bond, frames)
    return lengths, displace(positions0, bond, labels, lengths), labels
