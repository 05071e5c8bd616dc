"""Score a potential on a data set of scans; every scan is saved when it is done, so that an interrupted run goes on.

What lies in the output folder of a run:

``run.json``
    identity of potential and data set, which a resumed run must match
``predictions/<bond>/<id>.npz``
    at the ``K`` valid frames of the scan ``energy`` (eV, float64), ``forces`` (eV/A, float64), ``bond_length``,
    ``frame_index``; on the denser path (absent when ``dense`` is 0) ``path_energy`` (float64 ``[M]``), ``path_forces``
    (float32 ``[M, n, 3]``), both NaN where a geometry has no answer, and ``path_failure``, why; ``dense``,
    ``fingerprint`` of the scan, ``seconds``
``scans.csv``
    one row per scan (:class:`ScanScore`)
``summary.json``
    means, medians and confidence intervals over all scans and per bond type, the rows, what was skipped and why

Read them with :func:`read_prediction`, :func:`read_summary` and :func:`mindscaip.bsct.path.scan_path`.
"""

from __future__ import annotations

import csv
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.symbols import Symbols

from mindscaip import __version__
from mindscaip.bsct.companions import companions
from mindscaip.bsct.dataset import Scan, ScanSet, open_scans
from mindscaip.bsct.fsd import fsd
from mindscaip.bsct.intrinsic import fsd_intrinsic
from mindscaip.bsct.path import ScanPath, scan_path
from mindscaip.bsct.potentials import PathGapError, Potential, PotentialSpec, describe_place, resolve_potential
from mindscaip.bsct.statistics import describe
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

DEFINITIONS = {
    "fsd": "max over frames of |d/dL ln(|dF_model|^2 / |dF_ref|^2)|, 1/A, as published (both relative to the reference "
    "force at the reference minimum, floor 1 (eV/A)^2)",
    "fsd_compress": "the same from the shortest bond to the minimum of the reference energy",
    "fsd_stretch": "the same from the minimum to the longest bond",
    "max_log_step": "largest change of the logarithm between neighbouring frames; above 1 the grid does not resolve it",
    "fsd_intrinsic": "max over bond lengths of |D_model - D_ref|, 1/A, D = 2 dF.d(dF)/dL / (|dF|^2 + (1 eV/A)^2), each "
    "relative to its own force at the reference minimum; smoothness apart from accuracy, converged in the grid",
    "fsd_intrinsic_compress": "the same from the shortest bond to the minimum of the reference energy",
    "fsd_intrinsic_stretch": "the same from the minimum to the longest bond",
    "fsd_intrinsic_p99": "99th percentile of |D_model - D_ref| over bond lengths, 1/A",
    "energy_mae": "eV, total energies as they are (meaningless between methods with other reference energies)",
    "energy_mae_shifted": "eV, after the mean difference over the scan was removed",
    "force_mae": "eV/A, mean over frames, atoms and components",
    "force_flips": "sign changes of the force along the bond (below 0.01 eV/A left out); a single well has 1",
    "energy_jumps": "eV, sum of the steps of the energy on both sides of each of its turns (below 1 meV left out)",
    "tortuosity": "way of the energy along the bond over the shortest way through its minimum; a single well has 1",
    "conservation_error": "eV/A, mean |dE/dL + F.dx/dL|; zero where forces are the gradient, up to quadrature",
    "force_flips_reference": "force_flips of the reference",
    "energy_jumps_reference": "eV, energy_jumps of the reference",
    "tortuosity_reference": "tortuosity of the reference",
    "conservation_error_reference": "eV/A, conservation_error of the reference on its frames",
}
MEANS = tuple(DEFINITIONS)
"""Columns of which means, medians and confidence intervals are given."""
SHARE = 4
"""Scans per task of a worker process."""


