"""The progress bar of a training: loss, errors, learning rate, speed, and time left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from mindscaip.console import console
from mindscaip.units import EV_TO_MEV


class _TwoLines(Progress):
    """The bar, and its numbers below it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["numbers"])


class TrainingBar:
    """Shown by the first process only.

    Args:
        shown: False: every method does nothing.
    """

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TaskProgressColumn())
        left = (TextColumn("left"), TimeRemainingColumn())
        self._bar = _TwoLines(*columns, *left, console=console) if shown else None
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
        self._bar.add_task(stage, total=None, completed=steps, numbers="")
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
            numbers=f"loss {means['loss']:.4f}, E {means['energy'] * EV_TO_MEV:.2f} meV/atom, "
            f"F {means['force_components'] * EV_TO_MEV:.1f} meV/A, lr {rate:.1e}, {self._speed:.0f} atoms/s",
        )

    def validated(self, stage: str, epoch: int, force_mae: float) -> None:
        """After a validation with ``force_mae`` in meV/A."""
        if self._bar is not None:
            text = f"{stage}, epoch {epoch}: val F {force_mae:.1f} meV/A"
            self._bar.update(self._bar.task_ids[0], description=text)
