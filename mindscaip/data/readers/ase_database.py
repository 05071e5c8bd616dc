"""ASE databases: SQLite (``.db``) and JSON (``.json``). Labels are in ASE's units, eV, A, eV/A and eV/A^3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mindscaip.data.readers.base import FileUnits, ReadOptions, group_name, pick_key
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

UNITS = FileUnits()
ENERGIES = ("energy",)
FORCES = ("forces",)
STRESSES = ("stress",)
# Names in use, likeliest first, in the key-value pairs or the data of a row.
GROUPS = ("group", "smiles", "molecule", "mp_id", "material_id", "composition")
SUBSETS = ("subset", "data_id", "config_type")
_PEEK = 1 << 16


def recognises(path: Path) -> bool:
    """Whether this is a SQLite file, or JSON as ASE writes it."""
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            start = file.read(_PEEK)
    except OSError:
        return False
    if suffix == ".db":
        return start.startswith(b"SQLite format 3")
    return suffix == ".json" and b'"unique_id"' in start


def read(path: Path, options: ReadOptions) -> Iterator[Structure]:
    """Stream the rows; a group is ``subset::molecule`` as far as key-value pairs or data name them.

    Raises:
        MindscaipError: not a database of ASE.
    """
    import ase.db

    try:
        database = ase.db.connect(path)
        total = max(1, database.count())
        rows = database.select()
        for done, row in enumerate(rows):
            options.report(done / total)
            fields = {key: row[key] for key in row if not key.startswith("_")}
            structure = row_structure({**fields, "data": row.data}, options, f"{path}: row {row.id}")
            if structure is not None:
                yield structure
    except MindscaipError:
        raise
    except Exception as error:  # sqlite3 and json have their own
        raise MindscaipError(
            f"{path} is cut off, damaged or not a database of ASE ({type(error).__name__}: {error}); copy it again"
        ) from error


def row_structure(row: dict[str, Any], options: ReadOptions, where: str) -> Structure | None:
    """One row, with its key-value pairs and data as places to look for labels and names; None if not asked for."""
    fields = {**dict(row.get("data") or {}), **dict(row.get("key_value_pairs") or {}), **row}
    present = [key for key, value in fields.items() if value is not None]
    subset = next((str(fields[key]) for key in SUBSETS if isinstance(fields.get(key), str)), "")
    if not options.wants(subset):
        return None
    group_key = pick_key(options.group_key, GROUPS, present, "group", where)
    energy_key = pick_key(options.energy_key, ENERGIES, present, "energy", where)
    forces_key = pick_key(options.forces_key, FORCES, present, "forces", where)
    stress_key = pick_key(options.stress_key, STRESSES, present, "stress", where)
    forces = None if forces_key is None else np.asarray(fields[forces_key], dtype=np.float64)
    stress = None if stress_key is None else np.asarray(fields[stress_key], dtype=np.float64)
    if stress is not None and stress.size == 6:  # ASE's Voigt order xx yy zz yz xz xy
        stress = stress.reshape(-1)[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    try:
        return Structure(
            numbers=fields["numbers"],
            positions=fields["positions"],
            cell=np.asarray(fields.get("cell", np.zeros((3, 3))), dtype=np.float64).reshape(3, 3),
            pbc=fields.get("pbc", [False] * 3),
            energy=None if energy_key is None else fields[energy_key],
            forces=forces,
            stress=stress,
            group=group_name(subset, str(fields[group_key]) if group_key is not None else ""),
        )
    except KeyError as error:
        raise MindscaipError(f"{where} has no {error.args[0]}; it is not a row of ASE") from None
    except MindscaipError as error:
        raise MindscaipError(f"{where}: {error}") from None
