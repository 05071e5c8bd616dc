"""``mindscaip export``: one model.pt from a run, or a rotation average of one."""

from __future__ import annotations

from pathlib import Path

import typer

_EXAMPLE = (
    "Example:  mindscaip export runs/first -o model.pt --dtype float64\n\n"
    "Average:  mindscaip export model.pt -o averaged.pt --rotations lebedev:3"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="export", epilog=_EXAMPLE)(export_command)


def export_command(
    source: Path = typer.Argument(..., metavar="RUN", help="Folder of a run, a checkpoint file, or a model.pt."),
    output: Path = typer.Option(..., "--output", "-o", metavar="MODEL.pt", help="The file to write."),
    dtype: str = typer.Option(None, help="Precision of the weights: float32 (default) or float64."),
    checkpoint: str = typer.Option(None, help="best (default) or last."),
    rotations: str = typer.Option(
        None,
        metavar="GRID",
        help="Average over rotations: lebedev:ORDER, lebedev:ORDERxANGLES or random; +inversion may follow.",
    ),
) -> None:
    """Export the averaged (EMA) weights of a run; the file is reloaded and compared before it counts as done."""
    import tempfile

    from mindscaip.console import console
    from mindscaip.contract import is_exported
    from mindscaip.errors import MindscaipError
    from mindscaip.export import export_rotated, export_run
    from mindscaip.model.rotations import rotation_grid

    if checkpoint not in (None, "best", "last"):
        raise MindscaipError(f"--checkpoint {checkpoint!r} is neither best nor last")
    if rotations is not None:
        rotation_grid(rotations)  # a mistake in it is reported before anything is done
    if is_exported(source):
        if rotations is None:
            raise MindscaipError(f"{source}: it is exported already; give --rotations to average it")
        if dtype is not None or checkpoint is not None:
            raise MindscaipError(f"{source}: --dtype and --checkpoint are for runs, and this is a model.pt")
        contract = export_rotated(source, output, rotations)
    else:
        choice = {"dtype": dtype or "float32", "checkpoint": checkpoint or "best"}
        if rotations is None:
            contract = export_run(source, output, **choice)
        else:
            with tempfile.TemporaryDirectory() as folder:
                base = Path(folder) / "model.pt"
                export_run(source, base, **choice)
                contract = export_rotated(base, output, rotations)
    what = "equal to the trained model"
    if rotations is not None:
        grid = rotation_grid(rotations)
        what = f"equal to its average over {grid.name} ({len(grid)} evaluations per call)"
    console.print(
        f"wrote {output}: {' '.join(contract.elements)}, {contract.parameters} parameters, {contract.dtype}; "
        f"reloaded and {what}"
    )
