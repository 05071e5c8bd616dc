"""What goes into the page about bond scans, and what is refused."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mindscaip.bsct.compare import compare_runs
from mindscaip.bsct.convert import convert_scans
from mindscaip.bsct.dataset import open_scans, write_scans
from mindscaip.bsct.fsd import fsd, squared_force_change
from mindscaip.bsct.score import read_prediction
from mindscaip.commands.bsct_report import register_report
from mindscaip.errors import MindscaipError
from mindscaip.report import bsct_molecule
from mindscaip.report.bsct_data import ReportData, collect, find_scans, read_run
from mindscaip.report.bsct_molecule import draw_molecule, sketch
from mindscaip.report.bsct_page import COORDINATE_UNIT, payload, render
from tests.bsct.makers import FIXTURE, random_scan, reference_data
from tests.report.bsct_makers import Made, full_size, half, planted, score

KEYS = open_scans(FIXTURE).keys


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    score(folder / "planted", "planted", planted)
    score(folder / "half", "half", half, dense=0)
    return folder


@pytest.fixture
def runs(scored: Path, tmp_path: Path) -> Path:
    """The same runs, free to be damaged."""
    return Path(shutil.copytree(scored, tmp_path / "runs"))


def data_of(runs: Path, *names: str) -> ReportData:
    read = [read_run(str(runs / name)) for name in names]
    return collect(read, find_scans(read, FIXTURE))


def test_curves_values_and_steps_are_those_of_the_run(scored: Path) -> None:
    data = data_of(scored, "planted", "half")
    assert [scan.key for scan in data.scans] == list(KEYS)
    assert data.absent == ({}, {})
    scans = open_scans(FIXTURE)
    for view in data.scans:
        scan = scans.load(view.key)
        origin = scan.forces[view.minimum]
        assert view.minimum == int(np.argmin(scan.energy))
        for name, curves, values in zip(("planted", "half"), view.curves, view.values, strict=True):
            prediction = read_prediction(scored / name, view.key)
            assert prediction is not None
            assert curves is not None
            exact = fsd(scan, prediction.energy, prediction.forces)
            assert curves.worst == exact.full.frame
            assert values["fsd"] == exact.full.value
            change = np.sqrt(squared_force_change(prediction.forces, origin))
            assert np.allclose(curves.force_change, change, rtol=1e-6)
            assert np.allclose(curves.energy, prediction.energy - prediction.energy[view.minimum], atol=1e-4)
            assert (curves.intrinsic is None) == (name == "half")
        intrinsic = view.curves[0].intrinsic
        assert intrinsic is not None
        # Thinning keeps the maximum, and its place.
        largest = np.abs(np.concatenate([intrinsic.frames, intrinsic.between]))
        assert largest.max() == pytest.approx(view.values[0]["fsd_intrinsic"], rel=1e-9)
        assert intrinsic.worst == view.values[0]["fsd_intrinsic_bond_length"]
        k = int(np.argmax(np.abs(intrinsic.between)))
        place = scan.bond_length[k] + intrinsic.place[k] * (scan.bond_length[k + 1] - scan.bond_length[k])
        assert place == pytest.approx(intrinsic.worst, abs=1e-9)


def unpack(packed: dict[str, Any], name: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed[name]), dtype=dtype)


def test_the_page_holds_the_same_numbers(scored: Path) -> None:
    data = data_of(scored, "planted", "half")
    packed = json.loads(json.dumps(payload(data), allow_nan=False))
    columns = [metric["key"] for metric in packed["metrics"]] + packed["references"]
    values = unpack(packed, "values", "<f4").reshape(2, len(columns), len(KEYS))
    for r in range(2):
        for c, name in enumerate(columns):
            expected = np.array([scan.values[r][name] for scan in data.scans], dtype=np.float32)
            assert np.array_equal(values[r, c], expected, equal_nan=True), name
    curves = unpack(packed, "curves", "<f4")
    frames = packed["scans"][0]["frames"]
    assert np.array_equal(curves[:frames], data.scans[0].bond_length)
    sizes = [s["frames"] * 7 + (s["frames"] * 2 - 1) * (s["intrinsic"][0] is not None) for s in packed["scans"]]
    assert len(curves) == sum(sizes)
    molecules = unpack(packed, "molecules", "<i2")
    atoms = packed["scans"][0]["atoms"]
    drawing = data.scans[0].drawing
    assert molecules[:atoms].tolist() == drawing.numbers.tolist()
    first = molecules[atoms : 4 * atoms].reshape(-1, 3) * COORDINATE_UNIT
    assert np.abs(first - drawing.first).max() <= COORDINATE_UNIT
    assert {"fsd", "fsd_intrinsic", "energy_mae", "force_mae", "tortuosity"} <= set(columns)
    assert not {"dense", "num_frames", "fsd_bond_length", "smiles"} & set(columns)
    assert packed["metrics"][columns.index("fsd")]["help"]


def test_the_file_needs_nothing_else_and_text_cannot_break_it() -> None:
    data = full_size(frames=12, potentials=1)
    scan = data.scans[0]
    evil = "</script><script>alert(1)</script><!-- {{css}}"
    object.__setattr__(scan, "smiles", evil)
    object.__setattr__(data.runs[0], "label", evil)
    object.__setattr__(data, "name", evil)
    text = render(data)
    assert text.count("</script>") == 2
    assert "<!--" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)[^"'$]""", text)
    assert "url(" not in text.replace("url(#", "")
    assert "@import" not in text
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert block is not None
    assert json.loads(block.group(1))["potentials"][0]["label"] == evil
    assert "{{css}}" in block.group(1)  # text of the data is no template


