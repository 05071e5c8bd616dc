"""What a stage optimises: model, optimiser, averaged weights and progress, and how they become a checkpoint."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from mindscaip.config import Config, parse_config
from mindscaip.training.batch import Batch
from mindscaip.training.checkpoint import Progress, save_checkpoint
from mindscaip.training.loss import TERMS, loss_sums, weigh
from mindscaip.training.precision import use_precision
from mindscaip.training.schedule import make_optimizer, update_ema
from mindscaip.training.stages import Stage, build_predictor, inherit, stages_of


class StageRun:
    """One stage of a run on this process's device.

    Attributes:
        stage: what is optimised.
        progress: where it stands.
        predictor: the model with its derivatives (not wrapped for several processes).
        ema: averaged weights by name.

    Args:
        record: what is known about the data; kept in every checkpoint and in the exported file.
        state: a checkpoint of this stage to go on from, or of the stage before to start from; None: from scratch.
        start: weights of another run to start from where there is no checkpoint of this one.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: Config,
        stage: Stage,
        record: dict[str, Any],
        state: dict[str, Any] | None,
        start: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.stage = stage
        self.progress = Progress(stage.name)
        self._fabric, self._config, self._record = fabric, config, record
        self.predictor = build_predictor(config, stage, record)
        model = self.model = self.predictor.model
        use_precision(model, stage.settings.precision)
        if state is None and start is not None:
            inherit(model, start)
        if state is not None and state["stage"] != stage.name:
            inherit(model, state["ema"])
            self.progress = Progress(**state["progress"]).next_stage(stage.name)
        optimizer = make_optimizer(self.predictor, stage.settings)
        self._wrapped, self._optimizer = fabric.setup(self.predictor, optimizer)
        self.ema = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self._parameters = list(self.predictor.parameters())
        self.device = fabric.device
        if state is not None and state["stage"] == stage.name:
            self._load(state)

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.predictor.denoiser is not None:
            self.predictor.denoiser.load_state_dict(state["denoiser"])
        self.ema = {name: tensor.to(self._fabric.device) for name, tensor in state["ema"].items()}
        decays = [group["weight_decay"] for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, decay in zip(self._optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # that of the configuration, which may have changed
        progress = self.progress = Progress(**state["progress"])
        before = next(s for s in stages_of(parse_config(state["config"])) if s.name == self.stage.name).settings
        now = self.stage.settings
        others = [name for name in ("batch_size", "batch_atoms", "seed") if getattr(before, name) != getattr(now, name)]
        if progress.epoch_step and others:
            # The steps behind are of another order: the epoch begins again, from the weights as they are.
            progress.epoch_step, progress.sums, progress.counts = 0, {}, {}
        if before.loss != now.loss:
            # Scores and losses of other weights do not compare: the next validation is the best, and gets a new level.
            progress.best, progress.loss_level = math.inf, 0.0

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds."""
        progress = self.progress
        record = {
            **self._record,
            "stage": self.stage.name,
            "epochs": progress.epoch,
            "steps": progress.step,
            "minutes": progress.total_minutes,
            "best_val": progress.best,
        }
        denoiser = self.predictor.denoiser
        return {
            "config": self._config.model_dump(mode="json"),
            "elements": self._record["elements"],
            "reference_energies": self._record["reference_energies"],
            "scale": self._record["energy_scale_eV"],
            "record": record,
            "stage": self.stage.name,
            "model": self.model.state_dict(),
            "denoiser": {} if denoiser is None else denoiser.state_dict(),
            "ema": self.ema,
            "optimizer": self._optimizer.state_dict(),
            "progress": asdict(progress),
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint (the first process only)."""
        if self._fabric.is_global_zero:
            save_checkpoint(path, self.state())

    def loss(self, batch: Batch, counts: dict[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's part of the loss, whose sum over all is the loss, and its sums by :data:`TERMS`, ``[5]``.

        Args:
            counts: what the sums over all processes are divided by.
        """
        weights = self.stage.settings.loss
        sums = loss_sums(self._wrapped(batch), batch, weights.stress > 0)
        noise_weight = self.stage.noise_weight * self._record["energy_scale_eV"]
        return weigh(sums, counts, weights, noise_weight), torch.stack([sums[name].detach().double() for name in TERMS])

    def gradient(self, loss: torch.Tensor, processes: int) -> float:
        """Gradient of the loss summed over all processes, clipped; returns its norm before that.

        Data parallelism takes the mean of the gradients, hence the factor.
        """
        # Only the weights need gradients: naming them saves the second derivatives of the geometry.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of [1, D]: no cost
            self._fabric.backward(loss * processes, inputs=self._parameters)
        norm = self._fabric.clip_gradients(
            self._wrapped, self._optimizer, max_norm=self.stage.settings.gradient_clip, error_if_nonfinite=False
        )
        return float(norm) if norm is not None else 0.0

    def update(self, rate: float) -> None:
        """One step of the optimiser and of the average."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        steps = self.progress.step - self.progress.first_step + 1
        update_ema(self.ema, self.model, min(self.stage.settings.ema_decay, steps / (steps + 10)))
