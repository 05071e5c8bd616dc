"""Reference calculators by name: the methods that make labels and that models are compared with.

``gfn2-xtb`` and ``gfn1-xtb`` are the semi-empirical methods of Grimme's group (:mod:`mindscaip.data.xtb`); ``pyscf``
and ``psi4`` are density functional theory (:mod:`mindscaip.data.quantum`); ``ase:module:callable`` is anything that ASE
can drive. All speak ASE's language: eV, eV/A, Angstrom.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.data import atomic_numbers

from mindscaip.data.point import CalculationError, single_point
from mindscaip.data.quantum import QUANTUM_PROGRAMS, describe_quantum, make_quantum
from mindscaip.data.xtb import XTB, XTB_METHODS, import_tblite
from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.packages import installed_version

ASE_PREFIX = "ase:"


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
        import_tblite()
    elif _is_quantum(name):
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
