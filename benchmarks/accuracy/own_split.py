"""Errors on sets that come without a test set at hand: ethanol and 3BPA, each on a random split of its one file.

``python -m benchmarks.accuracy.own_split --minutes 60`` (from the root of the repository) trains
``examples/acetylacetone.yaml`` on each for the same wall time and prints a table. Of ethanol 500 frames are the test
set, of 3BPA 100, and 25 of each validate; all parts are drawn at random with ``--seed``, so published errors, which are
over other frames, are not comparable to the digit. Every stage is kept in the output folder: the same command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.data import common_arguments, errors_of_mindscaip, stage, table, train_mindscaip, write_frames
from mindscaip.data.formats import read_structures
from mindscaip.units import EV_TO_MEV

SETS = {
    "ethanol": ("train.xyz", "isolated_atoms.xyz", 500),
    "3bpa": ("train_300K.xyz", "iso_atoms.xyz", 100),
}
"""Folder, beside that of acetylacetone, to frames, isolated atoms and the number of test frames."""
VALIDATION = 25


def split(folder: Path, out: Path, name: str, seed: int) -> dict[str, Any]:
    """Write ``train.xyz``, ``val.xyz``, ``test.xyz`` and ``isolated.xyz``; count them, with the RMS force in eV/A."""
    frames_file, isolated, num_test = SETS[name]
    frames = list(read_structures(folder / frames_file))
    order = np.random.default_rng(seed).permutation(len(frames))
    ends = [num_test, num_test + VALIDATION]
    parts = dict(zip(("test", "val", "train"), np.split(order, ends), strict=True))
    for part, indices in parts.items():
        write_frames(out / f"{part}.xyz", [frames[i] for i in sorted(indices)])
    write_frames(out / "isolated.xyz", list(read_structures(folder / isolated)), "IsolatedAtom")
    forces = np.concatenate([frames[i].forces for i in parts["test"]])
    rms = float(np.sqrt(np.mean(forces**2)))
    return {"atoms": len(frames[0]), "rms_force": rms, **{part: len(indices) for part, indices in parts.items()}}


def run(arguments: argparse.Namespace, name: str) -> list[str]:
    """Train and test on one set; its row."""
    folder: Path = arguments.output.absolute() / name
    folder.mkdir(parents=True, exist_ok=True)
    parts = stage(folder, "split", partial(split, arguments.data.parent / name, folder, name, arguments.seed))
    train = partial(train_mindscaip, arguments, folder, folder / "train.xyz", folder / "val.xyz")
    trained = stage(folder, "train", train)
    test = partial(errors_of_mindscaip, arguments, Path(trained["model"]), folder / "test.xyz")
    errors = stage(folder, "test", test)
    return [
        name,
        str(parts["atoms"]),
        f"{parts['train']} / {parts['val']} / {parts['test']}",
        f"{trained['minutes']:.1f}",
        f"{trained['updates']:,}",
        f"{errors['energy_mae']:.2f} / {errors['energy_rmse']:.2f}",
        f"{errors['forces_mae']:.1f} / {errors['forces_rmse']:.1f}",
        f"{EV_TO_MEV * parts['rms_force']:.0f}",
    ]


def main() -> None:
    parser = common_arguments("Ethanol and 3BPA on splits of our own.", "runs/own-split")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    arguments = parser.parse_args()
    rows = [
        ["set", "atoms", "train / validation / test", "minutes", "updates", "energy MAE / RMSE (meV/atom)",
         "force MAE / RMSE (meV/A)", "RMS force (meV/A)"],
    ]  # fmt: skip
    for name in arguments.sets:
        rows.append(run(arguments, name))
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
