"""The files of a LAMMPS run: data files, logs and dumps, with the units and the boxes that they are written in."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mindscaip.data.structure import Structure
from mindscaip.engines.record import standard_masses
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.units import KCAL_PER_MOL_TO_EV

if TYPE_CHECKING:
    from MDAnalysis import Universe

INPUT_FILE = "in.lammps"
DATA_FILE = "structure.data"
LOG_FILE = "log.lammps"
DUMP_FILE = "atoms.dump"


@dataclass(frozen=True)
class UnitStyle:
    """What a LAMMPS unit style (``units metal``, ``units real``) means in internal units.

    Attributes:
        energy_eV: its energy unit in eV; its forces are that per A.
        time_fs: its time unit in fs; its velocities are A per that.
    """

    energy_eV: float
    time_fs: float


UNIT_STYLES = {
    "metal": UnitStyle(energy_eV=1.0, time_fs=1000.0),
    "real": UnitStyle(energy_eV=KCAL_PER_MOL_TO_EV, time_fs=1.0),
}


def write_data(
    path: str | os.PathLike, structure: Structure, velocities: np.ndarray | None = None, units: str = "metal"
) -> list[str]:
    """Write a LAMMPS data file (``atom_style atomic``) and return the element of each atom type.

    Types are the elements of the structure in the order of their atomic numbers. A cell that is not in LAMMPS's own
    form (``a`` along x, ``b`` in the xy plane) is written as a general triclinic box, so that the model sees the
    structure as it is. Directions that are not periodic get bounds 1 A outside the atoms, for ``boundary m``: with
    ``boundary s`` the box of a planar molecule would have no thickness, and LAMMPS cannot make bins of that.

    Args:
        path: file to write.
        structure: what to write.
        velocities: ``[N, 3]`` in the velocity unit of ``units``, or None for none.
        units: LAMMPS unit style, for the comment in the first line; lengths are A in both.
    """
    elements = sorted(set(structure.numbers.tolist()))
    type_of = {number: k + 1 for k, number in enumerate(elements)}
    masses = standard_masses(np.array(elements, dtype=np.int64))
    formula = " ".join(chemical_symbols[number] for number in elements)
    lines = [
        f"LAMMPS data file by mindscaip, units {units}, types: {formula}",
        "",
        f"{len(structure)} atoms",
        f"{len(elements)} atom types",
        "",
        *box_of(structure).lines(),
        "",
        "Masses",
        "",
        *(f"{k + 1} {float(masses[k])!r}  # {chemical_symbols[z]}" for k, z in enumerate(elements)),
        "",
        "Atoms  # atomic",
        "",
        *(
            f"{k + 1} {type_of[z]} {_floats(r)}"
            for k, (z, r) in enumerate(zip(structure.numbers.tolist(), structure.positions, strict=True))
        ),
    ]
    if velocities is not None:
        lines += ["", "Velocities", "", *(f"{k + 1} {_floats(v)}" for k, v in enumerate(velocities))]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    return [chemical_symbols[number] for number in elements]


def read_thermo(log: str | os.PathLike) -> dict[str, np.ndarray]:
    """The thermodynamic output of the last run in a LAMMPS log file: column name to float64 ``[rows]``.

    Raises:
        MindscaipError: the log holds no thermodynamic output.
    """
    names: list[str] = []
    rows: list[list[float]] = []
    reading = False
    for line in Path(log).read_text(errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            names, rows, reading = words, [], True
        elif line.startswith("Loop time"):
            reading = False
        elif reading and len(words) == len(names):
            try:
                rows.append([float(word) for word in words])
            except ValueError:
                continue  # a warning between two rows
    if not rows:
        raise MindscaipError(f"{log} holds no thermodynamic output; the run did not start")
    columns = np.array(rows, dtype=np.float64).T
    return dict(zip(names, columns, strict=True))


def read_dump(dump: str | os.PathLike, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a ``dump custom id ...`` file sorted by id: steps int64 ``[T]`` and values float64 ``[T, N, columns]``.

    Raises:
        MindscaipError: the file is not such a dump, or it is cut off.
    """
    lines = Path(dump).read_text().splitlines()
    steps: list[int] = []
    frames: list[np.ndarray] = []
    try:
        k = 0
        while k < len(lines):
            steps.append(int(lines[k + 1]))
            n = int(lines[k + 3])
            rows = lines[k + 9 : k + 9 + n]
            values = np.array(" ".join(rows).split(), dtype=np.float64).reshape(n, num_columns + 1)
            if not (values[:, 0] == np.arange(1, n + 1)).all():
                raise MindscaipError(f"{dump}: atoms are missing from the frame of step {steps[-1]}")
            frames.append(values[:, 1:])
            k += 9 + n
    except (IndexError, ValueError):
        raise MindscaipError(
            f"{dump} is not a whole LAMMPS dump with {num_columns} columns; run LAMMPS again"
        ) from None
    return np.array(steps, dtype=np.int64), np.array(frames).reshape(len(steps), -1, num_columns)


def read_frames(work: str | os.PathLike) -> list[Atoms]:
    """The trajectory that ``run_nve`` left in its work folder, as ASE Atoms with cell and velocities.

    Positions are not wrapped into the cell.

    Raises:
        MindscaipError: the folder holds no such run.
    """
    from ase.io import read

    dump, elements, units = _kept_run(work)
    frames = read(dump, index=":", format="lammps-dump-text", specorder=elements, units=units)
    return frames if isinstance(frames, list) else [frames]


