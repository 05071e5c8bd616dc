"""Energies, forces and stresses of many structures: a batch is one larger graph through the exported module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mindscaip.contract import ExportedModel, check_elements, load_exported
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.graph.neighbors import Edges, neighbor_list
from mindscaip.model.derivatives import (
    forces_from_edge_gradients,
    stress_from_virial,
    virials_from_edge_gradients,
)

DEFAULT_BATCH_SIZE = 16
STREAM_EDGES_CPU = 2048
"""Edges per call of a stream on a CPU: enough that the calls themselves cost little, few enough for its cache."""
STREAM_EDGES_GPU = 262144


@dataclass(frozen=True)
class Prediction:
    """What the model says of one structure.

    Attributes:
        energy: total energy in eV (sum of ``atom_energies`` in float64).
        forces: eV/A, float64 ``[N, 3]``.
        stress: derivative of the energy with respect to a symmetric strain, over the volume: eV/A^3 in ASE's sign,
            float64 ``[3, 3]``, symmetric; None unless periodic along all three lattice vectors and conservative.
        virial: ``W = -sum_e r_e (x) g_e`` in eV, float64 ``[3, 3]``; its antisymmetric part is the torque by which the
            energy depends on the orientation. None where forces are a direct output.
        atom_energies: eV, float64 ``[N]``.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    virial: np.ndarray | None
    atom_energies: np.ndarray


