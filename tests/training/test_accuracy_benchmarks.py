"""What the accuracy benchmarks rest on: one split for every program, stages that are done once, a clock that stops."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

from benchmarks.accuracy import own_split
from benchmarks.accuracy.data import split, stage, table
from benchmarks.accuracy.mace import MaceTraining
from mindscaip.data.formats import read_structures
from tests.models import ethanol


@pytest.fixture
def data(tmp_path) -> Path:
    """Forty labelled frames and isolated atoms under the names of the real files."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(40):
        structure = ethanol()
        structure.energy, structure.forces = float(k), rng.normal(size=(9, 3))
        frames.append(structure.to_ase())
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train_300K.xyz", frames, format="extxyz")
    (folder / "isolated_atoms.xyz").write_text("1\nProperties=species:S:1:pos:R:3 energy=-13.5\nH 0 0 0\n")
    return folder


def test_both_programs_read_the_same_split(data, tmp_path):
    assert split(data, tmp_path, 0.1, seed=1) == {"train": 36, "val": 4}
    train, val = (list(read(tmp_path / f"{name}.xyz", ":")) for name in ("train", "val"))
    energies = [atoms.info["REF_energy"] for atoms in (*train, *val)]
    assert sorted(energies) == [float(k) for k in range(40)]
    original = list(read_structures(data / "train_300K.xyz"))
    ours = list(read_structures(tmp_path / "val.xyz", energy_key="REF_energy", forces_key="REF_forces"))
    for structure, atoms in zip(ours, val, strict=True):
        assert structure.energy == atoms.info["REF_energy"]
        np.testing.assert_allclose(structure.forces, original[int(structure.energy)].forces, atol=1e-7)
    assert read(tmp_path / "isolated.xyz").info["config_type"] == "IsolatedAtom"
    assert split(data, tmp_path, 0.1, seed=1, train_count=7) == {"train": 7, "val": 4}


def test_an_own_split_tests_on_frames_of_its_own(data, tmp_path, monkeypatch):
    monkeypatch.setitem(own_split.SETS, "made", ("train_300K.xyz", "isolated_atoms.xyz", 10))
    found = own_split.split(data, tmp_path, "made", seed=2)
    assert {name: found[name] for name in ("atoms", "train", "val", "test")} == {
        "atoms": 9, "train": 5, "val": 25, "test": 10,
    }  # fmt: skip
    energies = [a.info["REF_energy"] for name in ("train", "val", "test") for a in read(tmp_path / f"{name}.xyz", ":")]
    assert sorted(energies) == [float(k) for k in range(40)]  # every frame once
    test = np.concatenate([atoms.arrays["REF_forces"] for atoms in read(tmp_path / "test.xyz", ":")])
    assert found["rms_force"] == pytest.approx(np.sqrt(np.mean(test**2)))


def test_a_stage_is_done_once(tmp_path):
    calls = []

    def make() -> dict:
        calls.append(1)
        return {"value": 3}

    assert [stage(tmp_path, "step", make)["value"] for _ in range(2)] == [3, 3]
    assert len(calls) == 1


def imitation(log: list[str], then: str) -> list[str]:
    """A program that prints what MACE would."""
    return [sys.executable, "-u", "-c", f"import time\nfor line in {log!r}: print(line)\n{then}"]


def test_a_training_that_is_over_its_time_is_stopped(tmp_path):
    clock = tmp_path / "clock.json"
    lines = ["INFO: Initial: loss=1.0", "INFO: Epoch 0: loss=0.5", "INFO: Epoch 1: loss=0.4"]
    found = MaceTraining(imitation(lines, "time.sleep(600)"), 1, tmp_path / "log", 1.0, clock)
    assert (found.stopped, found.epochs, found.seconds) == (True, 2, 1.0)
    assert found.code != 0
    assert json.loads(clock.read_text())["seconds"] <= 1.0
    assert "Epoch 1" in (tmp_path / "log").read_text()


def test_a_training_that_ends_in_time_is_not(tmp_path):
    clock = tmp_path / "clock.json"
    clock.write_text(json.dumps({"seconds": 50.0}))
    lines = ["Epoch 7: loss=0.5", "INFO: Training complete", "error tables"]
    found = MaceTraining(imitation(lines, ""), 1, tmp_path / "log", 600.0, clock)
    assert (found.stopped, found.epochs, found.code) == (False, 8, 0)
    assert found.seconds >= 50.0  # what was spent before counts


def test_the_table_is_markdown():
    assert table([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
