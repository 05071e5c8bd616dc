"""Run independent tasks here, in worker processes (joblib's loky) or on a Dask cluster (joblib's backend)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from typing import Any

from mindscaip.data.point import CalculationError
from mindscaip.data.workers import available_cores, worker_pool
from mindscaip.errors import MindscaipError

POLL_SECONDS = 0.5
CONNECT_SECONDS = 20

Task = Callable[..., None]
Tick = Callable[[], None]
Progress = Callable[[str, int, int], None]
"""Called with a stage, how much is done, and how much there is."""


class WorkersLostError(MindscaipError):
    """A worker process died, and the tasks that were not done with it."""


@dataclass(frozen=True)
class Failure:
    """Why a task came to nothing.

    Attributes:
        reason: as a sentence.
        final: whether a calculation was tried and has no answer, so that it will have none the next time either.
    """

    reason: str
    final: bool


def run_tasks(
    function: Task,
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int | None = None,
    dask: str | None = None,
    tick: Tick | None = None,
) -> dict[int, Failure]:
    """Run ``function(*task)`` for every task; return number and failure of those that raised ``MindscaipError``.

    Args:
        function: a function of a module, so that it travels to other processes. Run in this process it is also given
            ``tick``, to call whenever something was done.
        workers: processes on this machine; 1 is this process itself; all cores by default.
        dask: address of a Dask scheduler; its workers run the tasks.
        tick: called now and then while tasks run, and after each.

    Raises:
        WorkersLostError: a worker died.
        MindscaipError: no way to the cluster.
    """
    failed: dict[int, Failure] = {}
    if not tasks:
        return failed
    if dask is not None:
        results = _on_dask(function, tasks, dask)
    elif min(workers or available_cores(), len(tasks)) == 1:
        results = (_guarded(function, number, task, {"tick": tick}) for number, task in enumerate(tasks))
    else:
        results = _in_processes(function, tasks, min(workers or available_cores(), len(tasks)), tick)
    for number, failure in results:
        if failure is not None:
            failed[number] = failure
        if tick is not None:
            tick()
    return dict(sorted(failed.items()))


def _guarded(
    function: Task, number: int, arguments: tuple[Any, ...], more: dict[str, Any] | None = None
) -> tuple[int, Failure | None]:
    """Run one task; a failure comes back, so that the others go on."""
    try:
        function(*arguments, **(more or {}))
    except MindscaipError as error:
        return number, Failure(str(error), isinstance(error, CalculationError))
    return number, None


def _in_processes(
    function: Task, tasks: Sequence[tuple[Any, ...]], workers: int, tick: Tick | None
) -> Iterator[tuple[int, Failure | None]]:
    try:
        with worker_pool(workers) as pool:
            pending = {pool.submit(_guarded, function, number, task) for number, task in enumerate(tasks)}
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
                if tick is not None:
                    tick()
    except MindscaipError as error:
        raise WorkersLostError(str(error)) from error


def _on_dask(function: Task, tasks: Sequence[tuple[Any, ...]], address: str) -> Iterator[tuple[int, Failure | None]]:
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise MindscaipError(
            "a Dask cluster needs dask.distributed, which is not installed; run: pip install 'mindscaip[dask]'"
        ) from None
    import joblib

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError, RuntimeError) as error:
        raise MindscaipError(
            f"no Dask scheduler answers at {address!r} ({error}); give an address such as tcp://host:8786"
        ) from None
    with client:
        if not client.nthreads():
            raise MindscaipError(f"the Dask scheduler at {address} has no workers; start some: dask worker {address}")
        try:
            with client.as_current(), joblib.parallel_config(backend="dask"):
                parallel = joblib.Parallel(n_jobs=-1, batch_size=1, return_as="generator_unordered")
                yield from parallel(joblib.delayed(_guarded)(function, k, task) for k, task in enumerate(tasks))
        except KilledWorker as error:
            raise WorkersLostError(f"a Dask worker died ({error}); run the same command again to go on") from error
        except (ImportError, AttributeError) as error:  # the task does not exist where it should run
            raise MindscaipError(
                f"a Dask worker cannot run the task ({type(error).__name__}: {error}); install this version of "
                "mindscaip where the workers are and run the same command again to go on"
            ) from error
