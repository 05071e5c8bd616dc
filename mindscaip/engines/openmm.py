"""OpenMM over an exported ``model.pt``: a ``TorchForce`` for a topology, a ``System``, and NVE runs.

OpenMM's units stand at the border (nm, kJ/mol, ps); arguments with other units say so. ``openmm`` and ``openmmtorch``
are imported when a function needs them, so that this module imports without them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.data import chemical_symbols

from mindscaip.contract import ExportedModel, check_elements, warn_of_energy
from mindscaip.data.structure import MAX_ATOMIC_NUMBER, Structure
from mindscaip.engines.batched import as_exported, first_line
from mindscaip.engines.openmm_module import OpenMMPotential
from mindscaip.engines.record import NVERecord, standard_masses
from mindscaip.errors import MindscaipError
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, ANGSTROM_TO_NM, EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM

if TYPE_CHECKING:
    import openmm
    import openmmtorch

OPENMMTORCH_BUILT_FOR = {"1.5": {"torch": "2.9", "openmm": "8.5"}}
"""Releases of openmmtorch on PyPI and the releases of torch and OpenMM whose C++ interfaces each is bound to.

A wrong torch breaks every evaluation. With OpenMM 8.6 openmmtorch 1.5 evaluates, but reading a System from XML crashes
the process: ``SerializationNode::getStringProperty`` returns a string by value there and a reference in 8.5.
"""
WORKING_SET = "'openmm==8.5.2' 'openmmtorch==1.5' 'torch==2.9.1'"
"""What to install together (see ``docs/openmm.md``)."""
FS_PER_PS = 1000.0


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None; nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> str:
    """``"2.9"`` of ``"2.9.1+cu128"``."""
    return ".".join(version.split(".")[:2])


def import_openmm() -> tuple[Any, Any]:
    """Import ``openmm`` and ``openmmtorch``.

    Raises:
        MindscaipError: one is missing, or openmmtorch does not match the installed torch; names what to install.
    """
    try:
        import openmm
    except ImportError as error:
        raise MindscaipError(
            f"OpenMM does not import ({first_line(error)}); install it: pip install {WORKING_SET}"
        ) from None
    version = installed_version("openmmtorch")
    wanted = OPENMMTORCH_BUILT_FOR.get(version or "", {}).get("torch")
    have = release(torch.__version__)
    # A mismatched pair may import and crash only at the first evaluation, so the versions are compared first.
    if wanted is not None and have != wanted:
        raise MindscaipError(
            f"openmmtorch {version} is built for torch {wanted}, and torch {torch.__version__} is installed; "
            f"install the set that belongs together: pip install {WORKING_SET}"
        )
    try:
        with _without_warnings():
            import openmmtorch
    except (ImportError, OSError) as error:
        raise MindscaipError(
            f"openmmtorch {version or '(not installed)'} does not import beside torch {torch.__version__} "
            f"({first_line(error)}); install the set that belongs together: pip install {WORKING_SET}"
        ) from None
    _load_torch_plugins(openmm)
    return openmm, openmmtorch


def _load_torch_plugins(openmm: Any) -> None:
    """Load again the plugins of openmm-torch that did not load at ``import openmm``.

    OpenMM loads its plugins when it is imported. They link torch's libraries, which are found only once torch is
    imported; after ``import openmm`` and then ``import torch`` a Context would lack the kernels of TorchForce.
    """
    for failure in openmm.Platform.getPluginLoadFailures():
        library = re.search(r"(\S*OpenMMTorch\w*\.(?:so|dylib|dll))", failure)
        if library is not None and library.group(1) not in _reloaded:
            _reloaded.add(library.group(1))
            # Those of GPU platforms that this machine does not have fail once more.
            with contextlib.suppress(openmm.OpenMMException):
                openmm.Platform.loadPluginLibrary(library.group(1))


_reloaded: set[str] = set()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep logged warnings back: openmmtorch imports OpenMM by its old name, which logs one at every start."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def torch_force(
    model: str | os.PathLike | ExportedModel,
    topology_or_numbers: openmm.app.Topology | Sequence[int] | np.ndarray,
    *,
    atoms: Sequence[int] | None = None,
    periodic: bool | None = None,
) -> openmmtorch.TorchForce:
    """A ``TorchForce`` that evaluates the model on all particles or on a region of them.

    The force holds everything that it needs (weights, elements, neighbour list): a ``System`` with it serialises to XML
    and runs where mindscaip is not installed. Energies and forces are computed in the model's precision from the
    positions that the platform hands over: float64 on Reference and CPU, float32 on GPU platforms in single precision.

    Args:
        model: path of a ``model.pt`` or a loaded model.
        topology_or_numbers: an ``openmm.app.Topology``, or the atomic number of every particle of the System (0 for
            particles without an element, which must be outside the region).
        atoms: indices (from 0) of the region; None is every particle. The rest feels no force and does not exist for
            the model.
        periodic: whether the neighbour list uses the box; None takes it from the topology (atomic numbers alone: not
            periodic). The box is read at every call, so barostats work, and it may be smaller than the cutoff.

    Raises:
        MindscaipError: an element that is not in the model, an atom that is out of range, repeated or without element,
            ``periodic=True`` for a topology without box, openmm or openmmtorch missing or mismatched, or a file that is
            not a whole ``model.pt``.
    """
    numbers, has_box = _particles(topology_or_numbers)
    if periodic is None:
        periodic = bool(has_box)
    elif periodic and has_box is False:
        raise MindscaipError(
            "periodic is True and the topology has no box; set it with topology.setPeriodicBoxVectors(...) "
            "or give periodic=False"
        )
    return _torch_force(as_exported(model), numbers, atoms, periodic, np.eye(3))


def create_system(
    topology_or_numbers: openmm.app.Topology | Sequence[int] | np.ndarray,
    model: str | os.PathLike | ExportedModel,
    *,
    atoms: Sequence[int] | None = None,
    periodic: bool | None = None,
) -> openmm.System:
    """A ``System`` with the model as its only force.

    Masses and box are those of the topology; atomic numbers alone give standard masses and leave OpenMM's default box.
    Without constraints and without removal of centre-of-mass motion: add OpenMM's own objects for those.

    Args:
        topology_or_numbers, atoms, periodic: as in :func:`torch_force`. Outside ``atoms`` particles feel nothing until
            other forces are added to the System.

    Raises:
        MindscaipError: as :func:`torch_force`.
    """
    force = torch_force(model, topology_or_numbers, atoms=atoms, periodic=periodic)
    mm, _ = import_openmm()
    system = mm.System()
    if hasattr(topology_or_numbers, "getPeriodicBoxVectors"):
        topology: Any = topology_or_numbers
        for atom in topology.atoms():
            system.addParticle(atom.element.mass if atom.element is not None else 0.0)
        box = topology.getPeriodicBoxVectors()
        if box is not None:
            system.setDefaultPeriodicBoxVectors(*box)
    else:
        for number, mass in zip(topology_or_numbers, standard_masses(np.asarray(topology_or_numbers)), strict=True):
            system.addParticle(float(mass) if number > 0 else 0.0)
    system.addForce(force)
    return system


def add_to_system(
    system: openmm.System,
    model: str | os.PathLike | ExportedModel,
    topology_or_numbers: openmm.app.Topology | Sequence[int] | np.ndarray,
    *,
    atoms: Sequence[int] | None = None,
    periodic: bool | None = None,
) -> openmmtorch.TorchForce:
    """Add the model to a ``System`` that exists, after checking that the two fit, and return the added force.

    Terms of other forces inside the region are left as they are: removing what the model replaces is the caller's.

    Args:
        atoms: as in :func:`torch_force`.
        periodic: as there, but atomic numbers alone take it from ``system.usesPeriodicBoundaryConditions()``.

    Raises:
        MindscaipError: as :func:`torch_force`; or the numbers of particles differ, or the region has virtual sites or
            constraints.
    """
    numbers, has_box = _particles(topology_or_numbers)
    if len(numbers) != system.getNumParticles():
        raise MindscaipError(
            f"the System has {system.getNumParticles()} particles and the topology {len(numbers)}; "
            "give the topology that the System was made from"
        )
    region = _region(numbers, atoms)
    members = set(region.tolist())
    virtual = [i for i in sorted(members) if system.isVirtualSite(i)]
    if virtual:
        raise MindscaipError(f"particle {virtual[0]} of the region is a virtual site; leave it out of atoms")
    for c in range(system.getNumConstraints()):
        i, j, _ = system.getConstraintParameters(c)
        if i in members and j in members:
            raise MindscaipError(
                f"particles {i} and {j} of the region are constrained, and the model is for flexible molecules; "
                "create the System with constraints=None and rigidWater=False"
            )
    if periodic is None and has_box is None:
        periodic = system.usesPeriodicBoundaryConditions()
    force = torch_force(model, topology_or_numbers, atoms=atoms, periodic=periodic)
    return system.getForce(system.addForce(force))


def run_nve(
    model: str | os.PathLike | ExportedModel,
    structure: Structure,
    velocities: np.ndarray,
    timestep: float,
    steps: int,
    every: int = 1,
    platform: str = "Reference",
) -> NVERecord:
    """Constant-energy dynamics by velocity Verlet in OpenMM.

    ``v += dt F / 2m``, ``x += dt v``, ``v += dt F / 2m`` as a ``CustomIntegrator`` (OpenMM's own Verlet integrator is
    leapfrog, with velocities half a step behind), so that positions, velocities and energies belong to one instant and
    compare with LAMMPS's ``fix nve`` step by step. Reference and CPU both integrate in double precision: on a
    molecule with a float64 model the two trajectories stay within 1e-12 A of a NumPy velocity Verlet over 200 steps
    (``tests/openmm/test_nve.py`` holds them to that); GPU platforms run in double precision where they have it.

    Args:
        structure: start; either no direction is periodic or all three are. A cell that is not in OpenMM's reduced
            form is turned for OpenMM and turned back for the model, which sees the structure as given.
        velocities: A/fs, ``[N, 3]``.
        timestep: fs.
        steps: number of steps.
        every: steps between recorded frames; the start is always recorded.
        platform: name of an OpenMM platform.

    Raises:
        MindscaipError: as :func:`torch_force`; a shape, step or platform that cannot be; or the run blows up.
    """
    exported = as_exported(model)
    mm, _ = import_openmm()
    velocities = np.asarray(velocities, dtype=np.float64)
    if velocities.shape != structure.positions.shape:
        raise MindscaipError(f"velocities have shape {velocities.shape}, expected {structure.positions.shape}")
    if not np.isfinite(velocities).all():
        raise MindscaipError("velocities hold a value that is not finite; give numbers in A/fs")
    if not (timestep > 0 and steps >= 0 and every >= 1):
        raise MindscaipError(
            f"timestep {timestep}, steps {steps}, every {every}: give timestep > 0, steps >= 0, every >= 1"
        )
    if structure.pbc.any() and not structure.pbc.all():
        raise MindscaipError(f"pbc is {structure.pbc.tolist()}; OpenMM is periodic in all three directions or in none")

    rotation = np.eye(3)
    masses = standard_masses(structure.numbers)
    system = mm.System()
    # nm, ps and amu make kJ/mol only to the digits of the constants (1e-10); with this factor kinetic and potential
    # energies are in one unit to rounding.
    mass_unit = AMU_ANGSTROM2_PER_FS2_TO_EV * EV_TO_KJ_PER_MOL / (ANGSTROM_TO_NM * FS_PER_PS) ** 2
    for mass in masses:
        system.addParticle(float(mass * mass_unit))
    if structure.pbc.all():
        box, rotation = openmm_box(structure.cell)
        system.setDefaultPeriodicBoxVectors(*(mm.Vec3(*row) for row in box * ANGSTROM_TO_NM))
    # ``rotation`` brings the structure into OpenMM's frame; the model gets its vectors back in the frame of the file.
    force = _torch_force(exported, structure.numbers, None, bool(structure.pbc.all()), rotation.T)
    system.addForce(force)

    integrator = mm.CustomIntegrator(timestep / FS_PER_PS)
    integrator.addUpdateContextState()
    integrator.addComputePerDof("v", "v + 0.5*dt*f/m")
    integrator.addComputePerDof("x", "x + dt*v")
    integrator.addComputePerDof("v", "v + 0.5*dt*f/m")

    chosen = find_platform(platform)
    properties = {"Precision": "double"} if "Precision" in chosen.getPropertyNames() else {}
    recorded: list[int] = []
    potential: list[float] = []
    positions: list[np.ndarray] = []
    speeds: list[np.ndarray] = []
    with openmm_errors():
        context = mm.Context(system, integrator, chosen, properties)
        context.setPositions(structure.positions @ rotation * ANGSTROM_TO_NM)
        context.setVelocities(velocities @ rotation * (ANGSTROM_TO_NM * FS_PER_PS))
        done = 0
        while True:
            state = context.getState(getEnergy=True, getPositions=True, getVelocities=True)
            recorded.append(done)
            potential.append(state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL)
            positions.append(state.getPositions(asNumpy=True)._value @ rotation.T * NM_TO_ANGSTROM)
            speeds.append(state.getVelocities(asNumpy=True)._value @ rotation.T * (NM_TO_ANGSTROM / FS_PER_PS))
            if done + every > steps:
                break
            integrator.step(every)
            done += every
    return NVERecord.from_frames(
        engine=f"OpenMM {mm.version.short_version} {platform}",
        step=np.array(recorded),
        timestep_fs=timestep,
        potential_eV=np.array(potential),
        positions=np.array(positions),
        velocities=np.array(speeds),
        masses=masses,
    )


def openmm_box(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn any cell into OpenMM's form.

    Args:
        cell: lattice vectors as rows, ``[3, 3]``.

    Returns:
        ``box`` ``[3, 3]``, lower triangular with positive diagonal and in reduced form, and the proper rotation ``R``
        with ``positions @ R`` in the frame of ``box``: both span the same lattice.
    """
    cell = np.array(cell, dtype=np.float64)
    if np.linalg.det(cell) < 0:
        cell[2] = -cell[2]
    # cell = L Q with Q orthogonal: the QR decomposition of the transpose, signs chosen so that L has a positive
    # diagonal; det(cell) > 0 then makes Q a proper rotation.
    q, r = np.linalg.qr(cell.T)
    signs = np.sign(np.diag(r))
    rotation = q * signs
    box = np.tril((r * signs[:, None]).T)
    if np.array_equal(cell, np.tril(cell)) and (np.diag(cell) > 0).all():
        rotation, box = np.eye(3), cell
    box[2] -= box[1] * np.round(box[2, 1] / box[1, 1])
    box[2] -= box[0] * np.round(box[2, 0] / box[0, 0])
    box[1] -= box[0] * np.round(box[1, 0] / box[0, 0])
    return box, rotation


