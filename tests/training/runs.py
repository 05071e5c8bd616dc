"""Small, seeded training runs on the toy potential, for tests of everything around the loop."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import write

from mindscaip.config import Config, load_config
from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import evaluate
from mindscaip.training.checkpoint import load_checkpoint
from mindscaip.training.logs import CURVES
from mindscaip.training.run import StageRun
from tests.models import random_structure
from tests.toys import write_toy

TOY_MODEL = [
    "model.embed_dim=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.num_radial=16",
    "model.gamma=1.5",
    "model.l_max=2",
    "model.graph.cutoff=4.0",
]
ARGUMENTS = [
    *TOY_MODEL,
    "data.val_fraction=0.25",
    "training.batch_size=5",
    "training.epochs=3",
    "accelerator=cpu",
]
PRETRAINING = ["pretraining.epochs=2", "pretraining.dens_probability=0.6", "pretraining.dens_atoms=0.7"]


def write_data(folder: Path, count: int = 20) -> Path:
    """Structures of 3 to 7 atoms with the energies and forces of the toy potential."""
    model = load_exported(write_toy(folder / "toy.pt"))
    rng = np.random.default_rng(0)
    structures = []
    for number in range(count):
        start = random_structure(3 + number % 5, size=3.0, seed=number % 3)
        moved = start.positions + rng.normal(scale=0.1, size=start.positions.shape)
        structures.append(Structure(start.numbers, moved))
    for structure, prediction in zip(structures, evaluate(model, structures), strict=True):
        structure.energy, structure.forces = prediction.energy, prediction.forces
    write(folder / "data.xyz", [s.to_ase() for s in structures], format="extxyz")
    return folder / "data.xyz"


def arguments_for(run: Path, data: Path, *more: str) -> list[str]:
    return [*ARGUMENTS, f"run={run}", f"data.train={data}", *more]


def config_for(run: Path, data: Path, *more: str) -> Config:
    return load_config(arguments_for(run, data, *more))


def curves(run: Path) -> list[dict[str, float]]:
    """The learning curves without the time."""
    with (run / CURVES).open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "minutes" and v} for row in csv.DictReader(file)]


def signal_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """Send this process ``number`` while step ``step`` (counted from 1, over all stages) is under way."""
    update = StageRun.update

    def update_and_signal(self: StageRun, rate: float) -> None:
        update(self, rate)
        if self.progress.step + 1 == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(StageRun, "update", update_and_signal)


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit the same weights, averages, optimiser and curves."""
    one, two = (load_checkpoint(run / "last.pt") for run in (a, b))
    for part in ("model", "ema"):
        assert one[part].keys() == two[part].keys()
        for name, tensor in one[part].items():
            assert torch.equal(tensor, two[part][name]), f"{part} {name}"
    for key, values in one["optimizer"]["state"].items():
        for name, value in values.items():
            assert torch.equal(value, two["optimizer"]["state"][key][name])
    assert curves(a) == curves(b)


def assert_close_runs(a: Path, b: Path, rel: float = 1e-4) -> None:
    """The same curves and weights up to the rounding of sums in another order."""
    rows_a, rows_b = curves(a), curves(b)
    assert len(rows_a) == len(rows_b) > 0
    for one, two in zip(rows_a, rows_b, strict=True):
        assert one == pytest.approx(two, rel=rel)
    first, second = (load_checkpoint(run / "last.pt")["ema"] for run in (a, b))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=1e-3, atol=1e-5), name
