"""From a configuration to data, model and record: everything that precedes the first step."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric

from mindscaip import __version__
from mindscaip.config import Config, DataConfig, SmoothnessConfig, load_config
from mindscaip.console import console
from mindscaip.data.collection import Collection
from mindscaip.data.formats import STORE_SUFFIXES, read_structures
from mindscaip.data.reference import force_scale, read_isolated_energies, reference_energies
from mindscaip.data.splits import (
    find_leakage,
    molecules,
    shared_molecules,
    split_by_file,
    split_by_rule,
    subsample,
)
from mindscaip.data.store import Store
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.graph.diffknn import list_cutoff
from mindscaip.training.batches import check_batch_atoms
from mindscaip.training.callbacks import Callback
from mindscaip.training.checkpoint import LAST, load_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.distributed import Processes, launch
from mindscaip.training.logs import check_loggers
from mindscaip.training.loop import fit
from mindscaip.training.stages import TRAINING, remaining, stages_of
from mindscaip.training.transfer import KEPT, start_weights, with_architecture

CONFIG_FILE = "config.yaml"
FITTED = "none"
"""In place of a file of isolated atoms: reference energies are fitted although some are known."""
SAME_ENERGY = 1e-6
"""eV; energies of an isolated atom that differ by less are one, written with other digits."""
CHANGEABLE = ("training", "pretraining", "smoothness", "accelerator", "devices", "num_nodes")
"""Sections of the configuration that may change when a run goes on."""


@dataclass(frozen=True)
class TrainingData:
    """Structures of both parts, and what is known of them; ``leakage`` says what they share, if anything."""

    train: Collection
    val: Collection
    isolated: dict[str, float] | None
    sha256: str
    leakage: str = ""


def train(config: Config) -> dict[str, Any]:
    """Start a run in the folder ``config.run``; return the state of its last checkpoint.

    Raises:
        MindscaipError: the folder already holds a run, or configuration, devices or data do not fit.
    """
    check_loggers(config.training.loggers)
    if config.start_from:
        config = with_architecture(config)
    folder = Path(config.run)
    fabric = launch(config)
    processes = Processes(fabric)

    def begin() -> tuple[TrainingData, Prepared]:
        if processes.is_first and (folder / CONFIG_FILE).exists():
            raise MindscaipError(
                f"{folder} already holds a run; go on with it by 'mindscaip train --resume {folder}' "
                "or give another run=FOLDER"
            )
        data = read_data(config.data)
        return data, _prepare(config, data, None, processes.is_first)

    data, prepared = processes.together(begin)
    if processes.is_first:
        _write_config(config)
        if data.leakage:
            what = "warning: training and validation data are not independent" if config.data.val_files else "note"
            console.print(f"{what}: {data.leakage}", markup=False, soft_wrap=True)
    return _fit(fabric, config, prepared, None)


def resume(folder: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Go on with the run in ``folder`` from its last checkpoint, or from the start if there is none yet.

    Args:
        changes: ``key=value`` of the optimisation or the devices to go on with, kept in the run; architecture and data
            stay.

    Raises:
        MindscaipError: no run there, its data have changed since, or a change of what has to stay.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise MindscaipError(
            f"{folder} holds no run (no {CONFIG_FILE}); start one with 'mindscaip train ... run={folder}'"
        )
    for change in changes:
        if change.partition("=")[0].partition(".")[0] not in CHANGEABLE or "=" not in change:
            raise MindscaipError(
                f"--resume keeps the configuration of the run; {change} is not a key=value of "
                f"{', '.join(CHANGEABLE)}, which alone can change"
            )
    config = load_config([str(path), *changes]).model_copy(update={"run": str(folder)})
    check_loggers(config.training.loggers)
    fabric = launch(config)
    processes = Processes(fabric)

    def begin() -> tuple[Prepared, dict[str, Any] | None]:
        data = read_data(config.data)
        state = load_checkpoint(folder / LAST) if (folder / LAST).exists() else None
        if state is not None and "progress" not in state:
            raise MindscaipError(f"{folder / LAST} is of an older mindscaip, which can be exported but not resumed")
        if state is not None and state["record"]["data_sha256"] != data.sha256:
            raise MindscaipError(f"the data of the run in {folder} have changed since it started; start a new run")
        if state is not None:
            past = state["stage"] == TRAINING or state["progress"]["finished"]
            late = [change for change in changes if change.startswith("pretraining.")]
            if past and late:
                raise MindscaipError(f"the run in {folder} is past its pre-training, or has none; leave {late[0]} out")
            remaining(stages_of(config), state)
        return _prepare(config, data, state, processes.is_first), state

    prepared, state = processes.together(begin)
    if processes.is_first and changes:
        _write_config(config)  # now that nothing of it was refused
    return _fit(fabric, config, prepared, state)


@dataclass(frozen=True)
class Prepared:
    """What the loop is given; ``callbacks`` are those of the first process, ``start`` weights of another run."""

    train_set: StructureDataset
    val_set: StructureDataset
    record: dict[str, Any]
    callbacks: list[Callback]
    start: dict[str, torch.Tensor] | None


def _prepare(config: Config, data: TrainingData, state: dict[str, Any] | None, is_first: bool) -> Prepared:
    """Make everything that can turn out wrong, before anything of the run is written.

    Raises:
        MindscaipError: labels, batches or scans that do not fit the configuration.
    """
    _check_stress(config, data.train, is_first)
    record = make_record(config, data)
    reach = list_cutoff(config.model.graph.cutoff, config.model.graph.d0)
    memory, workers = config.data.cache_mb, config.data.workers
    train_set = StructureDataset(data.train, reach, cache_mb=memory, workers=workers)
    val_set = StructureDataset(data.val, reach, cache_mb=memory)
    for stage in stages_of(config):
        check_batch_atoms(train_set.num_atoms, stage.settings.batch_atoms)
    callbacks: list[Callback] = []
    if is_first and config.smoothness != SmoothnessConfig():
        from mindscaip.training.smoothness import make_monitor  # brings bond scans and engines with it

        monitor = make_monitor(config, record["elements"])
        callbacks += [] if monitor is None else [monitor]
    start = None
    if config.start_from and state is None:
        record, start = start_weights(config, record, train_set)
    elif config.start_from and state is not None:
        record |= {name: state["record"][name] for name in KEPT}
    return Prepared(train_set, val_set, record, callbacks, start)


def _check_stress(config: Config, train: Collection, is_first: bool) -> None:
    """A term of the loss without a label, or without a prediction, would be a constant in silence.

    Raises:
        MindscaipError: the loss weighs a stress that no training structure has, or that the model does not predict.
    """
    weight = config.training.loss.stress
    if weight == 0:
        return
    if config.model.head == "direct":
        raise MindscaipError(
            f"training.loss.stress = {weight:g}, but a model with direct forces has no stress; set it to 0, or take "
            "model.head=conservative"
        )
    labelled = train.count_stresses()
    if labelled == 0:
        raise MindscaipError(
            f"training.loss.stress = {weight:g}, but none of the {len(train)} training structures is periodic and has "
            "a stress; set it to 0, or name the label (data.stress_key, or --stress-key at import)"
        )
    if labelled < len(train) and is_first:
        console.print(f"{labelled} of {len(train)} training structures have a stress", soft_wrap=True)


def _write_config(config: Config) -> None:
    with atomic_path(Path(config.run) / CONFIG_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _fit(fabric: Fabric, config: Config, prepared: Prepared, state: dict[str, Any] | None) -> dict[str, Any]:
    own = prepared
    return fit(fabric, config, own.train_set, own.val_set, own.record, state, own.callbacks, own.start)


def read_data(settings: DataConfig) -> TrainingData:
    """Open and split the structures that the configuration names; those of stores stay on disk.

    Raises:
        MindscaipError: no training file given, unreadable files, or an empty part.
    """
    if not settings.train_files:
        raise MindscaipError("no training data: give data.train=FILE (.h5 store or extended xyz)")
    structures, alone = _read(settings.train_files, settings)
    if settings.val_files and settings.split_file:
        raise MindscaipError(
            f"data.val={settings.val} and data.split_file={settings.split_file} both say what validates; give one"
        )
    if settings.val_files:
        others, alone_there = _read(settings.val_files, settings)
        train, val = _without(structures, alone), _without(others, alone_there)
    elif settings.split_file:  # its indices count the isolated atoms
        train, val = (_without(part, alone) for part in split_by_file(structures, settings.split_file))
    else:
        train, val = split_by_rule(_without(structures, alone), settings.split, settings.val_fraction)
    if not len(train) or not len(val):
        raise MindscaipError(
            f"{settings.train} leaves {len(train)} structures to train on and {len(val)} to validate on; give more"
        )
    if settings.max_train is not None:
        train = train.select(subsample(train.indices, settings.max_train))
    known = train.elements()
    foreign = [symbol for symbol in val.elements() if symbol not in known]
    if foreign:
        raise MindscaipError(
            f"the validation part has {', '.join(foreign)}, which no training structure has; choose another split "
            "(data.split, data.split_file, a larger data.max_train), or leave these structures out"
        )
    isolated = _isolated(settings, structures.select(alone))
    return TrainingData(train, val, isolated, _sha256(settings), _leakage(train, val, settings))


def _leakage(train: Collection, val: Collection, settings: DataConfig) -> str:
    """What both parts share: molecules by name and, between files, copies of geometries; empty: nothing."""
    if settings.val_files:
        leak = find_leakage(train, val)
        return str(leak) if leak else ""
    shared = shared_molecules(train, val)
    if not shared or len(set(molecules(train))) == 1:
        return ""  # of a single molecule every split has conformers in both parts
    cure = "" if settings.split_file else "; data.split=group keeps the structures of a molecule in one part"
    names = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
    return f"{len(shared)} molecules are in both parts ({names}), so validation says little about other molecules{cure}"


def make_record(config: Config, data: TrainingData) -> dict[str, Any]:
    """What the model is built on: reference energies, scale, and where they come from.

    Reference energies are those of the isolated atoms where they are known, else least squares on the training part,
    plus the mean binding energy per element (least squares on the training part), so that the network learns
    differences of order one. The validation part takes no part in any of it.
    """
    isolated = reference_energies(data.train, data.isolated)
    binding = reference_energies(data.train, subtract=isolated)
    references = {symbol: isolated[symbol] + binding[symbol] for symbol in isolated}
    return {
        "mindscaip_version": __version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "elements": sorted(references),
        "isolated_energies_eV": data.isolated,
        "reference_energies": references,
        "energy_scale_eV": force_scale(data.train),
        "num_train": len(data.train),
        "num_val": len(data.val),
        "data_train": ", ".join(Path(path).name for path in config.data.train_files),
        "data_sha256": data.sha256,
        "validation_shares_with_training": data.leakage,
    }


def _read(paths: list[str], settings: DataConfig) -> tuple[Collection, np.ndarray]:
    """The structures, and the indices of isolated atoms among those of extended XYZ."""
    parts: list[Store | list[Structure]] = []
    alone: list[int] = []
    count = 0
    for path in paths:
        if Path(path).suffix.lower() in STORE_SUFFIXES and Path(path).is_file():
            parts.append(Store(path))
        else:
            energy, forces, stress = settings.energy_key, settings.forces_key, settings.stress_key
            found = list(read_structures(path, energy_key=energy, forces_key=forces, stress_key=stress))
            alone += [count + k for k, s in enumerate(found) if len(s) == 1 and not s.pbc.any()]
            parts.append(found)
        count += len(parts[-1])
    return Collection(parts), np.array(alone, dtype=np.int64)


def _without(structures: Collection, left_out: np.ndarray) -> Collection:
    return structures.select(structures.indices[~np.isin(structures.indices, left_out)])


def _isolated(settings: DataConfig, atoms: Collection) -> dict[str, float] | None:
    """Energies of the isolated atoms (eV) from their own file, else those that the training files agree on."""
    if settings.isolated.lower() == FITTED:
        return None
    if settings.isolated:
        return read_isolated_energies(settings.isolated, energy_key=settings.energy_key)
    known = [(", ".join(settings.train_files), atom.symbols[0], float(atom.energy or 0.0)) for atom in atoms]
    for path in settings.train_files:
        if Path(path).suffix.lower() in STORE_SUFFIXES:
            with Store(path) as store:
                known += [(path, symbol, energy) for symbol, energy in store.isolated_energies.items()]
    energies: dict[str, float] = {}
    for path, symbol, energy in known:
        if abs(energies.setdefault(symbol, energy) - energy) > SAME_ENERGY:
            raise MindscaipError(
                f"{path} has {energy} eV for an isolated {symbol} atom after one with {energies[symbol]} eV: levels of "
                "theory do not mix; give data.isolated=FILE if it is one"
            )
    return energies or None


def _sha256(settings: DataConfig) -> str:
    digest = hashlib.sha256()
    isolated = "" if settings.isolated.lower() == FITTED else settings.isolated
    for name in filter(None, (*settings.train_files, *settings.val_files, isolated, settings.split_file)):
        with open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
