"""How fast data come: import, opening, batches during training, and the memory that training takes as data grow.

``python -m benchmarks.data [--small N] [--large N] [--steps N] [--device cpu]`` generates two extended XYZ files of
small molecules (20,000 and 200,000 by default) and prints one table. Each measurement runs in a process of its own, so
that its peak memory is its own; the row "baseline" is a process that has imported torch and built the model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ATOMS = (6, 15)
"""Least number of atoms, and one above the highest."""


def generate(path: Path, count: int) -> None:
    """Random clusters of C, H, N, O without close contacts, on springs, with their energies and forces."""
    rng = np.random.default_rng(0)
    symbols = np.array(list("CHNO"))
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3) * 1.25
    with path.open("w") as file:
        for i in range(count):
            n = int(rng.integers(*ATOMS))
            sites = grid[rng.permutation(27)[:n]]
            species = symbols[rng.integers(0, 4, n)]
            shift = rng.normal(0, 0.08, (n, 3))
            energy = -150.0 * n + 10.0 * float((shift**2).sum())
            rows = np.concatenate([sites + shift, -20.0 * shift], axis=1)
            file.write(
                f'{n}\nProperties=species:S:1:pos:R:3:forces:R:3 energy={energy:.8f} group=m{i // 20} pbc="F F F"\n'
            )
            for symbol, numbers in zip(species, rows.tolist(), strict=True):
                file.write(f"{symbol} {' '.join(f'{number:.8f}' for number in numbers)}\n")


def memory() -> dict[str, float]:
    """Peak and present memory of this process in MB; ``anonymous`` leaves out mapped pages of files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: float(fields[key].split()[0]) / 1024
        for name, key in (("peak", "VmHWM"), ("anonymous", "RssAnon"), ("mapped", "RssFile"))
    }


def measure_import(source: str, store: str) -> dict[str, float]:
    """Rate of ``mindscaip data import`` without the start of Python."""
    from mindscaip.data.importing import import_data

    processor = time.process_time()
    summary = import_data([source], store, overwrite=True)
    processor = time.process_time() - processor
    return {
        "per_second": summary.structures / summary.seconds,
        "per_cpu_second": summary.structures / processor,
    } | memory()


def measure_open(store: str) -> dict[str, float]:
    """Seconds to open a store, and microseconds for a structure at random."""
    from mindscaip.data.store import Store

    start = time.perf_counter()
    with Store(store) as opened:
        seconds = time.perf_counter() - start
        chosen = np.random.default_rng(0).integers(0, len(opened), 3000).tolist()
        start = time.perf_counter()
        for index in chosen:
            opened[index]
        return {"seconds": seconds, "microseconds": (time.perf_counter() - start) / len(chosen) * 1e6} | memory()


def measure_training(store: str, steps: int, device: str, preset: str, batch_size: int) -> dict[str, float]:
    """Preparation of a run and its first steps: time per step, and the part of it spent waiting for the batch.

    ``built`` is the time in which the same batches are made with nothing else running, per step.
    """
    import torch

    from mindscaip.config import load_config
    from mindscaip.graph.diffknn import list_cutoff
    from mindscaip.model.backbone import MinDScAIP
    from mindscaip.training.batches import EpochBatches
    from mindscaip.training.dataset import StructureDataset
    from mindscaip.training.loss import Predictor
    from mindscaip.training.prepare import make_record, read_data

    start = time.perf_counter()
    config = load_config([f"preset={preset}", f"data.train={store or 'none'}"])
    torch.manual_seed(0)
    if not store:
        MinDScAIP(config.model, ["H", "C", "N", "O"], dict.fromkeys("HCNO", 0.0), 1.0)
        return memory()
    data = read_data(config.data)
    record = make_record(config, data)
    reach = list_cutoff(config.model.graph.cutoff, config.model.graph.d0)
    dataset = StructureDataset(data.train, reach, cache_mb=config.data.cache_mb)
    prepared = time.perf_counter() - start
    model = MinDScAIP(config.model, record["elements"], record["reference_energies"], record["energy_scale_eV"])
    predictor = Predictor(model).to(device)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters)
    plan = EpochBatches(dataset, batch_size, seed=0, epoch=0, rotate=True)
    coming = plan.start_at(0)
    waiting, begin = 0.0, 0.0
    late = 0
    for step in range(steps + 2):
        if step == 2:  # the first steps choose algorithms and fill caches
            waiting, begin, late = 0.0, time.perf_counter(), coming.late
        ask = time.perf_counter()
        batch = next(coming)
        waiting += time.perf_counter() - ask
        batch = batch.to(device)
        energy, forces, _ = predictor(batch)[:3]
        loss = ((energy - batch.energy) / batch.num_atoms).abs().mean() + (forces - batch.forces).abs().mean()
        torch.autograd.backward(loss, inputs=parameters)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - begin
    late = coming.late - late
    coming.close()
    used = memory()
    indices = plan.plan()[-10:]
    start = time.perf_counter()
    for number, some in enumerate(indices):
        plan.batch(some, number)
    built = (time.perf_counter() - start) / len(indices)
    return {
        "prepared": prepared,
        "step": seconds / steps,
        "waiting": waiting / seconds,
        "late": late,
        "built": built,
    } | used