def test_a_column_that_is_not_known_yet_is_shown_by_its_name(runs: Path) -> None:
    path = runs / "half" / "scans.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for k, row in enumerate(rows):
        row["bumpiness_index"] = "" if k == 0 else str(k)
        row["remark"] = "a word"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    packed = payload(data_of(runs, "planted", "half"))
    found = {metric["key"]: metric for metric in packed["metrics"]}
    assert found["bumpiness_index"]["label"] == "bumpiness index"
    assert "remark" not in found
    values = unpack(packed, "values", "<f4").reshape(2, -1, len(KEYS))
    column = [*found, *packed["references"]].index("bumpiness_index")
    assert np.isnan(values[0, column]).all()  # the other run does not have it
    assert np.isnan(values[1, column, 0])
    assert values[1, column, 1] == 1


def test_what_is_missing_is_named(runs: Path, tmp_path: Path) -> None:
    (runs / "half" / "predictions" / f"{KEYS[0]}.npz").unlink()
    (runs / "half" / "predictions" / f"{KEYS[1]}.npz").write_bytes(b"PK\x03\x04 cut off")
    shutil.copy(runs / "half" / "predictions" / f"{KEYS[3]}.npz", runs / "half" / "predictions" / f"{KEYS[2]}.npz")
    with (runs / "half" / "scans.csv").open(newline="") as file:
        lines = file.read().splitlines()
    gone = KEYS[-1].split("/")[1]
    (runs / "half" / "scans.csv").write_text("\n".join(line for line in lines if gone not in line) + "\n")
    summary = json.loads((runs / "half" / "summary.json").read_text())
    summary["skipped"] = [{"scan": KEYS[-1], "reason": "it does not know iodine"}]
    (runs / "half" / "summary.json").write_text(json.dumps(summary))
    data = data_of(runs, "planted", "half")
    assert data.absent[0] == {}
    absent = data.absent[1]
    assert set(absent) == {KEYS[0], KEYS[1], KEYS[2], KEYS[-1]}
    assert "missing or damaged" in absent[KEYS[0]]
    assert "missing or damaged" in absent[KEYS[1]]
    assert "another scan" in absent[KEYS[2]]
    assert absent[KEYS[-1]] == "it does not know iodine"
    assert data.scans[0].curves[1] is None
    assert data.scans[0].values[1]["fsd"] > 0  # the score is there all the same
    assert payload(data)["potentials"][1]["scored"] == [int(key not in (KEYS[2], KEYS[-1])) for key in KEYS]


