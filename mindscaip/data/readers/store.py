"""Stores of this package as a source: to merge them, or to filter one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py

from mindscaip.data.readers.base import FileUnits, ReadOptions, refuse_keys, subset_of
from mindscaip.data.store import FORMAT, Store
from mindscaip.data.structure import Structure

UNITS = FileUnits()


def recognises(path: Path) -> bool:
    """Whether this is a store of this package."""
    if path.suffix.lower() not in (".h5", ".hdf5"):
        return False
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("format") == FORMAT
    except (OSError, RuntimeError, KeyError):  # h5py raises any of these on damage
        return False


def read(path: Path, options: ReadOptions) -> Iterator[Structure]:
    """Stream the structures; a subset is what stands before ``::`` in a group's name.

    Raises:
        MindscaipError: damaged, or from a newer version.
    """
    keys = ("energy_key", "forces_key", "stress_key", "group_key")
    refuse_keys(options, keys, "the names in a store are fixed", str(path))
    with Store(path) as store:
        for index, structure in enumerate(store):
            if index % 1000 == 0:
                options.report(index / len(store))
            if options.wants(subset_of(structure.group) or structure.group):
                yield structure
