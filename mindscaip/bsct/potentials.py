"""One interface to whatever is scored: energies and forces for the geometries of a scan.

A potential is named as on the command line: the path of a ``model.pt``, ``gfn2-xtb`` or ``gfn1-xtb``,
``ase:module:callable`` (a callable that returns an ASE calculator), or a short name of
:mod:`mindscaip.bsct.shortnames` such as ``mace-off:small``.
"""

from __future__ import annotations

import hashlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from mindscaip.bsct import shortnames
from mindscaip.bsct.dataset import HDF5_SUFFIXES, Scan, ScanError
from mindscaip.bsct.path import ScanPath
from mindscaip.data.calculators import ASE_PREFIX, resolve_calculator
from mindscaip.data.point import CalculationError, single_point, unpaired_electrons
from mindscaip.data.structure import Structure
from mindscaip.data.xtb import XTB_METHODS
from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.packages import installed_version

ACCEPTED = (
    f"the path of a model.pt, {', '.join(XTB_METHODS)}, ase:module:callable, or a short name "
    f"({', '.join(shortnames.SHORT_NAMES)}, with a variant as in mace-off:small)"
)
MODEL_DENSE = 10
"""Geometries per frame interval by default: what the definition of ``fsd_intrinsic`` asks for."""
CALCULATOR_DENSE = 2
"""The same for calculators, which take a geometry at a time: a smooth potential needs no more (docs/bsct.md)."""

Answer = tuple[np.ndarray, np.ndarray] | MindscaipError
"""Energies in eV, ``[M]``, and forces in eV/A, ``[M, n, 3]``, of a path, or the reason why there are none."""


class PathGapError(ScanError):
    """All frames have an answer, and a geometry between them has none.

    The published metric needs no more than the frames; only what rests on the path is lost.

    Attributes:
        energy: eV, ``[M]``, NaN where there is no answer.
        forces: eV/A, ``[M, n, 3]``, NaN where there is no answer.
    """

    def __init__(self, reason: str, energy: np.ndarray, forces: np.ndarray) -> None:
        super().__init__(reason)
        self.energy, self.forces = energy, forces


@dataclass(frozen=True)
class PotentialSpec:
    """What makes a potential in another process: arguments of :func:`resolve_potential`."""

    name: str
    device: str = "cpu"
    batch_edges: int | None = None


class Potential(ABC):
    """Energies and forces for the geometries of a scan.

    Attributes:
        name: as the user named it.
        identity: what a resumed run must agree on (hash of the file, version of the program), not the path.
        dense: geometries per frame interval unless the user says otherwise.
        spec: how to make it in another process; None when that is impossible.
        parallel: whether several processes on one machine are the way to use its cores.
    """

    dense: int = MODEL_DENSE
    spec: PotentialSpec | None = None
    parallel: bool = False

    def __init__(self, name: str, identity: dict[str, str]) -> None:
        self.name = name
        self.identity = identity

    def check(self, scan: Scan) -> None:
        """Raise :class:`~mindscaip.bsct.dataset.ScanError` when the potential cannot describe the scan's elements."""
        return

    @abstractmethod
    def predict(self, path: ScanPath) -> tuple[np.ndarray, np.ndarray]:
        """Total energies in eV, ``[M]``, and forces in eV/A, ``[M, n, 3]``, of the geometries of ``path``.

        Raises:
            PathGapError: every frame has an answer, and a geometry between frames, which is named, has none.
            MindscaipError: there is no answer for one of them, which is named.
        """

    def predict_many(self, paths: Iterable[ScanPath]) -> Iterator[tuple[ScanPath, Answer, float]]:
        """The answers for ``paths``, in their order, each with the seconds that it took."""
        for path in paths:
            started = time.perf_counter()
            answer: Answer
            try:
                answer = self.predict(path)
            except MindscaipError as error:
                answer = error
            yield path, answer, time.perf_counter() - started


