"""``mindscaip evaluate``: errors of a model.pt on labelled structures."""

from __future__ import annotations

import json
from pathlib import Path

import typer

_EXAMPLE = (
    "Example:  mindscaip evaluate model.pt test.xyz --json\n\n"
    "Symmetry:  mindscaip evaluate model.pt test.xyz --rotations 10 --average lebedev:3 --average lebedev:5"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="evaluate", epilog=_EXAMPLE)(evaluate_command)


def evaluate_command(
    model: Path = typer.Argument(..., metavar="MODEL.pt"),
    data: Path = typer.Argument(..., metavar="DATA", help="Labelled structures: .h5 store or extended xyz."),
    energy_key: str = typer.Option(None, help="Name of the energy in extended xyz."),
    forces_key: str = typer.Option(None, help="Name of the forces in extended xyz."),
    batch_size: int = typer.Option(16, help="Structures per call."),
    rotations: int = typer.Option(0, metavar="N", help="Also the spread over N random orientations of the input."),
    average: list[str] = typer.Option(
        [], metavar="GRID", help="With --rotations: the same for the model averaged over GRID; may be repeated."
    ),
    seed: int = typer.Option(0, help="Of the random orientations."),
    as_json: bool = typer.Option(False, "--json", help="Print the errors as JSON."),
) -> None:
    """Print MAE and RMSE of energy (meV/atom), forces (meV/A) and, where labelled, stress (meV/A^3)."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from mindscaip.console import progress_bar
    from mindscaip.contract import load_exported
    from mindscaip.data.formats import read_structures
    from mindscaip.engines.batched import evaluate
    from mindscaip.errors import MindscaipError
    from mindscaip.export import rotated
    from mindscaip.metrics import error_statistics
    from mindscaip.model.rotations import rotation_grid
    from mindscaip.studies.symmetry import symmetry

    if rotations < 0 or rotations == 1:
        raise MindscaipError(f"--rotations {rotations}: give at least 2 random orientations")
    if average and not rotations:
        raise MindscaipError(f"--average {average[0]} measures nothing by itself; give --rotations 10 with it")
    grids = [rotation_grid(text) for text in average]

    exported = load_exported(model)
    structures = list(read_structures(data, energy_key=energy_key, forces_key=forces_key))
    models = {"model": exported} | {grid.name: rotated(exported, grid) for grid in grids}
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=len(structures) * (1 + rotations * len(models)))

        def advance(count: int) -> None:
            bar.advance(task, count)

        predictions = evaluate(exported, structures, batch_size, on_batch=advance)
        errors = error_statistics(structures, predictions)
        symmetries = {}
        if rotations:
            for name, one in models.items():
                symmetries[name] = symmetry(one, structures, rotations, seed, batch_size, on_batch=advance)
    if as_json:
        answer = {"model": str(model), "data": str(data), "structures": len(structures), **errors}
        if symmetries:
            answer["symmetry"] = {name: asdict(found) for name, found in symmetries.items()}
        typer.echo(json.dumps(answer, indent=1))
        return
    table = Table("quantity", "MAE", "RMSE", title=f"{model} on {data} ({len(structures)} structures)")
    for name, unit in (("energy", "meV/atom"), ("forces", "meV/A"), ("stress", "meV/A^3")):
        if f"{name}_mae" in errors:
            table.add_row(f"{name} ({unit})", f"{errors[f'{name}_mae']:.3f}", f"{errors[f'{name}_rmse']:.3f}")
    out = Console(highlight=False)
    out.print(table)
    if symmetries:
        table = Table(
            *("average over", "cost", "energy\nspread", "largest", "force\nspread", "energy\nMAE", "force\nMAE"),
            title=f"{rotations} random orientations of each structure (meV/atom, meV/A)",
        )
        sizes = {"model": 1} | {grid.name: len(grid) for grid in grids}
        for name, found in symmetries.items():
            values = (found.energy_spread, found.energy_range, found.forces_spread)
            numbers = (*values, found.errors["energy_mae"], found.errors["forces_mae"])
            table.add_row("-" if name == "model" else name, str(sizes[name]), *(f"{number:.3g}" for number in numbers))
        out.print(table)
