"""The training loop, from top to bottom (Lightning Fabric does the devices)."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from mindscaip.config import Config, TrainingConfig
from mindscaip.console import console, progress_bar
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.model.backbone import MinDScAIP
from mindscaip.training.batches import epoch_batches, num_batches
from mindscaip.training.checkpoint import BEST, LAST, save_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.loss import Predictor, weighted_loss
from mindscaip.units import EV_TO_MEV

CURVES = "curves.csv"
CURVE_COLUMNS = (
    "epoch",
    "step",
    "minutes",
    "learning_rate",
    "train_loss",
    "train_energy_mae_meV_per_atom",
    "train_force_error_meV_per_A",
    "val_energy_mae_meV_per_atom",
    "val_force_mae_meV_per_A",
    "val_force_rmse_meV_per_A",
)


def fit(
    config: Config,
    model: MinDScAIP,
    train_set: StructureDataset,
    val_set: StructureDataset,
    record: dict[str, Any],
    resume: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train ``model`` in place and return the state of the last checkpoint.

    Order of batches, rotations and schedule depend on (seed, epoch, step) alone, so a run that was cut off and resumed
    gives the numbers of an uninterrupted one (unless ``max_minutes`` ties the schedule to the clock).

    Args:
        record: what is known about the data; kept in every checkpoint and in the exported file.
        resume: a checkpoint of the same run to go on from.

    Raises:
        MindscaipError: the loss is not finite; names epoch and step.
    """
    settings = config.training
    folder = Path(config.run)
    fabric = Fabric(accelerator=config.accelerator, devices=1)
    torch.manual_seed(settings.seed)

    predictor, optimizer = fabric.setup(Predictor(model), make_optimizer(model, settings))
    ema = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    parameters = list(model.parameters())
    steps_per_epoch = num_batches(train_set, settings.batch_size)
    epoch, step, minutes, best = 0, 0, 0.0, math.inf
    if resume is not None:
        model.load_state_dict(resume["model"])
        ema = {name: tensor.to(fabric.device) for name, tensor in resume["ema"].items()}
        optimizer.load_state_dict(resume["optimizer"])
        epoch, step, minutes, best = resume["epoch"], resume["step"], resume["minutes"], resume["best"]
    curves = CurvesFile(folder / CURVES, resume_step=step)

    def state() -> dict[str, Any]:
        return {
            "config": config.model_dump(mode="json"),
            "elements": record["elements"],
            "reference_energies": record["reference_energies"],
            "scale": record["energy_scale_eV"],
            "record": {**record, "epochs": epoch, "steps": step, "minutes": minutes, "best_val": best},
            "model": model.state_dict(),
            "ema": ema,
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "step": step,
            "minutes": minutes,
            "best": best,
        }

    total_steps = settings.epochs * steps_per_epoch
    clock = Clock(minutes)
    with progress_bar("loss", "force", "rate") as bar:
        task = bar.add_task("training", total=total_steps, completed=step, loss="", force="", rate="")
        while epoch < settings.epochs and not clock.over(settings.max_minutes):
            predictor.train()
            mean = RunningMean()
            for batch in epoch_batches(
                train_set,
                settings.batch_size,
                seed=settings.seed,
                epoch=epoch,
                rotate=settings.rotate,
            ):
                batch = batch.to(fabric.device)
                progress = training_progress(step, total_steps, clock.minutes(), settings.max_minutes)
                rate = learning_rate(progress, step / steps_per_epoch, settings)
                for group in optimizer.param_groups:
                    group["lr"] = rate

                terms = weighted_loss(predictor(batch), batch, settings.loss)
                if not torch.isfinite(terms["loss"]):
                    raise MindscaipError(
                        f"the loss became {terms['loss'].item()} in epoch {epoch}, step {step}; lower "
                        f"training.learning_rate (now {settings.learning_rate}) and go on from {folder / LAST}"
                    )
                # Only the weights need gradients: naming them saves the second derivatives of the geometry.
                fabric.backward(terms["loss"], inputs=parameters)
                fabric.clip_gradients(predictor, optimizer, max_norm=settings.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                update_ema(ema, model, min(settings.ema_decay, step / (step + 10)))
                mean.add({name: term.item() for name, term in terms.items()})
                progress = training_progress(step, total_steps, clock.minutes(), settings.max_minutes)
                bar.update(
                    task,
                    completed=step,
                    total=round(step / progress),
                    loss=f"loss {mean['loss']:.4f}",
                    force=f"force {mean['forces'] * EV_TO_MEV:.0f} meV/A",
                    rate=f"lr {rate:.1e}",
                )
                if clock.over(settings.max_minutes):
                    break
            epoch += 1
            minutes = clock.minutes()
            last = epoch == settings.epochs or clock.over(settings.max_minutes)

            if epoch % settings.val_every == 0 or last:
                errors = evaluate_weights(predictor, model, ema, val_set, settings.batch_size)
                curves.append(
                    {
                        "epoch": epoch,
                        "step": step,
                        "minutes": round(minutes, 4),
                        "learning_rate": rate,
                        "train_loss": mean["loss"],
                        "train_energy_mae_meV_per_atom": mean["energy"] * EV_TO_MEV,
                        "train_force_error_meV_per_A": mean["forces"] * EV_TO_MEV,
                        **{f"val_{name}": value for name, value in errors.items()},
                    }
                )
                bar.update(task, description=f"val force MAE {errors['force_mae_meV_per_A']:.1f} meV/A, epoch {epoch}")
                score = selection_score(errors, settings)
                if score < best:
                    best = score
                    save_checkpoint(folder / BEST, state())
            if epoch % settings.checkpoint_every == 0 or last:
                save_checkpoint(folder / LAST, state())
    console.print(f"trained {step} steps, {epoch} epochs in {minutes:.1f} min; checkpoints in {folder}")
    return state()


def make_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; weight decay acts on matrices only, not on norms, biases and element embeddings."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_embedding = name.startswith(("embedding.center", "embedding.neighbor", "embedding.atom"))
        is_matrix = parameter.ndim == 2 and not is_embedding
        (decayed if is_matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def training_progress(step: int, total_steps: int, minutes: float, max_minutes: float | None) -> float:
    """Part of the schedule that is behind, in [0, 1]: by steps, or by the clock where a wall time is set."""
    by_clock = 0.0 if max_minutes is None else minutes / max_minutes
    return min(1.0, max(step / total_steps, by_clock))


def learning_rate(progress: float, epochs: float, settings: TrainingConfig) -> float:
    """Linear warm-up over ``warmup_epochs``, times a cosine down to the floor."""
    floor = settings.final_learning_rate
    rate = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
    if epochs < settings.warmup_epochs:
        rate *= settings.warmup_factor + (1.0 - settings.warmup_factor) * epochs / settings.warmup_epochs
    return settings.learning_rate * rate


@torch.no_grad()
def update_ema(ema: dict[str, torch.Tensor], model: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights; buffers are copied."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            ema[name].lerp_(tensor, 1.0 - decay)
        else:
            ema[name].copy_(tensor)


def evaluate_weights(
    predictor: nn.Module, model: MinDScAIP, weights: dict[str, torch.Tensor], dataset: StructureDataset, batch_size: int
) -> dict[str, float]:
    """Errors on a data set with other weights than the current ones (the EMA), which are put back."""
    current = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    predictor.eval()
    energy, force, squared = 0.0, 0.0, 0.0
    components = 0
    device = next(model.parameters()).device
    for start in range(0, len(dataset), batch_size):
        batch = dataset.batch(range(start, min(start + batch_size, len(dataset)))).to(device)
        predicted_energy, predicted_forces, _ = predictor(batch)
        difference = (predicted_forces - batch.forces).detach().double()
        energy += ((predicted_energy.detach() - batch.energy).abs() / batch.num_atoms).sum().item()
        force += difference.abs().sum().item()
        squared += (difference**2).sum().item()
        components += difference.numel()
    model.load_state_dict(current)
    return {
        "energy_mae_meV_per_atom": energy / len(dataset) * EV_TO_MEV,
        "force_mae_meV_per_A": force / components * EV_TO_MEV,
        "force_rmse_meV_per_A": math.sqrt(squared / components) * EV_TO_MEV,
    }


def selection_score(errors: dict[str, float], settings: TrainingConfig) -> float:
    """The best checkpoint has the least weighted sum of validation errors (eV units), weighted as the loss is."""
    return (
        settings.loss.energy * errors["energy_mae_meV_per_atom"] + settings.loss.forces * errors["force_mae_meV_per_A"]
    ) / EV_TO_MEV


class Clock:
    """Training time in minutes, continued over resumes."""

    def __init__(self, minutes_before: float) -> None:
        self._start = time.monotonic() - 60.0 * minutes_before

    def minutes(self) -> float:
        return (time.monotonic() - self._start) / 60.0

    def over(self, limit: float | None) -> bool:
        return limit is not None and self.minutes() >= limit


class RunningMean:
    """Means of the loss terms over an epoch."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, values: dict[str, float]) -> None:
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def __getitem__(self, name: str) -> float:
        return self._sums[name] / self._count


class CurvesFile:
    """The learning curves as CSV; on resume, rows after the checkpoint are dropped."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self._path = path
        rows: Iterable[dict[str, Any]] = []
        if resume_step and path.is_file():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= resume_step]
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, CURVE_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: dict[str, Any]) -> None:
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, CURVE_COLUMNS).writerow(row)
