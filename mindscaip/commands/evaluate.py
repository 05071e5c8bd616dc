"""``mindscaip evaluate``: errors of a model.pt on labelled structures."""

from __future__ import annotations

import json
from pathlib import Path

import typer

_EXAMPLE = "Example:  mindscaip evaluate model.pt test.xyz --json"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="evaluate", epilog=_EXAMPLE)(evaluate_command)


def evaluate_command(
    model: Path = typer.Argument(..., metavar="MODEL.pt"),
    data: Path = typer.Argument(..., metavar="DATA", help="Labelled structures: .h5 store or extended xyz."),
    energy_key: str = typer.Option(None, help="Name of the energy in extended xyz."),
    forces_key: str = typer.Option(None, help="Name of the forces in extended xyz."),
    batch_size: int = typer.Option(16, help="Structures per call."),
    as_json: bool = typer.Option(False, "--json", help="Print the errors as JSON."),
) -> None:
    """Print MAE and RMSE of energy (meV/atom), forces (meV/A) and, where labelled, stress (meV/A^3)."""
    from rich.console import Console
    from rich.table import Table

    from mindscaip.console import progress_bar
    from mindscaip.contract import load_exported
    from mindscaip.data.formats import read_structures
    from mindscaip.engines.batched import evaluate
    from mindscaip.metrics import error_statistics

    exported = load_exported(model)
    structures = list(read_structures(data, energy_key=energy_key, forces_key=forces_key))
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=len(structures))
        predictions = evaluate(exported, structures, batch_size, on_batch=lambda n: bar.advance(task, n))
    errors = error_statistics(structures, predictions)
    if as_json:
        typer.echo(json.dumps({"model": str(model), "data": str(data), "structures": len(structures), **errors}, indent=1))
        return
    table = Table("quantity", "MAE", "RMSE", title=f"{model} on {data} ({len(structures)} structures)")
    for name, unit in (("energy", "meV/atom"), ("forces", "meV/A"), ("stress", "meV/A^3")):
        if f"{name}_mae" in errors:
            table.add_row(f"{name} ({unit})", f"{errors[f'{name}_mae']:.3f}", f"{errors[f'{name}_rmse']:.3f}")
    Console(highlight=False).print(table)
