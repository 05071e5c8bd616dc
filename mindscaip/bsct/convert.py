"""Bond scans from one layout to the other: the folder that users download, and the packed HDF5.

Nothing that a score depends on changes by more than 1e-9 (A, eV, eV/A). What the other layout has no place for is
lost and said so in the docs: the forces of frames without a reference are zero in a folder and NaN in a packed file.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from mindscaip import __version__
from mindscaip.bsct.dataset import (
    HDF5_SUFFIXES,
    PROVENANCE,
    STRAIGHT_TOLERANCE,
    Scan,
    ScanError,
    all_frames,
    folder_keys,
    open_scans,
    write_scans,
)
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

LOSSLESS = 1e-9
"""A; frames this close to a straight line are kept as its two ends, others one by one."""
DECIMALS = 10
"""Of positions and forces in a folder."""


@dataclass(frozen=True)
class ConvertResult:
    """What became of the scans.

    Attributes:
        num_scans: scans in the output, with those of an earlier, interrupted conversion.
        resumed: how many were there already.
        skipped: key and reason of scans that could not be read or written.
    """

    num_scans: int
    resumed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def convert_scans(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    compact: bool = False,
    overwrite: bool = False,
    on_scan: Callable[[str], None] | None = None,
) -> ConvertResult:
    """Write the scans of ``source`` in the layout that ``target`` names: packed if it ends in .h5, else a folder.

    Args:
        compact: in a packed file, keep frames within 1e-7 A of a straight line as its two ends (a tenth of the size
            for published scans, whose positions are rounded to 1e-8 A).
        overwrite: replace a packed file, or every scan in a folder, that is there.
        on_scan: called with the key after each scan.

    Raises:
        MindscaipError: nothing to read, an output that is there already, no scan that can be converted.
    """
    target = Path(target)
    scans = open_scans(source)
    packed = target.suffix.lower() in HDF5_SUFFIXES
    inputs = {Path(source).resolve(), Path(getattr(scans, "root", source)).resolve()}
    if target.exists() and target.resolve() in inputs:
        raise MindscaipError(f"{target} is both input and output; give another output")
    provenance = {
        **scans.provenance,
        "converted_by": f"mindscaip {__version__}",
        "converted_from": Path(source).name,
        "converted_fingerprint": scans.fingerprint(),
    }
    skipped: list[tuple[str, str]] = []

    def readable() -> Iterator[Scan]:
        for key in scans.keys:
            try:
                scan = scans.load(key)
            except ScanError as error:
                skipped.append((key, str(error)))
            else:
                yield scan
            if on_scan is not None:
                on_scan(key)

    if packed:
        if target.exists() and not overwrite:
            raise MindscaipError(f"{target} exists; give another name, or --overwrite to replace it")
        tolerance = STRAIGHT_TOLERANCE if compact else LOSSLESS
        return ConvertResult(write_scans(target, readable(), provenance, straight=tolerance), 0, skipped)
    return _to_folder(target, readable(), provenance, overwrite, skipped)


def _to_folder(
    target: Path,
    readable: Iterator[Scan],
    provenance: dict[str, str],
    overwrite: bool,
    skipped: list[tuple[str, str]],
) -> ConvertResult:
    marker = target / PROVENANCE
    record = json.dumps(provenance, indent=1, sort_keys=True) + "\n"
    if target.exists() and not target.is_dir():
        raise MindscaipError(f"{target} is a file; end the name in .h5 for a packed file, or give a folder")
    if target.exists() and any(target.iterdir()):
        same = marker.is_file() and marker.read_text() == record
        if overwrite:
            marker.unlink(missing_ok=True)  # first, so that a kill leaves nothing that would pass for this set
            for key in folder_keys(target):
                shutil.rmtree(target / key)
        elif not same:
            raise MindscaipError(f"{target} exists and holds something else; give another folder, or --overwrite")
    with atomic_path(marker) as temporary:
        temporary.write_text(record)
    count = resumed = 0
    for scan in readable:
        if (target / scan.key).is_dir():
            resumed += 1
        else:
            write_scan_folder(target, scan)
        count += 1
    if count == 0:
        reason = f"; the first, {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise MindscaipError(f"{target}: there is no scan to write{reason}")
    return ConvertResult(count, resumed, skipped)


def write_scan_folder(root: Path, scan: Scan) -> Path:
    """Write one scan as ``<root>/<bond>/<id>/`` with ``atoms_<k>.xyz``, ``unperturbed.xyz`` and ``partition.npz``.

    ``partition.npz`` holds the bond length of every frame beside the two ends that the published layout states.
    """
    frames = all_frames(scan)
    folder = root / scan.bond / scan.id
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{scan.id}.") as name:
        inside = Path(name) / scan.id
        inside.mkdir()
        for k, energy in enumerate(frames.energy):
            forces = np.zeros_like(frames.forces[k]) if np.isnan(energy) else frames.forces[k]
            (inside / f"atoms_{k}.xyz").write_text(_xyz(scan, frames.positions[k], float(energy), forces))
        if scan.positions0 is not None:
            energy0 = np.nan if scan.energy0 is None else scan.energy0
            forces0 = np.zeros_like(scan.positions0) if scan.forces0 is None else scan.forces0
            (inside / "unperturbed.xyz").write_text(_xyz(scan, scan.positions0, energy0, forces0))
        first, second = scan.bond_index
        axis = scan.positions[0][second] - scan.positions[0][first]
        np.savez(
            inside / "partition.npz",
            bond=np.array(scan.bond),
            bond_index=np.array(scan.bond_index, dtype=np.int64),
            labels=scan.fragment_labels.astype(np.int32),
            perturb_range=np.array([frames.bond_length[0], frames.bond_length[-1], len(frames.energy)]),
            unit_vec=axis / np.linalg.norm(axis),
            bond_length=frames.bond_length,
        )
        os.replace(inside, folder)
    return folder


def _xyz(scan: Scan, positions: np.ndarray, energy: float, forces: np.ndarray) -> str:
    smiles = scan.smiles.replace('"', "")
    subset = scan.subset.replace('"', "")
    comment = (
        f"Properties=species:S:1:pos:R:3:forces:R:3 id={scan.id} bond={scan.bond} "
        f'smiles="{smiles}" dataset="{subset}" energy={float(energy)!r} pbc="F F F"'
    )
    rows = [
        f"{chemical_symbols[z]:<2}" + "".join(f" {x:{DECIMALS + 7}.{DECIMALS}f}" for x in (*position, *force))
        for z, position, force in zip(scan.numbers, positions, forces, strict=True)
    ]
    return "\n".join([str(len(rows)), comment, *rows]) + "\n"
