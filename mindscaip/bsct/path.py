"""The geometries of one scan that a potential is asked for: its frames, or a denser path through them.

Fragments move rigidly, so positions are linear in the frame number and a geometry between two frames needs no other
information: ``dense`` geometries per frame interval give ``dense * (K - 1) + 1`` of them for ``K`` frames, and every
``dense``-th one is a frame. Frames that were left out for want of a reference are part of a dense path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from mindscaip.bsct.dataset import STRAIGHT_TOLERANCE, Scan


@dataclass(frozen=True)
class ScanPath:
    """``M`` geometries of ``n`` atoms along the bond of a scan.

    Attributes:
        scan: where they come from.
        dense: geometries per frame interval; 0 for the frames alone.
        positions: A, float64 ``[M, n, 3]``.
        bond_length: A, float64 ``[M]``, increasing.
        frames: place of each frame of the scan among them, int64 ``[K]``.
    """

    scan: Scan
    dense: int
    positions: np.ndarray
    bond_length: np.ndarray
    frames: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers, int64 ``[n]``."""
        return self.scan.numbers

    def __len__(self) -> int:
        return len(self.bond_length)


def scan_path(scan: Scan, dense: int = 0) -> ScanPath:
    """The frames of ``scan`` (``dense = 0``), or ``dense`` geometries per frame interval from the first to the last."""
    if dense == 0:
        return ScanPath(scan, 0, scan.positions, scan.bond_length, np.arange(len(scan)))
    index = scan.frame_index if len(scan.frame_index) else np.arange(len(scan))
    count = int(index[-1] - index[0]) * dense + 1
    frames = (index - index[0]) * dense
    place = index[0] + np.arange(count) / dense
    positions = _between(index, scan.positions, place)
    lengths = _between(index, scan.bond_length, place)
    positions[frames] = scan.positions
    lengths[frames] = scan.bond_length
    return ScanPath(scan, dense, positions, lengths, frames)


def _between(index: np.ndarray, values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """``values``, given at the frame numbers ``index``, at the fractional frame numbers ``place``."""
    share = ((place - index[0]) / (index[-1] - index[0])).reshape(-1, *[1] * (values.ndim - 1))
    line = values[0] + share * (values[-1] - values[0])
    frames = np.searchsorted(place, index)
    if np.abs(line[frames] - values).max() <= STRAIGHT_TOLERANCE:
        return line
    # Frames that somebody placed by hand: a smooth curve through them, straight where they are.
    return CubicSpline(index, values, axis=0)(place)


def path_slope(path: ScanPath) -> np.ndarray:
    """``dx/dL`` along a path, dimensionless, ``[M, n, 3]`` (for rigid fragments plus and minus half a unit vector)."""
    return np.gradient(path.positions, path.bond_length, axis=0, edge_order=1)
