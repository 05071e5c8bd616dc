"""Readers of data sets, one module per format; :func:`read_source` streams any of them in internal units."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from mindscaip.data.readers.base import FileUnits, Reader, ReadOptions
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError, did_you_mean

FORMATS = {
    "extxyz": "extended XYZ with any column names (MACE-OFF, MPtrj)",
    "store": "a store of this package (.h5)",
    "spice": "SPICE's HDF5",
    "sgdml": "sGDML archives .npz (MD17, rMD17, MD22)",
    "chgnet": "MPtrj JSON of CHGNet",
    "ase-db": "ASE database .db or .json",
    "ase-lmdb": "LMDB database .aselmdb (OMat, OMol)",
}
_MODULES = {"ase-db": "ase_database", "ase-lmdb": "ase_lmdb"}


def reader_of(name: str) -> Reader:
    """The reader of a format by name.

    Raises:
        MindscaipError: no such format; names the nearest.
    """
    if name not in FORMATS:
        raise MindscaipError(
            f"there is no format {name!r}{did_you_mean(name, FORMATS)}; the formats are {', '.join(FORMATS)}"
        )
    module = importlib.import_module(f"mindscaip.data.readers.{_MODULES.get(name, name)}")
    return cast(Reader, module)


def format_of(path: Path) -> str:
    """The name of the format of ``path``, by its suffix and first bytes.

    Raises:
        MindscaipError: missing, or of no known format.
    """
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise MindscaipError(f"{path} does not exist{did_you_mean(path.name, siblings)}")
    for name in FORMATS:
        if reader_of(name).recognises(path):
            return name
    raise MindscaipError(
        f"{path} is in no format that is known by its name and first bytes; name one with --format: "
        f"{', '.join(FORMATS)}"
    )


def files_of(source: Path) -> list[Path]:
    """The files of a source: itself, or those with a known suffix in a folder (OMat and OMol come as folders).

    Raises:
        MindscaipError: a folder with no such file.
    """
    if not source.is_dir():
        return [source]
    suffixes = (".aselmdb", ".xyz", ".extxyz", ".h5", ".hdf5", ".npz", ".db")
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in suffixes)
    if not found:
        raise MindscaipError(f"the folder {source} holds no data file; known endings are {', '.join(suffixes)}")
    return found


def units_of(path: Path, name: str) -> FileUnits:
    """The units of a file: those that it declares, else those of its format."""
    if name == "sgdml":
        from mindscaip.data.readers import sgdml

        return sgdml.units_of(path)
    return reader_of(name).UNITS


def read_source(
    path: Path, options: ReadOptions | None = None, *, format_name: str | None = None, units: FileUnits | None = None
) -> Iterator[Structure]:
    """Stream the structures of one file in eV, A, eV/A and eV/A^3.

    Labels may be missing or not finite: that is for the caller to count and drop.

    Args:
        path: the file.
        options: names of the labels, subsets.
        format_name: one of :data:`FORMATS`; by default found from the file.
        units: of the file; by default those that the format or the file declares.

    Raises:
        MindscaipError: missing, damaged, of an unknown format or layout.
    """
    name = format_name or format_of(path)
    units = units or units_of(path, name)
    yield from units.convert(reader_of(name).read(path, options or ReadOptions()))
