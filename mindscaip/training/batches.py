"""What a step sees: which structures, turned and corrupted how, as functions of seed, epoch and step alone.

The global batch is the unit: its structures, rotations and noise do not depend on the number of processes, of which
each takes its share. A run that is resumed, or moved to another number of processes, sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from mindscaip.errors import MindscaipError
from mindscaip.model.rotations import random_rotations
from mindscaip.training.batch import Batch
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.denoising import Corruption
from mindscaip.training.prefetch import Prefetched


def pack(order: np.ndarray, num_atoms: np.ndarray, batch_size: int, batch_atoms: int | None) -> list[np.ndarray]:
    """Cut ``order`` into global batches of ``batch_size`` structures, or of at most ``batch_atoms`` atoms.

    Structures stay in the given order; a batch by atoms ends before the structure that would not fit.

    Raises:
        MindscaipError: a structure has more than ``batch_atoms`` atoms.
    """
    if batch_atoms is None:
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    sizes = num_atoms[order]
    check_batch_atoms(num_atoms, batch_atoms)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    cuts = [0]
    while cuts[-1] < len(order):
        # The last structure whose end is within batch_atoms of the beginning of this batch.
        cuts.append(int(np.searchsorted(ends, ends[cuts[-1]] + batch_atoms, side="right")) - 1)
    return [order[a:b] for a, b in pairwise(cuts)]


def check_batch_atoms(num_atoms: np.ndarray, batch_atoms: int | None) -> None:
    """Make sure that every structure fits into a batch.

    Raises:
        MindscaipError: a structure has more than ``batch_atoms`` atoms.
    """
    if batch_atoms is not None and len(num_atoms) and num_atoms.max() > batch_atoms:
        raise MindscaipError(
            f"batch_atoms = {batch_atoms} is below the {num_atoms.max()} atoms of structure {num_atoms.argmax()} "
            "(counted from 0); raise it, or leave such structures out"
        )


def share(sizes: np.ndarray, rank: int, processes: int) -> np.ndarray:
    """Positions within a global batch that process ``rank`` takes: even in atoms, largest structures dealt first."""
    if processes == 1:
        return np.arange(len(sizes))
    load = np.zeros(processes, dtype=np.int64)
    mine = []
    for position in np.argsort(-sizes, kind="stable"):
        lightest = int(load.argmin())
        load[lightest] += sizes[position]
        if lightest == rank:
            mine.append(int(position))
    return np.array(sorted(mine), dtype=np.int64)


@dataclass(frozen=True)
class EpochBatches:
    """The global batches of one epoch, and this process's share of each.

    Attributes:
        dataset: what to draw from.
        batch_size, batch_atoms: size of a global batch (see :func:`pack`).
        seed, epoch: with the step, all that order, rotations and noise depend on.
        rotate: turn every structure at random.
        corruption: of the steps that denoise; None: no step does.
        rank, processes: which share, of how many.
    """

    dataset: StructureDataset
    batch_size: int
    seed: int
    epoch: int
    rotate: bool
    batch_atoms: int | None = None
    corruption: Corruption | None = None
    rank: int = 0
    processes: int = 1

    def plan(self) -> list[np.ndarray]:
        """Indices of the structures of each global batch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset))
        return pack(order, self.dataset.num_atoms, self.batch_size, self.batch_atoms)

    def batch(self, indices: np.ndarray, step: int, *, whole: bool = False) -> Batch:
        """This process's share of the global batch ``indices`` of step ``step`` of the epoch (or the whole of it).

        A process whose share is empty gets the first structure as a stand-in, which does not count.
        """
        sizes = self.dataset.num_atoms[indices]
        mine = np.arange(len(indices)) if whole else share(sizes, self.rank, self.processes)
        counts = len(mine) > 0
        if not counts:
            mine = np.array([0])
        rotations = None
        if self.rotate:
            rotations = random_rotations(len(indices), np.random.default_rng([self.seed, self.epoch, step]))[mine]
        chosen = indices[mine].tolist()
        moved = None
        if self.corruption is not None:
            rng = np.random.default_rng([self.seed, self.epoch, step, 1])
            moved = self.corruption.draw(sizes, mine, rng)
        if self.corruption is not None and moved is not None:
            batch = self.corruption.batch(self.dataset, chosen, rotations, *moved)
        else:
            batch = self.dataset.batch(chosen, rotations)
        batch.counts = counts
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return self.start_at(0)

    def start_at(self, step: int) -> Prefetched[Batch]:
        """The batches from step ``step`` of the epoch on."""
        plan = self.plan()
        source = self if self.dataset.workers == 0 else replace(self, dataset=self.dataset.without_cache())
        return Prefetched(partial(_prepare, source, plan), range(step, len(plan)), self.dataset.workers)


def _prepare(batches: EpochBatches, plan: list[np.ndarray], step: int) -> Batch:
    return batches.batch(plan[step], step)


def validation_batches(
    dataset: StructureDataset, batch_size: int, batch_atoms: int | None, rank: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """All structures in order, as they are; process ``rank`` takes every ``processes``-th batch.

    Args:
        batch_size, batch_atoms: of a global batch of the training, of which each process takes its share: what fits
            into its memory there fits here. A structure with more atoms is a batch by itself.
    """
    if batch_atoms is not None:
        batch_atoms = max(batch_atoms // processes, int(dataset.num_atoms.max()))
    size = max(1, batch_size // processes)
    order: Sequence[np.ndarray] = pack(np.arange(len(dataset)), dataset.num_atoms, size, batch_atoms)
    mine = order[rank::processes]
    return Prefetched(lambda number: dataset.batch(mine[number].tolist()), range(len(mine)))
