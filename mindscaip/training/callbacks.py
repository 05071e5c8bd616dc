"""What may look at the averaged (EMA) weights after each validation: columns beside the losses, and a say in selection.

The loop calls every callback on one process only (the first), after the validation errors are known, with the averaged
weights loaded and the predictor in evaluation mode; the weights of the optimiser come back afterwards. A callback must
not change the weights, the random state or the mode, so that a training takes the same course with it and without. What
it has to remember it keeps in the folder of the run, by step: a resumed run repeats the steps after its checkpoint.
Its values depend on the weights alone; whether it scores at all may depend on the clock where a setting says so.
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

    def __call__(self, epoch: int, step: int, predictor: Predictor, *, stage: str, final: bool) -> dict[str, float]:
        """Values by column after ``epoch`` epochs and ``step`` steps; empty where this validation is not scored.

        Args:
            epoch, step: finished ones, over all stages.
            predictor: its ``model`` is the :class:`~mindscaip.model.backbone.MinDScAIP` with the averaged weights, on
                the device of the training.
            stage: name of the stage under way.
            final: this is the last validation of the run, by its epochs or by its wall time.
        """
        ...

    def select(self, score: float, values: Mapping[str, float], best: float) -> tuple[float, float]:
        """The scores of these weights and of the best checkpoint, as the loop is to compare them (less wins).

        Both as they came leave the choice to validation. These weights never win with an infinite first score, and
        always with a finite one and an infinite second; the winner's score is kept as that of the best checkpoint.

        Args:
            score: from the validation errors (and the callbacks before this one).
            values: what ``__call__`` returned for this validation.
            best: score of the best checkpoint of this stage so far; infinite: there is none.
        """
        ...
