"""Neighbour lists (vesin) in the project's one edge convention.

``edge_index[0] = i`` is the centre, ``edge_index[1] = j`` the neighbour, ``edge_vectors[e] = r_j - r_i + S @ cell``
with lattice vectors as rows of ``cell``. Lists are full: each pair appears in both directions, once per image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vesin import NeighborList

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

LARGEST_EXTENT = 1e5
"""A. No structure is larger; the binning of the neighbour list fails beyond about ten times that."""


@dataclass(frozen=True)
class Edges:
    """A full neighbour list.

    Attributes:
        index: int64 ``[2, E]``, centre and neighbour.
        vectors: float64 ``[E, 3]`` in A.
        shifts: int64 ``[E, 3]``, the lattice shift ``S``.
    """

    index: np.ndarray
    vectors: np.ndarray
    shifts: np.ndarray


def neighbor_list(structure: Structure, cutoff: float) -> Edges:
    """All edges shorter than ``cutoff`` (A), whatever the size and shape of the cell.

    Raises:
        MindscaipError: two atoms stand on the same place, or the structure has flown apart.
    """
    if len(structure) == 0:
        return Edges(np.zeros((2, 0), np.int64), np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    extent = float(np.ptp(structure.positions, axis=0).max())
    if extent > LARGEST_EXTENT:
        raise MindscaipError(f"the atoms are {extent:.3g} A apart: the structure has flown apart, or its unit is not A")
    periodic = structure.pbc.tolist()
    i, j, shifts, vectors = NeighborList(cutoff=cutoff, full_list=True).compute(
        points=structure.positions,
        box=structure.full_cell() if any(periodic) else np.zeros((3, 3)),
        periodic=periodic if len(set(periodic)) > 1 else periodic[0],
        quantities="ijSD",
    )
    squared = np.einsum("ec,ec->e", vectors, vectors)
    if (squared == 0.0).any():
        e = int(np.argmin(squared))
        raise MindscaipError(f"atoms {i[e]} and {j[e]} (counted from 0) stand on the same place; separate them")
    return Edges(
        index=np.stack([i, j]).astype(np.int64), vectors=np.ascontiguousarray(vectors), shifts=shifts.astype(np.int64)
    )
