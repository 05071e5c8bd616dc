"""What may look at the averaged (EMA) weights after each validation: columns beside the losses, and a say in selection.

The loop calls every callback on one process only (the first), after the validation errors are known, with the averaged
weights loaded and the predictor in evaluation mode; the weights of the optimiser come back afterwards. A callback must
not change the weights, the random state or the mode. It keeps no state of its own that a resumed run would miss: what
it returns may depend on the weights and the epoch alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mindscaip.training.loss import Predictor


class Callback(Protocol):
    """Scores the averaged weights.

    Attributes:
        columns: names of the values, which become columns of ``curves.csv`` and scalars of the loggers; with units.
    """

    columns: tuple[str, ...]

    def __call__(self, epoch: int, step: int, predictor: Predictor) -> dict[str, float]:
        """Values by column after ``epoch`` epochs and ``step`` steps; empty where this validation is not scored.

        ``predictor.model`` is the :class:`~mindscaip.model.backbone.MinDScAIP` with the averaged weights, on the device
        of the training.
        """
        ...

    def select(self, score: float, values: Mapping[str, float]) -> float:
        """The score by which the best checkpoint is chosen (least wins).

        Args:
            score: from the validation errors (and the callbacks before this one); infinite is "never the best".
            values: what ``__call__`` returned for this validation.
        """
        ...
