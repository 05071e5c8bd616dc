"""Density functional theory as a reference: PySCF (density fitting) and Psi4, both behind ASE's interface.

Named ``pyscf`` or ``psi4``, with a functional and a basis of one's own as in ``pyscf:pbe0/def2-svp``. The default is
wB97M-D3(BJ)/def2-TZVPPD, the level of SPICE and of the published bond scans. Molecules are neutral closed shells in a
vacuum, spin restricted, as published.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mindscaip.data.point import CalculationError, PointCalculator, unpaired_electrons
from mindscaip.errors import MindscaipError
from mindscaip.packages import installed_version
from mindscaip.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

QUANTUM_PROGRAMS = ("pyscf", "psi4")
DEFAULT_FUNCTIONAL, DEFAULT_BASIS = "wb97m-d3bj", "def2-tzvppd"
HARTREE_FOCK = "hf"

COARSE_GRID, GRID = 1, 3
"""PySCF's levels. Iterations start on the coarse grid, which costs a third; all that is reported is of the fine one."""
COARSE_TOLERANCE, TOLERANCE = 1e-8, 1e-8
"""Change of the energy in Hartree between two iterations."""
MAX_CYCLES = 60
LEVEL_SHIFT = 0.3
"""Hartree; raises the empty orbitals when plain iterations do not settle."""
LAST_WITHOUT_CORE_POTENTIAL = 36
"""Krypton: heavier elements have effective core potentials in the def2 bases."""


@dataclass(frozen=True)
class Level:
    """A program, a functional and a basis."""

    program: str
    functional: str
    basis: str

    def __str__(self) -> str:
        return f"{self.program}:{self.functional}/{self.basis}"


def parse_level(name: str) -> Level:
    """Read ``pyscf``, ``pyscf:pbe0`` or ``pyscf:pbe0/def2-svp`` (or ``psi4`` in its place).

    Raises:
        MindscaipError: another form.
    """
    program, colon, rest = name.partition(":")
    functional, slash, basis = rest.partition("/")
    if program not in QUANTUM_PROGRAMS or (colon and not functional) or (slash and not basis):
        raise MindscaipError(f"{name!r} is not of the form {program}:FUNCTIONAL/BASIS, such as {program}:pbe0/def2-svp")
    return Level(program, (functional or DEFAULT_FUNCTIONAL).lower(), (basis or DEFAULT_BASIS).lower())


def make_quantum(name: str) -> PointCalculator:
    """Return the calculator of this name (see the module).

    Raises:
        MindscaipError: the program is not installed, or does not know the functional or the basis.
    """
    level = parse_level(name)
    return PySCF(level.functional, level.basis) if level.program == "pyscf" else Psi4(level.functional, level.basis)


def describe_quantum(name: str) -> str:
    """The level of theory in words, with the version of the program."""
    level = parse_level(name)
    if level.program == "psi4":
        return f"{level.functional}/{level.basis}, Psi4 {_psi4().__version__}"
    words = f"{level.functional}/{level.basis}, spin restricted, density fitting, grid level {GRID}"
    found = installed_version("pyscf-dispersion") if "-d" in level.functional else None
    dispersion = f", pyscf-dispersion {found}" if found else ""
    return f"{words}, PySCF {installed_version('pyscf')}{dispersion}"


