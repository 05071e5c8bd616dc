"""``mindscaip bsct report``: one page that shows what the scores found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

REPORT_EXAMPLE = """
Examples:

  mindscaip bsct report scores-small scores-large -o smoothness.html

  mindscaip bsct report "large, 60 M=scores-large" --data scans.h5 -o smoothness.html
"""
SUFFIXES = (".html", ".htm")


def register_report(group: typer.Typer) -> None:
    """Add the command to ``mindscaip bsct``."""
    group.command("report", epilog=REPORT_EXAMPLE)(report)


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Folders written by 'mindscaip bsct score ... -o RUN'; LABEL=RUN names it on the page.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The scans, where they are no longer where the runs found them.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("bsct.html"),
) -> None:
    """Make one self-contained HTML page of scored scans: summary, distributions, and every scan with its curves.

    All runs must be over the same scans. The page needs no network and opens in any browser.
    """
    from mindscaip.console import console, progress_bar
    from mindscaip.errors import MindscaipError
    from mindscaip.report.bsct_data import collect, find_scans, read_run
    from mindscaip.report.bsct_page import write_page

    if output.suffix.lower() not in SUFFIXES:
        raise MindscaipError(f"{output}: the page is HTML; let the name end in .html")
    read = [read_run(run) for run in runs or []]
    scans = find_scans(read, data)
    with progress_bar() as progress:
        task = progress.add_task("Reading scans", total=len(scans))
        found = collect(read, scans, lambda _: progress.advance(task))
    for run, absent in zip(found.runs, found.absent, strict=True):
        if absent:
            key, reason = next(iter(absent.items()))
            console.print(
                f"{run.label}: {len(absent)} of {len(scans)} scans are without a score or curves; the first, {key}: "
                f"{reason}",
                markup=False,
                soft_wrap=True,
            )
    for key, reason in found.unreadable.items():
        console.print(f"Left out {key}: {reason}", markup=False, soft_wrap=True)
    if found.density_note:
        console.print(found.density_note, markup=False, soft_wrap=True)
    write_page(found, output)
    size = output.stat().st_size / 1e6
    potentials = "1 potential" if len(found.runs) == 1 else f"{len(found.runs)} potentials"
    console.print(f"Wrote {output} ({len(found.scans)} scans, {potentials}, {size:.1f} MB)")
