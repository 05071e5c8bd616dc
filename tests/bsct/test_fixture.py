"""The scans that the repository holds: what they are, and that they come out again."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from ase import Atoms

from mindscaip.bsct.build import build_scans
from mindscaip.bsct.continuity import CONTINUITY_TOLERANCE, continuity_errors
from mindscaip.bsct.dataset import open_scans, read_scans
from mindscaip.bsct.geometry import OVERLAP, closest_approach, scan_lengths
from mindscaip.bsct.records import PUBLISHED_BONDS, BuildSettings
from mindscaip.data.calculators import resolve_calculator
from mindscaip.data.point import single_point
from tests.bsct.makers import FIXTURE, PYSCF_FIXTURE


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


def test_the_committed_scans_of_density_functional_theory():
    """The same bonds of the same molecules, on the same frames, at the level of the published scans."""
    scans = list(read_scans(PYSCF_FIXTURE))
    assert [scan.bond for scan in scans] == ["C-O", "N-N", "N-O"]
    assert PYSCF_FIXTURE.stat().st_size < 500_000
    others = open_scans(FIXTURE)
    for scan in scans:
        assert (len(scan), scan.num_dropped) == (100, 0)
        assert continuity_errors(scan).max() < 0.3 * CONTINUITY_TOLERANCE  # as the published scans
        np.testing.assert_allclose(scan.positions, others.load(scan.key).positions, atol=1e-6)
    with h5py.File(PYSCF_FIXTURE) as file:
        assert file.attrs["method"].startswith("wb97m-d3bj/def2-tzvppd, spin restricted, density fitting, grid level 3")


@pytest.mark.slow
def test_pyscf_makes_a_committed_frame_again():
    pytest.importorskip("pyscf", reason="PySCF is not installed: pip install 'mindscaip[pyscf]'")
    scan = next(scan for scan in read_scans(PYSCF_FIXTURE) if scan.bond == "N-O")
    energy, forces = single_point(resolve_calculator("pyscf")(), Atoms(scan.numbers, scan.positions[40]))
    assert energy == pytest.approx(scan.energy[40], abs=1e-4)
    np.testing.assert_allclose(forces, scan.forces[40], atol=1e-3)
