from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from mindscaip.bsct.compare import COLUMNS, compare_runs
from mindscaip.bsct.convert import convert_scans
from mindscaip.bsct.dataset import ScanError, open_scans, write_scans
from mindscaip.bsct.potentials import Potential
from mindscaip.bsct.score import score_scans
from mindscaip.errors import MindscaipError
from tests.bsct.makers import random_scan
from tests.bsct.test_score import call


class Scaled(Potential):
    """The reference times a factor."""

    dense = 2

    def __init__(self, factor: float, name: str = "", unknown: int = 0) -> None:
        super().__init__(name or f"scaled-{factor}", {"kind": "scaled", "factor": str(factor)})
        self.factor, self.unknown = factor, unknown

    def check(self, scan):
        if self.unknown in scan.numbers:
            raise ScanError("unknown element")

    def predict(self, path):
        scan = path.scan
        energy = CubicSpline(scan.bond_length, scan.energy)(path.bond_length)
        return energy, self.factor * CubicSpline(scan.bond_length, scan.forces)(path.bond_length)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "scans.h5"
    numbers = [(6, 8, 1, 1), (6, 8, 9, 1), (6, 6, 1, 1)]
    bonds = ["C-O", "C-O", "C-C"]
    scans = [
        random_scan(k, id=str(k), bond=b, numbers=n) for k, (b, n) in enumerate(zip(bonds, numbers, strict=True), 1)
    ]
    write_scans(path, scans, {})
    return path


@pytest.fixture
def runs(data, tmp_path):
    for factor in (0.5, 0.9):
        score_scans(Scaled(factor), open_scans(data), tmp_path / f"run-{factor}")
    return [tmp_path / "run-0.5", tmp_path / "run-0.9"]


def test_rows_are_means_sorted_by_a_column(runs):
    table = compare_runs(runs)
    summaries = {run: json.loads((run / "summary.json").read_text()) for run in runs}
    assert [row["run"] for row in table.rows] == sorted(
        map(str, runs), key=lambda run: summaries[type(runs[0])(run)]["mean"]["fsd_intrinsic"]
    )
    for row in table.rows:
        summary = summaries[type(runs[0])(row["run"])]
        for name in ("fsd", "fsd_compress", "fsd_stretch", "fsd_intrinsic", "energy_mae", "force_mae"):
            assert row[name] == pytest.approx(summary["mean"][name], rel=1e-12)
        assert row["fsd_low"] == summary["statistics"]["all"]["fsd"]["low"]
        assert row["unresolved"] == summary["num_unresolved"]
        assert row["seconds"] == pytest.approx(summary["seconds"])
        assert row["ms_per_geometry"] == pytest.approx(1000 * summary["seconds"] / summary["num_geometries"])
    by_force = compare_runs(runs, sort="force_mae")
    assert [row["potential"] for row in by_force.rows] == ["scaled-0.9", "scaled-0.5"]
    with pytest.raises(MindscaipError, match=r"there is no column 'forcemae'.*did you mean 'force_mae'"):
        compare_runs(runs, sort="forcemae")


def test_a_run_without_the_intrinsic_metric_comes_last(data, runs, tmp_path):
    score_scans(Scaled(0.99), open_scans(data), tmp_path / "plain", dense=0)
    table = compare_runs([tmp_path / "plain", *runs])
    assert table.rows[-1]["potential"] == "scaled-0.99"
    assert table.cells()[-1][6] == "-"


def test_paths_of_different_density_are_named(data, runs, tmp_path):
    assert compare_runs(runs).notes == []
    assert {row["dense"] for row in compare_runs(runs).rows} == {2}
    score_scans(Scaled(0.7), open_scans(data), tmp_path / "fine", dense=10)
    score_scans(Scaled(0.6), open_scans(data), tmp_path / "none", dense=0)
    assert compare_runs([tmp_path / "none", *runs]).notes == []  # nothing there that rests on a path
    table = compare_runs([*runs, tmp_path / "fine", tmp_path / "none"])
    (note,) = table.notes
    for part in ("scaled-0.7 10", "scaled-0.5 2", "not comparable", "--dense 2, which needs no new geometry"):
        assert part in note
    assert "scaled-0.6" not in note
    assert table.text().endswith(f"{note}\n")
    assert f"\n\n{note}\n" in table.markdown()
    call("compare", *runs, tmp_path / "fine", "-o", tmp_path / "table.html")
    assert "are not comparable between these rows" in (tmp_path / "table.html").read_text()

    class Unwilling(Scaled):
        def predict(self, path):
            raise AssertionError("a geometry was evaluated again")

    score_scans(Unwilling(0.7), open_scans(data), tmp_path / "fine", dense=2)  # what the note says to do
    assert compare_runs([*runs, tmp_path / "fine"]).notes == []


def test_different_scans_are_refused_unless_restricted(data, runs, tmp_path):
    score_scans(Scaled(0.7, unknown=9), open_scans(data), tmp_path / "fewer")
    with pytest.raises(MindscaipError, match=r"different scans: .*fewer lacks 1 \(C-O/2\); compare the 2 common ones"):
        compare_runs([*runs, tmp_path / "fewer"])
    table = compare_runs([*runs, tmp_path / "fewer"], common=True)
    assert set(table.scans) == {"C-O/1", "C-C/3"}
    assert table.left_out[str(runs[0])] == ("C-O/2",)
    full = json.loads((runs[0] / "summary.json").read_text())["scans"]
    expected = np.mean([row["fsd"] for row in full if row["id"] != "2"])
    found = next(row for row in table.rows if row["potential"] == "scaled-0.5")
    assert found["fsd"] == pytest.approx(expected, rel=1e-12)
    assert found["num_scans"] == 2


