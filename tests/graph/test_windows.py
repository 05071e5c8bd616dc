"""Tokens in windows: every token in its window, none lost, gradients as those of plain indexing."""

import torch

from mindscaip.graph.windows import Layout, collect, make_windows, spread

EDGE_WINDOW = torch.tensor([2, 0, 2, 2, 0])
LOG_ENVELOPE = torch.tensor([-0.1, -0.2, -0.3, -0.4, -0.5], dtype=torch.float64)
HEADS = 2


def test_every_token_stands_in_its_window_with_its_bias():
    windows = make_windows(EDGE_WINDOW, LOG_ENVELOPE, 4, HEADS)
    num_windows, width = windows.bias.shape
    assert (num_windows, width) == (4, 16)
    assert (windows.bias[:, 0] == 0).all()
    # Numbers that tell token and head, spread into [N, H, W].
    names = torch.arange(9 * HEADS, dtype=torch.float64).unsqueeze(1) + 1
    table = spread(names, windows.heads).view(num_windows, HEADS, width)
    owners = [0, 1, 2, 3, *EDGE_WINDOW.tolist()]
    for token, owner in enumerate(owners):
        for head in range(HEADS):
            place = torch.nonzero(table == token * HEADS + head + 1)
            assert place.shape == (1, 3)
            assert place[0, :2].tolist() == [owner, head]
            column = int(place[0, 2])
            assert (column == 0) == (token < 4)
            assert windows.bias[owner, column] == (0.0 if token < 4 else LOG_ENVELOPE[token - 4])
    assert int((table == 0).sum()) == HEADS * (4 * width - 9)
    assert torch.equal(table[:, 0] == 0, torch.isinf(windows.bias))


def test_queries_keys_and_values_stand_alike():
    windows = make_windows(EDGE_WINDOW, LOG_ENVELOPE, 4, HEADS)
    rows = torch.randn(9, 3, HEADS, 5)
    found = spread(rows.view(-1, 5), windows.qkv).view(3, -1, 5)
    for part in range(3):
        assert torch.equal(found[part], spread(rows[:, part].reshape(-1, 5), windows.heads))


def test_windows_grow_with_the_data():
    window = torch.zeros(100, dtype=torch.int64)
    assert make_windows(window, torch.zeros(100), 2, HEADS).bias.shape == (2, 104)


def test_no_edges_and_no_atoms():
    none = torch.zeros(0, dtype=torch.int64)
    assert make_windows(none, torch.zeros(0), 3, 1).heads.matrix_row.tolist() == [0, 16, 32]
    assert make_windows(none, torch.zeros(0), 0, 1).heads.token_row.shape == (0,)


def round_trip(x: torch.Tensor, matrix_row: torch.Tensor, token_row: torch.Tensor) -> torch.Tensor:
    layout = Layout(matrix_row, token_row)
    return collect(spread(x, layout).sin() * torch.arange(token_row.size(0)).unsqueeze(1), layout)


def test_collect_undoes_spread_and_second_derivatives_are_right():
    layout = make_windows(EDGE_WINDOW, LOG_ENVELOPE, 4, HEADS).heads
    tokens = torch.randn(9 * HEADS, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(collect(spread(tokens, layout), layout), tokens)
    assert torch.autograd.gradcheck(round_trip, (tokens, *layout))
    assert torch.autograd.gradgradcheck(round_trip, (tokens, *layout))


def test_scripted_windows_are_the_same_with_the_same_gradient():
    layout = make_windows(EDGE_WINDOW, LOG_ENVELOPE, 4, HEADS).heads
    scripted = torch.jit.script(round_trip)
    results = []
    for function in (round_trip, scripted):
        tokens = torch.linspace(-1, 1, 54, dtype=torch.float64).view(18, 3).requires_grad_()
        out = function(tokens, *layout)
        results.append((out.detach(), *torch.autograd.grad((out * out).sum(), tokens)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-14, rtol=0)
