"""Errors of several potentials on the same labelled structures: of all, of every subset and of every element.

Structures are streamed: each part of the data is predicted by every potential and let go, so that a large data set
needs little memory. A structure that one potential has no answer for is left out for all of them, so that the numbers
of a table are over the same structures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

from mindscaip.bsct.potentials import CalculatorPotential, ModelPotential, Potential
from mindscaip.contract import ExportedModel, check_elements
from mindscaip.data.checks import check_structures, raise_on_error
from mindscaip.data.importing import checked
from mindscaip.data.point import CalculationError, single_point, unpaired_electrons
from mindscaip.data.readers import SourceSettings, files_of
from mindscaip.data.readers.base import ISOLATED_GROUP, FileUnits, subset_of
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import DEFAULT_BATCH_SIZE, Prediction, evaluate, evaluate_stream
from mindscaip.errors import MindscaipError
from mindscaip.metrics import ErrorTable

By = Literal["auto", "subset", "group", "file", "none"]
QUANTITIES = (
    ("energy_mae", "energy_rmse", "energy", "meV/atom"),
    ("energy_mae_shifted", "energy_rmse_shifted", "energy, shifted", "meV/atom"),
    ("forces_mae", "forces_rmse", "forces", "meV/A"),
    ("stress_mae", "stress_rmse", "stress", "meV/A^3"),
)
"""MAE, RMSE, name and unit of what is compared."""
SKIP = "--skip-failures leaves such structures out"
CHUNK = 16
"""Batches of structures that are read before they are predicted."""
PARITY_ATOMS = 60_000
"""Forces of at most so many atoms are kept for the parity plots."""


@dataclass(frozen=True)
class Labelled:
    """A structure with the file that it comes from."""

    structure: Structure
    file: str


@dataclass
class ForceSample:
    """Force components for parity plots: those of every ``stride``-th structure, eV/A, float32."""

    stride: int = 1
    label: list[np.ndarray] = field(default_factory=list)
    predicted: list[list[np.ndarray]] = field(default_factory=list)
    numbers: list[np.ndarray] = field(default_factory=list)
    _atoms: int = 0

    def add(self, index: int, structure: Structure, predictions: Sequence[Prediction]) -> None:
        """Take in structure number ``index`` if its turn has come; thin out when there are too many."""
        if structure.forces is None or index % self.stride:
            return
        self.label.append(structure.forces.astype(np.float32))
        self.predicted.append([prediction.forces.astype(np.float32) for prediction in predictions])
        self.numbers.append(structure.numbers)
        self._atoms += len(structure)
        if self._atoms > PARITY_ATOMS and len(self.label) > 1:
            self.stride *= 2
            self.label, self.predicted, self.numbers = self.label[::2], self.predicted[::2], self.numbers[::2]
            self._atoms = sum(map(len, self.label))

    def components(self, model: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and predictions of one potential, flat."""
        if not self.label:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(self.label).ravel(), np.concatenate([p[model] for p in self.predicted]).ravel()


