"""One block of the backbone: attention in source windows, in target windows, then feed-forward (paper, Figure 3)."""

import math

import torch
from torch import Tensor, nn

from mindscaip.graph.windows import Windows, place, take

NORM_EPS = 1e-4
"""Tokens are of order one; an epsilon that is not tiny bounds the derivatives of the normalisation near zero."""


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight``: smooth everywhere."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.eps = NORM_EPS
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(dim=1, keepdim=True) + self.eps) * self.weight


class WindowAttention(nn.Module):
    """``softmax(Q K^T / (tau sqrt(d_head)) + log e) V`` within windows (paper, Sections 4.2 and 5.1).

    The log-envelope as an additive bias multiplies each key's weight by ``e``, so an edge enters and leaves smoothly.
    """

    def __init__(self, embed_dim: int, num_heads: int, temperature: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = 1.0 / (temperature * math.sqrt(self.head_dim))
        self.norm = RMSNorm(embed_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, tokens: Tensor, windows: Windows) -> Tensor:
        """The residual update ``[T, D]`` of tokens ``[T, D]``."""
        num_windows, width = windows.bias.size(0), windows.bias.size(1)
        qkv = place(self.qkv(self.norm(tokens)), windows)
        qkv = qkv.view(num_windows, width, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.reshape(3, num_windows * self.num_heads, width, self.head_dim).unbind(0)
        bias = windows.bias.repeat_interleave(self.num_heads, 0).unsqueeze(1)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=self.scale)
        mixed = torch.bmm(torch.softmax(scores, dim=2), value)
        mixed = mixed.view(num_windows, self.num_heads, width, self.head_dim).transpose(1, 2)
        return self.out(take(mixed.reshape(num_windows * width, self.num_heads * self.head_dim), windows))


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
        atoms, edges = tokens[:num_atoms], tokens[num_atoms:]
        return torch.cat([atoms + self.atom_feed_forward(atoms), edges + self.edge_feed_forward(edges)])

    def forward(self, tokens: Tensor, source: Windows, target: Windows) -> Tensor:
        return self.target_stage(self.source_stage(tokens, source), target)
