"""MACE and mindscaip on the same data, with the same split, wall time, threads and machine.

``python -m benchmarks.accuracy.mace --minutes 60`` (from the root of the repository) makes an environment of its own
for mace-torch, trains both side by side on the 500 acetylacetone frames at 300 K, tests both on the 650 test frames at
300 K, and prints a table. Every stage is kept in the output folder: the same command goes on where it stopped. In the
background: ``nohup nice -n 19 python -m benchmarks.accuracy.mace --minutes 60 > mace.log 2>&1 &``.

Settings of MACE are those of the command in its README (cutoff 5 A, batches of 10, EMA 0.99, AMSGrad, second stage in
the last 20 % of the epochs; learning rate and loss weights are its defaults), with the size that its README calls small
(128 channels, L = 0; ``--size medium``: L = 1) and its float32, which it recommends for speed. The stages end by the
clock, which starts with the first epoch of either program, and not by a number of epochs: MACE is stopped after 80 % of
the wall time, goes on with its second stage from its best checkpoint, and is stopped again when its time is over. Both
programs keep what is best on the same validation frames.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.data import (
    common_arguments,
    errors_of_mindscaip,
    split,
    stage,
    table,
    train_mindscaip,
    write_frames,
)
from mindscaip.data.formats import read_structures
from mindscaip.files import atomic_path

SIZES = {"small": ("128", "0"), "medium": ("128", "1")}
"""Channels and largest L of the message, as MACE's README names its models."""
NAME = "mace"
SECOND_STAGE = 0.8
"""Part of the wall time after which MACE's second stage begins."""
NEVER = 1_000_000
"""Epochs; the clock ends a stage before."""
EPOCH = re.compile(r"Epoch (\d+):")
CHECKPOINT = re.compile(r"_epoch-(\d+)(_swa)?\.pt")
PROGRAM = "from mace.cli.run_train import main; main()"
EVALUATE = """
import json, sys, time
import ase.io, numpy as np, torch
torch.set_num_threads(int(sys.argv[4]))
from mace.calculators import MACECalculator
calculator = MACECalculator(model_paths=sys.argv[1], device="cpu", default_dtype="float64")
frames = ase.io.read(sys.argv[2], ":")
energy, forces, calls = [], [], []
for atoms in frames:
    bare = ase.Atoms(atoms.numbers, atoms.positions)
    started = time.perf_counter()
    energy.append(calculator.get_potential_energy(bare))
    forces.append(calculator.get_forces(bare))
    calls.append(time.perf_counter() - started)
parameters = sum(p.numel() for p in calculator.models[0].parameters())
np.savez(sys.argv[3], energy=energy, forces=np.array(forces))
print(json.dumps({"ms_per_call": 1e3 * float(np.median(calls)), "parameters": parameters}))
"""


def make_environment(path: Path, own_torch: bool) -> None:
    """A virtual environment with mace-torch; it sees the packages of this one unless it gets its own torch."""
    python = path / "bin" / "python"
    if python.exists() and subprocess.run([python, "-c", "import mace, torch"], capture_output=True).returncode == 0:
        return
    subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
    if own_torch:
        index = ["--index-url", "https://download.pytorch.org/whl/cpu"]
        subprocess.run([python, "-m", "pip", "install", "--no-input", "torch", *index], check=True)
    else:
        import numpy

        site = next((path / "lib").glob("python*/site-packages"))
        (site / "shared.pth").write_text(f"{Path(numpy.__file__).parents[1]}\n")
    subprocess.run([python, "-m", "pip", "install", "--no-input", "mace-torch"], check=True)
    subprocess.run([python, "-c", "import mace, torch"], check=True)


def mace_command(arguments: argparse.Namespace, folder: Path, epochs: int, second: int | None = None) -> list[str]:
    """The command of one training of at most so many epochs, from epoch ``second`` on in the second stage."""
    channels, largest = SIZES[arguments.size]
    options = {
        "name": NAME,
        "work_dir": _work(arguments, folder),
        "train_file": folder / "mace-train.xyz",
        "valid_file": folder / "val.xyz",
        "test_file": folder / "val.xyz",
        "model": "MACE",
        "num_channels": channels,
        "max_L": largest,
        "r_max": "5.0",
        "batch_size": "10",
        "valid_batch_size": "32",
        "max_num_epochs": epochs,
        "ema_decay": "0.99",
        "device": "cpu",
        "default_dtype": "float32",
        "seed": arguments.seed,
        "plot": "False",
    }
    flags = ["--ema", "--amsgrad", "--restart_latest"]
    if second is not None:
        flags += ["--stage_two", f"--start_stage_two={second}"]
    python = str(arguments.environment / "bin" / "python")
    return [python, "-c", PROGRAM, *(f"--{name}={value}" for name, value in options.items()), *flags]


