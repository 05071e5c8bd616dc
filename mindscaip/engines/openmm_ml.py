"""The factory that openmm-ml finds: ``MLPotential('mindscaip', modelPath='model.pt')``.

``openmmml`` loads this module when it is imported itself (entry-point group ``openmmml.potentials``), so nothing heavy
is imported here: torch and the model wait until a System is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

# Not ``openmmml``: that package is in the middle of its own import when it loads this module.
from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

from mindscaip.errors import MindscaipError, did_you_mean

if TYPE_CHECKING:
    import openmm

OPTIONS = ("backend", "periodic", "images", "device")
"""Options of ``createSystem`` and ``createMixedSystem`` that are this potential's."""
EMBEDDING_OPTIONS = ("mlLongRange", "linkAtomDistances")
"""Options of openmm-ml's embeddings (from 1.8 on), which it hands to every potential too."""


class MindscaipPotentialImplFactory(MLPotentialImplFactory):
    """Makes the implementation for one file."""

    def createImpl(
        self, name: str, modelPath: str | os.PathLike | None = None, **unknown: Any
    ) -> MindscaipPotentialImpl:
        """The implementation for ``modelPath``, which is read when a System is made.

        Raises:
            MindscaipError: no ``modelPath``, no such file, or an option that is not known.
        """
        for option in unknown:
            raise MindscaipError(
                f"{name!r} has no option {option!r}{did_you_mean(option, ['modelPath'])}; known: modelPath"
            )
        if modelPath is None:
            raise MindscaipError(f"which model? give MLPotential({name!r}, modelPath='model.pt')")
        if not os.path.isfile(modelPath):
            raise MindscaipError(f"{modelPath}: no such file; give the model.pt that 'mindscaip export' wrote")
        return MindscaipPotentialImpl(modelPath)


class MindscaipPotentialImpl(MLPotentialImpl):
    """One ``model.pt`` as a potential of openmm-ml.

    Options of ``createSystem`` and ``createMixedSystem``:

    ``backend``, ``device``
        as in :func:`mindscaip.engines.openmm.torch_force`.
    ``periodic``
        whether the model uses the box; by default where the topology has one.
    ``images``
        as there. By default the region of a mixed system sees the ``nearest`` image of each of its pairs, because all
        others are in the lattice sums of the classical forces, and ``none`` with ``interpolate=True``, whose classical
        terms do not see the box.

    A mixed system without interpolation gets ``NonbondedForce.setExceptionsUsePeriodicBoundaryConditions(True)``: what
    the classical forces leave out inside the region is then the nearest image of each pair too, and the region may
    stand across a boundary of the box.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path

    def addForces(
        self,
        topology: openmm.app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        **args: Any,
    ) -> None:
        """Add the force for ``atoms`` (None: all) to ``system``; see the class for ``args``.

        Raises:
            MindscaipError: as :func:`mindscaip.engines.openmm.add_to_system`, or an option that is not known.
        """
        from mindscaip.engines import openmm as engine
        from mindscaip.engines.openmm_particles import check_system, particles, region_of, warn_of_cut_bonds

        for option in args:
            if option not in OPTIONS + EMBEDDING_OPTIONS:
                raise MindscaipError(
                    f"mindscaip has no option {option!r}{did_you_mean(option, OPTIONS)}; known: {', '.join(OPTIONS)}"
                )
        indices = None if atoms is None else [int(i) for i in atoms]
        numbers, has_box = particles(topology)
        region = region_of(numbers, indices)
        # With interpolate=True the force is made in a System without particles and moved into a CustomCVForce.
        interpolate = system.getNumParticles() == 0
        if not interpolate:
            # A virtual site that has an element is a link atom of openmm-ml; others have none and are refused above.
            check_system(system, len(numbers), region, virtual_sites=True)
        if indices is not None:
            warn_of_cut_bonds(topology, region, stacklevel=4)
        periodic = args.get("periodic")
        if periodic is None:
            periodic = bool(has_box)
        images = "all" if indices is None else "none" if interpolate else "nearest"
        if images == "nearest" and periodic:
            _exclude_nearest_images(system)
        force = engine.torch_force(
            self.path,
            topology,
            atoms=indices,
            periodic=periodic,
            images=args.get("images", images),
            force_group=forceGroup,
            backend=args.get("backend", "auto"),
            device=args.get("device"),
        )
        system.addForce(force)

    def getMLLongRange(self) -> bool:
        """The model is local: it has a cutoff."""
        return False


def _exclude_nearest_images(system: openmm.System) -> None:
    """Let the exceptions of periodic classical forces count from the nearest image.

    OpenMM takes distances of excluded pairs as the coordinates stand. Where the region stands across a boundary of the
    box, the lattice sum would lose an image that it never had.
    """
    for force in system.getForces():
        if type(force).__name__ == "NonbondedForce" and force.usesPeriodicBoundaryConditions():
            force.setExceptionsUsePeriodicBoundaryConditions(True)
