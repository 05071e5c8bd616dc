"""SPICE's HDF5 layout: one group per molecule, with its conformations, energies and gradients.

``<molecule>/atomic_numbers [N]``, ``conformations [M, N, 3]`` in bohr, ``dft_total_energy [M]`` in Hartree,
``dft_total_gradient [M, N, 3]`` in Hartree/bohr (the gradient: forces are its negative), ``subset``, ``smiles``. Where
the arrays name their units in an attribute ``units``, it must be these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from mindscaip.data.readers.base import FileUnits, ReadOptions, group_name, pick_key, refuse_keys
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.units import unit_factor

UNITS = FileUnits(energy="hartree", length="bohr", forces="hartree/bohr", forces_are_gradients=True)
POSITIONS = "conformations"
NUMBERS = "atomic_numbers"
ENERGIES = ("dft_total_energy",)
GRADIENTS = ("dft_total_gradient",)


def recognises(path: Path) -> bool:
    """Whether this is an HDF5 file whose groups hold conformations."""
    if path.suffix.lower() not in (".h5", ".hdf5"):
        return False
    try:
        with h5py.File(path, "r") as file:
            first = next(iter(file.values()), None)
            return isinstance(first, h5py.Group) and POSITIONS in first and NUMBERS in first
    except (OSError, RuntimeError, KeyError):  # h5py raises any of these on damage
        return False


def read(path: Path, options: ReadOptions) -> Iterator[Structure]:
    """Stream the conformers, in the units of the file; a group is ``subset::molecule``.

    Raises:
        MindscaipError: not this layout, a molecule whose arrays do not fit together, or units declared in the file
            other than the published ones.
    """
    refuse_keys(options, ("stress_key", "group_key"), "SPICE groups by molecule and has no stresses", str(path))
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise MindscaipError(f"{path} is cut off, damaged or not an HDF5 file ({error}); copy it again") from error
    with file:
        total = len(file)
        seen: set[str] = set()
        taken = False
        for count, (name, molecule) in enumerate(file.items()):
            options.report(count / total)
            if not isinstance(molecule, h5py.Group) or POSITIONS not in molecule or NUMBERS not in molecule:
                raise MindscaipError(
                    f"{path}: {name!r} holds no {POSITIONS} and {NUMBERS}; this is not the layout of SPICE"
                )
            subset = _text(molecule["subset"]) if "subset" in molecule else ""
            seen.add(subset)
            if not options.wants(subset):
                continue
            taken = True
            yield from _conformers(path, name, subset, molecule, options)
        if not taken:
            raise MindscaipError(
                f"{path} has no subset like {', '.join(options.subsets)}; it has: {'; '.join(sorted(seen)) or 'none'}"
            )


def _conformers(path: Path, name: str, subset: str, molecule: h5py.Group, options: ReadOptions) -> Iterator[Structure]:
    where = f"{path}: molecule {name!r}"
    present = list(molecule)
    energy_key = pick_key(options.energy_key, ENERGIES, present, "energy", where)
    gradient_key = pick_key(options.forces_key, GRADIENTS, present, "forces", where)
    if not options.declared_units:
        for key, quantity in ((POSITIONS, "length"), (energy_key, "energy"), (gradient_key, "forces")):
            _check_unit(where, molecule, key, quantity)
    numbers = np.asarray(molecule[NUMBERS]).astype(np.int64)
    positions = np.asarray(molecule[POSITIONS], dtype=np.float64)
    count = len(positions)
    energies = np.full(count, np.nan) if energy_key is None else np.asarray(molecule[energy_key], dtype=np.float64)
    gradients = None if gradient_key is None else np.asarray(molecule[gradient_key], dtype=np.float64)
    fits = positions.shape == (count, len(numbers), 3) and len(energies) == count
    if not fits or (gradients is not None and gradients.shape != positions.shape):
        raise MindscaipError(
            f"{where}: {len(numbers)} atoms, positions {positions.shape}, {len(energies)} energies and gradients "
            f"{None if gradients is None else gradients.shape} do not belong together; the file is damaged"
        )
    group = group_name(subset, name)
    for i in range(count):
        yield Structure(
            numbers=numbers,
            positions=positions[i],
            energy=energies[i],
            forces=None if gradients is None else gradients[i],
            group=group,
        )


def _check_unit(where: str, molecule: h5py.Group, key: str | None, quantity: str) -> None:
    declared = molecule[key].attrs.get("units") if key is not None else None
    if declared is None:
        return
    text = declared.decode() if isinstance(declared, bytes) else str(declared)
    expected = getattr(UNITS, quantity)
    try:
        same = bool(np.isclose(unit_factor(quantity, text), unit_factor(quantity, expected)))
    except ValueError:
        same = False
    if not same:
        raise MindscaipError(
            f"{where} declares {key} in {text!r}, SPICE has it in {expected}; name the units with --units "
            f"{'length' if quantity == 'length' else quantity}=..."
        )


def _text(dataset: h5py.Dataset) -> str:
    value = np.asarray(dataset[()]).reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)
