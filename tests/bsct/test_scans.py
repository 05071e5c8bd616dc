from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest
from ase.data import covalent_radii

from mindscaip.bsct.dataset import displace, open_scans, read_scans
from mindscaip.bsct.scans import (
    CONTINUITY_TOLERANCE,
    OVERLAP,
    Bridge,
    BuildSettings,
    bond_type,
    bridge_bonds,
    build_scans,
    closest_approach,
    continuity_errors,
    continuity_tolerance,
    projected_slope,
    scan_lengths,
    split_at,
)
from mindscaip.errors import MindscaipError
from tests.bsct.makers import FIXTURE, diatomic_scan, reference_data
from tests.bsct.test_score import call

# A calculator without physics that is instant and conservative: every atom on a spring
# to the place where its molecule was first seen.
SPRINGS = """
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

class Springs(Calculator):
    implemented_properties = ["energy", "forces"]
    broken = staticmethod(lambda length: False)
    jump = 0.0
    homes = {}
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        center = atoms.positions - atoms.positions.mean(0)
        length = atoms.get_distance(0, 1)
        if self.broken(length):
            raise RuntimeError("no convergence")
        x = center - self.homes.setdefault(atoms.numbers.tobytes(), center)
        self.results = {"energy": float(0.5 * (x**2).sum()) + (self.jump if length > 2.0 else 0.0), "forces": -x}

class Jumps(Springs):
    jump = 0.05

class Sometimes(Springs):
    broken = staticmethod(lambda length: 1.9 < length < 2.0)

class Rarely(Springs):
    broken = staticmethod(lambda length: not 1.4 < length < 1.6)
"""


@pytest.fixture
def springs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "springs_of_bsct.py").write_text(SPRINGS)
    return "ase:springs_of_bsct:Springs"


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
    assert "in a ring" in excluded[(0, 1)]
    assert "single atom" in excluded[(3, 4)]
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
    np.testing.assert_allclose(continuity_tolerance(scan), CONTINUITY_TOLERANCE)
    jump = dataclasses.replace(scan, energy=scan.energy + np.where(lengths > 2.5, 0.03, 0.0))
    errors = continuity_errors(jump)
    assert errors.max() == pytest.approx(0.03, abs=1e-3)
    assert lengths[np.argmax(errors)] < 2.5 < lengths[np.argmax(errors) + 1]


def test_published_scans_keep_the_rules():
    scans = list(read_scans(reference_data("bsct-spice-dev.h5")))
    assert len(scans) == 321
    for scan in scans:
        np.testing.assert_allclose(scan.bond_length, scan_lengths(scan.numbers, scan.bond_index), atol=1e-7)
        assert scan.bond == bond_type(*scan.numbers[list(scan.bond_index)])
        assert 2 <= scan.fragment_labels.sum() <= len(scan.numbers) - 2
        assert closest_approach(scan.numbers, scan.positions, scan.bond_index)[0] >= OVERLAP
        assert continuity_errors(scan).max() < 0.3 * CONTINUITY_TOLERANCE


def test_build_and_record(springs, tmp_path):
    smiles = ["CCO", "C1CC1", "FC", "CCO", "C=C"]
    result = build_scans(smiles, "scans.h5", BuildSettings(springs, frames=20), bonds=["C-O", "C-C", "C-F"], workers=1)
    assert result.num_scans == 3
    scans = open_scans("scans.h5")
    assert [key.split("-")[:2] for key in scans.keys] == [["C", "C/C2H4"], ["C", "C/C2H6O"], ["C", "O/C2H6O"]]
    assert scans.provenance["level_of_theory"] == springs
    report = json.loads((tmp_path / "scans.json").read_text())
    assert report["counts"] == {"scanned": 3, "excluded": 4}
    reasons = {(b["smiles"], tuple(b["atoms"])): b["reason"] for b in report["bonds"] if b["status"] == "excluded"}
    assert "in a ring" in reasons["C1CC1", (0, 1)]
    assert "single atom" in reasons["FC", (0, 1)]
    scan = scans.load(scans.keys[2])
    assert (len(scan), scan.bond_index, scan.smiles) == (20, (1, 2), "CCO")
    assert scan.numbers.tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1]
    assert scan.fragment_labels.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1]
    frames = displace(scan.positions0, scan.bond_index, scan.fragment_labels, scan.bond_length)
    np.testing.assert_allclose(frames, scan.positions, atol=1e-9)
    assert not (tmp_path / "scans.h5.parts").exists()


def test_sampling_depends_on_the_seed_only(springs):
    def chosen(seed, smiles):
        name = f"scans-{seed}-{len(smiles)}.h5"
        settings = BuildSettings(springs, frames=12, seed=seed)
        result = build_scans(smiles, name, settings, bonds=["C-C", "C-O"], per_bond=1, workers=1)
        assert result.num_scans == len({key.split("/")[0] for key in open_scans(name).keys}) == 2
        return [(r.smiles, r.atoms) for r in result.records if r.status == "scanned"]

    smiles = ["CCCCO", "CCCOC"]
    assert chosen(1, smiles) == chosen(1, [*smiles, smiles[0]])
    assert len({tuple(chosen(seed, smiles)) for seed in (2, 3, 4, 5)}) > 1


