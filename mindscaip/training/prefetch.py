"""Batches are prepared while the model computes: by a thread, or by processes where one thread is not enough.

Order and content are those of a plain loop, and at most a few batches are in memory.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

AHEAD = 3
"""Batches that wait, at most, per thread or process."""


def prefetched(build: Callable[[int], T], steps: range, workers: int = 0) -> Generator[T, None, None]:
    """Yield ``build(step)`` for every step, in order, prepared ahead of time.

    An exception of ``build`` is raised where its batch would have come. When the iterator is closed or dropped, thread
    or processes end.

    Args:
        build: makes one batch; for ``workers > 0`` it travels to other processes.
        steps: which, in order.
        workers: number of processes; 0: one thread of this process.
    """
    return _by_thread(build, steps) if workers == 0 else _by_processes(build, steps, workers)


def _by_thread(build: Callable[[int], T], steps: range) -> Generator[T, None, None]:
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                pass

    def work() -> None:
        for step in steps:
            if stop.is_set():
                return
            try:
                put((build(step), None))
            except BaseException as error:
                put((None, error))
                return

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item, error = ready.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


class _Steps(Dataset, Generic[T]):
    """``build`` as what a DataLoader asks for: errors travel as values, since it would bury their sentence."""

    def __init__(self, build: Callable[[int], T], steps: range) -> None:
        self._build, self._steps = build, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> T | Exception:
        try:
            return self._build(self._steps[number])
        except Exception as error:
            return error


def _by_processes(build: Callable[[int], T], steps: range, workers: int) -> Generator[T, None, None]:
    loader: Any = DataLoader(
        _Steps(build, steps), batch_size=None, num_workers=min(workers, max(1, len(steps))), prefetch_factor=AHEAD
    )
    for item in loader:
        if isinstance(item, Exception):
            raise item
        yield item
