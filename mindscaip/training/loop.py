"""The training loop, from top to bottom (Lightning Fabric does the devices)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from mindscaip.config import Config
from mindscaip.console import console
from mindscaip.errors import MindscaipError
from mindscaip.training.batch import Batch
from mindscaip.training.batches import EpochBatches, validation_batches
from mindscaip.training.callbacks import Callback
from mindscaip.training.checkpoint import BEST, LAST, PRETRAINED, Progress
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.distributed import Processes
from mindscaip.training.failure import save_failure
from mindscaip.training.interrupt import Interrupted, StopRequest
from mindscaip.training.logs import CURVE_COLUMNS, NOISE_COLUMN, STRESS_COLUMNS, Log, open_logs
from mindscaip.training.loss import TERMS, batch_counts
from mindscaip.training.progress import TrainingBar
from mindscaip.training.run import StageRun
from mindscaip.training.schedule import Clock, learning_rate, schedule_position
from mindscaip.training.stages import PRETRAINING, remaining, stages_of
from mindscaip.training.validation import averaged_weights, selection_score, validation_errors
from mindscaip.units import EV_TO_MEV


@dataclass(frozen=True)
class Training:
    """What the stages of a run share."""

    folder: Path
    train_set: StructureDataset
    val_set: StructureDataset
    processes: Processes
    logs: Sequence[Log]
    callbacks: Sequence[Callback]
    bar: TrainingBar
    stop: StopRequest


def fit(
    fabric: Fabric,
    config: Config,
    train_set: StructureDataset,
    val_set: StructureDataset,
    record: dict[str, Any],
    resume: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Train through all stages and return the state of the last checkpoint.

    Batches, rotations, noise and schedule depend on (seed, epoch, step) alone, so a run that was cut off and resumed,
    in any stage and with any number of processes, gives the numbers of an uninterrupted one. The clock takes part where
    a setting says so: ``max_minutes`` in the schedule, ``smoothness.max_fraction`` in which validations callbacks score
    (never in the weights, but in which of them are the best where a rule goes by those scores).

    Args:
        record: what is known about the data; kept in every checkpoint and in the exported file.
        resume: a checkpoint of the same run to go on from.
        start: weights of another run to start from, without ``resume``.

    Raises:
        MindscaipError: the loss or its gradient is not finite, or jumps; names epoch, step and what was saved.
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    processes, folder = Processes(fabric), Path(config.run)
    stages = stages_of(config)
    columns = [*CURVE_COLUMNS, *(column for callback in callbacks for column in callback.columns)]
    if any(stage.corruption for stage in stages):
        columns.append(NOISE_COLUMN)
    if any(stage.settings.loss.stress > 0 for stage in stages):
        columns += STRESS_COLUMNS
    if resume is not None:
        stages = remaining(stages, resume)
    logs = open_logs(config, columns, resume["progress"]["step"] if resume else 0) if processes.is_first else []
    state = resume
    with ExitStack() as exits:
        for log in logs:
            exits.callback(log.close)
        stop, bar = exits.enter_context(StopRequest()), exits.enter_context(TrainingBar(processes.is_first))
        training = Training(folder, train_set, val_set, processes, logs, callbacks, bar, stop)
        for stage in stages:
            run = StageRun(fabric, config, stage, record, state, start)
            train_stage(run, training)
            state = run.state()
    if processes.is_first:
        done = run.progress
        text = (
            f"trained {done.step} steps, {done.epoch} epochs in {done.total_minutes:.1f} min; checkpoints in {folder}"
        )
        console.print(text, markup=False, soft_wrap=True)
    return run.state()


def train_stage(run: StageRun, training: Training) -> None:
    """All epochs of a stage that are still to be done, or as many as its wall time allows."""
    settings, progress, processes = run.stage.settings, run.progress, training.processes
    clock = Clock(progress.minutes)
    saved = progress.minutes
    training.bar.begin(run.stage.name, progress.step - progress.first_step)
    # A finished stage goes on if epochs or time were added. One that was stopped when its time was over is not finished
    # yet: its validation is still to come, after one more step if it was between two epochs.
    progress.finished = progress.finished and _finished(run)
    while not progress.finished:
        batches = EpochBatches(
            training.train_set,
            settings.batch_size,
            settings.seed,
            progress.epoch,
            settings.rotate,
            settings.batch_atoms,
            run.stage.corruption,
            processes.rank,
            processes.size,
        )
        steps = len(batches.plan())
        run.predictor.train()
        with closing(batches.start_at(progress.epoch_step)) as coming:
            while progress.epoch_step < steps:
                batch, error = _next(coming)
                counts = batch_counts(batch, settings.loss.stress > 0) if batch else dict.fromkeys(TERMS, 0)
                agreed = processes.agree(counts, error, training.stop.signal, clock.minutes())
                progress.minutes = agreed.minutes
                if agreed.signal:
                    _stop(run, training, agreed.signal)
                if _finished(run) and progress.epoch_step > 0:
                    break
                if progress.minutes - saved > settings.checkpoint_minutes:
                    run.save(training.folder / LAST)
                    saved = progress.minutes
                epochs = progress.epoch - progress.first_epoch + progress.epoch_step / steps
                position = schedule_position(epochs, progress.minutes, settings)
                rate = learning_rate(position, epochs, progress.minutes, settings)

                assert batch is not None
                loss, terms = run.loss(batch.to(run.device), agreed.counts)
                norm = run.gradient(loss, processes.size)  # before any number is read: devices need not wait
                total, *sums = processes.total([loss.item(), *terms.tolist()])
                _check(run, training, batches, total, "loss")
                if not math.isfinite(norm):
                    _check(run, training, batches, norm, "gradient")
                run.update(rate)

                progress.learning_rate = rate
                _count(progress, total, dict(zip(TERMS, sums, strict=True)), agreed.counts)
                atoms = agreed.counts["forces"] + agreed.counts["noise"]
                done = progress.step - progress.first_step
                training.bar.step(done, position + 1.0 / (steps * settings.epochs), _means(progress), rate, atoms)

        agreed = processes.agree({}, "", training.stop.signal, clock.minutes())
        progress.minutes = agreed.minutes
        if agreed.signal:
            _stop(run, training, agreed.signal)  # validation and scores come when it goes on
        progress.epoch += 1
        progress.epoch_step = 0
        epochs_done = progress.epoch - progress.first_epoch
        progress.finished = _finished(run)
        if epochs_done % settings.val_every == 0 or progress.finished:
            _validate(run, training)
        progress.sums, progress.counts = {}, {}
        if progress.finished and run.stage.name == PRETRAINING:
            run.save(training.folder / PRETRAINED)
        if epochs_done % settings.checkpoint_every == 0 or progress.finished:
            run.save(training.folder / LAST)
            saved = progress.minutes


def _next(batches: Iterator[Batch]) -> tuple[Batch | None, str]:
    """The next batch, or the sentence that says why there is none: other processes have to know of it."""
    try:
        return next(batches), ""
    except MindscaipError as error:
        return None, str(error)


def _finished(run: StageRun) -> bool:
    progress, settings = run.progress, run.stage.settings
    over = settings.max_minutes is not None and progress.minutes >= settings.max_minutes
    return over or progress.epoch - progress.first_epoch >= settings.epochs


def _count(progress: Progress, loss: float, sums: dict[str, float], counts: dict[str, float]) -> None:
    """One more step: the means of the epoch and the running mean of the loss go on."""
    for name, value in {"loss": loss, **sums}.items():
        progress.sums[name] = progress.sums.get(name, 0.0) + value
        progress.counts[name] = progress.counts.get(name, 0.0) + counts.get(name, 1.0)
    progress.loss_level = loss if progress.loss_level == 0.0 else 0.99 * progress.loss_level + 0.01 * loss
    progress.step += 1
    progress.epoch_step += 1


def _means(progress: Progress) -> dict[str, float]:
    return {name: value / max(progress.counts[name], 1.0) for name, value in progress.sums.items()}


def _validate(run: StageRun, training: Training) -> None:
    """Validation of the averaged weights, callbacks, curves, and the best checkpoint."""
    settings, progress, processes = run.stage.settings, run.progress, training.processes
    means, values = _means(progress), {}
    with averaged_weights(run.model, run.ema):
        batches = validation_batches(
            training.val_set, settings.batch_size, settings.batch_atoms, processes.rank, processes.size
        )
        stress = settings.loss.stress > 0
        errors = validation_errors(run.predictor, batches, processes, stress)
        score = selection_score(errors, settings)

        def scored() -> dict[str, float]:
            nonlocal score
            found: dict[str, float] = {}
            stage, final = run.stage.name, progress.finished and run.stage.name != PRETRAINING
            for callback in training.callbacks if processes.is_first else ():
                own = callback(progress.epoch, progress.step, run.predictor, stage=stage, final=final)
                score, progress.best = callback.select(score, own, progress.best)
                found |= own
            return found

        values = processes.together(scored)
    row: dict[str, float] = {
        "epoch": progress.epoch,
        "step": progress.step,
        "minutes": round(progress.total_minutes, 4),
        "learning_rate": progress.learning_rate,
        "train_loss": means["loss"],
        "train_energy_mae_meV_per_atom": means["energy"] * EV_TO_MEV,
        "train_force_error_meV_per_A": means["forces"] * EV_TO_MEV,
        **{f"val_{name}": value for name, value in errors.items()},
        "pretraining": int(run.stage.name == PRETRAINING),
        **values,
    }
    if progress.counts["noise"]:
        row[NOISE_COLUMN] = means["noise"]
    if stress:
        row[STRESS_COLUMNS[0]] = means["stress"] * EV_TO_MEV if progress.counts["stress"] else math.nan
    for log in training.logs:
        log.append(row)
    training.bar.validated(run.stage.name, progress.epoch, errors["force_mae_meV_per_A"])
    if score < progress.best:
        progress.best = score
        run.save(training.folder / BEST)


def _stop(run: StageRun, training: Training, number: int) -> None:
    """Save between two steps, and end."""
    training.processes.together(lambda: run.save(training.folder / LAST))  # nobody leaves before it is written
    progress = run.progress
    raise Interrupted(
        number,
        f"interrupted in epoch {progress.epoch}, step {progress.step} of the {run.stage.name}; saved; go on with "
        f"'mindscaip train --resume {training.folder}'",
    )


def _check(run: StageRun, training: Training, batches: EpochBatches, value: float, what: str) -> None:
    """End the run if ``value`` is not finite, or if the loss is ``max_loss_jump`` times its running mean.

    Raises:
        MindscaipError: names the batch and the checkpoint, which the first process has written.
    """
    settings, progress = run.stage.settings, run.progress
    limit = settings.max_loss_jump * progress.loss_level if what == "loss" and progress.loss_level else math.inf
    if math.isfinite(value) and value <= limit:
        return
    how = f"became {value}" if not math.isfinite(value) else f"jumped from {progress.loss_level:.3g} to {value:.3g}"

    def save() -> str:
        if not training.processes.is_first:
            return ""
        batch, state = save_failure(training.folder, run.state(), batches, run.predictor, value)
        return f"the batch is in {batch}, the state before the step in {state}"

    raise MindscaipError(
        f"the {what} {how} in epoch {progress.epoch}, step {progress.step}; {training.processes.together(save)}; look "
        f"for wrong labels, or lower training.learning_rate (now {settings.learning_rate}) and go on with 'mindscaip "
        f"train --resume {training.folder} training.learning_rate=...'"
    )
