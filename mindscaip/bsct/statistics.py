"""Mean, median and confidence of a score over the scans of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Description:
    """A column over scans, values that are NaN left out.

    Attributes:
        mean, median: NaN without a value.
        low, high: percentile bootstrap interval of the mean at ``LEVEL``; NaN with fewer than two values.
        count: number of values.
    """

    mean: float
    median: float
    low: float
    high: float
    count: int


def describe(values: Sequence[float]) -> Description:
    """Describe ``values``; the same values always give the same interval."""
    finite = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    if len(finite) == 0:
        return Description(math.nan, math.nan, math.nan, math.nan, 0)
    low, high = bootstrap_mean(finite) if len(finite) > 1 else (math.nan, math.nan)
    return Description(float(finite.mean()), float(np.median(finite)), low, high, len(finite))


def bootstrap_mean(
    values: np.ndarray, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` (``[n]``), seeded."""
    rng = np.random.default_rng(seed)
    means = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples) @ values / len(values)
    tail = 0.5 * (1 - level)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
