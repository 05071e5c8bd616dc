"""What training minimises and what it reports."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mindscaip.config import LossConfig
from mindscaip.model.backbone import MinDScAIP
from mindscaip.model.derivatives import (
    forces_from_edge_gradients,
    stress_from_virial,
    virials_from_edge_gradients,
)
from mindscaip.training.batches import Batch


class Predictor(nn.Module):
    """A model with its derivatives: batches to energies, forces and virials.

    Everything that training differentiates happens in ``forward``, so that data-parallel wrappers see the whole graph.
    """

    def __init__(self, model: MinDScAIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Energies float64 ``[B]`` (eV), forces ``[N, 3]`` (eV/A), virials ``[B, 3, 3]`` (eV; 0 for direct forces)."""
        num_structures = batch.num_atoms.size(0)
        with torch.enable_grad():
            vectors = batch.edge_vectors.detach().requires_grad_(not self.model.direct)
            atom_energies, direct_forces = self.model(batch.numbers, batch.edge_index, vectors)
            energy = torch.zeros_like(batch.energy).index_add(0, batch.atom_structure, atom_energies)
            if self.model.direct:
                return energy, direct_forces, torch.zeros_like(batch.stress)
            (gradients,) = torch.autograd.grad(atom_energies.sum(), vectors, create_graph=self.training)
        forces = forces_from_edge_gradients(gradients, batch.edge_index, batch.numbers.size(0))
        virials = virials_from_edge_gradients(gradients, batch.edge_vectors, batch.edge_structure, num_structures)
        return energy, forces, virials


def weighted_loss(prediction: tuple[Tensor, Tensor, Tensor], batch: Batch, weights: LossConfig) -> dict[str, Tensor]:
    """Loss terms and their weighted sum ``loss``.

    ``energy``: mean over structures of ``|dE| / N`` (eV/atom); ``forces``: mean over atoms of ``||dF||_2`` (eV/A);
    ``stress``: mean over labelled structures and components of ``|dS|`` (eV/A^3).
    """
    energy, forces, virials = prediction
    terms = {
        "energy": ((energy - batch.energy).abs() / batch.num_atoms).mean(),
        "forces": torch.linalg.vector_norm(forces - batch.forces, dim=1).mean(),
    }
    loss = weights.energy * terms["energy"] + weights.forces * terms["forces"]
    if weights.stress > 0:
        labelled = (batch.volume > 0) & ~batch.stress.isnan().any(dim=2).any(dim=1)
        if labelled.any():
            stress = stress_from_virial(virials[labelled], batch.volume[labelled])
            terms["stress"] = (stress - batch.stress[labelled]).abs().mean()
            loss = loss + weights.stress * terms["stress"]
    terms["loss"] = loss
    return terms
