"""Tokens in windows: every token in its window, none lost, gradients as those of plain indexing."""

import torch

from mindscaip.graph.windows import make_windows, place, take

EDGE_WINDOW = torch.tensor([2, 0, 2, 2, 0])
LOG_ENVELOPE = torch.tensor([-0.1, -0.2, -0.3, -0.4, -0.5], dtype=torch.float64)


def test_every_token_stands_in_its_window_with_its_bias():
    windows = make_windows(EDGE_WINDOW, LOG_ENVELOPE, 4)
    num_windows, width = windows.bias.shape
    assert (num_windows, width) == (4, 16)
    table = windows.token.view(num_windows, width)
    assert table[:, 0].tolist() == [0, 1, 2, 3]
    for edge, window in enumerate(EDGE_WINDOW.tolist()):
        slot = int(windows.slot[4 + edge])
        assert slot // width == window
        assert table.reshape(-1)[slot] == 4 + edge
        assert windows.bias.reshape(-1)[slot] == LOG_ENVELOPE[edge]
    assert len(windows.padding) == 4 * width - 9
    assert torch.isinf(windows.bias.reshape(-1)[windows.padding]).all()
    assert (windows.bias[:, 0] == 0).all()


def test_windows_grow_with_the_data():
    window = torch.zeros(100, dtype=torch.int64)
    assert make_windows(window, torch.zeros(100), 2).bias.shape == (2, 104)


def test_no_edges_and_no_atoms():
    none = torch.zeros(0, dtype=torch.int64)
    assert make_windows(none, torch.zeros(0), 3).slot.tolist() == [0, 16, 32]
    assert make_windows(none, torch.zeros(0), 0).token.shape == (0,)


def test_take_undoes_place_and_second_derivatives_are_right():
    windows = make_windows(EDGE_WINDOW, LOG_ENVELOPE, 4)
    tokens = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(take(place(tokens, windows), windows), tokens)
    assert (place(tokens, windows)[windows.padding] == 0).all()

    def through(x: torch.Tensor) -> torch.Tensor:
        return take(place(x, windows).sin() * windows.slot.sum(), windows)

    assert torch.autograd.gradcheck(through, (tokens,))
    assert torch.autograd.gradgradcheck(through, (tokens,))
