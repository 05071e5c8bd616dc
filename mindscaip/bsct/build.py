"""Build bond scans of any molecule by the paper's Appendix A, each step on record.

1. *Bridge bonds* (:mod:`~mindscaip.bsct.bridges`): bonds that split the molecule into two fragments, neither of them a
   single atom.
2. *Frames* (:mod:`~mindscaip.bsct.geometry`): both fragments move rigidly along the bond
   (:func:`~mindscaip.bsct.dataset.displace`); the bond length runs evenly from 0.5 to 2.0 times the sum of the two
   covalent radii.
3. *Overlap*: a bond is left out when, in any frame, any pair of atoms other than the bonded one comes closer than 0.9
   times the sum of its covalent radii. All published scans keep this rule (the closest pair stands at 0.90003).
4. *Sampling*: bonds of the types asked for, at most so many of each type, chosen with a seed.
5. *Reference* (:mod:`~mindscaip.bsct.frames`): energy and forces of every frame, from the frame nearest to the
   unperturbed bond length outwards.
6. *Continuity* (:mod:`~mindscaip.bsct.continuity`): a scan is left out when energies and forces of the reference
   contradict each other by more than a tolerance between two neighbouring frames: the self-consistent solution has
   jumped from one state to another.

Relaxed molecules and finished frames are saved in ``<output>.parts`` while a build runs; a killed build goes on there.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mindscaip import __version__
from mindscaip.bsct import bridges, geometry, records, relax
from mindscaip.bsct.bridges import Bridge, bond_type, bridge_bonds, checked_bond, split_at
from mindscaip.bsct.continuity import CONTINUITY_TOLERANCE, continuity_errors, continuity_tolerance
from mindscaip.bsct.dataset import HDF5_SUFFIXES, MIN_FRAMES, Scan, displace, make_scan, write_scans
from mindscaip.bsct.frames import FrameLog, walk_frames
from mindscaip.bsct.geometry import OVERLAP, closest_approach, scan_lengths
from mindscaip.bsct.inputs import Source, read_sources
from mindscaip.bsct.parallel import run_tasks
from mindscaip.bsct.records import (
    PUBLISHED_BONDS,
    UNRELAXED,
    WITH_REFERENCE,
    BondRecord,
    BuildResult,
    BuildSettings,
    count_bonds,
)
from mindscaip.bsct.relax import Molecule
from mindscaip.data.calculators import describe_calculator, resolve_calculator
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

SHOWN_REASONS = 5
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Job:
    """One bond that is to be scanned."""

    molecule: Molecule
    bridge: Bridge
    record: BondRecord

    @property
    def name(self) -> str:
        return f"{self.record.bond}/{self.record.id}"


def build_scans(
    inputs: Sequence[str],
    output: str | os.PathLike,
    settings: BuildSettings | None = None,
    *,
    bonds: Sequence[str] = PUBLISHED_BONDS,
    per_bond: int | None = None,
    workers: int | None = None,
    dask: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Build scans and write the packed HDF5 ``output`` and ``<output stem>.json``, the record of every bond.

    Args:
        inputs: molecules, see :func:`~mindscaip.bsct.inputs.read_sources`.
        bonds: bond types to scan; empty for every type.
        per_bond: at most so many scans of each type, chosen at random with the seed.
        workers: processes on this machine; all cores by default, 1 for this process alone.
        dask: address of a Dask scheduler whose workers do the work; they must see the folder of ``output``.
        overwrite: replace ``output`` when it exists.
        progress: called with ``relax`` (molecules) or ``scan`` (frames), how many are done, and how many there are.

    Raises:
        MindscaipError: wrong options; the work folder belongs to another build; nothing is left to write.
    """
    settings = settings or BuildSettings()
    output = Path(output)
    wanted = _check(output, settings, bonds, per_bond, workers, dask, overwrite)
    sources, failed = read_sources(inputs)
    if not sources:
        raise MindscaipError(f"none of the molecules can be used; {_join([f'{n}: {r}' for n, r in failed])}")
    parts = _claim(output, settings)
    where = {"workers": workers, "dask": dask}
    molecules, unrelaxed = _relax_all(sources, settings, parts, where, progress)
    failed += unrelaxed
    jobs, found = _candidates(molecules, settings, wanted)
    jobs, dropped = _sample(jobs, per_bond, settings.seed)
    scans, done, resumed = _scan_all(jobs, settings, parts, where, progress)
    order = {source.name: number for number, source in enumerate(sources)}
    bond_records = sorted([*found, *dropped, *done], key=lambda record: (order[record.molecule], record.atoms))

    _write_report(output.with_suffix(".json"), settings, wanted, per_bond, molecules, bond_records, failed)
    if not scans:
        shutil.rmtree(parts)
        reasons = [f"{r.molecule} {r.bond}: {r.reason}" for r in bond_records if r.rule not in ("", records.TYPE)]
        raise MindscaipError(f"no bond could be scanned; {_join([*reasons, *(f'{n}: {r}' for n, r in failed)])}")
    scans.sort(key=lambda scan: scan.key)
    count = write_scans(output, scans, _provenance(settings))
    shutil.rmtree(parts)
    frames = sum(len(scan) for scan in scans)
    return BuildResult(count, len(molecules), bond_records, failed, resumed, frames)