def test_one_name_with_another_reference_is_another_scan(data, runs, tmp_path):
    other = [
        random_scan(1, id="1", energy=random_scan(1).energy + 0.5),
        random_scan(2, id="2", numbers=(6, 8, 9, 1)),
        random_scan(3, id="3", bond="C-C", numbers=(6, 6, 1, 1)),
    ]
    write_scans(tmp_path / "other.h5", other, {})
    score_scans(Scaled(0.7), open_scans(tmp_path / "other.h5"), tmp_path / "other")
    with pytest.raises(MindscaipError, match=r"1 scans of one name have different frames or references \(C-O/1\)"):
        compare_runs([runs[0], tmp_path / "other"])
    assert len(compare_runs([runs[0], tmp_path / "other"], common=True).scans) == 2
    write_scans(tmp_path / "far.h5", [random_scan(9, id="99")], {})
    score_scans(Scaled(0.7), open_scans(tmp_path / "far.h5"), tmp_path / "far")
    with pytest.raises(MindscaipError, match="no scan in common"):
        compare_runs([runs[0], tmp_path / "far"], common=True)


def test_the_layout_that_was_read_does_not_matter(data, runs, tmp_path):
    convert_scans(data, tmp_path / "folder")
    score_scans(Scaled(0.7), open_scans(tmp_path / "folder"), tmp_path / "from-folder")
    assert len(compare_runs([*runs, tmp_path / "from-folder"]).scans) == 3


def test_what_is_no_run(data, runs, tmp_path):
    with pytest.raises(MindscaipError, match="is not the folder of a run"):
        compare_runs([tmp_path])
    (runs[0] / "summary.json").write_text("{}")
    with pytest.raises(MindscaipError, match=r"summary\.json is damaged"):
        compare_runs(runs)
    (runs[0] / "summary.json").unlink()
    with pytest.raises(MindscaipError, match="not finished"):
        compare_runs(runs)
    with pytest.raises(MindscaipError, match="named twice"):
        compare_runs([runs[1], runs[1]])
    with pytest.raises(MindscaipError, match="name the folders"):
        compare_runs([])


def test_names_that_are_the_same_show_their_folders(data, tmp_path):
    for k in (1, 2):
        score_scans(Scaled(0.5 + 0.1 * k, name="a/model.pt"), open_scans(data), tmp_path / f"r{k}")
    names = {row["potential"] for row in compare_runs([tmp_path / "r1", tmp_path / "r2"]).rows}
    assert names == {"model.pt (r1)", "model.pt (r2)"}


def test_names_are_never_the_same(data, tmp_path):
    folders = [tmp_path / "v1" / "scores", tmp_path / "v2" / "scores"]
    for dense, folder in zip((2, 4), folders, strict=True):
        score_scans(Scaled(0.5, name="p.pt"), open_scans(data), folder, dense=dense)
    score_scans(Scaled(0.9), open_scans(data), tmp_path / "scores")
    table = compare_runs([*folders, tmp_path / "scores"])
    assert {row["potential"] for row in table.rows} == {"p.pt (v1/scores)", "p.pt (v2/scores)", "scaled-0.9"}
    (note,) = table.notes
    assert "p.pt (v1/scores) 2, p.pt (v2/scores) 4" in note or "p.pt (v2/scores) 4, p.pt (v1/scores) 2" in note


@pytest.mark.parametrize("suffix", ["txt", "csv", "md", "html"])
def test_tables(runs, tmp_path, suffix):
    out = tmp_path / f"table.{suffix}"
    shown = call("compare", *runs, "-o", out).stdout
    table = compare_runs(runs)
    assert shown == table.text()
    text = out.read_text()
    first = table.rows[0]
    if suffix == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert float(rows[0]["fsd_intrinsic"]) == first["fsd_intrinsic"]
        assert [row["potential"] for row in rows] == [row["potential"] for row in table.rows]
    elif suffix == "md":
        lines = text.splitlines()
        assert len(lines) == 4
        assert {line.count("|") for line in lines} == {len(COLUMNS) + 2}
        assert f"| {first['force_mae']:.3f} |" in lines[2]
    elif suffix == "txt":
        assert f"{first['fsd']:.2f}" in text.splitlines()[2]
    else:
        assert text.startswith("<!DOCTYPE html>")
        assert f'data-value="{first["fsd"]!r}"' in text
        assert not re.search(r"(src|href)=\"http", text)


def test_the_command_says_what_it_leaves_out(data, runs, tmp_path):
    score_scans(Scaled(0.7, unknown=9), open_scans(data), tmp_path / "fewer")
    done = call("compare", runs[0], tmp_path / "fewer", "--common", "--sort", "fsd")
    assert "1 scans are left out of the comparison" in done.stderr.replace("\n", "")
    with pytest.raises(MindscaipError, match=r"written as \.txt, \.csv, \.md, \.html"):
        call("compare", *runs, "-o", tmp_path / "table.pdf")
