"""Records as files that other programs read."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from mindscaip.data.structure import Structure
from mindscaip.engines.record import NVERecord
from mindscaip.files import atomic_path
from mindscaip.units import ANGSTROM_PER_FS_TO_ASE_VELOCITY


def write_record(folder: Path, structure: Structure, record: NVERecord) -> None:
    """Write the record into ``folder`` in three forms.

    ``nve.csv``
        step, fs, eV, eV, eV, K
    ``trajectory.xyz``
        extended xyz with momenta and energies, for other programs (positions to 1e-8 A)
    ``record.npz``
        everything, at full precision, for :func:`mindscaip.studies.read.read_record`
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "nve.csv") as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "time_fs", "potential_eV", "kinetic_eV", "total_eV", "temperature_K"])
        for row in zip(
            record.step.tolist(),
            record.time_fs.tolist(),
            record.potential_eV.tolist(),
            record.kinetic_eV.tolist(),
            record.total_eV.tolist(),
            record.temperature.tolist(),
            strict=True,
        ):
            rows.writerow(row)
    frames = []
    for positions, velocities, energy in zip(record.positions, record.velocities, record.potential_eV, strict=True):
        atoms = Atoms(numbers=structure.numbers, positions=positions, cell=structure.cell, pbc=structure.pbc)
        atoms.set_velocities(velocities * ANGSTROM_PER_FS_TO_ASE_VELOCITY)
        atoms.info["engine"] = record.engine
        atoms.calc = SinglePointCalculator(atoms, energy=float(energy))
        frames.append(atoms)
    with atomic_path(folder / "trajectory.xyz") as temporary:
        write(temporary, frames, format="extxyz")
    with atomic_path(folder / "record.npz") as temporary:
        np.savez_compressed(temporary, **asdict(record))
