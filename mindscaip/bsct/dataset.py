"""Bond scans: what one is, the two layouts they are read from, and the packed HDF5 they are written to.

A *scan* displaces the two fragments of a molecule rigidly along one bond. Two layouts are read:

Packed HDF5
    one group ``<bond>/<id>`` per scan: ``numbers``, ``positions_first`` and ``positions_last`` (A; frame ``k`` of ``K``
    is ``first + k / (K - 1) * (last - first)``) or, for frames off a straight line, ``positions`` ``[K, n, 3]``;
    ``bond_length`` (A), ``energy`` (eV, total), ``forces`` (eV/A), ``bond_index``, ``fragment_labels``, optionally
    ``positions0`` and ``forces0`` (unperturbed), attributes ``smiles``, ``dataset``, ``e0`` (eV, unperturbed).
Folder
    ``<bond>/<id>/atoms_<k>.xyz`` (extended XYZ with ``energy`` and ``forces``), ``unperturbed.xyz`` and
    ``partition.npz`` (``bond_index``, ``labels``, ``perturb_range`` = [L_min, L_max, K], optionally ``bond_length``
    where lengths are not even to the last digit); the folder that holds the bonds or its parent may be given.

Reading is lazy: a scan is read when it is asked for, so that one damaged scan does not spoil the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from ase.data import atomic_numbers

from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

MIN_FRAMES = 10
"""A scan with fewer valid frames is not scored."""
BOND_LENGTH_TOLERANCE = 1e-4
"""A; how far the stated bond length may stand from that of the geometry (files round positions to 1e-8 A)."""
STRAIGHT_TOLERANCE = 1e-7
"""A; frames this close to a straight line are written as their two ends."""
HDF5_SUFFIXES = (".h5", ".hdf5")
UPSTREAM_FOLDER = "bsct_spice"
PROVENANCE = "provenance.json"
"""In a folder of scans: what a packed file holds in its attributes (optional)."""
_BOND = re.compile(r"[A-Z][a-z]?-[A-Z][a-z]?")
_ENERGY = re.compile(r"(?:^|\s)energy=(\S+)")
_INFO = {name: re.compile(rf'(?:^|\s){name}=(?:"([^"]*)"|(\S+))') for name in ("smiles", "dataset")}
_XYZ_PROPERTIES = "Properties=species:S:1:pos:R:3:forces:R:3"


class ScanError(MindscaipError):
    """A fault of one scan: it is skipped with this reason, and the rest of the data set goes on."""


@dataclass(frozen=True)
class Scan:
    """One bond scan with its reference labels; ``K`` valid frames of ``n`` atoms.

    Attributes:
        bond: bond type, the two symbols in alphabetical order, such as ``"C-O"``.
        id: name of the scan among those of its bond type.
        numbers: atomic numbers, int64 ``[n]``.
        positions: A, float64 ``[K, n, 3]``.
        bond_length: A, float64 ``[K]``, increasing.
        energy: reference total energy in eV, float64 ``[K]``, finite.
        forces: reference forces in eV/A, float64 ``[K, n, 3]``, finite.
        bond_index: the two bonded atoms.
        fragment_labels: 0 or 1 per atom, int64 ``[n]``; the bonded atoms have different labels.
        smiles: the molecule, or an empty string.
        subset: where the molecule comes from, or an empty string.
        frame_index: number of each frame in the source, int64 ``[K]``.
        num_dropped: frames of the source left out because their reference is not finite.
        dropped_positions: their geometries in A, float64 ``[num_dropped, n, 3]``, or None where nobody knows them.
        dropped_bond_length: their bond lengths in A, float64 ``[num_dropped]``, or None.
        positions0: the unperturbed geometry in A, float64 ``[n, 3]``, or None.
        energy0: its reference energy in eV, or None.
        forces0: its reference forces in eV/A, float64 ``[n, 3]``, or None.
        notes: remarks of the maker of the scan, such as the reason why a frame is missing (frame number to sentence).
    """

    bond: str
    id: str
    numbers: np.ndarray
    positions: np.ndarray
    bond_length: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    bond_index: tuple[int, int]
    fragment_labels: np.ndarray
    smiles: str = ""
    subset: str = ""
    frame_index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    num_dropped: int = 0
    dropped_positions: np.ndarray | None = None
    dropped_bond_length: np.ndarray | None = None
    positions0: np.ndarray | None = None
    energy0: float | None = None
    forces0: np.ndarray | None = None
    notes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def key(self) -> str:
        """``<bond>/<id>``, the name of the scan in its data set."""
        return f"{self.bond}/{self.id}"

    def __len__(self) -> int:
        return len(self.energy)

    def fingerprint(self) -> str:
        """SHA-256 of everything that a score depends on: atoms, frames and reference."""
        digest = hashlib.sha256()
        for array in (self.numbers, self.positions, self.bond_length, self.energy, self.forces):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def make_scan(
    *,
    bond: str,
    id: str,
    numbers: np.ndarray,
    positions: np.ndarray,
    bond_length: np.ndarray,
    energy: np.ndarray,
    forces: np.ndarray,
    bond_index: Iterable[int],
    fragment_labels: np.ndarray,
    source: str,
    min_frames: int = MIN_FRAMES,
    **more: Any,
) -> Scan:
    """Check the arrays of one scan (all frames, also those without a reference), drop the frames without one.

    Args:
        source: names the scan in errors.
        min_frames: refuse a scan with fewer valid frames.
        more: further attributes of :class:`Scan`.

    Raises:
        ScanError: shapes that do not fit together, an unknown element, bond lengths that are not those of the
            geometry or do not increase, too few valid frames.
    """
    numbers = np.asarray(numbers, dtype=np.int64).reshape(-1)
    positions = np.asarray(positions, dtype=np.float64)
    bond_length = np.asarray(bond_length, dtype=np.float64)
    energy = np.asarray(energy, dtype=np.float64)
    forces = np.asarray(forces, dtype=np.float64)
    labels = np.asarray(fragment_labels, dtype=np.int64).reshape(-1)
    ends = tuple(int(i) for i in bond_index)
    frames, atoms = len(energy), len(numbers)

    for name, array, shape in (
        ("positions", positions, (frames, atoms, 3)),
        ("bond_length", bond_length, (frames,)),
        ("forces", forces, (frames, atoms, 3)),
        ("fragment_labels", labels, (atoms,)),
    ):
        if array.shape != shape:
            raise ScanError(f"{source}: {name} has shape {array.shape}, expected {shape}; the scan is damaged")
    if ((numbers < 1) | (numbers > 118)).any():
        raise ScanError(f"{source}: an atomic number is not an element; the scan is damaged")
    if len(ends) != 2 or ends[0] == ends[1] or not all(0 <= i < atoms for i in ends):
        raise ScanError(f"{source}: bond_index {ends} does not name two of its {atoms} atoms")
    if set(labels.tolist()) != {0, 1} or labels[ends[0]] == labels[ends[1]]:
        raise ScanError(f"{source}: fragment_labels do not put the bonded atoms {ends} on different sides (0 and 1)")
    if not np.isfinite(positions).all():
        raise ScanError(f"{source}: a position is not finite; the scan is damaged")
    measured = np.linalg.norm(positions[:, ends[1]] - positions[:, ends[0]], axis=1)
    worst = int(np.argmax(np.abs(measured - bond_length))) if frames else 0
    if frames and not abs(measured[worst] - bond_length[worst]) <= BOND_LENGTH_TOLERANCE:
        raise ScanError(
            f"{source}: frame {worst} has bond length {measured[worst]:.4f} A in its geometry but "
            f"{bond_length[worst]:.4f} A stated; the scan is damaged"
        )
    if (np.diff(bond_length) <= 0).any():
        raise ScanError(f"{source}: bond lengths do not increase from frame to frame")

    valid = np.isfinite(energy) & np.isfinite(forces).all(axis=(1, 2))
    if valid.sum() < min_frames:
        raise ScanError(
            f"{source}: {int(valid.sum())} of {frames} frames have a finite reference; {min_frames} are needed"
        )
    kept = np.flatnonzero(valid)
    return Scan(
        bond=bond,
        id=id,
        numbers=numbers,
        positions=positions[kept],
        bond_length=bond_length[kept],
        energy=energy[kept],
        forces=forces[kept],
        bond_index=(ends[0], ends[1]),
        fragment_labels=labels,
        frame_index=kept,
        num_dropped=frames - len(kept),
        dropped_positions=positions[~valid],
        dropped_bond_length=bond_length[~valid],
        **more,
    )


def displace(
    positions0: np.ndarray, bond_index: tuple[int, int], fragment_labels: np.ndarray, bond_length: np.ndarray
) -> np.ndarray:
    """Move the two fragments rigidly apart along the bond (the paper's Eq. 1), half of the change each.

    ``x_i(L) = x_i + (L - L0) / 2 * h_i * u`` with ``u`` the unit vector from the first to the second bonded atom,
    ``h = +1`` on the second one's side and -1 on the first one's; the paper's ``alpha`` is ``(L - L0) / 2``.

    Args:
        positions0: the unperturbed geometry in A, ``[n, 3]``.
        bond_length: the lengths asked for in A, ``[K]``.

    Returns:
        positions in A, ``[K, n, 3]``.
    """
    first, second = bond_index
    axis = positions0[second] - positions0[first]
    length0 = np.linalg.norm(axis)
    sides = np.where(fragment_labels == fragment_labels[second], 1.0, -1.0)
    alpha = (np.asarray(bond_length, dtype=np.float64) - length0) / 2
    return positions0 + alpha[:, None, None] * sides[:, None] * (axis / length0)


class ScanSet:
    """A data set of scans: the keys are known, each scan is read when it is asked for.

    Attributes:
        path: file or folder as opened.
        keys: ``<bond>/<id>`` of every scan, sorted by bond, then by id (numbers as numbers).
        provenance: what the file says of its reference and origin (empty for folders).
    """

    def __init__(self, path: Path, keys: Iterable[str], provenance: Mapping[str, Any]) -> None:
        self.path = path
        self.keys = tuple(sorted(keys, key=_natural))
        self.provenance = dict(provenance)

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, key: str) -> Scan:
        """Read one scan.

        Raises:
            ScanError: the scan is incomplete or damaged.
        """
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes with the content of the data set (cheap: contents for a file, names and sizes for a folder)."""
        raise NotImplementedError


def open_scans(path: str | os.PathLike) -> ScanSet:
    """Open a packed HDF5 file or a folder of scans (the folder of bond types or its parent).

    Raises:
        MindscaipError: nothing there, a truncated or foreign file, a folder without scans.
    """
    path = Path(path)
    if path.is_dir():
        return _FolderSet(path)
    if not path.exists():
        raise MindscaipError(f"{path}: no such file or folder; give a packed HDF5 of scans or a folder <bond>/<id>/...")
    return _PackedSet(path)


def read_scans(path: str | os.PathLike, on_skip: Callable[[str, str], None] | None = None) -> Iterator[Scan]:
    """Read the scans of ``path`` one by one.

    Args:
        on_skip: called with key and reason of a scan that cannot be used; without it the first such scan raises.

    Raises:
        MindscaipError: as :func:`open_scans`.
        ScanError: a scan cannot be used and there is no ``on_skip``.
    """
    scans = open_scans(path)
    for key in scans.keys:
        try:
            scan = scans.load(key)
        except ScanError as error:
            if on_skip is None:
                raise
            on_skip(key, str(error))
            continue
        yield scan


@dataclass(frozen=True)
class AllFrames:
    """Every frame of a scan's grid, those without a reference with NaN labels: the fields of :class:`Scan`."""

    positions: np.ndarray
    bond_length: np.ndarray
    energy: np.ndarray
    forces: np.ndarray


def all_frames(scan: Scan) -> AllFrames:
    """Put the dropped frames back, their labels NaN: where they were, or, where nobody knows, between their neighbours.

    An unknown frame stands on the straight line between the valid frames next to it, and before the first or after the
    last valid one on the line through the nearest two; its bond length is that of its geometry.
    """
    total = len(scan) + scan.num_dropped
    index = scan.frame_index if len(scan.frame_index) else np.arange(len(scan))
    dropped = np.setdiff1d(np.arange(total), index)
    positions = np.empty((total, *scan.positions.shape[1:]))
    lengths = np.empty(total)
    positions[index], lengths[index] = scan.positions, scan.bond_length
    known = scan.dropped_positions is not None and len(scan.dropped_positions) == len(dropped)
    if known and scan.dropped_bond_length is not None:
        positions[dropped], lengths[dropped] = scan.dropped_positions, scan.dropped_bond_length
    else:
        left = np.clip(np.searchsorted(index, dropped) - 1, 0, len(index) - 2)
        share = (dropped - index[left]) / (index[left + 1] - index[left])
        step = scan.positions[left + 1] - scan.positions[left]
        positions[dropped] = scan.positions[left] + share[:, None, None] * step
        first, second = scan.bond_index
        lengths[dropped] = np.linalg.norm(positions[dropped, second] - positions[dropped, first], axis=1)
    energy = np.full(total, np.nan)
    energy[index] = scan.energy
    forces = np.full((total, len(scan.numbers), 3), np.nan)
    forces[index] = scan.forces
    return AllFrames(positions, lengths, energy, forces)


def write_scans(
    path: str | os.PathLike,
    scans: Iterable[Scan],
    provenance: Mapping[str, str | float],
    *,
    straight: float = STRAIGHT_TOLERANCE,
) -> int:
    """Write the packed HDF5 in one step and return the number of scans.

    Dropped frames come back as NaN, so that a file read and written again keeps its grid. ``provenance`` (level of
    theory, program, command, licence) goes into the attributes of the file.

    Args:
        straight: frames within so many A of a straight line are written as its two ends.

    Raises:
        MindscaipError: no scan at all, or two of one name.
    """
    path = Path(path)
    if path.suffix.lower() not in HDF5_SUFFIXES:
        raise MindscaipError(f"{path}: packed scans are HDF5; let the name end in .h5")
    count = 0
    with atomic_path(path) as target:
        with h5py.File(target, "w") as file:
            for name, value in {"units": "Angstrom, eV (total), eV/Angstrom", **provenance}.items():
                file.attrs[name] = value
            for scan in scans:
                if scan.key in file:
                    raise MindscaipError(f"{path}: two scans are named {scan.key!r}; give each its own id")
                _write_packed(file.create_group(scan.key), scan, straight)
                count += 1
        if count == 0:
            raise MindscaipError(f"{path}: there is no scan to write")
    return count


def _write_packed(group: h5py.Group, scan: Scan, straight: float) -> None:
    frames = all_frames(scan)
    total = len(frames.energy)
    first, last = frames.positions[0], frames.positions[-1]
    line = first + (np.arange(total) / (total - 1))[:, None, None] * (last - first)

    group["numbers"] = scan.numbers.astype(np.uint8)
    group["bond_index"] = np.array(scan.bond_index, dtype=np.int16)
    group["fragment_labels"] = scan.fragment_labels.astype(np.uint8)
    group["bond_length"] = frames.bond_length
    if np.abs(line - frames.positions).max() <= straight:
        group["positions_first"], group["positions_last"] = first, last
    else:
        _compressed(group, "positions", frames.positions)
    group["energy"] = frames.energy
    _compressed(group, "forces", frames.forces)
    if scan.positions0 is not None:
        group["positions0"] = scan.positions0
    if scan.forces0 is not None:
        group["forces0"] = scan.forces0
    if scan.energy0 is not None:
        group.attrs["e0"] = scan.energy0
    group.attrs["smiles"] = scan.smiles
    group.attrs["dataset"] = scan.subset
    if scan.notes:
        group.attrs["notes"] = json.dumps(dict(scan.notes))


def _compressed(group: h5py.Group, name: str, array: np.ndarray) -> None:
    group.create_dataset(name, data=array, compression="gzip", compression_opts=9, shuffle=True)


class _PackedSet(ScanSet):
    def __init__(self, path: Path) -> None:
        try:
            with h5py.File(path, "r") as file:
                keys = [
                    f"{bond}/{scan}"
                    for bond, group in file.items()
                    if isinstance(group, h5py.Group) and _BOND.fullmatch(bond)
                    for scan in group
                ]
                provenance = {name: value for name, value in file.attrs.items() if isinstance(value, str)}
        except (OSError, RuntimeError, KeyError):
            raise MindscaipError(
                f"{path}: not a whole HDF5 file (truncated, damaged or of another kind); copy or download it again"
            ) from None
        if not keys:
            raise MindscaipError(f"{path}: it holds no scans; a data set of scans has groups such as 'C-C/12345'")
        super().__init__(path, keys, provenance)

    def load(self, key: str) -> Scan:
        source = f"scan {key} of {self.path}"
        bond, _, name = key.partition("/")
        try:
            with h5py.File(self.path, "r") as file:
                if key not in file:
                    raise ScanError(f"{source}: there is no such scan")
                group = file[key]
                arrays = {
                    k: group[k][()]
                    for k in ("numbers", "bond_length", "energy", "forces", "bond_index", "fragment_labels")
                }
                frames = len(arrays["bond_length"])
                if "positions" in group:
                    arrays["positions"] = group["positions"][()]
                else:
                    first, last = group["positions_first"][()], group["positions_last"][()]
                    steps = np.arange(frames) / max(frames - 1, 1)
                    arrays["positions"] = first + steps[:, None, None] * (last - first)
                optional = {k: group[k][()].astype(np.float64) for k in ("positions0", "forces0") if k in group}
                attributes = dict(group.attrs)
        except KeyError as error:
            missing = re.findall(r"'([^']+)'", str(error))
            raise ScanError(
                f"{source}: {missing[0] if missing else 'an array'!r} is missing; the scan is incomplete"
            ) from None
        except (OSError, RuntimeError, ValueError):
            raise ScanError(
                f"{source}: it cannot be read (truncated or damaged); copy or download the file again"
            ) from None
        return make_scan(
            bond=bond,
            id=name,
            source=source,
            smiles=str(attributes.get("smiles", "")),
            subset=str(attributes.get("dataset", "")),
            energy0=float(attributes["e0"]) if "e0" in attributes else None,
            notes=MappingProxyType(json.loads(str(attributes.get("notes", "{}")))),
            **optional,
            **arrays,
        )

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        return digest.hexdigest()


class _FolderSet(ScanSet):
    def __init__(self, path: Path) -> None:
        root = path
        keys = folder_keys(root)
        if not keys:
            # The folder that was unpacked: its name first, then any other that holds scans.
            below = sorted((p for p in path.iterdir() if p.is_dir()), key=lambda p: (p.name != UPSTREAM_FOLDER, p.name))
            root = next((p for p in below if folder_keys(p)), path)
            keys = folder_keys(root)
        if not keys:
            raise MindscaipError(
                f"{path}: there are no scans in it; a folder of scans holds <bond>/<id>/atoms_0.xyz, e.g. C-C/12345"
            )
        self.root = root
        super().__init__(path, keys, _folder_provenance(root))

    def load(self, key: str) -> Scan:
        folder = self.root / key
        source = f"scan {key} of {self.path}"
        bond, _, name = key.partition("/")
        if not folder.is_dir():
            raise ScanError(f"{source}: there is no such scan")
        partition = _read_partition(folder / "partition.npz", source)
        low, high, count = (float(x) for x in partition["perturb_range"])
        frames = int(count)
        missing = [k for k in range(frames) if not (folder / f"atoms_{k}.xyz").is_file()]
        if missing:
            shown = ", ".join(str(k) for k in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise ScanError(
                f"{source}: {len(missing)} of {frames} frames are missing (atoms_k.xyz, k = {shown}); download it again"
            )
        table = [_read_frame(folder / f"atoms_{k}.xyz", source) for k in range(frames)]
        numbers = table[0].numbers
        for k, frame in enumerate(table):
            if not np.array_equal(frame.numbers, numbers):
                raise ScanError(f"{source}: the atoms of frame {k} are not those of frame 0; the scan is damaged")
        unperturbed = folder / "unperturbed.xyz"
        origin = _read_frame(unperturbed, source) if unperturbed.is_file() else None
        return make_scan(
            bond=bond,
            id=name,
            numbers=numbers,
            positions=np.stack([frame.positions for frame in table]),
            bond_length=partition.get("bond_length", np.linspace(low, high, frames)),
            energy=np.array([frame.energy for frame in table]),
            forces=np.stack([frame.forces for frame in table]),
            bond_index=partition["bond_index"],
            fragment_labels=partition["labels"],
            source=source,
            smiles=table[0].info["smiles"],
            subset=table[0].info["dataset"],
            positions0=None if origin is None else origin.positions,
            energy0=None if origin is None else origin.energy,
            forces0=None if origin is None else origin.forces,
        )

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for key in self.keys:
            for file in sorted((self.root / key).iterdir()):
                digest.update(f"{key}/{file.name} {file.stat().st_size}\n".encode())
        return digest.hexdigest()


def _folder_provenance(root: Path) -> dict[str, str]:
    try:
        found = json.loads((root / PROVENANCE).read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def folder_keys(root: Path) -> list[str]:
    """``<bond>/<id>`` of the scans in a folder, whole or not."""
    return [
        f"{bond.name}/{scan.name}"
        for bond in root.iterdir()
        if bond.is_dir() and _BOND.fullmatch(bond.name)
        for scan in bond.iterdir()
        if scan.is_dir() and not scan.name.startswith(".")
    ]


def _read_partition(path: Path, source: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ScanError(f"{source}: partition.npz is missing; download the scan again")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in ("bond_index", "labels", "perturb_range")}
            if "bond_length" in archive:
                found["bond_length"] = archive["bond_length"]
    except KeyError as error:
        raise ScanError(f"{source}: partition.npz lacks {str(error).split()[0].strip(chr(39))!r}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise ScanError(f"{source}: partition.npz is truncated or damaged; download the scan again") from None
    if found["perturb_range"].shape != (3,) or found["perturb_range"][2] < 2:
        raise ScanError(f"{source}: perturb_range of partition.npz is not [shortest, longest, number of frames]")
    return found


@dataclass(frozen=True)
class _Frame:
    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    info: dict[str, str]


def _read_frame(path: Path, source: str) -> _Frame:
    """One frame of the folder layout; NaN labels are allowed here, unlike in the readers of training data."""
    try:
        lines = path.read_text().splitlines()
        atoms = int(lines[0])
        comment = lines[1]
        rows = [line.split() for line in lines[2 : 2 + atoms]]
        if len(rows) < atoms or any(len(row) != 7 for row in rows):
            raise ScanError(f"{source}: {path.name} is cut off or damaged; download the scan again")
        if _XYZ_PROPERTIES not in comment:
            raise ScanError(f"{source}: {path.name} does not hold '{_XYZ_PROPERTIES}'")
        energy = _ENERGY.search(comment)
        if energy is None:
            raise ScanError(f"{source}: {path.name} has no 'energy' in its second line")
        values = np.array([row[1:] for row in rows], dtype=np.float64)
        found = {name: pattern.search(comment) for name, pattern in _INFO.items()}
        return _Frame(
            numbers=np.array([atomic_numbers[row[0]] for row in rows], dtype=np.int64),
            positions=values[:, :3],
            energy=float(energy.group(1)),
            forces=values[:, 3:],
            info={name: (match.group(1) or match.group(2) or "") if match else "" for name, match in found.items()},
        )
    except KeyError as error:
        raise ScanError(f"{source}: {path.name} holds {error}, which is not an element") from None
    except (OSError, ValueError, IndexError):
        raise ScanError(f"{source}: {path.name} is cut off or damaged; download the scan again") from None


def _natural(key: str) -> tuple:
    """Sort key in which 9 comes before 10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", key))
