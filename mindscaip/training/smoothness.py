"""Smoothness in the training loop: bond scans and short constant-energy runs with the averaged weights.

Every so many epochs (:class:`~mindscaip.config.SmoothnessConfig`) both Force Smoothness Deviations are taken along a
few bond scans and a few molecules are run at constant energy. The values stand beside the losses in ``curves.csv`` and
may take part in the choice of the best checkpoint by one of these rules, in which *score* is that of the validation
errors (:func:`mindscaip.training.loop.selection_score`) and *metric* is ``smoothness.metric``, the mean over the scans:

``validation``
    the least score of all validations; smoothness is only recorded
``within``
    the least score among the checkpoints whose metric is at most ``1 + tolerance`` times the least metric of all
``weighted``
    the least ``score + weight * metric``

The last two choose among the checkpoints of a stage that were scored; until the first of them, validation decides. A
metric that is not finite (a potential that fails along a scan) is never chosen while there is another.

What ``within`` chooses may be a checkpoint that was not the best when it was met: a later score can lower the limit.
Only checkpoints below the limit that no other one below it beats in both score and metric can ever be chosen, so the
averaged weights of those alone are kept, in ``smoothness/`` of the run. A limit never rises, so nothing comes back.

Scores are compared only with those of the same rule, metric, scans and weights of the loss: a run that is resumed with
others starts its history anew. With another tolerance or weight of the metric the history goes on, and the choice is
among the checkpoints whose weights are still there: those that were kept, and the best one so far.

Cost: the monitor times itself. With ``max_fraction`` a score is put off to a later validation until all scores so far
and the next one together stay below that part of the training time, counted from the start of the run however often it
was resumed; without it, scores come by the epoch alone. The last epoch of a run without a score is scored in any case,
whether epochs or wall time end it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from mindscaip.bsct.dataset import Scan, ScanError, open_scans
from mindscaip.bsct.fsd import fsd
from mindscaip.bsct.intrinsic import fsd_intrinsic
from mindscaip.bsct.path import ScanPath, scan_path
from mindscaip.config import Config, SmoothnessConfig
from mindscaip.console import console
from mindscaip.contract import Contract, ExportedModel
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import Prediction, evaluate_stream
from mindscaip.engines.record import standard_masses
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.model.backbone import MinDScAIP
from mindscaip.model.exported import ExportedPotential
from mindscaip.training.checkpoint import BEST, load_checkpoint, save_checkpoint
from mindscaip.training.loss import Predictor
from mindscaip.training.stages import TRAINING
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, EV_TO_MEV

FSD = "scan_fsd_per_A"
FSD_INTRINSIC = "scan_fsd_intrinsic_per_A"
SCAN_ENERGY = "scan_energy_mae_shifted_eV"
SCAN_FORCE = "scan_force_mae_eV_per_A"
NVE = "nve_max_deviation_meV_per_atom"
SECONDS = "smoothness_seconds"
FOLDER = "smoothness"
"""In the folder of a run: the history of scores, the time they took, and the weights that may still be chosen."""
HISTORY = "history.json"
PROBE = 8
"""Geometries that are timed before the first score."""
MIN_FRAMES = 10
"""Fewer frames of a scan, after ``stride``, say nothing."""
METRICS = {"fsd": FSD, "fsd_intrinsic": FSD_INTRINSIC}


@dataclass(frozen=True)
class Scored:
    """One scored checkpoint: ``score`` of its validation errors (eV) and ``metric`` (1/A).

    Those of one ``stage`` are not compared with those of another.
    """

    epoch: int
    step: int
    score: float
    metric: float
    stage: str = TRAINING


def choose(
    history: Sequence[Scored], rule: Literal["within", "weighted"], *, tolerance: float = 0.0, weight: float = 0.0
) -> Scored:
    """The checkpoint that a rule of this module chooses; of equals the smoother, then the earlier.

    Raises:
        ValueError: there is no scored checkpoint.
    """
    if not history:
        raise ValueError("no checkpoint has been scored")
    if rule == "weighted":
        return min(history, key=lambda one: (one.score + (weight * one.metric if weight else 0.0), *_order(one)))
    limit = (1.0 + tolerance) * min(one.metric for one in history)
    return min((one for one in history if one.metric <= limit), key=_order)


def may_be_chosen(history: Sequence[Scored], tolerance: float) -> list[Scored]:
    """Of the rule ``within``: the checkpoints that are below the limit and beaten in both by no other one there."""
    limit = (1.0 + tolerance) * min((one.metric for one in history), default=math.inf)
    below = [one for one in history if one.metric <= limit]
    return [one for one in below if not any(_beats(other, one) for other in below)]


def _beats(a: Scored, b: Scored) -> bool:
    """Whether ``a`` is chosen before ``b`` whatever the limit will be."""
    return a.score <= b.score and a.metric <= b.metric and _order(a) < _order(b)


def _order(one: Scored) -> tuple[float, float, int]:
    return one.score, one.metric, one.epoch


def choose_scans(path: str, elements: Sequence[str], settings: SmoothnessConfig) -> tuple[list[Scan], dict[str, str]]:
    """The scans to score, the same for the same file and settings, and key and reason of those that cannot be.

    Each bond type gives its scan with the fewest atoms, then each its second, until there are ``num_scans``.

    Raises:
        MindscaipError: the file cannot be read, or no scan of it can be used.
    """
    scans = open_scans(path)
    usable: dict[str, list[Scan]] = {}
    skipped: dict[str, str] = {}
    known = {atomic_numbers[symbol] for symbol in elements}
    for key in scans.keys:
        try:
            scan = scans.load(key)
        except ScanError as error:
            skipped[key] = str(error)
            continue
        foreign = sorted(set(scan.numbers.tolist()) - known)
        frames = len(scan.bond_length[:: settings.stride])
        if foreign:
            skipped[key] = f"the model does not know {', '.join(chemical_symbols[z] for z in foreign)}"
        elif frames < MIN_FRAMES:
            skipped[key] = f"{frames} frames are left of {len(scan)} with stride {settings.stride}"
        else:
            usable.setdefault(scan.bond, []).append(scan)
    if not usable:
        reasons = Counter(skipped.values()).most_common(3)
        listed = "; ".join(f"{reason} ({count} scans)" for reason, count in reasons)
        raise MindscaipError(
            f"smoothness.scans={path}: none of its {len(scans)} scans can be scored with a model of "
            f"{' '.join(elements)}: {listed}; give scans of those elements, or none"
        )
    ranked = [
        (rank, bond, scan)
        for bond, found in sorted(usable.items())
        for rank, scan in enumerate(sorted(found, key=lambda scan: (len(scan.numbers), scan.key)))
    ]
    ranked.sort(key=lambda item: item[:2])
    return [strided(scan, settings.stride) for _, _, scan in ranked[: settings.num_scans]], skipped


def strided(scan: Scan, stride: int) -> Scan:
    """The scan with every ``stride``-th frame of its grid."""
    if stride == 1:
        return scan
    index = scan.frame_index if len(scan.frame_index) else np.arange(len(scan))
    kept = np.flatnonzero((index - index[0]) % stride == 0)
    return replace(
        scan,
        positions=scan.positions[kept],
        bond_length=scan.bond_length[kept],
        energy=scan.energy[kept],
        forces=scan.forces[kept],
        frame_index=(index[kept] - index[0]) // stride,
        num_dropped=0,
    )


def as_exported(model: MinDScAIP) -> ExportedModel:
    """A copy of ``model`` behind the interface of an exported one, which leaves the weights and their gradients alone.

    A copy, and not the model itself: what wraps the model for several processes would wait for the others.
    """
    own = copy.deepcopy(model)
    species = own.species_of.tolist()
    contract = Contract(
        elements=tuple(chemical_symbols[z] for z in range(1, len(species)) if species[z] >= 0),
        cutoff=own.cutoff,
        list_cutoff=own.list_cutoff,
        k=own.k,
        num_layers=len(own.blocks),
        dtype=str(next(own.parameters()).dtype).removeprefix("torch."),
        conservative=not own.direct,
        smooth=own.kind == "diffknn" and own.rank_function == "bump",
        ranking=own.ranking,
        parameters=sum(p.numel() for p in own.parameters()),
    )
    return ExportedModel(ExportedPotential(own).eval(), contract, {}, Path("the model in training"))  # type: ignore[arg-type]


def scan_values(model: ExportedModel, paths: Sequence[ScanPath]) -> dict[str, float]:
    """Means over scans of both metrics and of the errors; infinite where the model fails on a geometry."""
    structures = [Structure(path.numbers, positions) for path in paths for positions in path.positions]
    answers = evaluate_stream(model, structures)
    columns: dict[str, list[float]] = {name: [] for name in (FSD, FSD_INTRINSIC, SCAN_ENERGY, SCAN_FORCE)}
    for path in paths:
        found = [next(answers) for _ in range(len(path))]
        good = [answer for answer in found if isinstance(answer, Prediction)]
        if len(good) < len(found):
            for values in columns.values():
                values.append(math.inf)
            continue
        energy = np.array([answer.energy for answer in good])
        forces = np.stack([answer.forces for answer in good])
        published = fsd(path.scan, energy[path.frames], forces[path.frames])
        columns[FSD].append(published.full.value)
        columns[FSD_INTRINSIC].append(fsd_intrinsic(path, forces).full.value)
        columns[SCAN_ENERGY].append(published.energy_mae_shifted)
        columns[SCAN_FORCE].append(published.force_mae)
    return {name: float(np.mean(values)) for name, values in columns.items()}


def nve_deviation(
    model: ExportedModel,
    starts: Sequence[Structure],
    *,
    steps: int,
    timestep: float,
    temperature: float,
    seed: int = 0,
) -> float:
    """Largest ``|E(t) - E(0)|`` per atom (meV/atom) of constant-energy runs, all molecules in one batch per step.

    Velocity Verlet from the given geometries with Maxwell-Boltzmann velocities; infinite where a run breaks down. A
    few dozen femtoseconds show jumps and forces that are no gradient; they do not measure a drift.

    Args:
        timestep: fs.
        temperature: K.
    """
    from mindscaip.studies.nve import initial_velocities

    positions = [start.positions.copy() for start in starts]
    velocities = [initial_velocities(start, temperature, seed + i) for i, start in enumerate(starts)]
    masses = [standard_masses(start.numbers)[:, None] for start in starts]

    def energies_and_forces() -> list[Prediction] | None:
        if not all(np.isfinite(x).all() for x in positions):
            return None
        now = [replace(start, positions=x) for start, x in zip(starts, positions, strict=True)]
        answers = list(evaluate_stream(model, now))
        good = [answer for answer in answers if isinstance(answer, Prediction)]
        return good if len(good) == len(answers) else None

    def total(found: Sequence[Prediction]) -> np.ndarray:
        kinetic = [
            0.5 * AMU_ANGSTROM2_PER_FS2_TO_EV * (m * v**2).sum() for m, v in zip(masses, velocities, strict=True)
        ]
        return np.array([answer.energy for answer in found]) + kinetic

    found = energies_and_forces()
    if found is None:
        return math.inf
    start_energy = total(found)
    largest = np.zeros(len(starts))
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            for i, answer in enumerate(found):
                velocities[i] += 0.5 * timestep * answer.forces / (masses[i] * AMU_ANGSTROM2_PER_FS2_TO_EV)
                positions[i] += timestep * velocities[i]
            found = energies_and_forces()
            if found is None:
                return math.inf
            for i, answer in enumerate(found):
                velocities[i] += 0.5 * timestep * answer.forces / (masses[i] * AMU_ANGSTROM2_PER_FS2_TO_EV)
            largest = np.maximum(largest, np.abs(total(found) - start_energy))
    deviation = float((largest / [len(start) for start in starts]).max()) * EV_TO_MEV
    return deviation if math.isfinite(deviation) else math.inf


class SmoothnessMonitor:
    """Scores the averaged weights and chooses among them; a :class:`mindscaip.training.callbacks.Callback`.

    Args:
        config: of the run.
        elements: that the model knows.
        clock: seconds, for tests.

    Attributes:
        columns: of ``curves.csv``.
        scans: those that are scored.
        skipped: key and reason of those that cannot be.
        changes: why the scores of the run so far do not count any more; empty: they do.

    Raises:
        MindscaipError: as :func:`choose_scans`; at once, so that nobody learns it after hours.
    """

    def __init__(
        self, config: Config, elements: Sequence[str], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.settings = config.smoothness
        self.folder = Path(config.run) / FOLDER
        self._best_path = Path(config.run) / BEST
        self._val_every = config.training.val_every
        self.scans, self.skipped = choose_scans(self.settings.scans, elements, self.settings)
        self._paths = [scan_path(scan, self.settings.dense) for scan in self.scans]
        self._starts = [_molecule(scan) for scan in self.scans] if self.settings.nve_steps else []
        self.columns = (FSD, FSD_INTRINSIC, SCAN_ENERGY, SCAN_FORCE, *([NVE] if self._starts else []), SECONDS)
        self._clock = clock
        self._created = clock()
        self._elapsed_before, self._spent = 0.0, 0.0
        self._cost: float | None = None
        self._told = False
        self._step, self._stage, self._final = 0, TRAINING, False
        self._current: tuple[int, dict[str, torch.Tensor]] | None = None
        self._best_step: int | None = None  # None: the loop may have written the best checkpoint since it was read
        self._identity = {
            "select": self.settings.select,
            "metric": self.settings.metric,
            "dense": self.settings.dense,
            "scans": _digest(self.scans),
            "loss": config.training.loss.model_dump(),
        }
        self._rows: list[Scored] = []
        self.changes = self._read()

    def describe(self) -> str:
        """One line for the terminal: what is scored, what was left out."""
        bonds = ", ".join(sorted({scan.bond for scan in self.scans}))
        text = f"smoothness: {len(self.scans)} scans ({bonds}) of {self.settings.scans}"
        text += f"; {len(self.skipped)} cannot be scored" if self.skipped else ""
        if self.settings.select != "validation" and not self._rows:
            text += f"; validation decides until select={self.settings.select} has its first score"
        return text

    @property
    def num_geometries(self) -> int:
        """Geometries of one score, the steps of the dynamics included."""
        return sum(len(path) for path in self._paths) + (self.settings.nve_steps + 1) * len(self._starts)

    def __call__(
        self, epoch: int, step: int, predictor: Predictor, *, stage: str = TRAINING, final: bool = False
    ) -> dict[str, float]:
        """Score the averaged weights if it is time and within the budget; else nothing."""
        self._step, self._stage, self._final, self._current = step, stage, final, None
        # Later steps are of a run that was cut off.
        self._rows = [one for one in self._rows if one.step < step]
        if not self._due(epoch, final):
            return {}
        model = as_exported(predictor.model)
        # A run has one score at least: where none fitted into the budget, that of its last epoch.
        if not self._affordable(model) and (not final or self._of_stage()):
            self._say_once()
            return {}
        started = self._clock()
        values = scan_values(model, self._paths)
        if self._starts:
            settings = self.settings
            values[NVE] = nve_deviation(
                model,
                self._starts,
                steps=settings.nve_steps,
                timestep=settings.nve_timestep,
                temperature=settings.nve_temperature,
            )
        self._cost = self._clock() - started
        self._spent += self._cost
        values[SECONDS] = round(self._cost, 3)
        weights = {name: tensor.detach().cpu().clone() for name, tensor in predictor.model.state_dict().items()}
        self._current = (epoch, weights)
        return values

    def select(self, score: float, values: Mapping[str, float], best: float) -> tuple[float, float]:
        """The scores by which the loop chooses the best checkpoint (see the module and the protocol)."""
        rule, current = self.settings.select, None
        if self._current is not None and values:
            epoch, weights = self._current
            current = Scored(epoch, self._step, score, values[METRICS[self.settings.metric]], self._stage)
            self._rows.append(current)
        candidates = [] if rule == "validation" else [one for one in self._of_stage() if self._available(one, current)]
        if current is None:
            self._write()
        else:
            self._keep(candidates, current, weights)
        if self._final and rule != "validation" and len(self._of_stage()) == 1:
            console.print(
                f"smoothness: select={rule} has a single score to choose by, so the best checkpoint is that one; for a "
                "choice give a larger smoothness.max_fraction or cheaper scores (num_scans, stride, nve_steps)",
                soft_wrap=True,
            )
        return self._choose(candidates, current, score, best)

    def _choose(
        self, candidates: list[Scored], current: Scored | None, score: float, best: float
    ) -> tuple[float, float]:
        """Choose by the rule of the settings and bring the best checkpoint into line with it."""
        settings = self.settings
        while candidates and settings.select != "validation":
            chosen = choose(candidates, settings.select, tolerance=settings.tolerance, weight=settings.weight)
            if chosen is current:
                self._best_step = None
                return score, math.inf  # the rule has it win, whatever the best one's score
            if chosen.step == self._step_of_best() or self._restore(chosen):
                return math.inf, chosen.score
            candidates = [one for one in candidates if one is not chosen]
        self._best_step = None
        return score, best

    def _due(self, epoch: int, final: bool) -> bool:
        """The first validation at or after each multiple of ``every``, and the last of the run."""
        every = self.settings.every
        return final or epoch // every > max(epoch - self._val_every, 0) // every

    def _affordable(self, model: ExportedModel) -> bool:
        fraction = self.settings.max_fraction
        if fraction is None:
            return True
        if self._cost is None:
            self._cost = self._probe(model)
        return self._spent + self._cost <= fraction * (self._elapsed() - self._spent)

    def _elapsed(self) -> float:
        """Seconds of the run so far, those before it was resumed included."""
        return self._elapsed_before + self._clock() - self._created

    def _say_once(self) -> None:
        """Why there is no score yet."""
        if not self._told and self._cost is not None and self.settings.max_fraction is not None:
            minutes = self._cost / self.settings.max_fraction / 60.0
            console.print(
                f"smoothness: a score takes about {self._cost:.0f} s and waits for {minutes:.0f} minutes of training "
                f"(smoothness.max_fraction={self.settings.max_fraction:g})"
            )
        self._told = True

    def _probe(self, model: ExportedModel) -> float:
        """Seconds that a score will take, from a few geometries of the first scan."""
        first = self._paths[0]
        some = [Structure(first.numbers, positions) for positions in first.positions[:PROBE]]
        list(evaluate_stream(model, some[:1]))
        started = self._clock()
        list(evaluate_stream(model, some))
        per_atom = (self._clock() - started) / (len(some) * len(first.numbers))
        self._spent += self._clock() - started
        atoms = sum(len(path) * len(path.numbers) for path in self._paths)
        atoms += (self.settings.nve_steps + 1) * sum(len(start) for start in self._starts)
        return per_atom * atoms

    def _of_stage(self) -> list[Scored]:
        return [one for one in self._rows if one.stage == self._stage]

    def _read(self) -> str:
        """Take up the history of the run; returns why its scores cannot be compared with those to come."""
        try:
            found = json.loads((self.folder / HISTORY).read_text())
            before, rows = dict(found["settings"]), [Scored(**row) for row in found["scores"]]
            self._elapsed_before, self._spent = float(found["elapsed_s"]), float(found["spent_s"])
        except FileNotFoundError:
            return ""
        except (ValueError, TypeError, KeyError):
            return f"{self.folder / HISTORY} is damaged or of another version"
        changed = [name for name, value in self._identity.items() if before.get(name) != value]
        if not changed:
            self._rows = rows
        if not changed or not rows:
            return ""
        texts = {name: f"{name}={value} instead of {before.get(name)}" for name, value in self._identity.items()}
        texts |= {"scans": "other scans or frames", "loss": "other weights of the loss"}
        return ", ".join(texts[name] for name in changed)

    def _write(self) -> None:
        """Save the scores and the time that went by: a resumed run goes on with the same budget."""
        content = {
            "settings": self._identity,
            "elapsed_s": round(self._elapsed(), 3),
            "spent_s": round(self._spent, 3),
            "scores": [asdict(one) for one in self._rows],
        }
        with atomic_path(self.folder / HISTORY) as temporary:
            temporary.write_text(json.dumps(content, indent=1))

    def _keep(self, candidates: Sequence[Scored], current: Scored, weights: dict[str, torch.Tensor]) -> None:
        """Save the history and, for ``within``, the weights that may still be chosen."""
        wanted: set[Path] = set()
        if self.settings.select == "within":
            wanted = {self._weights_path(one) for one in may_be_chosen(candidates, self.settings.tolerance)}
        if self._weights_path(current) in wanted:
            with atomic_path(self._weights_path(current)) as temporary:
                torch.save(weights, temporary)
        self._write()
        for old in self.folder.glob("epoch-*.pt"):
            if old not in wanted:
                old.unlink()

    def _available(self, one: Scored, current: Scored | None) -> bool:
        """Whether the weights of a scored checkpoint are still there."""
        return one is current or self._weights_path(one).is_file() or one.step == self._step_of_best()

    def _step_of_best(self) -> int:
        """After how many steps the best checkpoint was written; -1 if there is none."""
        if self._best_step is None:
            try:
                self._best_step = int(load_checkpoint(self._best_path)["record"]["steps"])
            except MindscaipError:
                self._best_step = -1
        return self._best_step

    def _restore(self, chosen: Scored) -> bool:
        """Put weights that were kept into the best checkpoint; returns whether they could be read."""
        try:
            state: dict[str, Any] = load_checkpoint(self._best_path)
            weights = torch.load(self._weights_path(chosen), map_location="cpu", weights_only=True)
        except (MindscaipError, OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return False
        state |= {"model": weights, "ema": weights}
        state["record"] |= {"epochs": chosen.epoch, "steps": chosen.step, "best_val": chosen.score}
        for name in ("optimizer", "progress"):  # of the checkpoint that it replaces; one resumes from the last
            state.pop(name, None)
        save_checkpoint(self._best_path, state)
        self._best_step = chosen.step
        return True

    def _weights_path(self, one: Scored) -> Path:
        return self.folder / f"epoch-{one.epoch}.pt"


def _digest(scans: Sequence[Scan]) -> str:
    """What the scans hold, wherever their file is."""
    digest = hashlib.sha256()
    for scan in scans:
        digest.update(scan.key.encode())
        for values in (scan.numbers, scan.positions, scan.energy, scan.forces):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _molecule(scan: Scan) -> Structure:
    """Where the dynamics starts: the unperturbed molecule, or the frame of lowest reference energy."""
    start = scan.positions0 if scan.positions0 is not None else scan.positions[int(np.argmin(scan.energy))]
    return Structure(scan.numbers, start)


def make_monitor(config: Config, elements: Sequence[str]) -> SmoothnessMonitor | None:
    """The monitor of a run, or None where the configuration names no scans.

    Raises:
        MindscaipError: as :class:`SmoothnessMonitor`; or a rule that needs scores without scans to take them on.
    """
    if config.smoothness.scans:
        monitor = SmoothnessMonitor(config, elements)
        console.print(monitor.describe(), markup=False, soft_wrap=True)
        if monitor.changes:
            text = f"smoothness: the scores so far do not count any more and start anew: {monitor.changes}"
            console.print(text, markup=False, soft_wrap=True)
        return monitor
    if config.smoothness.select != "validation":
        raise MindscaipError(
            f"smoothness.select={config.smoothness.select} chooses by smoothness; give smoothness.scans=FILE with it"
        )
    return None