def module_device(module: torch.nn.Module) -> torch.device:
    """The device of the first parameter or buffer (CPU when there is none)."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def as_exported(model: ExportedModel | str | os.PathLike, device: str | torch.device = "cpu") -> ExportedModel:
    """Load ``model`` unless it is loaded already; ``device`` counts only when it is loaded here."""
    return model if isinstance(model, ExportedModel) else load_exported(model, device)


def first_line(error: BaseException) -> str:
    """The line of a (TorchScript) error that says what happened: the last one that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def evaluate(
    model: ExportedModel | str | os.PathLike,
    structures: Sequence[Structure],
    batch_size: int = DEFAULT_BATCH_SIZE,
    *,
    device: str | torch.device = "cpu",
    on_batch: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Evaluate ``structures`` in batches of ``batch_size``, in their order.

    Args:
        model: an exported model or its path; a path is loaded on ``device``.
        on_batch: called after each batch with the number of structures in it (for a progress bar).

    Raises:
        MindscaipError: an element that the model does not know, two atoms on one place, energies or forces that are
            not finite, a failure inside the model, or a batch size below 1.
    """
    if batch_size < 1:
        raise MindscaipError(f"batch_size is {batch_size}; give at least 1")
    exported = as_exported(model, device)
    # Once over all structures: a wrong element is reported before the first batch is paid for.
    for number, structure in enumerate(structures):
        check_elements(exported.contract, sorted(set(structure.symbols)), f"structure {number} (counted from 0)")
    predictions: list[Prediction] = []
    for start in range(0, len(structures), batch_size):
        batch = structures[start : start + batch_size]
        predictions += _evaluate_batch(exported, batch, start)
        if on_batch is not None:
            on_batch(len(batch))
    return predictions


def stream_edges(module: torch.nn.Module) -> int:
    """Edges per call of :func:`evaluate_stream` unless told otherwise, by the device of ``module``."""
    return STREAM_EDGES_CPU if module_device(module).type == "cpu" else STREAM_EDGES_GPU


def evaluate_stream(
    model: ExportedModel, structures: Iterable[Structure], max_edges: int | None = None
) -> Iterator[Prediction | MindscaipError]:
    """Evaluate structures of any sizes, in their order, as many per call as ``max_edges`` edges allow (at least one).

    Where a structure has no answer (an unknown element, two atoms on one place, a result that is not finite, a failure
    of the model) its place holds the error, and the rest goes on. A batch that does not fit into memory is halved.

    Args:
        max_edges: edges of the neighbour list per call; by default what suits the device.
    """
    limit = stream_edges(model.module) if max_edges is None else max_edges
    batch: list[tuple[Structure, Edges] | MindscaipError] = []
    edges_held = 0
    for structure in structures:
        try:
            check_elements(model.contract, sorted(set(structure.symbols)), "the structure")
            edges = neighbor_list(structure, model.contract.list_cutoff)
        except MindscaipError as error:
            batch.append(error)
            continue
        size = edges.index.shape[1]
        if edges_held and edges_held + size > limit:
            yield from _answers(model, batch)
            batch, edges_held = [], 0
        batch.append((structure, edges))
        edges_held += size
    yield from _answers(model, batch)


def _answers(
    model: ExportedModel, batch: Sequence[tuple[Structure, Edges] | MindscaipError]
) -> list[Prediction | MindscaipError]:
    """The predictions of one batch, errors in their places."""
    good = [item for item in batch if not isinstance(item, MindscaipError)]
    found = iter(_answers_of(model, good))
    return [item if isinstance(item, MindscaipError) else next(found) for item in batch]


def _answers_of(model: ExportedModel, batch: Sequence[tuple[Structure, Edges]]) -> list[Prediction | MindscaipError]:
    """Predict together; where that fails, in halves, so that one structure does not spoil the rest."""
    if not batch:
        return []
    try:
        return list(_evaluate_batch(model, [s for s, _ in batch], 0, [edges for _, edges in batch]))
    except MindscaipError as error:
        if len(batch) == 1:
            return [error]
    half = len(batch) // 2
    return _answers_of(model, batch[:half]) + _answers_of(model, batch[half:])


def _evaluate_batch(
    exported: ExportedModel, batch: Sequence[Structure], first: int, lists: Sequence[Edges] | None = None
) -> list[Prediction]:
    """One call of the module; ``first`` is the number of the first structure, for messages."""
    contract = exported.contract
    device = module_device(exported.module)
    atoms = np.array([len(s) for s in batch])
    offsets = np.concatenate([[0], np.cumsum(atoms)])
    if lists is None:
        lists = [neighbor_list(s, contract.list_cutoff) for s in batch]
    index = np.concatenate([edges.index + offset for edges, offset in zip(lists, offsets, strict=False)], axis=1)
    owner = np.repeat(np.arange(len(batch)), [edges.index.shape[1] for edges in lists])

    # With gradients off in the caller, the second call of a TorchScript module would give zero forces without a word:
    # it compiles for the mode that it finds. Inference mode would forbid the derivative altogether. The optimising
    # executor keeps far more for the backward pass (three times the memory) and is no faster here.
    with torch.inference_mode(False), torch.enable_grad(), torch.jit.optimized_execution(False):
        numbers = torch.from_numpy(np.concatenate([s.numbers for s in batch])).to(device)
        edge_index = torch.from_numpy(index).to(device)
        edge_vectors = torch.from_numpy(np.concatenate([edges.vectors for edges in lists])).to(device)
        try:
            energies, gradients, direct = exported.module(numbers, edge_index, edge_vectors)
        except (RuntimeError, torch.jit.Error) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise MindscaipError(
                    f"{len(numbers)} atoms with {len(owner)} edges do not fit into memory; "
                    f"lower the batch size, which is {len(batch)}"
                ) from None
            raise MindscaipError(
                f"{exported.path}: the model failed on {len(numbers)} atoms: {first_line(error)}"
            ) from None

    gradients = gradients.to(torch.float64)
    virials: np.ndarray | None = None
    stresses: np.ndarray | None = None
    if contract.conservative:
        forces = forces_from_edge_gradients(gradients, edge_index, len(numbers))
        owners = torch.from_numpy(owner).to(device)
        strain = virials_from_edge_gradients(gradients, edge_vectors, owners, len(batch))
        volumes = torch.tensor([abs(np.linalg.det(s.full_cell())) for s in batch], dtype=torch.float64, device=device)
        stresses = stress_from_virial(0.5 * (strain + strain.transpose(1, 2)), volumes).cpu().numpy()
        virials = strain.cpu().numpy()
    else:
        forces = direct.to(torch.float64)

    atom_energies = energies.cpu().numpy()
    force_array = forces.cpu().numpy()
    predictions = []
    for b, structure in enumerate(batch):
        own = slice(offsets[b], offsets[b + 1])
        if not (np.isfinite(atom_energies[own]).all() and np.isfinite(force_array[own]).all()):
            raise MindscaipError(
                f"{exported.path}: energy or forces of structure {first + b} (counted from 0) are not finite; "
                "check its geometry for atoms that nearly coincide"
            )
        predictions.append(
            Prediction(
                energy=float(atom_energies[own].sum()),
                forces=force_array[own].copy(),
                stress=stresses[b] if stresses is not None and structure.pbc.all() else None,
                virial=virials[b] if virials is not None else None,
                atom_energies=atom_energies[own].copy(),
            )
        )
    return predictions
