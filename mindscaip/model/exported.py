"""The module that a ``model.pt`` holds, in TorchScript."""

import torch
from torch import Tensor, nn

from mindscaip.graph.diffknn import Graph
from mindscaip.graph.windows import Windows
from mindscaip.model.backbone import MinDScAIP


class ExportedPotential(nn.Module):
    """What ``model.pt`` holds: the model with its edge gradients, and its stages (contract version 1).

    The weights carry no gradient, so a call differentiates with respect to the edges only.
    """

    def __init__(self, model: MinDScAIP) -> None:
        super().__init__()
        self.model = model
        self.direct = model.direct
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Atomic numbers ``[N]``, edges ``[2, E]``, ``[E, 3]`` to atom energies, edge gradients, direct forces."""
        # TorchScript has no ``with torch.enable_grad()``, and its compiled code keeps the mode of the caller: with
        # gradients off there, the derivative would be zero without a word.
        vectors = edge_vectors.detach().requires_grad_(not self.direct)
        energies, forces = self.model(numbers, edge_index, vectors)
        gradients = torch.zeros_like(edge_vectors)
        if not self.direct and edge_vectors.size(0) > 0:
            total = energies.sum()
            if not total.requires_grad:
                raise RuntimeError("mindscaip: call the model with gradients on, outside torch.no_grad()")
            gradient = torch.autograd.grad([total], [vectors], allow_unused=True)[0]
            if gradient is not None:  # no edge within the cutoff
                gradients = gradient.detach()
        return energies.detach(), gradients, forces.detach().to(edge_vectors.dtype)

    @torch.jit.export
    def select_edges(self, num_atoms: int, edge_index: Tensor, edge_vectors: Tensor) -> Graph:
        return self.model.select_edges(num_atoms, edge_index, edge_vectors)

    @torch.jit.export
    def windows(self, num_atoms: int, graph: Graph) -> tuple[Windows, Windows]:
        return self.model.windows(num_atoms, graph)

    @torch.jit.export
    def window_ranks(self, num_windows: int, window: Tensor, distance: Tensor) -> Tensor:
        return self.model.window_ranks(num_windows, window, distance)

    @torch.jit.export
    def weigh_edges(
        self, center: Tensor, neighbor: Tensor, vectors: Tensor, distance: Tensor, ranks: Tensor, target_ranks: Tensor
    ) -> Graph:
        return self.model.weigh_edges(center, neighbor, vectors, distance, ranks, target_ranks)

    @torch.jit.export
    def arrange(self, num_windows: int, window: Tensor, log_envelope: Tensor) -> Windows:
        return self.model.arrange(num_windows, window, log_envelope)

    @torch.jit.export
    def embed(self, numbers: Tensor, graph: Graph) -> Tensor:
        return self.model.embed(numbers, graph)

    @torch.jit.export
    def source_stage(self, layer: int, tokens: Tensor, source: Windows) -> Tensor:
        return self.model.source_stage(layer, tokens, source)

    @torch.jit.export
    def target_stage(self, layer: int, tokens: Tensor, target: Windows) -> Tensor:
        return self.model.target_stage(layer, tokens, target)

    @torch.jit.export
    def readout(self, numbers: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.readout(numbers, atoms)
