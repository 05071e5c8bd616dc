"""The frame log and the walk along a scan."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes

from mindscaip.bsct.frames import Frame, FrameLog, walk_frames
from mindscaip.errors import MindscaipError

NUMBERS = np.array([1, 1])
LENGTHS = np.linspace(0.5, 1.5, 11)
POSITIONS = np.stack([np.zeros((11, 3)), LENGTHS[:, None] * [0.0, 0.0, 1.0]], axis=1)


class Spring(Calculator):
    """Keeps the last length as its "orbitals", and a diary of where every calculation began."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's interface)

    def __init__(self, fails_at=()):
        super().__init__()
        self.guess, self.diary, self.fails_at = None, [], fails_at

    def forget(self):
        self.reset()
        self.guess = None

    def set_guess(self, guess, numbers):
        assert numbers.tolist() == NUMBERS.tolist()
        self.guess = guess

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        length = atoms.get_distance(0, 1)
        frame = int(np.argmin(np.abs(LENGTHS - length)))
        self.diary.append((frame, None if self.guess is None else int(self.guess)))
        if frame in self.fails_at:
            raise RuntimeError("no self-consistency")
        force = length - 0.9
        self.guess = np.array(float(frame))
        self.results = {"energy": 0.5 * force**2, "forces": np.array([[0, 0, force], [0, 0, -force]])}


def log_at(path):
    return FrameLog(path, NUMBERS, POSITIONS, "spring")


def test_frames_are_walked_outwards_with_the_neighbours_orbitals(tmp_path):
    calculator, log = Spring(fails_at=(6,)), log_at(tmp_path / "scan.jsonl")
    walk_frames(calculator, NUMBERS, POSITIONS, 4, log)
    # A frame without an answer leaves the orbitals of the one before; both directions begin with the fourth.
    outwards = [(4, None), (5, 4), (6, 5), (7, 5), (8, 7), (9, 8), (10, 9), (3, 4), (2, 3), (1, 2), (0, 1)]
    assert calculator.diary == outwards
    again = log_at(tmp_path / "scan.jsonl")
    assert sorted(again.frames) == list(range(11))
    assert "no self-consistency" in again.frames[6].reason
    assert np.isnan(again.frames[6].energy)
    for number in (0, 4, 10):
        assert again.frames[number].energy == log.frames[number].energy
        np.testing.assert_array_equal(again.frames[number].forces, log.frames[number].forces)
    assert len(list(tmp_path.glob("*.guess-*"))) <= 2


@pytest.mark.parametrize("killed", [False, True])
def test_where_the_first_frame_failed_the_other_direction_starts_from_atoms(tmp_path, killed):
    calculator = Spring(fails_at=(4,))

    def kill(frame):
        if killed and frame == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if killed else contextlib.nullcontext():
        walk_frames(calculator, NUMBERS, POSITIONS, 4, log_at(tmp_path / "scan.jsonl"), kill)
    walk_frames(calculator, NUMBERS, POSITIONS, 4, log_at(tmp_path / "scan.jsonl"))
    # Not from the orbitals of the tenth frame, the last that was saved.
    upwards = [(4, None), (5, None), (6, 5), (7, 6), (8, 7), (9, 8), (10, 9)]
    assert calculator.diary == [*upwards, (3, None), (2, 3), (1, 2), (0, 1)]


@pytest.mark.parametrize("stop", range(1, 11))
def test_a_killed_walk_goes_on_where_it_was(tmp_path, stop):
    whole, first, second = Spring(), Spring(), Spring()
    walk_frames(whole, NUMBERS, POSITIONS, 4, log_at(tmp_path / "whole.jsonl"))

    def kill(frame):
        if len(first.diary) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk_frames(first, NUMBERS, POSITIONS, 4, log_at(tmp_path / "scan.jsonl"), kill)
    walk_frames(second, NUMBERS, POSITIONS, 4, log_at(tmp_path / "scan.jsonl"))
    assert first.diary + second.diary == whole.diary


def test_without_saved_orbitals_the_neighbour_is_calculated_again(tmp_path):
    class NoGuess(Spring):
        set_guess = property()  # as a calculator that keeps its orbitals to itself

    log = log_at(tmp_path / "scan.jsonl")
    for frame in (4, 5):
        log.add(frame, Frame(0.0, np.zeros((2, 3))))
    calculator = NoGuess()
    assert not hasattr(calculator, "set_guess")
    walk_frames(calculator, NUMBERS, POSITIONS, 4, log)
    assert calculator.diary[:2] == [(5, None), (6, 5)]


def test_a_line_that_was_cut_off_does_not_count(tmp_path):
    path = tmp_path / "scan.jsonl"
    log_at(path).add(4, Frame(1.25, np.ones((2, 3)), seconds=0.5))
    whole = path.read_text()
    path.write_text(whole + '{"frame": 5, "ener')
    log = log_at(path)
    assert list(log.frames) == [4]
    log.add(5, Frame(2.5, np.zeros((2, 3))))
    assert path.read_text().startswith(whole)
    assert [json.loads(line).get("frame") for line in path.read_text().splitlines()] == [None, 4, 5]
    path.write_text('{"frame"')  # not even the first line
    assert log_at(path).frames == {}


def test_a_log_of_something_else_is_refused(tmp_path):
    path = tmp_path / "scan.jsonl"
    log_at(path).add(0, Frame(1.0, np.zeros((2, 3))))
    with pytest.raises(MindscaipError, match="belongs to other frames or another reference"):
        FrameLog(path, NUMBERS, POSITIONS, "gfn2-xtb")
    with pytest.raises(MindscaipError, match="belongs to other frames"):
        FrameLog(path, NUMBERS, POSITIONS * 1.001, "spring")
    FrameLog(path, NUMBERS, POSITIONS + 1e-9, "spring")
    path.write_text("not JSON\n")
    with pytest.raises(MindscaipError, match="is damaged"):
        log_at(path)
