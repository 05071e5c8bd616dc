from __future__ import annotations

import numpy as np
import pytest

from mindscaip.data.splits import random_split, subsample
from mindscaip.errors import MindscaipError


def test_parts_are_disjoint_complete_and_seeded():
    parts = random_split(103, [0.1, 20], seed=3)
    assert [len(p) for p in parts] == [10, 20, 73]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(103))
    assert all(np.array_equal(p, np.sort(p)) for p in parts)
    again = random_split(103, [0.1, 20], seed=3)
    other = random_split(103, [0.1, 20], seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0], other[0])


def test_sizes():
    assert [len(p) for p in random_split(5, [0.01])] == [1, 4]
    assert [len(p) for p in random_split(5, [0, 5])] == [0, 5, 0]
    assert [len(p) for p in random_split(5, [2.0])] == [2, 3]
    for bad in ([-1], [1.5], [True], [6], [3, 3]):
        with pytest.raises(MindscaipError):
            random_split(5, bad)


def test_no_group_is_cut():
    rng = np.random.default_rng(0)
    groups = [f"molecule {i}" for i in rng.integers(0, 30, 1000)]
    parts = random_split(1000, [0.1, 0.2], seed=1, groups=groups)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    members = [{groups[i] for i in part} for part in parts]
    for a in range(3):
        for b in range(a):
            assert not members[a] & members[b]
    assert abs(len(parts[0]) - 100) <= 30
    assert abs(len(parts[1]) - 200) <= 30
    assert not np.array_equal(parts[0], random_split(1000, [0.1, 0.2], seed=2, groups=groups)[0])


def test_few_groups_fill_every_part():
    groups = ["a"] * 98 + ["b"] + ["c"]
    for seed in range(10):
        parts = random_split(100, [0.1, 0.1], seed=seed, groups=groups)
        assert all(len(part) > 0 for part in parts)
    with pytest.raises(MindscaipError, match="2 groups for 3 parts"):
        random_split(4, [1, 1], groups=["a", "a", "b", "b"])
    with pytest.raises(MindscaipError, match="3 groups for 4 structures"):
        random_split(4, [1], groups=["a", "a", "b"])


def test_a_smaller_choice_is_part_of_a_larger_one_and_no_beginning():
    indices = np.arange(7, 2007, 2)
    choices = {count: subsample(indices, count, seed=5) for count in (0, 1, 10, 100, 999, 1000)}
    for count, chosen in choices.items():
        assert chosen.dtype == indices.dtype
        assert len(chosen) == count
        assert np.all(np.diff(chosen) > 0)
        assert np.isin(chosen, indices).all()
    assert np.isin(choices[10], choices[100]).all()
    assert np.isin(choices[100], choices[999]).all()
    np.testing.assert_array_equal(choices[1000], indices)
    np.testing.assert_array_equal(subsample(indices, 5000, seed=5), indices)
    np.testing.assert_array_equal(subsample(indices, 100, seed=5), choices[100])
    assert not np.array_equal(subsample(indices, 100, seed=6), choices[100])
    # from all over the file: the mean of 100 of them is within four standard errors of that of all
    assert abs(choices[100].mean() - indices.mean()) < 4 * indices.std() / 10
    with pytest.raises(MindscaipError, match="-1 structures cannot be chosen"):
        subsample(indices, -1)
