"""``mindscaip evaluate``: errors of potentials on labelled structures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mindscaip.commands.sources import (
    EnergyKeyOption,
    ForcesKeyOption,
    FormatOption,
    GradientsOption,
    GroupKeyOption,
    NoCheckOption,
    StressKeyOption,
    SubsetOption,
    UnitsOption,
    source_settings,
)

if TYPE_CHECKING:
    from rich.console import Console

    from mindscaip.studies.evaluation import By, Evaluation
    from mindscaip.studies.symmetry import Symmetry

_EXAMPLE = (
    "Example:  mindscaip evaluate model.pt test.xyz --page errors.html\n\n"
    "Several:  mindscaip evaluate a.pt b.pt gfn2-xtb test-300K.xyz test-600K.xyz --markdown\n\n"
    "Symmetry:  mindscaip evaluate model.pt test.xyz --rotations 10 --average lebedev:3 --average lebedev:5"
)
SHOWN_PARTS = 24
"""So many subsets, those of the largest errors, are printed; all are in the CSV and the JSON."""
WIDTH = 132
"""Columns of text that goes to a file or a pipe."""
BY = ("auto", "subset", "group", "file", "none")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="evaluate", epilog=_EXAMPLE)(evaluate_command)


def evaluate_command(
    arguments: list[str] = typer.Argument(
        ...,
        metavar="MODEL... DATA...",
        help="First the potentials: a model.pt, gfn2-xtb, gfn1-xtb, ase:module:callable or a short name such as "
        "mace-off:small; then the labelled structures: a .h5 store, extended xyz or another data set.",
        show_default=False,
    ),
    format_name: FormatOption = None,
    units: UnitsOption = None,
    gradients: GradientsOption = None,
    energy_key: EnergyKeyOption = None,
    forces_key: ForcesKeyOption = None,
    stress_key: StressKeyOption = None,
    group_key: GroupKeyOption = None,
    subset: SubsetOption = None,
    no_check: NoCheckOption = False,
    by: str = typer.Option("auto", help=f"What the subsets are: {', '.join(BY)}."),
    skip_failures: bool = typer.Option(
        False, "--skip-failures", help="Leave out, for all, structures that a potential has no answer for; count them."
    ),
    batch_size: int = typer.Option(16, help="Structures per call of a model.pt."),
    device: str = typer.Option("cpu", help="Torch device of a model.pt or a short name."),
    rotations: int = typer.Option(0, metavar="N", help="Also the spread over N random orientations of the input."),
    average: list[str] = typer.Option(
        [], metavar="GRID", help="With --rotations: the same for the model averaged over GRID; may be repeated."
    ),
    seed: int = typer.Option(0, help="Of the random orientations."),
    page: Path = typer.Option(None, "--page", metavar="FILE.html", help="Write a page with tables and parity plots."),
    as_json: bool = typer.Option(False, "--json", help="Print the errors as JSON."),
    as_csv: bool = typer.Option(False, "--csv", help="Print a row per potential and part of the data as CSV."),
    as_markdown: bool = typer.Option(False, "--markdown", help="Print the tables as Markdown."),
) -> None:
    """MAE and RMSE of energy (meV/atom), forces (meV/A) and stress (meV/A^3): of all, by subset, by element.

    The data are read as by mindscaip data import, with the same tests of units and signs.
    """
    from mindscaip.bsct.potentials import ModelPotential, resolve_potential
    from mindscaip.console import console, progress_bar
    from mindscaip.errors import MindscaipError, did_you_mean
    from mindscaip.studies.evaluation import evaluate_potentials, read_labelled

    if by not in BY:
        raise MindscaipError(f"--by {by}: there is no such part{did_you_mean(by, BY)}; choose of {', '.join(BY)}")
    if as_json + as_csv + as_markdown > 1:
        raise MindscaipError("--json, --csv and --markdown all print the same numbers; give one of them")
    if rotations < 0 or rotations == 1:
        raise MindscaipError(f"--rotations {rotations}: give at least 2 random orientations")
    if average and not rotations:
        raise MindscaipError(f"--average {average[0]} measures nothing by itself; give --rotations 10 with it")
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise MindscaipError(f"--page {page}: the page is HTML; let the name end in .html")
    models, data = split_arguments(arguments)
    settings = source_settings(
        format_name=format_name,
        units=units,
        gradients=gradients,
        keys=(energy_key, forces_key, stress_key, group_key),
        subset=subset,
        no_check=no_check,
    )
    potentials = [resolve_potential(name, device=device) for name in models]
    for potential in potentials:
        if rotations and not isinstance(potential, ModelPotential):
            raise MindscaipError(f"--rotations is for a model.pt; leave out {potential.name}")

    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=None)

        def advance(count: int) -> None:
            bar.advance(task, count)

        found = evaluate_potentials(
            potentials,
            read_labelled(data, settings),
            batch_size=batch_size,
            skip_failures=skip_failures,
            on_structures=advance,
        )
        symmetries: list[dict[str, Symmetry]] = [{} for _ in potentials]
        if rotations:
            structures = [item.structure for item in read_labelled(data, replace(settings, check=False))]
            for k, potential in enumerate(potentials):
                if isinstance(potential, ModelPotential):
                    symmetries[k] = _symmetries(
                        potential.model, average, structures, rotations, seed, batch_size, advance
                    )
        bar.update(task, total=bar.tasks[task].completed)
    for reason, count in found.skipped.most_common(5):
        console.print(f"Left out {count} structures: {reason}", markup=False, soft_wrap=True)
    if found.without_stress:
        console.print(
            f"{found.without_stress} periodic structures have no stress that is known by its name; if they have one, "
            "name it with --stress-key (of a store, when it is imported)",
            markup=False,
            soft_wrap=True,
        )
    chosen: Any = by
    if page is not None:
        from mindscaip.report.evaluation import evaluation_page

        evaluation_page(found, [path.name for path in data], chosen).write(page)
        console.print(f"Wrote {page}", markup=False)
    if as_json:
        typer.echo(json.dumps(_json(found, data, symmetries, chosen), indent=1))
    elif as_csv:
        typer.echo(_csv(found, chosen), nl=False)
    elif as_markdown:
        typer.echo(_markdown(found, chosen), nl=False)
    else:
        _print(found, data, symmetries, rotations, chosen)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The potentials, which come first, and the files of structures.

    Raises:
        MindscaipError: one of the two is missing, or a potential stands among the files.
    """
    from mindscaip.bsct.potentials import ACCEPTED
    from mindscaip.bsct.shortnames import SHORT_NAMES
    from mindscaip.data.xtb import XTB_METHODS
    from mindscaip.errors import MindscaipError, did_you_mean

    models: list[str] = []
    data: list[Path] = []
    for argument in arguments:
        if not _is_potential(argument):
            data.append(Path(argument))
        elif data:
            raise MindscaipError(
                f"the potential {argument} stands after the data {data[0]}; give all potentials first: MODEL... DATA..."
            )
        else:
            models.append(argument)
    if not models:
        hint = did_you_mean(arguments[0], [*XTB_METHODS, *SHORT_NAMES])
        raise MindscaipError(f"{arguments[0]} is no potential{hint}; give first {ACCEPTED}, then the data")
    if not data:
        raise MindscaipError(
            f"no labelled structures are given after {models[-1]}; give a .h5 store or extended xyz last"
        )
    return models, data


