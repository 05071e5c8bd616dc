"""Score a potential on a data set of scans; every scan is saved when it is done, so that an interrupted run goes on.

What lies in the output folder:

``run.json``
    potential and data set, which a resumed run must match
``predictions/<bond>/<id>.npz``
    ``energy`` (eV), ``forces`` (eV/A), ``bond_length`` (A), ``frame_index``, ``fingerprint`` of the scan, ``seconds``
``scans.csv``
    one row per scan (:class:`ScanScore`)
``summary.json``
    means over all scans and per bond type, the rows, and what was skipped and why
"""

from __future__ import annotations

import csv
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase.symbols import Symbols

from mindscaip import __version__
from mindscaip.bsct.dataset import Scan, ScanSet
from mindscaip.bsct.fsd import fsd
from mindscaip.bsct.potentials import Potential
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

DEFINITIONS = {
    "fsd": "max over frames of |d/dL ln(|dF_model|^2 / |dF_ref|^2)|, 1/A, as published (both relative to the reference "
    "force at the reference minimum, floor 1 (eV/A)^2)",
    "fsd_compress": "the same from the shortest bond to the minimum of the reference energy",
    "fsd_stretch": "the same from the minimum to the longest bond",
    "max_log_step": "largest change of the logarithm between neighbouring frames; above 1 the grid does not resolve it",
    "energy_mae": "eV, total energies as they are (meaningless between methods with other reference energies)",
    "energy_mae_shifted": "eV, after the mean difference over the scan was removed",
    "force_mae": "eV/A, mean over frames, atoms and components",
}
MEANS = ("fsd", "fsd_compress", "fsd_stretch", "energy_mae", "energy_mae_shifted", "force_mae", "max_log_step")


@dataclass(frozen=True)
class ScanScore:
    """One row of the results: lengths in A, FSD in 1/A, energies in eV, forces in eV/A (see ``DEFINITIONS``).

    ``*_bond_length`` is where the maximum sits; values are NaN where a part of the scan has fewer than two frames.
    """

    bond: str
    id: str
    formula: str
    num_atoms: int
    num_frames: int
    num_dropped: int
    fsd: float
    fsd_compress: float
    fsd_stretch: float
    fsd_bond_length: float
    fsd_compress_bond_length: float
    fsd_stretch_bond_length: float
    minimum_bond_length: float
    max_log_step: float
    energy_mae: float
    energy_mae_shifted: float
    force_mae: float
    seconds: float
    smiles: str


@dataclass(frozen=True)
class ScanPrediction:
    """What a potential said of one scan: ``energy`` eV ``[K]``, ``forces`` eV/A ``[K, n, 3]``."""

    energy: np.ndarray
    forces: np.ndarray
    seconds: float
    fingerprint: str


@dataclass(frozen=True)
class ScoreSummary:
    """The result of a run.

    Attributes:
        rows: one per scored scan.
        skipped: key and reason of each scan that could not be scored.
        resumed: how many of the rows rest on predictions of an earlier run.
        data: everything, as in ``summary.json``.
    """

    rows: list[ScanScore]
    skipped: list[tuple[str, str]]
    resumed: int
    data: dict[str, Any]


def score_scans(
    potential: Potential,
    scans: ScanSet,
    output: Path | None = None,
    on_scan: Callable[[str], None] | None = None,
) -> ScoreSummary:
    """Score ``potential`` on every scan; a scan that cannot be read or predicted is skipped with its reason.

    Args:
        output: folder of the results; without it nothing is written.
        on_scan: called with the key after each scan (for a progress bar).

    Raises:
        MindscaipError: the folder holds a run with other inputs; every scan was skipped.
    """
    if output is not None:
        _claim(output, potential, scans)
    rows: list[ScanScore] = []
    skipped: list[tuple[str, str]] = []
    resumed = 0
    for key in scans.keys:
        try:
            scan = scans.load(key)
            saved = None if output is None else read_prediction(output, key)
            if saved is not None and saved.fingerprint == scan.fingerprint():
                resumed += 1
            else:
                saved = _predict(potential, scan)
                if output is not None:
                    _write_prediction(output, scan, saved)
            rows.append(score_prediction(scan, saved))
        except MindscaipError as error:
            skipped.append((key, str(error)))
        if on_scan is not None:
            on_scan(key)
    if not rows:
        raise MindscaipError(
            f"none of the {len(scans)} scans of {scans.path} could be scored with {potential.name}; "
            f"the first, {skipped[0][0]}: {skipped[0][1]}"
        )
    summary = ScoreSummary(rows, skipped, resumed, _summary_data(potential, scans, rows, skipped))
    if output is not None:
        _write_tables(output, summary)
    return summary


