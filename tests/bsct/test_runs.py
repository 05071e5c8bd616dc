"""Runs at scale and with bad input: batches across scans, worker processes, denser paths that resume."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from mindscaip.bsct.compare import compare_runs
from mindscaip.bsct.dataset import open_scans, write_scans
from mindscaip.bsct.path import scan_path
from mindscaip.bsct.potentials import Potential, resolve_potential
from mindscaip.bsct.score import read_prediction, score_scans
from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import Prediction, evaluate, evaluate_stream
from mindscaip.errors import MindscaipError
from tests.bsct.makers import FIXTURE, random_scan, write_folder
from tests.bsct.test_dataset import break_folder
from tests.bsct.test_score import call
from tests.models import random_structure, write_small_model
from tests.toys import write_toy


class Smooth(Potential):
    """The reference through a spline; counts the scans that it was asked for."""

    dense = 4

    def __init__(self) -> None:
        super().__init__("smooth", {"kind": "smooth"})
        self.seen: list[tuple[str, int]] = []

    def predict(self, path):
        scan = path.scan
        self.seen.append((scan.key, path.dense))
        energy = CubicSpline(scan.bond_length, scan.energy)(path.bond_length)
        return energy, 0.9 * CubicSpline(scan.bond_length, scan.forces)(path.bond_length)


@pytest.fixture
def data(tmp_path):
    scans = [random_scan(k, id=str(k), numbers=(6, 8, 1, 1, 1)[: 3 + k % 3]) for k in range(1, 7)]
    write_scans(tmp_path / "scans.h5", scans, {})
    return tmp_path / "scans.h5"


def test_a_stream_gives_what_one_call_each_gives(tmp_path):
    model = load_exported(write_small_model(tmp_path / "model.pt"))
    structures = [random_structure(n, seed=n, size=4.0) for n in (5, 1, 9)]
    singles = evaluate(model, structures, 1)
    for limit in (1, 100, 10**6):
        for answer, single in zip(evaluate_stream(model, structures, limit), singles, strict=True):
            assert isinstance(answer, Prediction)
            assert answer.energy == pytest.approx(single.energy, abs=1e-9)
            np.testing.assert_allclose(answer.forces, single.forces, atol=1e-9)


def test_a_stream_goes_on_after_a_structure_without_an_answer(tmp_path):
    model = load_exported(write_toy(tmp_path / "model.pt"))
    good = Structure(numbers=[6, 8], positions=[[0, 0, 0], [0, 0, 1.2]])
    twice = Structure(numbers=[6, 8], positions=[[0, 0, 0], [0, 0, 0.0]])
    fluorine = Structure(numbers=[6, 9], positions=[[0, 0, 0], [0, 0, 1.2]])
    lost = Structure(numbers=[6, 8], positions=[[0, 0, 0], [0, 0, 1e9]])
    found = list(evaluate_stream(model, [good, twice, good, fluorine, lost, good]))
    assert [isinstance(answer, Prediction) for answer in found] == [True, False, True, False, False, True]
    assert "stand on the same place" in str(found[1])
    assert "element F" in str(found[3])
    assert found[0].energy == found[2].energy == found[5].energy


def test_batches_run_across_scans(data, tmp_path, monkeypatch):
    from mindscaip.engines import batched

    calls = []
    one_batch = batched._evaluate_batch

    def count(model, batch, *rest):
        calls.append(len(batch))
        return one_batch(model, batch, *rest)

    monkeypatch.setattr(batched, "_evaluate_batch", count)
    potential = resolve_potential(str(write_toy(tmp_path / "model.pt")), batch_edges=10**6)
    together = score_scans(potential, open_scans(data), dense=2)
    assert calls == [6 * 59]
    calls.clear()
    apart = score_scans(resolve_potential(str(tmp_path / "model.pt"), batch_edges=50), open_scans(data), dense=2)
    assert len(calls) > 60
    for a, b in zip(together.rows, apart.rows, strict=True):
        for name in ("fsd", "fsd_intrinsic", "energy_mae", "force_mae", "conservation_error"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6, abs=1e-9)


def test_an_interrupted_stream_keeps_what_is_done(data, tmp_path):
    write_toy(tmp_path / "model.pt")
    out = tmp_path / "out"

    def stop(key):
        if key == "C-O/4":
            raise KeyboardInterrupt

    potential = resolve_potential(str(tmp_path / "model.pt"), batch_edges=10**6)
    with pytest.raises(KeyboardInterrupt):
        score_scans(potential, open_scans(data), out, stop, dense=2)
    assert not (out / "summary.json").exists()
    kept = [key for key in open_scans(data).keys if read_prediction(out, key) is not None]
    assert kept == ["C-O/1", "C-O/2", "C-O/3", "C-O/4"]
    assert score_scans(potential, open_scans(data), out, dense=2).resumed == 4


def test_a_denser_run_serves_a_coarser_one(data, tmp_path):
    scans = open_scans(data)
    out = tmp_path / "out"
    dense_run = score_scans(Smooth(), scans, out, dense=6).data
    each = dense_run["seconds"] / dense_run["num_geometries"]
    for dense in (3, 2, 1, 0):
        again = Smooth()
        found = score_scans(again, scans, out, dense=dense)
        assert again.seen == []
        assert found.resumed == 6
        fresh = score_scans(Smooth(), scans, dense=dense)
        for a, b in zip(found.rows, fresh.rows, strict=True):
            np.testing.assert_allclose(a.fsd_intrinsic, b.fsd_intrinsic, rtol=1e-4)
            assert a.fsd == b.fsd
            assert a.dense == dense
        # Its time is its share of the geometries that were evaluated, so that the time of each stays what it was.
        assert found.data["num_geometries"] == fresh.data["num_geometries"]
        assert found.data["seconds"] / found.data["num_geometries"] == pytest.approx(each, rel=1e-9)
    again = Smooth()
    score_scans(again, scans, out, dense=4)
    assert again.seen == [(key, 4) for key in scans.keys]


def test_only_geometries_of_the_path_are_counted(tmp_path):
    energy = random_scan(1).energy.copy()
    energy[[0, 1, 7, 29]] = np.nan  # the path goes from frame 2 to frame 28, over frame 7
    write_scans(tmp_path / "scans.h5", [random_scan(1, energy=energy), random_scan(2, id="8")], {})
    scans = open_scans(tmp_path / "scans.h5")
    lengths = [len(scan_path(scans.load(key), 4)) for key in scans.keys]
    assert lengths == [26 * 4 + 1, 29 * 4 + 1]
    assert score_scans(Smooth(), scans, tmp_path / "out").data["num_geometries"] == sum(lengths)
    (row,) = compare_runs([tmp_path / "out"]).rows
    assert row["ms_per_geometry"] == pytest.approx(1000 * row["seconds"] / sum(lengths))


def test_without_a_path_there_is_no_intrinsic_metric(data, tmp_path):
    summary = score_scans(Smooth(), open_scans(data), tmp_path / "out", dense=0)
    assert np.isnan(summary.rows[0].fsd_intrinsic)
    assert summary.data["mean"]["fsd_intrinsic"] is None
    assert summary.data["mean"]["fsd"] > 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dense"] == 0
    assert "-" in call("score", write_toy(tmp_path / "model.pt"), data, "--dense", "0").stdout


CALCULATORS = """
    import numpy as np
    from ase.calculators.calculator import Calculator, all_changes
    from ase.calculators.lj import LennardJones

    class Bad(LennardJones):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            if len(atoms) == 4 and atoms.get_distance(0, 1) > 2.0:
                self.results["forces"] = self.results["forces"] * np.nan
            if len(atoms) == 5:
                raise RuntimeError("out of licences")
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_bad_scan_has_its_sentence_and_the_rest_goes_on(tmp_path, monkeypatch, workers):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / f"bad_calculators_{workers}.py").write_text(textwrap.dedent(CALCULATORS))
    root = tmp_path / "scans"
    numbers = {
        1: (6, 8, 1),
        2: (6, 8, 1, 1),
        3: (6, 8, 1, 1, 1),
        4: (6, 8, 1),
        5: (6, 8, 1),
        6: (6, 8, 1),
        7: (6, 8, 1),
    }
    folders = {k: write_folder(root, random_scan(k, id=str(k), numbers=n)) for k, n in numbers.items()}
    break_folder(folders[4], "missing frame")
    break_folder(folders[5], "too few valid")
    break_folder(folders[6], "unknown element")
    out = tmp_path / "out"
    command = ["score", f"ase:bad_calculators_{workers}:Bad", root, "-o", out, "--workers", workers]
    done = call(*command)
    summary = json.loads((out / "summary.json").read_text())
    assert [row["id"] for row in summary["scans"]] == ["1", "7"]
    reasons = {entry["scan"]: entry["reason"] for entry in summary["skipped"]}
    assert list(reasons) == [f"C-O/{k}" for k in (2, 3, 4, 5, 6)]
    assert "value that is not finite" in reasons["C-O/2"]
    assert "(bond length 2." in reasons["C-O/2"]
    assert "failed with RuntimeError: out of licences" in reasons["C-O/3"]
    assert "2 of 30 frames are missing" in reasons["C-O/4"]
    assert "9 of 30 frames have a finite reference; 10 are needed" in reasons["C-O/5"]
    assert "'Xx', which is not an element" in reasons["C-O/6"]
    assert "Skipped C-O/3" in done.stderr


