"""What is read from the self tokens: the energy, forces directly (baseline, pre-training), noise (pre-training)."""

import torch
from torch import Tensor, nn

from mindscaip.model.attention import RMSNorm


class EnergyHead(nn.Module):
    """Per-atom energies from self tokens; reading self tokens alone makes the readout smooth for free."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(embed_dim)
        self.enter = nn.Linear(embed_dim, embed_dim)
        self.activation = nn.SiLU()
        self.out = nn.Linear(embed_dim, 1)

    def forward(self, atoms: Tensor) -> Tensor:
        """Self tokens ``[N, D]`` to numbers of order one ``[N]``."""
        return self.out(self.activation(self.enter(self.norm(atoms)))).squeeze(1)


class DirectForceHead(nn.Module):
    """Forces as a plain output ``[N, 3]``: not the gradient of anything (the paper's baseline)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(embed_dim)
        self.enter = nn.Linear(embed_dim, embed_dim)
        self.activation = nn.SiLU()
        self.out = nn.Linear(embed_dim, 3, bias=False)

    def forward(self, atoms: Tensor) -> Tensor:
        return self.out(self.activation(self.enter(self.norm(atoms))))


class Denoiser(nn.Module):
    """Input and output of denoising (DeNS, Liao et al. 2024); used in pre-training and dropped after it.

    Corrupted atoms carry their true forces on their self tokens, which makes the uncorrupted structure unique. An
    unconstrained model takes a vector as it takes any other number: by a plain linear map.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, embed_dim, bias=False)
        self.head = DirectForceHead(embed_dim)

    def encode(self, forces: Tensor, corrupted: Tensor) -> Tensor:
        """What is added to the self tokens ``[N, D]``: scaled forces ``[N, 3]`` where ``corrupted`` ``[N]``, else 0."""
        return self.encoder(torch.where(corrupted.unsqueeze(1), forces, 0.0))

    def forward(self, atoms: Tensor) -> Tensor:
        """The noise ``[N, 3]`` over its standard deviation, from self tokens ``[N, D]``."""
        return self.head(atoms)
