"""OpenMM over an exported ``model.pt``: a force for a topology, a ``System``, XML files, and NVE runs.

OpenMM's units stand at the border (nm, kJ/mol, ps); arguments with other units say so. ``openmm`` and ``openmmtorch``
are imported when a function needs them, so that this module imports without them. It gathers what users need:

``openmm_force``
    the force and its two backends
``openmm_particles``
    elements and regions, with their checks
``openmm_files``
    XML files and the hash of the model in them
``openmm_nve``
    constant-energy dynamics as a record
``openmm_install``
    versions that belong together
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mindscaip.contract import ExportedModel
from mindscaip.engines.batched import as_exported, first_line
from mindscaip.engines.openmm_files import (
    PotentialInSystem,
    check_model,
    potentials_in,
    read_system,
    write_system,
)
from mindscaip.engines.openmm_force import BACKENDS, BackendWarning, build_force
from mindscaip.engines.openmm_install import (
    OPENMMTORCH_BUILT_FOR,
    WORKING_SET,
    find_platform,
    import_openmm,
    import_openmm_torch,
    installed_version,
    openmm_errors,
    release,
    torch_force_problem,
)
from mindscaip.engines.openmm_nve import openmm_box, run_nve
from mindscaip.engines.openmm_particles import RegionWarning, check_system, particles, region_of, warn_of_cut_bonds
from mindscaip.engines.openmm_precision import Precision, precision_of
from mindscaip.engines.record import standard_masses
from mindscaip.errors import MindscaipError

if TYPE_CHECKING:
    import openmm

__all__ = [
    "BACKENDS",
    "OPENMMTORCH_BUILT_FOR",
    "WORKING_SET",
    "BackendWarning",
    "PotentialInSystem",
    "Precision",
    "RegionWarning",
    "add_to_system",
    "check_model",
    "create_system",
    "find_platform",
    "import_openmm",
    "import_openmm_torch",
    "installed_version",
    "openmm_box",
    "openmm_errors",
    "potentials_in",
    "precision_of",
    "read_system",
    "release",
    "run_nve",
    "torch_force",
    "torch_force_problem",
    "write_system",
]


def torch_force(
    model: str | os.PathLike | ExportedModel,
    topology_or_numbers: openmm.app.Topology | Sequence[int] | np.ndarray,
    *,
    atoms: Sequence[int] | None = None,
    periodic: bool | None = None,
    images: str = "all",
    force_group: int = 0,
    backend: str = "auto",
    device: str | None = None,
) -> openmm.Force:
    """A force that evaluates the model on all particles or on a region of them.

    The force holds everything that it needs (weights, elements, neighbour list): a ``System`` with a ``TorchForce``
    serialises to XML and runs where mindscaip is not installed. Energies and forces are computed in the model's
    precision from the positions that the platform hands over: float64 on Reference and CPU, float32 on GPU platforms in
    single precision (:func:`precision_of`).

    Args:
        model: path of a ``model.pt`` or a loaded model.
        topology_or_numbers: an ``openmm.app.Topology``, or the atomic number of every particle of the System (0 for
            particles without an element, which must be outside the region).
        atoms: indices (from 0) of the region; None is every particle. The rest feels no force and does not exist for
            the model.
        periodic: whether the neighbour list uses the box; None takes it from the topology (atomic numbers alone: not
            periodic). The box is read at every call, so barostats work, and it may be smaller than the cutoff.
        images: what the region may see of its own periodic images: ``all`` within the cutoff; ``nearest``, one image of
            each pair and none of an atom itself (a mixed system would count the others twice, here and in the lattice
            sums of the classical forces); or ``none``, nothing across a boundary of the box. More is an error at the
            call.
        force_group: OpenMM's force group, 0 to 31.
        backend: ``torch`` for ``TorchForce`` of openmm-torch, ``python`` for OpenMM's own ``PythonForce`` (same module,
            more overhead, and its XML needs mindscaip), ``auto`` for the first that works here.
        device: torch device of the ``python`` backend (None: a GPU where there is one). ``TorchForce`` follows the
            platform.

    Raises:
        MindscaipError: an element that is not in the model, an atom that is out of range, repeated or without element,
            ``periodic=True`` for a topology without box, openmm or openmmtorch missing or mismatched, or a file that is
            not a whole ``model.pt``.
    """
    numbers, has_box = particles(topology_or_numbers)
    if periodic is None:
        periodic = bool(has_box)
    elif periodic and has_box is False:
        raise MindscaipError(
            "periodic is True and the topology has no box; set it with topology.setPeriodicBoxVectors(...) "
            "or give periodic=False"
        )
    if not 0 <= force_group <= 31:
        raise MindscaipError(f"force_group is {force_group}; OpenMM has groups 0 to 31")
    force = build_force(
        as_exported(model),
        numbers,
        atoms,
        periodic=bool(periodic),
        images=images,
        backend=backend,
        device=device,
        stacklevel=3,
    )
    force.setForceGroup(force_group)
    return force


def create_system(
    topology_or_numbers: openmm.app.Topology | Sequence[int] | np.ndarray,
    model: str | os.PathLike | ExportedModel,
    *,
    box: Any = None,
    periodic: bool | None = None,
    **options: Any,
) -> openmm.System:
    """A ``System`` with the model as its only force.

    Masses and box are those of the topology; atomic numbers alone give standard masses and need ``box`` to be periodic.
    Without constraints and without removal of centre-of-mass motion: add OpenMM's own objects for those.

    Args:
        box: lattice vectors as rows in nm, ``[3, 3]``, in OpenMM's reduced form (:func:`openmm_box`); None takes those
            of the topology.
        topology_or_numbers, periodic, options: as in :func:`torch_force`. Outside ``atoms`` particles feel nothing
            until other forces are added to the System.

    Raises:
        MindscaipError: as :func:`torch_force`, or a periodic model without box, or a box that OpenMM refuses.
    """
    numbers, has_box = particles(topology_or_numbers)
    if box is None and has_box:
        topology: Any = topology_or_numbers
        box = topology.getPeriodicBoxVectors()
    if periodic is None:
        periodic = box is not None
    if periodic and box is None:
        raise MindscaipError(
            "periodic is True and there is no box, neither in the topology nor in the argument box; "
            "give box, the lattice vectors in nm, or periodic=False"
        )
    force = torch_force(model, numbers, periodic=periodic, **options)
    mm = import_openmm()
    system = mm.System()
    if has_box is not None:
        for atom in topology_or_numbers.atoms():  # type: ignore[union-attr]
            system.addParticle(atom.element.mass if atom.element is not None else 0.0)
    else:
        for number, mass in zip(numbers, standard_masses(numbers), strict=True):
            system.addParticle(float(mass) if number > 0 else 0.0)
    if box is not None:
        try:
            system.setDefaultPeriodicBoxVectors(*box)
        except Exception as error:  # whatever OpenMM's binding makes of a thing that is no box
            raise MindscaipError(
                f"OpenMM refuses the box ({first_line(error)}); give three vectors in nm in its reduced form, "
                "which mindscaip.engines.openmm.openmm_box makes of any cell"
            ) from None
    system.addForce(force)
    return system


def add_to_system(
    system: openmm.System,
    model: str | os.PathLike | ExportedModel,
    topology_or_numbers: openmm.app.Topology | Sequence[int] | np.ndarray,
    *,
    atoms: Sequence[int] | None = None,
    periodic: bool | None = None,
    **options: Any,
) -> openmm.Force:
    """Add the model to a ``System`` that exists, after checking that the two fit, and return the added force.

    Terms of other forces inside the region are left as they are: removing what the model replaces is the caller's
    (``createMixedSystem`` of openmm-ml does it).

    Args:
        atoms, options: as in :func:`torch_force`.
        periodic: as there, but atomic numbers alone take it from ``system.usesPeriodicBoundaryConditions()``.

    Raises:
        MindscaipError: as :func:`torch_force`; or the numbers of particles differ, or the region has virtual sites or
            constraints.
    """
    numbers, has_box = particles(topology_or_numbers)
    region = region_of(numbers, atoms)
    check_system(system, len(numbers), region)
    if atoms is not None and hasattr(topology_or_numbers, "bonds"):
        warn_of_cut_bonds(topology_or_numbers, region)
    if periodic is None and has_box is None:
        periodic = system.usesPeriodicBoundaryConditions()
    force = torch_force(model, topology_or_numbers, atoms=atoms, periodic=periodic, **options)
    return system.getForce(system.addForce(force))
