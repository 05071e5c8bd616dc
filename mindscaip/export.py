"""From a trained run to one ``model.pt`` that every engine loads."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mindscaip import __version__
from mindscaip.contract import Contract, ExportedModel, load_exported, write_exported
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.model.attention import fold_norms
from mindscaip.model.backbone import MinDScAIP
from mindscaip.model.exported import ExportedPotential
from mindscaip.model.rotations import RotationAverage, RotationGrid, rotation_grid
from mindscaip.training.checkpoint import BEST, LAST, build_model, load_checkpoint

DTYPES = {"float32": torch.float32, "float64": torch.float64}
ROTATIONS = "rotations"
"""Key of the metadata that says over which rotations a model is averaged."""


def export_model(
    model: MinDScAIP, path: Path, *, elements: list[str], k: int, dtype: str = "float32", metadata: dict[str, Any]
) -> Contract:
    """Script ``model``, write it with its contract, reload it and compare it with the eager model.

    Args:
        dtype: precision of the weights, ``float32`` or ``float64``; edges and energies are float64 either way.

    Raises:
        MindscaipError: unknown dtype, or the reloaded file does not reproduce the eager model (nothing is kept then).
    """
    if dtype not in DTYPES:
        raise MindscaipError(f"dtype {dtype!r} is not supported; choose float32 or float64")
    model.set_precision(DTYPES[dtype])
    eager = ExportedPotential(model).eval()
    folded = fold_norms(deepcopy(eager))
    contract = Contract(
        elements=tuple(elements),
        cutoff=model.cutoff,
        list_cutoff=model.list_cutoff,
        k=k,
        num_layers=len(model.blocks),
        dtype=dtype,
        conservative=not model.direct,
        smooth=model.kind == "diffknn" and model.rank_function == "bump",
        ranking=model.ranking,
        parameters=sum(p.numel() for p in folded.parameters()),
    )
    contract = write_exported(torch.jit.script(folded), path, contract, metadata)
    try:
        compare_with_eager(eager, path, elements)
    except MindscaipError:
        path.unlink()
        raise
    return contract


def compare_with_eager(
    eager: nn.Module,
    path: Path,
    elements: Sequence[str],
    sizes: Sequence[tuple[int, float]] = ((1, 1.0), (2, 2.5), (12, 5.0), (40, 8.0)),
) -> None:
    """Reload ``path`` and compare it with the eager module on random structures.

    Args:
        sizes: numbers of atoms and edges (A) of the cubes that hold them.

    Raises:
        MindscaipError: energies or gradients differ by more than rounding.
    """
    from ase.data import atomic_numbers

    from mindscaip.data.structure import Structure
    from mindscaip.graph.neighbors import neighbor_list

    reloaded = load_exported(path)
    tolerance = 1e-9 if reloaded.contract.dtype == "float64" else 1e-4
    generator = torch.Generator().manual_seed(0)
    known = torch.tensor([atomic_numbers[symbol] for symbol in elements])
    for num_atoms, box in sizes:
        positions = box * torch.rand((num_atoms, 3), generator=generator, dtype=torch.float64)
        numbers = known[torch.randint(len(elements), (num_atoms,), generator=generator)]
        edges = neighbor_list(Structure(numbers.numpy(), positions.numpy()), reloaded.contract.list_cutoff)
        arguments = (numbers, torch.from_numpy(edges.index), torch.from_numpy(edges.vectors))
        with torch.random.fork_rng(devices=[]):  # a model of random rotations draws the same ones
            torch.manual_seed(num_atoms)
            expected = eager(*arguments)
            torch.manual_seed(num_atoms)
            found = reloaded.module(*arguments)
        for name, ours, theirs in zip(("energies", "edge gradients", "forces"), expected, found, strict=True):
            difference = (ours - theirs).abs().max().item() if ours.numel() else 0.0
            bound = tolerance * (1.0 + (ours.abs().max().item() if ours.numel() else 0.0))
            if not difference <= bound:
                raise MindscaipError(
                    f"{path}: the exported file differs from the trained model in {name} by {difference:.3g} "
                    f"(allowed {bound:.3g}); nothing was written"
                )


def export_run(run: Path, path: Path, *, dtype: str = "float32", checkpoint: str = "best") -> Contract:
    """Export the EMA weights of a run's best or last checkpoint.

    Args:
        run: folder of a run, or a checkpoint file.

    Raises:
        MindscaipError: as :func:`load_checkpoint` and :func:`export_model`.
    """
    file = run
    if run.is_dir() or not run.suffix:
        file = run / {"best": BEST, "last": LAST}[checkpoint]
    state = load_checkpoint(file)
    model, config = build_model(state)
    metadata = {"config": state["config"], "record": state["record"]}
    return export_model(model, path, elements=state["elements"], k=config.model.graph.k, dtype=dtype, metadata=metadata)


def rotated(exported: ExportedModel, grid: RotationGrid) -> ExportedModel:
    """The average of an exported model over ``grid``, in memory (see :mod:`mindscaip.model.rotations`).

    Raises:
        MindscaipError: the model is an average over rotations already.
    """
    if ROTATIONS in exported.metadata:
        raise MindscaipError(
            f"{exported.path}: it is averaged over {exported.metadata[ROTATIONS]['grid']} already; "
            "give the model that it was made from"
        )
    average = RotationAverage(exported.module, grid, exported.contract.conservative)
    contract = replace(
        exported.contract,
        conservative=exported.contract.conservative and not grid.random,
        smooth=exported.contract.smooth and not grid.random,
        staged=False,
        mindscaip_version=__version__,
        torch_version=str(torch.__version__),
        sha256="",
    )
    record = {"grid": grid.name, "evaluations": len(grid), "base_sha256": exported.contract.sha256}
    return ExportedModel(
        module=torch.jit.script(average.eval()),
        contract=contract,
        metadata={**exported.metadata, ROTATIONS: record},
        path=exported.path,
    )


def export_rotated(base: Path, path: Path, rotations: str) -> Contract:
    """Write the average of the ``model.pt`` at ``base`` over ``rotations``, reload it and compare.

    Args:
        rotations: as :func:`mindscaip.model.rotations.rotation_grid` reads it.

    Raises:
        MindscaipError: ``rotations`` is not understood, ``base`` is not a whole model or averaged already, or the
            reloaded file differs (nothing is kept then).
    """
    grid = rotation_grid(rotations)
    exported = load_exported(base)
    average = rotated(exported, grid)
    eager = RotationAverage(exported.module, grid, exported.contract.conservative).eval()
    with atomic_path(path) as temporary:
        contract = write_exported(average.module, temporary, average.contract, average.metadata)
        compare_with_eager(eager, temporary, contract.elements, sizes=((1, 1.0), (4, 3.0)))
    return contract
