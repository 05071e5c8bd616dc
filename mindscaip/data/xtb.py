"""Extended tight binding as a reference: the semi-empirical methods of Grimme's group, through tblite."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mindscaip.data.point import CalculationError, PointCalculator, unpaired_electrons
from mindscaip.errors import MindscaipError
from mindscaip.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

XTB_METHODS = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}
XTB_LAST_ELEMENT = 86


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
        interface, library = import_tblite()
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


def import_tblite() -> tuple[Any, Any]:
    """Return tblite's interface and the handle of its library.

    Raises:
        MindscaipError: it is not installed.
    """
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
