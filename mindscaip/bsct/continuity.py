"""Whether a reference is continuous along a scan: its energies must be the integral of its forces.

A self-consistent solution that jumps from one state to another betrays itself in a step where the two disagree.
"""

from __future__ import annotations

import numpy as np

from mindscaip.bsct.dataset import Scan
from mindscaip.bsct.geometry import scan_lengths

CONTINUITY_TOLERANCE = 0.01
"""eV per step; the 321 published scans stay below 0.0026 eV."""
RESOLVED_WIDTH = 5.0
"""Published steps. Up to this width the correction of the integral bounds the rule's own error: on scans thinned to
every second, third or fifth frame the error is at most 0.45 of the correction, on those thinned further up to 6 times
(54 published scans and the 11 of GFN2-xTB in the repository)."""


def projected_slope(scan: Scan) -> np.ndarray:
    """``dE/dL = -sum_i F_i . dx_i/dL`` from the reference forces, eV/A, ``[K]``.

    The fragments move by half of the change each: ``dx_i/dL = h_i u / 2``, as in
    :func:`~mindscaip.bsct.dataset.displace`.
    """
    first, second = scan.bond_index
    axis = scan.positions[:, second] - scan.positions[:, first]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    sides = np.where(scan.fragment_labels == scan.fragment_labels[second], 0.5, -0.5)
    return -np.einsum("kic,i,kc->k", scan.forces, sides, axis)


def _integrals(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The trapezoid of ``dE/dL`` over each step and its correction, eV, ``[K - 1]``."""
    slope = projected_slope(scan)
    curvature = np.gradient(slope, scan.bond_length, edge_order=2)
    step = np.diff(scan.bond_length)
    return step / 2 * (slope[:-1] + slope[1:]), step**2 / 12 * (curvature[:-1] - curvature[1:])


def continuity_errors(scan: Scan) -> np.ndarray:
    """Step 6: by how much energies and forces contradict each other between neighbouring frames, eV, ``[K - 1]``.

    ``|E(k+1) - E(k) - integral of dE/dL|``, the integral by the corrected trapezoid rule
    ``h/2 (E'_k + E'_(k+1)) + h^2/12 (E''_k - E''_(k+1))`` with ``E'`` from the forces and ``E''`` from its differences.
    """
    trapezoid, correction = _integrals(scan)
    return np.abs(np.diff(scan.energy) - trapezoid - correction)


def continuity_limits(scan: Scan) -> np.ndarray:
    """Above these errors a step is discontinuous, eV, ``[K - 1]``.

    ``CONTINUITY_TOLERANCE`` on the published grid. On a coarser one, and across frames without a reference, the
    integral has an error of its own, which grows with the fourth power of the step; left at that, the limit would be
    6 eV for five published steps and no jump would be found. So it is capped by the size of the correction, which is
    small wherever the curve is smooth, up to ``RESOLVED_WIDTH``.

    An error above ``CONTINUITY_TOLERANCE`` and below this limit says nothing: it may be that of the integral or a jump
    (:func:`unchecked_steps`).
    """
    published = scan_lengths(scan.numbers, scan.bond_index)
    width = np.diff(scan.bond_length) / (published[1] - published[0])
    own = CONTINUITY_TOLERANCE * np.maximum(width, 1.0) ** 4
    cap = np.where(width <= RESOLVED_WIDTH + 1e-6, np.abs(_integrals(scan)[1]), np.inf)
    return np.minimum(own, np.maximum(cap, CONTINUITY_TOLERANCE))


def unchecked_steps(scan: Scan) -> list[tuple[float, float]]:
    """Where the rule can tell nothing: bond lengths in A from and to, steps that follow each other joined."""
    errors = continuity_errors(scan)
    open_steps = np.flatnonzero((errors > CONTINUITY_TOLERANCE) & (errors <= continuity_limits(scan)))
    found: list[tuple[float, float]] = []
    for k in open_steps:
        first, last = float(scan.bond_length[k]), float(scan.bond_length[k + 1])
        found.append((found.pop()[0], last) if found and found[-1][1] == first else (first, last))
    return found
