"""The force itself: the scripted wrapper of a model, put into whichever class of OpenMM works here."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.data import chemical_symbols

from mindscaip.contract import ExportedModel, check_elements, warn_of_energy
from mindscaip.engines.openmm_install import import_openmm_torch, torch_force_problem
from mindscaip.engines.openmm_module import OpenMMPotential
from mindscaip.engines.openmm_particles import region_of
from mindscaip.engines.openmm_python import python_force
from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.units import EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM

if TYPE_CHECKING:
    import openmm

BACKENDS = ("auto", "torch", "python")
IMAGES = ("all", "nearest", "none")
"""What a region may see of its periodic images, in the order of the wrapper's numbers."""
FORCE_NAME = "mindscaip"
"""``Force.getName()`` of every force made here."""


class BackendWarning(UserWarning):
    """``TorchForce`` cannot be had, and ``PythonForce`` takes its place."""


_said: set[str] = set()


def choose_backend(backend: str, stacklevel: int = 2) -> str:
    """``torch`` or ``python``; ``auto`` takes the first that works and says once per process why it is the second.

    Raises:
        MindscaipError: an unknown name, or OpenMM is missing.
    """
    if backend not in BACKENDS:
        raise MindscaipError(
            f"no backend named {backend!r}{did_you_mean(backend, BACKENDS)}; known: {', '.join(BACKENDS)}"
        )
    if backend != "auto":
        return backend
    problem = torch_force_problem()
    if problem is None:
        return "torch"
    if problem not in _said:
        _said.add(problem)
        warnings.warn(
            f"OpenMM's PythonForce takes the place of TorchForce: {problem}", BackendWarning, stacklevel=stacklevel + 1
        )
    return "python"


def scripted_wrapper(
    exported: ExportedModel,
    numbers: np.ndarray,
    atoms: Sequence[int] | None = None,
    *,
    images: str = "all",
    to_model_frame: np.ndarray | None = None,
) -> torch.jit.ScriptModule:
    """Elements, region, neighbour list, units and model in one TorchScript module.

    Args:
        numbers: atomic number of every particle, ``[N]``.
        atoms, images: as in :func:`mindscaip.engines.openmm.torch_force`.
        to_model_frame: rotation ``R`` ``[3, 3]``: the model sees ``vectors @ R``; None leaves them as they are.

    Raises:
        MindscaipError: a region that cannot be, or an element that the model does not know.
    """
    if images not in IMAGES:
        raise MindscaipError(f"images is {images!r}{did_you_mean(images, IMAGES)}; known: {', '.join(IMAGES)}")
    region = region_of(numbers, atoms)
    contract = exported.contract
    check_elements(contract, sorted({chemical_symbols[z] for z in numbers[region]}), "the topology")
    whole = np.array_equal(region, np.arange(len(numbers)))
    rotation = np.eye(3) if to_model_frame is None else to_model_frame
    wrapper = OpenMMPotential(
        exported.module,
        torch.from_numpy(numbers[region].copy()),
        torch.from_numpy(np.zeros(0, np.int64) if whole else region),
        len(numbers),
        contract.list_cutoff,
        contract.conservative,
        NM_TO_ANGSTROM,
        EV_TO_KJ_PER_MOL,
        torch.from_numpy(np.array(rotation, dtype=np.float64)),
        IMAGES.index(images),
        contract.to_text(),
    )
    return torch.jit.script(wrapper.eval())


def build_force(
    exported: ExportedModel,
    numbers: np.ndarray,
    atoms: Sequence[int] | None = None,
    *,
    periodic: bool,
    images: str = "all",
    to_model_frame: np.ndarray | None = None,
    backend: str = "auto",
    device: str | None = None,
    stacklevel: int = 2,
) -> openmm.Force:
    """A ``TorchForce`` or ``PythonForce`` over :func:`scripted_wrapper`; warns of a model that loses energy.

    Raises:
        MindscaipError: as :func:`scripted_wrapper`, or the backend is not there.
    """
    chosen = choose_backend(backend, stacklevel + 1)
    module = scripted_wrapper(exported, numbers, atoms, images=images, to_model_frame=to_model_frame)
    warn_of_energy(exported.contract, exported.path, stacklevel=stacklevel + 1)
    force: Any
    if chosen == "python":
        force = python_force(module, periodic, device)
    else:
        force = import_openmm_torch().TorchForce(module)
        force.setOutputsForces(True)
        force.setUsesPeriodicBoundaryConditions(periodic)
    force.setName(FORCE_NAME)
    return force
