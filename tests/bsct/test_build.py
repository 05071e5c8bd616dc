"""Building scans with an instant calculator: what is written, what is left out and why, what a kill costs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mindscaip.bsct.build import build_scans
from mindscaip.bsct.dataset import displace, open_scans, read_scans, write_scans
from mindscaip.bsct.records import BuildSettings
from mindscaip.commands.bsct_build import register_build
from mindscaip.errors import MindscaipError
from tests.bsct.makers import reference_data
from tests.bsct.springs import SPRINGS

pytest.importorskip("rdkit", reason="RDKit is not installed: pip install 'mindscaip[label]'")


@pytest.fixture
def springs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "springs_of_bsct.py").write_text(SPRINGS)
    return "ase:springs_of_bsct:Springs"


def call(*arguments):
    """Run ``mindscaip bsct ...``; an error is raised here."""
    app = typer.Typer(rich_markup_mode="rich")
    app.callback()(lambda: None)
    register_build(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def report_of(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def test_build_and_record(springs, tmp_path):
    smiles = ["CCO", "C1CC1", "FC", "CCO", "C=C"]
    result = build_scans(smiles, "scans.h5", BuildSettings(springs, frames=20), bonds=["C-O", "C-C", "C-F"], workers=1)
    assert (result.num_scans, result.num_molecules, result.num_frames) == (3, 4, 60)
    scans = open_scans("scans.h5")
    assert [key.split("-")[:2] for key in scans.keys] == [["C", "C/C2H4"], ["C", "C/C2H6O"], ["C", "O/C2H6O"]]
    assert scans.provenance["level_of_theory"] == springs
    report = report_of(tmp_path / "scans.h5")
    assert report["counts"] == {
        "C-C": {"ring": 3, "scanned": 2},
        "C-F": {"single atom": 1},
        "C-H": {"single atom": 18},
        "C-O": {"scanned": 1},
        "H-O": {"single atom": 1},
    }
    found = {(b["molecule"], tuple(b["atoms"])): b for b in report["bonds"]}
    assert found["C1CC1", (0, 1)]["reason"] == "the bond is in a ring: cutting it does not split the molecule"
    assert found["FC", (0, 1)]["reason"] == "one of the fragments is a single atom"
    assert found["CCO", (1, 2)]["status"] == "scanned"
    assert found["CCO", (1, 2)]["closest"] > 0.9
    assert [m["formula"] for m in report["molecules"]] == ["C2H6O", "C3H6", "CH3F", "C2H4"]
    scan = scans.load(scans.keys[2])
    assert (len(scan), scan.bond_index, scan.smiles) == (20, (1, 2), "CCO")
    assert scan.numbers.tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1]
    assert scan.fragment_labels.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 1]
    frames = displace(scan.positions0, scan.bond_index, scan.fragment_labels, scan.bond_length)
    np.testing.assert_allclose(frames, scan.positions, atol=1e-9)
    assert not (tmp_path / "scans.h5.parts").exists()


def test_the_rest_goes_on_after_bad_molecules(springs, tmp_path):
    (tmp_path / "some.smi").write_text("# comment\nCC ethane\nC(C\n[Xx]C\n")
    inputs = ["CO", "C1CC", "CC[O-]", "C.C", "some.smi"]
    settings = BuildSettings(springs.replace("Springs", "NoOxygen"), frames=12)
    result = build_scans(inputs, "scans.h5", settings, workers=1)
    assert [r.molecule for r in result.records if r.status == "scanned"] == ["CC"]
    reasons = dict(result.failed_molecules)
    assert set(reasons) == {"CO", "C1CC", "CC[O-]", "C.C", "some.smi line 3", "some.smi line 4"}
    assert "a value that is not finite (energy nan eV)" in reasons["CO"]
    assert "not a SMILES that RDKit understands" in reasons["C1CC"]
    assert "charge -1" in reasons["CC[O-]"]
    assert "2 molecules" in reasons["C.C"]
    assert "not a SMILES" in reasons["some.smi line 4"]
    assert {f["molecule"] for f in report_of(tmp_path / "scans.h5")["failed_molecules"]} == set(reasons)


def test_elements_that_nobody_knows(springs, tmp_path):
    pytest.importorskip("tblite", reason="tblite is not installed: pip install 'mindscaip[label]'")
    hydride = ["U 0 0 0", "H 2 0 0", "H -2 0 0", "H 0 2 0", "H 0 -2 0"]
    (tmp_path / "hydride.xyz").write_text("\n".join(["5", "", *hydride, ""]))
    (tmp_path / "unknown.xyz").write_text("2\n\nXx 0 0 0\nH 0 0 1\n")
    inputs = ["CC", "hydride.xyz", "unknown.xyz"]
    result = build_scans(inputs, "scans.h5", BuildSettings(frames=12), workers=1)
    assert result.num_scans == 1
    reasons = dict(result.failed_molecules)
    assert set(reasons) == {"hydride.xyz#1", "unknown.xyz"}
    assert "gfn2-xtb has no parameters for U" in reasons["hydride.xyz#1"]
    assert "'Xx'" in reasons["unknown.xyz"]


def test_sampling_depends_on_the_seed_only(springs):
    def chosen(seed, smiles):
        name = f"scans-{seed}-{len(smiles)}.h5"
        settings = BuildSettings(springs, frames=12, seed=seed)
        result = build_scans(smiles, name, settings, bonds=["C-C", "C-O"], per_bond=1, workers=1)
        assert result.num_scans == len({key.split("/")[0] for key in open_scans(name).keys}) == 2
        assert all(r.rule == "sampling" for r in result.records if r.status == "not sampled")
        return [(r.molecule, r.atoms) for r in result.records if r.status == "scanned"]

    smiles = ["CCCCO", "CCCOC"]
    assert chosen(1, smiles) == chosen(1, [*smiles, smiles[0]])
    assert len({tuple(chosen(seed, smiles)) for seed in (2, 3, 4, 5)}) > 1


def test_overlap_excludes_a_bond(springs, tmp_path):
    # The double bonds are shorter than the rule allows.
    with pytest.raises(MindscaipError, match=r"no bond could be scanned; .* stand at 0\.\d+ of their covalent sum"):
        build_scans(["C=CC(C)(C)C(C)(C)C=C"], "s.h5", BuildSettings(springs, frames=20), bonds=["C-C"], workers=1)
    # The record is there all the same, and no work folder that would hold up the next try.
    assert report_of(tmp_path / "s.h5")["counts"]["C-C"]["overlap"] > 0
    assert not (tmp_path / "s.h5.parts").exists()


@pytest.mark.parametrize("overlap", ["all", "nonbonded"])
def test_atoms_without_a_bond_exclude_in_any_case(springs, tmp_path, monkeypatch, overlap):
    monkeypatch.setattr("mindscaip.bsct.select.OVERLAP", 2.0)
    with pytest.raises(MindscaipError, match=r"come as close as 1\.\d+ of their covalent sum \(limit 2\.0\) at bond"):
        build_scans(["CO"], "s.h5", BuildSettings(springs, frames=20, overlap=overlap), workers=1)
    (record,) = [b for b in report_of(tmp_path / "s.h5")["bonds"] if b["rule"] == "overlap"]
    assert record["closest"] < record["closest_nonbonded"] < 2.0
    assert record["closest_bonded"]


def test_a_ketone_is_built_when_bonded_pairs_are_left_out(springs, tmp_path):
    # C=O stands at 0.85 of its covalent sum in any frame, so that the published rule excludes every bond of a ketone.
    sentence = r"atoms \d and \d, which are bonded, stand at 0\.8\d+ of their covalent sum .*--overlap nonbonded leaves"
    with pytest.raises(MindscaipError, match=sentence):
        build_scans(["CC(=O)C"], "s.h5", BuildSettings(springs, frames=20), workers=1)
    excluded = [b for b in report_of(tmp_path / "s.h5")["bonds"] if b["rule"] == "overlap"]
    assert [b["closest_bonded"] for b in excluded] == [True, True]
    assert all(b["closest"] < 0.9 for b in excluded)

    more = ("--reference", springs, "--frames", 20, "--workers", 1)
    said = call("build", "CC(=O)C", "-o", "s.h5", *more, "--overlap", "nonbonded").stderr
    assert "Wrote 2 scans" in said
    report = report_of(tmp_path / "s.h5")
    assert report["settings"]["overlap"] == "nonbonded"
    scanned = [b for b in report["bonds"] if b["status"] == "scanned"]
    assert [(b["closest"] < 0.9, b["closest_nonbonded"] > 0.9, b["closest_bonded"]) for b in scanned] == [
        (True, True, True)
    ] * 2
    said = call("build", "CC(=O)C", "CCO", "-o", "t.h5", *more).stderr
    assert "2 bonds are left out for another bond of their molecule" in said
    with pytest.raises(MindscaipError, match="overlap is 'none'; give all"):
        BuildSettings(springs, overlap="none")


def test_a_discontinuous_reference_is_left_out(springs):
    with pytest.raises(MindscaipError, match=r"discontinuous: energies and forces differ by 0\.05"):
        build_scans(["CC"], "s.h5", BuildSettings(springs.replace("Springs", "Jumps"), frames=100), workers=1)


def test_a_step_that_cannot_be_checked_is_said_to_be(springs, tmp_path):
    pytest.importorskip("tblite", reason="tblite is not installed: pip install 'mindscaip[label]'")
    said = call("build", "CO", "-o", "s.h5", "--frames", 15, "--workers", 1).stderr
    assert "In 1 scans the continuity of the reference is not checked everywhere" in said
    (record,) = [b for b in report_of(tmp_path / "s.h5")["bonds"] if b["status"] == "scanned"]
    ((first, last),) = record["unchecked"]
    scan = next(read_scans("s.h5"))
    assert scan.bond_length[0] == pytest.approx(first, abs=1e-4)
    assert first < last < scan.bond_length[-1]
    fine = call("build", "CO", "-o", "t.h5", "--reference", springs, "--frames", 100, "--workers", 1).stderr
    assert "not checked" not in fine


def test_failed_frames_are_recorded(springs, tmp_path):
    result = build_scans(["CC"], "s.h5", BuildSettings(springs.replace("Springs", "Sometimes")), workers=1)
    scan = next(read_scans("s.h5"))
    record = next(r for r in result.records if r.status == "scanned")
    assert len(record.failed_frames) == scan.num_dropped == len(scan.notes) > 0
    assert all("no convergence" in reason for reason in scan.notes.values())
    assert not set(record.failed_frames) & set(scan.frame_index.tolist())
    written = next(b for b in report_of(tmp_path / "s.h5")["bonds"] if b["status"] == "scanned")
    assert {int(k): v for k, v in written["failed_frames"].items()} == record.failed_frames
    with pytest.raises(
        MindscaipError, match=r"of 100 frames have a finite reference; 10 are needed; the first .*no conv"
    ):
        build_scans(["CC"], "t.h5", BuildSettings(springs.replace("Springs", "Rarely")), workers=1)


def test_no_relax_keeps_the_published_frames(springs, tmp_path):
    """Scans made from a file of scans have the same frames, bonds, fragments and names."""
    scans = open_scans(reference_data("bsct-spice-dev.h5"))
    keys = [key for bond in ("C-C", "C-S", "N-N", "O-P") for key in scans.keys if key.startswith(bond + "/")][::40]
    assert len(keys) >= 3
    write_scans(tmp_path / "few.h5", (scans.load(key) for key in keys), {})
    settings = BuildSettings(springs, relaxation="none")
    result = build_scans(["few.h5"], "again.h5", settings, workers=1)
    assert result.num_scans == len(keys)
    for scan in read_scans("again.h5"):
        published = scans.load(scan.key)
        np.testing.assert_allclose(scan.positions[published.frame_index], published.positions, atol=1e-6)
        np.testing.assert_allclose(scan.positions0, published.positions0, atol=0)
        assert scan.bond_index == published.bond_index
        assert (scan.smiles, scan.subset) == (published.smiles, published.subset)
    one = build_scans([f"few.h5:{keys[0]}"], "one.h5", settings, workers=1)
    assert (one.num_scans, open_scans("one.h5").keys) == (1, (keys[0],))


def test_scans_of_one_name_from_two_files(springs, tmp_path):
    build_scans(["CO"], "one.h5", BuildSettings(springs, frames=12), workers=1)
    scan = next(read_scans("one.h5"))
    write_scans("two.h5", [dataclasses.replace(scan, positions0=scan.positions0 + 1.0)], {})
    result = build_scans(["one.h5", "two.h5"], "s.h5", BuildSettings(springs, 12, relaxation="none"), workers=1)
    keys = open_scans("s.h5").keys
    assert result.num_scans == len(keys) == 2
    assert all(key.startswith(f"{scan.key}-") for key in keys)


def test_pyscf_goes_on_from_saved_orbitals(tmp_path, monkeypatch):
    pytest.importorskip("pyscf", reason="PySCF is not installed: pip install 'mindscaip[pyscf]'")
    pytest.importorskip("tblite", reason="tblite is not installed: pip install 'mindscaip[label]'")
    from mindscaip.data.quantum import PySCF

    settings = BuildSettings("pyscf:hf/sto-3g", frames=10, relaxation="gfn2-xtb")
    build_scans(["NO"], tmp_path / "whole.h5", settings, workers=1)

    def stop(stage, done, total):
        if (stage, done) == ("scan", 6):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_scans(["NO"], tmp_path / "s.h5", settings, workers=1, progress=stop)
    given = []
    monkeypatch.setattr(PySCF, "set_guess", lambda self, guess, numbers: given.append(guess.shape))
    assert build_scans(["NO"], tmp_path / "s.h5", settings, workers=1).resumed == 6
    assert given[0] == (13, 9)
    whole, again = next(read_scans(tmp_path / "whole.h5")), next(read_scans(tmp_path / "s.h5"))
    np.testing.assert_allclose(again.energy, whole.energy, atol=1e-5)
    np.testing.assert_allclose(again.forces, whole.forces, atol=5e-3)
    with h5py.File(tmp_path / "s.h5") as file:
        assert file.attrs["method"].startswith("hf/sto-3g, spin restricted, density fitting")


def test_relaxation_with_another_calculator(springs):
    pytest.importorskip("tblite", reason="tblite is not installed: pip install 'mindscaip[label]'")
    build_scans(["CO"], "s.h5", BuildSettings(springs, frames=12, relaxation="gfn2-xtb"), workers=1)
    build_scans(["CO"], "t.h5", BuildSettings("gfn2-xtb", frames=12), workers=1)
    a, b = next(read_scans("s.h5")), next(read_scans("t.h5"))
    np.testing.assert_allclose(a.positions, b.positions, atol=1e-9)
    assert a.energy0 != b.energy0


def test_an_interrupted_build_goes_on_with_the_next_frame(springs, tmp_path):
    smiles, settings = ["CCO", "CO"], BuildSettings(springs, frames=12)

    def stop(stage, done, total):
        if stage == "scan" and done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_scans(smiles, "scans.h5", settings, workers=1, progress=stop)
    assert not (tmp_path / "scans.h5").exists()
    with pytest.raises(MindscaipError, match="unfinished build with another frames"):
        build_scans(smiles, "scans.h5", BuildSettings(springs, frames=13), workers=1)
    (tmp_path / "calls.txt").unlink()
    seen = []
    result = build_scans(smiles, "scans.h5", settings, workers=1, progress=lambda *news: seen.append(news))
    assert (result.resumed, result.num_scans, result.num_frames) == (17, 3, 36)
    assert seen[0] == ("scan", 18, 36)
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 36 - 17  # nothing is calculated twice
    build_scans(smiles, "fresh.h5", settings, workers=1)
    for a, b in zip(read_scans("scans.h5"), read_scans("fresh.h5"), strict=True):
        assert a.fingerprint() == b.fingerprint()


def test_a_killed_build_goes_on(springs, tmp_path):
    """The process dies without notice in the middle of a scan, as under ``kill -9``."""
    command = [
        sys.executable, "-c", "from mindscaip.cli import main; main()",
        *("bsct", "build", "CC", "-o", "s.h5", "--frames", "20", "--workers", "1"),
        *("--reference", springs.replace("Springs", "Killed")),
    ]  # fmt: skip
    died = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert died.returncode == 9
    (log,) = (tmp_path / "s.h5.parts" / "frames" / "C-C").glob("*.jsonl")
    saved = len(log.read_text().splitlines()) - 1
    assert 0 < saved < 20
    with log.open("a") as file:
        file.write('{"frame": 3, "ener')  # what a kill in the middle of writing leaves
    (tmp_path / "revived").touch()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{saved} frames are from an interrupted build" in done.stderr
    assert len(next(read_scans(tmp_path / "s.h5"))) == 20


def interrupted_at(count):
    def stop(stage, done, total):
        if stage == "scan" and done == count:
            raise KeyboardInterrupt

    return stop


def test_frames_survive_a_failure_of_the_whole_job(springs, tmp_path):
    """What the user is told to run again finds its frames: nothing is removed before every frame has its outcome."""
    from mindscaip.bsct import collect

    settings = BuildSettings(springs.replace("Springs", "Unmade"), frames=12)
    with pytest.raises(KeyboardInterrupt):
        build_scans(["CO"], "s.h5", settings, workers=1, progress=interrupted_at(7))
    (tmp_path / "uninstalled").touch()
    collect._made = type(collect._made)()  # another process has not made a calculator yet
    with pytest.raises(MindscaipError, match=r"no licence.*kept in s\.h5\.parts, and the same command goes on there"):
        build_scans(["CO"], "s.h5", settings, workers=1)
    (record,) = [b for b in report_of(tmp_path / "s.h5")["bonds"] if b["bond"] == "C-O"]
    assert (record["status"], record["unfinished"]) == ("failed", True)
    (tmp_path / "uninstalled").unlink()
    assert build_scans(["CO"], "s.h5", settings, workers=1).resumed == 7
    assert not (tmp_path / "s.h5.parts").exists()


def test_another_command_leaves_the_frames_of_a_killed_build_alone(springs, tmp_path):
    settings, bonds = BuildSettings(springs, frames=12), ["C-C", "C-O", "C-N"]
    with pytest.raises(KeyboardInterrupt):
        build_scans(["CCO", "CN"], "s.h5", settings, bonds=bonds, workers=1, progress=interrupted_at(30))
    no_such_bond = (
        r"the molecules have no C-S bond, but C-C, C-H, C-N, C-O, H-N, H-O; the folder s\.h5\.parts stays, since it "
        r"holds 3 molecules or bonds that another command began"
    )
    with pytest.raises(MindscaipError, match=no_such_bond):
        build_scans(["CCO", "CN"], "s.h5", settings, bonds=["C-S"], workers=1)
    shorter = call("build", "CN", "-o", "s.h5", "--reference", springs, "--frames", 12, "--workers", 1).stderr
    assert "holds 3 molecules or bonds that another command began" in shorter  # CCO and two of its bonds
    result = build_scans(["CCO", "CN"], "s.h5", settings, bonds=bonds, workers=1, overwrite=True)
    assert (result.num_scans, result.resumed) == (3, 36)
    assert (result.kept, result.why_kept) == (None, [])
    assert not (tmp_path / "s.h5.parts").exists()


def test_a_molecule_that_could_not_be_tried_keeps_the_frames(springs, tmp_path):
    settings = BuildSettings(springs.replace("Springs", "UnmadeOnce"), frames=12)
    result = build_scans(["CO", "CN"], "s.h5", settings, workers=1)  # a calculator is made for each molecule in turn
    ((name, reason),) = result.failed_molecules
    assert (name, "no licence" in reason, result.num_scans) == ("CN", True, 1)
    assert str(result.kept) == "s.h5.parts"
    assert result.why_kept == [
        "what is finished is kept in s.h5.parts, and the same command with --overwrite goes on there"
    ]
    (tmp_path / "licence").touch()
    (tmp_path / "calls.txt").unlink()
    result = build_scans(["CO", "CN"], "s.h5", settings, workers=1, overwrite=True)
    assert (result.num_scans, result.resumed, result.kept) == (2, 12, None)
    assert not any(line.startswith("CH4O ") for line in (tmp_path / "calls.txt").read_text().splitlines())


def test_a_worker_process_that_dies_costs_its_own_bonds_only(springs, tmp_path):
    settings = BuildSettings(springs.replace("Springs", "Killed"), frames=12, relaxation="none")
    bonds = ["C-O", "C-N", "C-S"]
    with pytest.raises(KeyboardInterrupt):  # the largest molecule comes first; what kills in the others comes later
        build_scans(["CCO", "CN", "CS"], "s.h5", settings, bonds=bonds, workers=1, progress=interrupted_at(12))
    result = build_scans(["CCO", "CN", "CS"], "s.h5", settings, bonds=bonds, workers=2)
    assert [scan.smiles for scan in read_scans("s.h5")] == ["CCO"]
    lost = [record for record in result.records if record.unfinished]
    assert [record.molecule for record in lost] == ["CN", "CS"]
    assert all("a worker process died" in record.reason for record in lost)
    assert "the same command with --overwrite goes on there" in result.why_kept[0]
    (tmp_path / "revived").touch()
    result = build_scans(["CCO", "CN", "CS"], "s.h5", settings, bonds=bonds, workers=1, overwrite=True)
    assert (result.num_scans, result.kept) == (3, None)
    assert result.resumed > 12


def test_a_damaged_log_costs_its_own_bond_only(springs, tmp_path):
    command = ("build", "CO", "CN", "-o", "s.h5", "--reference", springs, "--frames", 12, "--workers", 1)
    with pytest.raises(KeyboardInterrupt):
        build_scans(["CO", "CN"], "s.h5", BuildSettings(springs, 12), workers=1, progress=interrupted_at(17))
    logs = sorted((tmp_path / "s.h5.parts" / "frames").glob("*/*.jsonl"))
    assert len(logs) == 2
    text = logs[0].read_text()
    logs[0].write_text(text.replace('"energy"', '"ener', 1))
    said = call(*command).stderr
    assert "Wrote 1 scans" in said
    assert "1 bonds are not finished" in said
    assert "the same command with --overwrite goes on" in said
    logs[0].write_text(text)
    said = call(*command, "--overwrite").stderr
    assert "Wrote 2 scans" in said
    assert "frames are from an interrupted build" in said
    assert not (tmp_path / "s.h5.parts").exists()


def test_bad_options(springs, tmp_path):
    settings = BuildSettings(springs, frames=12)
    with pytest.raises(MindscaipError, match=r"none of the molecules can be used; C\(C: .* not a SMILES"):
        build_scans(["C(C"], "s.h5", settings)
    with pytest.raises(MindscaipError, match=r"'C=O' is not a bond type"):
        build_scans(["CC"], "s.h5", settings, bonds=["C=O"])
    with pytest.raises(MindscaipError, match=r"let the name end in \.h5"):
        build_scans(["CC"], "s.xyz", settings)
    with pytest.raises(MindscaipError, match="9 frames are too few"):
        BuildSettings(springs, frames=9)
    with pytest.raises(MindscaipError, match="there is no calculator 'gfn3'"):
        build_scans(["CC"], "s.h5", BuildSettings("gfn3"))
    with pytest.raises(MindscaipError, match="there is no calculator 'gfn3'"):
        build_scans(["CC"], "s.h5", BuildSettings(springs, relaxation="gfn3"))
    with pytest.raises(MindscaipError, match="no molecule was given"):
        build_scans([], "s.h5", settings)
    with pytest.raises(MindscaipError, match=r"missing\.sdf does not exist"):
        build_scans(["CC", "missing.sdf"], "s.h5", settings)
    with pytest.raises(MindscaipError, match="the number of workers is the cluster's"):
        build_scans(["CC"], "s.h5", settings, workers=2, dask="tcp://127.0.0.1:1")
    (tmp_path / "s.h5").write_text("here already")
    with pytest.raises(MindscaipError, match=r"s\.h5 exists; give another name"):
        build_scans(["CC"], "s.h5", settings)
    assert (tmp_path / "s.h5").read_text() == "here already"


def test_command_line(springs, tmp_path):
    result = call(
        "build", "CCO", "CO", "-o", "s.h5", "--reference", springs, "--frames", 15, "--bonds", "C-O,C-C", "--workers", 1
    )
    assert "Wrote 3 scans with 45 frames" in result.stderr.replace("\n", " ")
    assert all(len(scan) == 15 for scan in read_scans("s.h5"))
    more = ("--reference", springs, "--bonds", "any", "--per-bond", 1, "--workers", 1, "--no-relax", "--frames", 10)
    many = call(
        "build", "CCCCCCCCCCO", "CCCCCCCCCCN", "CCCCCCCCCCS", "CCCCCCCCCCP", "CCCCCCCCCCCC", "C[C", "-o", "t.h5", *more
    )
    assert "Bonds by outcome" in many.stderr
    assert "Molecule C[C is left out" in many.stderr
    with h5py.File("t.h5") as file:
        assert file.attrs["method"] == springs


def test_workers_give_the_same_scans(springs):
    settings = BuildSettings(springs, frames=12, relaxation="none")
    build_scans(["CCO", "CN"], "one.h5", settings, workers=1)
    build_scans(["CCO", "CN"], "two.h5", settings, workers=2)
    for a, b in zip(read_scans("one.h5"), read_scans("two.h5"), strict=True):
        assert a.key == b.key
        np.testing.assert_array_equal(a.positions, b.positions)


def test_a_dask_cluster_does_the_work(springs):
    distributed = pytest.importorskip(
        "distributed", reason="dask.distributed is not installed: pip install 'mindscaip[dask]'"
    )
    settings = BuildSettings(springs, frames=12, relaxation="none")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp"
    ) as cluster:
        result = build_scans(["CCO", "C(C"], "s.h5", settings, dask=cluster.scheduler_address)
    assert (result.num_scans, len(result.failed_molecules)) == (2, 1)


def test_a_dask_scheduler_that_does_not_answer(springs, monkeypatch):
    pytest.importorskip("distributed", reason="dask.distributed is not installed: pip install 'mindscaip[dask]'")
    monkeypatch.setattr("mindscaip.bsct.parallel.CONNECT_SECONDS", 0.5)
    with pytest.raises(MindscaipError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        build_scans(["CC"], "s.h5", BuildSettings(springs), dask="tcp://127.0.0.1:9")
