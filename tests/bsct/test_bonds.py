"""Bridges, frames, and the rules that the published scans keep."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase.data import covalent_radii

from mindscaip.bsct.bridges import bond_type, bridge_bonds, checked_bond, count_pieces, perceive_bonds, split_at
from mindscaip.bsct.continuity import (
    CONTINUITY_TOLERANCE,
    continuity_errors,
    continuity_limits,
    projected_slope,
    unchecked_steps,
)
from mindscaip.bsct.dataset import displace, read_scans
from mindscaip.bsct.geometry import OVERLAP, closest_approach, scan_bond, scan_lengths
from mindscaip.errors import MindscaipError
from tests.bsct.makers import FIXTURE, diatomic_scan, reference_data


def test_bond_types():
    assert bond_type(8, 6) == "C-O"
    assert bond_type(17, 6) == "C-Cl"


def test_splitting():
    # A ring of three (0 1 2) with a chain 2-3-4.
    bonds = [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4)]
    assert split_at(5, bonds, (0, 1)) is None
    assert split_at(5, bonds, (2, 3)).tolist() == [0, 0, 0, 1, 1]
    assert split_at(5, bonds, (3, 2)).tolist() == [1, 1, 1, 0, 0]
    bridges, excluded = bridge_bonds(5, bonds)
    assert [(b.atoms, b.labels.tolist()) for b in bridges] == [((2, 3), [0, 0, 0, 1, 1])]
    assert excluded[(0, 1)] == ("ring", "the bond is in a ring: cutting it does not split the molecule")
    assert excluded[(3, 4)] == ("single atom", "one of the fragments is a single atom")
    assert len(excluded) == 4


def test_lengths_and_displacement():
    numbers = np.array([6, 8, 1, 1])
    lengths = scan_lengths(numbers, (0, 1))
    total = covalent_radii[6] + covalent_radii[8]
    assert len(lengths) == 100
    assert (lengths[0], lengths[-1]) == pytest.approx((0.5 * total, 2 * total))
    rng = np.random.default_rng(0)
    positions0, labels = rng.normal(size=(4, 3)), np.array([0, 1, 0, 1])
    frames = displace(positions0, (0, 1), labels, lengths)
    np.testing.assert_allclose(np.linalg.norm(frames[:, 1] - frames[:, 0], axis=1), lengths)
    # Fragments are rigid, and move by the same amount.
    for pair in ((0, 2), (1, 3)):
        np.testing.assert_allclose(
            np.ptp(np.linalg.norm(frames[:, pair[0]] - frames[:, pair[1]], axis=1)), 0, atol=1e-12
        )
    np.testing.assert_allclose(frames[:, 0] + frames[:, 1], np.tile(positions0[0] + positions0[1], (100, 1)))


def test_closest_approach():
    numbers = np.array([6, 6, 1])
    frames = np.array([[[0, 0, 0], [1.0, 0, 0], [0, 2.14, 0]], [[0, 0, 0], [0.5, 0, 0], [0, 1.07, 0]]], dtype=float)
    ratio, frame, pair = closest_approach(numbers, frames, (1, 0))
    assert (frame, pair) == (1, (0, 2))
    assert ratio == pytest.approx(1.07 / (covalent_radii[6] + covalent_radii[1]))


def test_continuity_of_a_smooth_scan_and_of_one_that_jumps():
    lengths = scan_lengths(np.array([6, 6]), (0, 1))
    decay = np.exp(-2.0 * (lengths - 1.5))
    scan = diatomic_scan(lengths, 4.0 * (1 - decay) ** 2, 16.0 * decay * (1 - decay))
    np.testing.assert_allclose(projected_slope(scan), 16.0 * decay * (1 - decay))
    assert continuity_errors(scan).max() < 0.1 * CONTINUITY_TOLERANCE
    np.testing.assert_allclose(continuity_limits(scan), CONTINUITY_TOLERANCE)
    jump = dataclasses.replace(scan, energy=scan.energy + np.where(lengths > 2.5, 0.03, 0.0))
    errors = continuity_errors(jump)
    assert errors.max() == pytest.approx(0.03, abs=1e-3)
    assert lengths[np.argmax(errors)] < 2.5 < lengths[np.argmax(errors) + 1]


def with_frames(scan, kept):
    """The same scan as if only the frames ``kept`` had a reference."""
    chosen = {name: getattr(scan, name)[kept] for name in ("positions", "bond_length", "energy", "forces")}
    return dataclasses.replace(scan, **chosen, frame_index=kept)


@pytest.mark.parametrize(
    ("kept", "certain", "most"),
    [
        ("every 2nd", 0.05, 1),
        ("every 5th", 0.05, 5),
        ("every 8th", 45.0, 5),  # above five published steps the limit is the fourth power alone: 41 eV
        ("3 failed", 0.3, 0),
        ("6 failed", 30.0, 1),  # seven published steps: 24 eV
        ("edge failed", 3.0, 1),
    ],
)
def test_a_jump_is_found_or_said_to_be_unchecked_on_any_grid(kept, certain, most):
    """Smooth scans are never left out, and a jump never passes in silence.

    A jump of ``certain`` eV is found in every scan; of a smooth scan at most ``most`` steps are unchecked.
    """
    for number, scan in enumerate(read_scans(FIXTURE)):
        frames = np.arange(len(scan))
        if kept.startswith("every"):
            frames = frames[:: int(kept.split()[1][0])]
            after = len(frames) * 6 // 10
        else:
            first = {"edge failed": 1}.get(kept, 10 + 7 * number)
            width = 3 if kept == "edge failed" else int(kept[0])
            frames, after = np.delete(frames, slice(first, first + width)), first
        thin = with_frames(scan, frames)
        errors, limits = continuity_errors(thin), continuity_limits(thin)
        assert (errors <= limits).all()
        assert (errors > CONTINUITY_TOLERANCE).sum() <= most
        place = thin.bond_length[after - 1]
        for size in (certain, -certain, 0.3):
            jump = dataclasses.replace(thin, energy=thin.energy + np.where(np.arange(len(thin)) >= after, size, 0.0))
            beyond = continuity_errors(jump)[after - 1] > continuity_limits(jump)[after - 1]
            assert beyond == (not any(low <= place < high for low, high in unchecked_steps(jump)))
            assert beyond or size == 0.3


def test_on_the_published_grid_every_step_is_checked():
    assert all(unchecked_steps(scan) == [] for scan in read_scans(FIXTURE))


def test_published_scans_keep_the_rules():
    scans = list(read_scans(reference_data("bsct-spice-dev.h5")))
    assert len(scans) == 321
    for scan in scans:
        np.testing.assert_allclose(scan.bond_length, scan_lengths(scan.numbers, scan.bond_index), atol=1e-7)
        assert scan.bond == bond_type(*scan.numbers[list(scan.bond_index)])
        assert 2 <= scan.fragment_labels.sum() <= len(scan.numbers) - 2
        assert closest_approach(scan.numbers, scan.positions, scan.bond_index)[0] >= OVERLAP
        assert continuity_errors(scan).max() < 0.3 * CONTINUITY_TOLERANCE


def test_published_frames_come_out_of_the_unperturbed_geometry_and_the_bond():
    """Bonds, fragments, lengths and frames, from nothing but the starting geometry and two atoms."""
    worst, count = 0.0, 0
    for scan in read_scans(reference_data("bsct-spice-dev.h5")):
        assert scan.positions0 is not None
        lengths, positions, labels = scan_bond(scan.numbers, scan.positions0, scan.bond_index)
        same = labels == labels[scan.bond_index[0]]
        np.testing.assert_array_equal(same, scan.fragment_labels == scan.fragment_labels[scan.bond_index[0]])
        worst = max(worst, np.abs(lengths[scan.frame_index] - scan.bond_length).max())
        worst = max(worst, np.abs(positions[scan.frame_index] - scan.positions).max())
        count += 1
    assert count == 321
    assert worst < 1e-6


def test_a_turned_molecule_gives_turned_frames():
    scan = next(read_scans(reference_data("bsct-spice-dev.h5")))
    assert scan.positions0 is not None
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    shift = np.array([3.0, -2.0, 5.0])
    _, turned, _ = scan_bond(scan.numbers, scan.positions0 @ rotation + shift, scan.bond_index)
    np.testing.assert_allclose((turned - shift) @ rotation.T, scan.positions, atol=1e-6)


def test_bonds_that_cannot_be_scanned_say_why():
    # Cyclopropane-like ring 0 1 2 with a chain 2-3-4 of carbons 1.5 A apart.
    positions = np.array([[0, 0, 0], [1.5, 0, 0], [0.75, 1.3, 0], [0.75, 2.8, 0], [0.75, 4.3, 0]])
    numbers = np.full(5, 6)
    assert perceive_bonds(numbers, positions) == ((0, 1), (0, 2), (1, 2), (2, 3), (3, 4))
    assert count_pieces(5, perceive_bonds(numbers, positions)) == 1
    with pytest.raises(MindscaipError, match="the bond is in a ring"):
        scan_bond(numbers, positions, (0, 1))
    with pytest.raises(MindscaipError, match="single atom"):
        scan_bond(numbers, positions, (4, 3))
    with pytest.raises(MindscaipError, match="atoms 0 and 4 are not bonded"):
        scan_bond(numbers, positions, (0, 4))
    lengths, frames, labels = scan_bond(numbers, positions, (3, 2), frames=10)
    assert labels.tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_allclose(np.linalg.norm(frames[:, 3] - frames[:, 2], axis=1), lengths)
    with pytest.raises(MindscaipError, match="'C=O' is not a bond type"):
        checked_bond("C=O")
    assert checked_bond("O-C") == "C-O"
