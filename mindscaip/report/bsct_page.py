"""The page about bond scans: one HTML file that holds the scores, the curves and the program that draws them.

Figures are drawn by the page's own few hundred lines of JavaScript (``bsct/*.js``), not by plotly.js: they draw 485
scans of several potentials at once, and the file opens at once. Arrays are base64 of little-endian float32, int16 and
uint8; the policy of the page forbids every load from elsewhere.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from mindscaip import __version__
from mindscaip.bsct.fsd import FLOOR
from mindscaip.bsct.statistics import describe
from mindscaip.files import atomic_path
from mindscaip.report.bsct_data import ReportData, ScanView

COORDINATE_UNIT = 0.002
"""A; coordinates of the drawing are whole multiples of it."""
METRICS: dict[str, tuple[str, str, str]] = {
    "fsd": ("FSD", "1/Å", ""),
    "fsd_compress": ("FSD compress", "1/Å", "compress"),
    "fsd_stretch": ("FSD stretch", "1/Å", "stretch"),
    "fsd_intrinsic": ("FSD intrinsic", "1/Å", "intrinsic"),
    "fsd_intrinsic_compress": ("intrinsic compress", "1/Å", ""),
    "fsd_intrinsic_stretch": ("intrinsic stretch", "1/Å", ""),
    "fsd_intrinsic_p99": ("intrinsic, 99 %", "1/Å", "intr. 99 %"),
    "energy_mae": ("E MAE", "eV", ""),
    "energy_mae_shifted": ("E MAE shifted", "eV", "shifted"),
    "force_mae": ("F MAE", "eV/Å", ""),
    "max_log_step": ("log step", "", ""),
    "force_flips": ("force flips", "", "flips"),
    "energy_jumps": ("energy jumps", "eV", "jumps"),
    "tortuosity": ("tortuosity", "", ""),
    "conservation_error": ("conservation error", "eV/Å", "|dE/dL+F|"),
    "seconds": ("time", "s", ""),
}
"""Label, unit and short label (where it differs) of the known metrics; others are shown under their own names."""
PREFERRED_X = ("energy_mae_shifted", "energy_mae", "force_mae")
"""The first of these that the scores hold is the horizontal axis; as they are, energies of other zeros say nothing."""
PREFERRED_Y = ("fsd", "fsd_intrinsic")
REFERENCE = "_reference"
"""Ends the name of a column that holds the reference's own value of a metric."""
INTERVALS = ("fsd", "fsd_intrinsic")
"""Metrics of which the page gives the bootstrap interval of the mean."""