def measure_epoch(store: str) -> dict[str, float]:
    """All batches of one epoch without a model: structures per second, and memory after every structure was read.

    Little is kept of the neighbour lists (16 MB), so that what remains is what grows with the data, if anything does.
    """
    from mindscaip.config import load_config
    from mindscaip.training.batches import EpochBatches
    from mindscaip.training.dataset import StructureDataset
    from mindscaip.training.prepare import read_data

    data = read_data(load_config([f"data.train={store}"]).data)
    dataset = StructureDataset(data.train, 6.8, cache_mb=16.0)
    start = time.perf_counter()
    for _ in EpochBatches(dataset, 32, seed=0, epoch=0, rotate=True):
        pass
    return {"per_second": len(dataset) / (time.perf_counter() - start)} | memory()


def alone(name: str, *arguments: object) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data", "--only", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--small", type=int, default=20_000, help="structures of the smaller set")
    parser.add_argument("--large", type=int, default=200_000, help="structures of the larger set")
    parser.add_argument("--steps", type=int, default=20, help="steps of training that are timed")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where to keep the files (default: a temporary folder)")
    arguments = parser.parse_args()
    if arguments.only:
        name, *rest = arguments.only
        if name == "train":
            print(json.dumps(measure_training(rest[0], int(rest[1]), rest[2], rest[3], int(rest[4]))))
        else:
            print(json.dumps({"import": measure_import, "open": measure_open, "epoch": measure_epoch}[name](*rest)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = (arguments.steps, arguments.device, arguments.preset, arguments.batch_size)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.preset}, batches of {run[3]}")
        found = alone("train", "", *run)
        print(f"baseline: peak {found['peak']:.0f} MB")
        for count in (arguments.small, arguments.large):
            source, store = folder / f"{count}.xyz", folder / f"{count}.h5"
            if not source.exists():
                generate(source, count)
            print(f"{count} structures, {source.stat().st_size / 1e6:.0f} MB of extended XYZ")
            found = alone("import", source, store)
            print(
                f"  import  {found['per_second']:.0f} structures/s ({found['per_cpu_second']:.0f} per second of one "
                f"core), peak {found['peak']:.0f} MB; store {store.stat().st_size / 1e6:.0f} MB"
            )
            found = alone("open", store)
            print(f"  open    {found['seconds'] * 1e3:.1f} ms, a structure {found['microseconds']:.0f} us")
            found = alone("epoch", store)
            print(
                f"  batches {found['per_second']:.0f} structures/s, after an epoch: peak {found['peak']:.0f} MB "
                f"({found['anonymous']:.0f} MB of it its own)"
            )
            found = alone("train", store, *run)
            print(
                f"  train   ready in {found['prepared']:.1f} s, step {found['step'] * 1e3:.0f} ms; "
                f"{found['late']:.0f} of {arguments.steps} batches late, {found['waiting']:.2%} of the time spent "
                f"asking for them (making one takes {found['built'] * 1e3:.1f} ms); peak {found['peak']:.0f} MB "
                f"({found['anonymous']:.0f} MB of it its own)"
            )


if __name__ == "__main__":
    main()
