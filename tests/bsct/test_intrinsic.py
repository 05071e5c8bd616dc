from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from mindscaip.bsct.companions import companions, conservation_error, energy_jumps, sign_flips, tortuosity
from mindscaip.bsct.dataset import open_scans
from mindscaip.bsct.fsd import fsd
from mindscaip.bsct.intrinsic import fsd_intrinsic, log_force_slope, thinned
from mindscaip.bsct.path import scan_path
from mindscaip.bsct.potentials import Potential
from mindscaip.bsct.score import score_scans
from tests.bsct.makers import FIXTURE, diatomic_forces, diatomic_scan, random_scan


def morse(lengths: np.ndarray, depth: float = 4.0, width: float = 2.0, middle: float = 1.5):
    """Energy and slope of a Morse curve."""
    decay = np.exp(-width * (lengths - middle))
    return depth * (1 - decay) ** 2, 2 * depth * width * decay * (1 - decay)


def morse_scan(frames: int = 100, **more):
    lengths = np.linspace(0.75, 3.0, frames)
    return diatomic_scan(lengths, *morse(lengths), **more)


def on_path(scan, dense: int, depth: float = 4.0, width: float = 2.0):
    path = scan_path(scan, dense)
    return path, diatomic_forces(morse(path.bond_length, depth, width)[1])


class Wrapped(Potential):
    """The reference of a scan (a spline through it) with a Gaussian well in the bond length, exact gradient."""

    def __init__(self, depth: float, width: float, at: dict[str, float]) -> None:
        super().__init__("wrapped", {"kind": "wrapped"})
        self.depth, self.width, self.at = depth, width, at

    def predict(self, path):
        scan = path.scan
        energy = CubicSpline(scan.bond_length, scan.energy)(path.bond_length)
        forces = CubicSpline(scan.bond_length, scan.forces)(path.bond_length)
        if scan.key in self.at:
            x = (path.bond_length - self.at[scan.key]) / self.width
            well = -self.depth * np.exp(-0.5 * x**2)
            first, second = scan.bond_index
            axis = path.positions[:, second] - path.positions[:, first]
            axis /= np.linalg.norm(axis, axis=1, keepdims=True)
            slope = (-well * x / self.width)[:, None] * axis
            energy = energy + well
            forces[:, first] += slope
            forces[:, second] -= slope
        return energy, forces


def test_a_dense_path_holds_the_frames_and_stays_on_the_line():
    scan = random_scan(1, frames=12)
    path = scan_path(scan, 10)
    assert len(path) == 111
    np.testing.assert_array_equal(path.positions[path.frames], scan.positions)
    np.testing.assert_array_equal(path.bond_length[path.frames], scan.bond_length)
    measured = np.linalg.norm(path.positions[:, 1] - path.positions[:, 0], axis=1)
    np.testing.assert_allclose(measured, path.bond_length, atol=1e-9)
    assert len(scan_path(scan)) == 12


def test_a_dense_path_goes_through_frames_without_a_reference():
    energy = random_scan(1).energy.copy()
    energy[[0, 4, 5]] = np.nan
    scan = random_scan(1, energy=energy)
    path = scan_path(scan, 4)
    assert len(path) == 28 * 4 + 1
    assert path.frames[:4].tolist() == [0, 4, 8, 20]  # frames 1, 2, 3, 6
    np.testing.assert_allclose(np.diff(path.bond_length), np.diff(path.bond_length)[0])
    np.testing.assert_array_equal(path.positions[path.frames], scan.positions)


def test_frames_off_a_line_are_joined_smoothly():
    scan = random_scan(1)
    bent = scan.positions.copy()
    bent[:, 2, 0] += 0.1 * np.sin(0.2 * np.arange(len(scan)))
    path = scan_path(random_scan(1, positions=bent), 5)
    expected = 0.1 * np.sin(0.2 * np.arange(len(path)) / 5)
    # A straight line between the frames would miss by 5e-4.
    off = path.positions[:, 2, 0] - scan_path(scan, 5).positions[:, 2, 0]
    np.testing.assert_allclose(off, expected, atol=2e-5)