def write_page(data: ReportData, path: str | os.PathLike) -> None:
    """Write the page, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(render(data), encoding="utf-8")


def render(data: ReportData) -> str:
    """The page as HTML."""
    folder = files("mindscaip.report").joinpath("bsct")
    scripts = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".js")), key=lambda entry: entry.name)
    script = "\n".join(entry.read_text(encoding="utf-8") for entry in scripts)
    parts = {
        "title": html.escape(f"BSCT: {data.name}"),
        "css": folder.joinpath("page.css").read_text(encoding="utf-8"),
        # Inside a script element only "</" and "<!--" could end or hide the data; JSON allows the escape.
        "data": json.dumps(payload(data), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        "script": f"(() => {{\n'use strict';\n{script}\n}})();",
    }
    page = folder.joinpath("page.html").read_text(encoding="utf-8")
    before, *rest = page.split("{{")
    return before + "".join(parts[name] + tail for name, _, tail in (part.partition("}}") for part in rest))


def payload(data: ReportData) -> dict[str, Any]:
    """What the program of the page reads; JSON without NaN."""
    keys = [name for name in data.metrics if not name.endswith(REFERENCE)]
    definitions = {name: text for run in data.runs for name, text in run.definitions.items()}
    values = np.array(
        [
            [[scan.values[r].get(name, math.nan) for scan in data.scans] for name in (*keys, *_references(data))]
            for r in range(len(data.runs))
        ],
        dtype="<f4",
    )
    return {
        "lead": _lead(data),
        "note": data.density_note,
        "footer": f"Made by mindscaip {__version__}. Energies of each potential are relative to its own at j₀.",
        "reference": str(data.provenance.get("level_of_theory", "")),
        "floor": math.sqrt(FLOOR),
        "coordinate_unit": COORDINATE_UNIT,
        "symbols": list(chemical_symbols),
        "axes": [_first(PREFERRED_X, keys), _first(PREFERRED_Y, keys)],
        "metrics": [_metric(name, definitions) for name in keys],
        "references": _references(data),
        "potentials": [
            {
                "label": run.label,
                "title": f"{run.label}, from {run.folder.name}",
                "scored": [int(bool(scan.values[r])) for scan in data.scans],
                "absent": dict(data.absent[r]),
                "intervals": _intervals(data, r),
            }
            for r, run in enumerate(data.runs)
        ],
        "unreadable": dict(data.unreadable),
        "scans": [_scan(scan) for scan in data.scans],
        "values": _encode(values),
        "curves": _encode(_join(_curve_arrays(scan) for scan in data.scans), "<f4"),
        "places": _encode(_join(_place_arrays(scan) for scan in data.scans), "u1"),
        "molecules": _encode(_join(_molecule_arrays(scan) for scan in data.scans), "<i2"),
    }


def _references(data: ReportData) -> list[str]:
    return [name for name in data.metrics if name.endswith(REFERENCE)]


def _lead(data: ReportData) -> str:
    frames = sum(len(scan.bond_length) for scan in data.scans)
    bonds = len({scan.key.partition("/")[0] for scan in data.scans})
    parts = [
        data.name,
        _count(len(data.scans), "scan"),
        _count(bonds, "bond type"),
        f"{frames:,} frames".replace(",", "\u202f"),
    ]
    theory = data.provenance.get("level_of_theory")
    return " · ".join([*parts, f"reference {theory}"] if theory else parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _metric(name: str, definitions: Mapping[str, str]) -> dict[str, str]:
    label, unit, short = METRICS.get(name, (name.replace("_", " "), "", ""))
    meaning = definitions.get(name, "")
    for plain, typeset in (("^2", "²"), ("1/A", "1/Å"), ("eV/A", "eV/Å")):
        meaning = meaning.replace(plain, typeset)
    return {"key": name, "label": label, "unit": unit, "short": short or label, "help": meaning}


def _first(wanted: Iterable[str], present: list[str]) -> str:
    return next((name for name in wanted if name in present), present[0] if present else "")


def _intervals(data: ReportData, r: int) -> dict[str, list[float]]:
    """95 % bootstrap intervals of the means over the scans that every run scored."""
    common = [scan.values[r] for scan in data.scans if all(scan.values)]
    found = {}
    for name in INTERVALS:
        described = describe([row.get(name, math.nan) for row in common])
        if math.isfinite(described.low):
            found[name] = [described.low, described.high]
    return found


def _scan(scan: ScanView) -> dict[str, Any]:
    bond, _, name = scan.key.partition("/")
    sketch = scan.drawing.sketch
    return {
        "bond": bond,
        "id": name,
        "formula": scan.formula,
        "smiles": scan.smiles,
        "plain": "" if sketch is None else sketch.smiles,
        "subset": scan.subset,
        "frames": len(scan.bond_length),
        "atoms": scan.num_atoms,
        "dropped": scan.num_dropped,
        "minimum": scan.minimum,
        "worst": [None if curves is None else curves.worst for curves in scan.curves],
        "intrinsic": [
            None if curves is None or curves.intrinsic is None else curves.intrinsic.worst for curves in scan.curves
        ],
        "sketch": None
        if sketch is None
        else {
            "atoms": [[round(100 * x), round(100 * y), label] for x, y, label in sketch.atoms],
            "bonds": [[i, j, order, int(scanned)] for i, j, order, scanned in sketch.bonds],
        },
    }


def _curve_arrays(scan: ScanView) -> list[np.ndarray]:
    """Bond length, reference energy and force change; then energy, force change and difference of each run."""
    arrays = [scan.bond_length, scan.reference.energy, scan.reference.force_change]
    for curves in scan.curves:
        if curves is not None:
            arrays += [curves.energy, curves.force_change]
            if curves.intrinsic is not None:
                arrays += [curves.intrinsic.frames, curves.intrinsic.between]
    return arrays


def _place_arrays(scan: ScanView) -> list[np.ndarray]:
    """Where in its interval each extreme of the intrinsic difference is: 0 at its first frame, 255 at its second."""
    found = [curves.intrinsic.place for curves in scan.curves if curves is not None and curves.intrinsic is not None]
    return [np.round(255 * place) for place in found]


def _molecule_arrays(scan: ScanView) -> list[np.ndarray]:
    """Atomic numbers, the first and the last frame, the scanned bond, the number of other bonds, their atoms."""
    drawing = scan.drawing
    steps = [np.clip(np.round(x / COORDINATE_UNIT), -32767, 32767).ravel() for x in (drawing.first, drawing.last)]
    bonds = np.array(drawing.bonds, dtype=np.int64).ravel()
    return [drawing.numbers, *steps, np.array(drawing.bond_index), np.array([len(drawing.bonds)]), bonds]


def _join(parts: Iterable[list[np.ndarray]]) -> np.ndarray:
    arrays = [array for part in parts for array in part]
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _encode(array: np.ndarray, dtype: str = "<f4") -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode("ascii")
