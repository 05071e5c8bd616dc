"""The scans that the repository holds: what they are, and that they come out again."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from mindscaip.bsct.build import build_scans
from mindscaip.bsct.continuity import CONTINUITY_TOLERANCE, continuity_errors
from mindscaip.bsct.dataset import open_scans, read_scans
from mindscaip.bsct.geometry import OVERLAP, closest_approach, scan_lengths
from mindscaip.bsct.records import PUBLISHED_BONDS, BuildSettings
from tests.bsct.makers import FIXTURE


def test_the_committed_scans():
    scans = list(read_scans(FIXTURE))
    assert {scan.bond for scan in scans} == set(PUBLISHED_BONDS)
    assert len({scan.smiles for scan in scans}) >= 9
    assert FIXTURE.stat().st_size < 500_000
    for scan in scans:
        assert (len(scan), scan.num_dropped) == (100, 0)
        assert continuity_errors(scan).max() < CONTINUITY_TOLERANCE
        assert closest_approach(scan.numbers, scan.positions, scan.bond_index)[0] >= OVERLAP
        np.testing.assert_allclose(scan.bond_length, scan_lengths(scan.numbers, scan.bond_index), atol=1e-9)
        assert scan.forces0 is not None
        assert np.abs(scan.forces0).max() < 0.02
    with h5py.File(FIXTURE) as file:
        assert file.attrs["command"].startswith("mindscaip bsct build ")
        assert file.attrs["level_of_theory"] == "gfn2-xtb"
    report = json.loads(FIXTURE.with_suffix(".json").read_text())
    scanned = {f"{b['bond']}/{b['id']}" for b in report["bonds"] if b["status"] == "scanned"}
    assert scanned == set(open_scans(FIXTURE).keys)


def test_xtb_makes_the_committed_scans_again(tmp_path):
    pytest.importorskip("tblite", reason="tblite is not installed: pip install 'mindscaip[label]'")
    keys = [key for key in open_scans(FIXTURE).keys if key.startswith(("C-N/", "O-P/"))]
    assert len(keys) == 2
    inputs = [f"{FIXTURE}:{key}" for key in keys]
    build_scans(inputs, tmp_path / "again.h5", BuildSettings(relaxation="none"), workers=1)
    for again in read_scans(tmp_path / "again.h5"):
        saved = open_scans(FIXTURE).load(again.key)
        np.testing.assert_allclose(again.positions, saved.positions, atol=1e-9)
        np.testing.assert_allclose(again.energy, saved.energy, atol=1e-5)
        np.testing.assert_allclose(again.forces, saved.forces, atol=1e-3)
