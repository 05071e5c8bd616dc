"""``mindscaip label``: training data from SMILES or structure files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mindscaip.data.label import LabelSummary

_EXAMPLE = (
    "Example:  mindscaip label CCO 'CC(=O)O' molecules.smi -o data.h5 --temperature 500 --frames 200 --workers 2\n\n"
    "Run again after an interruption, the same command goes on where it stopped."
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="label", epilog=_EXAMPLE)(label_command)


def label_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="SMILES_OR_FILE...", help="SMILES, .smi files (one SMILES per line), or structure files."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DATA.h5", help="The store to write.")],
    calculator: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="gfn2-xtb, gfn1-xtb, pyscf or psi4 (or pyscf:FUNCTIONAL/BASIS), ase:module:callable."
        ),
    ] = "gfn2-xtb",
    temperature: Annotated[float, typer.Option(metavar="K", help="Temperature of the Langevin dynamics.")] = 500.0,
    frames: Annotated[int, typer.Option(metavar="N", help="Labelled frames per molecule.")] = 200,
    trajectories: Annotated[
        int, typer.Option(metavar="N", help="Trajectories per molecule, each with its own conformer and velocities.")
    ] = 4,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes, one thread each.  [default: number of cores]")
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed gives the same frames, whatever the number of workers.")
    ] = 0,
    timestep: Annotated[float, typer.Option(metavar="FS", help="Time step.")] = 1.0,
    interval: Annotated[int, typer.Option(metavar="N", help="Steps from one frame to the next.")] = 10,
    equilibration: Annotated[int, typer.Option(metavar="N", help="Steps before the first frame.")] = 200,
    friction: Annotated[float, typer.Option(metavar="1/FS", help="Friction of the Langevin dynamics.")] = 0.02,
    relax_steps: Annotated[
        int, typer.Option(metavar="N", help="At most so many steps of relaxation before the dynamics.")
    ] = 100,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing DATA.h5.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Label molecules with a reference calculator, sampled by short molecular dynamics.

    Each molecule is relaxed, heated and followed; energies (eV) and forces (eV/A) of every INTERVAL-th step go into
    DATA.h5 with the energies of the isolated atoms. A trajectory that fails is reported and the rest goes on.
    """
    from mindscaip.commands.progress import stage_bars
    from mindscaip.data.label import Sampling, label, read_molecules

    sampling = Sampling(
        temperature=temperature,
        frames=frames,
        trajectories=trajectories,
        timestep=timestep,
        interval=interval,
        equilibration=equilibration,
        friction=friction,
        relax_steps=relax_steps,
        seed=seed,
    )
    molecules = read_molecules(inputs)
    kept = f"stopped; finished frames are kept in {output}.work and the same command goes on from there"
    with stage_bars({"label": "labelled frames"}, interrupted=kept) as show:
        summary = label(
            molecules,
            output,
            calculator=calculator,
            sampling=sampling,
            workers=workers,
            overwrite=overwrite,
            progress=lambda done, total: show("label", done, total),
        )
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
    else:
        _print(summary, calculator)


def _print(summary: LabelSummary, calculator: str) -> None:
    from mindscaip.console import console

    low, high = summary.energy_per_atom
    relative = "relative to isolated atoms" if isinstance(summary.isolated, dict) else "total"
    console.print(
        f"{summary.path}: {summary.frames} frames of {summary.molecules} molecules ({' '.join(summary.elements)}) with "
        f"{calculator} in {summary.seconds:.0f} s"
    )
    console.print(f"  energy per atom  {low:.3f} to {high:.3f} eV ({relative})")
    console.print(f"  force components RMS {summary.force_rms:.3f} eV/A, largest {summary.force_max:.2f} eV/A")
    if not isinstance(summary.isolated, dict):
        console.print(f"  no isolated-atom energies: {summary.isolated}")
    for name, trajectory, reason in summary.failures:
        console.print(f"  failed early: {name}, trajectory {trajectory}: {reason}", markup=False)
