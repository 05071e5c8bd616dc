"""sGDML archives (``.npz``) of MD17, rMD17, MD22 and their like: one molecule, many frames.

Keys: positions ``R`` or ``coords`` ``[M, N, 3]`` in A, atomic numbers ``z`` or ``nuclear_charges`` ``[N]``, energies
``E`` or ``energies`` in kcal/mol, forces ``F`` or ``forces`` in kcal/mol/A. An archive may name its units in ``e_unit``
and ``r_unit``; where these differ from kcal/mol and A, they hold.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mindscaip.data.readers.base import FileUnits, ReadOptions, pick_key, refuse_keys
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

UNITS = FileUnits(energy="kcal/mol", forces="kcal/mol/Angstrom")
POSITIONS = ("R", "coords", "positions", "xyz")
NUMBERS = ("z", "nuclear_charges", "numbers", "atomic_numbers")
ENERGIES = ("E", "energies", "energy")
FORCES = ("F", "forces")


def recognises(path: Path) -> bool:
    """Whether this is an archive of arrays."""
    return path.suffix.lower() == ".npz"


def units_of(path: Path) -> FileUnits:
    """The units that the archive names, else those of the format."""
    with _open(path) as archive:
        named = {}
        for key, quantity in (("e_unit", "energy"), ("r_unit", "length")):
            if key in archive.files:
                text = archive[key].item()
                named[quantity] = text.decode() if isinstance(text, bytes) else str(text)
    if not named:
        return UNITS
    try:
        return UNITS.overridden(",".join(f"{quantity}={unit}" for quantity, unit in named.items()))
    except MindscaipError as error:
        raise MindscaipError(f"{path} names units in e_unit and r_unit: {error}; save it with known ones") from None


def read(path: Path, options: ReadOptions) -> Iterator[Structure]:
    """Stream the frames, in the units of the file; the group is the molecule's name, else the stem of the file.

    Raises:
        MindscaipError: not an archive of this layout, arrays whose shapes do not fit together.
    """
    where = str(path)
    refuse_keys(options, ("stress_key", "group_key"), "an sGDML archive is one molecule, without stresses", where)
    with _open(path) as archive:
        names = list(archive.files)
        keys = {
            "positions": pick_key(None, POSITIONS, names, "positions", where),
            "numbers": pick_key(None, NUMBERS, names, "atomic numbers", where),
            "energy": pick_key(options.energy_key, ENERGIES, names, "energy", where),
            "forces": pick_key(options.forces_key, FORCES, names, "forces", where),
        }
        missing = [name for name, key in keys.items() if key is None]
        if missing:
            raise MindscaipError(
                f"{path} has no {' and no '.join(missing)}; it has {', '.join(names) or 'nothing'}, so it is not an "
                "archive in the layout of MD17"
            )
        # Each array is one compressed member: it is read whole (MD22's largest is 0.2 GB).
        positions = np.asarray(archive[keys["positions"] or ""], dtype=np.float64)
        numbers = np.asarray(archive[keys["numbers"] or ""]).astype(np.int64)
        energy = np.asarray(archive[keys["energy"] or ""], dtype=np.float64).reshape(-1)
        forces = np.asarray(archive[keys["forces"] or ""], dtype=np.float64)
        group = path.stem
        if "name" in names and archive["name"].size == 1:
            name = archive["name"].item()
            group = name.decode() if isinstance(name, bytes) else str(name)
    frames = len(positions)
    if positions.ndim != 3 or forces.shape != positions.shape or len(energy) != frames:
        raise MindscaipError(
            f"{path}: positions {positions.shape}, forces {forces.shape} and {len(energy)} energies do not belong "
            "together; the archive is damaged"
        )
    if numbers.shape not in ((positions.shape[1],), positions.shape[:2]):
        raise MindscaipError(f"{path}: atomic numbers {numbers.shape} do not fit positions {positions.shape}")
    if not options.wants(group):
        return
    for frame in range(frames):
        if frame % 1000 == 0:
            options.report(frame / frames)
        yield Structure(
            numbers=numbers if numbers.ndim == 1 else numbers[frame][numbers[frame] > 0],
            positions=positions[frame] if numbers.ndim == 1 else positions[frame][numbers[frame] > 0],
            energy=energy[frame],
            forces=forces[frame] if numbers.ndim == 1 else forces[frame][numbers[frame] > 0],
            group=group,
        )


@contextmanager
def _open(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """The archive; what is wrong with it or, on access, with one of its members is said in a sentence."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise MindscaipError(f"{path} holds one bare array, not an archive of named arrays")
        with archive:
            yield archive
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise MindscaipError(f"{path} is cut off, damaged or not an .npz archive ({error}); copy it again") from error
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MindscaipError(
            f"{path} is cut off, damaged or not an .npz archive of numbers ({reason}); copy it again, or save plain "
            "arrays (an array of objects is not read)"
        ) from error