class ModelPotential(Potential):
    """An exported ``model.pt``, evaluated in batches that run across scans."""

    dense = MODEL_DENSE

    def __init__(self, path: str, *, device: str = "cpu", batch_edges: int | None = None) -> None:
        from mindscaip.contract import load_exported

        self.model = load_exported(path, device)
        self.batch_edges = batch_edges
        self.spec = PotentialSpec(path, device, batch_edges)
        self.parallel = device == "cpu"
        contract = self.model.contract
        kind = "conservative" if contract.conservative else "direct"
        super().__init__(path, {"kind": "model.pt", "sha256": contract.sha256, "forces": kind})

    def check(self, scan: Scan) -> None:
        from mindscaip.contract import check_elements

        symbols = sorted({chemical_symbols[z] for z in scan.numbers})
        try:
            check_elements(self.model.contract, symbols, "the scan")
        except MindscaipError as error:
            raise ScanError(str(error)) from None

    def predict(self, path: ScanPath) -> tuple[np.ndarray, np.ndarray]:
        ((_, answer, _),) = self.predict_many([path])
        if isinstance(answer, MindscaipError):
            raise answer
        return answer

    def predict_many(self, paths: Iterable[ScanPath]) -> Iterator[tuple[ScanPath, Answer, float]]:
        from mindscaip.engines.batched import evaluate_stream

        waiting: list[ScanPath] = []

        def structures() -> Iterator[Structure]:
            for path in paths:
                waiting.append(path)
                for positions in path.positions:
                    yield Structure(numbers=path.numbers, positions=positions)

        started = time.perf_counter()
        energy: list[float] = []
        forces: list[np.ndarray] = []
        failures: dict[int, str] = {}
        for answer in evaluate_stream(self.model, structures(), self.batch_edges):
            path = waiting[0]
            place = len(energy)
            if isinstance(answer, MindscaipError):
                failures[place] = str(answer)
                energy.append(np.nan)
                forces.append(np.full((len(path.numbers), 3), np.nan))
            else:
                energy.append(answer.energy)
                forces.append(answer.forces)
            if len(energy) == len(path):
                now = time.perf_counter()
                found = np.array(energy), np.stack(forces)
                yield path, _without_answer(path, failures, *found) or found, now - started
                waiting.pop(0)
                started, energy, forces, failures = time.perf_counter(), [], [], {}


class CalculatorPotential(Potential):
    """A reference calculator or any ASE calculator, geometry by geometry from the middle of the scan outwards.

    Args:
        make: makes the calculator, once for all scans: a learned potential takes longer to load than to evaluate.
    """

    dense = CALCULATOR_DENSE

    def __init__(
        self, name: str, make: Callable[[], Any], identity: dict[str, str], spec: PotentialSpec | None = None
    ) -> None:
        self._make = make
        self._calculator: Any = None
        self.spec = spec
        self.parallel = name in XTB_METHODS
        super().__init__(name, identity)

    @property
    def calculator(self) -> Any:
        """The ASE calculator, made when it is first asked for."""
        if self._calculator is None:
            self._calculator = self._make()
        return self._calculator

    def predict_many(self, paths: Iterable[ScanPath]) -> Iterator[tuple[ScanPath, Answer, float]]:
        """As in the base class; a calculator that cannot be made ends the run instead of failing scan after scan.

        Raises:
            MindscaipError: the calculator cannot be made.
        """
        for path in paths:
            _ = self.calculator
            yield from super().predict_many([path])

    def predict(self, path: ScanPath) -> tuple[np.ndarray, np.ndarray]:
        # The sum of the covalent radii is where a single-reference method converges most easily.
        natural = covalent_radii[path.numbers[list(path.scan.bond_index)]].sum()
        start = int(np.argmin(np.abs(path.bond_length - natural)))

        frames = set(path.frames.tolist())
        failures: dict[int, str] = {}

        def fail(place: int, reason: str) -> None:
            failures[place] = reason
            if place in frames:  # the scan is lost, and with it the reason to go on
                raise ScanError(f"{describe_place(path, place)}: {reason}")

        energy, forces = evaluate_outwards(self.calculator, path.numbers, path.positions, start, fail)
        gaps = _without_answer(path, failures, energy, forces)
        if gaps is not None:
            raise gaps
        return energy, forces