@dataclass(frozen=True)
class ScanScore:
    """One row of the results: lengths in A, FSD in 1/A, energies in eV, forces in eV/A (see ``DEFINITIONS``).

    ``*_bond_length`` is where the maximum sits; values are NaN where a part of the scan has fewer than two frames, and
    ``fsd_intrinsic*`` where the potential was not evaluated on a denser path or has no answer for one of its geometries
    (``path_failure`` says which and why; ``conservation_error`` is NaN then too). ``dense`` is the number of geometries
    per frame interval, ``seconds`` the time for all of them.
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
    fsd_intrinsic: float
    fsd_intrinsic_compress: float
    fsd_intrinsic_stretch: float
    fsd_intrinsic_p99: float
    fsd_intrinsic_bond_length: float
    minimum_bond_length: float
    max_log_step: float
    energy_mae: float
    energy_mae_shifted: float
    force_mae: float
    force_flips: int
    energy_jumps: float
    tortuosity: float
    conservation_error: float
    force_flips_reference: int
    energy_jumps_reference: float
    tortuosity_reference: float
    conservation_error_reference: float
    dense: int
    seconds: float
    smiles: str
    path_failure: str = ""


@dataclass(frozen=True)
class ScanPrediction:
    """What a potential said of one scan.

    Attributes:
        energy: at the frames, eV ``[K]``.
        forces: at the frames, eV/A ``[K, n, 3]``.
        seconds: wall time of all geometries.
        fingerprint: of the scan.
        bond_length: of the frames, A ``[K]``; None in a prediction that was not read from a file.
        dense: geometries per frame interval of the path, 0 without one.
        path_energy: eV ``[M]``, None without a path.
        path_forces: eV/A ``[M, n, 3]``, None without a path.
        path_failure: why a geometry between frames has no answer (NaN in the path); empty where all have one.
    """

    energy: np.ndarray
    forces: np.ndarray
    seconds: float
    fingerprint: str
    dense: int = 0
    path_energy: np.ndarray | None = None
    path_forces: np.ndarray | None = None
    bond_length: np.ndarray | None = None
    path_failure: str = ""

    @property
    def num_geometries(self) -> int:
        """Geometries it is over: those of the path, or the frames where there is none."""
        return len(self.energy if self.path_energy is None else self.path_energy)


@dataclass(frozen=True)
class ScoreSummary:
    """The result of a run.

    Attributes:
        rows: one per scored scan, in the order of the data set.
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
    *,
    dense: int | None = None,
    workers: int = 1,
    keys: Sequence[str] | None = None,
) -> ScoreSummary:
    """Score ``potential`` on every scan; a scan that cannot be read or predicted is skipped with its reason.

    Args:
        output: folder of the results; without it nothing is written.
        on_scan: called with the key after each scan (for a progress bar).
        dense: geometries per frame interval for ``fsd_intrinsic``, 0 to do without; by default the potential's own.
        workers: processes that predict; more than one needs a potential from :func:`resolve_potential`.
        keys: only these scans.

    Raises:
        MindscaipError: the folder holds a run with other inputs; every scan was skipped; a worker died.
    """
    dense = potential.dense if dense is None else dense
    if dense < 0:
        raise MindscaipError(f"dense is {dense}; give the geometries per frame interval, or 0 to do without")
    if workers > 1 and potential.spec is None:
        raise MindscaipError(f"{potential.name} cannot be made in other processes; use one worker")
    if output is not None:
        _claim(output, potential, scans)
    run = _Run(potential, scans, dense, on_scan, tuple(scans.keys if keys is None else keys))
    if workers > 1:
        with tempfile.TemporaryDirectory(prefix="bsct-") as temporary:
            run.in_processes(output or Path(temporary), workers)
    else:
        run.here(output)
    if not run.rows:
        key, reason = next(iter(run.skipped.items()))
        raise MindscaipError(
            f"none of the {len(run.keys)} scans of {scans.path} could be scored with {potential.name}; "
            f"the first, {key}: {reason}"
        )
    rows = [run.rows[key] for key in run.keys if key in run.rows]
    skipped = [(key, run.skipped[key]) for key in run.keys if key in run.skipped]
    summary = ScoreSummary(rows, skipped, run.resumed, _summary_data(run, rows, skipped))
    if output is not None:
        _write_tables(output, summary)
    return summary


