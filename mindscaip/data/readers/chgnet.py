"""MPtrj as CHGNet published it: one JSON file of 12 GB, ``material -> frame -> structure and labels``, streamed.

A frame holds ``structure`` (pymatgen's dictionary), ``uncorrected_total_energy`` (eV, as VASP gave it),
``corrected_total_energy``, ``force`` (eV/A), ``stress`` (kbar, VASP's sign: positive under compression) and more. The
uncorrected energy is taken: it is the one that belongs to the forces and is the same functional throughout.
"""

from __future__ import annotations

import gzip
import importlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from ase.data import atomic_numbers

from mindscaip.data.readers.base import FileUnits, ReadOptions, pick_key
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

UNITS = FileUnits(stress="kbar", stress_is_pressure=True)
ENERGIES = ("uncorrected_total_energy",)
FORCES = ("force", "forces")
STRESSES = ("stress",)
_PEEK = 1 << 16


def recognises(path: Path) -> bool:
    """Whether the first frames of a JSON file hold a ``structure`` of pymatgen."""
    if not path.name.lower().endswith((".json", ".json.gz")):
        return False
    try:
        with path.open("rb") as raw:
            start = raw.read(_PEEK)
    except OSError:
        return False
    if path.suffix.lower() == ".gz":
        try:
            # Not gzip.GzipFile, which gives nothing of a file that ends too soon.
            start = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(start, _PEEK)
        except zlib.error:
            return True  # no other format ends in .json.gz: the reader says what is wrong with it
    return b'"structure"' in start or (b'"lattice"' in start and b'"sites"' in start)


def read(path: Path, options: ReadOptions) -> Iterator[Structure]:
    """Stream the frames in the units of the file, one material in memory at a time; a group is a material.

    Raises:
        MindscaipError: not JSON of this layout; ijson is not installed.
    """
    try:
        ijson = importlib.import_module("ijson")
    except ImportError:
        raise MindscaipError("reading MPtrj's JSON needs ijson; run: pip install 'mindscaip[datasets]'") from None
    size = path.stat().st_size
    with path.open("rb") as raw, _unpacked(raw, path) as file:
        try:
            for material, frames in ijson.kvitems(file, "", use_float=True):
                options.report(raw.tell() / size)
                if not isinstance(frames, dict):
                    raise MindscaipError(f"{path}: {material!r} holds no frames; this is not the layout of MPtrj")
                if not options.wants(material):
                    continue
                for name, frame in frames.items():
                    yield _structure(frame, f"{path}: frame {name!r}", options, material)
        except ijson.JSONError as error:
            reason = " ".join(str(error).split())[:120]
            raise MindscaipError(f"{path} is cut off or not JSON ({reason}); copy it again") from None
        except (EOFError, OSError, zlib.error) as error:
            raise MindscaipError(f"{path} is cut off, damaged or not under gzip ({error}); copy it again") from error


def _structure(frame: Any, where: str, options: ReadOptions, material: str) -> Structure:
    try:
        crystal = frame["structure"]
        sites = crystal["sites"]
        cell = np.array(crystal["lattice"]["matrix"], dtype=np.float64)
        species = [site["species"] for site in sites]
        numbers = [atomic_numbers[one[0]["element"]] for one in species]
        fractional = np.array([site["abc"] for site in sites], dtype=np.float64)
        pbc = crystal["lattice"].get("pbc", [True] * 3)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise MindscaipError(
            f"{where} has no structure in the layout of pymatgen ({type(error).__name__}: {error})"
        ) from None
    if any(len(one) != 1 or one[0].get("occu", 1) != 1 for one in species):
        raise MindscaipError(f"{where} has sites that are shared by several elements; leave it out of the file")
    keys = list(frame)
    group_key = pick_key(options.group_key, (), keys, "group", where)
    energy_key = pick_key(options.energy_key, ENERGIES, keys, "energy", where)
    forces_key = pick_key(options.forces_key, FORCES, keys, "forces", where)
    stress_key = pick_key(options.stress_key, STRESSES, keys, "stress", where)
    energy = frame[energy_key] if energy_key is not None else None
    forces = frame[forces_key] if forces_key is not None else None
    stress = frame[stress_key] if stress_key is not None else None
    return Structure(
        numbers=np.array(numbers),
        positions=fractional @ cell,
        cell=cell,
        pbc=pbc,
        energy=energy,
        forces=None if forces is None else np.array(forces, dtype=np.float64),
        stress=None if stress is None else np.array(stress, dtype=np.float64),
        group=material if group_key is None else str(frame[group_key]),
    )


def _unpacked(raw: BinaryIO, path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw
