"""Constant-energy (NVE) runs in every engine from one start, and what they say about energy conservation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from ase import units as ase_units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from mindscaip.contract import ExportedModel
from mindscaip.data.structure import Structure
from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.engines.record import NVERecord, check_dynamics, standard_masses
from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, ANGSTROM_PER_FS_TO_ASE_VELOCITY, EV_TO_MEV, KELVIN_TO_EV

FS_PER_NS = 1e6


@dataclass(frozen=True)
class Drift:
    """Energy conservation of a run, per atom.

    Attributes:
        max_deviation: ``max_t |E(t) - E(0)|``, meV/atom.
        end_deviation: ``|E(end) - E(0)|``, meV/atom.
        slope: of a straight-line fit of E(t), meV/atom/ns.
        slope_error: standard error of the slope, meV/atom/ns (NaN for fewer than three frames).
        fluctuation: standard deviation about the line, meV/atom.
    """

    max_deviation: float
    end_deviation: float
    slope: float
    slope_error: float
    fluctuation: float


def drift(record: NVERecord) -> Drift:
    """Drift of the total energy of ``record``."""
    energy = (record.total_eV - record.total_eV[0]) * EV_TO_MEV / record.num_atoms
    time = record.time_fs / FS_PER_NS
    if len(energy) < 2:
        return Drift(0.0, 0.0, 0.0, float("nan"), 0.0)
    slope, intercept = np.polyfit(time, energy, 1)
    residual = energy - (slope * time + intercept)
    degrees = len(energy) - 2
    error = float("nan")
    if degrees > 0:
        error = float(np.sqrt((residual**2).sum() / degrees / ((time - time.mean()) ** 2).sum()))
    return Drift(
        max_deviation=float(np.abs(energy).max()),
        end_deviation=float(abs(energy[-1])),
        slope=float(slope),
        slope_error=error,
        fluctuation=float(residual.std()),
    )


def initial_velocities(structure: Structure, temperature: float, seed: int = 0) -> np.ndarray:
    """Maxwell-Boltzmann velocities without net momentum and, if not periodic, without rotation.

    Scaled so that ``2 E_kin / (f k_B)`` is exactly ``temperature`` over the degrees of freedom f that are left.

    Returns:
        A/fs, float64 ``[N, 3]``; zeros where no degree of freedom is left.
    """
    if temperature < 0 or not np.isfinite(temperature):
        raise MindscaipError(f"temperature {temperature} K: give a number that is not negative")
    masses = standard_masses(structure.numbers)
    rng = np.random.default_rng(seed)
    velocities = rng.normal(size=structure.positions.shape) / np.sqrt(masses)[:, None]
    velocities -= np.average(velocities, axis=0, weights=masses)
    removed = 3
    if not structure.pbc.any():
        positions = structure.positions - np.average(structure.positions, axis=0, weights=masses)
        momentum = (masses[:, None] * np.cross(positions, velocities)).sum(0)
        squares = np.einsum("na,na->n", positions, positions)
        inertia = (masses * squares).sum() * np.eye(3) - np.einsum("n,na,nb->ab", masses, positions, positions)
        # The pseudo-inverse leaves out the axis of a linear molecule, about which nothing can turn.
        omega = np.linalg.pinv(inertia, rcond=1e-10, hermitian=True) @ momentum
        velocities -= np.cross(omega, positions)
        removed += int(np.linalg.matrix_rank(inertia, tol=1e-6, hermitian=True))
    freedom = velocities.size - removed
    kinetic = 0.5 * AMU_ANGSTROM2_PER_FS2_TO_EV * (masses[:, None] * velocities**2).sum()
    if freedom <= 0 or kinetic <= 0:
        return np.zeros_like(velocities)
    return velocities * np.sqrt(0.5 * freedom * KELVIN_TO_EV * temperature / kinetic)


def relax(
    model: ExportedModel | str | os.PathLike, structure: Structure, fmax: float = 0.01, steps: int = 500
) -> Structure:
    """Minimise the model's energy (BFGS, fixed cell) until the largest force is below ``fmax`` (eV/A).

    Raises:
        MindscaipError: not converged after ``steps``.
    """
    atoms = structure.to_ase()
    atoms.calc = MindscaipCalculator(model)
    if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=steps):
        largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        raise MindscaipError(
            f"the relaxation did not converge in {steps} steps (largest force {largest:.3g} eV/A, wanted {fmax}); "
            "start from another structure or loosen fmax"
        )
    return replace(structure, positions=atoms.positions, energy=None, forces=None, stress=None)


def run_nve_ase(
    model: ExportedModel | str | os.PathLike,
    structure: Structure,
    velocities: np.ndarray,
    timestep: float,
    steps: int,
    every: int = 1,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NVERecord:
    """Velocity Verlet in ASE; arguments as those of the other engines (A/fs, fs).

    Raises:
        MindscaipError: a start that :func:`mindscaip.engines.record.check_dynamics` refuses, or a calculation fails.
    """
    velocities = check_dynamics(structure, velocities, timestep, steps, every)
    atoms = structure.to_ase()
    atoms.set_masses(standard_masses(structure.numbers))
    atoms.calc = MindscaipCalculator(model)
    atoms.set_velocities(velocities * ANGSTROM_PER_FS_TO_ASE_VELOCITY)
    frames: list[tuple[int, float, np.ndarray, np.ndarray]] = []
    dynamics = VelocityVerlet(atoms, timestep=timestep * ase_units.fs)

    def record() -> None:
        frames.append(
            (
                dynamics.nsteps,
                atoms.get_potential_energy(),
                atoms.positions.copy(),
                atoms.get_velocities() / ANGSTROM_PER_FS_TO_ASE_VELOCITY,
            )
        )
        if progress is not None:
            progress(dynamics.nsteps, steps)

    dynamics.attach(record, interval=every)
    dynamics.run(steps)
    step, potential, positions, speeds = zip(*frames, strict=True)
    return NVERecord.from_frames(
        engine="ASE",
        step=np.array(step),
        timestep_fs=timestep,
        potential_eV=np.array(potential),
        positions=np.array(positions),
        velocities=np.array(speeds),
        masses=standard_masses(structure.numbers),
    )


def _openmm(*args, **kwargs) -> NVERecord:
    from mindscaip.engines.openmm import run_nve as run

    return run(*args, **kwargs)


def _lammps(*args, **kwargs) -> NVERecord:
    from mindscaip.engines.lammps import run_nve as run

    return run(*args, **kwargs)


ENGINES: dict[str, Callable[..., NVERecord]] = {"ase": run_nve_ase, "openmm": _openmm, "lammps": _lammps}


def run_nve(
    engine: str,
    model: str | os.PathLike,
    structure: Structure,
    velocities: np.ndarray,
    timestep: float,
    steps: int,
    every: int = 1,
    *,
    progress: Callable[[int, int], None] | None = None,
    ranks: int = 1,
) -> NVERecord:
    """Run NVE in the engine of that name (``ase``, ``openmm``, ``lammps``): the same start, the same integrator.

    Args:
        velocities: A/fs, ``[N, 3]``.
        timestep: fs.
        progress: called with the step reached and ``steps`` at each recorded frame.
        ranks: MPI ranks, in LAMMPS only.

    Raises:
        MindscaipError: unknown or missing engine, ranks in an engine that has none, or a run that fails.
    """
    if engine not in ENGINES:
        raise MindscaipError(f"no engine named {engine!r}{did_you_mean(engine, ENGINES)}; known: {', '.join(ENGINES)}")
    options = {}
    if ranks != 1:
        if engine != "lammps":
            raise MindscaipError(f"{ranks} MPI ranks in {engine}: only lammps runs on several; leave the ranks out")
        options["ranks"] = ranks
    return ENGINES[engine](model, structure, velocities, timestep, steps, every, progress=progress, **options)


@dataclass(frozen=True)
class Agreement:
    """How far two records from the same start are apart at each common frame.

    Attributes:
        step: ``[T]``.
        energy: ``|E_a - E_b|`` of the total energy, meV/atom, ``[T]``.
        position: largest distance of an atom from its twin, A, ``[T]``.
    """

    step: np.ndarray
    energy: np.ndarray
    position: np.ndarray


def compare(a: NVERecord, b: NVERecord) -> Agreement:
    """Compare frame by frame.

    Raises:
        MindscaipError: the records hold different steps or numbers of atoms.
    """
    if a.num_atoms != b.num_atoms or not np.array_equal(a.step, b.step):
        raise MindscaipError("the two runs have different steps or numbers of atoms; record them alike to compare them")
    return Agreement(
        step=a.step,
        energy=np.abs(a.total_eV - b.total_eV) * EV_TO_MEV / a.num_atoms,
        position=np.linalg.norm(a.positions - b.positions, axis=2).max(axis=1),
    )