class _Run:
    """The scans of one run and what has become of them."""

    def __init__(
        self,
        potential: Potential,
        scans: ScanSet,
        dense: int,
        on_scan: Callable[[str], None] | None,
        keys: tuple[str, ...],
    ) -> None:
        self.potential, self.scans, self.dense, self.on_scan, self.keys = potential, scans, dense, on_scan, keys
        self.rows: dict[str, ScanScore] = {}
        self.skipped: dict[str, str] = {}
        self.reference: dict[str, float] = {}
        self.geometries: dict[str, int] = {}
        self.resumed = 0

    def here(self, output: Path | None) -> None:
        """Predict in this process; the potential takes scans as it needs them to fill its batches."""
        for path, answer, seconds in self.potential.predict_many(self._unpredicted(output)):
            if isinstance(answer, MindscaipError) and not isinstance(answer, PathGapError):
                self._skip(path.scan.key, str(answer))
            else:
                prediction = _prediction(path, answer, seconds)
                if output is not None:
                    _write_prediction(output, path.scan, prediction)
                self._score(path.scan, prediction)

    def in_processes(self, output: Path, workers: int) -> None:
        """Predict in other processes, which leave their predictions in ``output``."""
        from concurrent.futures import as_completed

        from mindscaip.data.workers import worker_pool

        todo = [path.scan.key for path in self._unpredicted(output)]
        if not todo:
            return
        shares = [todo[i : i + SHARE] for i in range(0, len(todo), SHARE)]
        with worker_pool(min(workers, len(shares))) as pool:
            futures = [
                pool.submit(predict_share, self.potential.spec, str(self.scans.path), share, str(output), self.dense)
                for share in shares
            ]
            for future in as_completed(futures):
                for key, reason in future.result():
                    saved = None if reason else read_prediction(output, key)
                    if saved is None:
                        self._skip(key, reason or "its prediction is missing")
                    else:
                        self._score(self.scans.load(key), saved)

    def _unpredicted(self, output: Path | None) -> Iterator[ScanPath]:
        """Paths of the scans that are still to be predicted; those with a prediction are scored in passing."""
        for key in self.keys:
            try:
                scan = self.scans.load(key)
                self.potential.check(scan)
            except MindscaipError as error:
                self._skip(key, str(error))
                continue
            saved = None if output is None else read_prediction(output, key)
            if saved is not None and saved.fingerprint == scan.fingerprint():
                # A path with a gap is tried again, like a scan without an answer; a thinned one is used as it is, since
                # a new one would take the place of what was asked for at a higher density.
                gap = bool(saved.path_failure) and saved.dense == self.dense
                fitting = None if gap else _with_density(scan, saved, self.dense)
                if fitting is not None:
                    self.resumed += 1
                    self._score(scan, fitting)
                    continue
            yield scan_path(scan, self.dense)

    def _score(self, scan: Scan, prediction: ScanPrediction) -> None:
        try:
            self.rows[scan.key] = score_prediction(scan, prediction)
            self.reference[scan.key] = float(scan.energy.min())
            self.geometries[scan.key] = prediction.num_geometries
        except MindscaipError as error:
            self.skipped[scan.key] = str(error)
        if self.on_scan is not None:
            self.on_scan(scan.key)

    def _skip(self, key: str, reason: str) -> None:
        self.skipped[key] = reason
        if self.on_scan is not None:
            self.on_scan(key)


def predict_share(
    spec: PotentialSpec, dataset: str, keys: Sequence[str], output: str, dense: int
) -> list[tuple[str, str]]:
    """In a worker: predict some scans and save them; returns keys with the reason of a failure, or an empty text."""
    potential = _made(spec)
    scans = open_scans(dataset)
    paths = (scan_path(scans.load(key), dense) for key in keys)
    outcomes = []
    for path, answer, seconds in potential.predict_many(paths):
        if isinstance(answer, MindscaipError) and not isinstance(answer, PathGapError):
            outcomes.append((path.scan.key, str(answer)))
        else:
            _write_prediction(Path(output), path.scan, _prediction(path, answer, seconds))
            outcomes.append((path.scan.key, ""))
    return outcomes


_POTENTIALS: dict[PotentialSpec, Potential] = {}
"""In a worker: potentials made so far (loading one takes longer than a scan)."""


def _made(spec: PotentialSpec) -> Potential:
    if spec not in _POTENTIALS:
        _POTENTIALS[spec] = resolve_potential(spec.name, device=spec.device, batch_edges=spec.batch_edges)
    return _POTENTIALS[spec]


