"""The reference on every frame of the chosen bonds, and the scans that come of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mindscaip.bsct import records
from mindscaip.bsct.continuity import continuity_errors, continuity_limits, unchecked_steps
from mindscaip.bsct.dataset import Scan, ScanError, displace, make_scan
from mindscaip.bsct.frames import FrameLog, walk_frames
from mindscaip.bsct.parallel import Progress, WorkersLostError, run_tasks
from mindscaip.bsct.records import BondRecord, BuildSettings
from mindscaip.bsct.select import Job, lengths_of
from mindscaip.data.calculators import resolve_calculator
from mindscaip.errors import MindscaipError


def scan_all(
    jobs: list[Job], settings: BuildSettings, parts: Path, where: dict[str, Any], progress: Progress | None
) -> tuple[list[Scan], list[BondRecord], int]:
    """Steps 5 and 6: the scans, what became of every bond, and the number of frames found in ``parts``.

    Args:
        where: ``workers`` and ``dask`` of :func:`~mindscaip.bsct.parallel.run_tasks`.
    """
    # Longest first, so that no worker is left alone with a long one at the end.
    jobs = sorted(jobs, key=lambda job: (-len(job.molecule.numbers), job.name))
    files = [frame_log(parts, job) for job in jobs]
    counter = _FrameCounter(files)
    resumed, total = counter.count(), len(jobs) * settings.frames

    def tick() -> None:
        if progress is not None:
            progress("scan", counter.count(), total)

    todo = [k for k in range(len(jobs)) if counter.of(k) < settings.frames]
    try:
        reasons = run_tasks(_scan_job, [(jobs[k], settings, files[k]) for k in todo], **where, tick=tick)
        failures = {todo[number]: failure.reason for number, failure in reasons.items()}
    except WorkersLostError as error:  # what is done counts all the same
        counter.count()
        failures = {k: str(error) for k in todo if counter.of(k) < settings.frames}
    scans: list[Scan] = []
    found: list[BondRecord] = []
    for k, (job, file) in enumerate(zip(jobs, files, strict=True)):
        record, scan = _finish(job, settings, file, failures.get(k, ""))
        found.append(record)
        if scan is not None:
            scans.append(scan)
    return scans, found, resumed


def frame_log(parts: Path, job: Job) -> Path:
    """Where the frames of a bond are kept while a build runs."""
    return parts / "frames" / f"{job.name}.jsonl"


def _scan_job(job: Job, settings: BuildSettings, file: Path, tick: Callable[[], None] | None = None) -> None:
    """Step 5 of one bond, in whatever process it may be."""
    if not file.parents[2].is_dir():  # the work folder that the build has made
        raise MindscaipError(f"this worker does not see the folder {file.parents[2]}; put the output on a shared disk")
    positions, start = _frames_of(job, settings)
    log = FrameLog(file, job.molecule.numbers, positions, settings.reference)
    walk_frames(
        _calculator(settings.reference),
        job.molecule.numbers,
        positions,
        start,
        log,
        None if tick is None else lambda _: tick(),
    )


def _frames_of(job: Job, settings: BuildSettings) -> tuple[np.ndarray, int]:
    lengths = lengths_of(job.molecule, job.bridge, settings)
    first, second = job.bridge.atoms
    length0 = np.linalg.norm(job.molecule.positions[second] - job.molecule.positions[first])
    positions = displace(job.molecule.positions, job.bridge.atoms, job.bridge.labels, lengths)
    return positions, int(np.argmin(np.abs(lengths - length0)))


_made = threading.local()


def _calculator(name: str) -> Any:
    """One calculator per thread: a learned potential takes longer to load than to evaluate."""
    if getattr(_made, "name", None) != name:
        _made.calculator, _made.name = resolve_calculator(name)(), name
    return _made.calculator


def _finish(job: Job, settings: BuildSettings, file: Path, failure: str) -> tuple[BondRecord, Scan | None]:
    """Put the frames of one bond together; step 6."""
    positions, start = _frames_of(job, settings)
    record = replace(job.record, start=start)
    without: dict[int, str] = {}
    try:
        log = FrameLog(file, job.molecule.numbers, positions, settings.reference)
        without = {number: frame.reason for number, frame in sorted(log.frames.items()) if frame.reason}
        scan = _assemble(job, settings, log, positions)
    except MindscaipError as error:
        # A log with an answer or a reason for every frame is final; what is missing the same command can still make.
        unfinished = bool(failure) or not isinstance(error, ScanError)
        reason = failure or str(error)
        if without and not unfinished:
            number = next(iter(without))
            reason += f"; the first without one is frame {number}: {without[number]}"
        record = replace(record, status=records.FAILED, rule=records.REFERENCE, reason=reason)
        return replace(record, failed_frames=without, unfinished=unfinished), None
    errors, limits = continuity_errors(scan), continuity_limits(scan)
    record = replace(
        record,
        continuity=float(errors.max()),
        unchecked=[(round(first, 4), round(last, 4)) for first, last in unchecked_steps(scan)],
        failed_frames=without,
        seconds=round(sum(frame.seconds for frame in log.frames.values()), 3),
    )
    worst = int(np.argmax(errors / limits))
    if errors[worst] > limits[worst]:
        reason = (
            f"the reference is discontinuous: energies and forces differ by {errors[worst]:.3f} eV (limit "
            f"{limits[worst]:.3f}) after bond length {scan.bond_length[worst]:.3f} A"
        )
        return replace(record, status=records.EXCLUDED, rule=records.DISCONTINUOUS, reason=reason), None
    return replace(record, status=records.SCANNED), scan


def _assemble(job: Job, settings: BuildSettings, log: FrameLog, positions: np.ndarray) -> Scan:
    molecule, bridge, source = job.molecule, job.bridge, job.molecule.source
    missing = [number for number in range(settings.frames) if number not in log.frames]
    if missing:
        raise MindscaipError(f"{len(missing)} frames were not made: the worker was lost; run the same command again")
    frames = [log.frames[number] for number in range(settings.frames)]
    i, j = bridge.atoms
    return make_scan(
        bond=job.record.bond,
        id=job.record.id,
        numbers=molecule.numbers,
        positions=positions,
        bond_length=lengths_of(molecule, bridge, settings),
        energy=np.array([frame.energy for frame in frames]),
        forces=np.stack([frame.forces for frame in frames]),
        bond_index=bridge.atoms,
        fragment_labels=bridge.labels,
        source=f"{source.name}, atoms {i} and {j}",
        smiles=source.smiles,
        subset=source.subset,
        positions0=molecule.positions,
        energy0=molecule.energy,
        forces0=molecule.forces,
        notes={str(number): frame.reason for number, frame in enumerate(frames) if frame.reason},
    )


class _FrameCounter:
    """How many frames are in the logs, without reading again those that have not grown."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._sizes = [0] * len(files)
        self._counts = [0] * len(files)

    def count(self) -> int:
        """Frames in all logs."""
        for k, file in enumerate(self._files):
            try:
                size = file.stat().st_size
            except OSError:
                continue
            if size != self._sizes[k]:
                self._sizes[k] = size
                self._counts[k] = max(file.read_bytes().count(b"\n") - 1, 0)  # the first line is the header
        return sum(self._counts)

    def of(self, number: int) -> int:
        """Frames in one log when they were last counted."""
        return self._counts[number]