def _check(
    output: Path,
    settings: BuildSettings,
    bonds: Sequence[str],
    per_bond: int | None,
    workers: int | None,
    dask: str | None,
    overwrite: bool,
) -> list[str]:
    """Refuse what cannot be built before anything is calculated; return the bond types in their usual form."""
    if output.suffix.lower() not in HDF5_SUFFIXES:
        raise MindscaipError(f"{output}: packed scans are HDF5; let the name end in .h5")
    if output.exists() and not overwrite:
        raise MindscaipError(f"{output} exists; give another name or allow overwriting it with --overwrite")
    if per_bond is not None and per_bond < 1:
        raise MindscaipError(f"{per_bond} scans per bond type leave nothing to build; give 1 or more")
    if workers is not None and workers < 1:
        raise MindscaipError(f"{workers} workers cannot build; give 1 or more")
    if workers is not None and dask is not None:
        raise MindscaipError("the number of workers is the cluster's where a Dask scheduler is given; leave it out")
    resolve_calculator(settings.reference)
    if settings.relaxation not in (WITH_REFERENCE, UNRELAXED):
        resolve_calculator(settings.relaxation)
    return [checked_bond(bond) for bond in bonds]


def scan_bond(
    numbers: np.ndarray, positions0: np.ndarray, bond: tuple[int, int], *, frames: int = geometry.PUBLISHED_FRAMES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bond lengths ``[K]`` and positions ``[K, n, 3]`` in A, and fragment labels ``[n]``, of the scan of one bond.

    Bonds are perceived from the geometry. Whether atoms collide is not looked at here.

    Args:
        numbers: atomic numbers, ``[n]``.
        positions0: the unperturbed geometry in A, ``[n, 3]``.
        bond: the two atoms; the first has label 0.

    Raises:
        MindscaipError: the atoms are not bonded, or the bond is in a ring or to a single atom.
    """
    i, j = bond
    bonded = bridges.perceive_bonds(numbers, positions0)
    if (min(bond), max(bond)) not in bonded:
        raise MindscaipError(f"atoms {i} and {j} are not bonded in this geometry")
    _, excluded = bridge_bonds(len(numbers), bonded)
    if (min(bond), max(bond)) in excluded:
        raise MindscaipError(f"the bond of atoms {i} and {j}: {excluded[min(bond), max(bond)][1]}")
    labels = split_at(len(numbers), bonded, bond)
    assert labels is not None
    lengths = scan_lengths(numbers, bond, frames)
    return lengths, displace(positions0, bond, labels, lengths), labels


# --- step 0: geometries -----------------------------------------------------------------------------------------------


def _relax_all(
    sources: Sequence[Source], settings: BuildSettings, parts: Path, where: dict[str, Any], progress: Progress | None
) -> tuple[list[Molecule], list[tuple[str, str]]]:
    files = [parts / "molecules" / f"{source.formula}-{source.identity(settings.seed)}.npz" for source in sources]
    todo = [k for k, file in enumerate(files) if relax.read_relaxed(file, sources[k]) is None]

    def tick() -> None:
        if progress is not None:
            progress("relax", sum(file.exists() for file in files), len(files))

    reasons = run_tasks(relax.relax_into, [(sources[k], settings, files[k]) for k in todo], **where, tick=tick)
    failed = {todo[number]: reason for number, reason in reasons.items()}
    molecules: list[Molecule] = []
    for k, source in enumerate(sources):
        if k in failed:
            continue
        molecule = relax.read_relaxed(files[k], source)
        if molecule is None:
            failed[k] = f"its file {files[k]} cannot be read; do the workers see this folder?"
        else:
            molecules.append(molecule)
    return molecules, [(sources[k].name, reason) for k, reason in sorted(failed.items())]


# --- steps 1 to 4: bonds ----------------------------------------------------------------------------------------------


def _candidates(
    molecules: Sequence[Molecule], settings: BuildSettings, wanted: Sequence[str]
) -> tuple[list[_Job], list[BondRecord]]:
    """Steps 1 to 3: the bonds to scan, and the records of those that are not."""
    jobs: list[_Job] = []
    found: list[BondRecord] = []

    def leave_out(record: BondRecord, rule: str, reason: str) -> None:
        found.append(replace(record, status=records.EXCLUDED, rule=rule, reason=reason))

    for molecule in molecules:
        good, excluded = bridge_bonds(len(molecule.numbers), molecule.source.bonds)
        if molecule.source.scan is not None:
            good, excluded = _only(molecule.source, good, excluded)
        for atoms, (rule, reason) in excluded.items():
            leave_out(_record(molecule, atoms, settings), rule, reason)
        for bridge in good:
            record = _record(molecule, bridge.atoms, settings)
            if wanted and record.bond not in wanted:
                leave_out(record, records.TYPE, f"bond type {record.bond} was not asked for")
                continue
            positions = displace(molecule.positions, bridge.atoms, bridge.labels, _lengths(molecule, bridge, settings))
            ratio, frame, (i, j) = closest_approach(molecule.numbers, positions, bridge.atoms)
            record = replace(record, closest=ratio)
            if ratio < OVERLAP:
                length = _lengths(molecule, bridge, settings)[frame]
                reason = (
                    f"atoms {i} and {j} come as close as {ratio:.3f} of their covalent sum (limit {OVERLAP}) "
                    f"at bond length {length:.2f} A"
                )
                leave_out(record, records.OVERLAPPING, reason)
            else:
                jobs.append(_Job(molecule, bridge, record))
    return jobs, found


def _only(
    source: Source, good: list[Bridge], excluded: dict[tuple[int, int], tuple[str, str]]
) -> tuple[list[Bridge], dict[tuple[int, int], tuple[str, str]]]:
    """Of a molecule that was taken from a scan, the bond of that scan, its atoms in the order of that scan."""
    assert source.scan is not None
    first, second = source.scan[2]
    atoms = (min(first, second), max(first, second))
    turned = [Bridge((first, second), b.labels if first < second else 1 - b.labels) for b in good if b.atoms == atoms]
    return turned, {atoms: excluded[atoms]} if atoms in excluded else {}


def _lengths(molecule: Molecule, bridge: Bridge, settings: BuildSettings) -> np.ndarray:
    return scan_lengths(molecule.numbers, bridge.atoms, settings.frames)


def _record(molecule: Molecule, atoms: tuple[int, int], settings: BuildSettings) -> BondRecord:
    i, j = atoms
    source = molecule.source
    return BondRecord(
        molecule=source.name,
        bond=bond_type(source.numbers[i], source.numbers[j]),
        atoms=(int(i), int(j)),
        id=source.scan[1] if source.scan else f"{source.formula}-{i}-{j}-{source.identity(settings.seed)}",
        status="",
    )


def _sample(jobs: list[_Job], per_bond: int | None, seed: int) -> tuple[list[_Job], list[BondRecord]]:
    """Step 4: at most ``per_bond`` of each bond type."""
    if per_bond is None:
        return jobs, []
    by_bond: dict[str, list[_Job]] = defaultdict(list)
    for job in jobs:
        by_bond[job.record.bond].append(job)
    kept: list[_Job] = []
    dropped: list[BondRecord] = []
    for bond, group in sorted(by_bond.items()):
        # One stream per bond type: adding a type does not change the choice in the others.
        rng = np.random.default_rng([seed, *bond.encode()])
        chosen = set(rng.permutation(len(group))[:per_bond].tolist())
        reason = f"{per_bond} of {len(group)} {bond} bonds were chosen"
        for k, job in enumerate(group):
            if k in chosen:
                kept.append(job)
            else:
                dropped.append(replace(job.record, status=records.NOT_SAMPLED, rule=records.SAMPLING, reason=reason))
    return kept, dropped


# --- steps 5 and 6: frames --------------------------------------------------------------------------------------------


def _scan_all(
    jobs: list[_Job], settings: BuildSettings, parts: Path, where: dict[str, Any], progress: Progress | None
) -> tuple[list[Scan], list[BondRecord], int]:
    # Longest first, so that no worker is left alone with a long one at the end.
    jobs = sorted(jobs, key=lambda job: (-len(job.molecule.numbers), job.name))
    files = [parts / "frames" / f"{job.name}.jsonl" for job in jobs]
    counter = _FrameCounter(files)
    resumed, total = counter.count(), len(jobs) * settings.frames

    def tick() -> None:
        if progress is not None:
            progress("scan", counter.count(), total)

    todo = [k for k in range(len(jobs)) if counter.of(k) < settings.frames]
    reasons = run_tasks(_scan_job, [(jobs[k], settings, files[k]) for k in todo], **where, tick=tick)
    failures = {todo[number]: reason for number, reason in reasons.items()}
    scans: list[Scan] = []
    found: list[BondRecord] = []
    for k, (job, file) in enumerate(zip(jobs, files, strict=True)):
        record, scan = _finish(job, settings, file, failures.get(k, ""))
        found.append(record)
        if scan is not None:
            scans.append(scan)
    return scans, found, resumed


def _scan_job(job: _Job, settings: BuildSettings, file: Path, tick: Callable[[], None] | None = None) -> None:
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


def _frames_of(job: _Job, settings: BuildSettings) -> tuple[np.ndarray, int]:
    lengths = _lengths(job.molecule, job.bridge, settings)
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


def _finish(job: _Job, settings: BuildSettings, file: Path, failure: str) -> tuple[BondRecord, Scan | None]:
    """Put the frames of one bond together; step 6."""
    positions, start = _frames_of(job, settings)
    record = replace(job.record, start=start)
    without: dict[int, str] = {}
    try:
        log = FrameLog(file, job.molecule.numbers, positions, settings.reference)
        without = {number: frame.reason for number, frame in sorted(log.frames.items()) if frame.reason}
        scan = _assemble(job, settings, log, positions)
    except MindscaipError as error:
        reason = failure or str(error)
        if without and not failure:
            number = next(iter(without))
            reason += f"; the first without one is frame {number}: {without[number]}"
        record = replace(record, status=records.FAILED, rule=records.REFERENCE, reason=reason)
        return replace(record, failed_frames=without), None
    errors, limits = continuity_errors(scan), continuity_tolerance(scan)
    record = replace(
        record,
        continuity=float(errors.max()),
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


def _assemble(job: _Job, settings: BuildSettings, log: FrameLog, positions: np.ndarray) -> Scan:
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
        bond_length=_lengths(molecule, bridge, settings),
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


# --- the work folder and the record -----------------------------------------------------------------------------------


def _claim(output: Path, settings: BuildSettings) -> Path:
    """The work folder of this build, new or left by one with the same settings."""
    parts = output.with_name(output.name + ".parts")
    marker = parts / "settings.json"
    mine = {**asdict(settings), "mindscaip_version": __version__}
    if marker.exists():
        try:
            before = json.loads(marker.read_text())
        except ValueError:
            before = {}
        names = [name for name in mine if before.get(name) != mine[name]]
        if names:
            raise MindscaipError(
                f"{parts} holds an unfinished build with another {' and '.join(names)}; remove it or change -o"
            )
    else:
        with atomic_path(marker) as target:
            target.write_text(json.dumps(mine) + "\n")
    return parts


def _write_report(
    path: Path,
    settings: BuildSettings,
    wanted: Sequence[str],
    per_bond: int | None,
    molecules: Sequence[Molecule],
    bond_records: list[BondRecord],
    failed: list[tuple[str, str]],
) -> None:
    report: dict[str, Any] = {
        **_provenance(settings),
        "settings": {**asdict(settings), "bonds": list(wanted), "per_bond": per_bond},
        "rules": {
            "shortest, longest (covalent sums)": [geometry.SHORTEST, geometry.LONGEST],
            "overlap (covalent sums)": OVERLAP,
            "smallest fragment (atoms)": bridges.MIN_FRAGMENT,
            "bonds perceived below (covalent sums)": bridges.PERCEIVED,
            "relaxed to (eV/A)": relax.RELAX_FMAX,
            "broken in relaxation above (covalent sums)": relax.STRETCHED,
            "continuity (eV per published step)": CONTINUITY_TOLERANCE,
            "fewest frames": MIN_FRAMES,
        },
        "counts": count_bonds(bond_records),
        "molecules": [
            {
                "name": molecule.source.name,
                "smiles": molecule.source.smiles,
                "formula": molecule.source.formula,
                "atoms": len(molecule.numbers),
                "relaxation_steps": molecule.steps,
                "energy": molecule.energy,
                "largest_force": float(np.linalg.norm(molecule.forces, axis=1).max()),
            }
            for molecule in molecules
        ],
        "failed_molecules": [{"molecule": name, "reason": reason} for name, reason in failed],
        "bonds": [asdict(record) for record in bond_records],
    }
    with atomic_path(path) as target:
        target.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def _provenance(settings: BuildSettings) -> dict[str, str]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "level_of_theory": settings.reference,
        "method": describe_calculator(settings.reference),
        "source": f"mindscaip {__version__}",
        "command": command,
        "covalent_radii": "ase.data.covalent_radii (Cordero et al. 2008)",
    }


def _join(reasons: list[str]) -> str:
    return "; ".join(reasons[:SHOWN_REASONS]) + ("; ..." if len(reasons) > SHOWN_REASONS else "")