def score_prediction(scan: Scan, prediction: ScanPrediction) -> ScanScore:
    """The row of one scan."""
    result = fsd(scan, prediction.energy, prediction.forces)
    return ScanScore(
        bond=scan.bond,
        id=scan.id,
        formula=Symbols(scan.numbers).get_chemical_formula(),
        num_atoms=len(scan.numbers),
        num_frames=len(scan),
        num_dropped=scan.num_dropped,
        fsd=result.full.value,
        fsd_compress=result.compress.value,
        fsd_stretch=result.stretch.value,
        fsd_bond_length=result.full.bond_length,
        fsd_compress_bond_length=result.compress.bond_length,
        fsd_stretch_bond_length=result.stretch.bond_length,
        minimum_bond_length=float(scan.bond_length[result.minimum_frame]),
        max_log_step=result.max_log_step,
        energy_mae=result.energy_mae,
        energy_mae_shifted=result.energy_mae_shifted,
        force_mae=result.force_mae,
        seconds=prediction.seconds,
        smiles=scan.smiles,
    )


def mean_scores(rows: Sequence[ScanScore]) -> dict[str, float]:
    """Plain means over scans of the columns ``MEANS`` (a part without a value is left out), and ``num_scans``."""
    means: dict[str, float] = {"num_scans": len(rows)}
    for name in MEANS:
        values = [getattr(row, name) for row in rows if not math.isnan(getattr(row, name))]
        means[name] = float(np.mean(values)) if values else math.nan
    return means


def read_prediction(output: Path, key: str) -> ScanPrediction | None:
    """The saved prediction of the scan ``key`` in the folder of a run; None when there is none or it is damaged."""
    try:
        with np.load(_prediction_path(output, key), allow_pickle=False) as file:
            return ScanPrediction(
                energy=file["energy"],
                forces=file["forces"],
                seconds=float(file["seconds"]),
                fingerprint=str(file["fingerprint"]),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _predict(potential: Potential, scan: Scan) -> ScanPrediction:
    potential.check(scan)
    started = time.perf_counter()
    energy, forces = potential.predict(scan)
    return ScanPrediction(energy, forces, time.perf_counter() - started, scan.fingerprint())


def _prediction_path(output: Path, key: str) -> Path:
    return output / "predictions" / f"{key}.npz"


def _write_prediction(output: Path, scan: Scan, prediction: ScanPrediction) -> None:
    with atomic_path(_prediction_path(output, scan.key)) as target:
        np.savez_compressed(
            target,
            energy=prediction.energy,
            forces=prediction.forces,
            seconds=prediction.seconds,
            fingerprint=prediction.fingerprint,
            bond_length=scan.bond_length,
            frame_index=scan.frame_index,
        )


def _claim(output: Path, potential: Potential, scans: ScanSet) -> None:
    """Take the folder for this run, or make sure that it is this run's."""
    run = {"potential": potential.identity, "dataset": {"sha256": scans.fingerprint()}}
    marker = output / "run.json"
    if output.exists() and not output.is_dir():
        raise MindscaipError(f"{output} is a file; give a folder for the results")
    if marker.exists():
        try:
            before = json.loads(marker.read_text())
        except ValueError:
            before = {}
        same = {part: before.get(part) == run[part] for part in run}
        if not all(same.values()):
            other = " and ".join(
                {"potential": "another potential", "dataset": "another data set"}[part]
                for part in run
                if not same[part]
            )
            raise MindscaipError(f"{output} holds results of {other}; give another folder or remove this one")
        return
    with atomic_path(marker) as target:
        target.write_text(json.dumps(run, indent=1) + "\n")


def _summary_data(
    potential: Potential, scans: ScanSet, rows: Sequence[ScanScore], skipped: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    bonds = sorted({row.bond for row in rows})
    data = {
        "mindscaip_version": __version__,
        "potential": {"name": potential.name, **potential.identity},
        "dataset": {"path": str(scans.path), "num_scans": len(scans), **scans.provenance},
        "num_scans": len(rows),
        "num_skipped": len(scans) - len(rows),
        "num_frames": sum(row.num_frames for row in rows),
        "num_dropped_frames": sum(row.num_dropped for row in rows),
        "seconds": sum(row.seconds for row in rows),
        "mean": mean_scores(rows),
        "by_bond": {bond: mean_scores([row for row in rows if row.bond == bond]) for bond in bonds},
        "skipped": [{"scan": key, "reason": reason} for key, reason in skipped],
        "scans": [asdict(row) for row in rows],
        "definitions": DEFINITIONS,
    }
    return _without_nan(data)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_tables(output: Path, summary: ScoreSummary) -> None:
    with atomic_path(output / "scans.csv") as target, target.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(ScanScore)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in summary.rows)
    with atomic_path(output / "summary.json") as target:
        target.write_text(json.dumps(summary.data, indent=1, allow_nan=False) + "\n")
