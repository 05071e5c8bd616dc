"""``mindscaip bsct fetch`` and ``mindscaip bsct convert``: the published scans, and scans in another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN_REASONS = 10
CONVERT_EXAMPLE = """
Examples:

  mindscaip bsct convert bsct_spice scans.h5

  mindscaip bsct convert scans.h5 folder
"""
FETCH_EXAMPLE = """
Examples:

  mindscaip bsct fetch

  mindscaip bsct fetch -o bsct-spice.h5

  mindscaip bsct fetch --archive bsct-79d915b.tar.gz
"""


def register_data(group: typer.Typer) -> None:
    """Add the commands to ``mindscaip bsct``."""
    group.command("fetch", epilog=FETCH_EXAMPLE)(fetch)
    group.command("convert", epilog=CONVERT_EXAMPLE)(convert)


def fetch(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder in the published layout, or a packed file ending in .h5.")
    ] = Path("bsct_spice"),
    archive: Annotated[
        Path | None, typer.Option(help="An archive that was downloaded by other means, for machines without a network.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output when it exists.")] = False,
) -> None:
    """Fetch BSCT-SPICE, the published scans (485 x 100 frames, wB97M-D3(BJ)/def2-TZVPPD), and check them."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from mindscaip.bsct.fetch import BSCT_SPICE
    from mindscaip.bsct.fetch import fetch as fetch_scans
    from mindscaip.console import console

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("Fetching", total=None)
        result = fetch_scans(
            output,
            archive=archive,
            overwrite=overwrite,
            on_bytes=lambda have, total: progress.update(task, completed=have, total=total),
            on_scan=lambda key: progress.update(task, description=f"Unpacking {key}"),
        )
    stated = BSCT_SPICE.num_scans
    console.print(f"Wrote {result.num_scans} scans to {output} (its authors state {stated})", soft_wrap=True)
    console.print(f"{BSCT_SPICE.provenance['licence']}; archive SHA-256 {result.archive_sha256}", soft_wrap=True)


def convert(
    source: Annotated[Path, typer.Argument(help="Scans: a packed HDF5, or a folder <bond>/<id>/atoms_<k>.xyz.")],
    target: Annotated[Path, typer.Argument(help="Where to: a packed file if it ends in .h5, else a folder.")],
    compact: Annotated[
        bool, typer.Option("--compact", help="Packed: keep frames within 1e-7 A of a straight line as its two ends.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output when it exists.")] = False,
) -> None:
    """Convert scans between the published folder layout and the packed HDF5, exact to 1e-9."""
    from mindscaip.bsct.convert import convert_scans
    from mindscaip.bsct.dataset import open_scans
    from mindscaip.console import console, progress_bar

    with progress_bar("scan") as progress:
        task = progress.add_task("Converting", total=len(open_scans(source)), scan="")
        result = convert_scans(
            source,
            target,
            compact=compact,
            overwrite=overwrite,
            on_scan=lambda key: progress.update(task, advance=1, scan=key),
        )
    for key, reason in result.skipped[:SHOWN_REASONS]:
        console.print(f"Skipped {key}: {reason}", markup=False, soft_wrap=True)
    if len(result.skipped) > SHOWN_REASONS:
        console.print(f"... and {len(result.skipped) - SHOWN_REASONS} more scans")
    again = f" ({result.resumed} from an earlier run)" if result.resumed else ""
    console.print(f"Wrote {result.num_scans} scans to {target}{again}; skipped {len(result.skipped)}")
