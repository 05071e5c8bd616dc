"""Tokens and the windows that they attend in (paper, Section 4.1), in TorchScript.

Tokens stand in one flat table ``[T, D]``, ``T = N + E``: first the self token of every atom (zero distance, weight 1),
then one token per edge of the graph. The source window of atom ``i`` holds its self token and all edges ``(i, *)``; the
target window holds its self token and all edges ``(*, i)``. Windows are padded to the longest one present, never cut.

Attention wants one contiguous matrix per window and head. :func:`spread` and :func:`collect` go from the token table to
these matrices and back in one copy each, and each is the other's transpose: no derivative needs a scatter-add.
"""

from typing import NamedTuple

import torch
from torch import Tensor

WIDTH_MULTIPLE = 8
MINIMUM_WIDTH = 16
"""Padded widths are rounded up: CPU kernels of short, odd rows are several times slower (softmax of 15 against 16)."""


class Layout(NamedTuple):
    """Where rows of tokens stand in matrices of windows.

    Attributes:
        matrix_row: int64 ``[R]``, the row of the matrices at which each row of the tokens stands.
        token_row: its inverse, int64 ``[M]``; ``R`` at padding.
    """

    matrix_row: Tensor
    token_row: Tensor


class Windows(NamedTuple):
    """Padded windows over the token table: ``N`` windows of ``W`` slots, ``H`` attention heads.

    Attributes:
        bias: log-envelope of each slot, ``[N, W]``: 0 for the self token, minus infinity for padding. Self tokens stand
            at slot 0 of their window.
        heads: from ``[T, H]`` to ``[N, H, W]``.
        qkv: from ``[T, 3, H]`` to ``[3, N, H, W]``.
    """

    bias: Tensor
    heads: Layout
    qkv: Layout


def make_windows(
    window: Tensor,
    log_envelope: Tensor,
    num_atoms: int,
    num_heads: int,
    multiple: int = WIDTH_MULTIPLE,
    minimum: int = MINIMUM_WIDTH,
) -> Windows:
    """Arrange self tokens and edge tokens into windows.

    Args:
        window: the window of each edge, int64 ``[E]``: centres for source windows, neighbours for target windows.
        log_envelope: ``[E]``; the attention bias through which an edge enters and leaves without a trace.
        num_heads: attention heads ``H``.
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
    bias = torch.full((num_atoms, width), float("-inf"), dtype=log_envelope.dtype, device=device)
    bias[:, 0] = 0.0
    bias = bias.index_put([window, column], log_envelope)

    owner = torch.cat([atoms, window]).unsqueeze(1)
    column = torch.cat([torch.zeros_like(atoms), column]).unsqueeze(1)
    rows = (owner * num_heads + torch.arange(num_heads, device=device)) * width + column
    size = num_atoms * num_heads * width
    thirds = torch.arange(3, device=device).unsqueeze(1) * size
    return Windows(
        bias=bias,
        heads=_layout(rows.reshape(-1), size),
        qkv=_layout((rows.unsqueeze(1) + thirds).reshape(-1), 3 * size),
    )


def _layout(matrix_row: Tensor, size: int) -> Layout:
    num_rows = matrix_row.size(0)
    token_row = torch.full((size,), num_rows, dtype=torch.int64, device=matrix_row.device)
    token_row[matrix_row] = torch.arange(num_rows, device=matrix_row.device)
    return Layout(matrix_row=matrix_row, token_row=token_row)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, matrix_row, token_row):  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(matrix_row, token_row)
        return values.new_zeros(token_row.size(0), values.size(1)).index_copy_(0, matrix_row, values)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def,override]
        return _Collect.apply(gradient, *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrices, matrix_row, token_row):  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(matrix_row, token_row)
        return matrices.index_select(0, matrix_row)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def,override]
        return _Spread.apply(gradient, *ctx.saved_tensors), None, None


def spread(values: Tensor, layout: Layout) -> Tensor:
    """Rows of tokens ``[R, d]`` into matrices ``[M, d]``, zeros at padding."""
    if torch.jit.is_scripting():
        matrices = torch.zeros((layout.token_row.size(0), values.size(1)), dtype=values.dtype, device=values.device)
        return matrices.index_put_([layout.matrix_row], values)
    return _Spread.apply(values, layout.matrix_row, layout.token_row)


def collect(matrices: Tensor, layout: Layout) -> Tensor:
    """Matrices ``[M, d]`` back into rows of tokens ``[R, d]``."""
    if torch.jit.is_scripting():
        # Not an index_select, whose derivative is a slow scatter-add: that of an index_put is an index_select. All
        # padding goes to one more row, which is cut off.
        num_rows = layout.matrix_row.size(0)
        values = torch.zeros((num_rows + 1, matrices.size(1)), dtype=matrices.dtype, device=matrices.device)
        return values.index_put_([layout.token_row], matrices)[:num_rows]
    return _Collect.apply(matrices, layout.matrix_row, layout.token_row)
