"""``mindscaip info``: what a model.pt promises, and how it was made."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="info", epilog="Example:  mindscaip info model.pt")(info_command)


def info_command(
    model: Path = typer.Argument(..., metavar="MODEL.pt"),
    as_json: bool = typer.Option(False, "--json", help="Print contract, parameters by room and record as JSON."),
) -> None:
    """Show the contract of an exported model, where its parameters are, and its training record."""
    from rich.console import Console
    from rich.table import Column, Table

    from mindscaip.contract import load_exported
    from mindscaip.model.parameters import parameters_by_room

    exported = load_exported(model)
    contract, metadata = exported.contract, exported.metadata
    rooms = parameters_by_room(exported.module)
    if as_json:
        typer.echo(
            json.dumps({"contract": asdict(contract), "parameters_by_room": rooms, "metadata": metadata}, indent=1)
        )
        return
    out = Console(highlight=False)
    table = Table("key", Column("value", overflow="fold"), title=f"contract of {model}")
    for line in contract.to_text().splitlines():
        table.add_row(*line.split(" ", 1))
    out.print(table)
    table = Table("room", Column("parameters", justify="right"), title="parameters by room")
    for room, count in rooms.items():
        table.add_row(room, f"{count:,}")
    table.add_row("all", f"{sum(rooms.values()):,}", style="bold")
    out.print(table)
    table = Table("key", "value", title="record")
    for key, value in _flat(metadata):
        table.add_row(key, str(value))
    out.print(table)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value))
    return rows
