"""The differentiable k-nearest-neighbour graph (paper, Section 4.2 and Appendix C), in TorchScript.

Ranks, envelope and selection are computed in float64 whatever the model's precision: they are cheap, and they decide
how smooth the energy surface is. Every width is set by the data, so no edge with a weight above zero is ever dropped.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BUMP_REACH = 4.0
"""The bump is exactly 0 or 1 beyond ``BUMP_REACH * d0`` (0.8 A for the default ``d0``).

Functions take it as a default argument because TorchScript does not see module constants.
"""


class Graph(NamedTuple):
    """The edges that carry weight, sorted by centre and, within a source window, by distance.

    Attributes:
        center: int64 ``[E]``.
        neighbor: int64 ``[E]``.
        distance: A, float64 ``[E]``.
        direction: unit vectors from centre to neighbour, float64 ``[E, 3]``.
        log_envelope: ``log e_ij`` of Eq. 7, float64 ``[E]``, at most 0.
    """

    center: Tensor
    neighbor: Tensor
    distance: Tensor
    direction: Tensor
    log_envelope: Tensor


def bump(x: Tensor, reach: float = BUMP_REACH) -> Tensor:
    """Smooth step with compact transition: Eq. 10 with its sign error corrected and its argument scaled by 1/4.

    ``g(u) = exp(-2/(u+1)) / (exp(-2/(u+1)) + exp(-2/(1-u))) = sigmoid(4u / (1-u^2))`` on (-1, 1); with ``u = x/4`` the
    slope at 0 is the sigmoid's 1/4. Exactly 0 for ``x <= -4`` and 1 for ``x >= 4``, infinitely differentiable between.
    """
    # Kept one rounding inside (-1, 1): the quotient stays finite, and the sigmoid of 1e16 is exactly 0 or 1, and flat.
    u = (x * (1.0 / reach)).clamp(-1.0 + 2.0**-52, 1.0 - 2.0**-52)
    return torch.sigmoid(x / (1.0 - u * u))


def list_cutoff(cutoff: float, d0: float, reach: float = BUMP_REACH) -> float:
    """Radius that a neighbour list must reach: ranks of edges within ``cutoff`` feel neighbours up to this far (A)."""
    return cutoff + reach * d0


def window_ranks(
    window: Tensor,
    distance: Tensor,
    num_windows: int,
    k: int,
    d0: float,
    rank_function: str,
    hard: bool,
    bump_reach: float = BUMP_REACH,
) -> Tensor:
    """Rank of every edge in its window: Eq. 6 (soft) or Eq. 4 (hard).

    ``rank(i, j) = sum_j' s((d_ij - d_ij') / d0)``; the sum contains ``j' = j``, which adds 1/2. It is cut exactly:
    ``s(x >= 0) >= 1/2``, so with ``a`` edges shorter by more than the reach ``4 d0`` of the bump and ``b`` others not
    longer (itself included), a rank is at least ``a + b/2``. Where that is ``k`` or more the edge gets infinity; the
    rest need only pairs within ``4 d0`` of each other, each pair once because ``s(-x) = 1 - s(x)``.

    Args:
        window: the window of each edge (its centre, or its neighbour for target windows), int64 ``[E]``.
        distance: float64 ``[E]``, A.
        rank_function: ``bump`` or ``sigmoid`` (every pair of a window counts: it has no finite reach).
        hard: count shorter edges instead.

    Returns:
        float64 ``[E]``, differentiable with respect to ``distance`` unless ``hard``.
    """
    device = distance.device
    num_edges = distance.size(0)
    ranks = torch.full_like(distance, float("inf"))
    if num_edges == 0:
        return ranks
    plain = distance.detach()
    counts = torch.bincount(window, minlength=num_windows)
    first = torch.cumsum(counts, 0) - counts
    width = int(counts.max().item())
    columns = torch.arange(width, device=device)
    filled = columns < counts.unsqueeze(1)
    # One row per window, sorted by distance, padded with infinity; ``order[first[row] + column]`` is the edge there.
    by_window = torch.argsort(window, stable=True)
    table = torch.full((num_windows, width), float("inf"), dtype=plain.dtype, device=device)
    table[filled] = plain[by_window]
    table, within = torch.sort(table, dim=1, stable=True)
    order = by_window[(within + first.unsqueeze(1))[filled]]

    if hard:
        hard_ranks = torch.zeros_like(plain)
        hard_ranks[order] = torch.searchsorted(table, table)[filled].to(plain.dtype)
        return hard_ranks

    # An edge in column c has c + 1 edges not longer than itself: a rank below k needs a column below 2k - 1.
    near = table[:, : 2 * k - 1].contiguous()
    columns = columns[: near.size(1)]
    if rank_function == "bump":
        reach = bump_reach * d0
        begin = torch.searchsorted(table, near - reach, right=True)
        end = torch.searchsorted(table, near + reach)
    else:
        begin = torch.zeros(near.size(), dtype=torch.int64, device=device)
        end = counts.unsqueeze(1).expand_as(begin)
    chosen = torch.nonzero(filled[:, : near.size(1)] & (begin + columns < 2 * k - 1))
    row, column = chosen[:, 0], chosen[:, 1]
    place = first[row] + column
    longer = end[row, column] - column - 1
    # The pairs are by far the longest tensors here: 32-bit places, and no operation on them that can be spared.
    lower = torch.repeat_interleave(place.to(torch.int32), longer)
    upper = torch.arange(1, lower.size(0) + 1, device=device, dtype=torch.int32)
    upper = upper + torch.repeat_interleave((place - (torch.cumsum(longer, 0) - longer)).to(torch.int32), longer)
    ordered = distance[order] / d0
    difference = ordered.index_select(0, upper) - ordered.index_select(0, lower)
    step = bump(difference) if rank_function == "bump" else torch.sigmoid(difference)
    soft = torch.zeros_like(plain).index_add(0, upper, step).index_add(0, lower, step, alpha=-1)
    shorter_or_tied = (begin[row, column] + longer).to(plain.dtype) + 0.5
    return ranks.index_put([order[place]], soft[place] + shorter_or_tied)


def build_graph(
    num_atoms: int,
    edge_index: Tensor,
    edge_vectors: Tensor,
    k: int,
    cutoff: float,
    d0: float,
    beta: float,
    kind: str,
    rank_function: str,
    ranking: str,
) -> Graph:
    """Select and weigh edges: Eqs. 4 to 8 and 10.

    ``f = (1/beta) log(exp(beta rank/k) + exp(beta d/r_c))``, ``log e = -f^2 / (1 - f^2)`` for ``f < 1``; edges with
    ``f >= 1`` are out. With ``ranking = "mutual"`` the rank in the target window joins the same log-sum-exp. ``kind =
    "knn"`` selects by the hard rank and keeps only the radius in the envelope; it is not differentiable.

    Args:
        edge_index: int64 ``[2, E]``, every pair up to :func:`list_cutoff`, both directions; longer edges are ignored.
        edge_vectors: ``[E, 3]``, A; the result is differentiable with respect to them.
    """
    vectors = edge_vectors.to(torch.float64)
    all_distances = torch.linalg.vector_norm(vectors, dim=1)
    listed = torch.nonzero(all_distances.detach() < list_cutoff(cutoff, d0)).squeeze(1)
    center = edge_index[0][listed]
    neighbor = edge_index[1][listed]
    distance = all_distances[listed]

    hard = kind == "knn"
    ranks = window_ranks(center, distance, num_atoms, k, d0, rank_function, hard)
    target_ranks = ranks
    if ranking == "mutual":
        target_ranks = window_ranks(neighbor, distance, num_atoms, k, d0, rank_function, hard)
    return weigh_edges(
        center, neighbor, distance, ranks, target_ranks, vectors, listed, k, cutoff, beta, hard, ranking == "mutual"
    )


def weigh_edges(
    center: Tensor,
    neighbor: Tensor,
    distance: Tensor,
    ranks: Tensor,
    target_ranks: Tensor,
    vectors: Tensor,
    listed: Tensor,
    k: int,
    cutoff: float,
    beta: float,
    hard: bool,
    mutual: bool,
) -> Graph:
    """Eqs. 7 and 8 once the ranks are known: what each edge weighs by itself, whichever process holds the others.

    Args:
        center: int64 ``[E]``, as ``neighbor``; both are only passed on.
        distance: float64 ``[E]``, A, below the radius of the list.
        ranks: in source windows, float64 ``[E]``.
        target_ranks: in target windows; not read unless ``mutual``.
        vectors: float64 ``[F, 3]``, A.
        listed: the row of ``vectors`` that belongs to each edge, int64 ``[E]``.
    """
    radial = beta / cutoff * distance
    # Half a rank of slack is never used: ranks of k or more, and infinite ones, are out whatever the radius says.
    selected = (ranks.detach() < k) & (distance.detach() < cutoff)
    if mutual:
        selected = selected & (target_ranks.detach() < k)
    kept = torch.nonzero(selected).squeeze(1)
    exponent = radial[kept]
    if not hard:
        exponent = torch.logaddexp(beta / k * ranks[kept], exponent)
        if mutual:
            exponent = torch.logaddexp(beta / k * target_ranks[kept], exponent)
    f = exponent / beta

    inside = torch.nonzero(f.detach() < 1.0).squeeze(1)
    kept = kept[inside]
    f_squared = f[inside] ** 2
    log_envelope = -f_squared / (1.0 - f_squared)
    # Canonical order, so that engines that list edges differently still sum in the same order.
    by_distance = torch.argsort(distance[kept].detach(), stable=True)
    order = by_distance[torch.argsort(center[kept][by_distance], stable=True)]
    kept = kept[order]
    return Graph(
        center=center[kept],
        neighbor=neighbor[kept],
        distance=distance[kept],
        direction=vectors[listed[kept]] / distance[kept].unsqueeze(1),
        log_envelope=log_envelope[order],
    )
