"""``mindscaip bsct build``: make bond scans with a reference of your choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mindscaip.bsct.scans import BuildResult

BUILD_EXAMPLE = """
Example:

  mindscaip bsct build CCO CNC COC -o scans.h5 --reference gfn2-xtb --bonds C-C,C-O
"""


def register_build(group: typer.Typer) -> None:
    """Add the command to ``mindscaip bsct``."""
    group.command("build", epilog=BUILD_EXAMPLE)(build)


def build(
    smiles: Annotated[list[str], typer.Argument(help="Molecules as SMILES.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Packed HDF5 to write; <stem>.json records every bond.")
    ],
    reference: Annotated[str, typer.Option(help="gfn2-xtb, gfn1-xtb or ase:module:callable.")] = "gfn2-xtb",
    frames: Annotated[int, typer.Option(help="Frames per scan.")] = 100,
    bonds: Annotated[
        list[str] | None,
        typer.Option(help="Types such as C-C,C-O (repeatable), or 'any'. [default: the nine published types]"),
    ] = None,
    per_bond: Annotated[
        int | None, typer.Option(help="At most so many scans of each bond type, chosen with the seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the geometries and of the choice.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Worker processes. [default: all cores]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output when it exists.")] = False,
) -> None:
    """Build bond scans: stretch and compress the bonds that split a molecule in two, with a reference on every frame.

    A killed build goes on from <output>.parts when the same command is given again.
    """
    from mindscaip.bsct.scans import PUBLISHED_BONDS, BuildSettings, build_scans
    from mindscaip.console import console, progress_bar

    wanted = [part for text in bonds or PUBLISHED_BONDS for part in text.replace(",", " ").split()]
    titles = {"relax": "Relaxing molecules", "scan": "Scanning bonds"}
    with progress_bar() as progress:
        tasks: dict[str, Any] = {}

        def start(stage: str, count: int) -> None:
            if count:  # nothing to do is no news
                tasks[stage] = progress.add_task(titles[stage], total=count)

        try:
            result = build_scans(
                smiles,
                output,
                BuildSettings(reference=reference, frames=frames, seed=seed),
                bonds=[] if "any" in wanted else wanted,
                per_bond=per_bond,
                workers=workers,
                overwrite=overwrite,
                on_start=start,
                on_done=lambda stage: progress.advance(tasks[stage]),
            )
        except KeyboardInterrupt:
            console.print("Interrupted; the same command goes on from here.")
            raise
    _print_build(result)
    console.print(
        f"Wrote {result.num_scans} scans to {output} and the record of every bond to {output.with_suffix('.json')}"
    )


def _print_build(result: BuildResult) -> None:
    from rich.table import Table

    from mindscaip.console import console

    table = Table(title="Bonds")
    for name in ("molecule", "bond", "atoms", "status", "reason"):
        table.add_column(name)
    for record in result.records:
        table.add_row(record.smiles, record.bond, "-".join(map(str, record.atoms)), record.status, record.reason)
    console.print(table)
    for text, reason in result.failed_molecules:
        console.print(f"Molecule {text} is left out: {reason}")
    if result.resumed:
        console.print(f"{result.resumed} scans are from an interrupted build.")
