"""Ranks, envelope and selection against plain sums over all pairs."""

import math

import pytest
import torch

from mindscaip.graph.diffknn import build_graph, bump, window_ranks

DOUBLE = torch.float64


def bump_of_eq_10(x: float) -> float:
    """The corrected Eq. 10 in its two-exponential form, argument scaled by 1/4."""
    u = x / 4
    if u <= -1:
        return 0.0
    if u >= 1:
        return 1.0
    a, b = math.exp(-2 / (u + 1)), math.exp(-2 / (1 - u))
    return a / (a + b)


def test_bump_is_the_corrected_eq_10():
    x = torch.linspace(-5, 5, 2001, dtype=DOUBLE)
    expected = torch.tensor([bump_of_eq_10(v) for v in x.tolist()], dtype=DOUBLE)
    assert torch.allclose(bump(x), expected, rtol=0, atol=1e-15)


def test_bump_has_the_sigmoids_slope_and_is_flat_beyond_its_reach():
    x = torch.tensor([-4.0, 0.0, 4.0], dtype=DOUBLE, requires_grad=True)
    y = bump(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [0.0, 0.5, 1.0]
    assert slope.tolist() == [0.0, 0.25, 0.0]


def test_derivatives_of_the_bump_stay_finite_next_to_its_ends():
    ends = torch.tensor([4.0, -4.0], dtype=DOUBLE)
    x = torch.nextafter(ends, torch.zeros(2, dtype=DOUBLE)).requires_grad_(True)
    y = bump(x)
    for _ in range(4):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert torch.isfinite(y).all()


def brute_force_ranks(window: torch.Tensor, distance: torch.Tensor, d0: float, step) -> torch.Tensor:
    same = window[:, None] == window[None, :]
    return (same * step((distance[:, None] - distance[None, :]) / d0)).sum(1)


@pytest.mark.parametrize("k", [1, 5, 30, 1000])
@pytest.mark.parametrize("num_edges", [1, 7, 400])
def test_truncated_ranks_equal_the_full_sum(k, num_edges):
    generator = torch.Generator().manual_seed(k + num_edges)
    window = torch.randint(0, 6, (num_edges,), generator=generator)
    distance = 1.0 + 5.0 * torch.rand(num_edges, generator=generator, dtype=DOUBLE)
    distance.requires_grad_(True)
    ranks = window_ranks(window, distance, 7, k, 0.2, "bump", False)
    full = brute_force_ranks(window, distance, 0.2, bump)
    relevant = full < k
    assert torch.allclose(ranks[relevant], full[relevant], rtol=0, atol=1e-12)
    assert (ranks[~relevant] >= k - 1e-12).all()
    weights = torch.rand(num_edges, generator=generator, dtype=DOUBLE) * relevant
    ours = torch.autograd.grad((weights * torch.where(relevant, ranks, 0.0)).sum(), distance)[0]
    theirs = torch.autograd.grad((weights * full).sum(), distance)[0]
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_sigmoid_ranks_equal_the_full_sum():
    window = torch.tensor([0, 0, 1, 0, 1])
    distance = torch.tensor([1.0, 2.0, 1.5, 1.1, 4.0], dtype=DOUBLE)
    ranks = window_ranks(window, distance, 2, 2, 0.2, "sigmoid", False)
    assert torch.allclose(ranks, brute_force_ranks(window, distance, 0.2, torch.sigmoid), rtol=0, atol=1e-14)


def test_hard_ranks_count_shorter_edges():
    window = torch.tensor([0, 0, 1, 0, 1, 0])
    distance = torch.tensor([3.0, 1.0, 2.0, 2.0, 1.0, 2.0], dtype=DOUBLE)
    assert window_ranks(window, distance, 2, 2, 0.2, "bump", True).tolist() == [3, 0, 1, 1, 0, 1]


def shell(count: int, radius: float) -> torch.Tensor:
    """Unit directions on a spiral, all at the same distance."""
    n = torch.arange(count, dtype=DOUBLE) + 0.5
    polar, azimuth = torch.acos(1 - 2 * n / count), math.pi * (1 + 5**0.5) * n
    directions = [torch.cos(azimuth) * torch.sin(polar), torch.sin(azimuth) * torch.sin(polar), torch.cos(polar)]
    return radius * torch.stack(directions, 1)


def graph_of(
    vectors: torch.Tensor, *, k: int = 30, cutoff: float = 6.0, kind: str = "diffknn", ranking: str = "source"
):
    """A star: atom 0 in the centre, one neighbour per vector."""
    num_edges = len(vectors)
    index = torch.stack([torch.zeros(num_edges, dtype=torch.int64), torch.arange(1, num_edges + 1)])
    return build_graph(num_edges + 1, index, vectors, k, cutoff, 0.2, 10.0, kind, "bump", ranking)


def test_a_shell_of_tied_neighbours_keeps_all_edges_up_to_twice_k():
    assert len(graph_of(shell(56, 2.0)).center) == 56  # soft rank 28 < 30
    assert len(graph_of(shell(61, 2.0)).center) == 0  # soft rank 30.5
    assert len(graph_of(shell(61, 2.0), kind="knn").center) == 61  # Eq. 4 ranks ties 0


def test_envelope_is_eqs_7_and_8():
    vectors = torch.tensor([[1.0, 0, 0], [0, 3.0, 0], [0, 0, 5.0], [4.0, 0, 0]], dtype=DOUBLE)
    graph = graph_of(vectors, k=5)
    distance = torch.tensor([1.0, 3.0, 4.0, 5.0], dtype=DOUBLE)
    rank = torch.arange(4, dtype=DOUBLE) + 0.5  # farther apart than 0.8 A: whole steps, and 1/2 for the edge itself
    f = torch.log(torch.exp(10 * rank / 5) + torch.exp(10 * distance / 6)) / 10
    assert graph.distance.tolist() == distance.tolist()
    assert torch.allclose(graph.log_envelope, -(f**2) / (1 - f**2), rtol=1e-12)


def test_no_edge_beyond_the_cutoff_and_none_of_full_weight():
    vectors = torch.tensor([[5.99, 0, 0], [0, 6.0, 0], [0, 0, 6.5]], dtype=DOUBLE)
    graph = graph_of(vectors)
    assert (graph.distance < 6.0).all()
    assert (graph.log_envelope < -10).all()


def test_neighbours_beyond_the_list_radius_change_nothing():
    near = torch.cat([shell(20, 3.0), shell(20, 6.7)])
    far = torch.cat([near, shell(20, 6.81)])
    for a, b in zip(graph_of(near)[2:], graph_of(far)[2:], strict=True):
        assert torch.equal(a, b)


def test_mutual_ranking_bounds_target_windows():
    # 100 atoms that all have atom 0 as their only neighbour: source windows of 1 edge, one target window of 100.
    vectors = shell(100, 2.0) * (1 + 0.02 * torch.arange(100, dtype=DOUBLE))[:, None]
    index = torch.stack([torch.arange(1, 101), torch.zeros(100, dtype=torch.int64)])
    source = build_graph(101, index, vectors, 10, 6.0, 0.2, 10.0, "diffknn", "bump", "source")
    mutual = build_graph(101, index, vectors, 10, 6.0, 0.2, 10.0, "diffknn", "bump", "mutual")
    assert len(source.center) == 100
    assert 10 <= len(mutual.center) <= 20


def test_unsorted_input_gives_one_canonical_graph():
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(50, 3, generator=generator, dtype=DOUBLE) * 2
    index = torch.randint(0, 9, (2, 50), generator=generator)
    order = torch.randperm(50, generator=generator)
    one = build_graph(9, index, vectors, 4, 6.0, 0.2, 10.0, "diffknn", "bump", "source")
    two = build_graph(9, index[:, order], vectors[order], 4, 6.0, 0.2, 10.0, "diffknn", "bump", "source")
    assert len(one.center) > 10
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)
