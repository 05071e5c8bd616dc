"""Smoothness scores during training: what they are, what they cost, and which checkpoint they choose."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mindscaip.training.smoothness as smoothness
from mindscaip.bsct.dataset import open_scans, write_scans
from mindscaip.bsct.path import scan_path
from mindscaip.bsct.potentials import resolve_potential
from mindscaip.bsct.score import score_scans
from mindscaip.config import SmoothnessConfig, load_config
from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import evaluate
from mindscaip.errors import MindscaipError
from mindscaip.export import export_run
from mindscaip.studies.nve import drift, initial_velocities, run_nve_ase
from mindscaip.training.checkpoint import BEST, load_checkpoint, save_checkpoint
from mindscaip.training.loss import Predictor
from mindscaip.training.prepare import train
from mindscaip.training.smoothness import (
    FSD,
    FSD_INTRINSIC,
    NVE,
    SCAN_FORCE,
    SECONDS,
    Scored,
    SmoothnessMonitor,
    choose,
    choose_scans,
    make_monitor,
    may_be_chosen,
    nve_deviation,
    scan_values,
    strided,
)
from mindscaip.training.stages import PRETRAINING
from tests.bsct.makers import FIXTURE, diatomic_scan
from tests.models import ELEMENTS, ethanol, small_model, write_small_model
from tests.toys import write_toy

CHEAP = ("smoothness.num_scans=2", "smoothness.stride=6", "smoothness.nve_steps=4")


def monitor(run: Path, *arguments: str, clock=None, model_elements=ELEMENTS) -> SmoothnessMonitor:
    config = load_config([f"run={run}", f"smoothness.scans={FIXTURE}", *CHEAP, *arguments])
    return SmoothnessMonitor(config, model_elements, **({} if clock is None else {"clock": clock}))


# --- the rules -------------------------------------------------------------------------------------------------------


def scored(*pairs: tuple[float, float]) -> list[Scored]:
    return [Scored(epoch, 10 * epoch, score, metric) for epoch, (score, metric) in enumerate(pairs, start=1)]


def test_within_takes_the_best_score_below_the_limit():
    history = scored((0.5, 9.0), (0.3, 4.0), (0.1, 6.0), (0.2, 4.3))
    assert choose(history, "within", tolerance=0.1).epoch == 4  # limit 4.4
    assert choose(history, "within", tolerance=0.0).epoch == 2
    assert choose(history, "within", tolerance=1.0).epoch == 3
    # A smoother one lowers the limit, below which it is alone.
    assert choose([*history, Scored(5, 50, 0.4, 2.0)], "within", tolerance=0.1).epoch == 5


def test_weighted_takes_the_least_sum():
    history = scored((0.50, 1.0), (0.30, 4.0), (0.10, 9.0))
    assert choose(history, "weighted", weight=0.0).epoch == 3
    assert choose(history, "weighted", weight=0.05).epoch == 2  # 0.55, 0.50, 0.55
    assert choose(history, "weighted", weight=1.0).epoch == 1


def test_a_failure_is_not_chosen_while_there_is_another():
    history = scored((0.1, math.inf), (0.9, 5.0))
    for rule in ("within", "weighted"):
        assert choose(history, rule, tolerance=0.5, weight=0.1).epoch == 2
    assert choose(history[:1], "within", tolerance=0.5).epoch == 1
    with pytest.raises(ValueError, match="no checkpoint"):
        choose([], "within")


@pytest.mark.parametrize("seed", range(20))
def test_what_is_thrown_away_is_never_wanted_again(seed):
    rng = np.random.default_rng(seed)
    # Few distinct values, so that there are ties.
    history = scored(*[(float(a), float(b)) for a, b in rng.integers(1, 6, (30, 2))])
    kept: set[int] = set()
    for count in range(1, len(history) + 1):
        candidates = {one.epoch for one in may_be_chosen(history[:count], 0.5)}
        assert candidates <= kept | {history[count - 1].epoch}, "something came back"
        kept = candidates
        assert choose(history[:count], "within", tolerance=0.5).epoch in kept


# --- the scans -------------------------------------------------------------------------------------------------------


def test_scans_with_unknown_elements_are_left_out_and_counted():
    settings = SmoothnessConfig(num_scans=None)
    chosen, skipped = choose_scans(str(FIXTURE), ELEMENTS, settings)
    assert len(chosen) + len(skipped) == len(open_scans(FIXTURE))
    assert {z for scan in chosen for z in scan.numbers.tolist()} <= {1, 6, 8}
    assert any("does not know N" in reason for reason in skipped.values())
    few, _ = choose_scans(str(FIXTURE), ELEMENTS, SmoothnessConfig(num_scans=2))
    assert [scan.key for scan in few] == [scan.key for scan in chosen[:2]]
    assert len({scan.bond for scan in few}) == 2


def test_no_scan_left_is_an_error_at_the_start(tmp_path):
    with pytest.raises(MindscaipError, match=r"none of its \d+ scans can be scored with a model of Au.*give scans"):
        monitor(tmp_path, model_elements=["Au"])
    with pytest.raises(MindscaipError, match="no such file"):
        make_monitor(load_config([f"run={tmp_path}", "smoothness.scans=nowhere.h5"]), ELEMENTS)
    with pytest.raises(MindscaipError, match=r"give smoothness\.scans=FILE"):
        make_monitor(load_config([f"run={tmp_path}", "smoothness.select=within"]), ELEMENTS)
    assert make_monitor(load_config([f"run={tmp_path}"]), ELEMENTS) is None


def test_a_stride_leaves_a_regular_grid():
    lengths = np.linspace(1.0, 2.0, 31)
    scan = diatomic_scan(lengths, (lengths - 1.5) ** 2, 2 * (lengths - 1.5))
    thin = strided(scan, 3)
    np.testing.assert_allclose(thin.bond_length, lengths[::3])
    np.testing.assert_array_equal(thin.frame_index, np.arange(11))
    np.testing.assert_allclose(scan_path(thin, 3).bond_length, lengths, atol=1e-12)


# --- the values ------------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_scoring_command(tmp_path):
    """The model in training and the exported file of the same weights, scored by two programs."""
    watch = monitor(tmp_path, "smoothness.dense=2", "smoothness.max_fraction=null", "smoothness.every=1")
    values = watch(1, 10, Predictor(small_model(dtype=torch.float32)).eval())
    write_small_model(tmp_path / "model.pt", dtype="float32")
    write_scans(tmp_path / "scans.h5", watch.scans, {})
    summary = score_scans(resolve_potential(str(tmp_path / "model.pt")), open_scans(tmp_path / "scans.h5"), dense=2)
    mean = summary.data["mean"]
    assert values[FSD] == pytest.approx(mean["fsd"], rel=1e-4)
    assert values[FSD_INTRINSIC] == pytest.approx(mean["fsd_intrinsic"], rel=1e-3)
    assert values[SCAN_FORCE] == pytest.approx(mean["force_mae"], rel=1e-5)
    assert set(values) == set(watch.columns)
    assert all(math.isfinite(value) for value in values.values())
    assert values[SECONDS] > 0


def test_dynamics_are_those_of_ase(tmp_path):
    model = load_exported(write_toy(tmp_path / "toy.pt"))
    starts = [ethanol(), replace(ethanol(), positions=1.05 * ethanol().positions)]
    found = nve_deviation(model, starts, steps=25, timestep=1.0, temperature=500.0)
    expected = []
    for i, start in enumerate(starts):
        velocities = initial_velocities(start, 500.0, seed=i)
        expected.append(drift(run_nve_ase(model, start, velocities, 1.0, 25)).max_deviation)
    assert found == pytest.approx(max(expected), rel=1e-6)
    assert found > 0


def test_what_blows_up_is_infinite(tmp_path):
    model = load_exported(write_toy(tmp_path / "toy.pt"))
    clash = Structure(np.array([6, 6]), np.zeros((2, 3)))
    assert nve_deviation(model, [clash], steps=2, timestep=1.0, temperature=0.0) == math.inf
    lengths = np.linspace(1.0, 2.0, 12)
    gold = diatomic_scan(lengths, (lengths - 1.5) ** 2, 2 * (lengths - 1.5), numbers=np.array([79, 79]))
    values = scan_values(model, [scan_path(gold, 1)])
    assert all(value == math.inf for value in values.values())


def test_scoring_changes_neither_weights_nor_random_state_nor_gradients(tmp_path):
    watch = monitor(tmp_path, "smoothness.max_fraction=null", "smoothness.every=1")
    predictor = Predictor(small_model(dtype=torch.float32)).eval()
    before = {name: tensor.clone() for name, tensor in predictor.state_dict().items()}
    random = torch.get_rng_state()
    assert watch(1, 10, predictor)
    assert torch.equal(random, torch.get_rng_state())
    assert not predictor.training
    for name, tensor in predictor.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.requires_grad and p.grad is None for p in predictor.parameters())


# --- the budget ------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def scored_epochs(
    monkeypatch, tmp_path: Path, *arguments: str, epochs: int, epoch_seconds: float, cost: float, resumes=()
):
    """Epochs at which a run scores where an epoch and a score take so many seconds; and the part of the time spent.

    It is resumed after each of the epochs ``resumes``.
    """

    def make(clock: Clock) -> SmoothnessMonitor:
        return monitor(tmp_path, "smoothness.nve_steps=0", *arguments, clock=clock)

    clock = Clock()
    watch = make(clock)
    predictor = Predictor(small_model(dtype=torch.float32)).eval()

    def values(model, paths):
        clock.now += cost
        return {FSD: 1.0, FSD_INTRINSIC: 1.0, "scan_energy_mae_shifted_eV": 0.0, SCAN_FORCE: 0.0}

    def probe(self, model):
        clock.now += 0.01 * cost
        self._spent += 0.01 * cost
        return cost

    monkeypatch.setattr(smoothness, "scan_values", values)
    monkeypatch.setattr(SmoothnessMonitor, "_probe", probe)
    found, spent, largest = [], 0.0, 0.0
    for epoch in range(1, epochs + 1):
        if epoch - 1 in resumes:
            clock.now += 1e6  # in between it did not run
            watch = make(clock)
        clock.now += epoch_seconds
        started = clock.now
        result = watch(epoch, 10 * epoch, predictor, final=epoch == epochs)
        spent += clock.now - started
        if result:
            found.append(epoch)
        watch.select(1.0, result, 1.0)
        largest = max(largest, spent / (epoch * epoch_seconds))
    return found, largest


def test_scores_come_by_the_epoch_when_they_are_cheap(monkeypatch, tmp_path):
    found, part = scored_epochs(monkeypatch, tmp_path, "smoothness.every=4", epochs=18, epoch_seconds=100, cost=1)
    assert found == [4, 8, 12, 16, 18]
    assert part < 0.05


def test_expensive_scores_wait_until_they_fit_the_budget(monkeypatch, tmp_path):
    found, part = scored_epochs(monkeypatch, tmp_path, "smoothness.every=2", epochs=100, epoch_seconds=10, cost=10)
    assert part <= 0.05
    assert len(found) == 4  # 4 scores of 10 s and a probe in 5 % of 1000 s
    assert all(epoch % 2 == 0 for epoch in found)


def test_without_a_budget_the_clock_does_not_count(monkeypatch, tmp_path):
    found, part = scored_epochs(
        monkeypatch, tmp_path, "smoothness.every=3", "smoothness.max_fraction=null", epochs=9, epoch_seconds=1, cost=99
    )
    assert found == [3, 6, 9]
    assert part > 1


def test_a_run_has_one_score_at_least(monkeypatch, tmp_path):
    found, _ = scored_epochs(monkeypatch, tmp_path, "smoothness.every=1", epochs=3, epoch_seconds=1, cost=99)
    assert found == [3]


def test_scores_wait_for_a_validation(monkeypatch, tmp_path):
    watch = monitor(tmp_path, "smoothness.every=4", "training.val_every=3", "training.epochs=100")
    assert [epoch for epoch in range(3, 37, 3) if watch._due(epoch, False)] == [6, 9, 12, 18, 21, 24, 30, 33, 36]


# --- the choice, in a loop ---


def imitate_loop(
    run: Path, watch: SmoothnessMonitor, table: list[tuple[float, float]], monkeypatch, first: int = 1, best=math.inf
) -> float:
    """Validations with these scores and metrics and weights that hold their epoch, as the training loop makes them.

    Takes and returns the score of the best checkpoint.
    """
    for epoch, (score, metric) in enumerate(table, start=first):
        model = small_model(dtype=torch.float32)
        with torch.no_grad():
            next(model.parameters()).fill_(float(epoch))
        monkeypatch.setattr(smoothness, "scan_values", lambda *_, m=metric: {FSD: 2 * m, FSD_INTRINSIC: m})
        values = watch(epoch, 10 * epoch, Predictor(model).eval())
        selected, best = watch.select(score, values, best)
        if selected < best:
            best = selected
            weights = model.state_dict()
            state = {"config": {}, "elements": [], "reference_energies": {}, "scale": 1.0}
            save_checkpoint(
                run / BEST,
                {**state, "model": weights, "ema": weights, "record": {"epochs": epoch, "steps": 10 * epoch}},
            )
    return best


def best_epoch(run: Path) -> tuple[int, float]:
    state = load_checkpoint(run / BEST)
    weights = small_model(dtype=torch.float32)
    weights.load_state_dict(state["ema"])
    return state["record"]["epochs"], next(weights.parameters()).flatten()[0].item()


TABLE = [(0.5, 9.0), (0.3, 4.0), (0.2, 4.5), (0.1, 5.5), (0.4, 3.5), (0.15, 3.9), (0.6, 3.4), (0.7, 8.0)]
NO_CLOCK = ("smoothness.max_fraction=null", "smoothness.every=1", "smoothness.nve_steps=0", "training.epochs=99")


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.3, 0.6, 5.0])
@pytest.mark.parametrize("count", range(1, len(TABLE) + 1))
def test_the_best_checkpoint_is_what_the_rule_says(count, tolerance, tmp_path, monkeypatch):
    watch = monitor(tmp_path, *NO_CLOCK, "smoothness.select=within", f"smoothness.tolerance={tolerance}")
    imitate_loop(tmp_path, watch, TABLE[:count], monkeypatch)
    expected = choose(scored(*TABLE[:count]), "within", tolerance=tolerance).epoch
    assert best_epoch(tmp_path) == (expected, float(expected))
    assert len(list((tmp_path / "smoothness").glob("epoch-*.pt"))) == len(
        may_be_chosen(scored(*TABLE[:count]), tolerance)
    )


def test_an_earlier_checkpoint_comes_back_when_the_limit_falls(tmp_path, monkeypatch):
    table = [(0.30, 4.0), (0.10, 4.3), (0.35, 3.8), (0.40, 3.7)]
    watch = monitor(tmp_path, *NO_CLOCK, "smoothness.select=within", "smoothness.tolerance=0.1")
    best = imitate_loop(tmp_path, watch, table[:2], monkeypatch)
    assert (best_epoch(tmp_path)[0], best) == (2, 0.10)
    # Limit 4.07: the second is out, the first is back.
    best = imitate_loop(tmp_path, watch, table[2:], monkeypatch, first=3, best=best)
    assert best_epoch(tmp_path) == (1, 1.0)
    assert best == load_checkpoint(tmp_path / BEST)["record"]["best_val"] == 0.30


def test_the_weighted_rule_and_the_published_metric(tmp_path, monkeypatch):
    arguments = ("smoothness.select=weighted", "smoothness.weight=0.03", "smoothness.metric=fsd")
    imitate_loop(tmp_path, monitor(tmp_path, *NO_CLOCK, *arguments), TABLE, monkeypatch)
    expected = choose([replace(one, metric=2 * one.metric) for one in scored(*TABLE)], "weighted", weight=0.03)
    assert best_epoch(tmp_path)[0] == expected.epoch == 6


def test_validation_alone_decides_unless_asked_otherwise(tmp_path, monkeypatch):
    imitate_loop(tmp_path, monitor(tmp_path, *NO_CLOCK), TABLE, monkeypatch)
    assert best_epoch(tmp_path)[0] == 4


def test_until_the_first_score_validation_decides(tmp_path, monkeypatch):
    watch = monitor(tmp_path, *NO_CLOCK, "smoothness.select=within", "smoothness.every=3")
    best = imitate_loop(tmp_path, watch, TABLE[:2], monkeypatch)
    assert best_epoch(tmp_path)[0] == 2
    imitate_loop(tmp_path, watch, TABLE[2:5], monkeypatch, first=3, best=best)  # of 3, 4, 5 only the third is scored
    assert best_epoch(tmp_path)[0] == 3


def test_scores_of_a_run_that_was_cut_off_are_forgotten(tmp_path, monkeypatch):
    arguments = (*NO_CLOCK, "smoothness.select=within", "smoothness.tolerance=0.1")
    imitate_loop(tmp_path, monitor(tmp_path, *arguments), [(0.3, 4.0), (0.1, 1.0)], monkeypatch)
    # Resumed from the first epoch; the second is made again and is not smooth this time.
    imitate_loop(tmp_path, monitor(tmp_path, *arguments), [(0.2, 4.1)], monkeypatch, first=2)
    assert best_epoch(tmp_path)[0] == 2
    assert [one.metric for one in history(tmp_path)] == [4.0, 4.1]


def history(run: Path) -> list[Scored]:
    return [Scored(**row) for row in json.loads((run / "smoothness" / "history.json").read_text())["scores"]]


@pytest.mark.parametrize("head", ["direct", "conservative"])
def test_a_pretraining_is_not_compared_with_the_rest(head, tmp_path, monkeypatch):
    watch = monitor(tmp_path, *NO_CLOCK, "smoothness.select=within", "smoothness.tolerance=0.1")
    monkeypatch.setattr(smoothness, "scan_values", lambda *_: {FSD: 1.0, FSD_INTRINSIC: 1.0})
    direct = Predictor(small_model(dtype=torch.float32, head="direct")).eval()
    assert watch.select(0.1, watch(1, 10, direct, stage=PRETRAINING), math.inf) == (0.1, math.inf)
    monkeypatch.setattr(smoothness, "scan_values", lambda *_: {FSD: 9.0, FSD_INTRINSIC: 9.0})
    proper = Predictor(small_model(dtype=torch.float32, head=head)).eval()
    assert watch.select(0.5, watch(2, 20, proper), math.inf) == (0.5, math.inf)


# --- a training with it ---


def test_training_logs_the_scores_and_the_rule_chooses(tmp_path):
    """Columns beside the losses, a row in each that is due, the choice of the rule in the best checkpoint; resumed."""
    from ase.io import write

    rng = np.random.default_rng(0)
    toy = load_exported(write_toy(tmp_path / "toy.pt"))
    start = ethanol()
    frames = [replace(start, positions=start.positions + rng.normal(scale=0.08, size=(9, 3))) for _ in range(20)]
    for frame, prediction in zip(frames, evaluate(toy, frames), strict=True):
        frame.energy, frame.forces = prediction.energy, prediction.forces
    write(tmp_path / "data.xyz", [frame.to_ase() for frame in frames], format="extxyz")
    model = ("embed_dim=16", "num_layers=1", "num_heads=2", "num_radial=16", "gamma=1.5", "l_max=2", "graph.cutoff=4.0")
    arguments = [f"data.train={tmp_path / 'data.xyz'}", *(f"model.{key}" for key in model), "data.val_fraction=0.2"]
    arguments += ["training.batch_size=4", "accelerator=cpu", f"smoothness.scans={FIXTURE}", *CHEAP]
    arguments += ["smoothness.max_fraction=null", "smoothness.every=2", "smoothness.select=within"]

    run = tmp_path / "run"
    train(load_config([*arguments, f"run={run}", "training.epochs=6"]))
    with (run / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row[FSD_INTRINSIC] != "" for row in rows] == [False, True] * 3
    found = [row for row in rows if row[FSD_INTRINSIC]]
    assert all(float(row[name]) > 0 for row in found for name in (FSD, SCAN_FORCE, NVE, SECONDS))
    assert [one.epoch for one in history(run)] == [2, 4, 6]
    chosen = choose(history(run), "within", tolerance=0.1)
    record = load_checkpoint(run / BEST)["record"]
    assert (record["epochs"], record["best_val"]) == (chosen.epoch, chosen.score)
    export_run(run, tmp_path / "model.pt", dtype="float64")
    assert load_exported(tmp_path / "model.pt").metadata["record"]["epochs"] == chosen.epoch
