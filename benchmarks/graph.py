"""Time and memory of the graph of a liquid: ranks, envelope and windows, for growing numbers of atoms.

``python benchmarks/graph.py [N ...]`` prints a table (default 1000 3000 10000 30000). Each size runs in a process of
its own, so that the peak memory is its own; it includes torch itself, which is the row of 0 atoms.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

WATER = 0.1003
"""Atoms per A^3 of liquid water at 300 K."""


def measure(num_atoms: int, ranking: str, threads: int) -> dict[str, float]:
    """Seconds of wall and processor time of list, graph and windows, and peak memory in GB."""
    import numpy as np
    import torch

    from mindscaip.data.structure import Structure
    from mindscaip.graph.diffknn import build_graph, list_cutoff
    from mindscaip.graph.neighbors import neighbor_list
    from mindscaip.graph.windows import make_windows

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    edge = (max(num_atoms, 1) / WATER) ** (1 / 3)
    # A jittered cubic grid: the density of the liquid without two atoms on one place.
    side = int(np.ceil(num_atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)[:num_atoms] * (edge / max(side, 1))
    positions = grid + rng.normal(0.0, 0.35, (num_atoms, 3))
    structure = Structure(np.full(num_atoms, 8), positions, np.eye(3) * edge, [True] * 3)
    start = time.perf_counter()
    edges = neighbor_list(structure, list_cutoff(6.0, 0.2))
    listed = time.perf_counter()
    index = torch.from_numpy(edges.index)
    vectors = torch.from_numpy(edges.vectors).requires_grad_(True)
    # The first call of a process loads libraries; a run makes thousands.
    few = vectors.detach()[: min(64, len(vectors))].requires_grad_(True)
    build_graph(num_atoms, index[:, : len(few)], few, 30, 6.0, 0.2, 10.0, "diffknn", "bump", ranking)
    processor = time.process_time()
    begin = time.perf_counter()
    graph = build_graph(num_atoms, index, vectors, 30, 6.0, 0.2, 10.0, "diffknn", "bump", ranking)
    bias = graph.log_envelope.float()
    windows = [make_windows(end, bias, num_atoms, 8) for end in (graph.center, graph.neighbor)]
    return {
        "atoms": num_atoms,
        "listed": len(vectors),
        "kept": len(graph.center),
        "list_s": listed - start,
        "graph_s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - processor,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "width": max((w.bias.size(1) for w in windows if num_atoms), default=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("atoms", nargs="*", type=int, default=[1000, 3000, 10000, 30000])
    parser.add_argument("--ranking", choices=("source", "mutual"), default="source")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.atoms[0], arguments.ranking, arguments.threads)))
        return
    print("| atoms | edges listed | edges kept | list (s) | graph + windows (s) | processor (s) | peak memory (GB) |")
    print("|---|---|---|---|---|---|---|")
    for num_atoms in [0, *arguments.atoms]:
        options = [str(num_atoms), "--one", "--ranking", arguments.ranking, "--threads", str(arguments.threads)]
        out = subprocess.run([sys.executable, __file__, *options], check=True, text=True, stdout=subprocess.PIPE).stdout
        m = json.loads(out)
        print(
            f"| {m['atoms']} | {m['listed']} | {m['kept']} | {m['list_s']:.2f} | {m['graph_s']:.2f} | {m['cpu_s']:.2f} "
            f"| {m['peak_gb']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
