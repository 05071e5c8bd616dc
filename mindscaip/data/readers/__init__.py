"""Readers of data sets, one module per format; :func:`read_source` streams any of them in internal units."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
    _check_exists(path)
    for name in FORMATS:
        if reader_of(name).recognises(path):
            return name
    _check_whole(path)
    raise MindscaipError(
        f"{path} is in no format that is known by its name and first bytes; copy it again if it is damaged, or name "
        f"one with --format: {', '.join(FORMATS)}"
    )


def _check_exists(path: Path) -> None:
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise MindscaipError(f"{path} does not exist{did_you_mean(path.name, siblings)}")


def _check_whole(path: Path) -> None:
    """Raise for a file that no reader recognises because it is empty or cut off."""
    if path.is_file() and path.stat().st_size == 0:
        raise MindscaipError(f"{path} is empty; copy it again")
    if path.suffix.lower() in (".h5", ".hdf5"):
        import h5py

        try:
            h5py.File(path, "r").close()
        except OSError as error:
            raise MindscaipError(f"{path} is cut off, damaged or not an HDF5 file ({error}); copy it again") from error


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


@dataclass(frozen=True)
class SourceSettings:
    """How to read files of any format, as an import and an evaluation are told.

    Attributes:
        options: names of labels, subsets.
        format_name: of all files; None: found from each.
        units: ``energy=hartree,length=bohr``, in place of the format's; None: the format's.
        forces_are_gradients: in place of the format's; None: the format's.
        check: test units and signs on the data.
    """

    options: ReadOptions = field(default_factory=ReadOptions)
    format_name: str | None = None
    units: str | None = None
    forces_are_gradients: bool | None = None
    check: bool = True

    def layout_of(self, path: Path) -> tuple[str, FileUnits]:
        """Format and units of a file: those that are set, else those that the file has.

        Raises:
            MindscaipError: no such file, of no known format, or a unit that is not known.
        """
        _check_exists(path)
        name = self.format_name or format_of(path)
        reader_of(name)
        return name, units_of(path, name).overridden(self.units, self.forces_are_gradients)

    def read(
        self, path: Path, name: str, units: FileUnits, report: Callable[[float], None] | None = None
    ) -> Iterator[Structure]:
        """Stream a file of known layout, in eV and A.

        Raises:
            MindscaipError: as :func:`read_source`.
        """
        options = replace(self.options, declared_units=self.units is not None)
        if report is not None:
            options = replace(options, report=report)
        yield from read_source(path, options, format_name=name, units=units)


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
    _check_exists(path)
    name = format_name or format_of(path)
    units = units or units_of(path, name)
    yield from units.convert(_guarded(path, name, reader_of(name).read(path, options or ReadOptions())))


def _guarded(path: Path, name: str, structures: Iterator[Structure]) -> Iterator[Structure]:
    """The same structures; what a library raises on damaged bytes (there is no end to it) becomes a sentence."""
    try:
        yield from structures
    except MindscaipError:
        raise
    except MemoryError as error:
        raise MindscaipError(
            f"{path} does not fit into memory, or is damaged; copy it again, or read it on a larger machine"
        ) from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise MindscaipError(
            f"{path} is cut off, damaged or not in the format {name} ({reason}); copy it again, or name its format "
            "with --format"
        ) from error
