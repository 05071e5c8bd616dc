"""Progress of commands that work in stages: a bar per stage, which appears with its first sign of life."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import TaskID

from mindscaip.console import console, progress_bar


@contextmanager
def stage_bars(titles: Mapping[str, str], *, interrupted: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield ``show(stage, done, total)``, which draws the bar of a stage.

    Args:
        titles: what each stage is called on the terminal.
        interrupted: what to say when the user interrupts.
    """
    bar = progress_bar()
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            bar.start()  # only now: an error in the options comes without a bar
            tasks[stage] = bar.add_task(titles[stage], total=total)
        bar.update(tasks[stage], completed=done, total=total)

    try:
        yield show
    except KeyboardInterrupt:
        bar.stop()
        console.print(interrupted, markup=False, soft_wrap=True)
        raise
    finally:
        bar.stop()