@dataclass
class Evaluation:
    """What several potentials say of the same structures.

    Attributes:
        models: their names, as given.
        tables: errors of each.
        seconds: what each needed.
        files, groups: of every structure.
        forces: for parity plots.
        skipped: reasons why structures were left out, with their number.
        without_stress: number of periodic structures that have no stress to compare with.
    """

    models: list[str]
    tables: list[ErrorTable]
    seconds: list[float]
    files: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    forces: ForceSample = field(default_factory=ForceSample)
    skipped: Counter[str] = field(default_factory=Counter)
    without_stress: int = 0

    def __len__(self) -> int:
        return len(self.files)

    @property
    def elements(self) -> list[str]:
        """Symbols that occur."""
        return [chemical_symbols[z] for z in self.tables[0].elements]

    @property
    def labels(self) -> list[str]:
        """Names of the potentials for people: of files without their folders, where that tells them apart."""
        short = [Path(name).name if name.endswith(".pt") else name for name in self.models]
        return short if len(set(short)) == len(short) else list(self.models)

    def parts(self, by: By = "auto") -> dict[str, np.ndarray]:
        """Numbers of the structures of each subset; empty where there is but one.

        ``auto`` is by file where there are several, else by subset (what stands before ``::`` in the name of a group),
        else by group.
        """
        subsets = [subset_of(group) for group in self.groups]
        if by == "auto":
            by = "file" if len(set(self.files)) > 1 else "subset" if any(subsets) else "group"
        names = {"file": self.files, "subset": subsets, "group": self.groups, "none": [""] * len(self)}[by]
        found, index = np.unique(np.array(names, dtype=object), return_inverse=True)
        if len(found) < 2:
            return {}
        return {str(name) or "(none)": np.flatnonzero(index == k) for k, name in enumerate(found)}

    def rows(self, by: By = "auto") -> list[dict[str, Any]]:
        """One row per potential and part of the data: ``model``, ``part``, ``name``, ``structures``, ``atoms``, errors.

        ``part`` is ``all``, ``subset`` or ``element``.
        """
        rows = []
        parts = self.parts(by)
        for model, table in zip(self.models, self.tables, strict=True):
            atoms = table.energies()[2]
            head = {"structures": len(table), "atoms": int(atoms.sum())}
            rows.append({"model": model, "part": "all", "name": "all", **head, **table.overall()})
            for name, chosen in parts.items():
                head = {"structures": len(chosen), "atoms": int(atoms[chosen].sum())}
                rows.append({"model": model, "part": "subset", "name": name, **head, **table.of(chosen)})
            for number in table.elements:
                head = {"structures": table.structures_with(number), "atoms": table.atoms_of(number)}
                name = chemical_symbols[number]
                rows.append({"model": model, "part": "element", "name": name, **head, **table.of_element(number)})
        return rows


def evaluate_potentials(
    potentials: Sequence[Potential],
    data: Iterable[Labelled],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    skip_failures: bool = False,
    on_structures: Callable[[int], None] | None = None,
) -> Evaluation:
    """Compare potentials with the labels of ``data``.

    Args:
        batch_size: structures per call of a ``model.pt``.
        skip_failures: leave out, for all potentials, and count structures that one of them has no answer for.
        on_structures: called with the number of structures that a potential has done (for a progress bar).

    Raises:
        MindscaipError: no structures; one without an energy; one that a potential has no answer for (unless they are
            skipped), which is named.
    """
    if batch_size < 1:
        raise MindscaipError(f"batch_size is {batch_size}; give at least 1")
    found = Evaluation(
        [potential.name for potential in potentials], [ErrorTable() for _ in potentials], [0.0] * len(potentials)
    )
    seen = 0
    stream = iter(data)
    while chunk := list(islice(stream, CHUNK * batch_size)):
        structures = [item.structure for item in chunk]
        for index, item in enumerate(chunk, start=seen):
            if item.structure.energy is None:
                raise MindscaipError(f"{item.file}: structure {index} (counted from 0) has no energy to compare with")
        answers: list[list[Prediction | MindscaipError]] = []
        for k, potential in enumerate(potentials):
            started = time.perf_counter()
            answers.append(list(predict(potential, structures, batch_size, seen, not skip_failures, on_structures)))
            found.seconds[k] += time.perf_counter() - started
        for index, (item, *predicted) in enumerate(zip(chunk, *answers, strict=True), start=seen):
            failure = next((one for one in predicted if isinstance(one, MindscaipError)), None)
            if failure is not None:
                found.skipped[str(failure)] += 1
                continue
            good = [one for one in predicted if isinstance(one, Prediction)]
            for table, prediction in zip(found.tables, good, strict=True):
                table.add(item.structure, prediction, where=f"{item.file}: structure {index}")
            found.forces.add(len(found), item.structure, good)
            found.files.append(item.file)
            found.groups.append(item.structure.group)
            found.without_stress += int(item.structure.stress is None and bool(item.structure.pbc.all()))
        seen += len(chunk)
    if not len(found):
        reasons = f": {next(iter(found.skipped))}" if found.skipped else ""
        raise MindscaipError(f"there are no structures to evaluate on{reasons}")
    return found


def predict(
    potential: Potential,
    structures: Sequence[Structure],
    batch_size: int = DEFAULT_BATCH_SIZE,
    first: int = 0,
    strict: bool = True,
    on_structures: Callable[[int], None] | None = None,
) -> Iterator[Prediction | MindscaipError]:
    """Predictions of a potential, in order; where it has none the error stands in its place, or is raised (``strict``).

    Args:
        first: number of the first structure, for messages.
    """
    if isinstance(potential, ModelPotential):
        yield from _predict_model(potential.model, structures, batch_size, first, strict, on_structures)
    elif isinstance(potential, CalculatorPotential):
        for index, structure in enumerate(structures, start=first):
            answer = _predict_one(potential.calculator, structure)
            if strict and isinstance(answer, MindscaipError):
                raise MindscaipError(f"{potential.name}, structure {index} (counted from 0): {answer}; {SKIP}")
            yield answer
            if on_structures is not None:
                on_structures(1)
    else:
        raise MindscaipError(f"{potential.name}: a potential of this kind evaluates bond scans only")


