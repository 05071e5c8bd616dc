"""Extended XYZ under any column names, MACE-OFF's and the MPtrj excerpts' among them; eV and A unless told otherwise.

The parser is :mod:`mindscaip.data.formats`; this reader adds what data sets have and single files need not: subsets,
marked isolated atoms, and frames whose labels are missing or not finite, which an import counts and drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mindscaip.data.formats import XYZ_SUFFIXES, XyzReader
from mindscaip.data.readers.base import ISOLATED_GROUP, FileUnits, ReadOptions, group_name
from mindscaip.data.structure import Structure

UNITS = FileUnits()
GROUPS = ("group", "smiles", "molecule", "mp_id", "material_id", "mptrj_traj_id")
SUBSETS = ("subset", "config_type")
_REPORT_EVERY = 500


def recognises(path: Path) -> bool:
    """Whether the file is called as extended XYZ is."""
    return path.suffix.lower() in XYZ_SUFFIXES


def read(path: Path, options: ReadOptions) -> Iterator[Structure]:
    """Stream the frames, in the units of the file; a group is ``subset::molecule`` as far as the frame names them.

    Raises:
        MindscaipError: as :func:`mindscaip.data.formats.read_structures`, but frames may lack labels.
    """
    reader = XyzReader(
        path,
        options.energy_key,
        options.forces_key,
        options.stress_key,
        options.group_key,
        "optional",
        group_keys=GROUPS,
        check_units=not options.declared_units,
        check_finite=False,
    )
    for count, structure in enumerate(reader.read(slice(None))):
        if count % _REPORT_EVERY == 0:
            options.report(reader.fraction())
        subset = next((reader.word(key) for key in SUBSETS if reader.word(key)), "")
        if len(structure) == 1 and subset.lower() in ("isolatedatom", "isolated_atom", "isolated"):
            structure.group = ISOLATED_GROUP
        else:
            if not options.wants(subset):
                continue
            structure.group = group_name(subset, structure.group)
        yield structure
