from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mindscaip.bsct.dataset import displace, open_scans, read_scans
from mindscaip.bsct.fsd import fsd, log_ratio
from mindscaip.errors import MindscaipError
from tests.bsct.makers import diatomic_forces, diatomic_scan, random_scan, reference_data


def harmonic(frames: int = 41, start: float = 1.0, minimum: float = 1.5, stiffness: float = 40.0):
    lengths = np.linspace(start, start + 0.05 * (frames - 1), frames)
    return lengths, 0.5 * stiffness * (lengths - minimum) ** 2, stiffness * (lengths - minimum)


def test_perfect_model_scores_zero():
    lengths, energy, slope = harmonic()
    scan = diatomic_scan(lengths, energy, slope)
    result = fsd(scan, scan.energy, scan.forces)
    assert (result.full.value, result.compress.value, result.stretch.value) == (0, 0, 0)
    assert (result.energy_mae, result.energy_mae_shifted, result.force_mae, result.max_log_step) == (0, 0, 0, 0)
    assert result.minimum_frame == 10


def test_constant_factor_shows_only_at_the_minimum():
    # Forces c times too large: l = 0 at j0 (both s on the floor), 2 ln c elsewhere (s_ref(j0 +- 1) = 8 > floor).
    lengths, energy, slope = harmonic()
    scan = diatomic_scan(lengths, energy, slope)
    result = fsd(scan, energy, 3.0 * scan.forces)
    expected = 2 * np.log(3.0) / 0.05
    for peak in (result.full, result.compress, result.stretch):
        assert peak.value == pytest.approx(expected, rel=1e-9)
    assert (result.compress.frame, result.stretch.frame) == (9, 10)
    assert result.stretch.bond_length == pytest.approx(1.525)
    assert result.max_log_step == pytest.approx(2 * np.log(3.0), rel=1e-9)
    assert result.force_mae == pytest.approx(2 * np.abs(slope).mean() * 2 / 6, rel=1e-9)


def test_exponential_factor_has_one_slope_everywhere():
    # F_model = F_ref exp(b (L - L0)): ln(s_model / s_ref) = 2 b (L - L0), its derivative 2 b on every step.
    lengths, energy, slope = harmonic()
    scan = diatomic_scan(lengths, energy, slope)
    result = fsd(scan, energy, diatomic_forces(slope * np.exp(0.8 * (lengths - 1.5))))
    for peak in (result.full, result.compress, result.stretch):
        assert peak.value == pytest.approx(1.6, rel=1e-6)


def test_morse_scan_against_its_closed_form():
    # Two Morse curves with one minimum: l(L) = ln (E'_model / E'_ref)^2 wherever both s exceed the floor of 1 (eV/A)^2.
    def morse_slope(length, depth, width):
        decay = np.exp(-width * (length - 1.5))
        return 2 * depth * width * decay * (1 - decay)

    lengths = np.linspace(0.75, 3.0, 100)
    reference = morse_slope(lengths, 4.0, 2.0)
    model = morse_slope(lengths, 4.5, 2.2)
    scan = diatomic_scan(lengths, 4.0 * (1 - np.exp(-2.0 * (lengths - 1.5))) ** 2, reference)
    j0 = int(np.argmin(np.abs(lengths - 1.5)))
    assert fsd(scan, scan.energy, scan.forces).minimum_frame == j0

    # R is the (small) reference force at the frame nearest to 1.5 A.
    square = np.array([2 * (morse_slope(x, 4.0, 2.0) - reference[j0]) ** 2 for x in lengths])
    square_model = np.array([2 * (morse_slope(x, 4.5, 2.2) - reference[j0]) ** 2 for x in lengths])
    logs = [np.log(max(m, 1.0)) - np.log(max(r, 1.0)) for m, r in zip(square_model, square, strict=True)]
    steps = [abs(logs[k + 1] - logs[k]) / (lengths[k + 1] - lengths[k]) for k in range(99)]
    result = fsd(scan, scan.energy, diatomic_forces(model))
    assert result.full.value == pytest.approx(max(steps), rel=1e-9)
    assert result.compress.value == pytest.approx(max(steps[:j0]), rel=1e-9)
    assert result.stretch.value == pytest.approx(max(steps[j0:]), rel=1e-9)