def _predict_model(
    model: ExportedModel,
    structures: Sequence[Structure],
    batch_size: int,
    first: int,
    strict: bool,
    on_structures: Callable[[int], None] | None,
) -> Iterator[Prediction | MindscaipError]:
    if not strict:
        for answer in evaluate_stream(model, structures):
            yield answer
            if on_structures is not None:
                on_structures(1)
        return
    for index, structure in enumerate(structures, start=first):
        try:
            check_elements(model.contract, sorted(set(structure.symbols)), f"structure {index} (counted from 0)")
        except MindscaipError as error:
            raise MindscaipError(f"{model.path}: {error}; {SKIP}") from None
    yield from evaluate(model, structures, batch_size, on_batch=on_structures)


def _predict_one(calculator: Any, structure: Structure) -> Prediction | MindscaipError:
    # Potentials that take charge and spin read them from here: neutral, lowest multiplicity.
    info = {"charge": 0, "spin": 1 + unpaired_electrons(structure.numbers)}
    atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc, info=info)
    try:
        energy, forces = single_point(calculator, atoms)
    except CalculationError as error:
        return error
    stress = None
    if structure.stress is not None and structure.pbc.all():
        try:
            stress = np.asarray(calculator.get_property("stress", atoms), dtype=np.float64)
        except Exception:
            stress = None  # a calculator without a stress; ASE's raise what they like
    if stress is not None and stress.shape == (6,):
        stress = voigt_6_to_full_3x3_stress(stress)
    return Prediction(energy, forces, stress, None, np.zeros(0))


def read_labelled(paths: Sequence[Path], settings: SourceSettings | None = None) -> Iterator[Labelled]:
    """Stream the structures of several files, tested as an import tests them.

    Units and signs of stores are not tested, for they were when the store was made, unless ``settings`` names others.

    Args:
        paths: files, or folders of files.
        settings: formats, units and names of the labels.

    Raises:
        MindscaipError: as the readers; a structure without energy or forces; data that fail a test.
    """
    settings = settings or SourceSettings()
    short = [path.name for path in paths]
    labels = short if len(set(short)) == len(short) else [str(path) for path in paths]
    # What is wrong with names and units is found before the first file is read.
    layouts = [[(file, *settings.layout_of(file)) for file in files_of(path)] for path in paths]
    for path, label, files in zip(paths, labels, layouts, strict=True):
        count = 0
        for file, name, units in files:
            structures = _with_labels(settings.read(file, name, units), file)
            named = settings.units is not None or settings.forces_are_gradients is not None
            if settings.check and (name != "store" or named):
                structures = checked(structures, partial(_check, units=units, where=str(file)))
            for structure in structures:
                yield Labelled(structure, label)
                count += 1
        if not count:
            raise MindscaipError(f"{path}: it holds no structures{_of_subsets(settings)}")


def _with_labels(structures: Iterator[Structure], file: Path) -> Iterator[Structure]:
    for number, structure in enumerate(structures):
        if structure.group == ISOLATED_GROUP:
            continue  # a reference energy, as for the import, and no structure of a subset
        for name, value in (("energy", structure.energy), ("forces", structure.forces)):
            if value is None or not np.isfinite(value).all():
                raise MindscaipError(
                    f"{file}: structure {number} (counted from 0) has no {name} to compare with; label it, or name "
                    f"its key with --{name}-key"
                )
        if structure.stress is not None and not np.isfinite(structure.stress).all():
            raise MindscaipError(
                f"{file}: structure {number} (counted from 0) has a stress that is not finite; repair it, or leave "
                "it out"
            )
        yield structure


def _check(block: list[Structure], units: FileUnits, where: str) -> None:
    raise_on_error(check_structures(block, units), where)


def _of_subsets(settings: SourceSettings) -> str:
    asked = settings.options.subsets
    return f" of a subset like {', '.join(asked)}" if asked else ""
