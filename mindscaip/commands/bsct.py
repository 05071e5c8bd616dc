"""``mindscaip bsct``: score the smoothness of a potential along bond scans, and build such scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindscaip.commands.bsct_build import register_build

if TYPE_CHECKING:
    from mindscaip.bsct.score import ScoreSummary

SHOWN_REASONS = 10
SCORE_EXAMPLE = """
Examples:

  mindscaip bsct score model.pt scans.h5 -o scores

  mindscaip bsct score gfn2-xtb bsct_spice --json

  mindscaip bsct score ase:my_module:make_calculator scans.h5
"""


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(
        no_args_is_help=True, help="Bond Smoothness Characterization Test: score a potential, build bond scans."
    )
    group.command("score", epilog=SCORE_EXAMPLE)(score)
    register_build(group)
    app.add_typer(group, name="bsct")


def score(
    model: Annotated[
        str, typer.Argument(help="A model.pt, gfn2-xtb, gfn1-xtb or ase:module:callable (returns an ASE calculator).")
    ],
    dataset: Annotated[
        Path, typer.Argument(help="Scans: a packed HDF5, or a folder <bond>/<id>/atoms_<k>.xyz or its parent.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for predictions and tables; resumes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    device: Annotated[str, typer.Option(help="Torch device of a model.pt.")] = "cpu",
    batch_size: Annotated[int | None, typer.Option(help="Frames per call of a model.pt.")] = None,
) -> None:
    """Score a potential: Force Smoothness Deviation with energy and force errors, per bond type and scan.

    Scans that cannot be read, or that hold an element the potential does not know, are skipped, counted and named.
    With -o every scan is saved when it is done; the same command goes on where an interrupted one stopped.
    """
    from mindscaip.bsct.dataset import open_scans
    from mindscaip.bsct.potentials import resolve_potential
    from mindscaip.bsct.score import score_scans
    from mindscaip.console import console, progress_bar

    potential = resolve_potential(model, device=device, batch_size=batch_size)
    scans = open_scans(dataset)
    with progress_bar("scan") as progress:
        task = progress.add_task("Scoring", total=len(scans), scan="")

        def show(key: str) -> None:
            progress.update(task, advance=1, scan=key)

        try:
            summary = score_scans(potential, scans, output, show)
        except KeyboardInterrupt:
            if output is not None:
                console.print(f"Interrupted; the same command with -o {output} goes on from here.")
            raise
    _report_skipped(summary)
    if as_json:
        typer.echo(json.dumps(summary.data, indent=1, allow_nan=False))
    else:
        _print_table(summary)
    if output is not None:
        again = f" ({summary.resumed} scans from an earlier run)" if summary.resumed else ""
        console.print(f"Results are in {output}: scans.csv, summary.json, predictions/{again}")


def _print_table(summary: ScoreSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    data = summary.data
    table = Table(title=f"FSD of {data['potential']['name']} (1/A), errors in eV and eV/A, means over scans")
    headers = ("bond", "scans", "FSD", "compress", "stretch", "E MAE", "E MAE\nshifted", "F MAE")
    for name in headers:
        table.add_column(name, justify="left" if name == "bond" else "right", no_wrap=True)
    rows = [*data["by_bond"].items(), ("all", data["mean"])]
    for number, (bond, mean) in enumerate(rows):
        last_bond = number == len(rows) - 2
        table.add_row(
            bond,
            str(mean["num_scans"]),
            *(_text(mean[name], 2) for name in ("fsd", "fsd_compress", "fsd_stretch")),
            *(_text(mean[name], 3) for name in ("energy_mae", "energy_mae_shifted", "force_mae")),
            end_section=last_bond,
        )
    out = Console(highlight=False)
    out.print(table)
    coarse = sum(row.max_log_step > 1 for row in summary.rows)
    out.print(
        f"{data['num_scans']} of {data['dataset']['num_scans']} scans, {data['num_frames']} frames "
        f"({data['num_dropped_frames']} without a reference left out), {data['num_skipped']} scans skipped, "
        f"{data['seconds']:.1f} s. In {coarse} scans the grid does not resolve a change (max_log_step above 1).",
        soft_wrap=True,
    )


def _report_skipped(summary: ScoreSummary) -> None:
    from mindscaip.console import console

    for key, reason in summary.skipped[:SHOWN_REASONS]:
        console.print(f"Skipped {key}: {reason}", markup=False, soft_wrap=True)
    if len(summary.skipped) > SHOWN_REASONS:
        console.print(f"... and {len(summary.skipped) - SHOWN_REASONS} more scans, listed in the summary")


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
