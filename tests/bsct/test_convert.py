from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mindscaip.bsct.convert import convert_scans
from mindscaip.bsct.dataset import all_frames, displace, open_scans, read_scans, write_scans
from mindscaip.bsct.fsd import fsd
from mindscaip.errors import MindscaipError
from tests.bsct.makers import random_scan, reference_data, write_folder
from tests.bsct.test_dataset import assert_same, break_folder, with_nan
from tests.bsct.test_score import call

TIGHT = 1e-9


def all_same(left, right, atol=TIGHT):
    a, b = list(read_scans(left)), list(read_scans(right))
    assert len(a) == len(b) > 0
    for one, other in zip(a, b, strict=True):
        assert_same(one, other, atol=atol)


@pytest.fixture
def packed(tmp_path):
    scans = [random_scan(1, id="1"), with_nan(random_scan(1)), random_scan(3, bond="C-C", numbers=(6, 6, 1, 1))]
    write_scans(tmp_path / "scans.h5", scans, {"level_of_theory": "made up", "licence": "none"})
    return tmp_path / "scans.h5"


def test_packed_to_folder_and_back(packed, tmp_path):
    result = convert_scans(packed, tmp_path / "folder")
    assert (result.num_scans, result.resumed, result.skipped) == (3, 0, [])
    all_same(packed, tmp_path / "folder")
    convert_scans(tmp_path / "folder", tmp_path / "again.h5")
    all_same(packed, tmp_path / "again.h5")
    assert open_scans(tmp_path / "again.h5").provenance["level_of_theory"] == "made up"
    with np.load(tmp_path / "folder" / "C-C" / "7" / "partition.npz") as partition:
        assert np.linalg.norm(partition["unit_vec"]) == pytest.approx(1)
        assert partition["perturb_range"].tolist() == [0.7, 2.8, 30]


def test_published_folder_both_ways(tmp_path):
    source = reference_data("upstream-layout")
    convert_scans(source, tmp_path / "packed.h5")
    all_same(source, tmp_path / "packed.h5")
    convert_scans(tmp_path / "packed.h5", tmp_path / "folder")
    all_same(source, tmp_path / "folder")
    convert_scans(source, tmp_path / "compact.h5", compact=True)
    all_same(source, tmp_path / "compact.h5", atol=1.1e-8)
    assert (tmp_path / "compact.h5").stat().st_size < 0.9 * (tmp_path / "packed.h5").stat().st_size
    # Frames that upstream marks as failed are marked in the same way.
    text = (tmp_path / "folder" / "C-N" / "25729" / "atoms_9.xyz").read_text()
    assert "energy=nan" in text.splitlines()[1]
    assert "dataset=" in text


def test_published_check_values_from_the_folder_layout(tmp_path):
    # The same scans read from both layouts give the same FSD to six decimals.
    scans = open_scans(reference_data("bsct-spice-dev.h5"))
    keys = scans.keys[::80]
    write_scans(tmp_path / "few.h5", (scans.load(key) for key in keys), {})
    convert_scans(tmp_path / "few.h5", tmp_path / "folder")
    found = open_scans(tmp_path / "folder")
    assert found.keys == keys
    for key in keys:
        for factor in (0.0, 0.5):
            values = []
            for scan in (scans.load(key), found.load(key)):
                result = fsd(scan, scan.energy, factor * scan.forces)
                values.append((result.full.value, result.compress.value, result.stretch.value))
            np.testing.assert_allclose(values[0], values[1], rtol=0, atol=5e-7)


def test_scans_that_cannot_be_read_are_named_and_the_rest_goes_on(tmp_path):
    write_folder(tmp_path / "in", random_scan(1, id="1"))
    break_folder(write_folder(tmp_path / "in", random_scan(2, id="2")), "missing frame")
    result = convert_scans(tmp_path / "in", tmp_path / "out.h5")
    assert result.num_scans == 1
    assert result.skipped[0][0] == "C-O/2"
    assert "2 of 30 frames are missing" in result.skipped[0][1]
    shown = call("convert", tmp_path / "in", tmp_path / "out").stderr.replace("\n", " ")
    assert "Skipped C-O/2" in shown
    assert "Wrote 1 scans" in shown


def test_uneven_bond_lengths_survive_a_folder(tmp_path):
    lengths = np.linspace(0.7, 2.8, 30) ** 1.01
    positions = np.zeros((30, 2, 3))
    positions[:, 1, 0] = lengths
    more = {"positions0": positions[7], "forces0": np.zeros((2, 3)), "forces": np.ones((30, 2, 3))}
    uneven = random_scan(1, numbers=(6, 8), positions=positions, bond_length=lengths, **more)
    write_scans(tmp_path / "s.h5", [uneven], {})
    convert_scans(tmp_path / "s.h5", tmp_path / "out")
    all_same(tmp_path / "s.h5", tmp_path / "out")


