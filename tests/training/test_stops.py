"""How a training ends early: signals, a broken loss, missing loggers; and what it leaves behind."""

import signal
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from ase.io import read
from typer.testing import CliRunner

from mindscaip.cli import app
from mindscaip.config import LossConfig
from mindscaip.errors import MindscaipError
from mindscaip.training import logs, prepare
from mindscaip.training.checkpoint import load_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.interrupt import Interrupted, StopRequest
from mindscaip.training.loss import Predictor, weighted_loss
from mindscaip.training.precision import use_precision
from mindscaip.training.prepare import resume, train
from mindscaip.training.run import StageRun
from tests.models import random_structure, small_model
from tests.training.runs import arguments_for, assert_same_run, config_for, curves, signal_at, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config_for(run, data))
    return run


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_within_the_epoch_and_says_how_to_go_on(number, status, whole, data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        signal_at(patch, 5, number)
        done = CliRunner().invoke(app, ["train", *arguments_for(run, data)])
    assert done.exit_code == status
    assert "interrupted in epoch 1, step 5 of the training; saved" in done.stderr
    assert f"'mindscaip train --resume {run}'" in done.stderr
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    state = load_checkpoint(run / "last.pt")["progress"]
    assert (state["step"], state["epoch"], state["epoch_step"]) == (5, 1, 2)
    resumed = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert resumed.exit_code == 0
    assert_same_run(whole, run)


def test_a_run_may_be_stopped_after_every_step(whole, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, 1)
        with pytest.raises(Interrupted):
            train(config_for(tmp_path / "run", data))
    for step in (2, 3, 6):
        with monkeypatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(Interrupted):
                resume(tmp_path / "run")
    resume(tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_a_second_interrupt_after_a_moment_does_not_wait():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # what a launcher passes on
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGINT
        stop._time -= 10.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_checkpoints_within_a_long_epoch(data, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(StageRun, "save", lambda self, path: saved.append((path.name, self.progress.step)))
    train(config_for(tmp_path / "run", data, "training.epochs=1", "training.checkpoint_minutes=1e-9"))
    assert [step for name, step in saved if name == "last.pt"] == [0, 1, 2, 3]


def broken_from(step, factor, monkeypatch):
    loss = StageRun.loss

    def times(self, batch, counts):
        value, terms = loss(self, batch, counts)
        return value * (factor if self.progress.step == step else 1.0), terms

    monkeypatch.setattr(StageRun, "loss", times)


@pytest.mark.parametrize(
    ("factor", "sentence"), [(float("nan"), "the loss became nan"), (1e5, r"the loss jumped from .* to")]
)
def test_a_broken_loss_leaves_its_batch_and_the_state_before_it(factor, sentence, whole, data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        broken_from(4, factor, patch)
        with pytest.raises(MindscaipError, match=sentence + r".* in epoch 1, step 4; the batch is in .*lower training"):
            train(config_for(run, data))
    frames = read(run / "failed-step-4.xyz", ":")
    everything = read(data, ":")
    assert len(frames) == 5
    for frame in frames:
        assert (frame.info["epoch"], frame.info["step"]) == (1, 4)
        assert np.isfinite(frame.info["predicted_energy"])
        assert frame.info["largest_force_error"] > 0
        assert any(
            len(frame) == len(one)
            and np.allclose(frame.positions, one.positions)
            and frame.get_potential_energy() == pytest.approx(one.get_potential_energy())
            and np.allclose(frame.get_forces(), one.get_forces(), atol=1e-6)
            for one in everything
        )
    # What was wrong is gone now: from before the step, the run goes on as if nothing had been.
    (run / "last.pt").write_bytes((run / "failed-step-4.pt").read_bytes())
    resume(run)
    assert_same_run(whole, run)


def test_a_gradient_that_is_not_finite_changes_no_weight(data, tmp_path, monkeypatch):
    gradient = StageRun.gradient

    def broken(self, loss, processes):
        return float("inf") if self.progress.step == 2 else gradient(self, loss, processes)

    monkeypatch.setattr(StageRun, "gradient", broken)
    with pytest.raises(MindscaipError, match="the gradient became inf in epoch 0, step 2"):
        train(config_for(tmp_path / "run", data))
    assert load_checkpoint(tmp_path / "run" / "failed-step-2.pt")["progress"]["step"] == 2


def test_a_run_goes_on_with_another_learning_rate_but_not_with_another_model(data, tmp_path):
    run = tmp_path / "run"
    train(config_for(run, data, "training.epochs=1"))
    resume(run, ["training.epochs=2", "training.learning_rate=1e-5"])
    rates = [row["learning_rate"] for row in curves(run)]
    assert rates[0] > 1e-4
    assert rates[1] < 1e-5
    assert "learning_rate: 1.0e-05" in (run / "config.yaml").read_text()
    for change in ("model.embed_dim=32", "data.train=x.xyz", "preset=small", "other.yaml"):
        with pytest.raises(MindscaipError, match=f"--resume keeps the configuration of the run; {change}"):
            resume(run, [change])


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_logger_is_named_before_anything_is_done(name, data, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "find_spec", lambda _: None)
    with pytest.raises(MindscaipError, match=f"names {name}, which is not installed: pip install {name}"):
        train(config_for(tmp_path / "run", data, f"training.loggers=[{name}]"))
    assert not (tmp_path / "run").exists()


def test_weights_and_biases_gets_every_row_and_the_same_run_on_resume(data, tmp_path, monkeypatch):
    """A stand-in for the package: what it would be called with."""
    calls, rows = [], []

    def init(**settings):
        calls.append(settings)
        return SimpleNamespace(log=lambda row, step: rows.append((step, row)), finish=lambda: rows.append("finished"))

    stand_in = ModuleType("wandb")
    stand_in.init = init
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setattr(prepare, "check_loggers", lambda names: None)
    train(config_for(tmp_path / "run", data, "training.loggers=[wandb]", "training.epochs=2"))
    resume(tmp_path / "run", ["training.epochs=3"])
    assert calls[0]["id"] == calls[1]["id"] == (tmp_path / "run" / "wandb-id.txt").read_text()
    assert [call["resume"] for call in calls] == ["allow", "allow"]
    assert calls[0]["config"]["model"]["embed_dim"] == 16
    assert [row if row == "finished" else row[0] for row in rows] == [3, 6, "finished", 9, "finished"]
    assert rows[0][1]["val_force_mae_meV_per_A"] == pytest.approx(
        curves(tmp_path / "run")[0]["val_force_mae_meV_per_A"]
    )


def test_tensorboard_gets_every_row(data, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'mindscaip[loggers]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(config_for(tmp_path / "run", data, "training.loggers=[tensorboard]"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    written = events.Scalars("val/force_mae_meV_per_A")
    assert [event.step for event in written] == [3, 6, 9]
    assert [event.value for event in written] == pytest.approx(
        [row["val_force_mae_meV_per_A"] for row in curves(tmp_path / "run")]
    )


def test_bfloat16_is_in_the_linear_maps_and_nowhere_else():
    """Forces by differentiation, and the gradients of their loss, are near those of float32; weights stay float32."""
    structure = random_structure(6, size=3.0)
    structure.energy, structure.forces = 1.0, np.ones((6, 3))
    model = small_model(dtype=torch.float32)
    batch = StructureDataset([structure], model.list_cutoff).batch([0])
    predictor = Predictor(model)

    def gradients():
        prediction = predictor(batch)
        loss = weighted_loss(prediction, batch, LossConfig())["loss"]
        return prediction, torch.autograd.grad(loss, list(model.parameters()))

    predictor.train()
    exact, exact_gradients = gradients()
    use_precision(model, "bf16-mixed")
    mixed, mixed_gradients = gradients()
    assert mixed[0].dtype == torch.float64
    assert mixed[1].dtype == exact[1].dtype
    scale = exact[1].abs().max()
    assert 0 < (mixed[1] - exact[1]).abs().max() < 0.05 * scale  # bfloat16 was in use
    for one, two in zip(exact_gradients, mixed_gradients, strict=True):
        assert two.dtype == torch.float32
        assert torch.isfinite(two).all()
        assert (one - two).norm() <= 0.1 * max(one.norm(), 1e-3)
    graph, mixed_graph = (m.select_edges(6, batch.edge_index, batch.edge_vectors) for m in (small_model(), model))
    assert torch.equal(graph.log_envelope, mixed_graph.log_envelope)
    assert mixed_graph.log_envelope.dtype == torch.float64
    predictor.eval()
    assert torch.allclose(predictor(batch)[1], exact[1].detach(), atol=1e-6)  # validation is in full precision


def test_training_with_bfloat16_learns_about_the_same(whole, data, tmp_path):
    train(config_for(tmp_path / "run", data, "training.precision=bf16-mixed"))
    for one, two in zip(curves(whole), curves(tmp_path / "run"), strict=True):
        assert two["val_force_mae_meV_per_A"] == pytest.approx(one["val_force_mae_meV_per_A"], rel=0.05)


def test_interrupted_before_the_first_step(data, tmp_path, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "read_data", interrupted)
    done = CliRunner().invoke(app, ["train", *arguments_for(tmp_path / "run", data)])
    assert done.exit_code == 130
    assert "nothing was trained yet" in done.stderr
