"""Make training data: molecules, a reference calculator, and short molecular dynamics so that not all is a minimum.

Every trajectory is cut into blocks of a few frames. A block ends with its frames and the state of the dynamics
(positions, velocities, random numbers) in one file that is whole or absent, and the next block starts from that file
with a calculator that has forgotten its history. So a killed run goes on after its last block and gives the same frames
as one that was not killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mindscaip.data.calculators import isolated_energies, resolve_calculator
from mindscaip.data.formats import STORE_SUFFIXES, XYZ_SUFFIXES, read_structures
from mindscaip.data.molecules import embed_smiles, molecule_from_smiles
from mindscaip.data.point import CalculationError
from mindscaip.data.sampling import Langevin, Sampling, forget_history
from mindscaip.data.store import Store, StoreWriter
from mindscaip.data.structure import Structure
from mindscaip.data.workers import available_cores, worker_pool
from mindscaip.errors import MindscaipError
from mindscaip.packages import installed_version

BLOCK_FRAMES = 10
"""Frames between two states on disk: what a kill can cost."""
RELAX_FMAX = 0.05
"""eV/A; the relaxation only removes the strain of the force field's geometry."""


@dataclass(frozen=True)
class Molecule:
    """Where trajectories start: a SMILES, or a structure.

    Attributes:
        name: for the report; also the ``group`` of its frames (canonical SMILES, or the stem of the file).
        smiles: canonical SMILES, or None.
        structure: the geometry where there is no SMILES.
        symbols: the elements.
        num_atoms: hydrogens included.
    """

    name: str
    smiles: str | None = None
    structure: Structure | None = None
    symbols: tuple[str, ...] = ()
    num_atoms: int = 0

    def start(self, seed: int) -> Structure:
        """A starting geometry; from SMILES another conformer for each seed."""
        if self.structure is not None:
            return self.structure
        assert self.smiles is not None
        return embed_smiles(self.smiles, seed=seed)

    def identity(self) -> str:
        """A name that changes whenever the start does."""
        if self.structure is None:
            return f"{self.name}"
        digest = hashlib.sha256()
        for array in (self.structure.numbers, self.structure.positions, self.structure.cell, self.structure.pbc):
            digest.update(np.ascontiguousarray(array).tobytes())
        return f"{self.name} {digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class Task:
    """One trajectory, numbered over all molecules."""

    number: int
    molecule: Molecule
    molecule_index: int
    trajectory: int
    frames: int
    calculator: str
    sampling: Sampling


@dataclass
class LabelSummary:
    """What came out of :func:`label`.

    Attributes:
        path: the store.
        frames: frames in the store.
        molecules: molecules with at least one frame.
        elements: symbols.
        energy_per_atom: lowest and highest energy per atom in eV, relative to isolated atoms where these are known.
        force_rms: of all components, eV/A.
        force_max: largest component, eV/A.
        seconds: wall time of this run.
        failures: name of the molecule, trajectory and reason, for each trajectory that ended early.
        isolated: isolated-atom energies in eV by symbol, or why there are none.
    """

    path: str
    frames: int
    molecules: int
    elements: list[str]
    energy_per_atom: tuple[float, float]
    force_rms: float
    force_max: float
    seconds: float
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    isolated: dict[str, float] | str = ""


def read_molecules(inputs: Sequence[str]) -> list[Molecule]:
    """Return the molecules named by ``inputs``: SMILES, ``.smi`` files (one SMILES per line), structure files.

    A molecule that comes twice is taken once.

    Raises:
        MindscaipError: neither a file nor a SMILES; an unreadable file; a charged or open-shell SMILES.
    """
    found: dict[str, Molecule] = {}
    for text in inputs:
        path = Path(text)
        if path.is_file():
            molecules = _from_smi(path) if path.suffix.lower() == ".smi" else _from_file(path)
        elif path.is_dir():
            raise MindscaipError(f"{text} is a folder; name the structure files in it")
        else:
            molecules = [_from_smiles(text)]
        for molecule in molecules:
            found.setdefault(molecule.identity(), molecule)
    if not found:
        raise MindscaipError("there is no molecule to label; give a SMILES such as 'CCO' or a structure file")
    return list(found.values())


def _from_smiles(smiles: str, where: str = "") -> Molecule:
    try:
        parsed = molecule_from_smiles(smiles)
    except MindscaipError as error:
        looks_like_file = not where and Path(smiles).suffix.lower() in (*XYZ_SUFFIXES, *STORE_SUFFIXES, ".smi", ".pdb")
        message = f"{smiles} does not exist" if looks_like_file else str(error)
        raise MindscaipError(f"{where}{message}") from None
    from rdkit import Chem

    symbols = tuple(sorted({atom.GetSymbol() for atom in parsed.GetAtoms()}))
    canonical = Chem.MolToSmiles(Chem.RemoveHs(parsed))
    return Molecule(name=canonical, smiles=canonical, symbols=symbols, num_atoms=parsed.GetNumAtoms())


