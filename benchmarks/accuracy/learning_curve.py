"""The learning curve on acetylacetone at 300 K: errors by the number of training frames.

``python -m benchmarks.accuracy.learning_curve --minutes 60`` (from the root of the repository) trains
``examples/acetylacetone.yaml`` on 100, 250 and 500 frames, tests on the 650 test frames at 300 K and prints a table
with what is published for MACE and NequIP on 500 frames. Every training has the same wall time, or with ``--epochs N``
the same number of epochs. A tenth of the frames, at most 25, is split off for validation. Every stage is kept in the
output folder: the same command goes on where it stopped.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.accuracy.data import (
    PUBLISHED,
    PUBLISHED_IN,
    common_arguments,
    errors_of_mindscaip,
    split,
    stage,
    table,
    train_mindscaip,
)

ATOMS = 15
"""Of acetylacetone; published energies are of the molecule."""


def main() -> None:
    parser = common_arguments("Learning curve on acetylacetone at 300 K.", "runs/learning-curve")
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 250, 500], help="training and validation frames")
    parser.add_argument("--epochs", type=int, help="the same number of epochs each instead of the same wall time")
    arguments = parser.parse_args()
    if max(arguments.frames) > 500 or min(arguments.frames) < 10:
        parser.error("--frames: there are 500, and at least 10 are needed")
    rows = [["frames", "minutes", "epochs", "updates", "energy MAE / RMSE (meV/atom)", "force MAE / RMSE (meV/A)"]]
    for frames in arguments.frames:
        folder: Path = arguments.output.absolute() / f"{frames}-frames"
        folder.mkdir(parents=True, exist_ok=True)
        fraction = min(25, frames // 10) / 500
        kept = frames - round(fraction * 500)
        stage(folder, "split", partial(split, arguments.data, folder, fraction, arguments.seed, kept))
        train, val = folder / "train.xyz", folder / "val.xyz"
        trained = stage(folder, "train", partial(train_mindscaip, arguments, folder, train, val, arguments.epochs))
        errors = stage(folder, "test", partial(errors_of_mindscaip, arguments, Path(trained["model"])))
        rows.append(
            [
                str(frames),
                f"{trained['minutes']:.1f}",
                str(trained["epochs"]),
                f"{trained['updates']:,}",
                f"{errors['energy_mae']:.2f} / {errors['energy_rmse']:.2f}",
                f"{errors['forces_mae']:.1f} / {errors['forces_rmse']:.1f}",
            ]
        )
        print(table(rows), flush=True)
    print(f"\nPublished for 500 frames at 300 K, {PUBLISHED_IN}:\n")
    published = [["potential", "energy RMSE (meV/atom)", "force RMSE (meV/A)"]]
    for name, energy, force in PUBLISHED:
        published.append([name, f"{energy / ATOMS:.3f} ({energy:g} meV of the molecule)", f"{force:.1f}"])
    print(table(published))


if __name__ == "__main__":
    main()
