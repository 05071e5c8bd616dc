"""``mindscaip report``: the page of a training run."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="report", epilog="Example:  mindscaip report runs/first -o first.html")(report_command)


def report_command(
    run: Path = typer.Argument(..., metavar="RUN", help="Folder of a run of 'mindscaip train', finished or not."),
    output: Path = typer.Option(None, "-o", "--output", help="The page. [default: RUN/report.html]"),
) -> None:
    """Write a page of a training run: losses, validation errors, smoothness and dynamics over the epochs."""
    from mindscaip.console import console
    from mindscaip.errors import MindscaipError
    from mindscaip.report.training import training_page

    page = output or run / "report.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise MindscaipError(f"-o {page}: the page is HTML; let the name end in .html")
    training_page(run).write(page)
    console.print(f"Wrote {page}", markup=False)
