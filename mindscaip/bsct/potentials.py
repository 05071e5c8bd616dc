"""One interface to whatever is scored: energies and forces for the frames of a scan.

A potential is named as on the command line: the path of a ``model.pt``, ``gfn2-xtb`` or ``gfn1-xtb``, or
``ase:module:callable`` (a callable that returns an ASE calculator).
"""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from mindscaip.bsct.dataset import Scan, ScanError
from mindscaip.data.calculators import ASE_PREFIX, XTB_METHODS, CalculationError, resolve_calculator, single_point
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError, did_you_mean

ACCEPTED = "the path of a model.pt, " + ", ".join(XTB_METHODS) + " or ase:module:callable"


class Potential(ABC):
    """Energies and forces for the frames of a scan.

    Attributes:
        name: as the user named it.
        identity: what a resumed run must agree on (hash of the file, version of the program), not the path.
    """

    def __init__(self, name: str, identity: dict[str, str]) -> None:
        self.name = name
        self.identity = identity

    def check(self, scan: Scan) -> None:
        """Raise :class:`~mindscaip.bsct.dataset.ScanError` when the potential cannot describe the scan's elements."""
        return

    @abstractmethod
    def predict(self, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
        """Total energies in eV, ``[K]``, and forces in eV/A, ``[K, n, 3]``, of the frames of ``scan``.

        Raises:
            MindscaipError: there is no answer for one of the frames, which is named.
        """


class ModelPotential(Potential):
    """An exported ``model.pt``, evaluated in batches of frames."""

    def __init__(self, path: str, *, device: str = "cpu", batch_size: int | None = None) -> None:
        from mindscaip.contract import load_exported
        from mindscaip.engines.batched import DEFAULT_BATCH_SIZE

        self.model = load_exported(path, device)
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        super().__init__(path, {"kind": "model.pt", "sha256": self.model.contract.sha256})

    def check(self, scan: Scan) -> None:
        from mindscaip.contract import check_elements

        symbols = sorted({chemical_symbols[z] for z in scan.numbers})
        try:
            check_elements(self.model.contract, symbols, "the scan")
        except MindscaipError as error:
            raise ScanError(str(error)) from None

    def predict(self, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
        from mindscaip.engines.batched import evaluate

        frames = [Structure(numbers=scan.numbers, positions=positions) for positions in scan.positions]
        found = evaluate(self.model, frames, self.batch_size)
        return np.array([p.energy for p in found]), np.stack([p.forces for p in found])


class CalculatorPotential(Potential):
    """A reference calculator or any ASE calculator, frame by frame from the middle of the scan outwards."""

    def __init__(self, name: str) -> None:
        self._make = resolve_calculator(name)
        self._calculator: Any = None
        super().__init__(name, _calculator_identity(name))

    def predict(self, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
        if self._calculator is None:
            # Once for all scans: a learned potential takes longer to load than to evaluate.
            self._calculator = self._make()
        # The sum of the covalent radii is where a single-reference method converges most easily.
        natural = covalent_radii[scan.numbers[list(scan.bond_index)]].sum()
        start = int(np.argmin(np.abs(scan.bond_length - natural)))

        def fail(frame: int, reason: str) -> None:
            raise ScanError(f"frame {scan.frame_index[frame]} (bond length {scan.bond_length[frame]:.3f} A): {reason}")

        return evaluate_outwards(self._calculator, scan.numbers, scan.positions, start, fail)


def evaluate_outwards(
    calculator: Any,
    numbers: np.ndarray,
    positions: np.ndarray,
    start: int,
    on_failure: Callable[[int, str], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate the frames of a scan from ``start`` to the last, then from ``start`` to the first.

    Neighbours follow each other, so that a self-consistent calculator starts from the orbitals next door; each
    direction starts afresh at ``start``, so that results do not depend on what was calculated before.

    Args:
        calculator: an ASE calculator; its ``forget`` (or ``reset``) is called at the start of each direction.
        positions: A, ``[K, n, 3]``.
        on_failure: called with frame and reason when there is no answer; the frame is NaN unless it raises.

    Returns:
        energies in eV, ``[K]``, and forces in eV/A, ``[K, n, 3]``.
    """
    count = len(positions)
    energy = np.full(count, np.nan)
    forces = np.full(positions.shape, np.nan)
    for frames in (range(start, count), range(start, -1, -1)):
        forget = getattr(calculator, "forget", None) or getattr(calculator, "reset", None)
        if forget is not None:
            forget()
        for frame in frames:
            try:
                energy[frame], forces[frame] = single_point(calculator, Atoms(numbers, positions[frame]))
            except CalculationError as error:
                # The first frame is visited twice; a failure there is one failure.
                if frame != start or frames.step > 0:
                    on_failure(frame, str(error))
    return energy, forces


def resolve_potential(name: str, *, device: str = "cpu", batch_size: int | None = None) -> Potential:
    """Return the potential of this name (see the module).

    Args:
        device: torch device of a ``model.pt``.
        batch_size: frames per call of a ``model.pt``.

    Raises:
        MindscaipError: no such name or file; says what is accepted.
    """
    if batch_size is not None and batch_size < 1:
        raise MindscaipError(f"batch size {batch_size} is below 1; give 1 or more frames")
    if name in XTB_METHODS or name.startswith(ASE_PREFIX):
        return CalculatorPotential(name)
    path = Path(name)
    if path.is_dir():
        raise MindscaipError(f"{name} is a folder; a potential is {ACCEPTED}")
    if path.suffix == ".pt" or path.exists():
        return ModelPotential(name, device=device, batch_size=batch_size)
    raise MindscaipError(f"there is no potential {name!r}{did_you_mean(name, XTB_METHODS)}; accepted are {ACCEPTED}")


def _calculator_identity(name: str) -> dict[str, str]:
    if name in XTB_METHODS:
        return {"kind": name, "tblite": _version("tblite")}
    # A calculator written by the user changes with its file; resolving the name has imported the module.
    module = sys.modules.get(name.removeprefix(ASE_PREFIX).partition(":")[0])
    source = Path(getattr(module, "__file__", None) or "")
    identity = {"kind": name}
    if source.is_file():
        identity["source_sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    return identity


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
