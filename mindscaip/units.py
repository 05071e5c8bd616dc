"""The only Python home of physical constants and unit conversions.

Internal units: Angstrom, eV, eV/Angstrom, fs, K, amu. A conversion factor ``X_TO_Y`` multiplies a number in ``X`` to
give the number in ``Y``. Values come from ``ase.units`` (CODATA 2014), so that numbers agree with ASE to rounding. The
C++ plugins keep their factors in ``plugins/lammps/units.h``; a test compares the two.
"""

from __future__ import annotations

from ase import units as _ase

EV_TO_KJ_PER_MOL: float = _ase.mol / _ase.kJ
"""OpenMM's energy unit."""
EV_TO_KCAL_PER_MOL: float = _ase.mol / _ase.kcal
"""Energy unit of LAMMPS ``units real`` and of the sGDML files."""
HARTREE_TO_EV: float = _ase.Hartree
BOHR_TO_ANGSTROM: float = _ase.Bohr
HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM: float = _ase.Hartree / _ase.Bohr
KCAL_PER_MOL_TO_EV: float = _ase.kcal / _ase.mol
ANGSTROM_TO_NM: float = 0.1
NM_TO_ANGSTROM: float = 10.0
EV_PER_ANGSTROM3_TO_GPA: float = 1.0 / _ase.GPa
EV_PER_ANGSTROM3_TO_BAR: float = 1.0 / _ase.bar
KELVIN_TO_EV: float = _ase.kB
"""Boltzmann's constant in eV/K."""
FS_TO_ASE_TIME: float = _ase.fs
"""ASE counts time in Angstrom * sqrt(amu / eV)."""
ANGSTROM_PER_FS_TO_ASE_VELOCITY: float = 1.0 / _ase.fs
AMU_ANGSTROM2_PER_FS2_TO_EV: float = 1.0 / _ase.fs**2
"""Kinetic energy: ``0.5 * m[amu] * v[A/fs]**2`` times this factor is in eV."""
EV_TO_MEV: float = 1000.0

ENERGY_UNITS: dict[str, float] = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": HARTREE_TO_EV,
    "rydberg": HARTREE_TO_EV / 2.0,
    "kcal/mol": KCAL_PER_MOL_TO_EV,
    "kj/mol": 1.0 / EV_TO_KJ_PER_MOL,
}
"""Energy units that data files come in, in eV."""
LENGTH_UNITS: dict[str, float] = {"angstrom": 1.0, "bohr": BOHR_TO_ANGSTROM, "nm": NM_TO_ANGSTROM}
"""Length units that data files come in, in A."""
PRESSURE_UNITS: dict[str, float] = {
    "gpa": _ase.GPa,
    "kbar": 1e3 * _ase.bar,
    "bar": _ase.bar,
    "pa": _ase.Pascal,
}
"""Pressure units that stresses come in, in eV/A^3."""
_OTHER_NAMES = {
    "ha": "hartree",
    "eh": "hartree",
    "hartrees": "hartree",
    "ry": "rydberg",
    "kcal": "kcal/mol",
    "kcalmol": "kcal/mol",
    "kj": "kj/mol",
    "a": "angstrom",
    "å": "angstrom",
    "aa": "angstrom",
    "ang": "angstrom",
    "angstroms": "angstrom",
    "bohrs": "bohr",
    "a0": "bohr",
    "nanometer": "nm",
}


def unit_factor(quantity: str, unit: str) -> float:
    """What a number in ``unit`` is multiplied by to be in internal units.

    Args:
        quantity: ``energy``, ``length``, ``forces`` or ``stress``.
        unit: a name, upper or lower case: ``hartree``, ``kcal/mol``, ``bohr``, ``hartree/bohr``, ``GPa``,
            ``eV/Angstrom^3``.

    Raises:
        ValueError: the unit is not known for the quantity; the message lists the known ones.
    """
    text = unit.strip().lower().replace(" ", "").replace("**", "^").replace("·", "*")
    if quantity == "energy":
        return _named(text, ENERGY_UNITS, unit, "energy")
    if quantity == "length":
        return _named(text, LENGTH_UNITS, unit, "length")
    if quantity == "stress" and text in PRESSURE_UNITS:
        return PRESSURE_UNITS[text]
    energy, slash, length = text.rpartition("/")
    power = 3 if quantity == "stress" else 1
    if power == 3:
        length = length.removesuffix("^3").removesuffix("3").removesuffix("³")
    if not slash:
        form = "energy/length" if power == 1 else f"energy/length^3 nor one of {', '.join(PRESSURE_UNITS)}"
        raise ValueError(f"{unit!r} is not of the form {form}")
    return _named(energy, ENERGY_UNITS, unit, quantity) / _named(length, LENGTH_UNITS, unit, quantity) ** power


def _named(text: str, table: dict[str, float], unit: str, quantity: str) -> float:
    name = _OTHER_NAMES.get(text, text)
    if name not in table:
        raise ValueError(f"{unit!r} is not a unit of {quantity}: {text!r} is none of {', '.join(table)}")
    return table[name]
