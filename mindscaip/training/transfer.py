"""Start a run from the weights of another one: what was learnt on other data, or by a pre-training alone.

Taken over are the averaged (EMA) weights, the architecture and the scale; the heads are those of the new run. The model
knows the elements of its own data: rows of the element embeddings go by symbol, and new elements start untrained.
Reference energies are shifted by what the model misses on the training part, least squares per element, so that another
level of theory or other isolated atoms do not have to be unlearnt.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from mindscaip.config import Config, parse_config
from mindscaip.data.reference import reference_energies
from mindscaip.data.splits import subsample
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.model.backbone import MinDScAIP
from mindscaip.training.batches import validation_batches
from mindscaip.training.checkpoint import BEST, load_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.schedule import EMBEDDINGS
from mindscaip.training.stages import build_predictor, inherit, stages_of

KEPT = ("reference_energies", "energy_scale_eV", "start_from")
"""Of the record: what a run that goes on keeps, because it does not follow from its own data."""
SAMPLE = 500
"""Training structures that the reference energies are fitted to."""
_OWN = ("species_of", "reference_energies", "scale")
"""Buffers that follow from elements and record."""


def checkpoint_of(start_from: str) -> Path:
    """The checkpoint that the key ``start_from`` names: a file, or the best one of a run.

    Raises:
        MindscaipError: there is none.
    """
    path = Path(start_from)
    file = path / BEST if path.is_dir() else path
    if not file.is_file():
        raise MindscaipError(
            f"start_from={start_from}: there is no checkpoint {file}; give the folder of a run, or a checkpoint in one"
        )
    return file


def _load(start_from: str) -> dict[str, Any]:
    file = checkpoint_of(start_from)
    try:
        return load_checkpoint(file)
    except MindscaipError as error:
        raise MindscaipError(
            f"start_from={start_from}: {error}; an exported model has lost what training needs: give the run that it "
            "was exported from"
        ) from None


def with_architecture(config: Config) -> Config:
    """The configuration with the architecture of the run that it starts from; the head is its own.

    Raises:
        MindscaipError: no such run, or keys of the model that are given and differ.
    """
    theirs = parse_config(_load(config.start_from)["config"]).model
    different = _differences(config.model, theirs, "model")
    if different:
        raise MindscaipError(
            f"start_from={config.start_from} has another architecture: {', '.join(different)}; leave these keys (or "
            "the preset) out, or start without it"
        )
    model = theirs.model_copy(update={"head": config.model.head})
    return config.model_copy(update={"model": model})


def _differences(own: BaseModel, theirs: BaseModel, prefix: str) -> list[str]:
    """Keys that were given and differ; the head may."""
    found: list[str] = []
    for name in sorted(own.model_fields_set - {"head"}):
        a, b = getattr(own, name), getattr(theirs, name)
        if isinstance(a, BaseModel):
            found += _differences(a, b, f"{prefix}.{name}")
        elif a != b:
            found.append(f"{prefix}.{name} = {b}, not {a}")
    return found


def start_weights(
    config: Config, record: dict[str, Any], train_set: StructureDataset
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the weights that a run of ``config`` starts with.

    Args:
        record: of the new data (elements, reference energies, scale).
        train_set: the training part.

    Returns:
        The record with the scale and the shifted reference energies; weights by name, heads that both models have
        included.

    Raises:
        MindscaipError: no such run; energies that are not finite.
    """
    file, parent = checkpoint_of(config.start_from), _load(config.start_from)
    symbols, known = record["elements"], parent["elements"]
    references = {s: parent["reference_energies"].get(s, record["reference_energies"][s]) for s in symbols}
    record = record | {
        "reference_energies": references,
        "energy_scale_eV": parent["scale"],
        "start_from": {
            "checkpoint": f"{file.absolute().parent.name}/{file.name}",
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "steps": parent["record"]["steps"],
            "data_train": parent["record"]["data_train"],
        },
    }
    model = build_predictor(config, stages_of(config)[0], record).model
    own = model.state_dict()
    weights: dict[str, Tensor] = {}
    for name, tensor in parent["ema"].items():
        if name.startswith(EMBEDDINGS):
            rows = own[name].clone()
            for row, symbol in enumerate(symbols):
                if symbol in known:
                    rows[row] = tensor[known.index(symbol)]
            weights[name] = rows
        elif name in own and name not in _OWN:
            weights[name] = tensor
    inherit(model, weights)
    missed = reference_energies(_missed(model, config, train_set))
    record["reference_energies"] = {symbol: references[symbol] + missed[symbol] for symbol in symbols}
    return record, weights


@torch.no_grad()
def _missed(model: MinDScAIP, config: Config, train_set: StructureDataset) -> list[Structure]:
    """Compositions of a sample of structures, with the energies (eV) that the model misses as their energies.

    Raises:
        MindscaipError: an energy that is not finite.
    """
    train = train_set.structures
    sample = StructureDataset(train.select(subsample(train.indices, SAMPLE)), train_set.cutoff, cache_mb=0.0)
    size, atoms = config.training.batch_size, config.training.batch_atoms
    found: list[Structure] = []
    for batch in validation_batches(sample, size, atoms):
        energies, _ = model(batch.numbers, batch.edge_index, batch.edge_vectors)
        missed = batch.energy.index_add(0, batch.atom_structure, energies, alpha=-1.0)
        numbers = np.split(batch.numbers.numpy(), np.cumsum(batch.num_atoms.numpy())[:-1])
        for own, energy in zip(numbers, missed.tolist(), strict=True):
            if not math.isfinite(energy):
                raise MindscaipError(
                    f"the model to start from gives structure {len(found)} of a sample of the training part an energy "
                    f"that is {energy} from its label; start from another one"
                )
            found.append(Structure(own, np.zeros((len(own), 3)), energy=energy))
    return found
