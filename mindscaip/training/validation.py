"""Errors of the averaged weights on the validation part, over all processes, and what the best checkpoint is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from mindscaip.config import TrainingConfig
from mindscaip.model.backbone import MinDScAIP
from mindscaip.training.batch import Batch
from mindscaip.training.distributed import Processes
from mindscaip.training.loss import Predictor
from mindscaip.units import EV_TO_MEV


@contextmanager
def averaged_weights(model: MinDScAIP, ema: dict[str, torch.Tensor]) -> Iterator[None]:
    """Within, the model has the averaged weights; afterwards those of the optimiser again."""
    current = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(ema)
    try:
        yield
    finally:
        model.load_state_dict(current)


def validation_errors(predictor: Predictor, batches: Iterable[Batch], processes: Processes) -> dict[str, float]:
    """Errors over the batches of all processes, in meV/atom and meV/A."""
    predictor.eval()
    device = next(predictor.parameters()).device
    sums = torch.zeros(5, dtype=torch.float64)
    for batch in batches:
        batch = batch.to(device)
        energy, forces, _ = predictor(batch)
        difference = (forces - batch.forces).detach().double()
        per_atom = (energy.detach() - batch.energy).abs() / batch.num_atoms
        sums[0] += per_atom.sum().item()
        sums[1] += per_atom.numel()
        sums[2] += difference.abs().sum().item()
        sums[3] += (difference**2).sum().item()
        sums[4] += difference.numel()
    energy_sum, structures, absolute, squared, components = processes.total(sums)
    return {
        "energy_mae_meV_per_atom": energy_sum / structures * EV_TO_MEV,
        "force_mae_meV_per_A": absolute / components * EV_TO_MEV,
        "force_rmse_meV_per_A": math.sqrt(squared / components) * EV_TO_MEV,
    }


def selection_score(errors: dict[str, float], settings: TrainingConfig) -> float:
    """The best checkpoint has the least weighted sum of validation errors (eV units), weighted as the loss is."""
    return (
        settings.loss.energy * errors["energy_mae_meV_per_atom"] + settings.loss.forces * errors["force_mae_meV_per_A"]
    ) / EV_TO_MEV
