"""Readers of structure files: a stream of :class:`~mindscaip.data.structure.Structure`, in internal units.

Extended XYZ is parsed here rather than through ASE, for three reasons: labels stand under many names and must never
be lost silently (ASE moves ``energy`` and ``forces`` into a calculator and leaves ``REF_energy`` or ``force``
elsewhere), a fault must be reported with its frame and line, and large files must stream.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
from ase.data import atomic_numbers

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError, did_you_mean

Labels = Literal["required", "optional", "ignored"]

XYZ_SUFFIXES = (".xyz", ".extxyz")
STORE_SUFFIXES = (".h5", ".hdf5")

# Names in use for the labels (compared in lower case), likeliest first.
ENERGY_NAMES = ("energy", "ref_energy", "dft_energy", "qm_energy", "total_energy", "potential_energy", "energy_ref")
FORCES_NAMES = ("forces", "force", "ref_forces", "dft_forces", "qm_forces", "dft_force", "ref_force", "forces_ref")
STRESS_NAMES = ("stress", "ref_stress", "dft_stress", "stress_ref")
VIRIAL_NAMES = ("virial", "virials", "ref_virial", "ref_virials", "dft_virial", "dft_virials")

# What a frame may declare beside its labels; anything else would be wrong by a factor.
_UNIT_KEYS = {
    "energy": ({"energy_unit", "energy_units"}, {"ev"}),
    "forces": (
        {"forces_unit", "force_unit", "forces_units", "force_units"},
        {"ev/a", "ev/å", "ev/ang", "ev/angstrom", "ev*a^-1", "ev/aa"},
    ),
    "stress": (
        {"stress_unit", "stress_units"},
        {"ev/a^3", "ev/å^3", "ev/å³", "ev/ang^3", "ev/angstrom^3", "ev/a3", "ev/a**3", "ev/angstrom**3"},
    ),
    "positions": ({"length_unit", "length_units", "pos_unit", "position_unit"}, {"a", "å", "ang", "angstrom"}),
}

_PAIR = re.compile(
    r"""([^\s=]+)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^}]*\}|\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\]|\S*)"""
)


@dataclass(frozen=True)
class LabelKeys:
    """Under which names a file holds its labels; ``None`` where it has none.

    Attributes:
        energy: total energy in eV (a key of the comment line).
        forces: forces in eV/A (a column).
        stress: stress in eV/A^3 (a key of the comment line), ASE's sign.
        virial: virial in eV (a key of the comment line), ``stress = -virial / V``; used when there is no stress.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virial: str | None = None

    def __str__(self) -> str:
        found = [f"{name} from {key!r}" for name, key in vars(self).items() if key is not None]
        return ", ".join(found) if found else "no labels"


def read_structures(
    path: str | Path,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    group_key: str | None = None,
    index: str | int | slice = ":",
    labels: Labels = "required",
) -> Iterator[Structure]:
    """Stream the structures of an extended XYZ file or of a store written by this package.

    Which name holds a label is decided on the first frame that has it (:func:`find_label_keys` tells) and is kept for
    the whole file. Explicit keys win over the known names. An isolated atom (one atom, not periodic) without forces
    gets zero forces, which is exact.

    Args:
        path: ``.xyz`` or ``.extxyz`` (eV, A) or ``.h5`` (a :class:`~mindscaip.data.store.Store`).
        energy_key: name of the energy in the comment line.
        forces_key: name of the forces' column.
        stress_key: name of the stress in the comment line (9 numbers, or 6 in ASE's Voigt order).
        group_key: name in the comment line of the group (molecule, subset); ``group`` is read by default.
        index: which frames, written as in ASE: ``":"``, ``"::10"``, ``"-1"``, ``5``.
        labels: ``"required"``: energy and forces must be in every frame; ``"optional"``: take what there is;
            ``"ignored"``: geometries only.

    Raises:
        MindscaipError: missing, empty, cut off or foreign file; a frame without a label, with a value that is not
            finite, or with a declared unit other than eV and A. The frame, the line and the key are named.
    """
    path = _existing(path)
    wanted = _slice_of(index)
    if path.suffix.lower() in STORE_SUFFIXES:
        given = energy_key or forces_key or stress_key or group_key
        if given:
            raise MindscaipError(f"{path} is a store, whose labels have fixed names; leave out the key {given!r}")
        yield from _read_store(path, wanted, labels)
        return
    reader = XyzReader(path, energy_key, forces_key, stress_key, group_key, labels)
    yield from reader.read(wanted)