def score_prediction(scan: Scan, prediction: ScanPrediction) -> ScanScore:
    """The row of one scan."""
    result = fsd(scan, prediction.energy, prediction.forces)
    frames = scan_path(scan, 0)
    nan = math.nan
    if prediction.path_forces is not None and prediction.path_energy is not None and not prediction.path_failure:
        path = scan_path(scan, prediction.dense)
        forces = prediction.path_forces.astype(np.float64)
        intrinsic = fsd_intrinsic(path, forces)
        values = (intrinsic.full.value, intrinsic.compress.value, intrinsic.stretch.value, intrinsic.percentile)
        place = intrinsic.full.bond_length
        beside = companions(path, prediction.path_energy, forces)
    else:
        values, place = (nan, nan, nan, nan), nan
        beside = companions(frames, prediction.energy, prediction.forces)
        if prediction.path_failure:
            # Of the frames alone it is another number than in the other rows.
            beside = replace(beside, conservation_error=nan)
    reference = companions(frames, scan.energy, scan.forces)
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
        fsd_intrinsic=values[0],
        fsd_intrinsic_compress=values[1],
        fsd_intrinsic_stretch=values[2],
        fsd_intrinsic_p99=values[3],
        fsd_intrinsic_bond_length=place,
        minimum_bond_length=float(scan.bond_length[result.minimum_frame]),
        max_log_step=result.max_log_step,
        energy_mae=result.energy_mae,
        energy_mae_shifted=result.energy_mae_shifted,
        force_mae=result.force_mae,
        force_flips=beside.force_flips,
        energy_jumps=beside.energy_jumps,
        tortuosity=beside.tortuosity,
        conservation_error=beside.conservation_error,
        force_flips_reference=reference.force_flips,
        energy_jumps_reference=reference.energy_jumps,
        tortuosity_reference=reference.tortuosity,
        conservation_error_reference=reference.conservation_error,
        dense=prediction.dense,
        seconds=prediction.seconds,
        smiles=scan.smiles,
        path_failure=prediction.path_failure,
    )


def mean_scores(rows: Sequence[ScanScore]) -> dict[str, float]:
    """Plain means over scans of the columns ``MEANS`` (a part without a value is left out), and ``num_scans``."""
    return {"num_scans": len(rows), **{name: value.mean for name, value in _statistics(rows).items()}}


def _statistics(rows: Sequence[ScanScore]) -> dict[str, Any]:
    return {name: describe([getattr(row, name) for row in rows]) for name in MEANS}


