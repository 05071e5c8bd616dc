"""The unperturbed geometries that scans start from: relaxed with a calculator, or as given."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.optimize import BFGS

from mindscaip.bsct.bridges import bond_type
from mindscaip.bsct.inputs import Source
from mindscaip.bsct.parallel import Failure, Progress, run_tasks
from mindscaip.bsct.records import UNRELAXED, WITH_REFERENCE, BuildSettings
from mindscaip.data.calculators import resolve_calculator
from mindscaip.data.point import CalculationError, single_point
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

RELAX_FMAX = 0.01
"""eV/A, the largest force on an atom."""
RELAX_STEPS = 500
STRETCHED = 1.3
"""A bond longer than this many sums of covalent radii after relaxation is taken for broken."""


@dataclass(frozen=True)
class Molecule:
    """A molecule ready to be scanned: positions in A, energy in eV and forces in eV/A of the reference, steps taken."""

    source: Source
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    steps: int

    @property
    def numbers(self) -> np.ndarray:
        return self.source.numbers


def relax(source: Source, settings: BuildSettings) -> Molecule:
    """Relax one molecule by the settings and label it with the reference.

    Raises:
        CalculationError: no geometry, no answer of a calculator, no convergence, a bond broke.
        MindscaipError: a calculator cannot be made.
    """
    try:
        atoms = Atoms(source.numbers, source.geometry(settings.seed))
    except MindscaipError as error:  # the molecule is at fault, the next time as well
        raise CalculationError(str(error)) from error
    reference = resolve_calculator(settings.reference)()
    steps = 0
    if settings.relaxation != UNRELAXED:
        same = settings.relaxation in (WITH_REFERENCE, settings.reference)
        atoms.calc = reference if same else resolve_calculator(settings.relaxation)()
        single_point(atoms.calc, atoms)
        steps = _descend(atoms)
        _check_bonds(atoms, source)
    energy, forces = single_point(reference, Atoms(atoms.numbers, atoms.positions))
    return Molecule(source, atoms.positions.copy(), energy, forces, steps)


def _descend(atoms: Atoms) -> int:
    optimizer = BFGS(atoms, logfile=None)
    try:
        converged = optimizer.run(fmax=RELAX_FMAX, steps=RELAX_STEPS)
    except MindscaipError:
        raise
    except Exception as error:
        raise CalculationError(f"the relaxation failed with {type(error).__name__}: {error}") from error
    if not converged:
        raise CalculationError(f"the relaxation has forces above {RELAX_FMAX} eV/A after {RELAX_STEPS} steps")
    return int(optimizer.get_number_of_steps())


def _check_bonds(atoms: Atoms, source: Source) -> None:
    for i, j in source.bonds:
        length = float(np.linalg.norm(atoms.positions[i] - atoms.positions[j]))
        if length > STRETCHED * covalent_radii[atoms.numbers[[i, j]]].sum():
            kind = bond_type(atoms.numbers[i], atoms.numbers[j])
            raise CalculationError(f"the relaxation broke the {kind} bond of atoms {i} and {j} ({length:.2f} A)")


def relaxed_file(parts: Path, source: Source, settings: BuildSettings) -> Path:
    """Where a relaxed molecule is kept while a build runs."""
    return parts / "molecules" / f"{source.formula}-{source.identity(settings.seed)}.npz"


def relax_into(source: Source, settings: BuildSettings, file: Path, tick: Any = None) -> None:
    """Relax one molecule and save what :func:`read_relaxed` reads."""
    molecule = relax(source, settings)
    with atomic_path(file) as target:
        np.savez(
            target,
            numbers=molecule.numbers,
            positions=molecule.positions,
            energy=molecule.energy,
            forces=molecule.forces,
            steps=molecule.steps,
        )


def read_relaxed(file: Path, source: Source) -> Molecule | None:
    """The molecule saved in ``file``, or None where there is none."""
    try:
        with np.load(file, allow_pickle=False) as data:
            if not np.array_equal(data["numbers"], source.numbers):
                return None
            return Molecule(source, data["positions"], float(data["energy"]), data["forces"], int(data["steps"]))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def relax_all(
    sources: Sequence[Source],
    settings: BuildSettings,
    parts: Path,
    where: dict[str, Any],
    progress: Progress | None,
) -> tuple[list[Molecule], list[tuple[str, Failure]]]:
    """Relax every molecule that is not yet in ``parts``; return the molecules, and name and failure of the others.

    Args:
        where: ``workers`` and ``dask`` of :func:`~mindscaip.bsct.parallel.run_tasks`.
    """
    files = [relaxed_file(parts, source, settings) for source in sources]
    todo = [k for k, file in enumerate(files) if read_relaxed(file, sources[k]) is None]

    def tick() -> None:
        if progress is not None:
            progress("relax", sum(file.exists() for file in files), len(files))

    failures = run_tasks(relax_into, [(sources[k], settings, files[k]) for k in todo], **where, tick=tick)
    failed = {todo[number]: failure for number, failure in failures.items()}
    molecules: list[Molecule] = []
    for k, source in enumerate(sources):
        if k in failed:
            continue
        molecule = read_relaxed(files[k], source)
        if molecule is None:
            failed[k] = Failure(f"its file {files[k]} cannot be read; do the workers see this folder?", final=False)
        else:
            molecules.append(molecule)
    return molecules, [(sources[k].name, failure) for k, failure in sorted(failed.items())]