def find_label_keys(
    path: str | Path,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
) -> LabelKeys:
    """Return the names under which the first frame of ``path`` holds its labels, without requiring any.

    Raises:
        MindscaipError: as :func:`read_structures`; also when two known names hold different values.
    """
    path = _existing(path)
    if path.suffix.lower() in STORE_SUFFIXES:
        from mindscaip.data.store import Store

        with Store(path) as store:
            return LabelKeys("energy", "forces" if store.has_forces else None, "stress" if store.has_stress else None)
    reader = XyzReader(path, energy_key, forces_key, stress_key, None, "optional")
    for _ in reader.read(slice(0, 1)):
        pass
    return reader.keys


def check_labels(structure: Structure, where: str) -> None:
    """Raise unless ``structure`` has an energy and forces, and all its labels are finite; ``where`` names it."""
    if structure.energy is None or structure.forces is None:
        missing = "energy" if structure.energy is None else "forces"
        raise MindscaipError(f"{where} has no {missing}; training and evaluation need energy and forces")
    for name in ("energy", "forces", "stress"):
        value = getattr(structure, name)
        if value is not None and not np.isfinite(value).all():
            raise MindscaipError(f"{where} has a value in {name!r} that is not finite; drop it or label it again")


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise MindscaipError(f"{path} does not exist{did_you_mean(path.name, siblings)}")
    if path.is_dir():
        raise MindscaipError(f"{path} is a folder; name a structure file in it")
    if path.suffix.lower() not in XYZ_SUFFIXES + STORE_SUFFIXES:
        known = ", ".join(XYZ_SUFFIXES + STORE_SUFFIXES)
        raise MindscaipError(f"{path} has the unknown format {path.suffix!r}; the formats read are {known}")
    return path


