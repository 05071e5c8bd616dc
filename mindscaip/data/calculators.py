"""Reference calculators by name: the methods that make labels and that models are compared with.

``gfn2-xtb`` and ``gfn1-xtb`` are the semi-empirical methods of Grimme's group (through tblite); ``pyscf`` and ``psi4``
are density functional theory (:mod:`mindscaip.data.quantum`); ``ase:module:callable`` is anything that ASE can drive.
All speak ASE's language: eV, eV/A, Angstrom.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.data import atomic_numbers, chemical_symbols, ground_state_magnetic_moments

from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.packages import installed_version
from mindscaip.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

XTB_METHODS = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}
XTB_LAST_ELEMENT = 86
QUANTUM_PROGRAMS = ("pyscf", "psi4")
ASE_PREFIX = "ase:"


class CalculationError(MindscaipError):
    """A calculator found no answer for one geometry (no self-consistency, a value that is not finite).

    The geometry is at fault, not the input as a whole: whoever labels many geometries records it and goes on.
    """


@dataclass(frozen=True)
class CalculatorFactory:
    """A calculator's name, checked; calling it makes a new calculator. Travels to other processes as its name."""

    name: str

    def __call__(self) -> BaseCalculator:
        """Return a new calculator.

        Raises:
            MindscaipError: the callable fails or returns something else.
        """
        if self.name in XTB_METHODS:
            return XTB(self.name)
        if _is_quantum(self.name):
            from mindscaip.data.quantum import make_quantum

            return make_quantum(self.name)
        make = _find_callable(self.name)
        try:
            calculator = make()
        except Exception as error:
            raise MindscaipError(f"{self.name} failed with {type(error).__name__}: {error}") from error
        if not isinstance(calculator, BaseCalculator) and not hasattr(calculator, "get_forces"):
            raise MindscaipError(
                f"{self.name} returned a {type(calculator).__name__}, not an ASE calculator; let it return one"
            )
        return calculator


def resolve_calculator(name: str) -> Callable[[], BaseCalculator]:
    """Return what makes calculators of this name.

    Names are ``gfn2-xtb``, ``gfn1-xtb``, ``pyscf`` or ``psi4`` (also with ``:FUNCTIONAL/BASIS``) and
    ``ase:module:callable``, where ``module`` is on the Python path or in the working directory and ``callable`` takes
    no argument and returns an ASE calculator.

    Raises:
        MindscaipError: unknown name; module or callable not found or not callable; the program not installed.
    """
    if name in XTB_METHODS:
        _import_tblite()
    elif _is_quantum(name):
        from mindscaip.data.quantum import make_quantum

        make_quantum(name)
    elif name.startswith(ASE_PREFIX):
        _find_callable(name)
    else:
        known = (*XTB_METHODS, *QUANTUM_PROGRAMS)
        hint = did_you_mean(name, known) or f"; known are {', '.join(known)} and ase:module:callable"
        raise MindscaipError(f"there is no calculator {name!r}{hint}")
    return CalculatorFactory(name)


def describe_calculator(name: str) -> str:
    """The level of theory in words, with the version of the program where it is known."""
    if name in XTB_METHODS:
        found = installed_version("tblite")
        return XTB_METHODS[name] + (f", tblite {found}" if found else "")
    if _is_quantum(name):
        from mindscaip.data.quantum import describe_quantum

        return describe_quantum(name)
    return name


def _is_quantum(name: str) -> bool:
    return name.partition(":")[0] in QUANTUM_PROGRAMS