def test_overlap_excludes_a_bond(springs):
    # The second methyl of neopentane-like crowding: compressing the central bond of hexamethylethane collides methyls.
    with pytest.raises(
        MindscaipError, match=r"no bond could be scanned; .* come as close as 0\.\d+ of their covalent sum"
    ):
        build_scans(["C=CC(C)(C)C(C)(C)C=C"], "s.h5", BuildSettings(springs, frames=20), bonds=["C-C"], workers=1)


def test_a_discontinuous_reference_is_left_out(springs):
    with pytest.raises(MindscaipError, match=r"discontinuous: energies and forces differ by 0\.05"):
        build_scans(["CC"], "s.h5", BuildSettings(springs.replace("Springs", "Jumps"), frames=100), workers=1)


def test_failed_frames_are_recorded(springs):
    result = build_scans(["CC"], "s.h5", BuildSettings(springs.replace("Springs", "Sometimes")), workers=1)
    scan = next(read_scans("s.h5"))
    assert result.records[0].failed_frames == scan.num_dropped == len(scan.notes) > 0
    assert all("no convergence" in reason for reason in scan.notes.values())
    assert not set(map(int, scan.notes)) & set(scan.frame_index.tolist())
    with pytest.raises(MindscaipError, match=r"of 100 frames have a finite reference; 10 are needed"):
        build_scans(["CC"], "t.h5", BuildSettings(springs.replace("Springs", "Rarely")), workers=1)


def test_an_interrupted_build_goes_on(springs, tmp_path):
    smiles, settings = ["CCO", "CO"], BuildSettings(springs, frames=12)
    done = []

    def stop(stage):
        done.append(stage)
        if done.count("scan") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_scans(smiles, "scans.h5", settings, workers=1, on_done=stop)
    assert not (tmp_path / "scans.h5").exists()
    counts = {}
    with pytest.raises(MindscaipError, match="unfinished build with another frames"):
        build_scans(smiles, "scans.h5", BuildSettings(springs, frames=13), workers=1)
    result = build_scans(smiles, "scans.h5", settings, workers=1, on_start=counts.__setitem__)
    assert counts == {"relax": 0, "scan": 1}
    assert (result.resumed, result.num_scans) == (2, 3)
    build_scans(smiles, "fresh.h5", settings, workers=1)
    for a, b in zip(read_scans("scans.h5"), read_scans("fresh.h5"), strict=True):
        assert a.fingerprint() == b.fingerprint()


def test_bad_input(springs, tmp_path):
    settings = BuildSettings(springs, frames=12)
    with pytest.raises(MindscaipError, match="not a SMILES"):
        build_scans(["CC", "C(C"], "s.h5", settings)
    with pytest.raises(MindscaipError, match=r"'C=O' is not a bond type"):
        build_scans(["CC"], "s.h5", settings, bonds=["C=O"])
    with pytest.raises(MindscaipError, match=r"let the name end in \.h5"):
        build_scans(["CC"], "s.xyz", settings)
    with pytest.raises(MindscaipError, match="9 frames are too few"):
        BuildSettings(springs, frames=9)
    with pytest.raises(MindscaipError, match="there is no calculator 'gfn3'"):
        build_scans(["CC"], "s.h5", BuildSettings("gfn3"))
    with pytest.raises(MindscaipError, match="no molecule was given"):
        build_scans([], "s.h5", settings)
    (tmp_path / "s.h5").write_text("here already")
    with pytest.raises(MindscaipError, match=r"s\.h5 exists; give another name"):
        build_scans(["CC"], "s.h5", settings)
    assert (tmp_path / "s.h5").read_text() == "here already"


def test_command_line(springs, tmp_path):
    result = call(
        "build", "CCO", "CO", "-o", "s.h5", "--reference", springs, "--frames", 15, "--bonds", "C-O,C-C", "--workers", 1
    )
    assert "Wrote 3 scans" in result.stderr.replace("\n", " ")
    assert all(len(scan) == 15 for scan in read_scans("s.h5"))
    assert call("build", "CCO", "-o", "t.h5", "--reference", springs, "--bonds", "any", "--per-bond", 1, "--workers", 1)


def test_the_committed_scans():
    scans = list(read_scans(FIXTURE))
    assert [scan.bond for scan in scans] == ["C-C", "C-C", "C-N", "C-O", "C-O"]
    assert FIXTURE.stat().st_size < 300_000
    for scan in scans:
        assert (len(scan), scan.num_dropped) == (100, 0)
        assert continuity_errors(scan).max() < CONTINUITY_TOLERANCE
        assert closest_approach(scan.numbers, scan.positions, scan.bond_index)[0] >= OVERLAP
        assert scan.forces0 is not None
        assert np.abs(scan.forces0).max() < 0.02
    with h5py.File(FIXTURE) as file:
        assert file.attrs["command"].startswith("mindscaip bsct build ")


def test_xtb_makes_the_committed_scans_again(tmp_path):
    pytest.importorskip("tblite", reason="tblite is not installed")
    from mindscaip.bsct.scans import scan_molecule_bond

    saved = next(scan for scan in read_scans(FIXTURE) if scan.bond == "C-N")
    assert saved.positions0 is not None
    scan = scan_molecule_bond(
        saved.numbers,
        saved.positions0,
        Bridge(saved.bond_index, saved.fragment_labels),
        BuildSettings(),
        id=saved.id,
    )
    np.testing.assert_allclose(scan.positions, saved.positions, atol=1e-9)
    np.testing.assert_allclose(scan.energy, saved.energy, atol=1e-5)
    np.testing.assert_allclose(scan.forces, saved.forces, atol=1e-3)
