"""Constant-energy dynamics in OpenMM, comparable step by step with the other engines."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from mindscaip.contract import ExportedModel
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import as_exported
from mindscaip.engines.openmm_force import build_force
from mindscaip.engines.openmm_install import find_platform, import_openmm, openmm_errors
from mindscaip.engines.openmm_precision import precision_of
from mindscaip.engines.record import NVERecord, check_dynamics, standard_masses
from mindscaip.errors import MindscaipError
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, ANGSTROM_TO_NM, EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM

FS_PER_PS = 1000.0


def run_nve(
    model: str | os.PathLike | ExportedModel,
    structure: Structure,
    velocities: np.ndarray,
    timestep: float,
    steps: int,
    every: int = 1,
    platform: str = "Reference",
    backend: str = "auto",
    *,
    progress: Callable[[int, int], None] | None = None,
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
        backend: as in :func:`mindscaip.engines.openmm.torch_force`.
        progress: called with the step reached and ``steps`` at each recorded frame.

    Returns:
        the record; its ``engine`` names platform and precision.

    Raises:
        MindscaipError: as :func:`mindscaip.engines.openmm.torch_force`; a shape, step or platform that cannot be; or
            the run blows up.
    """
    exported = as_exported(model)
    mm = import_openmm()
    velocities = check_dynamics(structure, velocities, timestep, steps, every)
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
    force = build_force(
        exported,
        structure.numbers,
        periodic=bool(structure.pbc.all()),
        to_model_frame=rotation.T,
        backend=backend,
        stacklevel=3,
    )
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
        precision = precision_of(context, force, exported)
        done = 0
        while True:
            state = context.getState(getEnergy=True, getPositions=True, getVelocities=True)
            recorded.append(done)
            potential.append(state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL)
            positions.append(state.getPositions(asNumpy=True)._value @ rotation.T * NM_TO_ANGSTROM)
            speeds.append(state.getVelocities(asNumpy=True)._value @ rotation.T * (NM_TO_ANGSTROM / FS_PER_PS))
            if progress is not None:
                progress(done, steps)
            if done + every > steps:
                break
            integrator.step(every)
            done += every
    return NVERecord.from_frames(
        engine=f"OpenMM {mm.version.short_version} {precision}",
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
