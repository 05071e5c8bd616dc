from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import typer
from ase.calculators.calculator import Calculator, all_changes
from scipy.interpolate import CubicSpline
from typer.testing import CliRunner

from mindscaip.bsct.dataset import ScanError, open_scans, write_scans
from mindscaip.bsct.path import scan_path
from mindscaip.bsct.potentials import Potential, evaluate_outwards, resolve_potential
from mindscaip.bsct.score import MEANS, mean_scores, read_prediction, score_scans
from mindscaip.commands import bsct
from mindscaip.errors import MindscaipError
from tests.bsct.makers import FIXTURE, random_scan, reference_data, write_folder
from tests.toys import write_toy


class Scaled(Potential):
    """Predicts the reference energy plus a shift and the reference force times a factor; counts its calls."""

    def __init__(self, factor: float, unknown: int = 0, interrupt_at: str = "") -> None:
        super().__init__("scaled", {"kind": "scaled", "factor": str(factor)})
        self.factor, self.unknown, self.interrupt_at = factor, unknown, interrupt_at
        self.seen: list[str] = []

    def check(self, scan):
        if self.unknown in scan.numbers:
            raise ScanError(f"element {self.unknown} is unknown")

    dense = 2

    def predict(self, path):
        scan = path.scan
        if scan.key == self.interrupt_at:
            raise KeyboardInterrupt
        self.seen.append(scan.key)
        energy = CubicSpline(scan.bond_length, scan.energy)(path.bond_length)
        forces = CubicSpline(scan.bond_length, scan.forces)(path.bond_length)
        energy[path.frames], forces[path.frames] = scan.energy, scan.forces
        return energy + 0.5, self.factor * forces


@pytest.fixture
def data(tmp_path):
    scans = [
        random_scan(1, id="1"),
        random_scan(2, id="2", numbers=(6, 8, 9, 1)),
        random_scan(3, id="3", bond="C-C", numbers=(6, 6, 1, 1)),
    ]
    write_scans(tmp_path / "scans.h5", scans, {"level_of_theory": "made up"})
    return tmp_path / "scans.h5"


def app():
    made = typer.Typer()
    bsct.register(made)

    @made.command()
    def other() -> None:
        """A second command, as in the real command line."""

    return made


