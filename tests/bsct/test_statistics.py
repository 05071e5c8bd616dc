from __future__ import annotations

import math

import numpy as np
import pytest

from mindscaip.bsct.statistics import bootstrap_mean, describe


def test_mean_median_and_a_seeded_interval():
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    found = describe(values.tolist())
    assert found.mean == pytest.approx(values.mean())
    assert found.median == pytest.approx(np.median(values))
    # Of a normal sample: the mean and 1.96 standard errors on either side.
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert describe(values.tolist()) == found
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values)


def test_values_that_are_missing_are_left_out():
    assert describe([1.0, math.nan, 3.0]).mean == 2.0
    assert describe([1.0, math.nan, 3.0]).count == 2
    one = describe([4.0])
    assert (one.mean, one.median, one.count) == (4.0, 4.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(describe([]).mean)
