"""A tiny analytic potential that keeps the exported contract, so that engines are tested without a trained model.

Energy: ``E = sum_i sum_{e=(i,*)} 0.5 * a_i a_j * w(d_e)``, ``w(d) = (1 - (d/r_c)^2)^3`` for ``d < r_c``,
``a = sqrt(Z)/4``, plus the many-body ``0.1 * (sum_{e=(i,*)} a_j w(d_e))^2`` per atom, so that per-atom energies and
virials are not those of a pair potential, and ``-0.1 * Z_i`` per atom as the reference energy.
"""

from pathlib import Path

import torch
from torch import Tensor

from mindscaip.contract import Contract, write_exported


class ToyPotential(torch.nn.Module):
    cutoff: float

    def __init__(self, cutoff: float, single: bool) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.single = single
        # A weight, so that ``.to(device)`` and the dtype have something to act on.
        self.register_buffer("scale", torch.tensor(1.0, dtype=torch.float32 if single else torch.float64))

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # ``with torch.enable_grad()`` does not script; this does.
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        vectors = edge_vectors.detach().requires_grad_(True)
        v = vectors.to(self.scale.dtype)
        a = torch.sqrt(numbers.to(v.dtype)) / 4.0
        i = edge_index[0]
        j = edge_index[1]
        w = torch.relu(1.0 - (v * v).sum(1) / self.cutoff**2) ** 3 * self.scale
        zeros = torch.zeros(numbers.size(0), dtype=v.dtype, device=v.device)
        pair = zeros.index_add(0, i, 0.5 * a[i] * a[j] * w)
        density = zeros.index_add(0, i, a[j] * w)
        energies = (pair + 0.1 * density * density).to(torch.float64)
        grads = torch.autograd.grad([energies.sum()], [vectors])
        gradient = grads[0]
        assert gradient is not None
        torch.set_grad_enabled(before)
        return (
            energies.detach() - 0.1 * numbers.to(torch.float64),
            gradient,
            torch.zeros((0, 3), dtype=edge_vectors.dtype, device=edge_vectors.device),
        )


def write_toy(
    path: str | Path, *, cutoff: float = 5.0, dtype: str = "float64", elements: tuple[str, ...] = ("H", "C", "N", "O")
) -> Path:
    """Write the toy potential as a ``model.pt`` of the current contract and return its path."""
    contract = Contract(
        elements=elements,
        cutoff=cutoff,
        list_cutoff=cutoff,
        k=30,
        num_layers=0,
        dtype=dtype,
        conservative=True,
        smooth=True,
        ranking="source",
        parameters=0,
    )
    module = torch.jit.script(ToyPotential(cutoff, dtype == "float32").eval())
    write_exported(module, path, contract, {"kind": "toy"})
    return Path(path)
