"""LMDB databases of OMat24, OMol25 and their like (``.aselmdb``): rows of ASE, as JSON under zlib.

The layout is that of the package ase-db-backends; it is read here without it, which needs only ``lmdb``. Labels are in
eV, A, eV/A and eV/A^3. What the data sets say of a row (charge, spin, ``data_id``) is in its ``data``.
"""

from __future__ import annotations

import importlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from mindscaip.data.readers.ase_database import row_structure
from mindscaip.data.readers.base import FileUnits, ReadOptions
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

UNITS = FileUnits()
SUFFIXES = (".aselmdb", ".lmdb")
_NO_ROWS = (b"nextid", b"deleted_ids", b"metadata")


def recognises(path: Path) -> bool:
    """Whether the file is called as LMDB databases are."""
    return path.suffix.lower() in SUFFIXES


def read(path: Path, options: ReadOptions) -> Iterator[Structure]:
    """Stream the rows in the order of their number.

    Raises:
        MindscaipError: lmdb is not installed; not a database of this layout.
    """
    try:
        lmdb = importlib.import_module("lmdb")
    except ImportError:
        raise MindscaipError("reading .aselmdb needs lmdb; run: pip install 'mindscaip[datasets]'") from None
    from ase.io.jsonio import decode

    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=True)
    except lmdb.Error as error:
        raise MindscaipError(f"{path} is cut off, damaged or not an LMDB database ({error}); copy it again") from error
    with environment, environment.begin() as transaction:
        # The file is mapped: a page beyond its end would end the process.
        _check_size(path, (environment.info()["last_pgno"] + 1) * environment.stat()["psize"])
        total = max(1, environment.stat()["entries"])
        # Keys are decimal numbers, which LMDB sorts as text.
        ids = sorted(int(key) for key in transaction.cursor().iternext(values=False) if key.isdigit())
        if not ids:
            raise MindscaipError(f"{path} holds no rows of ASE; it is not in the layout of OMat and OMol")
        for done, number in enumerate(ids):
            options.report(done / total)
            where = f"{path}: row {number}"
            try:
                row = decode(zlib.decompress(transaction.get(str(number).encode())).decode())
            except (zlib.error, json.JSONDecodeError, UnicodeDecodeError) as error:
                raise MindscaipError(f"{where} is damaged or not JSON under zlib ({error}); copy it again") from error
            structure = row_structure(row, options, where)
            if structure is not None:
                yield structure


def _check_size(path: Path, needed: int) -> None:
    file = path / "data.mdb" if path.is_dir() else path
    size = file.stat().st_size
    if size < needed:
        raise MindscaipError(f"{path} is cut off: it has {size} of {needed} bytes; copy it again")
