"""The smoothness of a potential along a scan apart from its accuracy: ``fsd_intrinsic``.

The published FSD subtracts the *reference's* force at the minimum from both forces, takes a finite difference on the
grid and has a hard floor; so it also measures the accuracy of the force near the minimum, and depends on the grid. Here
each potential has its own origin, the floor is soft, and the derivative is that of a cubic spline:

    dF_X(L) = F_X(L) - F_X(L_j0)                                    eV/A, X = model or reference, j0 = argmin E_ref
    D_X(L)  = 2 dF_X . d(dF_X)/dL / (|dF_X|^2 + eps^2)              1/A, eps = 1 eV/A
    fsd_intrinsic = max over L of |D_model(L) - D_ref(L)|           1/A

``D`` is the derivative of ``ln(|dF|^2 + eps^2)``. The spline of the reference goes through the frames, that of the
model through the denser path that it was evaluated on. Forces are all that enters, so a direct-force model is scored on
the derivative of its forces, not of its energy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline

from mindscaip.bsct.dataset import Scan
from mindscaip.bsct.path import ScanPath

SOFT_FLOOR = 1.0
"""eV/A; ``eps`` of the definition."""
QUADRATURE = 10
"""Points per frame interval at which the two derivatives are compared, at least."""
PERCENTILE = 99.0


@dataclass(frozen=True)
class Largest:
    """The largest ``|D_model - D_ref|`` of a part of a scan (1/A) and the bond length (A) where it is; NaN if none."""

    value: float
    bond_length: float


@dataclass(frozen=True)
class IntrinsicResult:
    """``fsd_intrinsic`` of one scan.

    Attributes:
        full, compress, stretch: maxima over all bond lengths, up to that of ``j0``, and from it on.
        percentile: 99th percentile of ``|D_model - D_ref|`` over all bond lengths, 1/A.
        bond_length: where the two were compared, A, ``[P]``.
        model: ``D_model`` there, 1/A, ``[P]``.
        reference: ``D_ref`` there, 1/A, ``[P]``.
    """

    full: Largest
    compress: Largest
    stretch: Largest
    percentile: float
    bond_length: np.ndarray
    model: np.ndarray
    reference: np.ndarray


def log_force_slope(
    bond_length: np.ndarray, forces: np.ndarray, origin: np.ndarray, at: np.ndarray, floor: float = SOFT_FLOOR
) -> np.ndarray:
    """``D(L) = 2 dF . d(dF)/dL / (|dF|^2 + eps^2)`` of a cubic spline through ``forces``.

    Args:
        bond_length: A, ``[M]``, where ``forces`` (eV/A, ``[M, n, 3]``) are given.
        origin: the force that is subtracted, eV/A, ``[n, 3]``.
        at: A, ``[P]``.

    Returns:
        1/A, ``[P]``.
    """
    spline = CubicSpline(bond_length, (forces - origin).reshape(len(bond_length), -1))
    change, slope = spline(at), spline(at, 1)
    return 2.0 * np.einsum("px,px->p", change, slope) / (np.einsum("px,px->p", change, change) + floor**2)


def fsd_intrinsic(path: ScanPath, forces: np.ndarray) -> IntrinsicResult:
    """Score a model's forces on a path through a scan.

    Args:
        path: the geometries, :func:`mindscaip.bsct.path.scan_path` with ``dense >= 1``.
        forces: of the model in eV/A, ``[M, n, 3]``.
    """
    scan = path.scan
    j0 = int(np.argmin(scan.energy))
    at = _comparison_points(path)
    model = log_force_slope(path.bond_length, forces, forces[path.frames[j0]], at)
    reference = log_force_slope(scan.bond_length, scan.forces, scan.forces[j0], at)
    difference = np.abs(model - reference)
    middle = scan.bond_length[j0]
    # The minimum belongs to both parts; rounding must not take it out of either.
    tiny = 1e-9
    return IntrinsicResult(
        full=_largest(difference, at, np.ones(len(at), dtype=bool)),
        compress=_largest(difference, at, at <= middle + tiny),
        stretch=_largest(difference, at, at >= middle - tiny),
        percentile=float(np.percentile(difference, PERCENTILE)),
        bond_length=at,
        model=model,
        reference=reference,
    )


def thinned(path: ScanPath, forces: np.ndarray, stride: int) -> tuple[ScanPath, np.ndarray]:
    """The same scan as if it had only every ``stride``-th frame, to see whether a score depends on the grid.

    Args:
        forces: of the model on ``path``, eV/A, ``[M, n, 3]``.

    Returns:
        the path through the frames that are left, with as many geometries per (now longer) interval, and its forces.
    """
    scan = path.scan
    index = scan.frame_index if len(scan.frame_index) else np.arange(len(scan))
    kept = np.flatnonzero((index - index[0]) % stride == 0)
    fewer: Scan = replace(
        scan,
        positions=scan.positions[kept],
        bond_length=scan.bond_length[kept],
        energy=scan.energy[kept],
        forces=scan.forces[kept],
        frame_index=index[kept] // stride,
    )
    last = int(path.frames[kept[-1]])
    chosen = np.arange(0, last + 1, stride)
    thin = ScanPath(fewer, path.dense, path.positions[chosen], path.bond_length[chosen], path.frames[kept] // stride)
    return thin, forces[chosen]


def _comparison_points(path: ScanPath) -> np.ndarray:
    """The path itself, refined evenly where it has fewer than ``QUADRATURE`` points per frame interval."""
    refine = math.ceil(QUADRATURE / max(path.dense, 1))
    if refine == 1:
        return path.bond_length
    steps = np.arange(len(path))
    return np.interp(np.arange((len(path) - 1) * refine + 1) / refine, steps, path.bond_length)


def _largest(difference: np.ndarray, at: np.ndarray, part: np.ndarray) -> Largest:
    if part.sum() < 2:
        return Largest(float("nan"), float("nan"))
    place = np.flatnonzero(part)[int(np.argmax(difference[part]))]
    return Largest(float(difference[place]), float(at[place]))