def _is_potential(argument: str) -> bool:
    from mindscaip.bsct.shortnames import is_short_name
    from mindscaip.data.calculators import ASE_PREFIX
    from mindscaip.data.xtb import XTB_METHODS

    if argument in XTB_METHODS or argument.startswith(ASE_PREFIX) or argument.endswith(".pt"):
        return True
    return is_short_name(argument) and not Path(argument).exists()


def _symmetries(
    exported: Any, average: Sequence[str], structures: list, rotations: int, seed: int, batch_size: int, advance: Any
) -> dict[str, Symmetry]:
    from mindscaip.export import rotated
    from mindscaip.model.rotations import rotation_grid
    from mindscaip.studies.symmetry import symmetry

    grids = [rotation_grid(text) for text in average]
    models = {"model": exported} | {grid.name: rotated(exported, grid) for grid in grids}
    return {
        name: symmetry(one, structures, rotations, seed, batch_size, on_batch=advance) for name, one in models.items()
    }


def _json(found: Evaluation, data: Sequence[Path], symmetries: Sequence[dict[str, Symmetry]], by: By) -> dict[str, Any]:
    """One potential: its errors beside its name; several: a list of such."""
    from dataclasses import asdict

    answers: list[dict[str, Any]] = []
    for k, model in enumerate(found.models):
        answer: dict[str, Any] = {"model": model, "subsets": {}, "elements": {}}
        for row in found.rows(by):
            if row["model"] != model or row["part"] == "all":
                continue
            errors = {name: value for name, value in row.items() if name not in ("model", "part", "name")}
            answer[f"{row['part']}s"][row["name"]] = errors
        answer |= found.tables[k].overall() | {"seconds": found.seconds[k]}
        if symmetries[k]:
            answer["symmetry"] = {name: asdict(one) for name, one in symmetries[k].items()}
        answers.append(answer)
    names = [str(path) for path in data]
    common = {
        "data": names[0] if len(names) == 1 else names,
        "structures": len(found),
        "skipped": dict(found.skipped),
    }
    return common | answers[0] if len(answers) == 1 else common | {"models": answers}


