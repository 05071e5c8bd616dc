"""Whether a reference is continuous along a scan: its energies must be the integral of its forces.

A self-consistent solution that jumps from one state to another betrays itself in a step where the two disagree.
"""

from __future__ import annotations

import numpy as np

from mindscaip.bsct.dataset import Scan
from mindscaip.bsct.geometry import scan_lengths

CONTINUITY_TOLERANCE = 0.01
"""eV per step; the 321 published scans stay below 0.0026 eV."""


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


def continuity_errors(scan: Scan) -> np.ndarray:
    """Step 6: by how much energies and forces contradict each other between neighbouring frames, eV, ``[K - 1]``.

    ``|E(k+1) - E(k) - integral of dE/dL|``, the integral by the corrected trapezoid rule
    ``h/2 (E'_k + E'_(k+1)) + h^2/12 (E''_k - E''_(k+1))`` with ``E'`` from the forces and ``E''`` from its differences.
    """
    slope = projected_slope(scan)
    curvature = np.gradient(slope, scan.bond_length, edge_order=2)
    step = np.diff(scan.bond_length)
    integral = step / 2 * (slope[:-1] + slope[1:]) + step**2 / 12 * (curvature[:-1] - curvature[1:])
    return np.abs(np.diff(scan.energy) - integral)


def continuity_tolerance(scan: Scan) -> np.ndarray:
    """The tolerance of each step in eV, ``[K - 1]``.

    ``CONTINUITY_TOLERANCE``, and more where a step is wider than published: the rule's own error grows with the
    fourth power of the step.
    """
    published = scan_lengths(scan.numbers, scan.bond_index)
    width = np.diff(scan.bond_length) / (published[1] - published[0])
    return CONTINUITY_TOLERANCE * np.maximum(width, 1.0) ** 4
