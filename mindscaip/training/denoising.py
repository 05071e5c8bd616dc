"""Denoising of structures that are not at equilibrium (DeNS, Liao et al. 2024): what a corrupted batch is.

Some atoms of every structure are displaced by Gaussian noise; the model is told the true forces of these atoms, which
say what they were displaced from, and predicts the noise. The energy stays that of the structure before the corruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mindscaip.training.batch import Batch
from mindscaip.training.dataset import StructureDataset


@dataclass(frozen=True)
class Corruption:
    """Gaussian noise on the positions of some atoms in some steps.

    Attributes:
        probability: part of the steps that are corrupted.
        sigma: standard deviation of each coordinate's noise, A.
        atoms: part of the atoms of such a step that are displaced.
    """

    probability: float
    sigma: float
    atoms: float

    def draw(
        self, sizes: np.ndarray, mine: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        """Noise and its mask for the structures ``mine`` of a global batch of ``sizes`` atoms; None: a clean step.

        Drawn for the whole batch whatever the share, so that it does not depend on the number of processes.

        Returns:
            Per structure: standard normal numbers ``[n, 3]`` (zero where the atom stays; without their mean where all
            atoms move), and bool ``[n]``.
        """
        if rng.random() >= self.probability:
            return None
        total = int(sizes.sum())
        displaced = rng.random(total) < self.atoms
        noise = np.where(displaced[:, None], rng.normal(size=(total, 3)), 0.0)
        first = np.cumsum(sizes) - sizes
        parts = [slice(first[i], first[i] + sizes[i]) for i in mine]
        return [_seen(noise[part], displaced[part]) for part in parts], [displaced[part] for part in parts]

    def batch(
        self,
        dataset: StructureDataset,
        indices: Sequence[int],
        rotations: np.ndarray | None,
        noise: Sequence[np.ndarray],
        displaced: Sequence[np.ndarray],
    ) -> Batch:
        """The structures with displaced atoms; the neighbour lists are those of the displaced geometry."""
        structures = [dataset.structures[i] for i in indices]
        moved = [replace(s, positions=s.positions + self.sigma * n) for s, n in zip(structures, noise, strict=True)]
        batch = StructureDataset(moved, dataset.cutoff).batch(range(len(moved)), rotations)
        if rotations is not None:
            noise = [n @ r.T for n, r in zip(noise, rotations, strict=True)]
        batch.noise = torch.from_numpy(np.concatenate(noise)).to(torch.float32)
        batch.corrupted = torch.from_numpy(np.concatenate(displaced))
        return batch


def _seen(noise: np.ndarray, displaced: np.ndarray) -> np.ndarray:
    """The noise that a model can see: where all atoms move, without their common shift, at the same variance.

    Edges and forces do not tell of a shift of the whole, so it would be an error of 1/n of the variance that nothing
    could learn.
    """
    if not displaced.all():
        return noise
    if len(noise) == 1:
        return np.zeros_like(noise)
    return (noise - noise.mean(axis=0)) * np.sqrt(len(noise) / (len(noise) - 1))