def _csv(found: Evaluation, by: By) -> str:
    rows = found.rows(by)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _tables(found: Evaluation, by: By) -> list[tuple[str, list[str], list[list[str]], int]]:
    """Title, headings, cells and number of rows left out: all structures, subsets, elements."""
    from mindscaip.studies.evaluation import QUANTITIES

    rows = [row | {"model": label} for label, row in _labelled(found, by)]
    several = len(found.models) > 1
    tables = []
    for part, title in (("all", "all structures"), ("subset", "subsets"), ("element", "elements")):
        chosen = [row for row in rows if row["part"] == part]
        names = list(dict.fromkeys(row["name"] for row in chosen))
        if part != "all" and len(names) < 2:
            continue
        left_out = 0
        if part == "subset" and len(names) > SHOWN_PARTS:
            size = {name: max(_size(row) for row in chosen if row["name"] == name) for name in names}
            left_out = len(names) - SHOWN_PARTS
            names = sorted(names, key=lambda name: -size[name])[:SHOWN_PARTS]
        quantities = [q for q in QUANTITIES if any(q[0] in row for row in chosen)]
        if part != "all":
            quantities = [q for q in quantities if not q[0].endswith("_shifted")]
        headings = [] if part == "all" else [part]
        headings += ["potential"] if several or part == "all" else []
        headings += ["structures"] + [f"{name} {error}" for _, _, name, _ in quantities for error in ("MAE", "RMSE")]
        cells = []
        for name in names:
            for row in chosen:
                if row["name"] != name:
                    continue
                cell = [] if part == "all" else [name]
                cell += [row["model"]] if several or part == "all" else []
                errors = [row.get(key) for mae, rmse, *_ in quantities for key in (mae, rmse)]
                cells.append([*cell, str(row["structures"]), *map(_text, errors)])
        tables.append((title, headings, cells, left_out))
    return tables


def _labelled(found: Evaluation, by: By) -> list[tuple[str, dict[str, Any]]]:
    """The rows, each with the short name of its potential."""
    labels = dict(zip(found.models, found.labels, strict=True))
    return [(labels[row["model"]], row) for row in found.rows(by)]


def _size(row: dict[str, Any]) -> float:
    return float(row.get("forces_rmse", row["energy_rmse_shifted"]))


def _text(value: float | None) -> str:
    """Three decimals, or fewer where there are digits enough before the point."""
    if value is None:
        return "-"
    return f"{value:.{3 if value < 100 else 2 if value < 1000 else 1}f}" if value < 1e5 else f"{value:.3g}"


UNITS = "energy in meV/atom, forces in meV/A, stress in meV/A^3"


def _markdown(found: Evaluation, by: By) -> str:
    parts = [f"Errors ({UNITS}).\n"]
    for title, headings, cells, left_out in _tables(found, by):
        lines = [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *cells)]
        parts.append(f"**{title}**\n\n" + "\n".join(lines) + "\n")
        if left_out:
            parts.append(f"{left_out} more are not listed.\n")
    return "\n".join(parts)


def _print(
    found: Evaluation,
    data: Sequence[Path],
    symmetries: Sequence[dict[str, Symmetry]],
    rotations: int,
    by: By,
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from mindscaip.studies.evaluation import QUANTITIES

    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=WIDTH)
    names = ", ".join(str(path) for path in data)
    tables = _tables(found, by)
    if len(found.models) == 1:
        table = Table("quantity", "MAE", "RMSE", title=f"{found.models[0]} on {names} ({len(found)} structures)")
        errors = found.tables[0].overall()
        for mae, rmse, name, unit in QUANTITIES:
            if mae in errors:
                table.add_row(f"{name} ({unit})", f"{errors[mae]:.3f}", f"{errors[rmse]:.3f}")
        out.print(table)
        tables = tables[1:]
    for title, headings, cells, left_out in tables:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
        for heading in headings:
            named = heading in ("potential", "subset", "element")
            table.add_column(
                heading.replace("structures", "count").replace(", ", "\n").replace(" ", "\n"),
                justify="left" if named else "right",
                no_wrap=not named,
                min_width=7 if named else None,
                overflow="fold",
            )
        for row in cells:
            table.add_row(*row)
        out.print(table)
        if left_out:
            out.print(f"{left_out} more subsets have smaller errors; --csv lists them.")
    if tables:
        out.print(UNITS[0].upper() + UNITS[1:] + ".")
    for model, found_symmetries in zip(found.models, symmetries, strict=True):
        if found_symmetries:
            _print_symmetries(out, model if len(found.models) > 1 else "", found_symmetries, rotations)


def _print_symmetries(out: Console, model: str, symmetries: dict[str, Symmetry], rotations: int) -> None:
    from rich.table import Table

    from mindscaip.model.rotations import rotation_grid

    of = f" of {model}" if model else ""
    table = Table(
        *("average over", "cost", "energy\nspread", "largest", "force\nspread", "energy\nMAE", "force\nMAE"),
        title=f"{rotations} random orientations of each structure{of} (meV/atom, meV/A)",
    )
    for name, found in symmetries.items():
        cost = 1 if name == "model" else len(rotation_grid(name))
        values = (found.energy_spread, found.energy_range, found.forces_spread)
        numbers = (*values, found.errors["energy_mae"], found.errors["forces_mae"])
        table.add_row("-" if name == "model" else name, str(cost), *(f"{number:.3g}" for number in numbers))
    out.print(table)
