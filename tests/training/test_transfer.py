"""A run that starts from the weights of another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.data import atomic_numbers
from ase.io import read, write

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.export import export_run
from mindscaip.training import transfer
from mindscaip.training.checkpoint import BEST, LAST, PRETRAINED, load_checkpoint
from mindscaip.training.interrupt import Interrupted
from mindscaip.training.prepare import resume, train
from tests.training.runs import ARGUMENTS, assert_same_run, config_for, curves, signal_at, write_data

STILL = ("training.learning_rate=1e-12", "training.weight_decay=0", "training.epochs=1")
"""Weights stay where they are."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def parent(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("parent") / "run"
    train(config_for(run, data, "pretraining.epochs=1"))
    return run


def relabelled(data: Path, out: Path, shift: dict[str, float], without: int = 0, other: int = 0) -> Path:
    """The same structures at another level of theory: so much energy more per atom of an element.

    Atoms with the atomic number ``without`` become ones with that of ``other``.
    """
    made = []
    for atoms in read(data, ":"):
        energy = atoms.get_potential_energy() + sum(shift.get(symbol, 0.0) for symbol in atoms.symbols)
        numbers = np.where(atoms.numbers == without, other, atoms.numbers)
        structure = Structure(numbers, atoms.positions, energy=energy, forces=atoms.get_forces())
        made.append(structure.to_ase())
    write(out, made, format="extxyz")
    return out


def best_errors(run: Path) -> dict[str, float]:
    epoch = load_checkpoint(run / BEST)["record"]["epochs"]
    return next(row for row in curves(run) if row["epoch"] == epoch)


def test_it_begins_with_what_the_other_run_knows(parent: Path, data: Path, tmp_path: Path) -> None:
    state = train(config_for(tmp_path / "run", data, f"start_from={parent}", *STILL))
    before, after = best_errors(parent), curves(tmp_path / "run")[0]
    assert after["val_force_mae_meV_per_A"] == pytest.approx(before["val_force_mae_meV_per_A"], rel=1e-4)
    assert after["val_energy_mae_meV_per_atom"] < 1.2 * before["val_energy_mae_meV_per_atom"]
    record = state["record"]
    assert record["start_from"]["checkpoint"] == "run/best.pt"
    assert record["start_from"]["steps"] == load_checkpoint(parent / BEST)["record"]["steps"]
    # From scratch nothing of it is known.
    train(config_for(tmp_path / "scratch", data, *STILL))
    assert curves(tmp_path / "scratch")[0]["val_force_mae_meV_per_A"] > 1.01 * after["val_force_mae_meV_per_A"]


def test_another_level_of_theory_shifts_the_reference_energies(parent: Path, data: Path, tmp_path: Path) -> None:
    symbols = load_checkpoint(parent / BEST)["elements"]
    shift = {symbol: 100.0 * (k + 1) for k, symbol in enumerate(symbols)}
    other = relabelled(data, tmp_path / "other.xyz", shift)
    states = [
        train(config_for(tmp_path / name, file, f"start_from={parent}", *STILL))
        for name, file in (("same", data), ("other", other))
    ]
    for symbol in symbols:
        same, moved = (state["record"]["reference_energies"][symbol] for state in states)
        assert moved - same == pytest.approx(shift[symbol], abs=1e-3)
    same, moved = (curves(tmp_path / name)[0] for name in ("same", "other"))
    assert moved["val_energy_mae_meV_per_atom"] == pytest.approx(same["val_energy_mae_meV_per_atom"], rel=1e-3)
    assert moved["val_force_mae_meV_per_A"] == pytest.approx(same["val_force_mae_meV_per_A"], rel=1e-4)


