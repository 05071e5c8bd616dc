"""Time and memory of ``pair_style mindscaip`` on liquid water, against the bare call of the module.

``python -m benchmarks.lammps [--preset small] [--atoms 200 2000] [--ranks 1 2] [--steps 5] [--repeat 3]`` prints a
table. The weights are random, which costs what trained ones cost. Every process uses one thread and wants a core of its
own. The speed of a shared core changes by the minute, so bare calls and runs alternate, ``--repeat`` times; times are
medians, and overhead and speed-up are medians of the ratios within one round, with the least and the largest.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from mindscaip.config import load_preset, parse_config
from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.lammps import launch_command, write_data
from mindscaip.export import export_model
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.memory import keep_freed_memory
from mindscaip.model.backbone import MinDScAIP

MOLECULES = 0.0334
"""Water molecules per A^3 at 300 K."""
WARM_UP = 1
"""The first call loads and allocates."""
GEOMETRY = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])


def water(num_atoms: int) -> Structure:
    """At least ``num_atoms`` atoms of water at the density of the liquid, on a grid, turned at random."""
    rng = np.random.default_rng(0)
    count = -(-num_atoms // 3)
    edge = (count / MOLECULES) ** (1 / 3)
    side = int(np.ceil(count ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    places = grid[rng.permutation(len(grid))[:count]] * (edge / side)
    turns = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    positions = (places[:, None] + GEOMETRY @ turns).reshape(-1, 3)
    return Structure(np.tile([8, 1, 1], count), positions, np.eye(3) * edge, np.full(3, True))


def write_model(path: Path, preset: str, dtype: str) -> None:
    config = parse_config(load_preset(preset)).model
    torch.manual_seed(0)
    model = MinDScAIP(config, ["H", "O"], {"H": -13.5, "O": -2038.0})
    export_model(model, path, elements=["H", "O"], k=config.graph.k, dtype=dtype, metadata={"kind": "random weights"})


def bare_call(path: Path, structure: Structure, steps: int) -> float:
    """Seconds of one call of the module, without list, conversion or forces."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the plugin does
    exported = load_exported(path)
    edges = neighbor_list(structure, exported.contract.list_cutoff)
    arguments = [torch.from_numpy(part) for part in (structure.numbers, edges.index, edges.vectors)]
    seconds = []
    with torch.jit.optimized_execution(False):  # as the plugin calls it
        for _ in range(WARM_UP + steps):
            start = time.perf_counter()
            exported.module(*arguments)
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[WARM_UP:]))


def lammps_run(path: Path, structure: Structure, ranks: int, steps: int) -> dict[str, float]:
    """Seconds per step of each section, and the peak memory of the first rank in GB."""
    with tempfile.TemporaryDirectory(prefix="mindscaip-benchmark-") as name:
        folder = Path(name)
        types = write_data(folder / "water.data", structure)
        script = f"""units metal
read_data water.data
pair_style mindscaip '{path}' timing yes
pair_coeff * * {" ".join(types)}
velocity all create 300.0 1
timestep 0.0005
fix integrate all nve
run {WARM_UP}
run {steps} pre no post yes
shell "grep VmHWM /proc/$PPID/status > memory.txt"
"""
        (folder / "in.lammps").write_text(script)
        command = [*launch_command(ranks), "-in", "in.lammps", "-log", "log.lammps", "-nocite"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        log = (folder / "log.lammps").read_text()
        tables = log.split("pair_style mindscaip: ")
        rows = re.findall(r"(graph|model|exchange) *\|[^|]+\| (\S+)", tables[-1])
        sections = {name: float(value) / steps for name, value in rows}
        loops = re.findall(r"Loop time of (\S+) on", log)
        peak = float((folder / "memory.txt").read_text().split()[1]) / 1e6
    return {**sections, "step": float(loops[-1]) / steps, "peak_gb": peak}


def measure(path: Path, structure: Structure, ranks: list[int], steps: int) -> dict[str, float]:
    """One round: the bare call, then LAMMPS on each number of ranks."""
    # In a process of its own, so that its memory is free again when LAMMPS runs.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = {"bare": pool.submit(bare_call, path, structure, steps).result()}
    for number in ranks:
        found |= {f"{name} {number}": value for name, value in lammps_run(path, structure, number, steps).items()}
    return found


def spread(values: list[float], form: str) -> str:
    """The median, and the least and the largest where there are several."""
    ends = f" ({format(min(values), form)} to {format(max(values), form)})" if len(values) > 1 else ""
    return format(float(np.median(values)), form) + ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--atoms", nargs="*", type=int, default=[200, 2000])
    parser.add_argument("--ranks", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1, help="rounds of bare call and runs")
    arguments = parser.parse_args()
    columns = ["atoms", "ranks", "bare call (s)", "step (s)", "graph + forces (s)", "model (s)", "exchange (s)"]
    columns += ["overhead", "speed-up", "memory of a rank (GB)"]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    with tempfile.TemporaryDirectory(prefix="mindscaip-benchmark-") as name:
        path = Path(name) / "model.pt"
        write_model(path, arguments.preset, arguments.dtype)
        for num_atoms in arguments.atoms:
            structure = water(num_atoms)
            rounds = [measure(path, structure, arguments.ranks, arguments.steps) for _ in range(arguments.repeat)]
            for ranks in arguments.ranks:
                m = {key: float(np.median([found[key] for found in rounds])) for key in rounds[0]}
                overhead, faster = "", ""
                if ranks == 1:
                    overhead = spread([found["step 1"] / found["bare"] - 1 for found in rounds], ".1%")
                elif 1 in arguments.ranks:
                    faster = spread([found["step 1"] / found[f"step {ranks}"] for found in rounds], ".2f")
                values = [f"{len(structure)}", f"{ranks}", f"{m['bare']:.3f}", f"{m[f'step {ranks}']:.3f}"]
                values += [f"{m[f'graph {ranks}']:.4f}", f"{m[f'model {ranks}']:.3f}", f"{m[f'exchange {ranks}']:.3f}"]
                values += [overhead, faster, f"{m[f'peak_gb {ranks}']:.2f}"]
                print("| " + " | ".join(values) + " |", flush=True)


if __name__ == "__main__":
    main()
