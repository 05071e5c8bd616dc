"""What a molecular-dynamics run at constant energy leaves behind, in one form for every engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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

    @property
    def num_atoms(self) -> int:
        return int(self.positions.shape[1])
