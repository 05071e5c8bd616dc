"""In which precision a Context integrates, and what of it reaches the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mindscaip.contract import ExportedModel

if TYPE_CHECKING:
    import openmm


@dataclass(frozen=True)
class Precision:
    """Precision of a run; ``str()`` gives it in one line for records and reports.

    Attributes:
        platform: OpenMM's name of the platform.
        positions: of the positions that the model gets, ``float32`` or ``float64``. Edge vectors and the sums of
            energies and forces are float64 either way.
        model: of the model's weights (``dtype`` of its contract).
        integration: of positions and velocities between steps: ``double``, or the ``Precision`` of a GPU platform.
    """

    platform: str
    positions: str
    model: str
    integration: str

    def __str__(self) -> str:
        positions = "" if self.positions == "float64" else f", {self.positions} positions"
        return f"{self.platform}, {self.integration} precision, {self.model} model{positions}"


def precision_of(context: openmm.Context, force: Any, model: ExportedModel) -> Precision:
    """Precision of ``context`` with ``force``, made by :func:`mindscaip.engines.openmm.torch_force` from ``model``.

    Reference and CPU keep positions and velocities in double. GPU platforms have a property ``Precision``: a
    ``TorchForce`` gets float64 positions from ``double`` alone, a ``PythonForce`` from ``mixed`` as well.
    """
    platform = context.getPlatform()
    integration = "double"
    if "Precision" in platform.getPropertyNames():
        integration = platform.getPropertyValue(context, "Precision")
    exact = {"double", "mixed"} if type(force).__name__ == "PythonForce" else {"double"}
    return Precision(
        platform=platform.getName(),
        positions="float64" if integration in exact else "float32",
        model=model.contract.dtype,
        integration=integration,
    )
