"""Build bond scans of any molecule by the paper's Appendix A, each step on record.

1. *Bridge bonds* (:mod:`~mindscaip.bsct.bridges`): bonds that split the molecule into two fragments, neither of them a
   single atom.
2. *Frames* (:mod:`~mindscaip.bsct.geometry`): both fragments move rigidly along the bond
   (:func:`~mindscaip.bsct.dataset.displace`); the bond length runs evenly from 0.5 to 2.0 times the sum of the two
   covalent radii.
3. *Overlap*: a bond is left out when, in any frame, any pair of atoms other than the bonded one comes closer than 0.9
   times the sum of its covalent radii. All published scans keep this rule (the closest pair stands at 0.90003). The
   other bonds of the molecule count, so that double bonds exclude; ``overlap="nonbonded"`` leaves them out.
4. *Sampling*: bonds of the types asked for, at most so many of each type, chosen with a seed.
5. *Reference* (:mod:`~mindscaip.bsct.frames`): energy and forces of every frame, from the frame nearest to the
   unperturbed bond length outwards.
6. *Continuity* (:mod:`~mindscaip.bsct.continuity`): a scan is left out when energies and forces of the reference
   contradict each other by more than a tolerance between two neighbouring frames: the self-consistent solution has
   jumped from one state to another. Where the grid is too coarse to tell, the record says ``unchecked``.

Relaxed molecules and finished frames are saved in ``<output>.parts`` while a build runs; a killed build goes on there.
The folder stays when a molecule or bond is left unfinished (its worker was lost, could not make the calculator, or
found a damaged log) and when it holds what another command began. It is removed when every frame of every bond has an
answer or a reason why there is none.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mindscaip import __version__
from mindscaip.bsct import bridges, geometry, records, relax
from mindscaip.bsct.bridges import checked_bond
from mindscaip.bsct.collect import frame_log, scan_all
from mindscaip.bsct.continuity import CONTINUITY_TOLERANCE, RESOLVED_WIDTH
from mindscaip.bsct.dataset import HDF5_SUFFIXES, MIN_FRAMES, write_scans
from mindscaip.bsct.inputs import read_sources
from mindscaip.bsct.parallel import Progress
from mindscaip.bsct.records import (
    PUBLISHED_BONDS,
    UNRELAXED,
    WITH_REFERENCE,
    BondRecord,
    BuildResult,
    BuildSettings,
    count_bonds,
)
from mindscaip.bsct.relax import Molecule, relax_all, relaxed_file
from mindscaip.bsct.select import candidates, sample
from mindscaip.data.calculators import describe_calculator, resolve_calculator
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

SHOWN_REASONS = 5


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
    molecules, unrelaxed = relax_all(sources, settings, parts, where, progress)
    failed += [(name, failure.reason) for name, failure in unrelaxed]
    jobs, found = candidates(molecules, settings, wanted)
    jobs, dropped = sample(jobs, per_bond, settings.seed)
    scans, done, resumed = scan_all(jobs, settings, parts, where, progress)
    order = {source.name: number for number, source in enumerate(sources)}
    bond_records = sorted([*found, *dropped, *done], key=lambda record: (order[record.molecule], record.atoms))

    _write_report(output.with_suffix(".json"), settings, wanted, per_bond, molecules, bond_records, failed)
    scans.sort(key=lambda scan: scan.key)
    count = write_scans(output, scans, _provenance(settings)) if scans else 0
    mine = {relaxed_file(parts, source, settings) for source in sources} | {frame_log(parts, job) for job in jobs}
    unfinished = any(r.unfinished for r in bond_records) or not all(failure.final for _, failure in unrelaxed)
    why_kept = _why_kept(parts, mine, unfinished, "the same command" + (" with --overwrite" if scans else ""))
    if not why_kept:
        shutil.rmtree(parts)
    if not scans:
        reasons = [*_left_out(bond_records, wanted), *(f"{name}: {reason}" for name, reason in failed)]
        sentences = ["no bond could be scanned", _join(reasons), *why_kept]
        raise MindscaipError("; ".join(filter(None, sentences)))
    frames = sum(len(scan) for scan in scans)
    kept = parts if why_kept else None
    return BuildResult(count, len(molecules), bond_records, failed, resumed, frames, kept, why_kept)


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


# --- the work folder and the record -----------------------------------------------------------------------------------


def _claim(output: Path, settings: BuildSettings) -> Path:
    """The work folder of this build, new or left by one with the same settings."""
    parts = output.with_name(output.name + ".parts")
    marker = parts / "settings.json"
    mine = {**asdict(settings), "mindscaip_version": __version__}
    if marker.exists():
        try:
            # Work folders from before there was a choice have the published rule.
            before = {"overlap": records.ALL_PAIRS, **json.loads(marker.read_text())}
        except (ValueError, TypeError):
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


def _why_kept(parts: Path, mine: Collection[Path], unfinished: bool, again: str) -> list[str]:
    """What in the work folder is still of use, as sentences; none where it can go.

    Args:
        mine: files that this build reads and writes there.
        again: the command that goes on with them.
    """
    found = [f"what is finished is kept in {parts}, and {again} goes on there"] if unfinished else []
    others = sum(path not in mine for path in (*parts.glob("molecules/*.npz"), *parts.glob("frames/*/*.jsonl")))
    if others:
        found.append(
            f"the folder {parts} stays, since it holds {others} molecules or bonds that another command began; give "
            "that command again to go on with them, or remove the folder"
        )
    return found


def _left_out(bond_records: Sequence[BondRecord], wanted: Sequence[str]) -> list[str]:
    """Why no bond was scanned: what the user can act on comes first."""
    asked = [record for record in bond_records if not wanted or record.bond in wanted]
    if bond_records and not asked:
        present = ", ".join(sorted({record.bond for record in bond_records}))
        return [f"the molecules have no {' or '.join(wanted)} bond, but {present}"]
    # Unfinished bonds, then those that a rule with a limit decided.
    asked.sort(key=lambda r: (not r.unfinished, r.rule in (bridges.RING, bridges.SINGLE_ATOM)))
    return [f"{r.molecule} {r.bond}: {r.reason}" for r in asked]


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
            "overlap (covalent sums)": geometry.OVERLAP,
            "smallest fragment (atoms)": bridges.MIN_FRAGMENT,
            "bonds perceived below (covalent sums)": bridges.PERCEIVED,
            "relaxed to (eV/A)": relax.RELAX_FMAX,
            "broken in relaxation above (covalent sums)": relax.STRETCHED,
            "continuity (eV per published step)": CONTINUITY_TOLERANCE,
            "continuity resolved up to (published steps)": RESOLVED_WIDTH,
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
