"""What a run does with its data and its configuration before the first step, and when it goes on."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write

from mindscaip.config import TrainingConfig
from mindscaip.contract import load_exported
from mindscaip.data.collection import Collection
from mindscaip.data.formats import read_structures
from mindscaip.data.store import Store, write_store
from mindscaip.engines.batched import evaluate
from mindscaip.errors import MindscaipError
from mindscaip.export import export_run
from mindscaip.training import loop
from mindscaip.training.batch import Batch
from mindscaip.training.batches import validation_batches
from mindscaip.training.checkpoint import BEST, LAST, PRETRAINED, load_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.denoising import Corruption
from mindscaip.training.interrupt import Interrupted
from mindscaip.training.logs import CurvesFile
from mindscaip.training.prepare import read_data, resume, train
from mindscaip.training.schedule import MOST_WARMUP, learning_rate
from mindscaip.training.validation import STRESS_MAE, selection_score
from tests.models import random_structure
from tests.training.runs import config_for, curves, signal_at, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def grouped(path: Path, out: Path, groups: list[str]) -> Path:
    frames = read(path, ":")
    for k, atoms in enumerate(frames):
        atoms.info["group"] = groups[k % len(groups)]
    write(out, frames, format="extxyz")
    return out


def test_a_random_split_of_several_molecules_is_no_silent_one(data: Path, tmp_path: Path) -> None:
    def leakage(groups: list[str], rule: str = "random") -> str:
        path = grouped(data, tmp_path / "grouped.xyz", groups)
        return read_data(config_for(tmp_path / "run", path, f"data.split={rule}").data).leakage

    both = leakage(["set::ethane", "set::water", "propane"])
    assert both.startswith("3 molecules are in both parts (ethane, propane, water), so validation says little")
    assert "data.split=group" in both
    assert leakage(["ethane", "water", "propane"], "group") == ""
    assert leakage(["ethane"]) == ""  # conformers of one molecule are all there is


def test_most_training_structures_are_a_sample(data: Path, tmp_path: Path) -> None:
    def taken(*more: str) -> list[float]:
        found = read_data(config_for(tmp_path / "run", data, *more).data)
        return [float(s.energy or 0.0) for s in found.train]

    whole, some, fewer = taken(), taken("data.max_train=8"), taken("data.max_train=4")
    assert len(whole) == 15
    assert some != whole[:8]
    assert set(fewer) < set(some) < set(whole)
    assert some == taken("data.max_train=8")


def with_isolated_atoms(data: Path, out: Path, energies: dict[str, list[float]]) -> list[Atoms]:
    """The frames of ``data`` after isolated atoms, as extended XYZ; returns the frames."""
    frames = read(data, ":")
    atoms = []
    for symbol, values in energies.items():
        for value in values:
            atoms.append(Atoms(symbol, positions=[[0, 0, 0]], info={"REF_energy": value}))
            atoms[-1].arrays["REF_forces"] = np.zeros((1, 3))
    for frame in frames:
        frame.info["REF_energy"] = frame.get_potential_energy()
        frame.arrays["REF_forces"] = frame.get_forces()
        frame.calc = None
    write(out, [*atoms, *frames], format="extxyz")
    return frames


def test_isolated_atoms_among_the_frames_are_references(data: Path, tmp_path: Path) -> None:
    symbols = sorted({symbol for atoms in read(data, ":") for symbol in atoms.symbols})
    with_isolated_atoms(data, tmp_path / "all.xyz", {symbol: [-10.0 - k] for k, symbol in enumerate(symbols)})
    run = config_for(tmp_path / "run", tmp_path / "all.xyz")
    found = read_data(run.data)
    assert found.isolated == {symbol: -10.0 - number for number, symbol in enumerate(symbols)}
    assert len(found.train) + len(found.val) == 20
    assert read_data(run.data.model_copy(update={"isolated": "none"})).isolated is None


def periodic(path: Path, count: int, labelled: int) -> Path:
    rng = np.random.default_rng(0)
    frames = []
    for number in range(count):
        structure = random_structure(6, box=5.0, seed=number % 3)
        structure.energy, structure.forces = -3.0, rng.normal(size=(6, 3))
        structure.stress = rng.normal(scale=0.01, size=(3, 3)) if number < labelled else None
        frames.append(structure.to_ase())
    write(path, frames, format="extxyz")
    return path


def test_a_stress_in_the_loss_needs_stresses(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(MindscaipError, match=r"training.loss.stress = 10, but none of the 15 training structures"):
        train(config_for(tmp_path / "run", data, "training.loss.stress=10"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(MindscaipError, match=r"stress = 10, but a model with direct forces has no stress"):
        train(config_for(tmp_path / "run", data, "training.loss.stress=10", "model.head=direct"))
    some = periodic(tmp_path / "periodic.xyz", 12, 9)
    run = tmp_path / "stressed"
    state = train(config_for(run, some, "training.loss.stress=10", "training.epochs=2"))
    assert "of 9 training structures have a stress" in capsys.readouterr().err
    row = curves(run)[-1]
    assert row["train_stress_mae_meV_per_A3"] > 0
    # Against the numbers of the exported file on the validation part.
    val = read_data(config_for(run, some).data).val
    export_run(run / LAST, tmp_path / "model.pt", dtype="float64")
    structures = [s for s in val if s.stress is not None]
    found = evaluate(load_exported(tmp_path / "model.pt"), structures)
    errors = [np.abs(p.stress - s.stress).mean() for p, s in zip(found, structures, strict=True)]
    assert row["val_stress_mae_meV_per_A3"] == pytest.approx(1e3 * np.mean(errors), rel=1e-4)
    weights = {"energy_mae_meV_per_atom": 1, "force_mae_meV_per_A": 2, "stress_mae_meV_per_A3": 10}
    scores = [1e-3 * sum(w * r[f"val_{name}"] for name, w in weights.items()) for r in curves(run)]
    assert state["progress"]["best"] == pytest.approx(min(scores), rel=1e-5)


def test_weight_decay_can_change_and_other_batches_begin_the_epoch_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    signal_at(monkeypatch, 5)  # the second step of the second of three epochs of three steps
    with pytest.raises(Interrupted):
        train(config_for(run, data))
    assert load_checkpoint(run / LAST)["progress"]["epoch_step"] == 2
    monkeypatch.undo()
    state = resume(run, ["training.weight_decay=0.25", "training.batch_size=3"])
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.25
    assert state["optimizer"]["param_groups"][1]["weight_decay"] == 0.0
    assert state["progress"]["step"] == 5 + 2 * 5  # two whole epochs of five steps
    with pytest.raises(MindscaipError, match=r"none of the 15 training structures is periodic and has"):
        resume(run, ["training.loss.stress=1"])


def test_a_run_past_its_pretraining_does_not_take_changes_of_it(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_for(run, data, "pretraining.epochs=1", "training.epochs=1"))
    with pytest.raises(MindscaipError, match=r"past its pre-training, or has none; leave pretraining.epochs=9 out"):
        resume(run, ["pretraining.epochs=9"])


def test_a_stop_in_the_last_step_of_an_epoch_saves_before_the_validation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config_for(tmp_path / "whole", data))
    run = tmp_path / "cut"
    signal_at(monkeypatch, 3)
    with pytest.raises(Interrupted):
        train(config_for(run, data))
    assert len(curves(run)) == 0
    assert load_checkpoint(run / LAST)["progress"]["epoch_step"] == 3
    monkeypatch.undo()
    state = resume(run)
    assert curves(run) == curves(tmp_path / "whole")
    assert all(torch.equal(state["ema"][name], tensor) for name, tensor in whole["ema"].items())


def test_the_warm_up_ends_within_the_wall_time() -> None:
    clocked = TrainingConfig(max_minutes=60.0, warmup_epochs=1.0, warmup_factor=0.2, learning_rate=1.0)
    # A third of an epoch at the end of the time: the warm-up is over after a twentieth.
    assert learning_rate(0.0, 0.0, 0.0, clocked) == pytest.approx(0.2)
    half = MOST_WARMUP / 2
    assert learning_rate(half, 0.33 * half, 60 * half, clocked) == pytest.approx(0.6, rel=0.01)
    assert learning_rate(0.5, 0.33 * 0.5, 30.0, clocked) == pytest.approx(0.505, rel=1e-6)
    # A limit that is far away changes nothing, and neither does none.
    for limit in (None, 1e6):
        by_epochs = clocked.model_copy(update={"max_minutes": limit})
        assert learning_rate(0.5, 0.5, 1.0, by_epochs) == pytest.approx(0.6 * 0.505, rel=1e-4)


def test_noise_of_all_atoms_has_no_common_shift() -> None:
    sizes, rng = np.array([4, 9, 1]), np.random.default_rng(0)
    squares = []
    for _ in range(400):
        moved = Corruption(1.0, 0.1, 1.0).draw(sizes, np.arange(3), rng)
        assert moved is not None
        for part in moved[0]:
            assert np.abs(part.mean(axis=0)).max() < 1e-12
        squares.append([np.mean(part**2) for part in moved[0]])
    mean = np.mean(squares, axis=0)
    assert mean[:2] == pytest.approx([1.0, 1.0], abs=0.06)
    assert mean[2] == 0.0
    some = Corruption(1.0, 0.1, 0.5).draw(np.array([50]), np.arange(1), rng)
    assert some is not None
    assert np.abs(some[0][0].mean(axis=0)).max() > 0.01  # against the atoms that stay, a shift can be seen


def test_validation_fits_where_training_fits() -> None:
    structures = [
        replace(random_structure(n, seed=n), energy=0.0, forces=np.zeros((n, 3))) for n in (3, 4, 5, 6, 7, 12)
    ]
    dataset = StructureDataset(structures, 4.0)

    def sizes(batch_size: int, batch_atoms: int | None, rank: int, processes: int) -> list[int]:
        batches: list[Batch] = list(validation_batches(dataset, batch_size, batch_atoms, rank, processes))
        return [len(batch.num_atoms) for batch in batches]

    assert sizes(4, None, 0, 1) == [4, 2]
    assert [sizes(4, None, rank, 2) for rank in (0, 1)] == [[2, 2], [2]]
    assert sizes(2, None, 0, 4) == [1, 1]  # never less than one
    assert [sizes(1, 24, rank, 2) for rank in (0, 1)] == [[3, 1], [1, 1]]  # 12 atoms each
    assert [sizes(1, 12, rank, 2) for rank in (0, 1)] == [[3, 1], [1, 1]]  # as many as the largest one has


def test_stresses_are_counted_in_stores_and_lists(tmp_path: Path) -> None:
    periodic(tmp_path / "some.xyz", 6, 4)
    listed = list(read_structures(tmp_path / "some.xyz"))
    write_store(tmp_path / "some.h5", listed)
    for part in (listed, Store(tmp_path / "some.h5")):
        whole = Collection([part])
        assert whole.count_stresses() == 4
        assert whole.select(np.array([3, 4, 5])).count_stresses() == 1
    half = [replace(s, pbc=np.array([True, True, False])) for s in listed]
    write_store(tmp_path / "slab.h5", half)
    for part in (half, Store(tmp_path / "slab.h5")):  # no volume, so no stress that a loss could use
        assert Collection([part]).count_stresses() == 0
    write_store(tmp_path / "none.h5", [replace(s, stress=None) for s in listed])
    assert Collection([Store(tmp_path / "none.h5")]).count_stresses() == 0


def test_a_split_file_counts_the_isolated_atoms(data: Path, tmp_path: Path) -> None:
    symbols = sorted({symbol for atoms in read(data, ":") for symbol in atoms.symbols})
    path, listed = tmp_path / "all.xyz", tmp_path / "validation.txt"
    frames = with_isolated_atoms(data, path, {symbol: [-1.0] for symbol in symbols})
    first = len(symbols)
    listed.write_text(f"0\n{first}\n{first + 4}\n")
    config = config_for(tmp_path / "run", path, f"data.split_file={listed}", "training.epochs=1")
    found = read_data(config.data)
    assert [s.energy for s in found.val] == pytest.approx([frames[k].info["REF_energy"] for k in (0, 4)])
    assert len(found.train) == len(frames) - 2
    assert found.isolated == dict.fromkeys(symbols, -1.0)
    # Another list is another split, which a run does not go on with.
    train(config)
    listed.write_text(f"{first + 1}\n")
    with pytest.raises(MindscaipError, match=r"the data of the run in .* have changed since it started"):
        resume(tmp_path / "run")


def test_isolated_atoms_that_disagree_are_refused_unless_others_are_given(data: Path, tmp_path: Path) -> None:
    symbols = sorted({symbol for atoms in read(data, ":") for symbol in atoms.symbols})
    path, other = tmp_path / "all.xyz", tmp_path / "val.xyz"

    def isolated(*more: str) -> dict[str, float] | None:
        return read_data(config_for(tmp_path / "run", path, *more).data).isolated

    with_isolated_atoms(data, path, {symbol: [-1.0, -1.0 + 1e-8] for symbol in symbols})
    assert isolated() == dict.fromkeys(symbols, -1.0)
    # Those of the validation part are not used.
    with_isolated_atoms(data, other, {symbols[0]: [-1.0, -2.0]})
    assert isolated(f"data.val={other}") == dict.fromkeys(symbols, -1.0)
    with_isolated_atoms(data, path, {symbol: [-1.0, -2.0] for symbol in symbols})
    with pytest.raises(MindscaipError, match=r"has -2.0 eV for an isolated \w+ atom after one with -1.0 eV"):
        isolated()
    assert isolated("data.isolated=none") is None


def test_a_start_that_was_refused_leaves_no_run_in_the_way(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(MindscaipError, match="batch_atoms = 3 is below the 7 atoms"):
        train(config_for(run, data, "training.batch_atoms=3"))
    assert not run.exists()
    train(config_for(run, data, "training.batch_atoms=30", "training.epochs=1"))


def test_a_change_that_is_refused_changes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    signal_at(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train(config_for(run, data, "pretraining.epochs=3", "training.epochs=1"))
    monkeypatch.undo()
    before = [(run / name).read_text() for name in ("config.yaml", "curves.csv")]
    for change, sentence in {
        "pretraining.epochs=0": "keep pretraining.epochs above 0",
        "training.batch_atoms=3": "batch_atoms = 3 is below",
        "smoothness.scans=missing.h5": "missing.h5",
        "training.loss.stress=1": "none of the 15",
    }.items():
        with pytest.raises(MindscaipError, match=sentence):
            resume(run, [change])
        assert [(run / name).read_text() for name in ("config.yaml", "curves.csv")] == before
    resume(run)


def test_curves_keep_what_a_run_no_longer_measures(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    file = CurvesFile(path, ["step", "loss", "noise"], 0)
    file.append({"step": 1, "loss": 2.0, "noise": 3.0})
    CurvesFile(path, ["step", "loss", "stress"], 1).append({"step": 2, "loss": 1.0, "stress": 4.0})
    assert path.read_text().split() == ["step,loss,stress,noise", "1,2.0,,3.0", "2,1.0,4.0,"]


def test_other_weights_of_the_loss_begin_the_choice_of_the_best_anew(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(config_for(run, data))
    state = resume(run, ["training.loss.forces=50", "training.epochs=6"])
    assert state["progress"]["best"] > 2 * first["progress"]["best"]
    scores = [
        1e-3 * (row["val_energy_mae_meV_per_atom"] + 50 * row["val_force_mae_meV_per_A"]) for row in curves(run)[3:]
    ]
    assert state["progress"]["best"] == pytest.approx(min(scores), rel=1e-5)
    assert load_checkpoint(run / BEST)["record"]["epochs"] == 4 + int(np.argmin(scores))


def test_errors_that_are_not_numbers_are_never_the_best() -> None:
    errors = {"energy_mae_meV_per_atom": 1.0, "force_mae_meV_per_A": 10.0}
    settings = TrainingConfig()
    assert selection_score(errors, settings) == pytest.approx(0.021)
    assert selection_score({**errors, STRESS_MAE: float("nan")}, settings) == pytest.approx(0.021)
    for name in errors:
        assert np.isnan(selection_score({**errors, name: float("nan")}, settings))


def test_a_stage_that_is_stopped_as_its_time_is_over_still_ends_as_a_stage(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "within"
    signal_at(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(config_for(run, data, "pretraining.epochs=3"))
    monkeypatch.undo()
    resume(run, ["pretraining.max_minutes=1e-9", "training.max_minutes=1e-9"])
    assert (run / PRETRAINED).is_file()
    assert load_checkpoint(run / BEST)["stage"] == "training"
    assert [row["step"] for row in curves(run)] == [2, 3]  # no step of the stage that is over, one of the next

    run = tmp_path / "between"
    validate = loop._validate

    def validate_and_signal(*given: Any) -> None:
        validate(*given)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "_validate", validate_and_signal)
    with pytest.raises(Interrupted):
        train(config_for(run, data))
    monkeypatch.undo()
    assert load_checkpoint(run / LAST)["progress"]["epoch_step"] == 0
    state = resume(run, ["training.max_minutes=1e-9"])
    assert state["progress"]["finished"]
    assert [row["step"] for row in curves(run)] == [3, 4]
    assert resume(run)["progress"]["step"] == 4