def _find_callable(name: str) -> Callable[[], Any]:
    module_name, _, attribute = name.removeprefix(ASE_PREFIX).partition(":")
    if not module_name or not attribute:
        raise MindscaipError(f"{name!r} is not of the form ase:module:callable, such as ase:my_module:make_calculator")
    try:
        with _working_directory_on_path():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise MindscaipError(
                f"the module {module_name!r} of {name!r} is neither on the Python path nor in {os.getcwd()}"
            ) from error
        raise MindscaipError(
            f"the module {module_name!r} of {name!r} needs {error.name!r}, which is missing"
        ) from error
    except Exception as error:
        raise MindscaipError(f"the module {module_name!r} of {name!r} fails on import: {error}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise MindscaipError(f"{module_name!r} has no {attribute!r}{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise MindscaipError(
            f"{attribute!r} in {module_name!r} is a {type(found).__name__}; name a callable without arguments that "
            "returns an ASE calculator"
        )
    return found


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """An installed command does not have the working directory on its path as ``python`` has."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def single_point(calculator: BaseCalculator, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Return energy in eV and forces in eV/A, ``[N, 3]``.

    Raises:
        CalculationError: the calculator failed or gave a value that is not finite.
    """
    try:
        energy = float(calculator.get_property("energy", atoms))
        forces = np.array(calculator.get_property("forces", atoms), dtype=np.float64)
    except CalculationError:
        raise
    except Exception as error:
        raise CalculationError(f"the calculator failed with {type(error).__name__}: {error}") from error
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        raise CalculationError(f"the calculator gave a value that is not finite (energy {energy} eV)")
    return energy, forces


def isolated_energies(name: str, symbols: Iterable[str]) -> dict[str, float]:
    """Return the energy of the isolated atom in eV for each element, with the calculator ``name``.

    Raises:
        CalculationError: the calculator has no answer for an atom.
    """
    calculator = resolve_calculator(name)()
    energies = {}
    for symbol in sorted(set(symbols), key=atomic_numbers.__getitem__):
        try:
            energies[symbol] = single_point(calculator, Atoms(symbol, positions=[[0.0, 0.0, 0.0]]))[0]
        except CalculationError as error:
            raise CalculationError(f"{name} has no energy for an isolated {symbol} atom: {error}") from error
    return energies


def unpaired_electrons(numbers: np.ndarray) -> int:
    """Number of unpaired electrons of a neutral system: the ground state of an atom, else 0 or 1 by parity."""
    numbers = np.asarray(numbers)
    if len(numbers) == 1:
        z = int(numbers[0])
        if 57 <= z <= 71:  # xTB has three valence electrons there: the f shell is in the core
            return 1
        return round(ground_state_magnetic_moments[z])
    return int(numbers.sum()) % 2


class PointCalculator(Calculator):
    """A calculator whose results all come from one calculation, :meth:`_compute`."""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results``; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise MindscaipError("the calculator was given no atoms; call it through an ase.Atoms object")
        self.results = self._compute(self.atoms)

    def _compute(self, atoms: Atoms) -> dict[str, Any]:
        """Results of ``atoms`` in ASE's units."""
        raise NotImplementedError


class XTB(PointCalculator):
    """Extended tight binding through tblite, on one thread, silent, neutral systems.

    Every calculation starts from the orbitals of the one before when the atoms are the same (a scan or a trajectory
    then takes fewer iterations); :meth:`forget` starts afresh, so that results do not depend on history. Spin by
    :func:`unpaired_electrons`.

    Args:
        name: ``gfn2-xtb`` or ``gfn1-xtb``.
        accuracy: tblite's; 0.1 converges forces to 1e-5 eV/A at the cost of one more iteration than the default of 1.
        restart: whether to start from the calculation before.

    Raises (when calculating):
        CalculationError: no self-consistency, or an element beyond radon.
    """

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 (ASE's interface)

    def __init__(self, name: str = "gfn2-xtb", *, accuracy: float = 0.1, restart: bool = True) -> None:
        super().__init__()
        self.method = name
        self._tblite_name = XTB_METHODS[name]
        self._accuracy = accuracy
        self._restart = restart
        self._key: tuple[bytes, bytes] | None = None
        self._system: Any = None
        self._result: Any = None

    def forget(self) -> None:
        """Drop the orbitals and results of the calculations so far."""
        self.reset()
        self._key = self._system = self._result = None

    def _compute(self, atoms: Atoms) -> dict[str, Any]:
        key = (atoms.numbers.tobytes(), atoms.pbc.tobytes())
        if not self._restart or key != self._key:
            self._key = self._system = self._result = None
        try:
            result = self._solve(atoms)
        except RuntimeError:
            # The orbitals of another geometry can lead the iterations astray; the atomic guess may still do.
            self._system = self._result = None
            try:
                result = self._solve(atoms)
            except RuntimeError as error:
                self._key = self._system = self._result = None
                reason = " ".join(str(error).split())
                raise CalculationError(f"{self.method} did not converge ({reason})") from error
        self._key, self._result = key, result
        energy = float(result["energy"]) * HARTREE_TO_EV
        gradient = np.array(result["gradient"]) * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
        results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": -gradient}
        if atoms.pbc.all():
            stress = np.array(result["virial"]) * HARTREE_TO_EV / atoms.get_volume()
            results["stress"] = stress.flat[[0, 4, 8, 5, 2, 1]]
        return results

    def _solve(self, atoms: Atoms) -> Any:
        interface, library = _import_tblite()
        positions = atoms.positions / BOHR_TO_ANGSTROM
        periodic = bool(atoms.pbc.any())
        lattice = np.asarray(atoms.cell) / BOHR_TO_ANGSTROM if periodic else None
        if atoms.numbers.max() > XTB_LAST_ELEMENT:
            symbol = chemical_symbols[atoms.numbers.max()]
            raise CalculationError(f"{self.method} has no parameters for {symbol}; it ends at Rn")
        with _one_thread(library):
            if self._system is None:
                self._system = interface.Calculator(
                    self._tblite_name,
                    atoms.numbers,
                    positions,
                    charge=0.0,
                    uhf=unpaired_electrons(atoms.numbers),
                    lattice=lattice,
                    periodic=atoms.pbc if periodic else None,
                )
                self._system.set("verbosity", 0)
                self._system.set("accuracy", self._accuracy)
            else:
                self._system.update(positions=positions, lattice=lattice)
            return self._system.singlepoint(self._result)


def _import_tblite() -> tuple[Any, Any]:
    """Return tblite's interface and the handle of its library."""
    try:
        from tblite import _libtblite, interface
    except ImportError as error:
        raise MindscaipError(
            f"xTB needs tblite, which does not load ({error}); run: pip install 'mindscaip[label]'"
        ) from error
    return interface, ctypes.CDLL(_libtblite.__file__)


@contextmanager
def _one_thread(library: ctypes.CDLL) -> Iterator[None]:
    """Keep OpenMP to one thread within the block.

    Molecules are too small to share among threads, and several workers would fight for the cores. The number is set in
    the OpenMP library that tblite is bound to, for the calling thread only, and set back, because torch may share it.
    """
    try:
        get, put = library.omp_get_max_threads, library.omp_set_num_threads
    except AttributeError:  # built without OpenMP
        yield
        return
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)