def _work(arguments: argparse.Namespace, folder: Path) -> Path:
    return folder / f"mace-{arguments.size}"


class MaceTraining:
    """One run of MACE under a clock that starts with its first epoch."""

    def __init__(self, command: list[str], threads: int, log: Path, limit: float, clock: Path | None = None) -> None:
        before = json.loads(clock.read_text())["seconds"] if clock is not None and clock.exists() else 0.0
        self.seconds, self.epochs, self.stopped = before, 0, False
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        begun: float | None = None
        training, ended = True, False
        previous = signal.signal(signal.SIGALRM, self._alarm)
        try:
            with log.open("a") as file:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if begun is None and ("Initial" in line or EPOCH.search(line)):
                        begun = time.perf_counter()
                        signal.setitimer(signal.ITIMER_REAL, max(1.0, limit - before) if math.isfinite(limit) else 0.0)
                    found = EPOCH.search(line)
                    if begun is not None and training:
                        self.seconds = before + time.perf_counter() - begun
                    if found:
                        self.epochs = int(found.group(1)) + 1
                        if clock is not None:
                            with atomic_path(clock) as temporary:
                                temporary.write_text(json.dumps({"seconds": self.seconds}))
                    if "Training complete" in line:
                        training = False
                        signal.setitimer(signal.ITIMER_REAL, 0)
            ended = True
        except TimeoutError:
            self.stopped, self.seconds = True, limit
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            if not ended and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            self.code = process.wait()

    @staticmethod
    def _alarm(number: int, frame: object) -> None:
        raise TimeoutError


