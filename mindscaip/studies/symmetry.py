"""How far a model is from rotational symmetry, which it learns and does not have by construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mindscaip.contract import ExportedModel
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import DEFAULT_BATCH_SIZE, Prediction, evaluate
from mindscaip.errors import MindscaipError
from mindscaip.metrics import error_statistics
from mindscaip.model.rotations import random_rotations
from mindscaip.units import EV_TO_MEV


@dataclass(frozen=True)
class Symmetry:
    """Predictions of the same structures in K random orientations, compared with each other and with labels.

    Attributes:
        rotations: number K of orientations.
        energy_spread: standard deviation of the energy over orientations, root mean square over structures, meV/atom.
        energy_range: largest difference between two orientations of one structure, meV/atom.
        forces_spread: standard deviation of a force component over orientations (forces turned back), root mean square
            over components, meV/A.
        errors: :func:`mindscaip.metrics.error_statistics` over all orientations; empty without labels.
    """

    rotations: int
    energy_spread: float
    energy_range: float
    forces_spread: float
    errors: dict[str, float]


def rotate_structure(structure: Structure, rotation: np.ndarray) -> Structure:
    """The structure and its labels turned by the orthogonal matrix ``rotation`` ``[3, 3]``."""
    return replace(
        structure,
        positions=structure.positions @ rotation.T,
        cell=structure.cell @ rotation.T,
        forces=None if structure.forces is None else structure.forces @ rotation.T,
        stress=None if structure.stress is None else rotation @ structure.stress @ rotation.T,
    )


def symmetry(
    model: ExportedModel,
    structures: Sequence[Structure],
    rotations: int,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_batch: Callable[[int], None] | None = None,
) -> Symmetry:
    """Evaluate every structure in ``rotations`` random orientations, the same ones for every model of one ``seed``.

    Args:
        on_batch: called after each batch with the number of structures in it (for a progress bar).

    Raises:
        MindscaipError: fewer than two rotations, no structures, or as :func:`mindscaip.engines.batched.evaluate`.
    """
    if rotations < 2:
        raise MindscaipError(f"{rotations} rotations have no spread; give at least 2")
    if not structures:
        raise MindscaipError("there are no structures to evaluate on")
    matrices = random_rotations(rotations * len(structures), np.random.default_rng(seed))
    matrices = matrices.reshape(rotations, len(structures), 3, 3)
    turned: list[Structure] = []
    predictions: list[Prediction] = []
    energies = np.zeros((rotations, len(structures)))
    forces: list[np.ndarray] = []
    for k in range(rotations):
        batch = [rotate_structure(s, r) for s, r in zip(structures, matrices[k], strict=True)]
        answers = evaluate(model, batch, batch_size, on_batch=on_batch)
        energies[k] = [answer.energy / len(s) for answer, s in zip(answers, structures, strict=True)]
        forces.append(np.concatenate([answer.forces @ r for answer, r in zip(answers, matrices[k], strict=True)]))
        turned += batch
        predictions += answers
    labelled = all(s.energy is not None and s.forces is not None for s in structures)
    return Symmetry(
        rotations=rotations,
        energy_spread=float(np.sqrt(energies.var(axis=0, ddof=1).mean())) * EV_TO_MEV,
        energy_range=float(np.ptp(energies, axis=0).max()) * EV_TO_MEV,
        forces_spread=float(np.sqrt(np.var(forces, axis=0, ddof=1).mean())) * EV_TO_MEV,
        errors=error_statistics(turned, predictions) if labelled else {},
    )