def call(*arguments):
    """Run ``mindscaip bsct ...``; a user's mistake is raised."""
    result = CliRunner().invoke(app(), ["bsct", *map(str, arguments)])
    if isinstance(result.exception, MindscaipError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_means_over_scans_and_bonds(data):
    summary = score_scans(Scaled(0.5), open_scans(data))
    assert [(row.bond, row.id) for row in summary.rows] == [("C-C", "3"), ("C-O", "1"), ("C-O", "2")]
    for name in MEANS:
        values = [getattr(row, name) for row in summary.rows]
        assert summary.data["mean"][name] == pytest.approx(sum(values) / 3)
        assert summary.data["by_bond"]["C-O"][name] == pytest.approx(sum(values[1:]) / 2)
    assert summary.data["by_bond"]["C-O"]["num_scans"] == 2
    assert summary.data["mean"]["energy_mae"] == pytest.approx(0.5)
    assert summary.data["mean"]["energy_mae_shifted"] == pytest.approx(0, abs=1e-9)


def test_a_part_without_value_is_left_out_of_the_mean():
    import dataclasses

    from mindscaip.bsct.score import ScanPrediction, score_prediction

    scan = random_scan(1)
    row = score_prediction(scan, ScanPrediction(scan.energy, scan.forces * 0.5, 0.0, ""))
    means = mean_scores([row, dataclasses.replace(row, fsd_compress=math.nan)])
    assert means["fsd_compress"] == row.fsd_compress
    assert means["num_scans"] == 2


def test_files_of_a_run(data, tmp_path):
    summary = score_scans(Scaled(0.5), open_scans(data), tmp_path / "out")
    with (tmp_path / "out" / "scans.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["fsd"]) for row in rows] == [row.fsd for row in summary.rows]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary.data
    saved = read_prediction(tmp_path / "out", "C-O/1")
    assert saved is not None
    np.testing.assert_array_equal(saved.forces, 0.5 * random_scan(1, id="1").forces)
    assert read_prediction(tmp_path / "out", "C-O/99") is None


def test_an_interrupted_run_goes_on(data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        score_scans(Scaled(0.5, interrupt_at="C-O/2"), open_scans(data), out)
    assert not (out / "summary.json").exists()
    potential = Scaled(0.5)
    summary = score_scans(potential, open_scans(data), out)
    assert potential.seen == ["C-O/2"]
    assert summary.resumed == 2
    fresh = score_scans(Scaled(0.5), open_scans(data))
    assert summary.data["mean"] == fresh.data["mean"]


def test_a_damaged_prediction_is_made_again(data, tmp_path):
    out = tmp_path / "out"
    score_scans(Scaled(0.5), open_scans(data), out)
    file = out / "predictions" / "C-O" / "1.npz"
    file.write_bytes(file.read_bytes()[:100])
    potential = Scaled(0.5)
    score_scans(potential, open_scans(data), out)
    assert potential.seen == ["C-O/1"]


def test_a_folder_keeps_to_its_run(data, tmp_path):
    out = tmp_path / "out"
    score_scans(Scaled(0.5), open_scans(data), out)
    with pytest.raises(MindscaipError, match="holds results of another potential;"):
        score_scans(Scaled(0.6), open_scans(data), out)
    write_scans(tmp_path / "other.h5", [random_scan(5)], {})
    with pytest.raises(MindscaipError, match="holds results of another data set;"):
        score_scans(Scaled(0.5), open_scans(tmp_path / "other.h5"), out)


def test_unknown_elements_are_skipped_and_counted(data):
    summary = score_scans(Scaled(0.5, unknown=9), open_scans(data))
    assert summary.skipped == [("C-O/2", "element 9 is unknown")]
    assert (summary.data["num_scans"], summary.data["num_skipped"]) == (2, 1)
    assert summary.data["skipped"] == [{"scan": "C-O/2", "reason": "element 9 is unknown"}]
    with pytest.raises(MindscaipError, match=r"none of the 3 scans .* element 6 is unknown"):
        score_scans(Scaled(0.5, unknown=6), open_scans(data))


def test_incomplete_scans_are_skipped_and_counted(tmp_path):
    for number in (1, 2):
        folder = write_folder(tmp_path, random_scan(number, id=str(number)))
    (folder / "atoms_7.xyz").unlink()
    summary = score_scans(Scaled(0.5), open_scans(tmp_path))
    assert [row.id for row in summary.rows] == ["1"]
    assert "1 of 30 frames are missing" in summary.skipped[0][1]


@pytest.mark.parametrize(("factor", "expected"), [(0.0, (52.660940, 52.660940, 34.745306))])
def test_published_check_values_through_a_run(factor, expected):
    summary = score_scans(Scaled(factor), open_scans(reference_data("bsct-spice-dev.h5")))
    assert summary.data["num_scans"] == 321
    mean = summary.data["mean"]
    found = (mean["fsd"], mean["fsd_compress"], mean["fsd_stretch"])
    np.testing.assert_allclose(found, expected, atol=5.1e-7)


def test_exported_model(tmp_path):
    from mindscaip.data.structure import Structure
    from mindscaip.engines.batched import evaluate

    path = write_toy(tmp_path / "model.pt")
    scan = random_scan(1)
    energy, forces = resolve_potential(str(path), batch_edges=40).predict(scan_path(scan))
    for k in (0, 13, 29):
        single = evaluate(path, [Structure(numbers=scan.numbers, positions=scan.positions[k])])[0]
        assert energy[k] == pytest.approx(single.energy, abs=1e-10)
        np.testing.assert_allclose(forces[k], single.forces, atol=1e-10)


def test_exported_model_on_the_command_line(data, tmp_path):
    path = write_toy(tmp_path / "model.pt")
    result = call("score", path, data, "-o", tmp_path / "out", "--json")
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (found["num_scans"], found["num_skipped"]) == (2, 1)
    assert "element F of the scan is not in the model, which knows H C N O" in found["skipped"][0]["reason"]
    assert set(found["by_bond"]) == {"C-C", "C-O"}
    assert {"fsd", "energy_mae", "force_mae"} <= set(found["mean"])

    table = call("score", path, data).stdout
    assert all(word in table for word in ("FSD", "E MAE", "F MAE", "C-C", "C-O", "all", "1 scans skipped"))
    again = call("score", path, data, "-o", tmp_path / "out")
    assert "2 scans from an earlier run" in again.stderr.replace("\n", " ")

    # The same file under another name is the same potential.
    path.rename(tmp_path / "renamed.pt")
    call("score", tmp_path / "renamed.pt", data, "-o", tmp_path / "out")
    with pytest.raises(MindscaipError, match="element C of the scan is not in the model"):
        call("score", write_toy(tmp_path / "hydrogen.pt", elements=("H",)), data)


def test_wrong_names(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MindscaipError, match=r"did you mean 'gfn2-xtb'.*the path of a model.pt.*ase:module:callable"):
        call("score", "gfn2-xbt", data)
    with pytest.raises(MindscaipError, match=r"absent.pt: no such file"):
        call("score", "absent.pt", data)
    with pytest.raises(MindscaipError, match="is a folder; a potential is"):
        call("score", tmp_path, data)
    with pytest.raises(MindscaipError, match=r"is an HDF5 file, not a potential; potentials come first, then the data"):
        call("score", data, data)
    (tmp_path / "text.pt").write_text("no model")
    with pytest.raises(MindscaipError, match=r"not a whole model.pt"):
        call("score", "text.pt", data)
    with pytest.raises(MindscaipError, match="no_such_module"):
        call("score", "ase:no_such_module:make", data)
    with pytest.raises(MindscaipError, match=r"absent.h5: no such file or folder"):
        call("score", write_toy(tmp_path / "model.pt"), "absent.h5")
    with pytest.raises(MindscaipError, match="batch-edges 0 is below 1"):
        call("score", tmp_path / "model.pt", data, "--batch-edges", "0")
    with pytest.raises(MindscaipError, match="dense is -1"):
        call("score", tmp_path / "model.pt", data, "--dense", "-1")
    with pytest.raises(MindscaipError, match="workers is 0"):
        call("score", tmp_path / "model.pt", data, "--workers", "0")


CALCULATORS = """
import numpy as np
from ase.calculators.lj import LennardJones
from ase.calculators.calculator import Calculator, all_changes

def lj():
    return LennardJones(sigma=1.0, epsilon=0.1, rc=6.0)

class Nan(Calculator):
    implemented_properties = ["energy", "forces"]
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        bad = len(atoms) and 9 in atoms.numbers and atoms.get_distance(0, 1) > 2.0
        self.results = {"energy": np.nan if bad else 1.0, "forces": np.zeros((len(atoms), 3))}

class Raises(Nan):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if 9 in atoms.numbers:
            raise RuntimeError("no fluorine today")
"""


def test_ase_calculators(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_calculators_of_bsct.py").write_text(CALCULATORS)
    found = json.loads(call("score", "ase:my_calculators_of_bsct:lj", data, "--json").stdout)
    assert found["num_scans"] == 3
    assert len(found["potential"]["source_sha256"]) == 64

    scan = open_scans(data).load("C-O/1")
    from ase import Atoms
    from ase.calculators.lj import LennardJones

    energy, forces = resolve_potential("ase:my_calculators_of_bsct:lj").predict(scan_path(scan))
    atoms = Atoms(scan.numbers, scan.positions[4], calculator=LennardJones(sigma=1.0, epsilon=0.1, rc=6.0))
    assert energy[4] == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(forces[4], atoms.get_forces())

    for name, reason in (("Nan", "not finite"), ("Raises", "no fluorine today")):
        found = json.loads(call("score", f"ase:my_calculators_of_bsct:{name}", data, "--json").stdout)
        assert found["num_scans"] == 2
        assert found["skipped"][0]["scan"] == "C-O/2"
        assert reason in found["skipped"][0]["reason"]
        assert "frame " in found["skipped"][0]["reason"]


class Gap(Scaled):
    """Without an answer between frames 10 and 11 of the scans with fluorine, by the means of a calculator."""

    def __init__(self, factor: float, frame: float = 10.5) -> None:
        super().__init__(factor)
        self.frame = frame

    def predict(self, path):
        from mindscaip.bsct.potentials import CalculatorPotential

        energy, forces = super().predict(path)
        if 9 not in path.numbers:
            return energy, forces
        scan = path.scan
        step = scan.bond_length[1] - scan.bond_length[0]
        bad = scan.bond_length[0] + self.frame * step

        class Table(Calculator):
            implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's interface)

            def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
                length = atoms.get_distance(0, 1)
                if abs(length - bad) < 0.1 * step:
                    raise RuntimeError("no convergence")
                place = int(np.argmin(np.abs(path.bond_length - length)))
                self.results = {"energy": energy[place], "forces": forces[place]}

        return CalculatorPotential("table", Table, {}).predict(path)


def test_a_failure_between_frames_costs_the_intrinsic_metric_only(data, tmp_path):
    whole = {row.id: row for row in score_scans(Scaled(0.5), open_scans(data)).rows}
    out = tmp_path / "out"
    for turn in range(2):  # the second time from the saved predictions, and what failed is tried again
        potential = Gap(0.5)
        summary = score_scans(potential, open_scans(data), out)
        assert (summary.skipped, summary.resumed) == ([], 2 * turn)
        assert turn == 0 or potential.seen == ["C-O/2"]
        rows = {row.id: row for row in summary.rows}
        for name in ("fsd", "fsd_compress", "fsd_stretch", "energy_mae", "force_mae", "force_flips", "tortuosity"):
            assert getattr(rows["2"], name) == pytest.approx(getattr(whole["2"], name), rel=1e-9)
        assert math.isnan(rows["2"].fsd_intrinsic)
        assert math.isnan(rows["2"].fsd_intrinsic_p99)
        assert math.isnan(rows["2"].conservation_error)
        assert "frame 10.5 (bond length" in rows["2"].path_failure
        assert "no convergence" in rows["2"].path_failure
        assert rows["1"].path_failure == ""
        assert rows["1"].fsd_intrinsic == pytest.approx(whole["1"].fsd_intrinsic, rel=1e-9)
        assert summary.data["num_path_failures"] == 1
        assert summary.data["statistics"]["all"]["fsd_intrinsic"]["mean"] == pytest.approx(
            (whole["1"].fsd_intrinsic + whole["3"].fsd_intrinsic) / 2
        )
    sparser = score_scans(Gap(0.5), open_scans(data), out, dense=1)  # the gap is not on that path
    assert (sparser.resumed, sparser.data["num_path_failures"]) == (3, 0)
    mended = score_scans(Scaled(0.5), open_scans(data), out)
    assert (mended.resumed, mended.data["num_path_failures"]) == (2, 0)
    assert mended.data["mean"]["fsd_intrinsic"] == pytest.approx(
        np.mean([row.fsd_intrinsic for row in whole.values()]), rel=1e-6
    )
    lost = score_scans(Gap(0.5, frame=10.0), open_scans(data))
    assert [key for key, _ in lost.skipped] == ["C-O/2"]
    assert "frame 10 (bond length" in lost.skipped[0][1]


def test_the_rows_of_a_comparison_say_how_many_scans_the_intrinsic_metric_has(data, tmp_path):
    from mindscaip.bsct.compare import compare_runs

    score_scans(Gap(0.5), open_scans(data), tmp_path / "gap")
    score_scans(Scaled(0.9), open_scans(data), tmp_path / "whole")
    (note,) = compare_runs([tmp_path / "gap", tmp_path / "whole"]).notes
    assert "over fewer scans, since a geometry between frames failed" in note
    assert " 2 of 3." in note


def test_a_model_without_an_answer_between_frames(monkeypatch, tmp_path):
    from mindscaip.bsct.potentials import PathGapError
    from mindscaip.engines import batched

    path = scan_path(random_scan(1), 2)
    potential = resolve_potential(str(write_toy(tmp_path / "model.pt")))
    real = batched.evaluate_stream

    def failing(at):
        def stream(model, structures, batch_edges):
            for place, answer in enumerate(real(model, structures, batch_edges)):
                yield MindscaipError("overflow") if place in at else answer

        return stream

    monkeypatch.setattr(batched, "evaluate_stream", failing({7, 9}))
    with pytest.raises(PathGapError, match=r"frame 3\.5 .*overflow \(and 1 more geometries\)") as caught:
        potential.predict(path)
    assert np.isnan(caught.value.energy).nonzero()[0].tolist() == [7, 9]
    monkeypatch.setattr(batched, "evaluate_stream", failing({7, 10}))
    with pytest.raises(ScanError, match=r"frame 5 .*overflow$"):
        potential.predict(path)


def test_order_of_frames():
    visited: list[int] = []

    class Recorder(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's interface)

        def forget(self):
            self.reset()
            visited.append(-1)

        def calculate(self, atoms=None, properties=("energy",), system_changes=()):
            frame = round(atoms.positions[0, 0])
            if not visited or visited[-1] != frame:
                visited.append(frame)
            if frame in (2, 4):
                raise RuntimeError("stuck")
            self.results = {"energy": float(frame), "forces": np.full((1, 3), frame)}

    positions = np.arange(6.0)[:, None, None] * np.ones((1, 1, 3))
    failures: list[tuple[int, str]] = []
    energy, forces = evaluate_outwards(Recorder(), np.array([1]), positions, 2, lambda k, r: failures.append((k, r)))
    assert visited == [-1, 2, 3, 4, 5, -1, 2, 1, 0]
    assert [k for k, _ in failures] == [2, 4]
    np.testing.assert_array_equal(energy, [0, 1, np.nan, 3, np.nan, 5])
    assert np.isnan(forces[[2, 4]]).all()


def test_xtb_reproduces_its_own_scans(tmp_path):
    pytest.importorskip("tblite", reason="tblite is not installed")
    scans = open_scans(FIXTURE)
    assert len(scans) == 11
    assert scans.provenance["level_of_theory"] == "gfn2-xtb"
    scan = scans.load(scans.keys[0])
    assert len(scan) == 100
    write_scans(tmp_path / "one.h5", [scan], {})
    found = json.loads(call("score", "gfn2-xtb", tmp_path / "one.h5", "--json").stdout)
    assert found["mean"]["energy_mae"] < 1e-5
    assert found["mean"]["force_mae"] < 1e-4
    assert found["mean"]["fsd"] < 0.05
