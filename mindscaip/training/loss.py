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
from mindscaip.model.heads import Denoiser
from mindscaip.training.batch import Batch

TERMS = ("energy", "forces", "stress", "noise", "force_components")
"""Sums that a step reports; ``force_components`` is ``|dF|`` over components and takes no part in the loss."""


class Predictor(nn.Module):
    """A model with its derivatives: batches to energies, forces and virials.

    Everything that training differentiates happens in ``forward``, so that data-parallel wrappers see the whole graph.
    """

    def __init__(self, model: MinDScAIP, denoiser: Denoiser | None = None) -> None:
        super().__init__()
        self.model = model
        self.denoiser = denoiser

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        """Energies float64 ``[B]`` (eV), forces ``[N, 3]`` (eV/A), virials ``[B, 3, 3]`` (eV; 0 for direct forces).

        For a corrupted batch the noise ``[N, 3]`` over its standard deviation is the fourth.
        """
        if batch.noise is not None and batch.corrupted is not None:
            return self._denoise(batch, batch.corrupted)
        num_structures = batch.num_atoms.size(0)
        with torch.enable_grad():
            vectors = batch.edge_vectors.detach().requires_grad_(not self.model.direct)
            atom_energies, direct_forces = self.model(batch.numbers, batch.edge_index, vectors)
            energy = torch.zeros_like(batch.energy).index_add(0, batch.atom_structure, atom_energies)
            if self.denoiser is not None and self.training:
                # Nothing, but a part in the loss for every parameter: data parallelism wants a gradient of each.
                energy = energy + 0.0 * sum(parameter.sum() for parameter in self.denoiser.parameters())
            if self.model.direct:
                return energy, direct_forces, torch.zeros_like(batch.stress)
            (gradients,) = torch.autograd.grad(atom_energies.sum(), vectors, create_graph=self.training)
        forces = forces_from_edge_gradients(gradients, batch.edge_index, batch.numbers.size(0))
        virials = virials_from_edge_gradients(gradients, batch.edge_vectors, batch.edge_structure, num_structures)
        return energy, forces, virials

    def _denoise(self, batch: Batch, corrupted: Tensor) -> tuple[Tensor, ...]:
        if self.denoiser is None:
            raise RuntimeError("a corrupted batch needs a denoiser")
        added = self.denoiser.encode(batch.forces / self.model.scale.to(batch.forces.dtype), corrupted)
        atoms = self.model.atom_tokens(batch.numbers, batch.edge_index, batch.edge_vectors, added)
        atom_energies, forces = self.model.readout(batch.numbers, atoms)
        energy = torch.zeros_like(batch.energy).index_add(0, batch.atom_structure, atom_energies)
        return energy, forces, torch.zeros_like(batch.stress), self.denoiser(atoms)


def batch_counts(batch: Batch, stress: bool) -> dict[str, int]:
    """What the sums of :func:`loss_sums` are divided by; known before the model runs."""
    if not batch.counts:
        return dict.fromkeys(TERMS, 0)
    displaced = 0 if batch.corrupted is None else int(batch.corrupted.sum())
    kept = batch.numbers.size(0) - displaced
    return {
        "energy": batch.num_atoms.size(0),
        "forces": kept,
        "stress": 9 * int(_labelled(batch).sum()) if stress else 0,
        "noise": displaced,
        "force_components": 3 * kept,
    }


def loss_sums(prediction: tuple[Tensor, ...], batch: Batch, stress: bool) -> dict[str, Tensor]:
    """Sums over a batch, which :func:`weigh` turns into the loss.

    ``energy``: ``|dE| / N`` over structures (eV/atom); ``forces``: ``||dF||_2`` over atoms (eV/A), displaced ones left
    out; ``stress``: ``|dS|`` over components of labelled structures (eV/A^3); ``noise``: ``||d noise||_2`` over
    displaced atoms, in standard deviations.
    """
    energy, forces, virials = prediction[:3]
    difference = forces - batch.forces
    norms = torch.linalg.vector_norm(difference, dim=1)
    components = difference.detach().abs().sum(dim=1)
    zero = torch.zeros((), dtype=norms.dtype, device=norms.device)
    sums = {"stress": zero, "noise": zero}
    if batch.corrupted is not None and batch.noise is not None:
        # Multiplied rather than selected: every parameter has a part in the loss, if all atoms are displaced as well.
        kept = (~batch.corrupted).to(norms.dtype)
        norms, components = norms * kept, components * kept
        errors = torch.linalg.vector_norm(prediction[3] - batch.noise, dim=1)
        sums["noise"] = (errors * batch.corrupted.to(errors.dtype)).sum()
    if stress:
        labelled = _labelled(batch)
        predicted = stress_from_virial(virials[labelled], batch.volume[labelled])
        sums["stress"] = (predicted - batch.stress[labelled]).abs().sum()
    sums["energy"] = ((energy - batch.energy).abs() / batch.num_atoms).sum()
    sums["forces"] = norms.sum()
    sums["force_components"] = components.sum()
    return {name: sums[name] if batch.counts else 0.0 * sums[name] for name in TERMS}


def weigh(sums: dict[str, Tensor], counts: dict[str, float], weights: LossConfig, noise_weight: float = 0.0) -> Tensor:
    """The loss: weighted means, each a sum over its (global) count; a term without a count is 0."""
    factors = {"energy": weights.energy, "forces": weights.forces, "stress": weights.stress, "noise": noise_weight}
    loss = torch.zeros((), dtype=torch.float64, device=sums["energy"].device)
    for name, factor in factors.items():
        loss = loss + factor / max(counts[name], 1) * sums[name]
    return loss


def weighted_loss(
    prediction: tuple[Tensor, ...], batch: Batch, weights: LossConfig, noise_weight: float = 0.0
) -> dict[str, Tensor]:
    """Mean of each term over the batch, and their weighted sum ``loss`` (one process; the definition of the loss)."""
    stress = weights.stress > 0
    sums = loss_sums(prediction, batch, stress)
    counts = batch_counts(batch, stress)
    means = {name: sums[name] / max(counts[name], 1) for name in TERMS}
    return {**means, "loss": weigh(sums, {name: float(n) for name, n in counts.items()}, weights, noise_weight)}


def _labelled(batch: Batch) -> Tensor:
    """Structures with a stress, bool ``[B]``."""
    return (batch.volume > 0) & ~batch.stress.isnan().any(dim=2).any(dim=1)
