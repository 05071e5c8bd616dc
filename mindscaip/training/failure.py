"""What is kept of a step that failed: its batch, and the state before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import write

from mindscaip.files import atomic_path
from mindscaip.training.batches import EpochBatches
from mindscaip.training.checkpoint import save_checkpoint
from mindscaip.training.loss import Predictor


def save_failure(
    folder: Path, state: dict[str, Any], batches: EpochBatches, predictor: Predictor, loss: float
) -> tuple[Path, Path]:
    """Write the offending global batch (extended xyz) and a checkpoint from before the step; return both paths.

    The structures stand as they are in the data, with their labels, and with what the weights before the step make of
    each: predicted energy and largest force error. The checkpoint repeats the step with its rotations and noise.
    """
    progress = state["progress"]
    indices = batches.plan()[progress["epoch_step"]]
    device = next(predictor.parameters()).device
    frames = []
    was_training = predictor.training
    predictor.eval()
    for index in indices.tolist():
        energy, forces, _ = predictor(batches.dataset.batch([index]).to(device))
        error = forces.detach().cpu().double() - torch.from_numpy(np.asarray(batches.dataset.structures[index].forces))
        frame = batches.dataset.structures[index].to_ase()
        frame.info.update(
            index=index,
            epoch=progress["epoch"],
            step=progress["step"],
            batch_loss=loss,
            predicted_energy=energy.item(),
            largest_force_error=error.norm(dim=1).max().item(),
        )
        frames.append(frame)
    predictor.train(was_training)
    batch_path = folder / f"failed-step-{progress['step']}.xyz"
    with atomic_path(batch_path) as temporary:
        write(temporary, frames, format="extxyz")
    state_path = batch_path.with_suffix(".pt")
    save_checkpoint(state_path, state)
    return batch_path, state_path
