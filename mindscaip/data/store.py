"""The packed store: labelled structures of any size in one HDF5 file, read at random without loading it.

Layout, version 1 (``M`` structures, ``A`` atoms in all; units eV, Angstrom, eV/Angstrom, eV/Angstrom^3)::

    numbers    uint8   [A]        atomic numbers, one structure after the other
    positions  float64 [A, 3]
    forces     float64 [A, 3]     absent where no structure has forces; NaN rows where one has none
    offsets    int64   [M + 1]    structure i owns the atoms offsets[i] : offsets[i + 1]
    cell       float64 [M, 3, 3]  lattice vectors as rows
    pbc        uint8   [M, 3]
    energy     float64 [M]        NaN where there is none
    stress     float64 [M, 3, 3]  absent where no structure has a stress; NaN where one has none
    group      int32   [M]        index into group_names
    group_names  strings [G]
    provenance   one JSON string: how the labels were made
    attributes: format, format_version, energy_unit, length_unit, num_structures, num_atoms, isolated_energies (JSON)

The arrays are contiguous (neither chunked nor compressed), so that the reader maps them into memory: a structure costs
microseconds, the pages belong to the operating system, and processes share them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import mmap
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, overload

import h5py
import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

FORMAT = "mindscaip-store"
FORMAT_VERSION = 1

# name -> (dtype, shape of one row, rows per "structure" or per "atom")
_ARRAYS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "numbers": ("u1", (), "atom"),
    "positions": ("f8", (3,), "atom"),
    "forces": ("f8", (3,), "atom"),
    "offsets": ("i8", (), "offset"),
    "cell": ("f8", (3, 3), "structure"),
    "pbc": ("u1", (3,), "structure"),
    "energy": ("f8", (), "structure"),
    "stress": ("f8", (3, 3), "structure"),
    "group": ("i4", (), "structure"),
}
_OPTIONAL = ("forces", "stress")
_BLOCK = 1 << 22
"""Bytes that are copied at once."""
_PENDING = 256
"""Structures that are turned into rows at once."""
_NO_STRESS = np.full((3, 3), np.nan)


def write_store(
    path: str | Path,
    structures: Iterable[Structure],
    isolated_energies: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> int:
    """Write ``structures`` into a new store, all or nothing, and return their number.

    ``structures`` may be any stream: memory does not grow with its length.

    Args:
        path: the file to write (``.h5``); an existing one is replaced when the new one is whole.
        structures: at least one.
        isolated_energies: energy of the isolated atom in eV by element symbol.
        provenance: how the labels were made, anything that JSON can hold. This and the energies above are looked at
            when the stream has ended, so that whoever feeds it can still fill them.

    Raises:
        MindscaipError: no structure, a label that is not finite, an unknown element.
    """
    count = _write(Path(path), structures, isolated_energies, provenance, allow_empty=False)
    return count


def _write(
    path: Path,
    structures: Iterable[Structure],
    isolated_energies: Mapping[str, float] | None,
    provenance: Mapping[str, Any] | None,
    *,
    allow_empty: bool,
) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    spool = _Spool(path.parent)
    with spool:
        for structure in structures:
            spool.add(structure)
        spool.flush()
        isolated = {str(k): float(v) for k, v in (isolated_energies or {}).items()}
        for symbol, energy in isolated.items():
            if symbol not in atomic_numbers or not math.isfinite(energy):
                raise MindscaipError(f"isolated-atom energy {symbol!r}: {energy} is not a finite energy of an element")
        if spool.num_structures == 0 and not allow_empty:
            raise MindscaipError(f"there is no structure to write into {path}")
        try:
            with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
                spool.save(file)
                file.attrs.update(
                    format=FORMAT,
                    format_version=FORMAT_VERSION,
                    energy_unit="eV",
                    length_unit="Angstrom",
                    num_structures=spool.num_structures,
                    num_atoms=spool.num_atoms,
                    isolated_energies=json.dumps(isolated),
                )
                file["provenance"] = json.dumps(dict(provenance or {}))
        except OSError as error:
            raise MindscaipError(f"{path} cannot be written: {error}") from error
        return spool.num_structures


class _Spool:
    """Rows of a store on their way to the file, in memory while they are few and on disk when they are many.

    Contiguous HDF5 arrays need their final length when they are made, and a stream tells it only at its end.
    """

    def __init__(self, folder: Path) -> None:
        self.num_structures = 0
        self.num_atoms = 0
        self._files: dict[str, IO[bytes]] = {
            name: tempfile.SpooledTemporaryFile(max_size=_BLOCK, dir=str(folder))  # noqa: SIM115 (closed in __exit__)
            for name in _ARRAYS
        }
        self._present = dict.fromkeys(_OPTIONAL, False)
        self._groups: dict[str, int] = {}
        self._pending: list[Structure] = []
        self._put("offsets", 0)

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, structure: Structure) -> None:
        if len(structure) == 0:
            raise MindscaipError(f"structure {self.num_structures} has no atoms; leave it out of the store")
        self._pending.append(structure)
        self.num_structures += 1
        if len(self._pending) == _PENDING:
            self.flush()

    def flush(self) -> None:
        """Turn the structures that wait into rows; together, since a call of numpy costs more than a small row."""
        some, self._pending = self._pending, []
        if not some:
            return
        first = self.num_structures - len(some)
        sizes = np.array([len(s) for s in some])
        energy = np.array([np.nan if s.energy is None else s.energy for s in some], dtype=np.float64)
        forces = np.concatenate([np.full((len(s), 3), np.nan) if s.forces is None else s.forces for s in some])
        stress = np.stack([_NO_STRESS if s.stress is None else s.stress for s in some])
        per_structure = np.repeat(np.arange(len(some)), sizes)
        for name, values, owner in (
            ("energy", energy, np.arange(len(some))),
            ("forces", forces, per_structure),
            ("stress", stress, np.arange(len(some))),
        ):
            given = np.array([getattr(s, name) is not None for s in some])
            if name in self._present:
                self._present[name] |= bool(given.any())
            unusable = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1) & given[owner]
            if unusable.any():
                raise MindscaipError(
                    f"structure {first + owner[unusable][0]} has a value in {name!r} that is not finite; leave it out"
                )
        self._put("numbers", np.concatenate([s.numbers for s in some]))
        self._put("positions", np.concatenate([s.positions for s in some]))
        self._put("forces", forces)
        self._put("offsets", self.num_atoms + np.cumsum(sizes))
        self._put("cell", np.stack([s.cell for s in some]))
        self._put("pbc", np.stack([s.pbc for s in some]))
        self._put("energy", energy)
        self._put("stress", stress)
        self._put("group", [self._groups.setdefault(s.group, len(self._groups)) for s in some])
        self.num_atoms += int(sizes.sum())

    def _put(self, name: str, value: Any) -> None:
        self._files[name].write(np.ascontiguousarray(value, dtype=_ARRAYS[name][0]).tobytes())

    def save(self, file: h5py.File) -> None:
        for name, (dtype, row, _) in _ARRAYS.items():
            if not self._present.get(name, True):
                continue
            source = self._files[name]
            row_bytes = np.dtype(dtype).itemsize * math.prod(row)
            rows = source.tell() // row_bytes
            dataset = file.create_dataset(name, shape=(rows, *row), dtype=dtype)
            source.seek(0)
            start = 0
            while block := source.read(max(1, _BLOCK // row_bytes) * row_bytes):
                array = np.frombuffer(block, dtype=dtype).reshape(-1, *row)
                dataset[start : start + len(array)] = array
                start += len(array)
        file["group_names"] = np.array(list(self._groups), dtype=h5py.string_dtype())


class Store:
    """Random access to the structures of a store; a context manager, and picklable (workers map the file again).

    Attributes:
        path: the file.
        isolated_energies: energy of the isolated atom in eV by element symbol; empty where not given.
        provenance: how the labels were made.
        offsets: int64 ``[M + 1]``, first atom of each structure.
        has_forces: whether any structure has forces.
        has_stress: whether any structure has a stress.

    Raises:
        MindscaipError: the file is missing, cut off, not a store, or from a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._arrays: dict[str, np.ndarray] | None = None
        self._open()

    def _open(self) -> None:
        self._maps: list[np.memmap] = []
        if not self.path.is_file():
            raise MindscaipError(f"{self.path} does not exist or is not a file; name a store (.h5)")
        try:
            with h5py.File(self.path, "r") as file:
                self._check(file)
                arrays = {name: self._map(file[name]) for name in _ARRAYS if name in file}
                self._group_names = [name.decode() for name in file["group_names"][()]]
                self.isolated_energies: dict[str, float] = json.loads(file.attrs["isolated_energies"])
                self.provenance: dict[str, Any] = json.loads(file["provenance"][()])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise MindscaipError(
                f"{self.path} is cut off, damaged or not an HDF5 file ({error}); copy it again or make it again"
            ) from error
        self.offsets: np.ndarray = np.array(arrays["offsets"])
        self.has_forces = "forces" in arrays
        self.has_stress = "stress" in arrays
        self._arrays = arrays

    def _check(self, file: h5py.File) -> None:
        if file.attrs.get("format") != FORMAT:
            names = ", ".join(list(file)[:4]) or "nothing"
            raise MindscaipError(
                f"{self.path} is an HDF5 file but not a store of this package (it holds {names}); make one with "
                "'mindscaip label' or write_store"
            )
        version = int(file.attrs["format_version"])
        if version > FORMAT_VERSION:
            raise MindscaipError(
                f"{self.path} has store version {version}; this mindscaip reads up to {FORMAT_VERSION}: update it"
            )
        structures, atoms = int(file.attrs["num_structures"]), int(file.attrs["num_atoms"])
        lengths = {"structure": structures, "atom": atoms, "offset": structures + 1}
        for name, (dtype, row, per) in _ARRAYS.items():
            if name in _OPTIONAL and name not in file:
                continue
            expected = (lengths[per], *row)
            if file[name].shape != expected or file[name].dtype != np.dtype(dtype):
                raise ValueError(
                    f"{name} has shape {file[name].shape} and type {file[name].dtype}, not {expected}, {dtype}"
                )
        if file["offsets"][-1] != atoms:
            raise ValueError("offsets do not end at the number of atoms")

    def _map(self, dataset: h5py.Dataset) -> np.ndarray:
        offset = dataset.id.get_offset()
        if offset is None:  # empty
            return np.asarray(dataset[()])
        mapped = np.memmap(self.path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
        self._maps.append(mapped)
        return mapped.view(np.ndarray)  # the plain class is cheaper to slice

    def _array(self, name: str) -> np.ndarray:
        if self._arrays is None:
            raise MindscaipError(f"the store {self.path} is closed; open it again with Store(path)")
        return self._arrays[name]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Structure: ...
    @overload
    def __getitem__(self, index: slice) -> list[Structure]: ...
    def __getitem__(self, index: int | slice) -> Structure | list[Structure]:
        """One structure, or the list of a slice; the arrays are copies."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = int(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"structure {i} of a store with {len(self)}")
        i %= len(self)
        atoms = slice(self.offsets[i], self.offsets[i + 1])
        energy = float(self._array("energy")[i])
        forces = np.array(self._array("forces")[atoms]) if self.has_forces else None
        stress = np.array(self._array("stress")[i]) if self.has_stress else None
        return Structure(
            numbers=self._array("numbers")[atoms],
            positions=np.array(self._array("positions")[atoms]),
            cell=np.array(self._array("cell")[i]),
            pbc=self._array("pbc")[i],
            energy=None if math.isnan(energy) else energy,
            forces=None if forces is None or np.isnan(forces).any() else forces,
            stress=None if stress is None or np.isnan(stress).any() else stress,
            group=self._group_names[self._array("group")[i]],
        )

    def __iter__(self) -> Iterator[Structure]:
        return (self[i] for i in range(len(self)))

    @property
    def num_atoms(self) -> np.ndarray:
        """Atoms of each structure, int64 ``[M]``."""
        return np.diff(self.offsets)

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers of all structures one after the other, uint8 ``[A]`` (mapped, not loaded)."""
        return self._array("numbers")

    @property
    def energies(self) -> np.ndarray:
        """Energies in eV, float64 ``[M]``, NaN where there is none (mapped, not loaded)."""
        return self._array("energy")

    @property
    def forces(self) -> np.ndarray | None:
        """Forces of all structures one after the other in eV/A, float64 ``[A, 3]`` (mapped, not loaded)."""
        return self._array("forces") if self.has_forces else None

    @property
    def positions(self) -> np.ndarray:
        """Positions of all atoms in A, float64 ``[A, 3]`` (mapped, not loaded)."""
        return self._array("positions")

    @property
    def cells(self) -> np.ndarray:
        """Lattice vectors as rows in A, float64 ``[M, 3, 3]`` (mapped, not loaded)."""
        return self._array("cell")

    @property
    def stresses(self) -> np.ndarray:
        """Stresses in eV/A^3, float64 ``[M, 3, 3]``, NaN where there is none; only where ``has_stress`` (mapped)."""
        return self._array("stress")

    @property
    def pbc(self) -> np.ndarray:
        """Whether periodic along each lattice vector, uint8 ``[M, 3]`` (mapped, not loaded)."""
        return self._array("pbc")

    @property
    def groups(self) -> list[str]:
        """The group of each structure."""
        return [self._group_names[i] for i in self._array("group")]

    @property
    def elements(self) -> list[str]:
        """Symbols of the elements present, by atomic number."""
        return [chemical_symbols[z] for z in np.flatnonzero(np.bincount(self.numbers, minlength=1))]

    def content_hash(self) -> str:
        """SHA-256 of all arrays and groups: equal for equal data, whenever and wherever written."""
        digest = hashlib.sha256()
        for name in _ARRAYS:
            if name in (self._arrays or {}) and name != "group":
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(self._array(name)).data)
        for group in self.groups:
            digest.update(group.encode() + b"\0")
        return digest.hexdigest()

    def release(self) -> None:
        """Give mapped pages back to the operating system, which reads them again when they are asked for.

        A process that has touched every page of a large store would otherwise count all of it as its own memory.
        """
        for mapped in self._maps:
            if hasattr(mapped._mmap, "madvise"):  # type: ignore[attr-defined]
                mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Release the file; structures already taken stay valid."""
        self._arrays = None
        self._maps = []

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


class StoreWriter:
    """A store that is made in many steps, by several processes, and survives being killed at any moment.

    Every step is a *part*: a small store of its own, written atomically into the folder ``<path>.work`` and named by
    its task and its place in the task. A part is whole or absent, so nothing needs repair after a kill, and what is
    there need not be done again. :meth:`finish` packs the parts in the order of their names into ``path`` and
    removes the folder. Parts may carry a state in their provenance, from which the next part goes on.

    One process holds the writer (a lock says so to a second one); :meth:`write_part` may be called in others.

    Args:
        path: the store to be.
        settings: everything that decides the result; an unfinished folder with other settings is refused.
        overwrite: whether a finished ``path`` may be replaced.

    Raises:
        MindscaipError: ``path`` exists, the folder belongs to other settings, or another process is at work on it.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in (".h5", ".hdf5"):
            raise MindscaipError(f"{self.path} has the suffix {self.path.suffix!r}; a store ends in .h5")
        if self.path.exists() and not overwrite:
            raise MindscaipError(f"{self.path} exists; choose another name or pass --overwrite")
        self.folder = self.path.with_name(self.path.name + ".work")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] | None = (self.folder / "lock").open("w")
        except OSError as error:
            raise MindscaipError(f"{self.folder} cannot be made: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise MindscaipError(
                f"another process is writing {self.path}; wait for it or choose another name"
            ) from error
        try:
            self._check_settings(json.loads(json.dumps(settings)))
        except BaseException:
            self.close()
            raise

    def _check_settings(self, settings: dict[str, Any]) -> None:
        file = self.folder / "settings.json"
        if not file.exists():
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps(settings, indent=1))
            return
        before = json.loads(file.read_text())
        for key in before.keys() | settings.keys():
            if before.get(key) != settings.get(key):
                raise MindscaipError(
                    f"{self.folder} holds unfinished work with {key} {_brief(before.get(key))}, "
                    f"now {_brief(settings.get(key))}; repeat the same options to finish it, or remove the folder"
                )

    @staticmethod
    def part_path(folder: Path, task: int, part: int) -> Path:
        """Where part ``part`` of task ``task`` stands."""
        return folder / f"task-{task:06d}-part-{part:06d}.h5"

    @staticmethod
    def write_part(
        folder: Path, task: int, part: int, structures: Iterable[Structure], provenance: Mapping[str, Any] | None = None
    ) -> None:
        """Write one part, whole or not at all; it may hold no structure (a failure on record)."""
        _write(StoreWriter.part_path(folder, task, part), structures, None, provenance, allow_empty=True)

    @staticmethod
    def count_parts(folder: Path, task: int) -> int:
        """How many parts of a task are done (they are written in order)."""
        done = 0
        while StoreWriter.part_path(folder, task, done).exists():
            done += 1
        return done

    def parts(self) -> Iterator[Store]:
        """The finished parts, ordered by task and part."""
        for path in sorted(self.folder.glob("task-*-part-*.h5")):
            with Store(path) as store:
                yield store

    def finish(self, isolated_energies: Mapping[str, float] | None, provenance: Mapping[str, Any] | None) -> int:
        """Pack all parts into the store, remove the folder, and return the number of structures."""
        structures = (structure for part in self.parts() for structure in part)
        count = write_store(self.path, structures, isolated_energies, provenance)
        self.discard()
        return count

    def discard(self) -> None:
        """Remove the folder and all work in it."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of the folder; the work in it stays."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
