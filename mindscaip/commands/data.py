"""``mindscaip data``: published and other data sets into a store, and what is in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from mindscaip.data.importing import ImportSummary
    from mindscaip.data.info import DataInfo, Distribution

_IMPORT_EXAMPLE = (
    "Example:  mindscaip data import SPICE-2.0.1.hdf5 --subset Dipeptides --subset 'PubChem Set 1' -o spice.h5\n\n"
    "Formats:  extxyz, store, spice, sgdml (MD17, MD22), chgnet (MPtrj), ase-db, ase-lmdb (OMat, OMol)"
)
_INFO_EXAMPLE = "Example:  mindscaip data info spice.h5 --json"


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    data = typer.Typer(
        help="Bring data sets into one store, checked, and look at them.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    data.command(name="import", epilog=_IMPORT_EXAMPLE)(import_command)
    data.command(name="info", epilog=_INFO_EXAMPLE)(info_command)
    app.add_typer(data, name="data")


def import_command(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files, or folders of files, of any known format.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DATA.h5", help="The store to write.")],
    format_name: FormatOption = None,
    units: UnitsOption = None,
    gradients: GradientsOption = None,
    energy_key: EnergyKeyOption = None,
    forces_key: ForcesKeyOption = None,
    stress_key: StressKeyOption = None,
    group_key: GroupKeyOption = None,
    subset: SubsetOption = None,
    isolated: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Isolated atoms, one per frame, in the same units.")
    ] = None,
    max_force: Annotated[
        float | None, typer.Option(metavar="EV/A", help="Drop structures with a larger force on an atom.")
    ] = None,
    max_atoms: Annotated[int | None, typer.Option(metavar="N", help="Drop larger structures.")] = None,
    min_distance: Annotated[
        float | None, typer.Option(metavar="A", help="Drop structures with two atoms closer.")
    ] = None,
    elements: Annotated[
        str | None, typer.Option(metavar="H,C,...", help="Drop structures with another element.")
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Keep the first of structures with equal atoms and positions.")
    ] = False,
    no_check: NoCheckOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing DATA.h5.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Read data sets into one store (eV, Angstrom), whole or not at all.

    Units and signs are tested on the data themselves: energies against forces along neighbouring frames, distances
    against covalent radii, total energies against free atoms. Structures without labels are dropped and counted.
    """
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from mindscaip.console import console
    from mindscaip.data.importing import ImportSettings, Rules, import_data

    symbols = tuple(symbol.strip() for symbol in (elements or "").split(",") if symbol.strip())
    reading = source_settings(
        format_name=format_name,
        units=units,
        gradients=gradients,
        keys=(energy_key, forces_key, stress_key, group_key),
        subset=subset,
        no_check=no_check,
    )
    settings = ImportSettings(
        **vars(reading),
        rules=Rules(max_force, max_atoms, min_distance, symbols, drop_duplicates),
        isolated=isolated,
    )
    bar = Progress(
        TextColumn("importing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[read]} structures"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("importing", total=1.0, read=0)
        summary = import_data(
            sources,
            output,
            settings,
            overwrite=overwrite,
            progress=lambda fraction, read: bar.update(task, completed=fraction, read=read),
        )
        bar.update(task, completed=1.0, read=sum(source.read for source in summary.sources))
    if as_json:
        typer.echo(json.dumps(summary.record()))
    else:
        _print_summary(summary)


def _print_summary(summary: ImportSummary) -> None:
    from mindscaip.console import console

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    rate = sum(source.read for source in summary.sources) / max(summary.seconds, 1e-9)
    say(
        f"{summary.path}: {summary.structures} structures, {summary.atoms} atoms ({' '.join(summary.elements)}) in "
        f"{summary.seconds:.0f} s ({rate:.0f}/s)"
    )
    for reason, count in summary.dropped.most_common():
        say(f"  left out: {count} ({reason})")
    if summary.isolated:
        say(f"  isolated atoms: {', '.join(f'{s} {e:.3f} eV' for s, e in summary.isolated.items())}")
    for source in summary.sources[:20]:
        say(f"  {source.path} ({source.format}): {source.kept} of {source.read}")
        for finding in source.findings:
            sign = {"ok": "ok", "unknown": "not tested", "warning": "warning", "error": "error"}[finding.level]
            say(f"    {sign}: {finding.message}")
    if len(summary.sources) > 20:
        say(f"  and {len(summary.sources) - 20} more files")


def info_command(
    path: Annotated[Path, typer.Argument(metavar="DATA.h5", help="A store.")],
    outlier_z: Annotated[
        float, typer.Option(metavar="Z", help="Robust z-score from which a structure is an outlier.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Counts, elements, ranges, histograms, duplicates and outliers of a store."""
    from mindscaip.data.info import describe

    info = describe(path, outlier_z)
    if as_json:
        typer.echo(json.dumps(info.record()))
    else:
        _print_info(info)


def _print_info(info: DataInfo) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False)

    def say(text: str) -> None:
        out.print(text, markup=False, soft_wrap=True)

    say(f"{info.path}: {info.structures} structures, {info.atoms} atoms, {info.periodic} periodic")
    say("labels: " + ", ".join(f"{name} {count}" for name, count in info.labels.items()))
    table = Table("element", "atoms", "structures", f"reference (eV)\n{info.reference_source}")
    for symbol, counts in info.elements.items():
        reference = info.reference_energies.get(symbol)
        table.add_row(
            symbol, str(counts["atoms"]), str(counts["structures"]), "-" if reference is None else f"{reference:.4f}"
        )
    out.print(table)
    if len(info.subsets) > 1 or "" not in info.subsets:
        table = Table("subset", "structures")
        for name, count in list(info.subsets.items())[:20]:
            table.add_row(name or "(none)", str(count))
        out.print(table)
    if info.molecules:
        largest = ", ".join(f"{name or '(none)'} {count}" for name, count in list(info.largest_molecules.items())[:3])
        say(f"{info.molecules} molecules or materials; most structures: {largest}")
    table = Table("", "min", "1 %", "median", "99 %", "max", "rms", "", box=None)
    for name, d in info.distributions.items():
        numbers = (d.minimum, d.low, d.median, d.high, d.maximum, d.rms)
        table.add_row(name, *(f"{number:.3g}" for number in numbers), d.unit)
    out.print(table)
    for name, distribution in info.distributions.items():
        say(_histogram(name, distribution))
    if info.sampled_distances < info.structures:
        say(f"distances: of {info.sampled_distances} structures, evenly spread")
    copies = ", ".join(f"{i} of {first}" for i, first in info.duplicates[:10])
    say(f"duplicates: {info.num_duplicates}" + (f" (structure {copies})" if copies else ""))
    say(f"outliers: {info.num_outliers}")
    for outlier in info.outliers:
        say(f"  structure {outlier.index}: {outlier.quantity} = {outlier.value:.4g} (z = {outlier.z:.1f})")


def _histogram(name: str, distribution: Distribution) -> str:
    """A line of bars, the range of the histogram on both sides."""
    highest = max(distribution.counts)
    bars = "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // highest)] for count in distribution.counts)
    return f"{name:>22} {distribution.edges[0]:>9.4g} {bars} {distribution.edges[-1]:.4g} {distribution.unit}"
