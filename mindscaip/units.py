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