def _from_smi(path: Path) -> list[Molecule]:
    molecules = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = line.split()
        if words and not line.startswith("#"):
            molecules.append(_from_smiles(words[0], where=f"line {number} of {path}: "))
    if not molecules:
        raise MindscaipError(f"{path} holds no SMILES; it should have one per line")
    return molecules


def _from_file(path: Path) -> list[Molecule]:
    if path.suffix.lower() in XYZ_SUFFIXES + STORE_SUFFIXES:
        structures = list(read_structures(path, labels="ignored"))
    else:
        import ase.io

        try:
            images = ase.io.read(path, index=":")
        except Exception as error:
            raise MindscaipError(f"{path} cannot be read as a structure file: {error}") from error
        structures = [Structure(a.numbers, a.positions, np.asarray(a.cell), a.pbc) for a in images if len(a) > 0]
        if not structures:
            raise MindscaipError(f"{path} cannot be read as a structure file: there are no atoms in it")
    # Conformers of one molecule share their group; what differs in composition does not.
    formulas = [Atoms(numbers=structure.numbers).get_chemical_formula() for structure in structures]
    several = len(set(formulas)) > 1
    return [
        Molecule(
            name=f"{path.stem}/{formula}" if several else path.stem,
            structure=structure,
            symbols=tuple(sorted(set(structure.symbols))),
            num_atoms=len(structure),
        )
        for structure, formula in zip(structures, formulas, strict=True)
    ]


def label(
    molecules: Sequence[Molecule],
    output: str | Path,
    *,
    calculator: str = "gfn2-xtb",
    sampling: Sampling | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> LabelSummary:
    """Sample ``molecules`` with ``calculator`` and write the labelled frames into the store ``output``.

    What is finished is kept in ``<output>.work``; the same call goes on from there. The frames do not depend on
    ``workers`` nor on interruptions.

    Args:
        molecules: from :func:`read_molecules`.
        output: the store (``.h5``).
        calculator: see :func:`mindscaip.data.calculators.resolve_calculator`.
        sampling: see :class:`Sampling`.
        workers: processes, one thread each; as many as there are cores by default.
        overwrite: replace an existing ``output``.
        progress: called now and then with the frames done and the frames in all.

    Raises:
        MindscaipError: see :class:`~mindscaip.data.store.StoreWriter`; no trajectory gave a frame; a worker died.
        KeyboardInterrupt: after the workers are stopped; the work folder stays.
    """
    started = time.monotonic()
    sampling = sampling or Sampling()
    if workers is not None and workers < 1:
        raise MindscaipError(f"workers is {workers}; it must be at least 1")
    resolve_calculator(calculator)
    tasks = _tasks(molecules, calculator, sampling)
    settings = {
        "calculator": calculator,
        **asdict(sampling),
        "block_frames": BLOCK_FRAMES,
        "molecules": [molecule.identity() for molecule in molecules],
    }
    with StoreWriter(output, settings, overwrite=overwrite) as writer:
        isolated = _run(tasks, writer.folder, calculator, workers or available_cores(), progress)
        failures, statistics = _gather(tasks, writer)
        if statistics["frames"] == 0:
            name, _, reason = failures[0]
            writer.discard()
            raise MindscaipError(f"no trajectory gave a frame; the first failure was {name}: {reason}")
        provenance = {
            **settings,
            "failures": failures,
            "versions": _versions(),
            "isolated_energies_missing": isolated if isinstance(isolated, str) else None,
        }
        writer.finish(isolated if isinstance(isolated, dict) else None, provenance)
    return _summary(Path(output), failures, isolated, time.monotonic() - started)


def _tasks(molecules: Sequence[Molecule], calculator: str, sampling: Sampling) -> list[Task]:
    tasks: list[Task] = []
    for index, molecule in enumerate(molecules):
        each, extra = divmod(sampling.frames, sampling.trajectories)
        for k in range(min(sampling.trajectories, sampling.frames)):
            tasks.append(Task(len(tasks), molecule, index, k, each + (k < extra), calculator, sampling))
    return tasks


def _run(
    tasks: Sequence[Task],
    folder: Path,
    calculator: str,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, float] | str:
    """Run what is left of the tasks in worker processes; return isolated-atom energies, or why there are none."""
    isolated_file = folder / "isolated.json"
    symbols = sorted({symbol for task in tasks for symbol in task.molecule.symbols})
    total = sum(task.frames for task in tasks)
    # Longest first, so that no worker is left alone with a long one at the end.
    order = sorted(tasks, key=lambda task: -task.frames * task.molecule.num_atoms**2)
    with worker_pool(min(workers, len(tasks))) as pool:
        pending = [pool.submit(_isolated_task, calculator, symbols, isolated_file)]
        pending += [pool.submit(run_trajectory, task, folder) for task in order]
        while pending:
            waiting = []
            for future in pending:
                if future.done():
                    future.result()
                else:
                    waiting.append(future)
            pending = waiting
            if progress is not None:
                progress(_frames_done(tasks, folder), total)
            if pending:
                time.sleep(0.2)
    return json.loads(isolated_file.read_text())


def _isolated_task(calculator: str, symbols: Sequence[str], file: Path) -> None:
    from mindscaip.files import atomic_path

    if file.exists():
        return
    try:
        result: dict[str, float] | str = isolated_energies(calculator, symbols)
    except CalculationError as error:
        result = str(error)
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(result))


