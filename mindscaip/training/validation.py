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
from mindscaip.training.loss import Predictor, batch_counts, loss_sums
from mindscaip.units import EV_TO_MEV

STRESS_MAE = "stress_mae_meV_per_A3"
"""Key of the error of the stress, over the nine components of the labelled structures."""


@contextmanager
def averaged_weights(model: MinDScAIP, ema: dict[str, torch.Tensor]) -> Iterator[None]:
    """Within, the model has the averaged weights; afterwards those of the optimiser again."""
    current = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(ema)
    try:
        yield
    finally:
        model.load_state_dict(current)


def validation_errors(
    predictor: Predictor, batches: Iterable[Batch], processes: Processes, stress: bool = False
) -> dict[str, float]:
    """Errors over the batches of all processes, in meV/atom, meV/A and, where ``stress`` is asked for, meV/A^3."""
    predictor.eval()
    device = next(predictor.parameters()).device
    sums = torch.zeros(7, dtype=torch.float64)
    for batch in batches:
        batch = batch.to(device)
        prediction = predictor(batch)
        energy, forces, _ = prediction
        if stress:
            sums[5] += loss_sums(prediction, batch, stress)["stress"].item()
            sums[6] += batch_counts(batch, stress)["stress"]
        difference = (forces - batch.forces).detach().double()
        per_atom = (energy.detach() - batch.energy).abs() / batch.num_atoms
        sums[0] += per_atom.sum().item()
        sums[1] += per_atom.numel()
        sums[2] += difference.abs().sum().item()
        sums[3] += (difference**2).sum().item()
        sums[4] += difference.numel()
    energy_sum, structures, absolute, squared, components, stress_sum, stresses = processes.total(sums)
    found = {} if not stress else {STRESS_MAE: EV_TO_MEV * stress_sum / stresses if stresses else math.nan}
    return {
        "energy_mae_meV_per_atom": energy_sum / structures * EV_TO_MEV,
        "force_mae_meV_per_A": absolute / components * EV_TO_MEV,
        "force_rmse_meV_per_A": math.sqrt(squared / components) * EV_TO_MEV,
        **found,
    }


def selection_score(errors: dict[str, float], settings: TrainingConfig) -> float:
    """The best checkpoint has the least weighted sum of validation errors (eV units), weighted as the loss is.

    Without a stress in the validation part, the stress does not count. NaN in energies or forces makes a score of NaN,
    which is less than no other.
    """
    terms = {"energy": "energy_mae_meV_per_atom", "forces": "force_mae_meV_per_A", "stress": STRESS_MAE}
    if math.isnan(errors.get(STRESS_MAE, math.nan)):
        del terms["stress"]
    weights = settings.loss.model_dump()
    return sum(weights[term] * errors[name] for term, name in terms.items()) / EV_TO_MEV