def test_runs_over_other_scans_are_refused(runs: Path, tmp_path: Path) -> None:
    write_scans(tmp_path / "other.h5", [random_scan(1)], {"level_of_theory": "made up"})
    score(runs / "other", "other", half, dense=0, data=tmp_path / "other.h5")
    read = [read_run(str(runs / name)) for name in ("half", "other")]
    with pytest.raises(MindscaipError, match=r"half and .*other are runs over different sets of scans .*other\.h5"):
        find_scans(read, None)
    with pytest.raises(MindscaipError, match=r"other\.h5 is not the set of scans that .*half was scored on"):
        find_scans(read[:1], tmp_path / "other.h5")
    assert find_scans(read[1:], None).keys == ("C-O/7",)
    (tmp_path / "other.h5").rename(tmp_path / "moved.h5")
    with pytest.raises(MindscaipError, match=r"not at .*other\.h5 any more; say with --data where"):
        find_scans(read[1:], None)
    assert len(find_scans(read[1:], tmp_path / "moved.h5")) == 1
    with pytest.raises(MindscaipError, match="nothing to show; give the folder of a run, or --data"):
        find_scans([], None)


def test_both_layouts_of_the_same_scans_make_one_page(runs: Path, tmp_path: Path) -> None:
    convert_scans(FIXTURE, tmp_path / "folder")
    score(runs / "other", "other", half, dense=0, data=tmp_path / "folder")
    read = [read_run(str(runs / name)) for name in ("planted", "other")]
    assert read[0].dataset != read[1].dataset
    for data in (None, FIXTURE, tmp_path / "folder"):
        found = collect(read, find_scans(read, data))
        assert found.absent == ({}, {})
        assert all(curves is not None for scan in found.scans for curves in scan.curves)
    # A scan of the same name with another reference is another scan, and its scores are not of this one.
    scans = [open_scans(FIXTURE).load(key) for key in KEYS]
    changed = [*scans[:-1], replace(scans[-1], energy=scans[-1].energy + 0.01)]
    write_scans(tmp_path / "changed.h5", changed, {})
    found = collect(read, find_scans(read, tmp_path / "changed.h5"))
    assert [set(absent) for absent in found.absent] == [{KEYS[-1]}, {KEYS[-1]}]
    assert [bool(scan.values[0]) for scan in found.scans] == [True] * (len(KEYS) - 1) + [False]
    (runs / "other" / "predictions" / f"{KEYS[-1]}.npz").unlink()
    assert collect(read, find_scans(read, tmp_path / "changed.h5")).scans[-1].values == ({}, {})
    score(runs / "changed", "changed", half, dense=0, data=tmp_path / "changed.h5")
    with pytest.raises(MindscaipError, match="different sets of scans"):
        find_scans([*read, read_run(str(runs / "changed"))], None)


def test_runs_over_other_frames_of_the_same_scans_are_refused(tmp_path: Path) -> None:
    scan = random_scan(1)
    start = int(np.argmin(scan.energy)) % 2
    thinned = {name: getattr(scan, name)[start::2] for name in ("positions", "bond_length", "energy", "forces")}
    thinned["frame_index"] = np.arange(len(thinned["energy"]))
    for name, one in (("full", scan), ("thinned", replace(scan, **thinned))):
        write_scans(tmp_path / f"{name}.h5", [one], {})
        score(tmp_path / name, name, half, dense=0, data=tmp_path / f"{name}.h5")
    read = [read_run(str(tmp_path / name)) for name in ("full", "thinned")]
    with pytest.raises(MindscaipError, match="different sets of scans"):
        find_scans(read, None)
    with pytest.raises(MindscaipError, match="different frames or references"):
        compare_runs([run.folder for run in read])


