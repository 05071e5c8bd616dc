"""One block of the backbone: attention in source windows, in target windows, then feed-forward (paper, Figure 3)."""

import math

import torch
from torch import Tensor, nn

from mindscaip.graph.windows import Windows, collect, spread

NORM_EPS = 1e-4
"""Tokens are of order one; an epsilon that is not tiny bounds the derivatives of the normalisation near zero."""


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight``: smooth everywhere."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.eps = NORM_EPS
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt((x * x).mean(dim=1, keepdim=True) + self.eps)
        return normed if self.weight is None else normed * self.weight

    @torch.no_grad()
    def fold_into(self, linear: nn.Linear) -> None:
        """Hand the weight over to the linear map that follows: the same function in fewer operations."""
        if self.weight is not None:
            linear.weight.mul_(self.weight)
            self.weight = None


class WindowAttention(nn.Module):
    """``softmax(Q K^T / (tau sqrt(d_head)) + log e) V`` within windows (paper, Sections 4.2 and 5.1).

    The log-envelope as an additive bias multiplies each key's weight by ``e``, so an edge enters and leaves smoothly.
    """

    def __init__(self, embed_dim: int, num_heads: int, temperature: float) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = 1.0 / (temperature * math.sqrt(self.head_dim))
        self.norm = RMSNorm(embed_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, tokens: Tensor, windows: Windows) -> Tensor:
        """The residual update ``[T, D]`` of tokens ``[T, D]``."""
        width = windows.bias.size(1)
        rows = self.qkv(self.norm(tokens)).view(-1, self.head_dim)
        query, key, value = spread(rows, windows.qkv).view(3, -1, width, self.head_dim).unbind(0)
        mixed = self._mix(query, key, value, windows).view(-1, self.head_dim)
        return self.out(collect(mixed, windows.heads).view(-1, self.embed_dim))

    def self_tokens(self, tokens: Tensor, windows: Windows) -> Tensor:
        """The update ``[N, D]`` of the self tokens alone, which stand first in ``tokens`` and in their windows."""
        num_windows, width = windows.bias.size(0), windows.bias.size(1)
        rows = self.qkv(self.norm(tokens)).view(-1, self.head_dim)
        query, key, value = spread(rows, windows.qkv).view(3, -1, width, self.head_dim).unbind(0)
        mixed = self._mix(query[:, :1], key, value, windows)
        return self.out(mixed.view(num_windows, self.embed_dim))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, windows: Windows) -> Tensor:
        bias = windows.bias.repeat_interleave(self.num_heads, 0).unsqueeze(1)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=self.scale)
        return torch.bmm(torch.softmax(scores, dim=2), value)


class FeedForward(nn.Module):
    """Pre-norm two-layer network ``D -> hidden -> D`` with SiLU."""

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = RMSNorm(embed_dim)
        self.enter = nn.Linear(embed_dim, hidden)
        self.activation = nn.SiLU()
        self.out = nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.enter(self.norm(x))))


class Block(nn.Module):
    """Two window attentions and feed-forward networks, each a residual update.

    Edge tokens and the (30 times fewer) self tokens have networks of their own: 4 D^2 and 16 D^2 parameters at the
    default factors, beside 8 D^2 of attention.
    """

    def __init__(self, embed_dim: int, num_heads: int, temperature: float, edge_hidden: int, atom_hidden: int) -> None:
        super().__init__()
        self.source = WindowAttention(embed_dim, num_heads, temperature)
        self.target = WindowAttention(embed_dim, num_heads, temperature)
        self.edge_feed_forward = FeedForward(embed_dim, edge_hidden)
        self.atom_feed_forward = FeedForward(embed_dim, atom_hidden)

    def source_stage(self, tokens: Tensor, source: Windows) -> Tensor:
        """Attention among the edges that leave an atom."""
        return tokens + self.source(tokens, source)

    def target_stage(self, tokens: Tensor, target: Windows) -> Tensor:
        """Attention among the edges that arrive at an atom, then feed-forward of every token."""
        tokens = tokens + self.target(tokens, target)
        num_atoms = target.bias.size(0)
        atoms, edges = tokens.split([num_atoms, tokens.size(0) - num_atoms])
        return tokens + torch.cat([self.atom_feed_forward(atoms), self.edge_feed_forward(edges)])

    def forward(self, tokens: Tensor, source: Windows, target: Windows) -> Tensor:
        return self.target_stage(self.source_stage(tokens, source), target)


class LastBlock(nn.Module):
    """The block before the readout: self tokens alone are read, so nothing is computed of edge tokens but what they say
    to self tokens."""

    def __init__(self, embed_dim: int, num_heads: int, temperature: float, atom_hidden: int) -> None:
        super().__init__()
        self.source = WindowAttention(embed_dim, num_heads, temperature)
        self.target = WindowAttention(embed_dim, num_heads, temperature)
        self.atom_feed_forward = FeedForward(embed_dim, atom_hidden)

    def source_stage(self, tokens: Tensor, source: Windows) -> Tensor:
        """Attention among the edges that leave an atom."""
        return tokens + self.source(tokens, source)

    def target_stage(self, tokens: Tensor, target: Windows) -> Tensor:
        """Self tokens ``[N, D]`` from all tokens ``[T, D]``."""
        atoms = tokens[: target.bias.size(0)] + self.target.self_tokens(tokens, target)
        return atoms + self.atom_feed_forward(atoms)

    def forward(self, tokens: Tensor, source: Windows, target: Windows) -> Tensor:
        return self.target_stage(self.source_stage(tokens, source), target)


def fold_norms(model: nn.Module) -> nn.Module:
    """Fold the weight of every norm of ``model``, in place, into the linear map that reads it; returns ``model``."""
    for module in model.modules():
        norm = getattr(module, "norm", None)
        if isinstance(norm, RMSNorm):
            norm.fold_into(module.qkv if isinstance(module, WindowAttention) else module.enter)  # type: ignore[arg-type]
    return model