def test_a_planted_well_is_found_where_it_is():
    lengths, energy, slope = harmonic(frames=100)
    scan = diatomic_scan(lengths, energy, slope)
    x = (lengths - 3.0) / 0.05
    well = -0.3 * np.exp(-0.5 * x**2)
    result = fsd(scan, energy + well, diatomic_forces(slope - well * x / 0.05))
    assert abs(result.full.bond_length - 3.0) < 0.15
    assert result.full.value > 1.0 > result.compress.value


def test_errors_and_shifted_errors():
    scan = random_scan(1)
    error = np.linspace(-1, 3, len(scan))
    result = fsd(scan, scan.energy + error, scan.forces - 0.25)
    assert result.energy_mae == pytest.approx(np.abs(error).mean())
    assert result.energy_mae_shifted == pytest.approx(np.abs(error - 1).mean())
    assert result.force_mae == pytest.approx(0.25)
    shifted = fsd(scan, scan.energy + error + 1e4, scan.forces - 0.25)
    assert shifted.energy_mae_shifted == pytest.approx(result.energy_mae_shifted, abs=1e-9)


def test_minimum_at_the_first_frame_leaves_no_compressed_part():
    lengths, energy, slope = harmonic(start=1.5)
    result = fsd(diatomic_scan(lengths, energy, slope), energy, diatomic_forces(slope) * 2)
    assert np.isnan(result.compress.value)
    assert result.compress.frame == -1
    assert result.full == result.stretch


def test_invariance_under_rotation_and_order_of_atoms():
    scan = random_scan(3)
    rng = np.random.default_rng(0)
    model = scan.forces + rng.normal(size=scan.forces.shape)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(len(scan.numbers))
    turned = dataclasses.replace(scan, forces=(scan.forces @ rotation)[:, order], positions=scan.positions @ rotation)
    before, after = fsd(scan, scan.energy, model), fsd(turned, scan.energy, (model @ rotation)[:, order])
    for name in ("full", "compress", "stretch"):
        assert getattr(before, name).value == pytest.approx(getattr(after, name).value, rel=1e-10)
    assert before.full.frame == after.full.frame


def test_the_reference_force_is_subtracted_from_both():
    # A force that is the same at every frame leaves no trace in the reference's own s, but does in the model's.
    scan = random_scan(4)
    constant = np.ones((len(scan.numbers), 3))
    moved = dataclasses.replace(scan, forces=scan.forces + constant)
    assert log_ratio(scan.forces + constant, moved.forces, scan.energy) == pytest.approx(np.zeros(len(scan)))
    assert np.abs(log_ratio(scan.forces + constant, scan.forces, scan.energy)).max() > 0


@pytest.mark.parametrize("what", ["energy", "forces"])
def test_predictions_that_cannot_be_scored(what):
    scan = random_scan(5)
    arrays = {"energy": scan.energy.copy(), "forces": scan.forces.copy()}
    arrays[what][4] = np.nan
    with pytest.raises(MindscaipError, match=f"predicted {what} of frame 4 is not finite"):
        fsd(scan, **arrays)
    arrays[what] = arrays[what][:-1]
    with pytest.raises(MindscaipError, match="expected"):
        fsd(scan, **arrays)


def test_published_check_values():
    path = reference_data("bsct-spice-dev.h5")
    zero, half = [], []
    for scan in read_scans(path):
        for found, factor in ((zero, 0.0), (half, 0.5)):
            result = fsd(scan, scan.energy, factor * scan.forces)
            found.append((result.full.value, result.compress.value, result.stretch.value))
    assert len(zero) == 321
    np.testing.assert_allclose(np.mean(zero, axis=0), [52.660940, 52.660940, 34.745306], atol=5.1e-7)
    np.testing.assert_allclose(np.mean(half, axis=0), [50.510671, 50.497752, 32.406228], atol=5.1e-7)


@pytest.mark.parametrize("name", ["bsct-spice-dev.h5", "upstream-layout"])
def test_displacement_reproduces_the_published_frames(name):
    scans = open_scans(reference_data(name))
    assert len(scans) >= 2
    for scan in (scans.load(key) for key in scans.keys):
        assert scan.positions0 is not None
        frames = displace(scan.positions0, scan.bond_index, scan.fragment_labels, scan.bond_length)
        assert np.abs(frames - scan.positions).max() < 1e-6
