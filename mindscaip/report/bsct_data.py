"""What the page about bond scans shows: the runs of ``mindscaip bsct score`` joined with the scans they are over.

Columns of ``scans.csv`` are read by name: every numeric one becomes a metric of the page, so that a metric added to
the scores appears without a change here.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase.symbols import Symbols

from mindscaip.bsct.compare import density, density_note, same_energy, same_length, same_scan
from mindscaip.bsct.dataset import Scan, ScanError, ScanSet, open_scans
from mindscaip.bsct.fsd import squared_force_change
from mindscaip.bsct.intrinsic import fsd_intrinsic
from mindscaip.bsct.path import scan_path
from mindscaip.bsct.score import ScanPrediction, read_prediction
from mindscaip.errors import MindscaipError
from mindscaip.report.bsct_molecule import Drawing, draw_molecule

NOT_METRICS = ("bond", "id", "formula", "smiles", "num_atoms", "num_frames", "num_dropped", "dense", "path_failure")
PLACE = "_bond_length"
"""Ends the name of a column that says where along the bond the maximum of a metric sits."""
MARKED, MARKED_INTRINSIC = "fsd", "fsd_intrinsic"
"""The metrics whose places are marked in the curves."""
OTHER_SCAN = "it was scored on another scan of this name"


@dataclass(frozen=True)
class Run:
    """One scored potential, as ``mindscaip bsct score -o FOLDER`` left it.

    Attributes:
        label: how the page calls it.
        columns: numeric columns of ``scans.csv``, in its order.
        rows: key of the scan to values (NaN where there is none).
        skipped: key to the reason why the scan has no score.
        definitions: metric to the sentence that defines it.
        minima: key to the lowest reference energy, eV.
        dataset: SHA-256 of the data set that was scored.
        dense: geometries per frame interval of all scans; NaN where they differ.
        origins: key to what tells scans of one name apart, besides the lowest energy.
    """

    folder: Path
    label: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float]]
    skipped: Mapping[str, str]
    definitions: Mapping[str, str]
    minima: Mapping[str, float]
    dataset: str
    dataset_path: str
    dense: float = 0.0
    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def keys(self) -> set[str]:
        """Scans that the run has tried."""
        return set(self.rows) | set(self.skipped)

    def same_scans(self, other: Run) -> bool:
        """Whether both are over the same scans, be it in another layout."""
        return self.dataset == other.dataset or (
            self.keys == other.keys
            and all(
                self.same_scan(key, other.origins[key], other.minima) for key in self.rows.keys() & other.rows.keys()
            )
        )

    def same_scan(self, key: str, origin: Mapping[str, Any], minima: Mapping[str, float]) -> bool:
        """Whether the score of ``key`` is of the scan with that origin, by the rule of ``mindscaip bsct compare``."""
        return same_scan(
            {"reference_minima": self.minima}, self.origins[key], {"reference_minima": minima}, origin, key
        )


@dataclass(frozen=True)
class IntrinsicCurve:
    """``D_model - D_ref`` of :mod:`mindscaip.bsct.intrinsic` in 1/A, thinned without losing a maximum.

    Attributes:
        frames: at the frames, ``[K]``.
        between: the value of largest magnitude between each frame and the next, ``[K - 1]``.
        place: where that is, 0 at the frame and 1 at the next, ``[K - 1]``.
        worst: bond length in A of the largest magnitude according to the scores; -1 without one.
    """

    frames: np.ndarray
    between: np.ndarray
    place: np.ndarray
    worst: float


@dataclass(frozen=True)
class Curves:
    """One potential along one scan, float32 ``[K]`` each.

    Attributes:
        energy: eV, relative to the same potential's energy at ``j0``.
        force_change: ``|F(k) - F_ref(j0)|`` in eV/A, the root of ``s(k)``.
        worst: the step to the next frame whose slope is the published FSD according to the scores; -1 without one.
        intrinsic: None where the potential was not evaluated on a denser path.
    """

    energy: np.ndarray
    force_change: np.ndarray
    worst: int
    intrinsic: IntrinsicCurve | None = None


@dataclass(frozen=True)
class ScanView:
    """One scan with everything that is drawn of it.

    Attributes:
        minimum: ``j0``, the frame of lowest reference energy.
        curves: one per run; None where there is no prediction.
        values: one per run: metric to value (empty without a score).
    """

    key: str
    formula: str
    smiles: str
    subset: str
    bond_length: np.ndarray
    num_atoms: int
    num_dropped: int
    minimum: int
    reference: Curves
    curves: tuple[Curves | None, ...]
    values: tuple[Mapping[str, float], ...]
    drawing: Drawing


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    Attributes:
        metrics: names of the metrics, in the order of the scores.
        absent: per run: key to the reason why its score or its curves are not there.
        unreadable: key to the reason why a scan of the data set is not shown at all.
    """

    name: str
    provenance: Mapping[str, Any]
    runs: tuple[Run, ...]
    metrics: tuple[str, ...]
    scans: tuple[ScanView, ...]
    absent: tuple[Mapping[str, str], ...]
    unreadable: Mapping[str, str]

    @property
    def density_note(self) -> str:
        """What must be said where runs were evaluated on paths of different density, or nothing."""
        return density_note({run.label: run.dense for run in self.runs})


