"""``mindscaip export``: one model.pt from a run."""

from __future__ import annotations

from pathlib import Path

import typer

_EXAMPLE = "Example:  mindscaip export runs/first -o model.pt --dtype float64"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="export", epilog=_EXAMPLE)(export_command)


def export_command(
    run: Path = typer.Argument(..., metavar="RUN", help="Folder of a run, or a checkpoint file."),
    output: Path = typer.Option(..., "--output", "-o", metavar="MODEL.pt", help="The file to write."),
    dtype: str = typer.Option("float32", help="Precision of the weights: float32 or float64."),
    checkpoint: str = typer.Option("best", help="best or last."),
) -> None:
    """Export the averaged (EMA) weights of a run; the file is reloaded and compared before it counts as done."""
    from mindscaip.console import console
    from mindscaip.errors import MindscaipError
    from mindscaip.export import export_run

    if checkpoint not in ("best", "last"):
        raise MindscaipError(f"--checkpoint {checkpoint!r} is neither best nor last")
    contract = export_run(run, output, dtype=dtype, checkpoint=checkpoint)
    console.print(
        f"wrote {output}: {' '.join(contract.elements)}, {contract.parameters} parameters, {contract.dtype}; "
        "reloaded and equal to the trained model"
    )
