"""Checkpoints: plain tensors and numbers, loaded with ``weights_only=True``; written whole or not at all."""

from __future__ import annotations

import math
import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mindscaip.config import Config, parse_config
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.model.backbone import MinDScAIP
from mindscaip.training.stages import PRETRAINING, TRAINING

LAST = "last.pt"
BEST = "best.pt"
PRETRAINED = "pretrained.pt"
"""The last state of the pre-training: a direct-force model, and what the conservative training starts from."""
_KEYS = {"config", "elements", "reference_energies", "scale", "model", "ema", "record"}


@dataclass
class Progress:
    """Where a run stands between two steps; all that a resumed run needs beside weights and optimiser.

    Attributes:
        stage: name of the stage under way.
        epoch, step: finished ones, over all stages.
        epoch_step: steps done of the epoch under way.
        first_epoch, first_step: where this stage began.
        minutes, minutes_before: training time of this stage, and of those before.
        best: least selection score of this stage.
        learning_rate: that of the last step.
        loss_level: running mean of the loss, 0 before the first step.
        sums, counts: of the loss terms over the epoch under way.
        finished: the stage has had all its epochs, or its time.
    """

    stage: str = TRAINING
    epoch: int = 0
    step: int = 0
    epoch_step: int = 0
    first_epoch: int = 0
    first_step: int = 0
    minutes: float = 0.0
    minutes_before: float = 0.0
    best: float = math.inf
    learning_rate: float = 0.0
    loss_level: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    finished: bool = False

    @property
    def total_minutes(self) -> float:
        return self.minutes_before + self.minutes

    def next_stage(self, name: str) -> Progress:
        """The start of the stage that follows."""
        return Progress(
            stage=name,
            epoch=self.epoch,
            step=self.step,
            first_epoch=self.epoch,
            first_step=self.step,
            minutes_before=self.total_minutes,
        )


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        MindscaipError: missing, truncated or foreign.
    """
    if not path.is_file():
        raise MindscaipError(f"{path}: no such checkpoint; train first with 'mindscaip train'")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'torch.load' received a zip file that looks like a TorchScript")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError):
        raise MindscaipError(f"{path}: not a whole checkpoint of mindscaip (truncated or of another kind)") from None
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise MindscaipError(f"{path}: not a checkpoint of mindscaip")
    return state


def build_model(state: dict[str, Any], weights: str = "ema") -> tuple[MinDScAIP, Config]:
    """The model of a checkpoint with its ``ema`` or ``model`` weights, float32; direct forces if of a pre-training."""
    config = parse_config(state["config"])
    if state.get("stage", TRAINING) == PRETRAINING:
        config = config.model_copy(update={"model": config.model.model_copy(update={"head": "direct"})})
    model = MinDScAIP(config.model, state["elements"], state["reference_energies"], state["scale"])
    model.load_state_dict(state[weights])
    return model, config