def read_run(text: str) -> Run:
    """Read the folder of a run; ``LABEL=FOLDER`` gives it another name on the page.

    Raises:
        MindscaipError: no such folder, not a run, not finished, damaged.
    """
    label, _, folder = text.rpartition("=") if not Path(text).exists() else ("", "", text)
    path = Path(folder)
    if not path.is_dir():
        raise MindscaipError(f"{folder}: no such folder; give the folders written by 'mindscaip bsct score ... -o DIR'")
    if not (path / "run.json").is_file():
        raise MindscaipError(f"{folder} holds no run.json; give a folder written by 'mindscaip bsct score ... -o DIR'")
    if not (path / "scans.csv").is_file() or not (path / "summary.json").is_file():
        raise MindscaipError(
            f"{folder} holds a run that is not finished (no scans.csv and summary.json); "
            "give its 'mindscaip bsct score' command again, which goes on from where it stopped"
        )
    try:
        run = json.loads((path / "run.json").read_text())
        summary = json.loads((path / "summary.json").read_text())
        with (path / "scans.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        name = str(summary["potential"]["name"])
        return Run(
            folder=path,
            label=label or (Path(name).name if name.endswith(".pt") else name),
            columns=_numeric_columns(rows),
            rows={f"{row['bond']}/{row['id']}": _numbers(row) for row in rows},
            skipped={str(entry["scan"]): str(entry["reason"]) for entry in summary["skipped"]},
            definitions={str(k): str(v) for k, v in summary.get("definitions", {}).items()},
            minima={str(k): float(v) for k, v in summary.get("reference_minima", {}).items()},
            dataset=str(run["dataset"]["sha256"]),
            dataset_path=str(summary["dataset"]["path"]),
            dense=density(rows),
            origins={f"{row['bond']}/{row['id']}": _origin(row) for row in rows},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MindscaipError(
            f"{folder}: its run.json, summary.json or scans.csv is damaged ({type(error).__name__}: {error}); "
            "remove them and give the 'mindscaip bsct score' command again"
        ) from None


def find_scans(runs: Sequence[Run], data: Path | None) -> ScanSet:
    """The scans that all runs are over: ``data``, or where the runs found them.

    Raises:
        MindscaipError: runs over different scans, data other than that of the runs, nothing to show.
    """
    for run in runs[1:]:
        if not run.same_scans(runs[0]):
            raise MindscaipError(
                f"{runs[0].folder} and {run.folder} are runs over different sets of scans ({runs[0].dataset_path} and "
                f"{run.dataset_path}), and their scores cannot be compared; score both over the same set"
            )
    if data is None and not runs:
        raise MindscaipError("there is nothing to show; give the folder of a run, or --data with a set of scans")
    path = Path(runs[0].dataset_path) if data is None else data
    if data is None and not path.exists():
        raise MindscaipError(
            f"the scans of {runs[0].folder} are not at {path} any more; say with --data where they are"
        )
    scans = open_scans(path)
    if runs and not _scored_on(runs[0], scans):
        raise MindscaipError(
            f"{path} is not the set of scans that {runs[0].folder} was scored on (other names or other contents); "
            "give the right one with --data, or score again"
        )
    return scans


def _scored_on(run: Run, scans: ScanSet) -> bool:
    """By the hash, or in another layout by the names and the first scan; the others are looked at one by one."""
    if scans.fingerprint() == run.dataset:
        return True
    if not run.keys <= set(scans.keys):
        return False
    for key in run.rows:
        prediction = read_prediction(run.folder, key)
        if prediction is not None:
            try:
                return _predicts(scans.load(key), prediction, run)
            except ScanError:
                continue
    return False


def _origin(row: Mapping[str, str]) -> dict[str, Any]:
    """What the rule of ``mindscaip bsct compare`` looks at, besides the lowest energy."""
    return {
        "formula": row["formula"],
        "num_atoms": int(row["num_atoms"]),
        "num_frames": int(row["num_frames"]),
        "minimum_bond_length": float(row["minimum_bond_length"]),
    }


def _scored(scan: Scan, run: Run, j0: int) -> bool:
    """Whether the row of the run is of this scan."""
    origin = {
        "formula": Symbols(scan.numbers).get_chemical_formula(),
        "num_atoms": len(scan.numbers),
        "num_frames": len(scan),
        "minimum_bond_length": float(scan.bond_length[j0]),
    }
    return run.same_scan(scan.key, origin, {scan.key: float(scan.energy[j0])})


def _predicts(scan: Scan, prediction: ScanPrediction, run: Run) -> bool:
    """Whether the prediction is of this scan; numbers of another layout agree to what it writes, not bit by bit."""
    if (np.shape(prediction.energy), np.shape(prediction.forces)) != (scan.energy.shape, scan.forces.shape):
        return False
    if prediction.fingerprint == scan.fingerprint():
        return True
    return (
        prediction.bond_length is not None
        and all(map(same_length, prediction.bond_length, scan.bond_length))
        and same_energy(run.minima.get(scan.key, math.nan), scan.energy.min())
    )


def collect(runs: Sequence[Run], scans: ScanSet, on_scan: Callable[[str], None] | None = None) -> ReportData:
    """Join runs and scans; what is missing is named, not left out in silence.

    Args:
        on_scan: called with the key after each scan (for a progress bar).

    Raises:
        MindscaipError: none of the scans can be read.
    """
    runs = _distinct(runs)
    views: list[ScanView] = []
    absent: list[dict[str, str]] = [{} for _ in runs]
    unreadable: dict[str, str] = {}
    for key in scans.keys:
        try:
            scan = scans.load(key)
        except ScanError as error:
            unreadable[key] = str(error)
        else:
            views.append(_view(scan, runs, absent))
        if on_scan is not None:
            on_scan(key)
    if not views:
        raise MindscaipError(
            f"none of the scans of {scans.path} can be read; the first: {next(iter(unreadable.values()))}"
        )
    columns = dict.fromkeys(name for run in runs for name in run.columns if not name.endswith(PLACE))
    return ReportData(
        name=scans.path.name,
        provenance=scans.provenance,
        runs=tuple(runs),
        metrics=tuple(columns),
        scans=tuple(views),
        absent=tuple(absent),
        unreadable=unreadable,
    )


def _view(scan: Scan, runs: Sequence[Run], absent: Sequence[dict[str, str]]) -> ScanView:
    j0 = int(np.argmin(scan.energy))
    curves, values = [], []
    for run, missing in zip(runs, absent, strict=True):
        found, reason = _curves(scan, run, j0)
        curves.append(found)
        values.append({} if reason == OTHER_SCAN else run.rows.get(scan.key, {}))
        if scan.key not in run.rows:
            missing[scan.key] = run.skipped.get(scan.key, "it has no row in scans.csv")
        elif reason:
            missing[scan.key] = reason
    return ScanView(
        key=scan.key,
        formula=Symbols(scan.numbers).get_chemical_formula(),
        smiles=scan.smiles,
        subset=scan.subset,
        bond_length=scan.bond_length.astype(np.float32),
        num_atoms=len(scan.numbers),
        num_dropped=scan.num_dropped,
        minimum=j0,
        reference=_relative(scan, scan.energy, scan.forces, j0),
        curves=tuple(curves),
        values=tuple(values),
        drawing=draw_molecule(scan, j0),
    )


def _curves(scan: Scan, run: Run, j0: int) -> tuple[Curves | None, str]:
    """The curves of a run along a scan, or None and the reason."""
    if scan.key in run.rows and not _scored(scan, run, j0):
        return None, OTHER_SCAN
    prediction = read_prediction(run.folder, scan.key)
    if prediction is None:
        return None, "its prediction is missing or damaged; give the 'mindscaip bsct score' command again"
    if not _predicts(scan, prediction, run):
        return None, OTHER_SCAN
    row = run.rows.get(scan.key, {})
    place = row.get(MARKED + PLACE, math.nan)
    middles = 0.5 * (scan.bond_length[1:] + scan.bond_length[:-1])
    worst = -1 if math.isnan(place) else int(np.argmin(np.abs(middles - place)))
    intrinsic = _intrinsic(scan, prediction, row.get(MARKED_INTRINSIC + PLACE, math.nan))
    return _relative(scan, prediction.energy, prediction.forces, j0, worst, intrinsic), ""


def _intrinsic(scan: Scan, prediction: ScanPrediction, worst: float) -> IntrinsicCurve | None:
    if prediction.path_forces is None:
        return None
    path = scan_path(scan, prediction.dense)
    if prediction.path_forces.shape != path.positions.shape or not np.isfinite(prediction.path_forces).all():
        return None
    found = fsd_intrinsic(path, prediction.path_forces.astype(np.float64))
    difference = found.model - found.reference
    frames = np.searchsorted(found.bond_length, scan.bond_length - 1e-9)
    extremes = [
        first + int(np.argmax(np.abs(difference[first : last + 1]))) for first, last in pairwise(frames.tolist())
    ]
    place = (found.bond_length[extremes] - scan.bond_length[:-1]) / np.diff(scan.bond_length)
    return IntrinsicCurve(
        difference[frames], difference[extremes], np.clip(place, 0.0, 1.0), -1.0 if math.isnan(worst) else worst
    )


def _relative(
    scan: Scan,
    energy: np.ndarray,
    forces: np.ndarray,
    j0: int,
    worst: int = -1,
    intrinsic: IntrinsicCurve | None = None,
) -> Curves:
    # Differences in float64, then rounded: totals of 1e5 eV have no digits to spare in float32.
    relative = np.asarray(energy, dtype=np.float64) - energy[j0]
    change = np.sqrt(squared_force_change(np.asarray(forces, dtype=np.float64), scan.forces[j0]))
    return Curves(relative.astype(np.float32), change.astype(np.float32), worst, intrinsic)


def _numeric_columns(rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    names = [name for name in (rows[0] if rows else {}) if name not in NOT_METRICS]
    return tuple(name for name in names if all(_number(row[name]) is not None for row in rows))


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    found = {name: _number(text) for name, text in row.items() if name not in NOT_METRICS}
    return {name: value for name, value in found.items() if value is not None}


def _number(text: str) -> float | None:
    """A number; NaN for an empty cell; None for a word."""
    if not text:
        return math.nan
    try:
        return {"True": 1.0, "False": 0.0}.get(text, float(text) if text not in ("True", "False") else 0.0)
    except ValueError:
        return None


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """Runs of one name are told apart by their folders, then by their place."""
    labels = [run.label for run in runs]
    named = [
        run if labels.count(run.label) == 1 else replace(run, label=f"{run.label} ({run.folder.name})") for run in runs
    ]
    labels = [run.label for run in named]
    return [
        run if labels.count(run.label) == 1 else replace(run, label=f"{run.label} {number}")
        for number, run in enumerate(named, start=1)
    ]
