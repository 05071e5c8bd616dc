"""Tokens and the windows that they attend in (paper, Section 4.1), in TorchScript.

Tokens stand in one flat table ``[T, D]``, ``T = N + E``: first the self token of every atom (zero distance, weight 1),
then one token per edge of the graph. The source window of atom ``i`` holds its self token and all edges ``(i, *)``; the
target window holds its self token and all edges ``(*, i)``. Windows are padded to the longest one present, never cut.
"""

from typing import NamedTuple

import torch
from torch import Tensor

WIDTH_MULTIPLE = 8
MINIMUM_WIDTH = 16
"""Padded widths are rounded up: CPU kernels of short, odd rows are several times slower (softmax of 15 against 16)."""


class Windows(NamedTuple):
    """Padded windows over the token table, ``S = N * W`` slots.

    Attributes:
        token: token that stands in each slot, int64 ``[S]``; padding repeats the self token.
        slot: slot at which each token stands, int64 ``[T]``.
        padding: the slots that are padding, int64 ``[P]``.
        bias: log-envelope of each slot, ``[N, W]``: 0 for the self token, minus infinity for padding.
    """

    token: Tensor
    slot: Tensor
    padding: Tensor
    bias: Tensor


def make_windows(
    window: Tensor,
    log_envelope: Tensor,
    num_atoms: int,
    multiple: int = WIDTH_MULTIPLE,
    minimum: int = MINIMUM_WIDTH,
) -> Windows:
    """Arrange self tokens and edge tokens into windows.

    Args:
        window: the window of each edge, int64 ``[E]``: centres for source windows, neighbours for target windows.
        log_envelope: ``[E]``; the attention bias through which an edge enters and leaves without a trace.
    """
    device = window.device
    num_edges = window.size(0)
    counts = torch.bincount(window, minlength=num_atoms)
    longest = 1 + (int(counts.max().item()) if num_edges > 0 else 0)
    width = max(minimum, (longest + multiple - 1) // multiple * multiple)
    order = torch.argsort(window, stable=True)
    first = torch.cumsum(counts, 0) - counts
    column = torch.empty_like(window)
    column[order] = 1 + torch.arange(num_edges, device=device) - first[window[order]]

    atoms = torch.arange(num_atoms, device=device)
    slot = torch.cat([atoms * width, window * width + column])
    token = atoms.repeat_interleave(width)
    token[slot] = torch.arange(num_atoms + num_edges, device=device)
    bias = torch.full((num_atoms, width), float("-inf"), dtype=log_envelope.dtype, device=device)
    bias[:, 0] = 0.0
    bias = bias.index_put([window, column], log_envelope)
    padding = torch.nonzero(bias.detach().reshape(-1) == float("-inf")).squeeze(1)
    return Windows(token=token, slot=slot, padding=padding, bias=bias)


class _Place(torch.autograd.Function):
    """Tokens into slots, zeros at padding. Its transpose is :class:`_Take`: no derivative needs a slow scatter-add."""

    @staticmethod
    def forward(ctx, tokens, token, slot, padding):  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(token, slot, padding)
        return tokens.index_select(0, token).index_fill_(0, padding, 0.0)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def,override]
        return _Take.apply(gradient, *ctx.saved_tensors), None, None, None


class _Take(torch.autograd.Function):
    """Slots back into tokens."""

    @staticmethod
    def forward(ctx, slots, token, slot, padding):  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(token, slot, padding)
        return slots.index_select(0, slot)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def,override]
        return _Place.apply(gradient, *ctx.saved_tensors), None, None, None


def place(tokens: Tensor, windows: Windows) -> Tensor:
    """Rows ``[T, C]`` into slots ``[S, C]``."""
    if torch.jit.is_scripting():
        return tokens.index_select(0, windows.token).index_fill(0, windows.padding, 0.0)
    return _Place.apply(tokens, windows.token, windows.slot, windows.padding)


def take(slots: Tensor, windows: Windows) -> Tensor:
    """Slots ``[S, C]`` back into rows ``[T, C]``."""
    if torch.jit.is_scripting():
        return slots.index_select(0, windows.slot)
    return _Take.apply(slots, windows.token, windows.slot, windows.padding)
