"""What all readers of data sets share: options, units, and the stream of structures.

A reader is a module with

* ``UNITS``: the :class:`FileUnits` of its format, as published;
* ``recognises(path)``: whether a file is of its format;
* ``read(path, options)``: the structures one after the other, **in the units of the file**.

Units are converted in one place, :meth:`FileUnits.convert`, which :func:`mindscaip.data.readers.read_source` calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.units import unit_factor

ISOLATED_GROUP = "IsolatedAtom"
"""Group of structures that a file marks as isolated atoms (``config_type=IsolatedAtom`` in extended XYZ)."""
SUBSET_SEPARATOR = "::"


def group_name(subset: str, molecule: str) -> str:
    """The group of a structure: ``subset::molecule``, or the one that is known."""
    return f"{subset}{SUBSET_SEPARATOR}{molecule}" if subset else molecule


def subset_of(group: str) -> str:
    """The subset in a group's name; empty where it has none."""
    return group.partition(SUBSET_SEPARATOR)[0] if SUBSET_SEPARATOR in group else ""


def molecule_of(group: str) -> str:
    """The molecule (or material, or trajectory) in a group's name; empty where it has none."""
    return group.partition(SUBSET_SEPARATOR)[2] if SUBSET_SEPARATOR in group else group


@dataclass(frozen=True)
class FileUnits:
    """Units and signs of a file.

    Attributes:
        energy: unit of the energy.
        length: unit of positions and cell.
        forces: unit of the forces.
        stress: unit of the stress.
        forces_are_gradients: the column of forces holds ``dE/dx``, which is ``-F``.
        stress_is_pressure: the stress is positive under compression (VASP), opposite to ASE's sign.
    """

    energy: str = "eV"
    length: str = "Angstrom"
    forces: str = "eV/Angstrom"
    stress: str = "eV/Angstrom^3"
    forces_are_gradients: bool = False
    stress_is_pressure: bool = False

    def overridden(self, text: str | None, forces_are_gradients: bool | None = None) -> FileUnits:
        """Units with those named in ``text``, ``energy=hartree,length=bohr``, in place of the format's.

        Where the energy or the length is named and the forces (stress) are not, these follow as energy/length
        (energy/length^3).

        Raises:
            MindscaipError: an unknown quantity or unit.
        """
        units = self if forces_are_gradients is None else replace(self, forces_are_gradients=forces_are_gradients)
        given: dict[str, str] = {}
        for item in filter(None, (text or "").split(",")):
            quantity, equals, unit = item.partition("=")
            quantity = quantity.strip()
            known = ("energy", "length", "forces", "stress")
            if not equals or quantity not in known:
                raise MindscaipError(
                    f"--units: {item!r} is not of the form energy=UNIT, length=UNIT, forces=UNIT or stress=UNIT"
                    f"{did_you_mean(quantity, known)}"
                )
            given[quantity] = unit.strip()
        if given:
            energy, length = given.get("energy", self.energy), given.get("length", self.length)
            if "energy" in given or "length" in given:
                given.setdefault("forces", f"{energy}/{length}")
                given.setdefault("stress", f"{energy}/{length}^3")
            for quantity, unit in given.items():
                units = replace(units, **cast(Any, {quantity: unit}))
        units.factors()
        return units

    def factors(self) -> dict[str, float]:
        """Factor of each quantity to internal units, the sign included.

        Raises:
            MindscaipError: an unknown unit.
        """
        try:
            factors = {
                name: unit_factor(name, getattr(self, name)) for name in ("energy", "length", "forces", "stress")
            }
        except ValueError as error:
            raise MindscaipError(f"units: {error}") from None
        if self.forces_are_gradients:
            factors["forces"] *= -1.0
        if self.stress_is_pressure:
            factors["stress"] *= -1.0
        return factors

    def convert(self, structures: Iterator[Structure]) -> Iterator[Structure]:
        """The same structures in eV, A, eV/A, eV/A^3, forces and stress in the project's signs (in place)."""
        factors = self.factors()
        if all(factor == 1.0 for factor in factors.values()):
            yield from structures
            return
        for structure in structures:
            structure.positions = structure.positions * factors["length"]
            structure.cell = structure.cell * factors["length"]
            if structure.energy is not None:
                structure.energy *= factors["energy"]
            if structure.forces is not None:
                structure.forces = structure.forces * factors["forces"]
            if structure.stress is not None:
                structure.stress = structure.stress * factors["stress"]
            yield structure

    def record(self) -> dict[str, Any]:
        """For the provenance of a store."""
        return asdict(self)


@dataclass(frozen=True)
class ReadOptions:
    """How to read a source; ``None`` leaves the choice to the reader.

    Attributes:
        energy_key: name of the energy.
        forces_key: name of the forces (or of the gradient).
        stress_key: name of the stress.
        group_key: name of what says which molecule or material a structure is.
        subsets: names of the subsets to take, whole or in part, upper or lower case; empty: all.
        declared_units: the units are named by the user, so what the file says about them does not stop the reading.
        report: is told how much is done, from 0 to 1, now and then.
    """

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    group_key: str | None = None
    subsets: tuple[str, ...] = ()
    declared_units: bool = False
    report: Callable[[float], None] = field(default=lambda fraction: None)

    def wants(self, subset: str) -> bool:
        """Whether structures of ``subset`` are asked for."""
        return not self.subsets or any(name.lower() in subset.lower() for name in self.subsets)


class Reader(Protocol):
    """A format, as a module."""

    UNITS: FileUnits

    def recognises(self, path: Path) -> bool: ...

    def read(self, path: Path, options: ReadOptions) -> Iterator[Structure]: ...


def refuse_keys(options: ReadOptions, keys: tuple[str, ...], what: str, where: str) -> None:
    """Raise where a name is given for a label that a format does not have, rather than pass over it.

    Args:
        options: as given.
        keys: of ``options``, such as ``stress_key``.
        what: why there is no such label.

    Raises:
        MindscaipError: names the option, its value and the cure.
    """
    for key in keys:
        asked = getattr(options, key)
        if asked is not None:
            raise MindscaipError(
                f"{where}: --{key.replace('_', '-')} {asked} has no meaning here: {what}; leave it out, or read this "
                "file by itself"
            )


def pick_key(asked: str | None, known: tuple[str, ...], present: list[str], label: str, where: str) -> str | None:
    """The name of a label: the one asked for, else the first known one that is there, else None.

    Raises:
        MindscaipError: the one asked for is not there.
    """
    if asked is not None:
        if asked not in present:
            raise MindscaipError(
                f"{where} has no {asked!r} (asked for as {label}){did_you_mean(asked, present)}; it has "
                f"{', '.join(present) or 'nothing'}"
            )
        return asked
    return next((key for key in known if key in present), None)