@pytest.mark.slow
def test_worker_processes_give_the_same_numbers(data, tmp_path):
    path = write_toy(tmp_path / "model.pt")
    call("score", path, data, "-o", tmp_path / "one", "--workers", "1", "--dense", "2")
    call("score", path, data, "-o", tmp_path / "two", "--workers", "2", "--dense", "2")
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    for key in ("fsd", "fsd_intrinsic", "energy_mae", "force_mae", "tortuosity"):
        assert one["mean"][key] == pytest.approx(two["mean"][key], rel=1e-6)
    assert [row["id"] for row in two["scans"]] == [row["id"] for row in one["scans"]]
    again = call("score", path, data, "-o", tmp_path / "two", "--dense", "2").stderr.replace("\n", " ")
    assert "6 scans from an earlier run" in again
    with pytest.raises(MindscaipError, match="cannot be made in other processes"):
        score_scans(Smooth(), open_scans(data), workers=2)


def test_xtb_is_smooth_and_converged_on_its_own_scan():
    pytest.importorskip("tblite", reason="tblite is not installed")
    scans = open_scans(FIXTURE)
    scan = scans.load(scans.keys[0])
    potential = resolve_potential("gfn2-xtb")
    assert potential.dense == 2
    summary = score_scans(potential, scans, keys=[scan.key])
    row = summary.rows[0]
    assert row.fsd_intrinsic < 0.1
    assert row.conservation_error < 0.01
    assert row.force_flips == 1
    assert summary.data["num_geometries"] == len(scan_path(scan, 2)) == 199