def test_log_force_slope_against_its_closed_form():
    # F = (L - 1)^2 on one component: D = 2 F F' / (F^2 + 1), relative to the origin F(1) = 0.
    lengths = np.linspace(0.5, 3.0, 40)
    forces = ((lengths - 1) ** 2)[:, None, None]
    at = np.linspace(0.5, 3.0, 401)
    square = (at - 1) ** 2
    expected = 2 * square * 2 * (at - 1) / (square**2 + 1)
    np.testing.assert_allclose(log_force_slope(lengths, forces, np.zeros((1, 1)), at), expected, atol=1e-10)


def test_perfect_model_scores_zero_and_converges_with_the_path():
    scan = morse_scan()
    exact = fsd_intrinsic(scan_path(scan, 1), scan.forces)
    assert exact.full.value == pytest.approx(0, abs=1e-10)
    dense = fsd_intrinsic(*on_path(scan, 10))
    assert dense.full.value < 2e-3  # the spline of the reference, at its ends
    assert len(dense.bond_length) == 991


def test_two_morse_curves_against_their_closed_form():
    scan = morse_scan()
    result = fsd_intrinsic(*on_path(scan, 10, depth=5.0, width=2.3))
    j0 = int(np.argmin(scan.energy))
    middle = scan.bond_length[j0]
    at = np.linspace(0.75, 3.0, 4001)

    def derivative(depth, width):
        step = 1e-6
        change = [morse(x, depth, width)[1] - morse(middle, depth, width)[1] for x in (at - step, at, at + step)]
        # Two atoms carry the force.
        square = [2 * c**2 for c in change]
        return (np.log(square[2] + 1) - np.log(square[0] + 1)) / (2 * step)

    expected = np.abs(derivative(5.0, 2.3) - derivative(4.0, 2.0))
    assert result.full.value == pytest.approx(expected.max(), rel=3e-2)
    assert result.compress.value == pytest.approx(expected[at <= middle].max(), rel=3e-2)
    assert result.stretch.value == pytest.approx(expected[at >= middle].max(), rel=3e-2)
    assert result.percentile == pytest.approx(np.percentile(expected, 99), rel=3e-2)
    assert result.full.bond_length == pytest.approx(at[np.argmax(expected)], abs=0.01)


