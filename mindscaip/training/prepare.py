"""From a configuration to data, model and record: everything that precedes the first step."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from mindscaip import __version__
from mindscaip.config import Config, DataConfig, parse_config
from mindscaip.data.formats import STORE_SUFFIXES, read_structures
from mindscaip.data.reference import force_scale, read_isolated_energies, reference_energies
from mindscaip.data.splits import random_split
from mindscaip.data.store import Store
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.model.backbone import MinDScAIP
from mindscaip.training.checkpoint import LAST, load_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.loop import fit

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class TrainingData:
    """Structures of both parts, and what is known of them."""

    train: list[Structure]
    val: list[Structure]
    isolated: dict[str, float] | None
    sha256: str


def train(config: Config) -> dict[str, Any]:
    """Start a run in the folder ``config.run``; return the state of its last checkpoint.

    Raises:
        MindscaipError: the folder already holds a run, or configuration or data do not fit.
    """
    folder = Path(config.run)
    if (folder / CONFIG_FILE).exists():
        raise MindscaipError(
            f"{folder} already holds a run; go on with it by 'mindscaip train --resume {folder}' "
            "or give another run=FOLDER"
        )
    data = read_data(config.data)
    record, model = make_model(config, data)
    with atomic_path(folder / CONFIG_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return _fit(config, model, data, record, None)


def resume(folder: Path) -> dict[str, Any]:
    """Go on with the run in ``folder`` from its last checkpoint, or from the start if there is none yet.

    Raises:
        MindscaipError: no run there, or its data have changed since.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise MindscaipError(
            f"{folder} holds no run (no {CONFIG_FILE}); start one with 'mindscaip train ... run={folder}'"
        )
    config = parse_config(yaml.safe_load(path.read_text())).model_copy(update={"run": str(folder)})
    data = read_data(config.data)
    record, model = make_model(config, data)
    state = load_checkpoint(folder / LAST) if (folder / LAST).exists() else None
    if state is not None and state["record"]["data_sha256"] != data.sha256:
        raise MindscaipError(f"the data of the run in {folder} have changed since it started; start a new run")
    return _fit(config, model, data, record, state)


def _fit(
    config: Config, model: MinDScAIP, data: TrainingData, record: dict[str, Any], state: dict[str, Any] | None
) -> dict[str, Any]:
    train_set = StructureDataset(data.train, model.list_cutoff)
    val_set = StructureDataset(data.val, model.list_cutoff)
    return fit(config, model, train_set, val_set, record, state)


def read_data(settings: DataConfig) -> TrainingData:
    """Read and split the structures that the configuration names.

    Raises:
        MindscaipError: no training file given, unreadable files, or an empty part.
    """
    if not settings.train:
        raise MindscaipError("no training data: give data.train=FILE (.h5 store or extended xyz)")
    structures = _read(settings.train, settings)
    if settings.val:
        train, val = structures, _read(settings.val, settings)
    else:
        groups = [s.group for s in structures] if settings.split_by_group else None
        val_part, train_part = random_split(len(structures), [settings.val_fraction], seed=0, groups=groups)
        train, val = [structures[i] for i in train_part], [structures[i] for i in val_part]
    if not train or not val:
        raise MindscaipError(
            f"{settings.train} leaves {len(train)} structures to train on and {len(val)} to validate on; give more"
        )
    return TrainingData(train[: settings.max_train], val, _isolated(settings), _sha256(settings))


def make_model(config: Config, data: TrainingData) -> tuple[dict[str, Any], MinDScAIP]:
    """The untrained model, seeded, and the record of what it is built on.

    Reference energies are those of the isolated atoms where they are known, plus the mean binding energy per element
    (least squares on the training part), so that the network learns differences of order one.
    """
    isolated = reference_energies(data.train, data.isolated)
    unbound = [_minus_references(s, isolated) for s in data.train]
    binding = reference_energies(unbound)
    references = {symbol: isolated[symbol] + binding[symbol] for symbol in isolated}
    scale = force_scale(data.train)
    elements = sorted(references)
    record = {
        "mindscaip_version": __version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "elements": elements,
        "isolated_energies_eV": data.isolated,
        "reference_energies": references,
        "energy_scale_eV": scale,
        "num_train": len(data.train),
        "num_val": len(data.val),
        "data_train": Path(config.data.train).name,
        "data_sha256": data.sha256,
    }
    torch.manual_seed(config.training.seed)
    return record, MinDScAIP(config.model, elements, references, scale)


def _minus_references(structure: Structure, references: dict[str, float]) -> Structure:
    if structure.energy is None:
        raise MindscaipError("a training structure has no energy; label the data or name the key with data.energy_key")
    return replace(structure, energy=structure.energy - sum(references[symbol] for symbol in structure.symbols))


def _read(path: str, settings: DataConfig) -> list[Structure]:
    return list(read_structures(path, energy_key=settings.energy_key, forces_key=settings.forces_key))


def _isolated(settings: DataConfig) -> dict[str, float] | None:
    if settings.isolated:
        return read_isolated_energies(settings.isolated, energy_key=settings.energy_key)
    if Path(settings.train).suffix.lower() in STORE_SUFFIXES:
        with Store(settings.train) as store:
            return dict(store.isolated_energies) or None
    return None


def _sha256(settings: DataConfig) -> str:
    digest = hashlib.sha256()
    for name in filter(None, (settings.train, settings.val, settings.isolated)):
        with open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
