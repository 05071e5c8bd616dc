"""Which particles of an OpenMM System are the model's: elements, regions, and what a region must not contain."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mindscaip.data.structure import MAX_ATOMIC_NUMBER
from mindscaip.errors import MindscaipError

if TYPE_CHECKING:
    import openmm


class RegionWarning(UserWarning):
    """The region of the model cuts a molecule."""


def particles(topology_or_numbers: Any) -> tuple[np.ndarray, bool | None]:
    """Atomic numbers int64 ``[N]`` (0: no element) and whether there is a box (None: atomic numbers do not tell).

    Raises:
        MindscaipError: neither a topology nor atomic numbers.
    """
    if hasattr(topology_or_numbers, "getPeriodicBoxVectors"):
        elements = [atom.element for atom in topology_or_numbers.atoms()]
        numbers = np.array([0 if element is None else element.atomic_number for element in elements], dtype=np.int64)
        return numbers, topology_or_numbers.getPeriodicBoxVectors() is not None
    try:
        numbers = np.asarray(topology_or_numbers)
        valid = numbers.ndim == 1 and (numbers.size == 0 or np.issubdtype(numbers.dtype, np.integer))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise MindscaipError(
            f"a {type(topology_or_numbers).__name__} is neither a Topology nor a list of atomic numbers; "
            "give openmm.app.Topology or integers such as [8, 1, 1]"
        )
    wrong = numbers[(numbers < 0) | (numbers > MAX_ATOMIC_NUMBER)]
    if wrong.size:
        raise MindscaipError(f"atomic number {wrong[0]} is not an element (1 to {MAX_ATOMIC_NUMBER}, 0 for none)")
    return numbers.astype(np.int64), None


def region_of(numbers: np.ndarray, atoms: Sequence[int] | None) -> np.ndarray:
    """Indices of the region, int64 ``[M]``, checked; every particle for None.

    Raises:
        MindscaipError: an index that is out of range or repeated, a particle without element, or no particle at all.
    """
    if atoms is None:
        region = np.arange(len(numbers))
    else:
        region = np.asarray(atoms)
        if region.ndim != 1 or region.size == 0 or not np.issubdtype(region.dtype, np.integer):
            raise MindscaipError(f"atoms is {atoms!r}; give a list of particle indices, such as [0, 1, 2]")
        outside = region[(region < 0) | (region >= len(numbers))]
        if outside.size:
            raise MindscaipError(
                f"atom {outside[0]} is out of range: there are {len(numbers)} particles, counted from 0"
            )
        values, counts = np.unique(region, return_counts=True)
        if (counts > 1).any():
            raise MindscaipError(f"atom {values[counts > 1][0]} is in atoms more than once; name it once")
    bare = region[numbers[region] == 0]
    if bare.size:
        raise MindscaipError(
            f"particle {bare[0]} of the region has no element (a virtual site or extra particle); leave it out of atoms"
        )
    if region.size == 0:
        raise MindscaipError("there are no particles; give a topology with atoms")
    return region.astype(np.int64)


def check_system(system: openmm.System, num_particles: int, region: np.ndarray, *, virtual_sites: bool = False) -> None:
    """Refuse a System that does not fit, or whose region the model cannot describe.

    Args:
        virtual_sites: whether virtual sites that have an element may be in the region.

    Raises:
        MindscaipError: the numbers of particles differ, or the region has a virtual site or a constraint.
    """
    if num_particles != system.getNumParticles():
        raise MindscaipError(
            f"the System has {system.getNumParticles()} particles and the topology {num_particles}; "
            "give the topology that the System was made from"
        )
    members = set(region.tolist())
    virtual = [i for i in sorted(members) if system.isVirtualSite(i)]
    if virtual and not virtual_sites:
        raise MindscaipError(f"particle {virtual[0]} of the region is a virtual site; leave it out of atoms")
    for c in range(system.getNumConstraints()):
        i, j, _ = system.getConstraintParameters(c)
        if i in members and j in members:
            raise MindscaipError(
                f"particles {i} and {j} of the region are constrained, and the model is for flexible molecules; "
                "create the System with constraints=None and rigidWater=False"
            )


def warn_of_cut_bonds(topology: openmm.app.Topology, region: np.ndarray, stacklevel: int = 2) -> None:
    """Warn where a bond of the topology has one end in the region: the model sees a dangling end there."""
    members = set(region.tolist())
    cut = [
        (bond[0].index, bond[1].index)
        for bond in topology.bonds()
        if (bond[0].index in members) != (bond[1].index in members)
    ]
    if cut:
        more = f" and {len(cut) - 1} more" if len(cut) > 1 else ""
        warnings.warn(
            f"the region cuts the bond between atoms {cut[0][0]} and {cut[0][1]}{more}: the model sees a dangling end "
            "there; take whole molecules into atoms",
            RegionWarning,
            stacklevel=stacklevel + 1,
        )
