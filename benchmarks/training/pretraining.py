"""Does direct-force pre-training with denoising pay? Training from scratch against both stages, at equal wall time.

``python -m benchmarks.training.pretraining CONFIG.yaml [key=value]... --minutes M --test TEST.xyz -o FOLDER`` (from
the root of the repository) trains ``FOLDER/scratch`` for M minutes and, side by side, ``FOLDER/pretrained`` for M
minutes in two stages, of which the first gets ``--share`` of the time, and prints the errors of both on the test
structures as a Markdown table. Ctrl-C saves; the same command goes on, or prints the table if all is done.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.accuracy.data import mindscaip
from mindscaip.contract import load_exported
from mindscaip.data.formats import read_structures
from mindscaip.engines.batched import evaluate
from mindscaip.export import export_run
from mindscaip.metrics import error_statistics
from mindscaip.training.checkpoint import PRETRAINED, load_checkpoint
from mindscaip.training.prepare import CONFIG_FILE

COLUMNS = ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="+", metavar="CONFIG.yaml | preset=NAME | key=value")
    parser.add_argument("--minutes", type=float, required=True, help="wall time of each run")
    parser.add_argument("--share", type=float, default=0.4, help="part of it for the pre-training")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--in-turn", action="store_true", help="one training after the other, for want of cores")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    first = options.share * options.minutes
    runs = {
        "scratch": [f"training.max_minutes={options.minutes}"],
        "pretrained": [
            "pretraining.epochs=100000",
            f"pretraining.max_minutes={first}",
            f"training.max_minutes={options.minutes - first}",
        ],
    }
    commands = []
    for name, times in runs.items():
        folder = options.output / name
        if (folder / CONFIG_FILE).exists():
            commands.append(["train", "--resume", str(folder)])
        else:
            commands.append(["train", *options.config, "training.epochs=100000", *times, f"run={folder}"])
    with ThreadPoolExecutor(1 if options.in_turn else len(commands)) as pool:
        list(pool.map(partial(mindscaip, threads=options.threads), commands))

    structures = list(read_structures(options.test))
    checkpoints = {
        "from scratch": options.output / "scratch" / "best.pt",
        "pre-trained, then conservative": options.output / "pretrained" / "best.pt",
        "after the pre-training (direct forces)": options.output / "pretrained" / PRETRAINED,
    }
    print(f"| test errors, {options.minutes:g} min | minutes | epochs | energy MAE | RMSE | force MAE | RMSE |")
    print("|---|---|---|---|---|---|---|")
    for name, checkpoint in checkpoints.items():
        state = load_checkpoint(checkpoint)
        last = load_checkpoint(checkpoint.parent / "last.pt") if checkpoint.name == "best.pt" else state
        model = options.output / f"{checkpoint.parent.name}-{checkpoint.stem}-model.pt"
        export_run(checkpoint, model, dtype="float64")
        errors = error_statistics(structures, evaluate(load_exported(model), structures))
        record = last["record"]
        numbers = " | ".join(f"{errors[column]:.2f}" for column in COLUMNS)
        print(f"| {name} | {record['minutes']:.1f} | {record['epochs']} | {numbers} |")
    print("\nEnergies in meV/atom, forces in meV/A.")


if __name__ == "__main__":
    main()
