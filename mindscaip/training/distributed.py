"""Several processes as one: who they are, what they add up, and how they end together.

Fabric starts them (or finds what torchrun or srun has started) and averages gradients (DDP). Everything that decides
the course of a run, counts, clock, errors and wishes to stop, goes through one small sum before each step, so that all
processes decide alike.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from mindscaip.config import Config
from mindscaip.errors import MindscaipError

Result = TypeVar("Result")


def launch(config: Config) -> Fabric:
    """Start the processes that the configuration asks for, or join those that a launcher has started.

    Raises:
        MindscaipError: there is no such device, or not so many.
    """
    devices, num_nodes = launched_processes() or (config.devices, config.num_nodes)
    strategy: str | DDPStrategy = "auto"
    if devices * num_nodes > 1:
        strategy = DDPStrategy(broadcast_buffers=False)  # they are constants
    try:
        fabric = Fabric(accelerator=config.accelerator, devices=devices, num_nodes=num_nodes, strategy=strategy)
    except (MisconfigurationException, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MindscaipError(
            f"accelerator = {config.accelerator!r} with devices = {devices}, num_nodes = {num_nodes}: {reason}"
        ) from None
    fabric.launch()
    return fabric


def launched_processes() -> tuple[int, int] | None:
    """Processes per machine and machines under torchrun or srun; None where no launcher is at work."""
    if TorchElasticEnvironment.detect():
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        return local, world // local
    if SLURMEnvironment.detect() and "SLURM_NTASKS" in os.environ:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None


def is_first_process() -> bool:
    """Whether this process speaks for the run; true where there is but one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0 or launched_processes() is None


def leave_together() -> None:
    """Wait for the other processes: launchers kill the rest, the one that speaks as well, as soon as one has ended."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        with suppress(RuntimeError):  # another one has ended already
            torch.distributed.barrier()


@dataclass(frozen=True)
class Agreement:
    """What the processes know of each other before a step: counts over all of them, the clock, a signal (0: none)."""

    counts: dict[str, float]
    minutes: float
    signal: int


class Processes:
    """The processes of a run.

    Attributes:
        rank, size: which of how many this is.
        is_first: this process writes and speaks.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.rank: int = fabric.global_rank
        self.size: int = fabric.world_size
        self.is_first = self.rank == 0

    def total(self, values: Sequence[float] | torch.Tensor) -> list[float]:
        """Each value summed over all processes, in float64.

        Raises:
            MindscaipError: another process has ended.
        """
        if self.size == 1:
            return [float(value) for value in values]
        tensor = torch.as_tensor(values, dtype=torch.float64, device=self._fabric.device).detach().clone()
        try:
            torch.distributed.all_reduce(tensor)
        except RuntimeError:
            raise MindscaipError("another process of this training has ended; see what it said") from None
        return tensor.tolist()

    def agree(self, counts: dict[str, int], error: str, number: int, minutes: float) -> Agreement:
        """Exchange what a step needs.

        Args:
            counts: of this process's share.
            error: what went wrong here; empty: nothing.
            number: the signal that came here; 0: none.
            minutes: of this process's clock; the first one's counts.

        Raises:
            MindscaipError: something went wrong in some process; the same sentence in all.
        """
        own = [bool(error), number == signal.SIGINT, number == signal.SIGTERM, minutes * self.is_first]
        failed, interrupted, terminated, clock, *sums = self.total([*map(float, own), *map(float, counts.values())])
        if failed:
            raise MindscaipError(self._first_message(error))
        stopped = signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0
        return Agreement(dict(zip(counts, sums, strict=True)), clock, int(stopped))

    def together(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` in every process and wait for all; an error in one is an error in all, with its sentence."""
        message, result = "", None
        try:
            result = work()
        except MindscaipError as error:
            message = str(error)
        if self.total([bool(message)])[0]:
            raise MindscaipError(self._first_message(message))
        return result  # type: ignore[return-value]

    def _first_message(self, own: str) -> str:
        messages: list[str | None] = [own]
        if self.size > 1:
            messages = [None] * self.size
            torch.distributed.all_gather_object(messages, own)
        return next(message for message in messages if message)
