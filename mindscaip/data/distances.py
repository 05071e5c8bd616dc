"""Nearest neighbours of the atoms of a structure, for checks and statistics."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii
from vesin import NeighborList

from mindscaip.data.structure import Structure

REACH = 5.0
"""A. Farther neighbours are not looked for in crystals and large structures."""
LARGEST_DENSE = 200
"""Atoms up to which all pairs of a molecule are cheaper than a neighbour list."""
NOBLE_GASES = (2, 10, 18, 36, 54, 86)


def nearest_neighbors(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each atom to its nearest neighbour in A, and the smallest distance over covalent radii, ``[N]`` each.

    Infinite where there is no neighbour (in crystals and large structures: within 5 A).
    """
    radii = covalent_radii[structure.numbers]
    n = len(structure)
    if structure.pbc.any() or n > LARGEST_DENSE:
        periodic = structure.pbc.tolist()
        i, j, lengths = NeighborList(cutoff=REACH, full_list=True).compute(
            points=structure.positions,
            box=structure.full_cell() if any(periodic) else np.zeros((3, 3)),
            periodic=periodic if len(set(periodic)) > 1 else periodic[0],
            quantities="ijd",
        )
        distance, ratio = np.full(n, np.inf), np.full(n, np.inf)
        np.minimum.at(distance, i, lengths)
        np.minimum.at(ratio, i, lengths / (radii[i] + radii[j]))
        return distance, ratio
    difference = structure.positions[:, None] - structure.positions[None]
    distances = np.sqrt(np.einsum("ijc,ijc->ij", difference, difference))
    np.fill_diagonal(distances, np.inf)
    return distances.min(axis=1), (distances / (radii[:, None] + radii[None])).min(axis=1)


def typical_ratio(structure: Structure) -> float | None:
    """Median of nearest distance over covalent radii, without noble gases; None where nothing is left."""
    if len(structure) < 2:
        return None
    ratios = nearest_neighbors(structure)[1][~np.isin(structure.numbers, NOBLE_GASES)]
    return float(np.median(ratios)) if len(ratios) else None