def find_platform(name: str) -> openmm.Platform:
    """The OpenMM platform ``name``.

    Raises:
        MindscaipError: it is not there; lists those that are.
    """
    mm, _ = import_openmm()
    names = [mm.Platform.getPlatform(i).getName() for i in range(mm.Platform.getNumPlatforms())]
    if name not in names:
        raise MindscaipError(f"OpenMM has no platform {name!r} here; it has {', '.join(names)}")
    return mm.Platform.getPlatformByName(name)


@contextlib.contextmanager
def openmm_errors() -> Iterator[None]:
    """Turn an ``OpenMMException`` of the block into one sentence, without TorchScript's listing around it."""
    mm, _ = import_openmm()
    try:
        yield
    except mm.OpenMMException as error:
        text = first_line(error)
        marker = "mindscaip: "
        if marker in text:
            text = text[text.index(marker) + len(marker) :]
        elif "coordinate is NaN" in text:  # OpenMM's own check comes first on some platforms
            text = "a position is not finite (NaN); the run has blown up"
        else:
            text = f"OpenMM: {text}"
        raise MindscaipError(text) from None


def _particles(topology_or_numbers: Any) -> tuple[np.ndarray, bool | None]:
    """Atomic numbers (0: no element) and whether there is a box (None: atomic numbers do not tell)."""
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


