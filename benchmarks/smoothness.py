"""What every switch does to the smoothness of the energy: figures and table of ``docs/smoothness.md``.

``python -m benchmarks.smoothness`` (from the root of the repository, five minutes on one core) examines small models
with random weights along paths of the physics suite, writes ``docs/images/smoothness-*.svg`` and replaces the table in
the page.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.models import ELEMENTS, small_model
from tests.physics import paths
from tests.physics.cases import CONTROLS
from tests.physics.checks import continuity
from tests.physics.potentials import ModelPotential, eager

DOCS = Path(__file__).parents[1] / "docs"
MARKS = ("<!-- table: begin -->", "<!-- table: end -->")
STEP = 4e-3
"""A between samples of the figures."""

Make = Callable[[], ModelPotential]


def variant(**settings) -> Make:
    return lambda: eager(small_model(**settings), ELEMENTS, str(settings))


BASE = variant()
SWITCHES: dict[str, dict[str, Make]] = {
    "graph": {"diffknn": BASE, "knn (hard)": CONTROLS["hard kNN"]},
    "rank_function": {"bump": BASE, "sigmoid": CONTROLS["sigmoid, finite list"]},
    "list radius": {"r_c + 4 d0": BASE, "r_c": CONTROLS["list too short"]},
    "window width": {"set by the data": BASE, "k": CONTROLS["fixed width"]},
    "ranking": {"source": BASE, "mutual": variant(ranking="mutual")},
    "d0": {"0.1": variant(d0=0.1), "0.2": BASE, "0.4": variant(d0=0.4)},
    "beta": {"5": variant(beta=5.0), "10": BASE, "20": variant(beta=20.0)},
    "k": {"4": variant(k=4), "8": BASE, "16": variant(k=16)},
    "cutoff": {"4": BASE, "5": variant(cutoff=5.0)},
    "gamma": {"1": variant(gamma=1.0), "5": variant(gamma=5.0)},
    "temperature": {"1": BASE, "10": variant(temperature=10.0)},
    "num_radial": {"16": BASE, "64": variant(num_radial=64)},
    "l_max": {"1": variant(l_max=1), "3": BASE, "5": variant(l_max=5)},
}


def fourth_derivative(potential: ModelPotential) -> tuple[np.ndarray, np.ndarray]:
    """``d4E/dt4`` (eV/A^4) while two fragments separate: third derivative of the slope, sixth-order differences."""
    path = paths.separating_fragments(potential)
    t = np.arange(0.0, 2.6, STEP)
    _, slope = path.sample(potential)(t)
    weights = np.array([-7.0, 72.0, -338.0, 488.0, 0.0, -488.0, 338.0, -72.0, 7.0]) / 240.0
    return t[4:-4], np.convolve(slope, weights, "valid") / STEP**3


def svg(curves: dict[str, tuple[np.ndarray, np.ndarray]], switch: str) -> str:
    """One panel per curve, each on its own vertical scale, which is written beside it."""
    width, height, left, top = 720, 120, 150, 22
    total = top + len(curves) * height + 30
    size = f'viewBox="0 0 {width} {total}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f'<rect width="{width}" height="{total}" fill="white"/>',
        f'<text x="{left}" y="15">Fourth derivative of the energy along a path: {switch}</text>',
    ]
    last = max(t[-1] for t, _ in curves.values())
    for row, (name, (t, y)) in enumerate(curves.items()):
        low = top + row * height + 6
        middle, scale = low + (height - 12) / 2, float(np.abs(y).max())
        x = left + (width - left - 10) * t / last
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, middle - y / scale * (height - 16) / 2, strict=True))
        frame = f'width="{width - left - 10}" height="{height - 12}"'
        parts += [
            f'<rect x="{left}" y="{low}" {frame} fill="none" stroke="#bbb"/>',
            f'<line x1="{left}" x2="{width - 10}" y1="{middle}" y2="{middle}" stroke="#ddd"/>',
            f'<polyline points="{points}" fill="none" stroke="#2457a6" stroke-width="1.2"/>',
            f'<text x="8" y="{middle - 4}" font-weight="bold">{name}</text>',
            f'<text x="8" y="{middle + 12}" fill="#555">±{scale:.2g} eV/Å⁴</text>',
        ]
    for tick in np.arange(0.0, last, 0.5):
        x = left + (width - left - 10) * tick / last
        parts.append(f'<text x="{x:.0f}" y="{total - 12}" text-anchor="middle" fill="#555">{tick:.1f}</text>')
    parts.append(f'<text x="{width - 10}" y="{total - 12}" text-anchor="end" fill="#555">Å</text></svg>')
    return "\n".join(parts) + "\n"


def table_rows(switch: str, name: str, potential: ModelPotential) -> list[str]:
    """One line per path."""
    rows = []
    for path in (paths.dense(potential, 0.1), paths.separating_fragments(potential), paths.crystals(potential)[0]):
        found = continuity(potential, path)
        jumps = found.lowest_jump
        relative = " | ".join(f"**{d.relative:.0e}**" if d.breaks else f"{d.relative:.0e}" for d in found.derivatives)
        verdict = "smooth" if found.smooth else f"jumps in {'E' if jumps == 0 else f'derivative {jumps}'}"
        step = 1e3 * found.finest_step
        rows.append(f"| {switch} = {name} | {path.name} | {verdict} | {relative} | {step:.2g} | {found.samples} |")
    return rows


def main() -> None:
    torch.set_num_threads(1)
    (DOCS / "images").mkdir(exist_ok=True)
    rows = [
        "| switch | path | verdict | E | 1st | 2nd | 3rd | 4th | finest step (mÅ) | samples |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    seen: set[Make] = set()
    for switch, values in SWITCHES.items():
        curves = {}
        for name, make in values.items():
            potential = make()
            curves[name] = fourth_derivative(potential)
            if make not in seen:
                rows += table_rows("all defaults" if make is BASE else switch, "" if make is BASE else name, potential)
                print("\n".join(rows[-3:]), flush=True)
            seen.add(make)
        (DOCS / "images" / f"smoothness-{switch.replace(' ', '-')}.svg").write_text(svg(curves, switch))
    page = DOCS / "smoothness.md"
    before, _, rest = page.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    table = "\n".join(rows).replace("| all defaults =  |", "| all defaults |")
    page.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
