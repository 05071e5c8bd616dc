"""The Force Smoothness Deviation (FSD) of one bond scan, as published, with the errors that it never stands without.

For a scan of ``K`` frames with bond lengths ``L_k`` (frames without a finite reference are dropped before):

    j0      = argmin_k E_ref(k)                                   frame of lowest reference energy
    R       = F_ref(j0)                                           eV/A, [n, 3], of the reference in both cases
    s_X(k)  = sum over atoms and components of (F_X(k) - R)^2     (eV/A)^2, Eq. 2, X = model or reference
    l(k)    = ln max(s_model(k), 1) - ln max(s_ref(k), 1)         floor of 1 (eV/A)^2
    FSD     = max_k |l(k+1) - l(k)| / (L_(k+1) - L_k)             1/A, Eq. 3

Compress uses frames 0..j0, stretch frames j0..K-1. The derivative is with respect to the bond length (the paper's
``alpha`` is half of its change). A data set's value is the plain mean over its scans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindscaip.bsct.dataset import Scan
from mindscaip.errors import MindscaipError

FLOOR = 1.0
"""(eV/A)^2, the floor of ``s`` in the published metric."""


@dataclass(frozen=True)
class Peak:
    """Where a maximum of ``|dl/dL|`` sits.

    Attributes:
        value: the maximum in 1/A; NaN when the part of the scan has fewer than two frames.
        frame: the step goes from this frame to the next (counted in the valid frames); -1 when there is no step.
        bond_length: A, the middle of that step; NaN when there is none.
    """

    value: float
    frame: int
    bond_length: float


@dataclass(frozen=True)
class FsdResult:
    """The published metric of one scan, with the errors of the same frames.

    Attributes:
        full, compress, stretch: the maxima of ``|l(k+1) - l(k)| / (L_(k+1) - L_k)``, 1/A.
        minimum_frame: ``j0``, counted in the valid frames.
        max_log_step: ``max_k |l(k+1) - l(k)|``; above 1 the grid does not resolve the change.
        energy_mae: mean over frames of ``|E_model - E_ref|`` in eV, total energies as they are.
        energy_mae_shifted: the same after the mean of ``E_model - E_ref`` over the scan was removed, for potentials
            with other reference energies.
        force_mae: mean over frames, atoms and components of ``|F_model - F_ref|`` in eV/A.
    """

    full: Peak
    compress: Peak
    stretch: Peak
    minimum_frame: int
    max_log_step: float
    energy_mae: float
    energy_mae_shifted: float
    force_mae: float


def squared_force_change(forces: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """``s(k) = sum_(i,c) (F_ic(k) - R_ic)^2`` (Eq. 2).

    Args:
        forces: eV/A, ``[K, n, 3]``.
        origin: ``R`` in eV/A, ``[n, 3]``.

    Returns:
        (eV/A)^2, ``[K]``.
    """
    change = forces - origin
    return np.einsum("kic,kic->k", change, change)


def log_ratio(forces: np.ndarray, reference_forces: np.ndarray, reference_energy: np.ndarray) -> np.ndarray:
    """``l(k) = ln max(s_model(k), 1) - ln max(s_ref(k), 1)``, dimensionless, ``[K]``.

    Args:
        forces: of the model in eV/A, ``[K, n, 3]``.
        reference_forces: eV/A, ``[K, n, 3]``.
        reference_energy: eV, ``[K]``; its minimum chooses the frame whose reference forces are subtracted.
    """
    origin = reference_forces[int(np.argmin(reference_energy))]
    model = squared_force_change(forces, origin)
    reference = squared_force_change(reference_forces, origin)
    return np.log(np.maximum(model, FLOOR)) - np.log(np.maximum(reference, FLOOR))


def log_ratio_slope(ratio: np.ndarray, bond_length: np.ndarray) -> np.ndarray:
    """``(l(k+1) - l(k)) / (L_(k+1) - L_k)`` in 1/A, ``[K - 1]``; FSD is the largest magnitude."""
    return np.diff(ratio) / np.diff(bond_length)


def fsd(scan: Scan, energy: np.ndarray, forces: np.ndarray) -> FsdResult:
    """Score a model's predictions on one scan with the published metric.

    Args:
        energy: the model's total energies in eV, ``[K]``.
        forces: the model's forces in eV/A, ``[K, n, 3]``.

    Raises:
        MindscaipError: shapes other than the scan's, values that are not finite.
    """
    for name, array, like in (("energy", energy, scan.energy), ("forces", forces, scan.forces)):
        if np.shape(array) != like.shape:
            raise MindscaipError(f"{scan.key}: predicted {name} has shape {np.shape(array)}, expected {like.shape}")
        if not np.isfinite(array).all():
            frame = int(np.argmax(~np.isfinite(array).reshape(len(scan), -1).all(axis=1)))
            raise MindscaipError(f"{scan.key}: predicted {name} of frame {frame} is not finite; it cannot be scored")
    ratio = log_ratio(forces, scan.forces, scan.energy)
    slope = np.abs(log_ratio_slope(ratio, scan.bond_length))
    j0 = int(np.argmin(scan.energy))
    error = np.asarray(energy, dtype=np.float64) - scan.energy
    return FsdResult(
        full=_peak(slope, scan.bond_length, 0, len(scan) - 1),
        compress=_peak(slope, scan.bond_length, 0, j0),
        stretch=_peak(slope, scan.bond_length, j0, len(scan) - 1),
        minimum_frame=j0,
        max_log_step=float(np.abs(np.diff(ratio)).max()),
        energy_mae=float(np.abs(error).mean()),
        energy_mae_shifted=float(np.abs(error - error.mean()).mean()),
        force_mae=float(np.abs(forces - scan.forces).mean()),
    )


def _peak(slope: np.ndarray, bond_length: np.ndarray, first: int, last: int) -> Peak:
    """The largest step between frames ``first`` and ``last``."""
    if last <= first:
        return Peak(value=float("nan"), frame=-1, bond_length=float("nan"))
    frame = first + int(np.argmax(slope[first:last]))
    middle = 0.5 * (bond_length[frame] + bond_length[frame + 1])
    return Peak(value=float(slope[frame]), frame=frame, bond_length=float(middle))
