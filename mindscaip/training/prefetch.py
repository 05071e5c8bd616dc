"""Batches are prepared while the model computes: by a thread, or by processes where one thread is not enough.

Order and content are those of a plain loop, and at most a few batches are in memory.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

AHEAD = 3
"""Batches that wait, at most, per thread or process."""


class Prefetched(Iterator[T]):
    """Iterate over ``build(step)`` for every step, in order, prepared ahead of time.

    An exception of ``build`` is raised where its batch would have come. Thread or processes end when the iterator is
    exhausted, closed or dropped.

    Attributes:
        late: number of batches that were not ready when they were asked for (the first one never is); threads only.

    Args:
        build: makes one batch; for ``workers > 0`` it travels to other processes.
        steps: which, in order.
        workers: number of processes; 0: one thread of this process.
    """

    def __init__(self, build: Callable[[int], T], steps: range, workers: int = 0) -> None:
        self.late = 0
        self._left = len(steps)
        # Simple queues never make the consumer wait for a lock that the thread holds while it has no core.
        self._ready: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._items: Iterator[T | Exception] | None = None
        if workers > 0 and self._left:
            loader: Any = DataLoader(
                _Steps(build, steps),
                batch_size=None,
                num_workers=min(workers, self._left),
                prefetch_factor=AHEAD,
                worker_init_fn=_leave_signals_to_the_parent,
            )
            self._items = iter(loader)
        elif self._left:
            for _ in range(AHEAD):
                self._places.put(True)
            # The thread knows the queues, not this object, so that dropping the object ends it.
            work = (build, steps, self._ready, self._places)
            self._thread = threading.Thread(target=_work, args=work, name="batches", daemon=True)
            self._thread.start()

    def __next__(self) -> T:
        if self._left == 0:
            self.close()
            raise StopIteration
        self._left -= 1
        if self._items is not None:
            found = next(self._items)
            if isinstance(found, Exception):
                self.close()
                raise found
            return found
        self.late += self._ready.empty()
        item, error = self._ready.get()
        if error is not None:
            self.close()
            raise error
        self._places.put(True)
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """End thread or processes; nothing comes any more."""
        self._left = 0
        self._items = None
        self._dismiss()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _dismiss(self) -> None:
        """Tell the thread to end after the batch in its hands."""
        try:
            while True:
                self._places.get_nowait()
        except queue.Empty:
            self._places.put(False)

    def __del__(self) -> None:
        if getattr(self, "_thread", None) is not None:
            self._dismiss()  # without waiting for it: the interpreter may be ending


def _work(
    build: Callable[[int], T],
    steps: range,
    ready: queue.SimpleQueue[tuple[T | None, BaseException | None]],
    places: queue.SimpleQueue[bool],
) -> None:
    for step in steps:
        if not places.get():
            return
        try:
            ready.put((build(step), None))
        except BaseException as error:
            ready.put((None, error))
            return


def _leave_signals_to_the_parent(worker: int) -> None:
    """Schedulers and terminals signal the whole group; the parent saves, and ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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
