"""What is read from the self tokens: the energy (conservative), or forces directly (baseline)."""

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