def _without_answer(
    path: ScanPath, failures: dict[int, str], energy: np.ndarray, forces: np.ndarray
) -> ScanError | None:
    """What geometries without an answer (place in the path to reason) mean for their scan; None if there are none."""
    if not failures:
        return None
    frames = set(path.frames.tolist())
    lost = min((place for place in failures if place in frames), default=None)
    if lost is not None:
        return ScanError(f"{describe_place(path, lost)}: {failures[lost]}")
    first = min(failures)
    number = "" if len(failures) == 1 else f" (and {len(failures) - 1} more geometries)"
    return PathGapError(f"{describe_place(path, first)}: {failures[first]}{number}", energy, forces)


def describe_place(path: ScanPath, place: int) -> str:
    """A geometry of a path for people: its frame number (fractional between frames) and bond length."""
    scan = path.scan
    first = scan.frame_index[0] if len(scan.frame_index) else 0
    frame = first + place / path.dense if path.dense else scan.frame_index[place]
    return f"frame {frame:g} (bond length {path.bond_length[place]:.3f} A)"


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
                # Potentials that take charge and spin read them from here: neutral, lowest multiplicity.
                atoms = Atoms(numbers, positions[frame], info={"charge": 0, "spin": 1 + unpaired_electrons(numbers)})
                energy[frame], forces[frame] = single_point(calculator, atoms)
            except CalculationError as error:
                # The first frame is visited twice; a failure there is one failure.
                if frame != start or frames.step > 0:
                    on_failure(frame, str(error))
    return energy, forces


def resolve_potential(name: str, *, device: str = "cpu", batch_edges: int | None = None) -> Potential:
    """Return the potential of this name (see the module).

    Args:
        device: torch device of a ``model.pt`` or of a potential with a short name.
        batch_edges: edges per call of a ``model.pt``; by default what suits the device.

    Raises:
        MindscaipError: no such name or file; says what is accepted, or what to install.
    """
    if batch_edges is not None and batch_edges < 1:
        raise MindscaipError(f"batch-edges {batch_edges} is below 1; give the number of edges per call, such as 2048")
    spec = PotentialSpec(name, device, batch_edges)
    path = Path(name)
    if name in XTB_METHODS or name.startswith(ASE_PREFIX):
        make = resolve_calculator(name)
        return CalculatorPotential(name, make, _calculator_identity(name), spec)
    # A folder of that name is rather one with results of this potential.
    if shortnames.is_short_name(name) and not path.is_file():
        factory = shortnames.resolve_short_name(name, device)
        return CalculatorPotential(name, factory, shortnames.identity(name), spec)
    if path.is_dir():
        raise MindscaipError(f"{name} is a folder; a potential is {ACCEPTED}")
    if path.suffix.lower() in HDF5_SUFFIXES:
        raise MindscaipError(f"{name} is an HDF5 file, not a potential; potentials come first, then the data")
    if path.suffix == ".pt" or path.exists():
        return ModelPotential(name, device=device, batch_edges=batch_edges)
    known = [*XTB_METHODS, *shortnames.SHORT_NAMES]
    raise MindscaipError(f"there is no potential {name!r}{did_you_mean(name, known)}; accepted are {ACCEPTED}")


def _calculator_identity(name: str) -> dict[str, str]:
    if name in XTB_METHODS:
        return {"kind": name, "tblite": installed_version("tblite") or "unknown"}
    # A calculator written by the user changes with its file; resolving the name has imported the module.
    module = sys.modules.get(name.removeprefix(ASE_PREFIX).partition(":")[0])
    source = Path(getattr(module, "__file__", None) or "")
    identity = {"kind": name}
    if source.is_file():
        identity["source_sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    return identity
