"""Where the learning curves go: ``curves.csv`` always, TensorBoard and Weights & Biases when asked for."""

from __future__ import annotations

import csv
import uuid
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from mindscaip.config import Config
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

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
    "pretraining",
)
"""Columns of ``curves.csv``; those of callbacks follow. Epochs, steps and minutes are counted over all stages;
``pretraining`` is 1 in that stage, else 0."""
STRESS_COLUMNS = ("train_stress_mae_meV_per_A3", "val_stress_mae_meV_per_A3")
"""Stand in runs with a stress in the loss."""
NOISE_COLUMN = "train_noise_error"
"""Stands in runs with denoising: mean ``||d noise||_2`` in standard deviations (knowing nothing gives 1.6)."""
_PACKAGES = {"tensorboard": ("torch.utils.tensorboard", "tensorboard"), "wandb": ("wandb", "wandb")}


class Log(Protocol):
    """Takes one row per validation."""

    def append(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


def check_loggers(names: Sequence[str]) -> None:
    """Say what to install before anything is trained.

    Raises:
        MindscaipError: a logger's package is missing.
    """
    for name in names:
        if find_spec(_PACKAGES[name][1]) is None:
            raise MindscaipError(
                f"training.loggers names {name}, which is not installed: pip install {_PACKAGES[name][1]}"
            )


def open_logs(config: Config, columns: Sequence[str], resume_step: int) -> list[Log]:
    """The logs of a run, which forget what came after ``resume_step``."""
    folder = Path(config.run)
    logs: list[Log] = [CurvesFile(folder / CURVES, columns, resume_step)]
    if "tensorboard" in config.training.loggers:
        logs.append(TensorBoard(folder / "tensorboard", resume_step))
    if "wandb" in config.training.loggers:
        logs.append(WeightsAndBiases(folder, config))
    return logs


class CurvesFile:
    """The learning curves as CSV; on resume, rows after the checkpoint are dropped."""

    def __init__(self, path: Path, columns: Sequence[str], resume_step: int) -> None:
        self._path = path
        self._columns = list(columns)
        rows: Iterable[dict[str, Any]] = []
        if resume_step and path.is_file():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if int(row["step"]) <= resume_step]
            # What a run no longer measures stays where it was measured.
            self._columns += [name for name in reader.fieldnames or () if name not in columns]
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def close(self) -> None:
        pass


class TensorBoard:
    """Scalars for ``tensorboard --logdir RUN``."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def append(self, row: Mapping[str, Any]) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name.replace("_", "/", 1), value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases in the project ``mindscaip``; a resumed run goes on in the same one.

    Where it is sent, or whether (``WANDB_MODE=offline``), is decided by the environment variables of wandb.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        import wandb

        identity = folder / "wandb-id.txt"
        if not identity.exists():
            with atomic_path(identity) as temporary:
                temporary.write_text(uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project="mindscaip",
            name=folder.name,
            id=identity.read_text(),
            resume="allow",
            dir=str(folder),
            config=config.model_dump(mode="json"),
        )

    def append(self, row: Mapping[str, Any]) -> None:
        self._run.log(scalars(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, the step aside."""
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, int | float)}
