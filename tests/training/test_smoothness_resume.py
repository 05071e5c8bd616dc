"""Smoothness scores of runs that are resumed, with other settings as well, and of runs that the clock ends."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mindscaip.config import load_config
from mindscaip.training.checkpoint import BEST, LAST, load_checkpoint
from mindscaip.training.prepare import resume, train
from mindscaip.training.smoothness import FSD_INTRINSIC, choose, make_monitor
from tests.bsct.makers import FIXTURE
from tests.models import ELEMENTS
from tests.training.runs import config_for, curves, write_data
from tests.training.test_smoothness import (
    CHEAP,
    NO_CLOCK,
    TABLE,
    best_epoch,
    history,
    imitate_loop,
    monitor,
    scored,
    scored_epochs,
)

SCANS = (f"smoothness.scans={FIXTURE}", *CHEAP)
WITHIN = (*NO_CLOCK, "smoothness.select=within", "smoothness.tolerance=0.1")


# --- other settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("smoothness.metric=fsd", "metric=fsd instead of fsd_intrinsic"),
        ("smoothness.select=weighted", "select=weighted instead of within"),
        ("smoothness.dense=2", "dense=2 instead of 1"),
        ("smoothness.stride=5", "other scans or frames"),
        ("smoothness.num_scans=1", "other scans or frames"),
    ],
)
def test_scores_of_another_rule_metric_or_path_do_not_count(change, reason, tmp_path, monkeypatch):
    best = imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), [(0.1, 1.0), (0.2, 0.9)], monkeypatch)
    watch = monitor(tmp_path, *WITHIN, change)
    assert watch.changes == reason
    # Far worse than what was before, but of the scores that count the second is the best by either rule.
    imitate_loop(tmp_path, watch, [(0.9, 9.0), (0.8, 8.0)], monkeypatch, first=3, best=best)
    assert [one.epoch for one in history(tmp_path)] == [3, 4]
    assert best_epoch(tmp_path) == (4, 4.0)
    assert not {path.name for path in (tmp_path / "smoothness").glob("*.pt")} & {"epoch-1.pt", "epoch-2.pt"}


def test_the_same_settings_go_on_and_the_terminal_tells_when_not(tmp_path, monkeypatch, capsys):
    imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), TABLE[:2], monkeypatch)
    assert monitor(tmp_path, *WITHIN).changes == ""
    assert monitor(tmp_path, *WITHIN, "smoothness.tolerance=0.5", "smoothness.every=7").changes == ""
    make_monitor(load_config([f"run={tmp_path}", *SCANS, *WITHIN, "smoothness.metric=fsd"]), ELEMENTS)
    said = capsys.readouterr().err
    assert "the scores so far do not count any more and start anew: metric=fsd instead of fsd_intrinsic" in said
    assert "validation decides until select=within has its first score" in said


@pytest.mark.parametrize("content", ["[]", "{", '[{"epoch": 1, "step": 10, "score": 1, "metric": 1, "direct": false}]'])
def test_a_foreign_history_is_said_to_be_one(content, tmp_path, monkeypatch):
    (tmp_path / "smoothness").mkdir()
    (tmp_path / "smoothness" / "history.json").write_text(content)
    watch = monitor(tmp_path, *WITHIN)
    assert "history.json is damaged or of another version" in watch.changes
    imitate_loop(tmp_path, watch, TABLE[:2], monkeypatch)
    assert [one.epoch for one in history(tmp_path)] == [1, 2]


def test_from_a_rule_back_to_validation_the_best_one_has_to_be_beaten(tmp_path, monkeypatch):
    best = imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), [(0.3, 1.0), (0.1, 5.0)], monkeypatch)
    assert (best_epoch(tmp_path)[0], best) == (1, 0.3)
    watch = monitor(tmp_path, *NO_CLOCK)
    best = imitate_loop(tmp_path, watch, [(0.4, 0.5)], monkeypatch, first=3, best=best)
    assert best_epoch(tmp_path)[0] == 1
    best = imitate_loop(tmp_path, watch, [(0.2, 9.0), (0.25, 0.1)], monkeypatch, first=4, best=best)
    assert (best_epoch(tmp_path)[0], best) == (4, 0.2)


def test_after_a_change_of_rule_validation_decides_until_the_first_score(tmp_path, monkeypatch):
    best = imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), [(0.3, 1.0)], monkeypatch)
    watch = monitor(tmp_path, *WITHIN, "smoothness.metric=fsd", "smoothness.every=4")
    best = imitate_loop(tmp_path, watch, [(0.5, 1.0), (0.2, 1.0)], monkeypatch, first=2, best=best)
    assert best_epoch(tmp_path)[0] == 3
    imitate_loop(tmp_path, watch, [(0.6, 2.0), (0.1, 1.0)], monkeypatch, first=4, best=best)
    assert best_epoch(tmp_path)[0] == 4


@pytest.mark.parametrize(("before", "after"), [(0.6, 0.0), (0.6, 0.3), (5.0, 0.1)])
def test_a_lower_tolerance_chooses_as_if_it_had_always_been(before, after, tmp_path, monkeypatch):
    """Also where no further score is taken: the next validation brings the best checkpoint into line."""
    best = imitate_loop(tmp_path, monitor(tmp_path, *WITHIN, f"smoothness.tolerance={before}"), TABLE[:6], monkeypatch)
    watch = monitor(tmp_path, *WITHIN, f"smoothness.tolerance={after}", "smoothness.every=99")
    best = imitate_loop(tmp_path, watch, [(0.01, 1.0)], monkeypatch, first=7, best=best)
    chosen = choose(scored(*TABLE[:6]), "within", tolerance=after)
    assert chosen != choose(scored(*TABLE[:6]), "within", tolerance=before)
    assert best_epoch(tmp_path) == (chosen.epoch, float(chosen.epoch))
    assert best == chosen.score


def test_a_higher_tolerance_chooses_among_what_is_left(tmp_path, monkeypatch):
    table = [(0.10, 4.0), (0.40, 2.0), (0.30, 2.1), (0.35, 2.05)]
    best = imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), table, monkeypatch)
    assert best_epoch(tmp_path)[0] == 3
    watch = monitor(tmp_path, *WITHIN, "smoothness.tolerance=9")  # the first would be the best; its weights are gone
    best = imitate_loop(tmp_path, watch, [(0.5, 2.2)], monkeypatch, first=5, best=best)
    assert best_epoch(tmp_path) == (3, 3.0)
    imitate_loop(tmp_path, watch, [(0.2, 8.0)], monkeypatch, first=6, best=best)
    assert best_epoch(tmp_path) == (6, 6.0)


def test_another_weight_compares_what_is_best_with_what_comes(tmp_path, monkeypatch):
    arguments = (*NO_CLOCK, "smoothness.select=weighted")
    table = [(0.50, 1.0), (0.10, 9.0)]
    best = imitate_loop(tmp_path, monitor(tmp_path, *arguments, "smoothness.weight=0"), table, monkeypatch)
    assert best_epoch(tmp_path)[0] == 2
    watch = monitor(tmp_path, *arguments, "smoothness.weight=1")
    # The first would be better than either, but nothing has kept it.
    best = imitate_loop(tmp_path, watch, [(0.3, 4.0)], monkeypatch, first=3, best=best)
    assert (best_epoch(tmp_path)[0], best) == (3, 0.3)
    imitate_loop(tmp_path, watch, [(0.2, 4.5)], monkeypatch, first=4, best=best)
    assert best_epoch(tmp_path)[0] == 3


# --- what is missing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_weights_that_are_gone_are_not_chosen(damage, tmp_path, monkeypatch):
    """The limit falls to 4.18, the second is out and the first would have its turn: the third has it."""
    table = [(0.30, 4.0), (0.10, 4.3), (0.35, 3.8), (0.40, 3.7)]
    best = imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), table[:2], monkeypatch)
    assert best_epoch(tmp_path)[0] == 2
    kept = tmp_path / "smoothness" / "epoch-1.pt"
    if damage == "missing":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[:100])
    best = imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), table[2:], monkeypatch, first=3, best=best)
    assert best_epoch(tmp_path) == (3, 3.0)
    assert best == 0.35


def test_a_lost_best_checkpoint_is_made_anew(tmp_path, monkeypatch):
    best = imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), TABLE[:2], monkeypatch)
    (tmp_path / BEST).unlink()
    imitate_loop(tmp_path, monitor(tmp_path, *WITHIN), [(0.9, 4.2)], monkeypatch, first=3, best=best)
    assert best_epoch(tmp_path) == (3, 3.0)


# --- the clock -------------------------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_with_its_budget(monkeypatch, tmp_path):
    settings = {"epochs": 100, "epoch_seconds": 10, "cost": 10}
    whole, _ = scored_epochs(monkeypatch, tmp_path / "whole", "smoothness.every=2", **settings)
    resumes = range(11, 100, 20)  # each measures the cost anew, by a hundredth of a score
    found, part = scored_epochs(monkeypatch, tmp_path / "cut", "smoothness.every=2", **settings, resumes=resumes)
    assert part <= 0.05
    assert len(found) == len(whole) == 4
    assert all(0 <= b - a <= 6 for a, b in zip(whole, found, strict=True))
    kept = json.loads((tmp_path / "cut" / "smoothness" / "history.json").read_text())
    assert kept["spent_s"] == pytest.approx(40 + 0.1 * (len(resumes) + 1), abs=0.5)
    assert kept["elapsed_s"] == pytest.approx(1000 + kept["spent_s"])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_a_run_that_the_clock_ends_has_a_score(data, tmp_path, capsys):
    """Both stages end after their first step; the last validation of the second is scored, whatever it costs."""
    limits = ("pretraining.epochs=50", "pretraining.max_minutes=1e-6", "training.max_minutes=1e-6")
    run = tmp_path / "run"
    train(config_for(run, data, *SCANS, *limits, "smoothness.select=within", "smoothness.max_fraction=1e-9"))
    rows = curves(run)
    assert [(row["epoch"], row["pretraining"]) for row in rows] == [(1, 1), (2, 0)]
    assert [FSD_INTRINSIC in row for row in rows] == [False, True]
    assert [one.epoch for one in history(run)] == [2]
    assert load_checkpoint(run / BEST)["record"]["epochs"] == 2
    assert "select=within has a single score to choose by" in capsys.readouterr().err


def test_a_training_goes_on_with_another_metric(data, tmp_path):
    run = tmp_path / "run"
    every = ("smoothness.every=1", "smoothness.max_fraction=null", "smoothness.select=within", "training.epochs=2")
    train(config_for(run, data, *SCANS, *every))
    assert [one.epoch for one in history(run)] == [1, 2]
    resume(run, ["smoothness.metric=fsd", "training.epochs=4"])
    kept = json.loads((run / "smoothness" / "history.json").read_text())
    assert kept["settings"]["metric"] == "fsd"
    assert [one.epoch for one in history(run)] == [3, 4]
    chosen = choose(history(run), "within", tolerance=0.1)
    record, best = load_checkpoint(run / BEST)["record"], load_checkpoint(run / LAST)["progress"]["best"]
    assert record["epochs"] == chosen.epoch
    assert record["best_val"] == best == chosen.score
    assert math.isfinite(best)
    resume(run, ["smoothness.select=validation", "training.epochs=5"])
    score = load_checkpoint(run / LAST)["progress"]["best"]
    assert score <= best
    assert (load_checkpoint(run / BEST)["record"]["epochs"] == 5) == (score < best)
    assert FSD_INTRINSIC in curves(run)[-1]
