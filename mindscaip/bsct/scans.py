"""Build bond scans of any molecule by the paper's Appendix A, each step on record.

1. *Bridge bonds*: bonds that split the molecule into two fragments, neither of them a single atom.
2. *Frames*: both fragments move rigidly along the bond (:func:`~mindscaip.bsct.dataset.displace`); the bond length runs
   evenly from 0.5 to 2.0 times the sum of the two covalent radii. The table of radii is ASE's ``covalent_radii``
   (Cordero et al. 2008, doi:10.1039/b801115j); the bond lengths of the published scans are exactly these.
3. *Overlap*: a bond is left out when, in any frame, any pair of atoms other than the bonded one comes closer than 0.9
   times the sum of its covalent radii. All published scans keep this rule (the closest pair stands at 0.90003).
4. *Sampling*: bonds of the types asked for, at most so many of each type, chosen with a seed.
5. *Reference*: energy and forces of every frame, from the frame nearest to the relaxed bond length outwards.
6. *Continuity*: a scan is left out when energies and forces of the reference contradict each other by more than
   ``CONTINUITY_TOLERANCE`` between two neighbouring frames (:func:`continuity_errors`): the self-consistent solution
   has jumped from one state to another.

Relaxed molecules and finished scans are saved in ``<output>.parts`` while a build runs; a killed build goes on from
there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.optimize import BFGS
from ase.symbols import Symbols

from mindscaip import __version__
from mindscaip.bsct.dataset import HDF5_SUFFIXES, MIN_FRAMES, Scan, displace, make_scan, write_scans
from mindscaip.bsct.potentials import evaluate_outwards
from mindscaip.data.calculators import CalculationError, resolve_calculator, single_point
from mindscaip.data.molecules import embed_smiles, molecule_from_smiles
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

SHORTEST, LONGEST = 0.5, 2.0
"""Bond lengths of a scan, in units of the sum of the two covalent radii."""
OVERLAP = 0.9
"""Closest approach of any other pair, in units of the sum of its covalent radii."""
MIN_FRAGMENT = 2
"""Atoms in the smaller fragment."""
CONTINUITY_TOLERANCE = 0.01
"""eV per step; the 321 published scans stay below 0.0026 eV."""
PUBLISHED_FRAMES = 100
PUBLISHED_BONDS = ("C-C", "C-N", "C-O", "C-P", "C-S", "N-N", "N-O", "N-P", "O-P")
RELAX_FMAX = 0.01
RELAX_STEPS = 500
STRETCHED = 1.3
"""A bond of the SMILES longer than this many sums of covalent radii after relaxation is taken for broken."""


@dataclass(frozen=True)
class Bridge:
    """A bond that splits its molecule: the bonded atoms (ascending) and the side of every atom, 0 or 1, ``[n]``."""

    atoms: tuple[int, int]
    labels: np.ndarray


@dataclass(frozen=True)
class BondRecord:
    """What became of one bond of one molecule.

    Attributes:
        smiles: the molecule as given.
        bond: bond type, such as ``C-O``.
        atoms: the two atoms, counted from 0 in the order of :func:`~mindscaip.data.molecules.embed_smiles`.
        id: name of the scan within its bond type (``<formula>-<atom>-<atom>-<hash of molecule and seed>``).
        status: ``scanned``, ``excluded`` (step 1 to 3, 6), ``not sampled`` (step 4) or ``failed`` (no reference).
        reason: why, where it was not scanned.
        closest: smallest distance of another pair in units of its covalent sum, or None where not looked at.
        continuity: largest continuity error in eV, or None.
        failed_frames: frames without a reference.
    """

    smiles: str
    bond: str
    atoms: tuple[int, int]
    id: str
    status: str
    reason: str = ""
    closest: float | None = None
    continuity: float | None = None
    failed_frames: int = 0


@dataclass(frozen=True)
class BuildSettings:
    """What a scan depends on besides its molecule; a resumed build must have the same."""

    reference: str = "gfn2-xtb"
    frames: int = PUBLISHED_FRAMES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < MIN_FRAMES:
            raise MindscaipError(f"{self.frames} frames are too few for a scan; give at least {MIN_FRAMES}")
        if self.seed < 0:
            raise MindscaipError(f"seed {self.seed} is negative; give 0 or larger")


@dataclass(frozen=True)
class BuildResult:
    """Number of scans written, and what became of every molecule and bond.

    Attributes:
        records: one per bond between heavy atoms or of a type asked for.
        failed_molecules: SMILES and reason.
        resumed: scans taken over from an earlier, interrupted build.
    """

    num_scans: int
    records: list[BondRecord]
    failed_molecules: list[tuple[str, str]]
    resumed: int


def bond_type(first: int, second: int) -> str:
    """``"C-O"`` for the atomic numbers 8 and 6: symbols in alphabetical order."""
    return "-".join(sorted((chemical_symbols[first], chemical_symbols[second])))


def split_at(num_atoms: int, bonds: Iterable[tuple[int, int]], bond: tuple[int, int]) -> np.ndarray | None:
    """Sides of the atoms when ``bond`` is cut: 0 with its first atom, 1 with its second; None for a bond in a ring.

    ``bonds`` are those of one connected molecule.
    """
    neighbors: dict[int, list[int]] = defaultdict(list)
    for i, j in bonds:
        if {i, j} != set(bond):
            neighbors[i].append(j)
            neighbors[j].append(i)
    labels = np.ones(num_atoms, dtype=np.int64)
    labels[bond[0]] = 0
    waiting = [bond[0]]
    while waiting:
        for atom in neighbors[waiting.pop()]:
            if labels[atom] == 1:
                labels[atom] = 0
                waiting.append(atom)
    return labels if labels[bond[1]] == 1 else None


def bridge_bonds(num_atoms: int, bonds: Sequence[tuple[int, int]]) -> tuple[list[Bridge], dict[tuple[int, int], str]]:
    """Step 1: the bonds to scan, and for every other bond the reason why not."""
    bridges: list[Bridge] = []
    excluded: dict[tuple[int, int], str] = {}
    for i, j in bonds:
        bond = (min(i, j), max(i, j))
        labels = split_at(num_atoms, bonds, bond)
        if labels is None:
            excluded[bond] = "the bond is in a ring: cutting it does not split the molecule"
        elif min(labels.sum(), num_atoms - labels.sum()) < MIN_FRAGMENT:
            excluded[bond] = "one of the fragments is a single atom"
        else:
            bridges.append(Bridge(bond, labels))
    return bridges, excluded


def scan_lengths(numbers: np.ndarray, bond: tuple[int, int], frames: int = PUBLISHED_FRAMES) -> np.ndarray:
    """Step 2: the bond lengths in A, ``[frames]``."""
    total = covalent_radii[numbers[list(bond)]].sum()
    return np.linspace(SHORTEST * total, LONGEST * total, frames)


def closest_approach(
    numbers: np.ndarray, positions: np.ndarray, bond: tuple[int, int]
) -> tuple[float, int, tuple[int, int]]:
    """Step 3: the smallest distance of a pair other than ``bond``, in units of the sum of its covalent radii.

    Args:
        positions: A, ``[K, n, 3]``.

    Returns:
        the ratio, the frame and the pair.
    """
    i, j = np.triu_indices(len(numbers), k=1)
    keep = ~((i == min(bond)) & (j == max(bond)))
    i, j = i[keep], j[keep]
    ratio = np.linalg.norm(positions[:, i] - positions[:, j], axis=2) / (
        covalent_radii[numbers[i]] + covalent_radii[numbers[j]]
    )
    frame, pair = np.unravel_index(int(np.argmin(ratio)), ratio.shape)
    return float(ratio[frame, pair]), int(frame), (int(i[pair]), int(j[pair]))


def projected_slope(scan: Scan) -> np.ndarray:
    """``dE/dL = -sum_i F_i . dx_i/dL`` from the reference forces, eV/A, ``[K]``.

    The fragments move by half of the change each: ``dx_i/dL = h_i u / 2``, as in
    :func:`~mindscaip.bsct.dataset.displace`.
    """
    first, second = scan.bond_index
    axis = scan.positions[:, second] - scan.positions[:, first]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    sides = np.where(scan.fragment_labels == scan.fragment_labels[second], 0.5, -0.5)
    return -np.einsum("kic,i,kc->k", scan.forces, sides, axis)


def continuity_errors(scan: Scan) -> np.ndarray:
    """Step 6: by how much energies and forces contradict each other between neighbouring frames, eV, ``[K - 1]``.

    ``|E(k+1) - E(k) - integral of dE/dL|``, the integral by the corrected trapezoid rule
    ``h/2 (E'_k + E'_(k+1)) + h^2/12 (E''_k - E''_(k+1))`` with ``E'`` from the forces and ``E''`` from its differences.
    """
    slope = projected_slope(scan)
    curvature = np.gradient(slope, scan.bond_length, edge_order=2)
    step = np.diff(scan.bond_length)
    integral = step / 2 * (slope[:-1] + slope[1:]) + step**2 / 12 * (curvature[:-1] - curvature[1:])
    return np.abs(np.diff(scan.energy) - integral)


def continuity_tolerance(scan: Scan) -> np.ndarray:
    """The tolerance of each step in eV, ``[K - 1]``.

    ``CONTINUITY_TOLERANCE``, and more where a step is wider than published: the rule's own error grows with the
    fourth power of the step.
    """
    published = scan_lengths(scan.numbers, scan.bond_index)
    width = np.diff(scan.bond_length) / (published[1] - published[0])
    return CONTINUITY_TOLERANCE * np.maximum(width, 1.0) ** 4


# --- building ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Molecule:
    """A relaxed molecule: energy in eV, forces in eV/A, bonds of its SMILES."""

    smiles: str
    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    bonds: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Task:
    molecule: _Molecule
    bridge: Bridge
    record: BondRecord


def build_scans(
    smiles: Sequence[str],
    output: str | os.PathLike,
    settings: BuildSettings | None = None,
    *,
    bonds: Sequence[str] = PUBLISHED_BONDS,
    per_bond: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    on_start: Callable[[str, int], None] | None = None,
    on_done: Callable[[str], None] | None = None,
) -> BuildResult:
    """Build scans of molecules given as SMILES and write the packed HDF5 ``output`` and ``<output stem>.json``.

    The JSON file holds the settings and what became of every bond.

    Args:
        bonds: bond types to scan; empty for every type.
        per_bond: at most so many scans of each type, chosen at random with the seed.
        workers: processes; all cores by default.
        overwrite: replace ``output`` when it exists.
        on_start: called with the name and number of tasks at the start of a stage (``relax``, ``scan``).
        on_done: called with the name of the stage after each task.

    Raises:
        MindscaipError: wrong input; the work folder belongs to another build; nothing is left to write.
    """
    settings = settings or BuildSettings()
    output = Path(output)
    if output.suffix.lower() not in HDF5_SUFFIXES:
        raise MindscaipError(f"{output}: packed scans are HDF5; let the name end in .h5")
    if output.exists() and not overwrite:
        raise MindscaipError(f"{output} exists; give another name or allow overwriting it with --overwrite")
    if not smiles:
        raise MindscaipError("no molecule was given; give at least one SMILES such as CCO")
    if per_bond is not None and per_bond < 1:
        raise MindscaipError(f"{per_bond} scans per bond type leave nothing to build; give 1 or more")
    if workers is not None and workers < 1:
        raise MindscaipError(f"{workers} workers cannot build; give 1 or more")
    wanted = [_checked_bond(bond) for bond in bonds]
    resolve_calculator(settings.reference)
    unique = list(dict.fromkeys(smiles))
    for text in unique:
        molecule_from_smiles(text)

    parts = _claim(output, settings)
    molecules, failed = _relax_all(unique, settings, parts, workers, on_start, on_done)
    tasks, records = _candidates(molecules, settings, wanted)
    tasks, dropped = _sample(tasks, per_bond, settings.seed)
    records += dropped
    scans, done, resumed = _scan_all(tasks, settings, parts, workers, on_start, on_done)
    records += done

    records.sort(key=lambda record: (unique.index(record.smiles), record.atoms))
    if not scans:
        reasons = [f"{record.smiles} {record.bond}: {record.reason}" for record in records if record.reason]
        reasons += [f"{text}: {reason}" for text, reason in failed]
        raise MindscaipError(
            f"no bond could be scanned; {'; '.join(reasons[:5])}" + ("; ..." if len(reasons) > 5 else "")
        )
    provenance = _provenance(settings)
    report: dict[str, Any] = {
        **provenance,
        "settings": {**asdict(settings), "bonds": wanted, "per_bond": per_bond},
        "counts": dict(Counter(record.status for record in records)),
        "bonds": [asdict(record) for record in records],
        "failed_molecules": [{"smiles": text, "reason": reason} for text, reason in failed],
    }
    with atomic_path(output.with_suffix(".json")) as target:
        target.write_text(json.dumps(report, indent=1) + "\n")
    scans.sort(key=lambda scan: scan.key)
    count = write_scans(output, scans, provenance)
    shutil.rmtree(parts)
    return BuildResult(count, records, failed, resumed)


def scan_molecule_bond(
    numbers: np.ndarray,
    positions0: np.ndarray,
    bridge: Bridge,
    settings: BuildSettings,
    *,
    id: str,
    smiles: str = "",
    energy0: float | None = None,
    forces0: np.ndarray | None = None,
) -> Scan:
    """Steps 2 and 5 for one bond: displace, then the reference on every frame.

    A frame without an answer is dropped, with its reason in ``notes``.

    Raises:
        ScanError: fewer than 10 frames have an answer.
    """
    lengths = scan_lengths(numbers, bridge.atoms, settings.frames)
    positions = displace(positions0, bridge.atoms, bridge.labels, lengths)
    length0 = np.linalg.norm(positions0[bridge.atoms[1]] - positions0[bridge.atoms[0]])
    failures: dict[str, str] = {}
    energy, forces = evaluate_outwards(
        resolve_calculator(settings.reference)(),
        numbers,
        positions,
        int(np.argmin(np.abs(lengths - length0))),
        lambda frame, reason: failures.update({str(frame): reason}),
    )
    return make_scan(
        bond=bond_type(*numbers[list(bridge.atoms)]),
        id=id,
        numbers=numbers,
        positions=positions,
        bond_length=lengths,
        energy=energy,
        forces=forces,
        bond_index=bridge.atoms,
        fragment_labels=bridge.labels,
        source=f"{smiles or id}, atoms {bridge.atoms[0]} and {bridge.atoms[1]}",
        smiles=smiles,
        positions0=positions0,
        energy0=energy0,
        forces0=forces0,
        notes=failures,
    )


def _relax_all(
    smiles: Sequence[str],
    settings: BuildSettings,
    parts: Path,
    workers: int | None,
    on_start: Callable[[str, int], None] | None,
    on_done: Callable[[str], None] | None,
) -> tuple[list[_Molecule], list[tuple[str, str]]]:
    files = {text: parts / f"molecule-{_molecule_hash(text, settings.seed)}.npz" for text in smiles}
    todo = [text for text in smiles if _read_molecule(files[text], text) is None]
    failed = _parallel(
        _relax_task, [(text, settings, files[text]) for text in todo], "relax", workers, on_start, on_done
    )
    reasons = {todo[number]: reason for number, reason in failed.items()}
    molecules = [m for text in smiles if text not in reasons and (m := _read_molecule(files[text], text)) is not None]
    return molecules, list(reasons.items())


def _relax_task(text: str, settings: BuildSettings, file: Path) -> None:
    molecule = _relax(text, settings)
    with atomic_path(file) as target:
        np.savez(
            target,
            numbers=molecule.numbers,
            positions=molecule.positions,
            energy=molecule.energy,
            forces=molecule.forces,
            bonds=np.array(molecule.bonds, dtype=np.int64).reshape(-1, 2),
        )


def _relax(text: str, settings: BuildSettings) -> _Molecule:
    start = embed_smiles(text, settings.seed)
    graph = molecule_from_smiles(text)
    bonds = tuple((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in graph.GetBonds())
    atoms = Atoms(start.numbers, start.positions)
    atoms.calc = resolve_calculator(settings.reference)()
    single_point(atoms.calc, atoms)
    try:
        converged = BFGS(atoms, logfile=None).run(fmax=RELAX_FMAX, steps=RELAX_STEPS)
    except MindscaipError:
        raise
    except Exception as error:
        raise CalculationError(f"the relaxation failed with {type(error).__name__}: {error}") from error
    if not converged:
        raise CalculationError(f"the relaxation has forces above {RELAX_FMAX} eV/A after {RELAX_STEPS} steps")
    for i, j in bonds:
        length = float(np.linalg.norm(atoms.positions[i] - atoms.positions[j]))
        if length > STRETCHED * covalent_radii[atoms.numbers[[i, j]]].sum():
            kind = bond_type(atoms.numbers[i], atoms.numbers[j])
            raise CalculationError(f"the relaxation broke the {kind} bond of atoms {i} and {j} ({length:.2f} A)")
    energy, forces = single_point(atoms.calc, atoms)
    return _Molecule(text, atoms.numbers.astype(np.int64), atoms.positions.copy(), energy, forces, bonds)


def _read_molecule(file: Path, text: str) -> _Molecule | None:
    try:
        with np.load(file, allow_pickle=False) as data:
            return _Molecule(
                smiles=text,
                numbers=data["numbers"],
                positions=data["positions"],
                energy=float(data["energy"]),
                forces=data["forces"],
                bonds=tuple((int(i), int(j)) for i, j in data["bonds"]),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _candidates(
    molecules: Sequence[_Molecule], settings: BuildSettings, wanted: Sequence[str]
) -> tuple[list[_Task], list[BondRecord]]:
    """Steps 1 to 3: the bonds to scan, and the records of those that are not."""
    tasks: list[_Task] = []
    records: list[BondRecord] = []
    for molecule in molecules:
        bridges, excluded = bridge_bonds(len(molecule.numbers), molecule.bonds)
        for atoms, reason in excluded.items():
            record = _record(molecule, atoms, settings)
            # Bonds to hydrogen are of no type that anyone asks for; they would drown the rest.
            if not wanted or record.bond in wanted:
                records.append(replace(record, status="excluded", reason=reason))
        for bridge in bridges:
            record = _record(molecule, bridge.atoms, settings)
            if wanted and record.bond not in wanted:
                records.append(replace(record, status="excluded", reason=f"bond type {record.bond} was not asked for"))
                continue
            lengths = scan_lengths(molecule.numbers, bridge.atoms, settings.frames)
            positions = displace(molecule.positions, bridge.atoms, bridge.labels, lengths)
            ratio, frame, (i, j) = closest_approach(molecule.numbers, positions, bridge.atoms)
            record = replace(record, closest=ratio)
            if ratio < OVERLAP:
                reason = (
                    f"atoms {i} and {j} come as close as {ratio:.3f} of their covalent sum (limit {OVERLAP}) "
                    f"at bond length {lengths[frame]:.2f} A"
                )
                records.append(replace(record, status="excluded", reason=reason))
            else:
                tasks.append(_Task(molecule, bridge, record))
    return tasks, records


def _record(molecule: _Molecule, atoms: tuple[int, int], settings: BuildSettings) -> BondRecord:
    i, j = atoms
    formula = Symbols(molecule.numbers).get_chemical_formula()
    return BondRecord(
        smiles=molecule.smiles,
        bond=bond_type(molecule.numbers[i], molecule.numbers[j]),
        atoms=(int(i), int(j)),
        id=f"{formula}-{i}-{j}-{_molecule_hash(molecule.smiles, settings.seed)}",
        status="",
    )


def _sample(tasks: list[_Task], per_bond: int | None, seed: int) -> tuple[list[_Task], list[BondRecord]]:
    """Step 4: at most ``per_bond`` of each bond type."""
    if per_bond is None:
        return tasks, []
    by_bond: dict[str, list[_Task]] = defaultdict(list)
    for task in tasks:
        by_bond[task.record.bond].append(task)
    kept: list[_Task] = []
    dropped: list[BondRecord] = []
    for bond, group in sorted(by_bond.items()):
        # One stream per bond type: adding a type does not change the choice in the others.
        rng = np.random.default_rng([seed, *bond.encode()])
        chosen = set(rng.permutation(len(group))[:per_bond].tolist())
        kept += [task for k, task in enumerate(group) if k in chosen]
        reason = f"{per_bond} of {len(group)} {bond} bonds were chosen"
        dropped += [
            replace(task.record, status="not sampled", reason=reason) for k, task in enumerate(group) if k not in chosen
        ]
    return kept, dropped


def _scan_all(
    tasks: Sequence[_Task],
    settings: BuildSettings,
    parts: Path,
    workers: int | None,
    on_start: Callable[[str, int], None] | None,
    on_done: Callable[[str], None] | None,
) -> tuple[list[Scan], list[BondRecord], int]:
    files = [parts / f"scan-{task.record.bond}-{task.record.id}.h5" for task in tasks]
    todo = [number for number, file in enumerate(files) if _read_scan(file) is None]
    found = _parallel(
        _scan_task, [(tasks[number], settings, files[number]) for number in todo], "scan", workers, on_start, on_done
    )
    failures = {todo[number]: reason for number, reason in found.items()}
    scans: list[Scan] = []
    records: list[BondRecord] = []
    for number, (task, file) in enumerate(zip(tasks, files, strict=True)):
        scan = None if number in failures else _read_scan(file)
        if scan is None:
            records.append(replace(task.record, status="failed", reason=failures.get(number, "the worker was lost")))
            continue
        errors, limits = continuity_errors(scan), continuity_tolerance(scan)
        record = replace(task.record, continuity=float(errors.max()), failed_frames=scan.num_dropped)
        worst = int(np.argmax(errors / limits))
        if errors[worst] > limits[worst]:
            reason = (
                f"the reference is discontinuous: energies and forces differ by {errors[worst]:.3f} eV (limit "
                f"{limits[worst]:.3f}) after bond length {scan.bond_length[worst]:.3f} A"
            )
            records.append(replace(record, status="excluded", reason=reason))
            continue
        records.append(replace(record, status="scanned"))
        scans.append(scan)
    return scans, records, len(tasks) - len(todo)


def _scan_task(task: _Task, settings: BuildSettings, file: Path) -> None:
    molecule = task.molecule
    scan = scan_molecule_bond(
        molecule.numbers,
        molecule.positions,
        task.bridge,
        settings,
        id=task.record.id,
        smiles=molecule.smiles,
        energy0=molecule.energy,
        forces0=molecule.forces,
    )
    write_scans(file, [scan], {})


def _read_scan(file: Path) -> Scan | None:
    from mindscaip.bsct.dataset import open_scans

    try:
        scans = open_scans(file)
        return scans.load(scans.keys[0])
    except MindscaipError:
        return None


def _guarded(function: Callable[..., None], number: int, arguments: tuple[Any, ...]) -> tuple[int, str | None]:
    """Run one task; a failure comes back as its reason, so that the others go on."""
    try:
        function(*arguments)
    except MindscaipError as error:
        return number, str(error)
    return number, None


def _parallel(
    function: Callable[..., None],
    tasks: Sequence[tuple[Any, ...]],
    stage: str,
    workers: int | None,
    on_start: Callable[[str, int], None] | None,
    on_done: Callable[[str], None] | None,
) -> dict[int, str]:
    """Run ``function`` on every task in worker processes; return number and reason of those that failed."""
    if on_start is not None:
        on_start(stage, len(tasks))
    failed: dict[int, str] = {}
    for number, reason in _results(function, tasks, min(workers or _cores(), len(tasks))):
        if reason is not None:
            failed[number] = reason
        if on_done is not None:
            on_done(stage)
    return dict(sorted(failed.items()))


def _results(
    function: Callable[..., None], tasks: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[int, str | None]]:
    """Number and outcome of each task as it ends; one worker is this process itself."""
    if workers <= 1:
        for number, task in enumerate(tasks):
            yield _guarded(function, number, task)
        return
    from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    pool = ProcessPoolExecutor(max_workers=workers, initializer=_ignore_interrupts, env=one_thread)
    finished = False
    try:
        futures = [pool.submit(_guarded, function, number, task) for number, task in enumerate(tasks)]
        for future in as_completed(futures):
            yield future.result()
        finished = True
    except BrokenProcessPool:
        raise MindscaipError(
            "a worker process died, perhaps for want of memory; run the same command again, with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=finished, kill_workers=not finished)


def _ignore_interrupts() -> None:
    """In a worker: Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _checked_bond(bond: str) -> str:
    symbols = bond.split("-")
    if len(symbols) != 2 or not all(symbol in atomic_numbers and symbol != "X" for symbol in symbols):
        raise MindscaipError(f"{bond!r} is not a bond type; write two elements such as C-O")
    return bond_type(*(atomic_numbers[symbol] for symbol in symbols))


def _molecule_hash(smiles: str, seed: int) -> str:
    return hashlib.sha256(f"{smiles} {seed}".encode()).hexdigest()[:8]


def _provenance(settings: BuildSettings) -> dict[str, str]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "level_of_theory": settings.reference,
        "source": f"mindscaip {__version__}",
        "command": command,
        "covalent_radii": "ase.data.covalent_radii (Cordero et al. 2008)",
    }
