"""The progress bar of a training: loss, errors, learning rate, speed, and time left."""

from __future__ import annotations

import time
from types import TracebackType

from mindscaip.console import progress_bar
from mindscaip.units import EV_TO_MEV

_FIELDS = ("loss", "energy", "force", "rate", "speed")


class TrainingBar:
    """Shown by the first process only.

    Args:
        shown: False: every method does nothing.
    """

    def __init__(self, shown: bool) -> None:
        self._bar = progress_bar(*_FIELDS) if shown else None
        self._speed = 0.0
        self._time = time.monotonic()

    def __enter__(self) -> TrainingBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, stage: str, steps: int) -> None:
        """A stage of which ``steps`` steps are done already."""
        if self._bar is None:
            return
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._bar.add_task(stage, total=None, completed=steps, loss="", energy="", force="", rate="", speed="")
        self._speed, self._time = 0.0, time.monotonic()

    def step(self, steps: int, position: float, means: dict[str, float], rate: float, atoms: float) -> None:
        """After a step of ``atoms`` atoms at ``position`` of the schedule; ``means`` of the epoch, in eV and A."""
        if self._bar is None:
            return
        now = time.monotonic()
        speed = atoms / max(now - self._time, 1e-9)
        self._speed = speed if self._speed == 0.0 else 0.95 * self._speed + 0.05 * speed
        self._time = now
        self._bar.update(
            self._bar.task_ids[0],
            completed=steps,
            total=round(steps / max(position, 1e-9)),
            loss=f"loss {means['loss']:.4f}",
            energy=f"E {means['energy'] * EV_TO_MEV:.2f} meV/atom",
            force=f"F {means['force_components'] * EV_TO_MEV:.0f} meV/A",
            rate=f"lr {rate:.1e}",
            speed=f"{self._speed:.0f} atoms/s",
        )

    def validated(self, stage: str, epoch: int, force_mae: float) -> None:
        """After a validation with ``force_mae`` in meV/A."""
        if self._bar is not None:
            text = f"{stage}, epoch {epoch}: val F {force_mae:.1f} meV/A"
            self._bar.update(self._bar.task_ids[0], description=text)