def test_elements_go_by_their_symbols(data: Path, tmp_path: Path) -> None:
    # The first run does not know the first element, the second learns it.
    symbols = sorted({symbol for atoms in read(data, ":") for symbol in atoms.symbols})
    numbers = [atomic_numbers[symbol] for symbol in symbols]
    fewer = relabelled(data, tmp_path / "fewer.xyz", {}, without=numbers[0], other=numbers[1])
    first = train(config_for(tmp_path / "first", fewer))
    assert first["elements"] == symbols[1:]
    state = train(config_for(tmp_path / "second", data, f"start_from={tmp_path / 'first' / LAST}", *STILL))
    assert state["elements"] == symbols
    scratch = train(config_for(tmp_path / "scratch", data, *STILL))
    for name in ("embedding.center.weight", "embedding.neighbor.weight", "embedding.atom.weight"):
        torch.testing.assert_close(state["ema"][name][1:], first["ema"][name], atol=1e-9, rtol=0)
        torch.testing.assert_close(state["ema"][name][0], scratch["ema"][name][0], atol=1e-9, rtol=0)
    # And back: what is not in the data is not in the model.
    last = train(config_for(tmp_path / "third", fewer, f"start_from={tmp_path / 'second'}", *STILL))
    assert last["elements"] == symbols[1:]
    torch.testing.assert_close(last["ema"]["embedding.atom.weight"], first["ema"]["embedding.atom.weight"])


def test_a_pretrained_model_of_another_run_is_a_start(parent: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    state = train(config_for(run, data, f"start_from={parent / PRETRAINED}", *STILL))
    theirs = load_checkpoint(parent / PRETRAINED)["ema"]
    assert any(name.startswith("force_head") for name in theirs)
    assert not any(name.startswith("force_head") for name in state["ema"])
    torch.testing.assert_close(state["ema"]["blocks.0.source.qkv.weight"], theirs["blocks.0.source.qkv.weight"])
    assert export_run(run, tmp_path / "model.pt").conservative
    # The other way round the force head starts untrained.
    direct = train(config_for(tmp_path / "direct", data, f"start_from={run}", "model.head=direct", *STILL))
    assert any(name.startswith("force_head") for name in direct["ema"])


def test_a_stop_does_not_lose_the_start(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config_for(tmp_path / "whole", data, f"start_from={parent}", "training.epochs=2"))
    run = tmp_path / "cut"
    with monkeypatch.context() as patch:
        signal_at(patch, 2)
        with pytest.raises(Interrupted):
            train(config_for(run, data, f"start_from={parent}", "training.epochs=2"))
    monkeypatch.setattr(transfer, "load_checkpoint", None)  # the other run is not needed any more
    state = resume(run)
    assert_same_run(tmp_path / "whole", run)
    assert state["reference_energies"] == whole["reference_energies"]
    assert state["record"]["start_from"] == whole["record"]["start_from"]
    monkeypatch.undo()
    # Killed before the first checkpoint, it starts again.
    (run / LAST).unlink()
    resume(run)
    assert_same_run(tmp_path / "whole", run)


def test_what_cannot_be_a_start(parent: Path, data: Path, tmp_path: Path) -> None:
    export_run(parent, tmp_path / "model.pt")
    for start, more, sentence in [
        (tmp_path / "nothing", (), r"there is no checkpoint .*nothing; give the folder of a run"),
        (tmp_path, (), r"there is no checkpoint .*best.pt"),
        (tmp_path / "model.pt", (), r"an exported model has lost what training needs"),
        (parent, ("model.embed_dim=32",), r"another architecture: model.embed_dim = 16, not 32; leave these keys"),
        (parent, ("model.graph.k=9",), r"model.graph.k = 30, not 9"),
    ]:
        with pytest.raises(MindscaipError, match=sentence):
            train(config_for(tmp_path / "run", data, f"start_from={start}", *more))
    assert not (tmp_path / "run").exists()
    with pytest.raises(MindscaipError, match=r"--resume keeps the configuration of the run; start_from"):
        resume(parent, [f"start_from={parent}"])


def test_the_architecture_need_not_be_given(parent: Path, data: Path, tmp_path: Path) -> None:
    from mindscaip.config import load_config

    own = [argument for argument in ARGUMENTS if not argument.startswith("model.")]
    run = tmp_path / "run"
    train(load_config([*own, f"run={run}", f"data.train={data}", f"start_from={parent}", *STILL]))
    assert load_config([str(run / "config.yaml")]).model == load_config([str(parent / "config.yaml")]).model
    assert np.isfinite(curves(run)[0]["val_force_mae_meV_per_A"])