class PySCF(PointCalculator):
    """Kohn-Sham or Hartree-Fock theory by PySCF with density fitting; closed shells, neutral, in a vacuum.

    A calculation starts from the orbitals of the one before when the atoms are the same, made orthonormal in the new
    geometry. Where this does not converge it starts again from atomic densities, then with raised empty orbitals, then
    by second-order steps. The number of threads is that of ``OMP_NUM_THREADS``.

    Args:
        functional: as PySCF names it (``hf`` for Hartree-Fock); ``-d3bj`` and ``-d4`` need pyscf-dispersion.
        basis: as PySCF names it.

    Raises:
        MindscaipError: PySCF is not installed, or does not know the functional or the basis.
        CalculationError (when calculating): no self-consistency, odd number of electrons, no basis for an element.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's interface)

    def __init__(self, functional: str = DEFAULT_FUNCTIONAL, basis: str = DEFAULT_BASIS) -> None:
        super().__init__()
        self.functional, self.basis = functional, basis
        self._orbitals: np.ndarray | None = None
        self._key: bytes = b""
        self._check()

    def _check(self) -> None:
        """Refuse a functional or basis that PySCF does not know before hours go into a relaxation."""
        pyscf = _pyscf()
        if self.functional != HARTREE_FOCK:
            from pyscf.scf import dispersion

            try:
                functional, _, correction = dispersion.parse_dft(self.functional)
                pyscf.dft.libxc.parse_xc(functional)
            except Exception as error:
                raise MindscaipError(f"PySCF does not know the functional {self.functional!r} ({error})") from None
            if correction and dispersion.dispersion is None:
                raise MindscaipError(
                    f"the dispersion of {self.functional} needs pyscf-dispersion, which is not installed; run: "
                    "pip install 'mindscaip[pyscf]'"
                )
        try:
            with _no_warnings():
                pyscf.gto.basis.load(self.basis, "C")
        except Exception:
            raise MindscaipError(f"PySCF does not know the basis {self.basis!r}; give one such as def2-svp") from None

    @property
    def guess(self) -> np.ndarray | None:
        """What the next calculation of the same atoms starts from: occupied orbitals, ``[functions, occupied]``."""
        return self._orbitals

    def set_guess(self, guess: np.ndarray, numbers: np.ndarray) -> None:
        """Start from orbitals saved earlier (:attr:`guess`) for the atoms ``numbers``."""
        self._orbitals, self._key = np.asarray(guess, dtype=np.float64), np.asarray(numbers, np.int64).tobytes()

    def forget(self) -> None:
        """Drop the orbitals and results of the calculations so far."""
        self.reset()
        self._orbitals, self._key = None, b""

    def _compute(self, atoms: Atoms) -> dict[str, Any]:
        numbers = np.asarray(atoms.numbers, np.int64)
        _check_closed_shell(atoms, str(Level("pyscf", self.functional, self.basis)))
        molecule = self._molecule(atoms)
        orbitals = self._orbitals if self._key == numbers.tobytes() else None
        if orbitals is not None and orbitals.shape[0] != molecule.nao:
            orbitals = None
        field = self._solve(molecule, orbitals)
        gradient = field.nuc_grad_method().kernel()
        self._orbitals, self._key = field.mo_coeff[:, field.mo_occ > 0], numbers.tobytes()
        energy = float(field.e_tot) * HARTREE_TO_EV
        forces = -np.asarray(gradient) * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
        return {"energy": energy, "free_energy": energy, "forces": forces}

    def _molecule(self, atoms: Atoms) -> Any:
        pyscf = _pyscf()
        symbols = atoms.get_chemical_symbols()
        potentials = {}
        for z in sorted(set(atoms.numbers.tolist())):
            if z > LAST_WITHOUT_CORE_POTENTIAL:
                with contextlib.suppress(Exception), _no_warnings():  # an all-electron basis has none
                    pyscf.gto.basis.load_ecp(self.basis, chemical_symbols[z])
                    potentials[chemical_symbols[z]] = self.basis
        molecule = pyscf.gto.Mole(
            atom=list(zip(symbols, (atoms.positions / BOHR_TO_ANGSTROM).tolist(), strict=True)),
            unit="Bohr",
            basis=self.basis,
            ecp=potentials,
            verbose=0,
        )
        try:
            # Not the arguments of the command line: PySCF would read them as its own.
            with _no_warnings():
                return molecule.build(dump_input=False, parse_arg=False)
        except Exception as error:
            raise CalculationError(f"PySCF cannot set up the molecule with {self.basis}: {error}") from error

    def _field(self, molecule: Any, grid: int, tolerance: float, fitted: Any = None) -> Any:
        """A field to iterate; the fitted integrals of ``fitted`` (another field of the molecule) are used again."""
        pyscf = _pyscf()
        if self.functional == HARTREE_FOCK:
            field = pyscf.scf.RHF(molecule).density_fit()
        else:
            field = pyscf.dft.RKS(molecule, xc=self.functional).density_fit()
            field.grids.level = grid
        if fitted is not None:
            field.with_df = fitted.with_df
        field.conv_tol, field.max_cycle, field.chkfile = tolerance, MAX_CYCLES, None
        return field

    def _solve(self, molecule: Any, orbitals: np.ndarray | None) -> Any:
        """The converged field, by the cheapest way that converges."""
        starts = [None] if orbitals is None else [_density(molecule, orbitals), None]
        coarse = None
        for start in starts:
            if self.functional != HARTREE_FOCK:
                coarse = self._field(molecule, COARSE_GRID, COARSE_TOLERANCE, coarse)
                coarse.conv_check = False  # one iteration more, for nothing here
                coarse.kernel(dm0=start)
                if not coarse.converged:
                    continue
                start = coarse.make_rdm1()
            field = self._field(molecule, GRID, TOLERANCE, coarse)
            field.kernel(dm0=start)
            if field.converged:
                return field
        field = self._field(molecule, GRID, TOLERANCE)
        field.level_shift = LEVEL_SHIFT
        field.kernel(dm0=starts[0])
        if not field.converged:
            field.level_shift = 0.0
            field = field.newton()
            field.kernel(dm0=field.make_rdm1())
        if not field.converged:
            raise CalculationError(
                f"{self.functional}/{self.basis} did not converge: {MAX_CYCLES} iterations each from the neighbour, "
                "from atoms, with raised empty orbitals, and second-order steps"
            )
        return field


def _density(molecule: Any, orbitals: np.ndarray) -> Any:
    """The density of occupied orbitals of a neighbouring geometry, made orthonormal in this one."""
    from pyscf import lib

    overlap = orbitals.T @ molecule.intor("int1e_ovlp") @ orbitals
    values, vectors = np.linalg.eigh(overlap)
    orthonormal = orbitals @ (vectors / np.sqrt(np.maximum(values, 1e-8))) @ vectors.T
    # With the orbitals at hand PySCF finds the density on its grid several times faster than from the matrix.
    return lib.tag_array(
        2 * orthonormal @ orthonormal.T, mo_coeff=orthonormal, mo_occ=np.full(orthonormal.shape[1], 2.0)
    )


class Psi4(PointCalculator):
    """Any functional and basis of Psi4; closed shells, neutral, in a vacuum. Its number of threads is Psi4's own.

    Raises:
        MindscaipError: Psi4 is not installed.
        CalculationError (when calculating): as Psi4 says.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's interface)

    def __init__(self, functional: str = DEFAULT_FUNCTIONAL, basis: str = DEFAULT_BASIS) -> None:
        super().__init__()
        self.functional, self.basis = functional, basis
        _psi4().core.be_quiet()

    def _compute(self, atoms: Atoms) -> dict[str, Any]:
        psi4, level = _psi4(), Level("psi4", self.functional, self.basis)
        _check_closed_shell(atoms, str(level))
        rows = [
            f"{symbol} {x:.14f} {y:.14f} {z:.14f}"
            for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions / BOHR_TO_ANGSTROM, strict=True)
        ]
        # Psi4 would move and turn the molecule, and the forces with it.
        molecule = psi4.geometry("\n".join(["0 1", *rows, "units bohr", "no_com", "no_reorient", "symmetry c1"]))
        try:
            gradient, state = psi4.gradient(f"{self.functional}/{self.basis}", molecule=molecule, return_wfn=True)
        except Exception as error:
            raise CalculationError(f"{level} failed: {' '.join(str(error).split())[:300]}") from error
        finally:
            psi4.core.clean()
        energy = float(state.energy()) * HARTREE_TO_EV
        forces = -np.asarray(gradient) * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
        return {"energy": energy, "free_energy": energy, "forces": forces}


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Where PySCF misses a basis it also advertises another package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_closed_shell(atoms: Atoms, level: str) -> None:
    electrons = int(atoms.numbers.sum())
    unpaired = unpaired_electrons(atoms.numbers)
    if unpaired and electrons % 2 == 0:
        raise CalculationError(
            f"an isolated {atoms.get_chemical_formula()} atom has {unpaired} unpaired electrons; {level} is spin "
            "restricted and takes closed shells only"
        )
    if unpaired:
        raise CalculationError(
            f"{atoms.get_chemical_formula()} has {electrons} electrons; {level} is spin restricted and takes neutral "
            "closed shells only"
        )
    if atoms.pbc.any():
        raise CalculationError(f"{level} takes molecules without periodic boundaries only")


def _pyscf() -> Any:
    try:
        import pyscf
        import pyscf.dft
        import pyscf.gto
        import pyscf.scf
    except ImportError as error:
        raise MindscaipError(
            f"the reference pyscf needs PySCF, which does not load ({error}); run: pip install 'mindscaip[pyscf]'"
        ) from error
    return pyscf


def _psi4() -> Any:
    try:
        import psi4
    except ImportError as error:
        raise MindscaipError(
            f"the reference psi4 needs Psi4, which does not load ({error}); run: conda install -c conda-forge psi4, or "
            "use the reference pyscf, which pip installs"
        ) from error
    return psi4