def read_prediction(output: Path, key: str) -> ScanPrediction | None:
    """The saved prediction of the scan ``key`` in the folder of a run; None when there is none or it is damaged."""
    try:
        with np.load(_prediction_path(output, key), allow_pickle=False) as file:
            has_path = "path_forces" in file
            return ScanPrediction(
                energy=file["energy"],
                forces=file["forces"],
                seconds=float(file["seconds"]),
                fingerprint=str(file["fingerprint"]),
                dense=int(file["dense"]) if has_path else 0,
                path_energy=file["path_energy"] if has_path else None,
                path_forces=file["path_forces"] if has_path else None,
                bond_length=file["bond_length"],
                path_failure=str(file["path_failure"]) if "path_failure" in file else "",
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def read_summary(output: Path) -> dict[str, Any]:
    """``summary.json`` of a finished run.

    Raises:
        MindscaipError: not the folder of a run, not finished, or damaged.
    """
    if not (output / "run.json").is_file():
        raise MindscaipError(
            f"{output} is not the folder of a run; make one with 'mindscaip bsct score ... -o {output}'"
        )
    if not (output / "summary.json").is_file():
        raise MindscaipError(f"{output}: the run is not finished; give its 'mindscaip bsct score' command again")
    try:
        data = json.loads((output / "summary.json").read_text())
        data["scans"], data["mean"], data["potential"]["name"]
    except (ValueError, KeyError, TypeError):
        raise MindscaipError(
            f"{output}/summary.json is damaged; remove it and give the 'mindscaip bsct score' command again"
        ) from None
    return data


def _prediction(path: ScanPath, answer: tuple[np.ndarray, np.ndarray] | PathGapError, seconds: float) -> ScanPrediction:
    scan = path.scan
    frames = path.frames
    energy, forces = (answer.energy, answer.forces) if isinstance(answer, PathGapError) else answer
    if path.dense == 0:
        return ScanPrediction(energy, forces, seconds, scan.fingerprint())
    return ScanPrediction(
        energy=energy[frames],
        forces=forces[frames],
        seconds=seconds,
        fingerprint=scan.fingerprint(),
        dense=path.dense,
        path_energy=energy,
        path_forces=forces.astype(np.float32),
        path_failure=str(answer) if isinstance(answer, PathGapError) else _first_gap(path, energy, forces),
    )


def _first_gap(path: ScanPath, energy: np.ndarray, forces: np.ndarray) -> str:
    """Which geometry between frames has a value that is not finite; empty where all are (frames are seen to later)."""
    lost = ~(np.isfinite(energy) & np.isfinite(forces).reshape(len(path), -1).all(axis=1))
    lost[path.frames] = False
    return f"{describe_place(path, int(np.argmax(lost)))}: a value that is not finite" if lost.any() else ""


def _with_density(scan: Scan, saved: ScanPrediction, dense: int) -> ScanPrediction | None:
    """A saved prediction with ``dense`` geometries per interval, if that is among what it holds.

    Its time is the share of the geometries that are kept.
    """
    if saved.dense == dense:
        return saved
    if dense == 0:
        thin = replace(saved, dense=0, path_energy=None, path_forces=None, path_failure="")
    elif dense == 1 and saved.dense == 0 and scan.frame_index[-1] - scan.frame_index[0] + 1 == len(scan):
        thin = replace(saved, dense=1, path_energy=saved.energy, path_forces=saved.forces)  # the frames are the path
    elif saved.path_energy is None or saved.path_forces is None or saved.dense % dense:
        return None
    else:
        step = saved.dense // dense
        energy, forces = saved.path_energy[::step], saved.path_forces[::step]
        whole = bool(np.isfinite(energy).all() and np.isfinite(forces).all())  # the gap may be among what is left out
        failure = "" if whole else saved.path_failure
        thin = replace(saved, dense=dense, path_energy=energy, path_forces=forces, path_failure=failure)
    return replace(thin, seconds=saved.seconds * thin.num_geometries / saved.num_geometries)


def _prediction_path(output: Path, key: str) -> Path:
    return output / "predictions" / f"{key}.npz"


def _write_prediction(output: Path, scan: Scan, prediction: ScanPrediction) -> None:
    path: dict[str, Any] = {}
    if prediction.path_energy is not None and prediction.path_forces is not None:
        path = {"path_energy": prediction.path_energy, "path_forces": prediction.path_forces}
        if prediction.path_failure:
            path["path_failure"] = prediction.path_failure
    with atomic_path(_prediction_path(output, scan.key)) as target:
        np.savez_compressed(
            target,
            energy=prediction.energy,
            forces=prediction.forces,
            seconds=prediction.seconds,
            fingerprint=prediction.fingerprint,
            dense=prediction.dense,
            bond_length=scan.bond_length,
            frame_index=scan.frame_index,
            **path,
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


def _summary_data(run: _Run, rows: Sequence[ScanScore], skipped: Iterable[tuple[str, str]]) -> dict[str, Any]:
    bonds = sorted({row.bond for row in rows})
    groups = {"all": rows, **{bond: [row for row in rows if row.bond == bond] for bond in bonds}}
    keys = [f"{row.bond}/{row.id}" for row in rows]
    geometries = {key: run.geometries[key] for key in keys}
    data = {
        "mindscaip_version": __version__,
        "potential": {"name": run.potential.name, **run.potential.identity},
        "dataset": {"path": str(run.scans.path), "num_scans": len(run.scans), **run.scans.provenance},
        "dense": run.dense,
        "num_scans": len(rows),
        "num_skipped": len(run.keys) - len(rows),
        "num_frames": sum(row.num_frames for row in rows),
        "num_dropped_frames": sum(row.num_dropped for row in rows),
        "num_path_failures": sum(bool(row.path_failure) for row in rows),
        "num_unresolved": sum(row.max_log_step > 1 for row in rows),
        "num_geometries": sum(geometries.values()),
        "seconds": sum(row.seconds for row in rows),
        "mean": mean_scores(rows),
        "by_bond": {bond: mean_scores(groups[bond]) for bond in bonds},
        "statistics": {
            group: {name: asdict(value) for name, value in _statistics(members).items()}
            for group, members in groups.items()
        },
        "skipped": [{"scan": key, "reason": reason} for key, reason in skipped],
        "scans": [asdict(row) for row in rows],
        "reference_minima": {key: run.reference[key] for key in keys},
        "geometries": geometries,
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