def test_folders_that_are_no_finished_run_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(MindscaipError, match="nowhere: no such folder"):
        read_run(str(tmp_path / "nowhere"))
    with pytest.raises(MindscaipError, match=r"holds no run\.json"):
        read_run(str(tmp_path))
    (runs / "planted" / "summary.json").write_text('{"potential":')
    with pytest.raises(MindscaipError, match=r"planted: .* is damaged"):
        read_run(str(runs / "planted"))
    (runs / "planted" / "scans.csv").unlink()
    with pytest.raises(MindscaipError, match="not finished"):
        read_run(str(runs / "planted"))


def test_names_of_runs(runs: Path) -> None:
    assert read_run(f"my own, 2 × larger={runs / 'half'}").label == "my own, 2 × larger"
    shutil.copytree(runs / "half", runs / "again")
    read = [read_run(str(runs / name)) for name in ("half", "again")]
    data = collect(read, find_scans(read, FIXTURE))
    assert [run.label for run in data.runs] == ["half (half)", "half (again)"]


def test_a_scan_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    import h5py

    write_scans(tmp_path / "scans.h5", [random_scan(1, id="1"), random_scan(2, id="2")], {})
    with h5py.File(tmp_path / "scans.h5", "a") as file:
        del file["C-O/1/energy"]
    data = collect([], find_scans([], tmp_path / "scans.h5"))
    assert [scan.key for scan in data.scans] == ["C-O/2"]
    assert "'energy' is missing" in data.unreadable["C-O/1"]
    with h5py.File(tmp_path / "scans.h5", "a") as file:
        del file["C-O/2/energy"]
    with pytest.raises(MindscaipError, match=r"none of the scans of .*scans\.h5 can be read"):
        collect([], find_scans([], tmp_path / "scans.h5"))


def test_the_drawing_has_the_bonds_of_the_molecule() -> None:
    scans = open_scans(FIXTURE)
    for key in KEYS:
        scan = scans.load(key)
        drawing = draw_molecule(scan, int(np.argmin(scan.energy)))
        # Small molecules without rings: one bond less than atoms, of which one is the scanned one.
        assert len(drawing.bonds) == len(scan.numbers) - 2, key
        assert set(drawing.bond_index) not in [set(bond) for bond in drawing.bonds]
        assert np.allclose(drawing.last - drawing.first, scan.positions[-1] - scan.positions[0])


def test_the_formula_marks_the_scanned_bond() -> None:
    pytest.importorskip("rdkit")
    scans = open_scans(FIXTURE)
    for key in KEYS:
        scan = scans.load(key)
        found = draw_molecule(scan, 0).sketch
        assert found is not None
        marked = [(i, j) for i, j, _, scanned in found.bonds if scanned]
        assert len(marked) == 1, key
        symbols = sorted(re.sub(r"(?<=[A-Z])H.*", "", found.atoms[i][2]) or "C" for i in marked[0])
        assert "-".join(symbols) == scan.bond, key


def test_the_formula_of_numbered_and_of_plain_smiles() -> None:
    pytest.importorskip("rdkit")
    numbers = np.array([8, 6, 6, *[1] * 6])
    bonds = [(0, 1), (1, 2), (0, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8)]
    mapped = "[H:4][O:1][C:2]([H:5])([H:6])[C:3]([H:7])([H:8])[H:9]"
    for smiles in (mapped, "CCO"):
        found = sketch(smiles, numbers, bonds, (0, 1))
        assert found is not None
        assert found.smiles == "CCO"
        assert sorted(label for _, _, label in found.atoms) == ["", "", "OH"]
        (scanned,) = [{found.atoms[i][2] for i in (a, b)} for a, b, _, mark in found.bonds if mark]
        assert scanned == {"OH", ""}
    assert sketch("CCN", numbers, bonds, (0, 1)) is None
    assert sketch("not SMILES", numbers, bonds, (0, 1)) is None
    assert sketch("", numbers, bonds, (0, 1)) is None
    charged = sketch("[O-]C#[NH+]", np.array([8, 6, 7, 1]), [(0, 1), (1, 2), (2, 3)], (0, 1))
    assert charged is not None
    assert {label for _, _, label in charged.atoms} == {"O−", "", "NH+"}
    assert sorted(order for _, _, order, _ in charged.bonds) == [1, 3]


