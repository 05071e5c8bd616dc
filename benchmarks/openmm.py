"""What OpenMM adds to a call of the exported module, and what the neighbour list costs.

``python -m benchmarks.openmm [--preset tiny] [--atoms 50 1000] [--lists 50 1000 10000] [--model model.pt]``

Jittered water-like liquids in periodic boxes. "bare" is one call of the module with a finished edge list; "OpenMM" is
energy and forces from a Context (neighbour list, units, scatter and OpenMM included); both in turns, on one thread, in
processor time, of which the lowest of the repetitions counts: other programs on the machine then disturb least.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mindscaip.config import load_config
from mindscaip.contract import ExportedModel, load_exported
from mindscaip.data.structure import Structure
from mindscaip.export import export_model
from mindscaip.graph import scripted
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.backbone import MinDScAIP
from mindscaip.units import ANGSTROM_TO_NM

WATER = 0.1003
"""Atoms per A^3 of liquid water at 300 K."""


def liquid(num_atoms: int, seed: int = 0) -> Structure:
    """Oxygen and hydrogen on a jittered grid at the density of water."""
    rng = np.random.default_rng(seed)
    edge = (num_atoms / WATER) ** (1 / 3)
    side = int(np.ceil(num_atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)[:num_atoms] * (edge / side)
    positions = grid + rng.uniform(-0.3, 0.3, (num_atoms, 3))
    numbers = np.where(np.arange(num_atoms) % 3 == 0, 8, 1)
    return Structure(numbers, positions, np.eye(3) * edge, np.ones(3, dtype=bool))


def random_model(preset: str, folder: Path) -> ExportedModel:
    """A model of a preset with random weights, exported and loaded."""
    config = load_config([f"preset={preset}"])
    torch.manual_seed(0)
    model = MinDScAIP(config.model, ["H", "O"], {"H": 0.0, "O": 0.0}, scale=1.0)
    path = folder / "model.pt"
    export_model(model, path, elements=["H", "O"], k=config.model.graph.k, metadata={"preset": preset})
    return load_exported(path)


def lowest(calls: list[Callable[[], object]], repeats: int, warm_up: int = 3) -> list[float]:
    """Lowest processor time (s) of each of ``calls``, made in turns."""
    times = [[] for _ in calls]  # type: list[list[float]]
    for repeat in range(warm_up + repeats):
        for call, found in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            if repeat >= warm_up:
                found.append(time.process_time() - start)
    return [min(found) for found in times]


def overhead(model: ExportedModel, num_atoms: int, platform: str, backend: str, repeats: int) -> None:
    """Print one row: bare call, neighbour list, OpenMM."""
    import openmm as mm

    from mindscaip.engines.openmm import torch_force

    structure = liquid(num_atoms)
    edges = neighbor_list(structure, model.contract.list_cutoff)
    arguments = tuple(torch.from_numpy(a) for a in (structure.numbers, edges.index, edges.vectors))
    positions, cell = torch.from_numpy(structure.positions), torch.from_numpy(structure.cell)
    listing = torch.jit.script(scripted.neighbor_edges)

    system = mm.System()
    for _ in range(num_atoms):
        system.addParticle(1.0)
    system.setDefaultPeriodicBoxVectors(*(mm.Vec3(*row) for row in structure.cell * ANGSTROM_TO_NM))
    system.addForce(torch_force(model, structure.numbers, periodic=True, backend=backend))
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(platform))
    context.setPositions(structure.positions * ANGSTROM_TO_NM)

    def in_openmm() -> None:
        context.getState(energy=True, forces=True)

    bare, listed, all_of_it = lowest(
        [
            lambda: model.module(*arguments),
            lambda: listing(positions, cell, model.contract.list_cutoff),
            in_openmm,
        ],
        repeats,
    )
    print(
        f"| {num_atoms} | {edges.index.shape[1]} | {platform}, {backend} | {bare * 1e3:.1f} | {listed * 1e3:.2f} | "
        f"{listed / bare:.1%} | {all_of_it * 1e3:.1f} | {all_of_it / bare - 1:+.1%} |",
        flush=True,
    )


def lists(num_atoms: int, cutoff: float, repeats: int) -> None:
    """Print one row: the list by all pairs and by bins."""
    structure = liquid(num_atoms)
    positions, cell = torch.from_numpy(structure.positions), torch.from_numpy(structure.cell)
    listing = torch.jit.script(scripted.neighbor_edges)
    calls: list[Callable[[], object]] = [lambda: listing(positions, cell, cutoff, 0)]
    if num_atoms <= 5000:  # beyond, all pairs take minutes
        calls.append(lambda: listing(positions, cell, cutoff, 10**12))
    times = [f"{t * 1e3:.1f}" for t in lowest(calls, repeats, warm_up=2)]
    edges = listing(positions, cell, cutoff)[0].shape[1]
    print(f"| {num_atoms} | {edges} | {times[1] if len(times) > 1 else '-'} | {times[0]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny", help="model with random weights")
    parser.add_argument("--model", help="model.pt instead of a preset")
    parser.add_argument("--atoms", nargs="*", type=int, default=[50, 1000])
    parser.add_argument("--lists", nargs="*", type=int, default=[50, 100, 200, 500, 1000, 2000, 10000])
    parser.add_argument("--platform", default="Reference")
    parser.add_argument("--backend", nargs="*", default=["torch", "python"])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.atoms:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.model:
                model = load_exported(arguments.model)
            else:
                model = random_model(arguments.preset, Path(folder))
        name = arguments.model or f"preset {arguments.preset}"
        print(f"{name}: {model.contract.parameters} parameters, {model.contract.dtype}, one thread, processor time\n")
        print("| atoms | edges listed | OpenMM by | bare (ms) | list (ms) | list / bare | OpenMM (ms) | overhead |")
        print("|---|---|---|---|---|---|---|---|")
        for num_atoms in arguments.atoms:
            for backend in arguments.backend:
                overhead(model, num_atoms, arguments.platform, backend, arguments.repeats)
        cutoff = model.contract.list_cutoff
    else:
        cutoff = 6.8
    if arguments.lists:
        print(f"\nneighbour list, {cutoff:g} A\n")
        print("| atoms | edges | all pairs (ms) | bins (ms) |")
        print("|---|---|---|---|")
        for num_atoms in arguments.lists:
            lists(num_atoms, cutoff, max(3, arguments.repeats // 2))


if __name__ == "__main__":
    sys.exit(main())
