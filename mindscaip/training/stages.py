"""The stages of a run: direct-force pre-training with denoising, if it is asked for, then the training proper.

Pre-training optimises a model whose forces are an output, several times faster per step than one whose forces are
derivatives. What it leaves behind, the averaged (EMA) weights without force head, force encoder and noise head, is what
the training starts from, with a new optimiser, average and schedule (Fu et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mindscaip.config import Config, TrainingConfig
from mindscaip.errors import MindscaipError
from mindscaip.model.backbone import MinDScAIP
from mindscaip.model.heads import Denoiser
from mindscaip.training.denoising import Corruption
from mindscaip.training.loss import Predictor

PRETRAINING = "pretraining"
TRAINING = "training"


@dataclass(frozen=True)
class Stage:
    """One optimisation, from its first epoch to its last.

    Attributes:
        name: ``pretraining`` or ``training``; checkpoints carry it.
        settings: what is in force in this stage.
        head: ``direct`` or ``conservative``.
        corruption: of the steps that denoise; None: no step does.
        noise_weight: weight of the noise term, per RMS force (eV/A).
    """

    name: str
    settings: TrainingConfig
    head: str
    corruption: Corruption | None = None
    noise_weight: float = 0.0


def stages_of(config: Config) -> list[Stage]:
    """The stages of a run in their order."""
    training = Stage(TRAINING, config.training, config.model.head)
    own = config.pretraining
    if own.epochs == 0:
        return [training]
    update: dict[str, Any] = {"epochs": own.epochs, "max_minutes": own.max_minutes, "loss": own.loss}
    names = ("batch_size", "batch_atoms", "learning_rate", "final_learning_rate", "warmup_epochs", "warmup_factor")
    update |= {name: getattr(own, name) for name in names if getattr(own, name) is not None}
    if own.batch_size is not None:
        update["batch_atoms"] = own.batch_atoms
    settings = config.training.model_copy(update=update)
    corruption = None
    if own.dens_probability > 0:
        corruption = Corruption(own.dens_probability, own.dens_sigma, own.dens_atoms)
    return [Stage(PRETRAINING, settings, "direct", corruption, own.dens_weight), training]


def remaining(stages: list[Stage], state: dict[str, Any]) -> list[Stage]:
    """The stages that a checkpoint leaves to do: its own, unless that is finished and another follows, and the rest.

    Raises:
        MindscaipError: the configuration no longer has the stage of the checkpoint.
    """
    names = [stage.name for stage in stages]
    if state["stage"] not in names:
        raise MindscaipError(
            f"the run is in {state['stage']}, which the configuration no longer has: keep pretraining.epochs above 0"
        )
    reached = names.index(state["stage"])
    return stages[reached + 1 :] if state["progress"]["finished"] and stages[reached + 1 :] else stages[reached:]


def build_predictor(config: Config, stage: Stage, record: dict[str, Any]) -> Predictor:
    """The untrained, seeded model of a stage."""
    torch.manual_seed(config.training.seed)
    architecture = config.model.model_copy(update={"head": stage.head})
    model = MinDScAIP(architecture, record["elements"], record["reference_energies"], record["energy_scale_eV"])
    denoiser = Denoiser(config.model.embed_dim) if stage.corruption is not None else None
    return Predictor(model, denoiser)


def inherit(model: MinDScAIP, weights: Mapping[str, Tensor]) -> None:
    """Start from other weights; heads that ``model`` does not have are dropped, those that it alone has stay new."""
    own = model.state_dict()
    model.load_state_dict(own | {name: tensor for name, tensor in weights.items() if name in own})
