"""Worker processes for long calculations: one thread each, deaf to Ctrl-C, gone when their parent is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mindscaip.errors import MindscaipError


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(workers: int) -> Iterator[Any]:
    """An executor (``submit``, futures) of ``workers`` processes; they are killed when the block ends early.

    Raises:
        MindscaipError: a worker died.
    """
    from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    pool = ProcessPoolExecutor(
        max_workers=workers, initializer=_prepare_worker, initargs=(os.getpid(),), env=one_thread
    )
    finished = False
    try:
        yield pool
        finished = True
    except BrokenProcessPool as error:
        raise MindscaipError(
            f"a worker process died ({' '.join(str(error).split())[:200]}); run the same command again to go on, with "
            "fewer workers if memory was short"
        ) from error
    finally:
        pool.shutdown(wait=finished, kill_workers=not finished)


def _prepare_worker(parent: int) -> None:
    """In a worker: Ctrl-C is the parent's to handle, and without a parent (killed) there is nothing to work for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # what is written is whole; the rest is done again

    threading.Thread(target=watch, daemon=True).start()