def train_mace(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train for the wall time, in two stages, and leave the best checkpoint as a model."""
    limit = 60.0 * arguments.minutes
    work = _work(arguments, folder)
    log, clock = folder / "mace.log", work.with_name(f"{work.name}-clock.json")

    def run(epochs: int, second: int | None, until: float, timed: bool = True) -> MaceTraining:
        command = mace_command(arguments, folder, epochs, second)
        found = MaceTraining(command, arguments.threads, log, until, clock if timed else None)
        if found.code and not found.stopped:
            raise SystemExit(f"MACE failed; see {log}; the same command goes on")
        return found

    def first_stage() -> dict[str, Any]:
        # A second stage that never comes: its settings must be in the checkpoints that the second one starts from.
        run(NEVER, NEVER - 1, SECOND_STAGE * limit)
        return {"epochs": _last_checkpoint(work, second=False, log=log) + 1}

    second = stage(folder, f"mace-{arguments.size}-first", first_stage)["epochs"]
    found = run(NEVER, second, limit)
    last = _last_checkpoint(work, second=True, log=log)
    whole = last >= second
    if not whole:
        last = _last_checkpoint(work, second=False, log=log)
    # With as many epochs as it has, the same program trains none and turns its best checkpoints into models.
    run(last, min(second, last - 1) if whole else None, math.inf, timed=False)
    model = work / (f"{NAME}_stagetwo.model" if whole else f"{NAME}.model")
    if not model.exists():
        raise SystemExit(f"MACE left no {model}; see {log}")
    epochs = max(found.epochs, last + 1)
    updates = epochs * -(-json.loads((folder / "split.json").read_text())["train"] // 10)
    return {
        "model": str(model), "minutes": found.seconds / 60, "epochs": epochs, "updates": updates,
        "second_stage_from": second, "best_epoch": last + 1,
        "first_stage": str(model.with_name(f"{NAME}.model")) if whole else None,
    }  # fmt: skip


def _last_checkpoint(work: Path, *, second: bool, log: Path) -> int:
    """Epoch of the best checkpoint of a stage, which is the last that MACE keeps; -1 without one in the second."""
    names = [CHECKPOINT.search(path.name) for path in (work / "checkpoints").glob("*.pt")]
    epochs = [int(found.group(1)) for found in names if found and (found.group(2) is not None) == second]
    if not epochs and not second:
        raise SystemExit(f"MACE did not finish an epoch in its time; see {log}; give more --minutes")
    return max(epochs, default=-1)


def errors_of_mace(arguments: argparse.Namespace, folder: Path, model: str) -> dict[str, Any]:
    """Errors on the test frames by the same function as those of mindscaip."""
    from mindscaip.engines.batched import Prediction
    from mindscaip.metrics import error_statistics

    frames = list(read_structures(arguments.data / "test_MD_300K.xyz"))
    write_frames(folder / "test.xyz", frames)
    answers = folder / "mace-test.npz"
    python = str(arguments.environment / "bin" / "python")
    command = [python, "-c", EVALUATE, model, str(folder / "test.xyz"), str(answers), str(arguments.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"MACE could not be tested:\n{done.stderr}")
    with np.load(answers) as found:
        predictions = [
            Prediction(float(e), f, None, None, np.zeros(0))
            for e, f in zip(found["energy"], found["forces"], strict=True)
        ]
    return {**error_statistics(frames, predictions), **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = common_arguments("MACE and mindscaip at equal wall time on acetylacetone at 300 K.", "runs/against-mace")
    parser.add_argument("--environment", type=Path, default=Path("runs/mace-env"), help="of mace-torch; made if absent")
    parser.add_argument("--own-torch", action="store_true", help="give that environment its own torch (CPU)")
    parser.add_argument("--size", choices=SIZES, default="small", help="of MACE")
    parser.add_argument("--frames", type=int, help="train on this many only, to try it out")
    parser.add_argument("--in-turn", action="store_true", help="one training after the other, for want of cores")
    arguments = parser.parse_args()
    arguments.environment = arguments.environment.absolute()
    folder: Path = arguments.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    make_environment(arguments.environment, arguments.own_torch)

    def make_split() -> dict[str, Any]:
        found = split(arguments.data, folder, 0.05, arguments.seed, arguments.frames)
        both = (folder / "train.xyz").read_text() + (folder / "isolated.xyz").read_text()
        (folder / "mace-train.xyz").write_text(both)
        return found

    parts = stage(folder, "split", make_split)
    mace = f"MACE {arguments.size}"
    train, val = folder / "train.xyz", folder / "val.xyz"
    # Side by side, what else the machine does slows both alike. MACE's clock is an alarm: it needs the main thread.
    with ThreadPoolExecutor(1) as pool:
        own = pool.submit(stage, folder, "mindscaip-train", partial(train_mindscaip, arguments, folder, train, val))
        if arguments.in_turn:
            own.result()
        theirs = stage(folder, f"mace-{arguments.size}-train", partial(train_mace, arguments, folder))
        ours = own.result()
    ours |= stage(folder, "mindscaip-test", partial(errors_of_mindscaip, arguments, Path(ours["model"])))
    models = {mace: theirs["model"]}
    if theirs["first_stage"]:
        models[f"{mace}, first stage"] = theirs["first_stage"]
    rivals = {
        name: theirs
        | stage(
            folder, f"mace-{arguments.size}-{Path(model).stem}-test", partial(errors_of_mace, arguments, folder, model)
        )
        for name, model in models.items()
    }
    ask = "import importlib.metadata as m; print(m.version('mace-torch'))"
    python = str(arguments.environment / "bin" / "python")
    version = subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout.strip()
    print(
        f"\nTrained on {parts['train']} frames, validated on {parts['val']}, {arguments.minutes:g} minutes on "
        f"{arguments.threads} thread(s) each, mace-torch {version}; tested on 650 frames at 300 K.\n"
    )
    rows = [
        ["", "parameters", "minutes", "epochs", "updates", "energy MAE / RMSE (meV/atom)", "force MAE / RMSE (meV/A)",
         "ms per call"],
    ]  # fmt: skip
    for name, errors in {"mindscaip": ours, **rivals}.items():
        rows.append(
            [
                name,
                f"{errors['parameters']:,}",
                f"{errors['minutes']:.1f}",
                str(errors["epochs"]),
                f"{errors['updates']:,}",
                f"{errors['energy_mae']:.2f} / {errors['energy_rmse']:.2f}",
                f"{errors['forces_mae']:.1f} / {errors['forces_rmse']:.1f}",
                f"{errors['ms_per_call']:.1f}",
            ]
        )
    print(table(rows))


if __name__ == "__main__":
    main()