def test_without_rdkit_there_is_no_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    scan = open_scans(FIXTURE).load(KEYS[0])
    assert bsct_molecule.draw_molecule(scan, 0).sketch is None


def test_published_scans_have_a_formula_with_their_bond() -> None:
    pytest.importorskip("rdkit")
    scans = open_scans(reference_data("bsct-spice-dev.h5"))
    for key in scans.keys[::40]:
        found = draw_molecule(scans.load(key), 0).sketch
        assert found is not None, key
        assert sum(scanned for *_, scanned in found.bonds) == 1, key


def call(*arguments: object) -> Any:
    app = typer.Typer()
    register_report(app)

    @app.command()
    def other() -> None:
        """A second command, as in the real command line."""

    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    if isinstance(result.exception, MindscaipError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_command(runs: Path, tmp_path: Path) -> None:
    (runs / "half" / "predictions" / f"{KEYS[0]}.npz").unlink()
    said = call(runs / "planted", runs / "half", "--data", FIXTURE, "-o", tmp_path / "page.html").output
    assert f"half: 1 of {len(KEYS)} scans" in said
    assert KEYS[0] in said
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.glob("*.html")] == ["page.html"]
    with pytest.raises(MindscaipError, match=r"page\.txt: the page is HTML"):
        call(runs / "planted", "-o", tmp_path / "page.txt")
    call("--data", FIXTURE, "-o", tmp_path / "scans.html")  # the data set alone
    assert (tmp_path / "scans.html").stat().st_size < (tmp_path / "page.html").stat().st_size


def test_paths_of_different_density_are_named(scored: Path, tmp_path: Path) -> None:
    alone = data_of(scored, "planted", "half")
    assert alone.density_note == ""  # the other run has nothing that rests on a path
    sparse = replace(alone.runs[0], label="sparse", dense=1.0)
    data = replace(alone, runs=(alone.runs[0], sparse))
    assert f"planted {alone.runs[0].dense:.0f}, sparse 1" in data.density_note
    assert payload(data)["note"] == data.density_note


def test_a_scan_with_a_gap_in_its_path_keeps_its_other_curves(runs: Path) -> None:
    key = next(iter(read_run(str(runs / "planted")).rows))
    file = runs / "planted" / "predictions" / f"{key}.npz"
    with np.load(file) as archive:
        saved = dict(archive)
    saved["path_forces"][1] = np.nan
    np.savez(file, **saved, path_failure="frame 0.5: no convergence")
    table = runs / "planted" / "scans.csv"
    with table.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for row in rows:
        if f"{row['bond']}/{row['id']}" == key:
            row.update({name: "nan" for name in row if name.startswith("fsd_intrinsic")}, path_failure="frame 0.5: ...")
    with table.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    data = data_of(runs, "planted")
    (view,) = [scan for scan in data.scans if scan.key == key]
    assert view.curves[0] is not None
    assert view.curves[0].intrinsic is None
    assert sum(s.curves[0] is not None and s.curves[0].intrinsic is not None for s in data.scans) == len(KEYS) - 1
    assert "path_failure" not in data.metrics
    json.dumps(payload(data), allow_nan=False)


def test_a_made_potential_is_what_it_says() -> None:
    scan = open_scans(FIXTURE).load(KEYS[0])
    from mindscaip.bsct.path import scan_path

    energy, forces = Made("half", half, 0).predict(scan_path(scan))
    assert np.allclose(forces, 0.5 * scan.forces)
    assert np.allclose(energy, 0.5 * scan.energy + 3)
