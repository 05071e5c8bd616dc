"""Neighbour lists in tensor operations (TorchScript), for engines that hand over positions and a cell only.

The list is that of :mod:`mindscaip.graph.neighbors`: full, once per image, ``edge_index[0] = i`` the centre,
``edge_index[1] = j`` the neighbour, ``edge_vectors[e] = r_j - r_i + S @ cell``. Everything is computed in float64,
whatever the precision of the positions, and nothing is differentiated: models differentiate with respect to the edges.
"""

from typing import Final

import torch
from torch import Tensor

DENSE_PAIRS: Final = 300_000
"""Up to so many distances all pairs are computed at once; beyond, atoms are sorted into bins of one cutoff a side.

The two take equally long at about 200 atoms in a periodic liquid (one CPU core, 6.8 A; ``benchmarks/openmm.py``).
"""


def _images(positions: Tensor, cell: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Wrap atoms into the cell and make every copy that can lie within ``cutoff`` (A) of a wrapped atom.

    Returns:
        wrapped positions ``[N, 3]``, copies ``[G, 3]``, the atom of each copy ``[G]``, and whether the copy is the
        wrapped atom itself ``[G]``.
    """
    inverse = torch.linalg.inv(cell)
    # Column k of the inverse is the reciprocal vector whose length is 1 / (distance between lattice planes k).
    reach = cutoff * torch.linalg.norm(inverse, dim=0)
    fractions = positions @ inverse
    fractions = fractions - torch.floor(fractions)
    wrapped = fractions @ cell

    num = torch.ceil(reach).to(torch.int64)
    n0, n1, n2 = int(num[0]), int(num[1]), int(num[2])
    # So many copies of atoms mean a collapsed cell, not a structure.
    if float(2 * n0 + 1) * float(2 * n1 + 1) * float(2 * n2 + 1) * float(positions.size(0)) > 5.0e7:
        raise RuntimeError("mindscaip: the periodic cell has collapsed (too many images within the cutoff)")
    shifts = torch.cartesian_prod(
        torch.arange(-n0, n0 + 1, device=cell.device),
        torch.arange(-n1, n1 + 1, device=cell.device),
        torch.arange(-n2, n2 + 1, device=cell.device),
    )
    copies = fractions.unsqueeze(0) + shifts.to(fractions.dtype).unsqueeze(1)
    # A copy further than the cutoff beyond the outermost atoms along any lattice plane meets none of them.
    slack = reach + 1e-9
    near = ((copies >= fractions.amin(0) - slack) & (copies <= fractions.amax(0) + slack)).all(2)
    chosen = near.nonzero()
    image = chosen[:, 0]
    atom = chosen[:, 1]
    shift = shifts[image]
    return wrapped, wrapped[atom] + shift.to(cell.dtype) @ cell, atom, (shift == 0).all(1)


def _dense_pairs(centers: Tensor, points: Tensor, cutoff: float, strip: int) -> tuple[Tensor, Tensor]:
    """Pairs closer than ``cutoff`` by all distances, about ``strip`` of them at a time to bound the memory.

    Components are kept apart: sums over a last dimension of three are slow.
    """
    i = torch.jit.annotate(list[Tensor], [])
    g = torch.jit.annotate(list[Tensor], [])
    center = centers.t().contiguous().unsqueeze(2)
    point = points.t().contiguous().unsqueeze(1)
    rows = max(1, strip // max(1, points.size(0)))
    for start in range(0, centers.size(0), rows):
        square = (point[0] - center[0, start : start + rows]).square_()
        square += (point[1] - center[1, start : start + rows]).square_()
        square += (point[2] - center[2, start : start + rows]).square_()
        close = (square < cutoff * cutoff).nonzero()
        i.append(close[:, 0] + start)
        g.append(close[:, 1])
    return torch.cat(i), torch.cat(g)


def _binned_pairs(centers: Tensor, points: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Pairs closer than ``cutoff`` through bins of one cutoff a side: linear in the number of atoms.

    Points are sorted by bin, with z fastest, so that three bins along z are one contiguous run: nine runs per centre
    hold all its candidates.
    """
    low = points.amin(0)
    # Bins count from 1 and each axis has an empty bin at either end, so that a neighbouring bin never wraps around.
    point_bin = torch.floor((points - low) / cutoff).to(torch.int64) + 1
    center_bin = torch.floor((centers - low) / cutoff).to(torch.int64) + 1
    ny = point_bin[:, 1].amax() + 2
    nz = point_bin[:, 2].amax() + 2
    keys, order = torch.sort((point_bin[:, 0] * ny + point_bin[:, 1]) * nz + point_bin[:, 2])
    point = points[order].t().contiguous()
    center = centers.t().contiguous()
    rows = torch.arange(centers.size(0), device=centers.device)
    i_all = torch.jit.annotate(list[Tensor], [])
    g_all = torch.jit.annotate(list[Tensor], [])
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            middle = ((center_bin[:, 0] + dx) * ny + center_bin[:, 1] + dy) * nz + center_bin[:, 2]
            start = torch.searchsorted(keys, middle - 1)
            count = torch.searchsorted(keys, middle + 1, right=True) - start
            i = torch.repeat_interleave(rows, count)
            first = start - (torch.cumsum(count, 0) - count)
            g = torch.arange(i.size(0), device=i.device) + first.index_select(0, i)
            square = (point[0].index_select(0, g) - center[0].index_select(0, i)).square_()
            square += (point[1].index_select(0, g) - center[1].index_select(0, i)).square_()
            square += (point[2].index_select(0, g) - center[2].index_select(0, i)).square_()
            keep = (square < cutoff * cutoff).nonzero().squeeze(1)
            i_all.append(i.index_select(0, keep))
            g_all.append(order.index_select(0, g.index_select(0, keep)))
    return torch.cat(i_all), torch.cat(g_all)


def neighbor_edges(
    positions: Tensor,
    cell: Tensor | None,
    cutoff: float,
    dense_pairs: int = DENSE_PAIRS,
) -> tuple[Tensor, Tensor]:
    """All edges shorter than ``cutoff``: non-periodic, or periodic in all three directions of any cell.

    Args:
        positions: A, ``[N, 3]``, float32 or float64, inside the cell or not.
        cell: lattice vectors as rows in A, ``[3, 3]`` (any shape, also smaller than the cutoff), or None.
        cutoff: A.
        dense_pairs: largest number of distances to compute at once; larger systems are sorted into bins.

    Returns:
        ``edge_index`` int64 ``[2, E]`` and ``edge_vectors`` float64 ``[E, 3]`` in A, without gradient.

    Raises:
        RuntimeError: two atoms stand on the same place, or the cell has collapsed.
    """
    centers = positions.detach().to(torch.float64)
    points = centers
    atom = torch.arange(centers.size(0), device=centers.device)
    home = torch.ones_like(atom, dtype=torch.bool)
    if centers.size(0) == 0:
        return torch.zeros((2, 0), dtype=torch.int64, device=centers.device), centers
    if cell is not None:
        centers, points, atom, home = _images(centers, cell.detach().to(torch.float64), cutoff)

    # Beyond 1e15 bins (an atom has flown off to the stars) the keys of the bins would overflow.
    bins = ((points.amax(0) - points.amin(0)) / cutoff + 3.0).prod()
    if centers.size(0) * points.size(0) <= dense_pairs or float(bins) > 1e15:
        i, g = _dense_pairs(centers, points, cutoff, dense_pairs)
    else:
        i, g = _binned_pairs(centers, points, cutoff)
    j = atom[g]
    other = (i != j) | ~home[g]
    i = i[other]
    j = j[other]
    vectors = points[g[other]] - centers[i]
    if bool((vectors == 0).all(1).any()):
        raise RuntimeError("mindscaip: two atoms stand on the same place")
    return torch.stack([i, j]), vectors
