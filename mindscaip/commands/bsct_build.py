"""``mindscaip bsct build``: make bond scans with a reference of your choice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mindscaip.bsct.records import BuildResult

MOST_ROWS = 40
"""With more bonds than this the terminal shows numbers only."""
BUILD_EXAMPLE = """
Examples:

  mindscaip bsct build CCO CNC COC -o scans.h5 --bonds C-C,C-O

  mindscaip bsct build CO -o scans.h5 --reference pyscf --relax-with gfn2-xtb

  mindscaip bsct build published.h5 -o scans.h5 --no-relax --reference ase:my_module:make_calculator
"""


def register_build(group: typer.Typer) -> None:
    """Add the command to ``mindscaip bsct``."""
    group.command("build", epilog=BUILD_EXAMPLE)(build)


def build(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="SMILES_OR_FILE...",
            help="SMILES; .smi, .sdf, .xyz, .extxyz or .h5 files (a store, or other scans: their unperturbed geometry "
            "and bond; FILE:BOND/ID takes one of them); other structure files through ASE.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Packed HDF5 to write; <stem>.json records every bond.")
    ],
    reference: Annotated[
        str, typer.Option(help="gfn2-xtb, gfn1-xtb, pyscf or psi4 (or pyscf:FUNCTIONAL/BASIS), ase:module:callable.")
    ] = "gfn2-xtb",
    relax: Annotated[
        bool, typer.Option("--relax/--no-relax", help="Keep the geometry as given with --no-relax.")
    ] = True,
    relax_with: Annotated[
        str | None, typer.Option(metavar="NAME", help="Relax with this calculator.  [default: the reference]")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames per scan.")] = 100,
    bonds: Annotated[
        list[str] | None,
        typer.Option(help="Types such as C-C,C-O (repeatable), or 'any'.  [default: the nine published types]"),
    ] = None,
    per_bond: Annotated[
        int | None, typer.Option(help="At most so many scans of each bond type, chosen with the seed.")
    ] = None,
    overlap: Annotated[
        str,
        typer.Option(
            metavar="all|nonbonded",
            help="Pairs of atoms that must not come closer than 0.9 covalent sums: all, as published, or only those "
            "that are not bonded, which admits molecules with double and triple bonds.",
        ),
    ] = "all",
    seed: Annotated[int, typer.Option(help="Seed of the geometries and of the choice.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes, one thread each.  [default: all cores]")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the workers of this Dask scheduler (tcp://host:8786).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output when it exists.")] = False,
) -> None:
    """Build bond scans: stretch and compress the bonds that split a molecule in two, with a reference on every frame.

    Every frame is saved when it is done: the same command goes on where a killed one stopped. A molecule, bond or frame
    that cannot be used is recorded with its reason, and the rest goes on.
    """
    from mindscaip.bsct.build import build_scans
    from mindscaip.bsct.records import PUBLISHED_BONDS, UNRELAXED, WITH_REFERENCE, BuildSettings
    from mindscaip.commands.progress import stage_bars
    from mindscaip.console import console
    from mindscaip.errors import MindscaipError

    if relax_with is not None and not relax:
        raise MindscaipError("--no-relax keeps the geometry as given; leave out --relax-with")
    wanted = [part for text in bonds or PUBLISHED_BONDS for part in text.replace(",", " ").split()]
    relaxation = (relax_with or WITH_REFERENCE) if relax else UNRELAXED
    titles = {"relax": "Molecules", "scan": "Frames"}
    with stage_bars(titles, interrupted="Interrupted; the same command goes on from here.") as progress:
        result = build_scans(
            inputs,
            output,
            BuildSettings(reference=reference, frames=frames, seed=seed, relaxation=relaxation, overlap=overlap),
            bonds=[] if "any" in wanted else wanted,
            per_bond=per_bond,
            workers=workers,
            dask=dask,
            overwrite=overwrite,
            progress=progress,
        )
    _print(result)
    console.print(
        f"Wrote {result.num_scans} scans with {result.num_frames} frames to {output} and the record of every bond to "
        f"{output.with_suffix('.json')}",
        markup=False,
        soft_wrap=True,
    )


def _print(result: BuildResult) -> None:
    from rich.table import Table

    from mindscaip.bsct.geometry import OVERLAP
    from mindscaip.bsct.records import OVERLAPPING, count_bonds
    from mindscaip.console import console

    # Bonds to hydrogen can never be scanned; they would drown the rest.
    shown = [r for r in result.records if "H" not in r.bond.split("-") or r.status == "scanned"]
    if len(shown) <= MOST_ROWS:
        table = Table(title="Bonds")
        for name in ("molecule", "bond", "atoms", "status", "reason"):
            table.add_column(name)
        for record in shown:
            cells = (record.molecule, record.bond, "-".join(map(str, record.atoms)), record.status, record.reason)
            table.add_row(*(text.replace("[", r"\[") for text in cells))  # brackets are markup
    else:
        counts = count_bonds(shown)
        outcomes = sorted({outcome for row in counts.values() for outcome in row}, key=lambda o: (o != "scanned", o))
        table = Table(title="Bonds by outcome")
        for name in ("bond", *outcomes):
            table.add_column(name, justify="left" if name == "bond" else "right")
        total: Counter[str] = Counter()
        for bond, row in counts.items():
            total.update(row)
            table.add_row(bond, *(str(row.get(outcome, "")) for outcome in outcomes))
        table.add_section()
        table.add_row("all", *(str(total[outcome]) for outcome in outcomes))
    console.print(table)
    for name, reason in result.failed_molecules:
        console.print(f"Molecule {name} is left out: {reason}", markup=False, soft_wrap=True)
    without = sum(len(record.failed_frames) for record in result.records)
    if without:
        console.print(f"{without} frames have no reference; the record says why.")
    excluded = [record for record in result.records if record.rule == OVERLAPPING and record.closest_nonbonded]
    by_bonds = sum((record.closest_nonbonded or 0) >= OVERLAP for record in excluded)
    if by_bonds:
        console.print(
            f"{by_bonds} bonds are left out for another bond of their molecule, a double or triple one, which is "
            "shorter than the overlap rule allows; --overlap nonbonded admits them.",
            soft_wrap=True,
        )
    unchecked = [record for record in result.records if record.unchecked]
    if unchecked:
        console.print(
            f"In {len(unchecked)} scans the continuity of the reference is not checked everywhere: the grid is too "
            "coarse there (few frames, or frames without a reference); the record says where.",
            soft_wrap=True,
        )
    unfinished = [record for record in result.records if record.unfinished]
    if unfinished:
        first = unfinished[0]
        console.print(
            f"{len(unfinished)} bonds are not finished; the first, {first.molecule} {first.bond}: {first.reason}",
            markup=False,
            soft_wrap=True,
        )
    for sentence in result.why_kept:
        console.print(f"{sentence[0].upper()}{sentence[1:]}.", markup=False, soft_wrap=True)
    if result.resumed:
        console.print(f"{result.resumed} frames are from an interrupted build.")
