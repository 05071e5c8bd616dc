"""Checkpoints: plain tensors and numbers, loaded with ``weights_only=True``; written whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from mindscaip.config import Config, parse_config
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.model.backbone import MinDScAIP

LAST = "last.pt"
BEST = "best.pt"
_KEYS = {"config", "elements", "reference_energies", "scale", "model", "ema", "record"}


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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError):
        raise MindscaipError(f"{path}: not a whole checkpoint of mindscaip (truncated or of another kind)") from None
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise MindscaipError(f"{path}: not a checkpoint of mindscaip")
    return state


def build_model(state: dict[str, Any], weights: str = "ema") -> tuple[MinDScAIP, Config]:
    """The model of a checkpoint with its ``ema`` or ``model`` weights, float32."""
    config = parse_config(state["config"])
    model = MinDScAIP(config.model, state["elements"], state["reference_energies"], state["scale"])
    model.load_state_dict(state[weights])
    return model, config
