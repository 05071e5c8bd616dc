"""The page of a training run: curves of smoothness beside the losses, and a command that writes it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mindscaip.cli import app
from mindscaip.config import load_config
from mindscaip.errors import MindscaipError
from mindscaip.report.training import read_curves, smoothness_curves, training_page
from mindscaip.training.checkpoint import BEST, LAST
from mindscaip.training.smoothness import FSD, FSD_INTRINSIC, NVE, SCAN_ENERGY, SCAN_FORCE, SECONDS
from tests.report.browser import chromium
from tests.report.makers import curves

SCORES = (FSD, FSD_INTRINSIC, SCAN_ENERGY, SCAN_FORCE, NVE, SECONDS)


def scored_curves(epochs: int = 12, every: int = 3) -> dict[str, list[float]]:
    scores = {
        name: [(k + 1) * 10 / epoch if epoch % every == 0 else math.nan for epoch in range(1, epochs + 1)]
        for k, name in enumerate(SCORES)
    }
    return {**curves(epochs), **scores}


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run as far as the page reads it."""
    table = scored_curves()
    rows = zip(*table.values(), strict=True)
    lines = [",".join(table), *(",".join("" if math.isnan(value) else repr(value) for value in row) for row in rows)]
    (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
    config = load_config(["smoothness.scans=scans.h5", "smoothness.select=within"]).model_dump(mode="json")
    record = {"steps": 480, "epochs": 12, "minutes": 10.0, "num_train": 90, "num_val": 10, "data_train": "d.xyz"}
    common = {"config": config, "elements": ["C", "H"], "reference_energies": {}, "scale": 1.0, "model": {}, "ema": {}}
    torch.save({**common, "record": record}, tmp_path / LAST)
    torch.save({**common, "record": {**record, "epochs": 9}}, tmp_path / BEST)
    return tmp_path


def test_blanks_are_nan_and_only_scores_are_drawn(run):
    found = read_curves(run / "curves.csv")
    assert math.isnan(found[FSD][0])
    assert found[FSD][2] == pytest.approx(10 / 3)
    figures = smoothness_curves(found, best_epoch=9)
    assert [list(figure.plot.data[0].x) for figure in figures] == [[3, 6, 9, 12]] * 3
    assert list(figures[0].plot.data[1].y) == pytest.approx([10 / 3, 10 / 6, 10 / 9, 10 / 12])
    assert all("Red: the best checkpoint." in figure.caption for figure in figures)


def test_without_scores_there_is_nothing_to_draw():
    assert smoothness_curves(curves()) == []
    nothing = {**curves(3), **{name: [math.nan] * 3 for name in SCORES}}
    assert smoothness_curves(nothing) == []
    without_dynamics = {name: values for name, values in scored_curves().items() if name != NVE}
    assert len(smoothness_curves(without_dynamics)) == 2


def test_the_page_says_what_was_chosen_and_what_it_cost(run):
    page = training_page(run)
    assert [section.title for section in page.sections] == ["Learning curves", "Smoothness", "What was run"]
    numbers = {number.name: number.value for number in page.headline}
    assert numbers["best checkpoint"] == 9
    assert numbers["FSD intrinsic"] == pytest.approx(20 / 9)
    seconds = sum(60 / epoch for epoch in (3, 6, 9, 12))
    assert f"4 scores took 42 s, {100 * seconds / 600:.1f} %" in page.sections[1].text
    assert "within 0.1, fsd_intrinsic" in page.html()


def test_the_command_writes_it(run, tmp_path):
    assert CliRunner().invoke(app, ["report", str(run), "-o", str(tmp_path / "page.html")]).exit_code == 0
    assert "<h2>Smoothness</h2>" in (tmp_path / "page.html").read_text()
    for arguments, words in (
        (["report", str(tmp_path / "nowhere")], "no such folder"),
        (["report", str(run), "-o", "page.pdf"], r"end in \.html"),
    ):
        with pytest.raises(MindscaipError, match=words):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    (run / "curves.csv").write_text("epoch,step\n")
    with pytest.raises(MindscaipError, match="no validation yet"):
        training_page(run)


@pytest.fixture(scope="module")
def browser():
    yield from chromium()


def test_a_browser_draws_it(browser, run):
    training_page(run).write(run / "page.html")
    view = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints: list[str] = []
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto(f"file://{run / 'page.html'}")
    view.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    assert complaints == []
    assert view.locator(".plot .main-svg").count() >= 5
    view.close()
