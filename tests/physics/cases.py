"""The small models that the suite is run on, and the negative controls."""

from __future__ import annotations

from collections.abc import Callable

from tests.models import ELEMENTS, small_model
from tests.physics.potentials import FixedWidth, ModelPotential, eager


def _fixed_width() -> ModelPotential:
    model = small_model()
    model.__class__ = FixedWidth
    return eager(model, ELEMENTS, "windows cut at k edges")


CONTROLS: dict[str, Callable[[], ModelPotential]] = {
    "hard kNN": lambda: eager(small_model(kind="knn"), ELEMENTS, "hard kNN"),
    "list too short": lambda: eager(small_model(), ELEMENTS, "list up to r_c", list_cutoff=4.0),
    "fixed width": _fixed_width,
    "sigmoid, finite list": lambda: eager(small_model(rank_function="sigmoid"), ELEMENTS, "sigmoid rank"),
}
"""Potentials that jump, each for one reason."""


def smooth(ranking: str, k: int = 8) -> ModelPotential:
    """diffknn with the bump."""
    return eager(small_model(ranking=ranking, k=k), ELEMENTS, f"{ranking} ranking, k = {k}")