def _region(numbers: np.ndarray, atoms: Sequence[int] | None) -> np.ndarray:
    """Indices of the region, checked."""
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


def _torch_force(
    exported: ExportedModel,
    numbers: np.ndarray,
    atoms: Sequence[int] | None,
    periodic: bool,
    to_model_frame: np.ndarray,
) -> openmmtorch.TorchForce:
    region = _region(numbers, atoms)
    contract = exported.contract
    check_elements(contract, sorted({chemical_symbols[z] for z in numbers[region]}), "the topology")
    warn_of_energy(contract, exported.path, stacklevel=3)
    _, openmm_torch = import_openmm()
    whole = np.array_equal(region, np.arange(len(numbers)))
    wrapper = OpenMMPotential(
        exported.module,
        torch.from_numpy(numbers[region].copy()),
        torch.from_numpy(np.zeros(0, np.int64) if whole else region),
        len(numbers),
        contract.list_cutoff,
        contract.conservative,
        NM_TO_ANGSTROM,
        EV_TO_KJ_PER_MOL,
        torch.from_numpy(np.array(to_model_frame, dtype=np.float64)),
        contract.to_text(),
    )
    force = openmm_torch.TorchForce(torch.jit.script(wrapper.eval()))
    force.setName("mindscaip")
    force.setOutputsForces(True)
    force.setUsesPeriodicBoundaryConditions(bool(periodic))
    return force
