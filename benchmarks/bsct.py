"""Scoring of bond scans: how fast against a frame-by-frame loop, and whether the scores depend on the grid.

``python -m benchmarks.bsct speed DATASET`` exports a preset with random weights, evaluates the same frames in an ASE
loop (one calculator call per frame, as evaluation scripts do) and in batches across scans, and prints frames per second
of both. ``--threads`` is torch's; wall and processor time are given because a busy machine spoils the former.

``python -m benchmarks.bsct convergence RUN DATASET`` prints both metrics of a finished or unfinished run of
``mindscaip bsct score ... -o RUN`` on every frame, every second and every third one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ELEMENTS = ["H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"]


def export_preset(preset: str, path: Path) -> None:
    """A model of the preset's size with random weights: speed does not depend on them."""
    import torch

    from mindscaip.config import load_preset, parse_config
    from mindscaip.export import export_model
    from mindscaip.model.backbone import MinDScAIP

    torch.manual_seed(0)
    config = parse_config(load_preset(preset)).model
    model = MinDScAIP(config, ELEMENTS, dict.fromkeys(ELEMENTS, -10.0), scale=1.0)
    export_model(model, path, elements=ELEMENTS, k=model.k, metadata={"kind": "random weights"})


def clocked(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def speed(dataset: Path, preset: str, num_scans: int, frames: int, threads: int, batch_edges: int | None) -> None:
    import torch
    from ase import Atoms

    from mindscaip.bsct.dataset import open_scans
    from mindscaip.contract import load_exported
    from mindscaip.data.structure import Structure
    from mindscaip.engines.ase import MindscaipCalculator
    from mindscaip.engines.batched import evaluate_stream

    torch.set_num_threads(threads)
    scans = open_scans(dataset)
    chosen = [scans.load(key) for key in scans.keys[:: max(1, len(scans) // num_scans)][:num_scans]]
    structures = [
        Structure(numbers=scan.numbers, positions=scan.positions[k])
        for scan in chosen
        for k in np.linspace(0, len(scan) - 1, frames).astype(int)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        export_preset(preset, path)
        model = load_exported(path)
    calculator = MindscaipCalculator(model)

    def loop(some: list[Structure]) -> None:
        for structure in some:
            atoms = Atoms(structure.numbers, structure.positions)
            atoms.calc = calculator
            atoms.get_potential_energy()
            atoms.get_forces()

    def stream(some: list[Structure]) -> None:
        for _ in evaluate_stream(model, some, batch_edges):
            pass

    for warm in (loop, stream):  # TorchScript optimises in its first calls
        for _ in range(3):
            warm(structures[:3])
    sizes = [len(scan.numbers) for scan in chosen]
    span = f"{min(sizes)} to {max(sizes)} atoms"
    print(f"{preset}: {len(structures)} frames of {len(chosen)} scans, {span}, {threads} threads")
    print("| way | frames/s (wall) | frames/s (processor) |")
    print("|---|---|---|")
    rates = []
    for name, way in (("ASE, frame by frame", loop), ("batches across scans", stream)):
        wall, processor = clocked(lambda way=way: way(structures))
        rates.append((len(structures) / wall, len(structures) / processor))
        print(f"| {name} | {rates[-1][0]:.2f} | {rates[-1][1]:.2f} |", flush=True)
    print(f"ratio {rates[1][0] / rates[0][0]:.2f} (wall), {rates[1][1] / rates[0][1]:.2f} (processor)")


def convergence(run: Path, dataset: Path, strides: tuple[int, ...] = (1, 2, 3)) -> None:
    from mindscaip.bsct.dataset import ScanError, open_scans
    from mindscaip.bsct.fsd import fsd
    from mindscaip.bsct.intrinsic import fsd_intrinsic, thinned
    from mindscaip.bsct.path import scan_path
    from mindscaip.bsct.score import read_prediction

    scans = open_scans(dataset)
    found = []
    for key in scans.keys:
        saved = read_prediction(run, key)
        if saved is None or saved.path_failure:
            continue
        try:
            scan = scans.load(key)
        except ScanError:
            continue
        whole = scan.num_dropped == 0
        if saved.path_forces is None and not whole:
            continue
        path = scan_path(scan, saved.dense or 1)
        forces = saved.forces if saved.path_forces is None else saved.path_forces.astype(np.float64)
        row = []
        for stride in strides:
            thin, there = thinned(path, forces, stride)
            intrinsic = fsd_intrinsic(thin, there)
            published = fsd(thin.scan, thin.scan.energy, there[thin.frames])
            row.append((published.full.value, intrinsic.full.value, intrinsic.percentile))
        found.append(row)
    means = np.mean(found, axis=0)
    print(f"{len(found)} scans of {run}")
    print("| frames used | fsd (1/A) | fsd_intrinsic (1/A) | its 99th percentile (1/A) |")
    print("|---|---|---|---|")
    for stride, row in zip(strides, means, strict=True):
        name = "every one" if stride == 1 else f"every {stride}."
        print(f"| {name} | {row[0]:.3f} | {row[1]:.3f} | {row[2]:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fast = commands.add_parser("speed")
    fast.add_argument("dataset", type=Path)
    fast.add_argument("--preset", default="small")
    fast.add_argument("--scans", type=int, default=8)
    fast.add_argument("--frames", type=int, default=4)
    fast.add_argument("--threads", type=int, default=2)
    fast.add_argument("--batch-edges", type=int)
    grid = commands.add_parser("convergence")
    grid.add_argument("run", type=Path)
    grid.add_argument("dataset", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "speed":
        speed(
            arguments.dataset,
            arguments.preset,
            arguments.scans,
            arguments.frames,
            arguments.threads,
            arguments.batch_edges,
        )
    else:
        convergence(arguments.run, arguments.dataset)


if __name__ == "__main__":
    main()
