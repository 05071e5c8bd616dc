"""``mindscaip bsct``: score the smoothness of potentials along bond scans, compare them, build and convert scans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindscaip.commands.bsct_build import register_build
from mindscaip.commands.bsct_data import register_data
from mindscaip.commands.bsct_report import register_report

if TYPE_CHECKING:
    from mindscaip.bsct.compare import Comparison
    from mindscaip.bsct.potentials import Potential
    from mindscaip.bsct.score import ScoreSummary

SHOWN_REASONS = 10
MOST_WORKERS = 8
"""Worker processes at most unless asked for: each holds the potential in memory."""
SPEED_WINDOW = 600.0
"""Seconds over which the speed is estimated: a scan may take minutes."""
SCORE_EXAMPLE = """
Examples:

  mindscaip bsct score model.pt scans.h5 -o scores

  mindscaip bsct score gfn2-xtb bsct_spice --dense 0 --json

  mindscaip bsct score mace-off:small scans.h5 -o scores-mace

  mindscaip bsct score ase:my_module:make_calculator scans.h5
"""
COMPARE_EXAMPLE = """
Example:

  mindscaip bsct compare scores scores-mace -o table.md
"""


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Bond Smoothness Characterization Test: score and compare potentials; build, fetch, convert bond scans.",
    )
    group.command("score", epilog=SCORE_EXAMPLE)(score)
    group.command("compare", epilog=COMPARE_EXAMPLE)(compare)
    register_build(group)
    register_report(group)
    register_data(group)
    app.add_typer(group, name="bsct")


def score(
    model: Annotated[
        str,
        typer.Argument(
            help="A model.pt, gfn2-xtb, gfn1-xtb, ase:module:callable (returns an ASE calculator), or a short name: "
            "mace, mace-off, aimnet2, ani2x, orb, uma, sevennet, chgnet, with a variant as in mace-off:small."
        ),
    ],
    dataset: Annotated[
        Path, typer.Argument(help="Scans: a packed HDF5, or a folder <bond>/<id>/atoms_<k>.xyz or its parent.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for predictions and tables; resumes.")
    ] = None,
    dense: Annotated[
        int | None,
        typer.Option(
            help="Geometries per frame interval for fsd_intrinsic; 0 leaves it out. "
            "[default: 10 for a model.pt, 2 for calculators]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    device: Annotated[str, typer.Option(help="Torch device of a model.pt or a short name.")] = "cpu",
    batch_edges: Annotated[
        int | None, typer.Option(help="Edges per call of a model.pt. [default: 2048 on a CPU, 262144 on a GPU]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes. [default: all cores, at most 8, for xTB and for a model.pt on a CPU, else 1]"),
    ] = None,
) -> None:
    """Score a potential: both Force Smoothness Deviations with energy and force errors, per bond type and scan.

    Scans that cannot be read, or that hold an element the potential does not know, are skipped, counted and named.
    With -o every scan is saved when it is done; the same command goes on where an interrupted one stopped.
    """
    from mindscaip.bsct.dataset import open_scans
    from mindscaip.bsct.potentials import resolve_potential
    from mindscaip.bsct.score import score_scans
    from mindscaip.console import console, progress_bar
    from mindscaip.errors import MindscaipError

    if workers is not None and workers < 1:
        raise MindscaipError(f"workers is {workers}; give at least 1")
    potential = resolve_potential(model, device=device, batch_edges=batch_edges)
    scans = open_scans(dataset)
    with progress_bar("scan") as progress:
        progress.speed_estimate_period = SPEED_WINDOW
        task = progress.add_task("Scoring", total=len(scans), scan="")

        def show(key: str) -> None:
            progress.update(task, advance=1, scan=key)

        try:
            summary = score_scans(
                potential, scans, output, show, dense=dense, workers=workers or _workers(potential, len(scans))
            )
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


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders written by 'mindscaip bsct score ... -o FOLDER'.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Table to write: .txt, .csv, .md or .html.")
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Restrict runs over different scans to those that all of them scored.")
    ] = False,
    sort: Annotated[str, typer.Option(help="Column to sort by, such as fsd, force_mae or seconds.")] = "fsd_intrinsic",
) -> None:
    """Compare runs over the same scans: one row per potential with both metrics, errors and time."""
    from mindscaip.bsct.compare import compare_runs
    from mindscaip.console import console
    from mindscaip.errors import MindscaipError
    from mindscaip.files import atomic_path

    writers = {
        ".txt": lambda table: table.text(),
        ".csv": lambda table: table.csv(),
        ".md": lambda table: table.markdown(),
        ".html": _page,
    }
    if output is not None and output.suffix.lower() not in writers:
        raise MindscaipError(f"{output}: the table is written as {', '.join(writers)}; end the name with one of them")
    table = compare_runs(runs, common=common, sort=sort)
    typer.echo(table.text(), nl=False)
    for run, keys in table.left_out.items():
        if keys:
            console.print(f"{run}: {len(keys)} scans are left out of the comparison", soft_wrap=True)
    if output is not None:
        with atomic_path(output) as target:
            target.write_text(writers[output.suffix.lower()](table), encoding="utf-8")
        console.print(f"Wrote {output}")


def _page(table: Comparison) -> str:
    from mindscaip.bsct.compare import COLUMNS
    from mindscaip.report.page import Page, Section, Table

    rows = [[row["potential"], *(row[column.name] for column in COLUMNS)] for row in table.rows]
    meanings = "; ".join(f"{column.heading}: {column.meaning}" for column in COLUMNS)
    return Page(
        title="Potentials along bond scans",
        lead=f"Means over the same {len(table.scans)} scans, sorted by {table.sort}. A smoothness score says nothing "
        "without the errors beside it: a potential without any forces is smooth.",
        sections=[
            Section("Comparison", [Table(table.headings, rows, caption=" ".join([*table.notes, meanings + "."]))])
        ],
    ).html()


def _workers(potential: Potential, num_scans: int) -> int:
    from mindscaip.data.workers import available_cores

    if not potential.parallel:
        return 1
    # A worker takes seconds to start: a handful of scans is done sooner here.
    return min(available_cores(), MOST_WORKERS) if num_scans > MOST_WORKERS else 1


def _print_table(summary: ScoreSummary) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    data = summary.data
    out = Console(highlight=False)
    out.print(
        f"Smoothness of {data['potential']['name']} (1/A), errors in eV and eV/A, means over scans", soft_wrap=True
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = {
        "fsd": ("FSD", 2),
        "fsd_compress": ("compress", 2),
        "fsd_stretch": ("stretch", 2),
        "fsd_intrinsic": ("intrinsic", 2),
        "energy_mae": ("E MAE", 3),
        "energy_mae_shifted": ("E MAE\nshifted", 3),
        "force_mae": ("F MAE", 3),
    }
    for name in ("bond", "scans", *(heading for heading, _ in columns.values())):
        table.add_column(name, justify="left" if name == "bond" else "right", no_wrap=True)
    groups = data["statistics"]
    for bond, mean in data["by_bond"].items():
        cells = [_text(mean[name], digits) for name, (_, digits) in columns.items()]
        table.add_row(bond, str(mean["num_scans"]), *cells, end_section=bond == list(data["by_bond"])[-1])
    for title, field in (("all", "mean"), ("median", "median")):
        cells = [_text(groups["all"][name][field], digits) for name, (_, digits) in columns.items()]
        table.add_row(title, str(data["num_scans"]) if field == "mean" else "", *cells)
    out.print(table)
    intervals = [
        f"{title} {_text(groups['all'][name]['low'], 2)} to {_text(groups['all'][name]['high'], 2)}"
        for name, title in (("fsd", "FSD"), ("fsd_intrinsic", "intrinsic"))
    ]
    out.print(f"95 % confidence of the means: {', '.join(intervals)} 1/A.", soft_wrap=True)
    out.print(
        f"{data['num_scans']} of {data['dataset']['num_scans']} scans, {data['num_frames']} frames "
        f"({data['num_dropped_frames']} without a reference left out), {data['num_skipped']} scans skipped, "
        f"{data['num_geometries']} geometries in {data['seconds']:.1f} s.",
        soft_wrap=True,
    )
    gaps = [row for row in summary.rows if row.path_failure]
    if gaps:
        out.print(
            f"{len(gaps)} scans have the published metric only, since a geometry between frames has no answer; the "
            "command that evaluated them, given again, tries them once more; the first, "
            f"{gaps[0].bond}/{gaps[0].id}: {gaps[0].path_failure}",
            soft_wrap=True,
            markup=False,
        )
    coarse = data["num_unresolved"]
    if coarse:
        out.print(
            f"In {coarse} scans the grid does not resolve a change of the forces (max_log_step above 1): "
            "their FSD depends on the grid.",
            soft_wrap=True,
        )
    mean = data["mean"]
    out.print(
        f"Force flips {_text(mean['force_flips'], 2)} (reference {_text(mean['force_flips_reference'], 2)}), "
        f"tortuosity {_text(mean['tortuosity'], 3)} ({_text(mean['tortuosity_reference'], 3)}), energy jumps "
        f"{_text(mean['energy_jumps'], 3)} eV ({_text(mean['energy_jumps_reference'], 3)} eV), conservation error "
        f"{_text(mean['conservation_error'], 4)} eV/A ({_text(mean['conservation_error_reference'], 4)} eV/A).",
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