def test_an_interrupted_conversion_goes_on(packed, tmp_path):
    def stop(key):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_scans(packed, tmp_path / "out", on_scan=stop)
    result = convert_scans(packed, tmp_path / "out")
    assert (result.num_scans, result.resumed) == (3, 1)
    all_same(packed, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["licence"] == "none"


def test_a_folder_holds_the_scans_of_one_set(packed, tmp_path):
    source, target = tmp_path / "a.h5", tmp_path / "out"
    first, second = random_scan(1, id="1"), random_scan(2, id="2")
    write_scans(source, [first, second], {})
    convert_scans(source, target)
    # The same name, the same scans, other energies: neither resumed in silence nor kept in spite of --overwrite.
    write_scans(source, [dataclasses.replace(scan, energy=scan.energy + 5.0) for scan in (first, second)], {})
    with pytest.raises(MindscaipError, match="holds something else"):
        convert_scans(source, target)
    assert convert_scans(source, target, overwrite=True).resumed == 0
    all_same(source, target)
    assert convert_scans(source, target).resumed == 2
    # Another set in its place leaves none of the old scans.
    (target / "thesis.txt").write_text("years of work")
    convert_scans(packed, target, overwrite=True)
    assert "C-O/2" not in open_scans(target).keys
    all_same(packed, target)
    assert (target / "thesis.txt").exists()


def test_a_folder_is_not_converted_onto_itself(packed, tmp_path):
    convert_scans(packed, tmp_path / "in" / "bsct_spice")
    with pytest.raises(MindscaipError, match="both input and output"):
        convert_scans(tmp_path / "in", tmp_path / "in" / "bsct_spice", overwrite=True)
    all_same(packed, tmp_path / "in")


def test_what_is_there_is_not_overwritten(packed, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(MindscaipError, match="holds something else"):
        convert_scans(packed, tmp_path / "out")
    with pytest.raises(MindscaipError, match="both input and output"):
        convert_scans(packed, packed)
    write_scans(tmp_path / "other.h5", [random_scan(9)], {})
    with pytest.raises(MindscaipError, match=r"other.h5 exists; .* --overwrite"):
        convert_scans(packed, tmp_path / "other.h5")
    convert_scans(packed, tmp_path / "other.h5", overwrite=True)
    all_same(packed, tmp_path / "other.h5")
    (tmp_path / "file").write_text("")
    with pytest.raises(MindscaipError, match=r"is a file; end the name in \.h5"):
        convert_scans(packed, tmp_path / "file")


def bent_scan(drop, **more):
    """Frames off a straight line, on a grid that is uneven, some of them without a reference."""
    straight = random_scan(4, frames=30)
    lengths = 0.7 + 2.1 * np.linspace(0, 1, 30) ** 2
    positions = displace(straight.positions0, (0, 1), straight.fragment_labels, lengths)
    turn = 0.3 * np.linspace(0, 1, 30) ** 3
    rotation = np.zeros((30, 3, 3))
    rotation[:, 0, 0] = rotation[:, 1, 1] = np.cos(turn)
    rotation[:, 0, 1], rotation[:, 1, 0], rotation[:, 2, 2] = -np.sin(turn), np.sin(turn), 1.0
    energy = -100 + (lengths - 1.4) ** 2
    energy[drop] = np.nan
    positions = np.einsum("kab,kib->kia", rotation, positions)
    return (
        random_scan(4, positions=positions, bond_length=lengths, energy=energy, frames=30, **more),
        positions,
        lengths,
    )


@pytest.mark.parametrize("drop", [[3, 4, 17], [0, 1, 2], [0, 28, 29]])
@pytest.mark.parametrize("compact", [False, True])
def test_frames_without_a_reference_come_back_where_they_were(tmp_path, drop, compact):
    scan, positions, lengths = bent_scan(drop)
    assert scan.num_dropped == len(drop)
    write_scans(tmp_path / "a.h5", [scan], {})
    convert_scans(tmp_path / "a.h5", tmp_path / "folder")
    convert_scans(tmp_path / "folder", tmp_path / "b.h5", compact=compact)
    for path in ("a.h5", "folder", "b.h5"):
        read = open_scans(tmp_path / path).load(scan.key)
        assert read.frame_index.tolist() == scan.frame_index.tolist()
        frames = all_frames(read)
        np.testing.assert_allclose(frames.positions, positions, atol=1e-9)
        np.testing.assert_allclose(frames.bond_length, lengths, atol=1e-9)
        assert np.isnan(frames.energy[drop]).all()


@pytest.mark.parametrize("drop", [[3, 4, 17], [0, 1, 2], [0, 28, 29]])
def test_frames_that_nobody_knows_stand_between_their_neighbours(tmp_path, drop):
    known, _, lengths = bent_scan(drop)
    scan = dataclasses.replace(known, dropped_positions=None, dropped_bond_length=None)
    frames = all_frames(scan)
    assert (np.diff(frames.bond_length) > 0).all()
    assert np.abs(frames.bond_length - lengths).max() < 0.03
    write_scans(tmp_path / "a.h5", [scan], {})
    convert_scans(tmp_path / "a.h5", tmp_path / "folder")
    for path in ("a.h5", "folder"):
        read = open_scans(tmp_path / path).load(scan.key)
        assert read.frame_index.tolist() == scan.frame_index.tolist()
        np.testing.assert_allclose(read.positions, scan.positions, atol=1e-9)
