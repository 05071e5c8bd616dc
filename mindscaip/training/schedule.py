"""The optimiser, its learning rate, and the moving average of the weights."""

from __future__ import annotations

import math
import time

import torch
from torch import nn

from mindscaip.config import TrainingConfig

MOST_WARMUP = 0.05
"""Part of ``max_minutes``."""
EMBEDDINGS = ("embedding.center", "embedding.neighbor", "embedding.atom")


def make_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; weight decay acts on matrices only, not on norms, biases and element embeddings."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and not name.removeprefix("model.").startswith(EMBEDDINGS)
        (decayed if is_matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def schedule_position(epochs: float, minutes: float, settings: TrainingConfig) -> float:
    """Part of the stage that is behind, in [0, 1]: by epochs, or by the clock where a wall time is set."""
    by_clock = 0.0 if settings.max_minutes is None else minutes / settings.max_minutes
    return min(1.0, max(epochs / settings.epochs, by_clock))


def learning_rate(position: float, epochs: float, minutes: float, settings: TrainingConfig) -> float:
    """Linear warm-up over ``warmup_epochs``, times a cosine down to the floor at ``position`` 1.

    Where the clock ends the stage, the warm-up takes at most :data:`MOST_WARMUP` of its time: an epoch can be longer
    than the whole stage.
    """
    floor = settings.final_learning_rate
    rate = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * position))
    if epochs < settings.warmup_epochs:
        risen = epochs / settings.warmup_epochs
        if settings.max_minutes is not None:
            risen = min(1.0, max(risen, minutes / (MOST_WARMUP * settings.max_minutes)))
        rate *= settings.warmup_factor + (1.0 - settings.warmup_factor) * risen
    return settings.learning_rate * rate


@torch.no_grad()
def update_ema(ema: dict[str, torch.Tensor], model: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights; buffers are copied."""
    current = model.state_dict()
    names = [name for name, tensor in current.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([ema[name] for name in names], [current[name] for name in names], 1.0 - decay)
    for name in current.keys() - set(names):
        ema[name].copy_(current[name])


class Clock:
    """Training time in minutes, continued over resumes."""

    def __init__(self, minutes_before: float) -> None:
        self._start = time.monotonic() - 60.0 * minutes_before

    def minutes(self) -> float:
        return (time.monotonic() - self._start) / 60.0