def test_converged_in_the_grid_where_the_published_metric_is_not():
    # The minimum stands on frame 36, which all three grids have.
    lengths = 1.5 + (np.arange(100) - 36) * 0.0227
    scan = diatomic_scan(lengths, *morse(lengths, 4.0, 1.5))
    path, forces = on_path(scan, 10, depth=5.0, width=1.6)
    intrinsic, published = [], []
    for stride in (1, 2, 3):
        thin, there = thinned(path, forces, stride)
        assert len(thin.scan) == -(-100 // stride)
        assert len(thin) == 10 * (len(thin.scan) - 1) + 1
        np.testing.assert_array_equal(thin.bond_length[thin.frames], thin.scan.bond_length)
        np.testing.assert_array_equal(there[thin.frames], forces[path.frames][::stride])
        intrinsic.append(fsd_intrinsic(thin, there).full.value)
        published.append(fsd(thin.scan, thin.scan.energy, there[thin.frames]).full.value)
    assert max(intrinsic) / min(intrinsic) < 1.03
    assert max(published) / min(published) > 2.5


def test_accuracy_leaves_no_trace_in_the_intrinsic_metric():
    # A constant force added to every frame changes the published metric, and not this one.
    scan = morse_scan()
    path, forces = on_path(scan, 10, depth=5.0, width=2.3)
    shifted = forces + np.array([[[3.0, 0, 0], [-3.0, 0, 0]]])
    assert fsd_intrinsic(path, shifted).full.value == pytest.approx(fsd_intrinsic(path, forces).full.value, rel=1e-9)
    frames = path.frames
    before = fsd(scan, scan.energy, forces[frames]).full.value
    assert abs(fsd(scan, scan.energy, shifted[frames]).full.value - before) > 1


def test_minimum_at_the_first_frame_leaves_no_compressed_part():
    lengths = np.linspace(1.5, 3.0, 50)
    scan = diatomic_scan(lengths, *morse(lengths))
    result = fsd_intrinsic(*on_path(scan, 10, depth=5.0))
    assert np.isnan(result.compress.value)
    assert result.full == result.stretch


@pytest.mark.parametrize("dense", [10, 2])
def test_a_planted_well_is_found_by_both_metrics_where_it_is(tmp_path, dense):
    scans = open_scans(FIXTURE)
    key = next(key for key in scans.keys if key.startswith("C-O"))
    place = 0.8 * scans.load(key).bond_length[-1]
    clean = score_scans(Wrapped(0.3, 0.05, {}), scans, dense=dense, keys=(*scans.keys[:4], key))
    planted = score_scans(Wrapped(0.3, 0.05, {key: place}), scans, tmp_path, dense=dense, keys=(*scans.keys[:4], key))
    for row, before in zip(planted.rows, clean.rows, strict=True):
        if f"{row.bond}/{row.id}" == key:
            # The force of the well is steepest within a few widths of its middle.
            assert abs(row.fsd_bond_length - place) < 0.2
            assert abs(row.fsd_intrinsic_bond_length - place) < 0.2
            assert row.fsd > 5 > before.fsd
            assert row.fsd_intrinsic > 5 > 0.1 > before.fsd_intrinsic
            # It is a gradient all the same.
            assert row.conservation_error < 0.02
        else:
            assert dataclasses.replace(row, seconds=0) == dataclasses.replace(before, seconds=0)


def test_direct_forces_are_scored_on_the_forces_and_show_in_the_conservation_error():
    scan = morse_scan()
    path = scan_path(scan, 10)
    energy, slope = morse(path.bond_length)
    smooth = diatomic_forces(slope)
    kink = diatomic_forces(slope + 2.0 * np.tanh((path.bond_length - 2.5) / 0.02))
    assert fsd_intrinsic(path, smooth).full.value < 0.01
    found = fsd_intrinsic(path, kink)
    assert found.full.value > 5
    assert abs(found.full.bond_length - 2.5) < 0.1
    assert companions(path, energy, smooth).conservation_error < 1e-5
    # |F.dx/dL + dE/dL| = 2 nearly everywhere: dx/dL is half a unit vector on either side.
    assert companions(path, energy, kink).conservation_error == pytest.approx(2.0, abs=0.05)


def test_companions_of_simple_curves():
    assert sign_flips(np.array([-3.0, -1.0, 0.005, 1.0, -0.005, 2.0])) == 1
    assert sign_flips(np.array([-1.0, 1.0, -1.0, 1.0])) == 3
    assert sign_flips(np.zeros(5)) == 0
    assert tortuosity(np.array([3.0, 1.0, 0.0, 2.0])) == pytest.approx(1.0)
    assert tortuosity(np.array([3.0, 0.0, 1.0, 0.5, 2.0])) == pytest.approx((3 + 1 + 0.5 + 1.5) / 5)
    assert np.isnan(tortuosity(np.zeros(4)))
    # Turns at 0.0 (steps 3 and 1), 1.0 (1 and 0.5) and 0.5 (0.5 and 1.5); the last steps are too small to count.
    assert energy_jumps(np.array([3.0, 0.0, 1.0, 0.5, 2.0, 2.0001, 2.0])) == pytest.approx(3 + 1 + 1 + 0.5 + 0.5 + 1.5)
    assert energy_jumps(np.array([2.0, 1.0, 0.5])) == 0


def test_conservation_error_is_zero_for_a_gradient_up_to_quadrature():
    lengths = np.linspace(0.75, 3.0, 100)
    energy, slope = morse(lengths)
    assert conservation_error(lengths, energy - 1e5, -slope) < 1e-4
    assert conservation_error(lengths, energy, -slope + 0.25) == pytest.approx(0.25, abs=1e-4)


def test_reference_scans_are_conservative_and_have_one_well():
    scans = open_scans(FIXTURE)
    for key in scans.keys:
        scan = scans.load(key)
        found = companions(scan_path(scan), scan.energy, scan.forces)
        assert found.conservation_error < 0.05
        assert found.force_flips == 1
        assert found.tortuosity == pytest.approx(1, abs=1e-6)
