"""``mindscaip doctor``: which engines load, and the command that mends what does not."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="doctor", epilog="Example:  mindscaip doctor --json")(doctor_command)


def doctor_command(
    as_json: bool = typer.Option(False, "--json", help="Print the findings as JSON."),
) -> None:
    """Try every engine, show versions, and name the command that mends what is missing or mismatched.

    Exit status 1 when something that is installed does not work, 0 otherwise: engines that are not installed are no
    defect.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mindscaip.console import progress_bar
    from mindscaip.engines.doctor import CHECKS, examine

    with progress_bar() as progress:
        task = progress.add_task("trying engines", total=len(CHECKS))
        findings = examine(on_done=lambda _: progress.advance(task))
    defects = [finding for finding in findings if finding.is_defect]
    if as_json:
        typer.echo(json.dumps({"ok": not defects, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        out = Console(highlight=False)
        colour = {"ok": "green", "missing": "yellow", "broken": "red"}
        table = Table("", "what", "version", "finding", box=SIMPLE)
        for finding in findings:
            mark = f"[{colour[finding.status]}]{finding.status}[/]"
            table.add_row(mark, escape(finding.name), escape(finding.version), escape(finding.detail))
        out.print(table)
        for finding in findings:
            if finding.cure:
                # Cures hold square brackets, which are no markup.
                out.print(f"{finding.name} ({finding.purpose}):  [bold]{escape(finding.cure)}[/bold]", soft_wrap=True)
    if defects:
        raise typer.Exit(1)
