"""What stands beside a smoothness score: the quantities that benchmarks of diatomics use, along the bond of a scan.

With ``E_k`` the energies of the frames and ``f_k = sum_i F_i(k) . dx_i/dL`` the force along the bond (``-dE/dL`` where
forces are a gradient):

    force flips         number of sign changes of f_k, values below 0.01 eV/A in magnitude left out
    energy jumps        sum of |E_k - E_(k-1)| + |E_(k+1) - E_k| over the k at which the energy turns, eV; steps below
                        1 meV are left out
    tortuosity          sum_k |E_(k+1) - E_k| / (|E_0 - E_min| + |E_end - E_min|): 1 for a single well
    conservation error  mean over the path of |dE/dL + f|, eV/A: zero for a conservative model up to quadrature

A curve with one well flips and turns once; every further flip is a spurious extremum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline

from mindscaip.bsct.path import ScanPath, path_slope

FORCE_DEAD_BAND = 0.01
"""eV/A; smaller forces have no sign."""
ENERGY_DEAD_BAND = 1e-3
"""eV; smaller steps have no direction."""
SPLINE_ORDER = 5
"""Of the spline whose derivative is ``dE/dL``: a cubic one misses 0.1 eV/A on the steep wall of 100 frames."""


@dataclass(frozen=True)
class Companions:
    """Force flips (count), energy jumps (eV), tortuosity, conservation error (eV/A) of one curve."""

    force_flips: int
    energy_jumps: float
    tortuosity: float
    conservation_error: float


def companions(path: ScanPath, energy: np.ndarray, forces: np.ndarray) -> Companions:
    """The quantities of the module for energies (eV, ``[M]``) and forces (eV/A, ``[M, n, 3]``) on a path.

    Flips, jumps and tortuosity are those of the frames, so that they do not depend on how dense the path is.
    """
    along = bond_force(path, forces)
    frames = path.frames
    return Companions(
        force_flips=sign_flips(along[frames]),
        energy_jumps=energy_jumps(energy[frames]),
        tortuosity=tortuosity(energy[frames]),
        conservation_error=conservation_error(path.bond_length, energy, along),
    )


def bond_force(path: ScanPath, forces: np.ndarray) -> np.ndarray:
    """``f = sum_i F_i . dx_i/dL`` in eV/A, ``[M]``."""
    return np.einsum("mic,mic->m", forces, path_slope(path))


def sign_flips(force: np.ndarray, dead_band: float = FORCE_DEAD_BAND) -> int:
    """Number of sign changes of a force along the bond (eV/A, ``[K]``)."""
    signs = np.sign(force[np.abs(force) >= dead_band])
    return int((signs[1:] != signs[:-1]).sum())


def energy_jumps(energy: np.ndarray, dead_band: float = ENERGY_DEAD_BAND) -> float:
    """Sum of the two steps at every turn of the energy (eV, ``[K]``), in eV."""
    steps = np.diff(energy)
    steps = steps[np.abs(steps) >= dead_band]
    turns = np.sign(steps[1:]) != np.sign(steps[:-1])
    return float(np.abs(steps[:-1][turns]).sum() + np.abs(steps[1:][turns]).sum())


def tortuosity(energy: np.ndarray) -> float:
    """Length of the way that the energy (eV, ``[K]``) goes, over the shortest way through its minimum."""
    lowest = energy.min()
    shortest = abs(energy[0] - lowest) + abs(energy[-1] - lowest)
    way = np.abs(np.diff(energy)).sum()
    return float(way / shortest) if shortest > 0 else float("nan")


def conservation_error(bond_length: np.ndarray, energy: np.ndarray, force: np.ndarray) -> float:
    """``mean |dE/dL + f|`` in eV/A, the derivative from a quintic spline through the energies."""
    order = min(SPLINE_ORDER, (len(energy) - 1) // 2 * 2 - 1)
    # Total energies of -1e5 eV would cost digits.
    slope = make_interp_spline(bond_length, energy - energy.min(), k=order).derivative()(bond_length)
    return float(np.abs(slope + force).mean())
