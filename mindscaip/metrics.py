"""Errors of predictions against labels, defined once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.units import EV_TO_MEV

if TYPE_CHECKING:
    from mindscaip.engines.batched import Prediction


def error_statistics(structures: Sequence[Structure], predictions: Sequence[Prediction]) -> dict[str, float]:
    """MAE and RMSE: ``energy_*`` per atom in meV/atom, ``forces_*`` over components in meV/A, ``stress_*`` in meV/A^3.

    The stress is left out unless some structure has a label and the model a stress.

    Raises:
        MindscaipError: no structures, or one without energy or forces.
    """
    if not structures:
        raise MindscaipError("there are no structures to evaluate on")
    energy, forces, stress = [], [], []
    for index, (structure, prediction) in enumerate(zip(structures, predictions, strict=True)):
        if structure.energy is None or structure.forces is None:
            raise MindscaipError(f"structure {index} has no energy or no forces to compare with")
        energy.append([(prediction.energy - structure.energy) / len(structure)])
        forces.append((prediction.forces - structure.forces).ravel())
        if structure.stress is not None and prediction.stress is not None:
            stress.append((prediction.stress - structure.stress).ravel())
    errors: dict[str, float] = {}
    for name, differences in (("energy", energy), ("forces", forces), ("stress", stress)):
        if differences:
            values = np.concatenate(differences) * EV_TO_MEV
            errors[f"{name}_mae"] = float(np.abs(values).mean())
            errors[f"{name}_rmse"] = float(np.sqrt((values**2).mean()))
    return errors
