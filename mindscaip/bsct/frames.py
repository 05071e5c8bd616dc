"""The reference on every frame of a scan, each frame saved when it is done.

Frames are kept in a *frame log*: JSON lines, the first of which says what the log belongs to, and then one per frame
with its energy (eV), forces (eV/A) and seconds, or the reason why there are none. A line that a kill cut off does not
count. Numbers are written so that they read back to the last bit.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mindscaip.data.point import CalculationError, single_point
from mindscaip.data.sampling import forget_history
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

SAME_POSITION = 1e-6
"""A; frames this close are the same frames."""


@dataclass(frozen=True)
class Frame:
    """One frame: energy in eV and forces in eV/A, ``[n, 3]``, or the ``reason`` why there are none."""

    energy: float
    forces: np.ndarray
    reason: str = ""
    seconds: float = 0.0


class FrameLog:
    """The frames of one scan that are done, on disk.

    Args:
        path: the log; made with its folder when the first frame is added.
        numbers: atomic numbers, ``[n]``.
        positions: A, ``[K, n, 3]``.
        reference: name of the calculator.

    Raises:
        MindscaipError: the log belongs to other frames or another reference.
    """

    def __init__(self, path: Path, numbers: np.ndarray, positions: np.ndarray, reference: str) -> None:
        self.path = path
        self._shape = (len(numbers), 3)
        self._header = {
            "reference": reference,
            "frames": len(positions),
            "numbers": np.asarray(numbers).tolist(),
            "positions_first": positions[0].tolist(),
            "positions_last": positions[-1].tolist(),
        }
        self.frames: dict[int, Frame] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        whole, _, cut = self.path.read_bytes().rpartition(b"\n")
        lines = whole.splitlines()
        if not lines:
            self.path.unlink()
            return
        try:
            header = json.loads(lines[0])
            for line in lines[1:]:
                record = json.loads(line)
                reason = record.get("error", "")
                forces = np.full(self._shape, np.nan) if reason else np.array(record["forces"]).reshape(self._shape)
                energy = np.nan if reason else float(record["energy"])
                self.frames[int(record["frame"])] = Frame(energy, forces, reason, float(record["seconds"]))
        except (ValueError, KeyError, TypeError) as error:
            raise MindscaipError(f"{self.path} is damaged ({error}); remove it and its frames are made again") from None
        if not self._is_mine(header):
            raise MindscaipError(f"{self.path} belongs to other frames or another reference; remove it")
        if cut:  # the next line must not be appended to half a line
            with atomic_path(self.path) as target:
                target.write_bytes(whole + b"\n")

    def _is_mine(self, header: dict[str, Any]) -> bool:
        for name, mine in self._header.items():
            if name.startswith("positions"):
                found = np.array(header.get(name, []), dtype=np.float64)
                if found.shape != self._shape or np.abs(found - mine).max() > SAME_POSITION:
                    return False
            elif header.get(name) != mine:
                return False
        return True

    def add(self, number: int, frame: Frame) -> None:
        """Save one frame."""
        record: dict[str, Any] = {"frame": number, "seconds": round(frame.seconds, 3)}
        if frame.reason:
            record["error"] = frame.reason
        else:
            record |= {"energy": frame.energy, "forces": frame.forces.tolist()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a") as file:
            if new:
                file.write(json.dumps(self._header) + "\n")
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.frames[number] = frame

    def guess_path(self, number: int) -> Path:
        """Where the orbitals of a frame are kept."""
        return self.path.with_name(f"{self.path.name}.guess-{number}.npy")


def walk_frames(
    calculator: Any,
    numbers: np.ndarray,
    positions: np.ndarray,
    start: int,
    log: FrameLog,
    on_frame: Callable[[int], None] | None = None,
) -> None:
    """Evaluate the frames of a scan that are not in ``log`` and save each in it.

    The walk goes from ``start`` to the last frame and then from ``start`` to the first, so that a self-consistent
    calculator finds the orbitals of a neighbour; both directions begin with those of ``start``, or with none where it
    has no answer. A walk that was killed
    goes on with the orbitals saved beside the log (calculators with ``guess`` and ``set_guess``) or else calculates the
    neighbour once more (calculators with ``forget``). A frame without an answer is saved with its reason.

    Args:
        calculator: an ASE calculator.
        positions: A, ``[K, n, 3]``.
        on_frame: called with the number of each frame that was made.
    """
    for direction in (range(start, len(positions)), range(start, -1, -1)):
        pending = [number for number in direction if number not in log.frames]
        if not pending:
            continue
        forget_history(calculator)
        if pending[0] != start:
            _warm_up(calculator, numbers, positions, log, start, pending[0] - direction.step)
        for number in pending:
            began = time.perf_counter()
            try:
                energy, forces = single_point(calculator, Atoms(numbers, positions[number]))
                frame = Frame(energy, forces, "", time.perf_counter() - began)
            except CalculationError as error:
                missing = np.full((len(numbers), 3), np.nan)
                frame = Frame(np.nan, missing, str(error) or "no reason given", time.perf_counter() - began)
            log.add(number, frame)
            if not frame.reason and getattr(calculator, "guess", None) is not None:
                _save_guess(calculator, log, number, keep=(start, number))
            if on_frame is not None:
                on_frame(number)


def _warm_up(
    calculator: Any, numbers: np.ndarray, positions: np.ndarray, log: FrameLog, start: int, neighbor: int
) -> None:
    """Bring the calculator to where it was after ``neighbor``, as far as it keeps orbitals at all."""
    if hasattr(calculator, "set_guess"):
        saved = sorted(log.path.parent.glob(log.guess_path(0).name.replace("-0.npy", "-*.npy")))
        by_frame = {int(path.stem.rpartition("-")[2]): path for path in saved}
        # Of this direction only: where ``start`` failed, all that is left of the other one is its far end.
        by_frame = {k: path for k, path in by_frame.items() if min(start, neighbor) <= k <= max(start, neighbor)}
        if by_frame:
            nearest = min(by_frame, key=lambda number: abs(number - neighbor))
            calculator.set_guess(np.load(by_frame[nearest], allow_pickle=False), numbers)
    elif hasattr(calculator, "forget"):
        try:
            single_point(calculator, Atoms(numbers, positions[neighbor]))
        except CalculationError:
            return


def _save_guess(calculator: Any, log: FrameLog, number: int, keep: Iterable[int]) -> None:
    path = log.guess_path(number)
    with atomic_path(path) as target, target.open("wb") as file:
        np.save(file, calculator.guess)
    kept = {log.guess_path(k) for k in keep}
    for old in log.path.parent.glob(log.guess_path(0).name.replace("-0.npy", "-*.npy")):
        if old not in kept:
            old.unlink()