def _frames_done(tasks: Sequence[Task], folder: Path) -> int:
    blocks = Counter(name[:11] for name in os.listdir(folder) if name.startswith("task-"))
    return sum(min(task.frames, BLOCK_FRAMES * blocks[f"task-{task.number:06d}"]) for task in tasks)


def run_trajectory(task: Task, folder: Path) -> None:
    """Run or go on with one trajectory, block by block; a failure is put on record in its last block.

    Args:
        task: what to run.
        folder: the work folder.
    """
    part = StoreWriter.count_parts(folder, task.number)
    state = _read_state(folder, task.number, part - 1) if part > 0 else None
    calculator: BaseCalculator | None = None
    while state is None or (state["failed"] is None and state["frames"] < task.frames):
        if calculator is None:
            calculator = resolve_calculator(task.calculator)()
        frames, state = _run_block(task, state, calculator)
        StoreWriter.write_part(folder, task.number, part, frames, {"state": state})
        part += 1


def _read_state(folder: Path, task: int, part: int) -> dict[str, Any]:
    with Store(StoreWriter.part_path(folder, task, part)) as store:
        return store.provenance["state"]


def _run_block(
    task: Task, state: dict[str, Any] | None, calculator: BaseCalculator
) -> tuple[list[Structure], dict[str, Any]]:
    """Return the frames of the next block and the state after it; ``state`` is None before the first one."""
    frames: list[Structure] = []
    before = 0 if state is None else state["frames"]
    failed = None
    dynamics: Langevin | None = None
    try:
        if state is None:
            dynamics = _start(task, calculator)
            dynamics.run(task.sampling.equilibration)
        else:
            dynamics = Langevin.from_state(calculator, task.sampling, state)
        while len(frames) < min(BLOCK_FRAMES, task.frames - before):
            dynamics.run(task.sampling.interval)
            frames.append(dynamics.frame(task.molecule.name))
    except MindscaipError as error:
        failed = str(error)
    after = {} if dynamics is None else dynamics.state()
    return frames, {**after, "frames": before + len(frames), "failed": failed}


def _seed(task: Task, purpose: int = 0) -> int:
    sequence = np.random.SeedSequence([task.sampling.seed, task.molecule_index, task.trajectory, purpose])
    return int(sequence.generate_state(1)[0] >> 1)


def _start(task: Task, calculator: BaseCalculator) -> Langevin:
    structure = task.molecule.start(_seed(task))
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    if task.sampling.relax_steps > 0 and len(atoms) > 1:
        from ase.optimize import BFGS  # imports much of scipy

        forget_history(calculator)
        atoms.calc = calculator
        try:
            BFGS(atoms, logfile=None).run(fmax=RELAX_FMAX, steps=task.sampling.relax_steps)
        except CalculationError as error:
            raise CalculationError(f"relaxation: {error}") from error
        except Exception as error:
            raise CalculationError(f"relaxation: {type(error).__name__}: {error}") from error
    return Langevin.from_rest(atoms, calculator, task.sampling, np.random.default_rng(_seed(task, purpose=1)))


def _gather(tasks: Sequence[Task], writer: StoreWriter) -> tuple[list[tuple[str, int, str]], dict[str, int]]:
    failures = []
    frames = 0
    for task in tasks:
        parts = StoreWriter.count_parts(writer.folder, task.number)
        state = _read_state(writer.folder, task.number, parts - 1)
        frames += state["frames"]
        if state["failed"] is not None:
            failures.append((task.molecule.name, task.trajectory, state["failed"]))
    return failures, {"frames": frames}


def _summary(
    path: Path, failures: list[tuple[str, int, str]], isolated: dict[str, float] | str, seconds: float
) -> LabelSummary:
    references = isolated if isinstance(isolated, dict) else {}
    lowest, highest, squares, largest, components = np.inf, -np.inf, 0.0, 0.0, 0
    with Store(path) as store:
        for structure in store:
            assert structure.energy is not None
            assert structure.forces is not None
            energy = structure.energy - sum(references.get(symbol, 0.0) for symbol in structure.symbols)
            lowest, highest = min(lowest, energy / len(structure)), max(highest, energy / len(structure))
            squares += float(np.sum(structure.forces**2))
            components += structure.forces.size
            largest = max(largest, float(np.abs(structure.forces).max()))
        return LabelSummary(
            path=str(path),
            frames=len(store),
            molecules=len(set(store.groups)),
            elements=store.elements,
            energy_per_atom=(lowest, highest),
            force_rms=float(np.sqrt(squares / components)),
            force_max=largest,
            seconds=seconds,
            failures=failures,
            isolated=isolated,
        )


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("mindscaip", "ase", "numpy", "tblite", "rdkit"):
        versions[package] = installed_version(package) or "not installed"
    return versions