def open_universe(work: str | os.PathLike) -> Universe:
    """The trajectory that ``run_nve`` left in its work folder, as an MDAnalysis Universe.

    Names are elements, and times are in ps. Velocities stay in the unit of the run.

    Raises:
        MindscaipError: the folder holds no such run, or MDAnalysis is not installed.
    """
    try:
        import MDAnalysis
    except ImportError:
        raise MindscaipError("MDAnalysis is not installed; run: pip install MDAnalysis") from None

    dump, elements, units = _kept_run(work)
    timestep = re.search(r"^timestep\s+(\S+)", (Path(work) / INPUT_FILE).read_text(), re.MULTILINE)
    step_ps = (
        float(timestep.group(1)) * UNIT_STYLES[units].time_fs / UNIT_STYLES["metal"].time_fs
        if timestep is not None
        else 1.0
    )
    universe = MDAnalysis.Universe(
        str(Path(work) / DATA_FILE),
        str(dump),
        topology_format="DATA",
        format="LAMMPSDUMP",
        atom_style="id type x y z",
        lammps_coordinate_convention="unwrapped",
        dt=step_ps,  # the reader multiplies it with the step of each frame
    )
    names = [elements[int(kind) - 1] for kind in universe.atoms.types]
    universe.add_TopologyAttr("names", names)
    universe.add_TopologyAttr("elements", names)
    return universe


def _kept_run(work: str | os.PathLike) -> tuple[Path, list[str], str]:
    """Dump, element of each atom type and unit style of a work folder."""
    folder = Path(work)
    missing = [name for name in (INPUT_FILE, DATA_FILE, DUMP_FILE) if not (folder / name).is_file()]
    if missing:
        raise MindscaipError(f"{folder} holds no {missing[0]}; give the work folder of a run")
    script = (folder / INPUT_FILE).read_text()
    elements = re.search(r"^pair_coeff\s+\* \* ([^#\n]*)", script, re.MULTILINE)
    units = re.search(r"^units\s+(\w+)", script, re.MULTILINE)
    if elements is None or units is None:
        raise MindscaipError(
            f"{folder / INPUT_FILE} names no units or no pair_coeff * *; give the work folder of a run"
        )
    return folder / DUMP_FILE, elements.group(1).split(), units.group(1)


@dataclass(frozen=True)
class Box:
    """Lattice vectors (rows of ``cell``), origin, and which of the vectors are periodic."""

    cell: np.ndarray
    origin: np.ndarray
    pbc: np.ndarray

    @property
    def is_restricted(self) -> bool:
        """In LAMMPS's own form: ``a`` along x, ``b`` in the xy plane, right-handed."""
        return bool((np.triu(self.cell, 1) == 0.0).all() and (np.diag(self.cell) > 0.0).all())

    @property
    def is_tilted(self) -> bool:
        return bool((self.cell != np.diag(np.diag(self.cell))).any())

    def lines(self) -> list[str]:
        """Header lines of a data file."""
        if not self.is_restricted:
            return [
                *(f"{_floats(row)} {name}" for row, name in zip(self.cell, ("avec", "bvec", "cvec"), strict=True)),
                f"{_floats(self.origin)} abc origin",
            ]
        low, cell = self.origin, self.cell
        lines = [f"{_floats((low[k], low[k] + cell[k, k]))} {name}lo {name}hi" for k, name in enumerate("xyz")]
        return lines + ([f"{_floats((cell[1, 0], cell[2, 0], cell[2, 1]))} xy xz yz"] if self.is_tilted else [])


def box_of(structure: Structure) -> Box:
    """The LAMMPS box of a structure; an open direction becomes perpendicular to the periodic ones."""
    pbc = structure.pbc
    cell = structure.cell.copy()
    origin = np.zeros(3)
    if not pbc.any():
        cell = np.eye(3)
    elif not pbc.all():
        cell[~pbc] = 0.0
        cell = Structure(structure.numbers, structure.positions, cell, pbc).full_cell()
    for k in np.flatnonzero(~pbc):
        direction = cell[k] / np.linalg.norm(cell[k])
        heights = structure.positions @ direction
        origin += (heights.min() - 1.0) * direction
        cell[k] = (np.ptp(heights) + 2.0) * direction
    # The same lattice in a right-handed set, which is what LAMMPS can describe.
    if np.linalg.det(cell) < 0.0:
        cell[np.flatnonzero(pbc)[-1]] *= -1.0
    box = Box(cell, origin, pbc)
    if box.is_restricted:
        return box
    # LAMMPS finds its rotation from arc cosines, which lose half of the digits for a cell that is almost in its own
    # form. Another order of the same vectors has larger angles.
    orders = [np.roll(np.arange(3), shift) for shift in range(3)]
    best = max(orders, key=lambda order: _smallest_sine(cell[order]))
    return Box(cell[best], origin, pbc[best])


def _smallest_sine(cell: np.ndarray) -> float:
    """Smallest sine, zeros left out, of the two angles by which LAMMPS turns a cell: ``a`` to x, then ``b`` to xy."""
    a = cell[0] / np.linalg.norm(cell[0])
    first = float(np.hypot(a[1], a[2]))
    axis = np.array([0.0, a[2], -a[1]]) / first if first > 0.0 else np.array([1.0, 0.0, 0.0])
    b = cell[1]
    turned = b * a[0] + np.cross(axis, b) * first + axis * (axis @ b) * (1.0 - a[0])  # Rodrigues
    second = float(abs(turned[2]) / np.hypot(turned[1], turned[2]))
    return min((sine for sine in (first, second) if sine > 0.0), default=1.0)


def _floats(values: np.ndarray | tuple[float, ...]) -> str:
    """Decimal text from which the same float64 is read."""
    return " ".join(repr(float(value)) for value in values)
