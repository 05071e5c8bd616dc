"""What the accuracy benchmarks share: the split, stages that are done once, errors of predictions."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindscaip.data.formats import read_structures
from mindscaip.data.structure import Structure
from mindscaip.files import atomic_path

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("MINDSCAIP_DATA", ROOT.parent / "shared" / "data")) / "acac"
CONFIG = ROOT / "examples" / "acetylacetone.yaml"
PUBLISHED = (("MACE", 0.9, 5.1), ("NequIP", 0.81, 5.90), ("BOTNet", 0.89, 6.3))
PUBLISHED_IN = "Batatia et al. 2022, arXiv:2206.07697 (NequIP and BOTNet there from arXiv:2205.06643)"
"""RMSE on the test frames at 300 K after training on the 500 at 300 K: energy of the molecule (meV), force (meV/A)."""


def common_arguments(description: str, default_output: str) -> argparse.ArgumentParser:
    """A parser with what both programs take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-o", "--output", type=Path, default=Path(default_output), help="folder; a stage done is kept")
    parser.add_argument("--data", type=Path, default=DATA, help="train_300K.xyz, test_MD_300K.xyz, isolated_atoms.xyz")
    parser.add_argument("--config", type=Path, default=CONFIG, help="configuration of mindscaip")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall time of each training")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def stage(folder: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a stage, from ``name.json`` if it was done before."""
    file = folder / f"{name}.json"
    if file.exists():
        print(f"{name}: done before, {file}", flush=True)
        return dict(json.loads(file.read_text()))
    print(f"{name} ...", flush=True)
    started = time.perf_counter()
    result = make()
    result.setdefault("wall_seconds", round(time.perf_counter() - started, 1))
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    return result


def split(data: Path, folder: Path, val_fraction: float, seed: int, train_count: int | None = None) -> dict[str, Any]:
    """Write ``train.xyz`` and ``val.xyz``, a random split, and ``isolated.xyz``; energies are called REF_energy."""
    frames = list(read_structures(data / "train_300K.xyz"))
    order = np.random.default_rng(seed).permutation(len(frames))
    count = max(1, round(val_fraction * len(frames)))
    val, train = order[:count], order[count:][:train_count]
    write_frames(folder / "train.xyz", [frames[i] for i in sorted(train)])
    write_frames(folder / "val.xyz", [frames[i] for i in sorted(val)])
    write_frames(folder / "isolated.xyz", list(read_structures(data / "isolated_atoms.xyz")), "IsolatedAtom")
    return {"train": len(train), "val": len(val)}


def write_frames(path: Path, frames: Sequence[Structure], config_type: str = "Default") -> None:
    """Extended XYZ with ``REF_energy`` and ``REF_forces``, the names that MACE reads by default."""
    from ase import Atoms
    from ase.io import write

    images = []
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions)
        atoms.info.update(REF_energy=frame.energy, config_type=config_type)
        atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3)) if frame.forces is None else frame.forces
        images.append(atoms)
    with atomic_path(path) as temporary:
        write(temporary, images, format="extxyz")


def train_mindscaip(
    arguments: argparse.Namespace, folder: Path, train: Path, val: Path, epochs: int | None = None
) -> dict[str, Any]:
    """Train, or go on with the training, in ``folder/run``; export the best checkpoint; what it cost.

    Args:
        epochs: in place of ``arguments.minutes``.
    """
    run = folder / "run"
    minutes = arguments.minutes if epochs is None else "null"
    command = ["train", "--resume", str(run)] if (run / "config.yaml").exists() else [
        "train", str(arguments.config), f"run={run}", f"data.train={train}", f"data.val={val}",
        f"data.isolated={train.with_name('isolated.xyz')}", "data.energy_key=REF_energy",
        "data.forces_key=REF_forces", f"training.max_minutes={minutes}", f"training.seed={arguments.seed}",
        f"training.epochs={epochs or 100000}", "accelerator=cpu",
    ]  # fmt: skip
    mindscaip(command, arguments.threads)
    model = folder / "model.pt"
    if not model.exists():
        mindscaip(["export", str(run), "-o", str(model), "--dtype", "float64"], arguments.threads)
    from mindscaip.contract import load_exported
    from mindscaip.training.checkpoint import LAST, load_checkpoint

    record = load_checkpoint(run / LAST)["record"]
    return {
        "model": str(model),
        "parameters": load_exported(model).contract.parameters,
        "minutes": record["minutes"],
        "epochs": record["epochs"],
        "updates": record["steps"],
        "best_epoch": load_exported(model).metadata["record"]["epochs"],
    }


def mindscaip(arguments: Sequence[str], threads: int) -> None:
    """Run a command of the package; an error ends the program."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", "from mindscaip.cli import main; main()", *arguments]
    if subprocess.run(command, env=environment).returncode:
        raise SystemExit(f"failed: mindscaip {' '.join(arguments)}")


def errors_of_mindscaip(
    arguments: argparse.Namespace, model: Path, test: Path | None = None, calls: int = 40
) -> dict[str, Any]:
    """Errors on the test frames (of acetylacetone, if no others are given), and the time of one energy with forces."""
    import torch

    from mindscaip.engines.batched import evaluate
    from mindscaip.metrics import error_statistics

    torch.set_num_threads(arguments.threads)
    frames = list(read_structures(test or arguments.data / "test_MD_300K.xyz"))
    errors = error_statistics(frames, evaluate(str(model), frames))
    from mindscaip.contract import load_exported

    exported = load_exported(model)
    evaluate(exported, frames[:3], 1)
    started = time.perf_counter()
    evaluate(exported, frames[:calls], 1)
    return {**errors, "ms_per_call": 1e3 * (time.perf_counter() - started) / calls}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))