def _slice_of(index: str | int | slice) -> slice:
    if isinstance(index, slice):
        return index
    text = str(index).strip()
    try:
        parts = [int(part) if part else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None:
        first = parts[0]
        return slice(first, None if first == -1 else first + 1)
    if len(parts) in (2, 3) and not (len(parts) == 3 and parts[2] == 0):
        return slice(*parts)
    raise MindscaipError(f"the index {text!r} is not one of the forms 5, -1, 0:100 and ::10")


def _read_store(path: Path, wanted: slice, labels: Labels) -> Iterator[Structure]:
    from mindscaip.data.store import Store

    with Store(path) as store:
        frames = range(len(store))[wanted]
        if not frames:
            raise MindscaipError(f"{path} has {len(store)} structures, none of which is in the index asked for")
        for frame in frames:
            structure = store[frame]
            if labels == "required":
                check_labels(structure, f"structure {frame} of {path}")
            elif labels == "ignored":
                structure.energy = structure.forces = structure.stress = None
            yield structure


@dataclass(frozen=True)
class _Column:
    name: str
    start: int
    stop: int


@lru_cache(maxsize=64)
def _columns_of(properties: str) -> tuple[dict[str, _Column], int]:
    """Parse ``species:S:1:pos:R:3:...`` into columns by name and the number of columns; ValueError if malformed."""
    parts = properties.split(":")
    if len(parts) % 3:
        raise ValueError
    columns: dict[str, _Column] = {}
    start = 0
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if kind not in ("S", "R", "I", "L") or int(count) < 1:
            raise ValueError
        columns[name] = _Column(name, start, start + int(count))
        start += int(count)
    return columns, start


_PLAIN_XYZ = "species:S:1:pos:R:3"


class XyzReader:
    """One pass over an extended XYZ file; ``keys`` is known after the first frame."""

    def __init__(
        self,
        path: Path,
        energy_key: str | None,
        forces_key: str | None,
        stress_key: str | None,
        group_key: str | None,
        labels: Labels,
        *,
        group_keys: tuple[str, ...] = ("group",),
        check_units: bool = True,
        check_finite: bool = True,
    ) -> None:
        self.path = path
        self.asked = LabelKeys(energy_key, forces_key, stress_key)
        self.group_key = group_key
        self.group_keys = group_keys
        self.labels = labels
        self.keys = LabelKeys()
        self._check_units = check_units
        self._check_finite = check_finite
        self._where = ""
        self._info: dict[str, str] = {}
        self._file: TextIO | None = None

    def word(self, key: str) -> str:
        """What the comment line of the frame just read holds under ``key``; empty where it has none."""
        return _unquoted(self._info[key]) if key in self._info else ""

    def fraction(self) -> float:
        """How much of the file is read, 0 to 1."""
        if self._file is None or self._file.closed:
            return 1.0
        return self._file.buffer.tell() / max(1, self.path.stat().st_size)

    def read(self, wanted: slice) -> Iterator[Structure]:
        frames: Iterable[int]
        step = 1 if wanted.step is None else wanted.step
        if step < 0:
            raise MindscaipError(f"the index step {step} is negative; files are read forwards")
        if (wanted.start or 0) < 0 or (wanted.stop or 0) < 0:
            # Counted from the end: one cheap pass for the number of frames.
            frames = range(sum(1 for _ in self._frames(count_only=True)))[wanted]
        elif wanted.stop is None:
            frames = itertools.count(wanted.start or 0, step)
        else:
            frames = range(wanted.start or 0, wanted.stop, step)
        nothing = True
        for structure in self._parse_all(frames):
            nothing = False
            yield structure
        if nothing:
            raise MindscaipError(f"{self.path} has no frame in the index asked for")

    def _parse_all(self, frames: Iterable[int]) -> Iterator[Structure]:
        wanted = iter(frames)
        target = next(wanted, None)
        for frame, line, comment, rows in self._frames():
            if target is None:
                return
            if frame != target:
                continue
            self._where = f"frame {frame} of {self.path} (line {line})"
            yield self._parse(comment, rows)
            target = next(wanted, None)
            if target is None:
                return

    def _frames(self, count_only: bool = False) -> Iterator[tuple[int, int, str, list[str]]]:
        """Yield (frame, line of its atom count, comment line, rows); the file is read once, frame by frame."""
        try:
            # Comments in Latin-1 exist; only what is used has to be ASCII.
            with self.path.open(encoding="utf-8", errors="replace") as file:
                self._file = file
                yield from self._split(file, count_only)
        except OSError as error:
            raise MindscaipError(f"{self.path} cannot be read: {error.strerror}") from error

    def _split(self, file: TextIO, count_only: bool) -> Iterator[tuple[int, int, str, list[str]]]:
        frame = line = 0
        for head in file:
            line += 1
            if not head.strip():
                continue
            try:
                n_atoms = int(head)
            except ValueError:
                raise MindscaipError(
                    f"line {line} of {self.path} should hold the atom count of frame {frame}, but is {_short(head)!r}; "
                    "the file is not extended XYZ, or the frame before it has more rows than it says"
                ) from None
            if n_atoms < 1:
                raise MindscaipError(
                    f"frame {frame} of {self.path} (line {line}) has {n_atoms} atoms; it needs at least 1"
                )
            comment = file.readline()
            rows = list(itertools.islice(file, n_atoms))
            if not comment or len(rows) < n_atoms:
                raise MindscaipError(
                    f"frame {frame} of {self.path} (line {line}) ends after {len(rows)} of {n_atoms} atoms; the file "
                    "is cut off: copy it again or remove the last frame"
                )
            yield frame, line, comment, [] if count_only else rows
            frame += 1
            line += n_atoms + 1
        if frame == 0:
            raise MindscaipError(f"{self.path} is empty; it should hold at least one structure")

    def _parse(self, comment: str, rows: list[str]) -> Structure:
        info = self._info = dict(_PAIR.findall(comment))
        properties = info.get("Properties", _PLAIN_XYZ)
        try:
            columns, n_columns = _columns_of(_unquoted(properties))
        except ValueError:
            raise self._error(f"has a malformed Properties entry {_short(properties)!r}") from None
        table = [row.split() for row in rows]
        for i, row in enumerate(table):
            if len(row) != n_columns and ("Properties" in info or len(row) < n_columns):
                raise self._error(
                    f"has {len(row)} columns for atom {i}, not {n_columns}; the file is cut off or damaged"
                )

        cell, pbc = self._lattice(info)
        structure_labels = {} if self.labels == "ignored" else self._read_labels(info, columns, table, cell, pbc)
        names = self.group_keys if self.group_key is None else (self.group_key,)
        group = next((info[name] for name in names if name in info), None)
        if group is None and self.group_key is not None:
            raise self._error(f"has no {self.group_key!r} to group by{did_you_mean(self.group_key, info)}")
        try:
            return Structure(
                numbers=self._species(columns, table),
                positions=self._floats(columns["pos"], table) if "pos" in columns else self._no_positions(columns),
                cell=cell,
                pbc=pbc,
                group=_unquoted(group) if group is not None else "",
                **structure_labels,
            )
        except MindscaipError as error:
            if str(error).startswith(self._where):
                raise
            raise MindscaipError(f"{self._where}: {error}") from None

    def _read_labels(
        self,
        info: dict[str, str],
        columns: dict[str, _Column],
        table: list[list[str]],
        cell: np.ndarray,
        pbc: np.ndarray,
    ) -> dict:
        required = self.labels == "required"
        isolated = len(table) == 1 and not pbc.any()
        keys = self.keys = self._choose_keys(info, columns, table, isolated)
        found: dict = {}
        if keys.energy is not None and keys.energy in info:
            found["energy"] = self._numbers_of(keys.energy, info[keys.energy], 1)[0]
        if keys.forces is not None and keys.forces in columns:
            column = columns[keys.forces]
            if column.stop - column.start != 3:
                raise self._error(f"has {column.stop - column.start} numbers per atom in {keys.forces!r}, expected 3")
            found["forces"] = self._floats(column, table)
        elif isolated:
            found["forces"] = np.zeros((1, 3))
        if pbc.all():
            if keys.stress is not None and keys.stress in info:
                found["stress"] = self._tensor(keys.stress, info[keys.stress])
            elif keys.virial is not None and keys.virial in info:
                found["stress"] = -self._tensor(keys.virial, info[keys.virial]) / abs(np.linalg.det(cell))

        for name in ("energy", "forces"):
            if required and name not in found:
                raise self._missing(name, getattr(keys, name), info, columns)
        for name, value in found.items():
            if self._check_finite and not np.isfinite(value).all():
                key = getattr(keys, name) or keys.virial
                raise self._error(f"has a value in {key!r} that is not finite; remove the frame or repair the label")
            self._check_unit(name, info)
        self._check_unit("positions", info)
        return found

    def _choose_keys(
        self, info: dict[str, str], columns: dict[str, _Column], table: list[list[str]], isolated: bool
    ) -> LabelKeys:
        """Complete the names found so far with those of this frame; a name once found holds for the file."""

        def energy(key: str) -> np.ndarray:
            return self._numbers_of(key, info[key], 1)

        def forces(key: str) -> np.ndarray:
            return self._floats(columns[key], table)

        def tensor(key: str) -> np.ndarray:
            return self._tensor(key, info[key])

        known, asked = self.keys, self.asked
        # An isolated atom may lack the forces that every other frame has.
        asked_forces = asked.forces if not isolated or asked.forces in columns else None
        return LabelKeys(
            energy=known.energy or self._pick("energy", asked.energy, ENERGY_NAMES, info, energy),
            forces=known.forces or self._pick("forces", asked_forces, FORCES_NAMES, columns, forces),
            stress=known.stress or self._pick("stress", asked.stress, STRESS_NAMES, info, tensor),
            virial=known.virial or (None if asked.stress else self._pick("virial", None, VIRIAL_NAMES, info, tensor)),
        )

    def _pick(
        self,
        label: str,
        asked: str | None,
        names: tuple[str, ...],
        present: Mapping[str, object],
        read: Callable[[str], np.ndarray],
    ) -> str | None:
        """The key to use for a label: the one asked for, else the first known name that is there and unambiguous."""
        if asked is not None:
            if asked not in present:
                raise self._error(
                    f"has no {asked!r} (asked for as {label}){did_you_mean(asked, present)}; it has {_listed(present)}"
                )
            return asked
        found = _known_names(tuple(present), names)
        for other in found[1:]:
            a, b = read(found[0]), read(other)
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-12, atol=1e-12, equal_nan=True):
                raise self._error(
                    f"has two different {label} labels, {found[0]!r} and {other!r}; name the right one as {label}_key"
                )
        return found[0] if found else None

    def _missing(self, name: str, key: str | None, info: dict, columns: dict) -> MindscaipError:
        present = list(info) if name == "energy" else list(columns)
        gradient = next((k for k in columns if "grad" in k.lower()), None)
        if name == "forces" and gradient is not None:
            return self._error(f"has no forces but {gradient!r}, a gradient: forces have the opposite sign; convert it")
        what = f"no {key!r}, which an earlier frame has as its {name}" if key is not None else f"no {name}"
        return self._error(f"has {what}; it has {_listed(present)}: name the right one as {name}_key")

    def _check_unit(self, label: str, info: dict[str, str]) -> None:
        if not self._check_units:
            return
        keys, good = _UNIT_KEYS[label]
        for key in keys & info.keys():
            unit = _unquoted(info[key])
            if unit.lower().replace(" ", "") not in good:
                raise self._error(
                    f"declares {key}={unit}; import it with 'mindscaip data import --units ...', or "
                    "convert it to eV and Angstrom"
                )

    def _lattice(self, info: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
        cell = np.zeros((3, 3))
        lattice = info.get("Lattice", info.get("lattice"))
        if lattice is not None:
            cell = self._numbers_of("Lattice", lattice, 9).reshape(3, 3)
        flags = info.get("pbc")
        if flags is None:
            return cell, np.full(3, lattice is not None)
        try:
            return cell, np.array(_truth_values(flags))
        except (KeyError, ValueError):
            raise self._error(f"has pbc={flags}, expected three of T and F") from None

    def _species(self, columns: dict[str, _Column], table: list[list[str]]) -> np.ndarray:
        for name in ("species", "element", "symbols", "Z", "numbers"):
            if name in columns:
                start = columns[name].start
                break
        else:
            raise self._error(f"has no column 'species'; it has {', '.join(columns)}")
        try:
            return np.array([_atomic_number(row[start]) for row in table], dtype=np.int64)
        except KeyError as error:
            raise self._error(f"has the species {error.args[0]!r}, which is not an element") from None

    def _no_positions(self, columns: dict[str, _Column]) -> np.ndarray:
        raise self._error(f"has no column 'pos'; it has {', '.join(columns)}")

    def _floats(self, column: _Column, table: list[list[str]]) -> np.ndarray:
        rows = [row[column.start : column.stop] for row in table]
        try:
            # Python's float is faster than numpy's conversion of words, and reads the same.
            return np.array([float(word) for row in rows for word in row]).reshape(len(rows), -1)
        except ValueError:
            atom, word = next((i, w) for i, row in enumerate(rows) for w in row if not _is_number(w))
            raise self._error(f"has {_short(word)!r} for atom {atom} in {column.name!r}, expected a number") from None

    def _numbers_of(self, key: str, text: str, count: int) -> np.ndarray:
        words = re.sub(r"[\[\],{}]", " ", _unquoted(text)).split()
        try:
            numbers = np.array(words, dtype=np.float64)
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) != count:
            wanted = "a number" if count == 1 else f"{count} numbers"
            raise self._error(f"has {_short(text)!r} for {key!r}, expected {wanted}")
        return numbers

    def _tensor(self, key: str, text: str) -> np.ndarray:
        """A symmetric tensor from 9 numbers or from 6 in ASE's Voigt order xx yy zz yz xz xy."""
        words = re.sub(r"[\[\],{}]", " ", _unquoted(text).removeprefix("_JSON")).split()
        if len(words) == 6:
            return self._numbers_of(key, " ".join(words), 6)[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        return self._numbers_of(key, " ".join(words), 9).reshape(3, 3)

    def _error(self, sentence: str) -> MindscaipError:
        return MindscaipError(f"{self._where} {sentence}")


@lru_cache(maxsize=16)
def _truth_values(flags: str) -> tuple[bool, ...]:
    """Three truth values from one or three words; KeyError or ValueError if malformed."""
    truth = {"T": True, "TRUE": True, "1": True, "F": False, "FALSE": False, "0": False}
    values = tuple(truth[word.upper()] for word in _unquoted(flags).replace(",", " ").split())
    if len(values) not in (1, 3):
        raise ValueError
    return values * 3 if len(values) == 1 else values


@lru_cache(maxsize=256)
def _known_names(present: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    """Those of ``present`` that are among ``names``, likeliest first; the same in every frame of most files."""
    return sorted((key for key in present if key.lower() in names), key=lambda key: names.index(key.lower()))


@lru_cache(maxsize=512)
def _atomic_number(word: str) -> int:
    if word.isdigit():
        return int(word)
    number = atomic_numbers.get(word) or atomic_numbers.get(word.capitalize())
    if not number:
        raise KeyError(word)
    return number


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return text


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(key for key in keys if key != "Properties") or "nothing"


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 40 else text[:37] + "..."
