"""Random splits into training, validation and test parts: seeded, disjoint, and without leakage when asked.

Conformers of one molecule are near copies of each other: with some in training and some in the test part, the test
error flatters. A split by group keeps every group in one part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindscaip.errors import MindscaipError


def random_split(
    total: int,
    sizes: Sequence[float | int],
    *,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Split ``range(total)`` at random into one part per size and a last part with the rest.

    Args:
        total: number of structures.
        sizes: of the parts but the last: a float below 1 is a fraction of ``total``, an int is a count. ``[0.1]`` gives
            ``[10 %, 90 %]``.
        seed: the same seed gives the same split.
        groups: group of each structure; whole groups go to one part then, and sizes are met as nearly as that allows
            (the group that crosses a boundary goes to the part if more than half of it fits).

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
