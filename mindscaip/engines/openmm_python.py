"""The second way into OpenMM: its own ``PythonForce``, for installations in which openmm-torch does not work.

The same TorchScript wrapper is evaluated, from Python instead of C++. OpenMM keeps the function by pickling it, so a
serialised System of this kind needs mindscaip where it is read; with ``TorchForce`` it does not.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch

from mindscaip.engines.openmm_install import import_openmm, sentence_of
from mindscaip.errors import MindscaipError


class PythonEvaluation:
    """What a ``PythonForce`` calls: a State in, energy (kJ/mol) and forces (kJ/mol/nm) out.

    Args:
        module: a scripted :class:`~mindscaip.engines.openmm_module.OpenMMPotential`.
        periodic: whether the module wants the box.
        device: torch device; None takes a GPU where there is one.
    """

    def __init__(self, module: torch.jit.ScriptModule, periodic: bool, device: str | None = None) -> None:
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
        self.archive = buffer.getvalue()
        self.contract = str(module.contract)
        self.periodic = periodic
        self.device = device
        self._module: torch.jit.ScriptModule | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For pickling: the archive and not the loaded module."""
        return {**self.__dict__, "_module": None}

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        """Energy and forces ``[N, 3]`` of ``state``.

        Raises:
            MindscaipError: what the module refuses (OpenMM passes it on as an ``OpenMMException``).
        """
        if self._module is None:
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._module = torch.jit.load(io.BytesIO(self.archive), map_location=device).eval()
        device = self._module.numbers.device
        positions = torch.tensor(state.getPositions(asNumpy=True)._value, dtype=torch.float64, device=device)
        box = None
        if self.periodic:
            box = torch.tensor(state.getPeriodicBoxVectors(asNumpy=True)._value, dtype=torch.float64, device=device)
        try:
            # Whatever mode the caller is in: without gradients the forces would be zero.
            with torch.inference_mode(False), torch.enable_grad():
                energy, forces = self._module(positions, box)
        except RuntimeError as error:
            raise MindscaipError(sentence_of(error)) from None
        return float(energy), forces.cpu().numpy()


def python_force(module: torch.jit.ScriptModule, periodic: bool, device: str | None = None) -> Any:
    """A ``PythonForce`` over the scripted wrapper.

    Raises:
        MindscaipError: this OpenMM has no ``PythonForce`` (it came with OpenMM 8.5).
    """
    mm = import_openmm()
    if not hasattr(mm, "PythonForce"):
        raise MindscaipError(f"OpenMM {mm.version.short_version} has no PythonForce; install OpenMM 8.5 or later")
    force = mm.PythonForce(PythonEvaluation(module, periodic, device))
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force
