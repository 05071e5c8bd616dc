"""What a molecular-dynamics run at constant energy leaves behind, in one form for every engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import atomic_masses

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, KELVIN_TO_EV


def standard_masses(numbers: np.ndarray) -> np.ndarray:
    """Standard atomic masses (ASE's table) in amu, float64 ``[N]``: every engine's NVE uses these."""
    return np.asarray(atomic_masses[np.asarray(numbers, dtype=np.int64)], dtype=np.float64)


def check_dynamics(
    structure: Structure, velocities: np.ndarray, timestep: float, steps: int, every: int = 1
) -> np.ndarray:
    """What every engine asks of the start of a run, before anything is computed; the velocities as float64 ``[N, 3]``.

    Args:
        structure: start.
        velocities: A/fs, ``[N, 3]``.
        timestep: fs.
        steps: number of steps.
        every: steps between recorded frames.

    Raises:
        MindscaipError: velocities of another shape, or not finite; a timestep or a count that cannot be.
    """
    velocities = np.asarray(velocities, dtype=np.float64)
    if velocities.shape != structure.positions.shape:
        raise MindscaipError(f"velocities have shape {velocities.shape}, expected {structure.positions.shape}")
    if not np.isfinite(velocities).all():
        raise MindscaipError("velocities hold a value that is not finite; give numbers in A/fs")
    if not (0 < timestep < np.inf and steps >= 0 and every >= 1):
        raise MindscaipError(
            f"timestep {timestep}, steps {steps}, every {every}: give timestep > 0, steps >= 0, every >= 1"
        )
    return velocities


@dataclass(frozen=True)
class NVERecord:
    """Frames of an NVE run, the start (step 0) included; every array has one entry per recorded frame (T frames).

    Positions are not wrapped into the cell, and velocities belong to the same instant as the positions (velocity
    Verlet, no half-step offset), so that records of different engines compare frame by frame.

    Attributes:
        engine: name and version of the engine, with its platform or precision where that matters.
        step: step count, int64 ``[T]``.
        time_fs: time in fs, float64 ``[T]``.
        potential_eV: total potential energy in eV, float64 ``[T]``.
        kinetic_eV: total kinetic energy in eV, float64 ``[T]``.
        total_eV: their sum in eV, float64 ``[T]``.
        positions: A, float64 ``[T, N, 3]``.
        velocities: A/fs, float64 ``[T, N, 3]``.
        temperature: ``2 E_kin / (3 N k_B)`` in K, float64 ``[T]``: 3 N degrees of freedom, none removed.
    """

    engine: str
    step: np.ndarray
    time_fs: np.ndarray
    potential_eV: np.ndarray
    kinetic_eV: np.ndarray
    total_eV: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    temperature: np.ndarray

    def __post_init__(self) -> None:
        frames = len(self.step)
        for name in ("time_fs", "potential_eV", "kinetic_eV", "total_eV", "positions", "velocities", "temperature"):
            if len(getattr(self, name)) != frames:
                raise ValueError(f"{name} has {len(getattr(self, name))} frames, step has {frames}")

    @classmethod
    def from_frames(
        cls,
        engine: str,
        step: np.ndarray,
        timestep_fs: float,
        potential_eV: np.ndarray,
        positions: np.ndarray,
        velocities: np.ndarray,
        masses: np.ndarray,
    ) -> NVERecord:
        """Complete a record: kinetic energy and temperature follow from ``velocities`` and ``masses`` (amu ``[N]``)."""
        step = np.asarray(step, dtype=np.int64)
        potential_eV = np.asarray(potential_eV, dtype=np.float64)
        velocities = np.asarray(velocities, dtype=np.float64)
        kinetic = 0.5 * AMU_ANGSTROM2_PER_FS2_TO_EV * np.einsum("n,tnc,tnc->t", masses, velocities, velocities)
        return cls(
            engine=engine,
            step=step,
            time_fs=step * float(timestep_fs),
            potential_eV=potential_eV,
            kinetic_eV=kinetic,
            total_eV=potential_eV + kinetic,
            positions=np.asarray(positions, dtype=np.float64),
            velocities=velocities,
            temperature=2.0 * kinetic / (3.0 * velocities.shape[1] * KELVIN_TO_EV),
        )

    @property
    def num_atoms(self) -> int:
        return int(self.positions.shape[1])
