"""``mindscaip md``: constant-energy dynamics of a model.pt in a production engine."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import typer

_EXAMPLE = "Example:  mindscaip md model.pt CCO --engine openmm --temperature 300 --steps 2000 -o md/"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="md", epilog=_EXAMPLE)(md_command)


def md_command(
    model: Path = typer.Argument(..., metavar="MODEL.pt"),
    start: str = typer.Argument(..., metavar="START", help="Structure file (first frame) or SMILES."),
    engine: str = typer.Option("openmm", help="ase, openmm or lammps."),
    temperature: float = typer.Option(300.0, metavar="K", help="Of the initial velocities."),
    steps: int = typer.Option(1000, min=1, help="Number of steps."),
    timestep: float = typer.Option(0.5, metavar="FS", help="Time step."),
    every: int = typer.Option(1, min=1, help="Steps between recorded frames."),
    seed: int = typer.Option(0, help="Of the initial velocities."),
    relax_first: bool = typer.Option(True, "--relax/--no-relax", help="Minimise the energy with the model first."),
    output: Path = typer.Option(Path("md"), "--output", "-o", metavar="DIR", help="Folder of the results."),
    ranks: int = typer.Option(1, min=1, metavar="N", help="MPI ranks (lammps only)."),
    as_json: bool = typer.Option(False, "--json", help="Print the drift as JSON."),
) -> None:
    """Run NVE and report the energy drift; writes DIR/nve.csv (energies) and DIR/trajectory.xyz."""
    from dataclasses import asdict

    from mindscaip.console import console, progress_bar
    from mindscaip.contract import EnergyWarning, check_elements, energy_warning, load_exported
    from mindscaip.errors import MindscaipError
    from mindscaip.studies.nve import drift, initial_velocities, relax, run_nve
    from mindscaip.studies.start import read_start
    from mindscaip.studies.write import write_record

    if timestep <= 0:
        raise MindscaipError(f"--timestep {timestep} fs: give a number above zero")
    exported = load_exported(model)
    structure = read_start(start, seed)
    check_elements(exported.contract, structure.symbols, start)
    warning = energy_warning(exported.contract, model)
    if warning is not None:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)  # said once, above
        if relax_first:
            structure = relax(exported, structure)
        velocities = initial_velocities(structure, temperature, seed)
        with progress_bar() as bar:
            task = bar.add_task("NVE", total=steps)
            record = run_nve(
                *(engine, model, structure, velocities, timestep, steps, every),
                progress=lambda step, _: bar.update(task, completed=step),
                ranks=ranks,
            )
    write_record(output, structure, record)
    result = drift(record)
    if as_json:
        typer.echo(
            json.dumps({"engine": record.engine, "atoms": record.num_atoms, "steps": steps, **asdict(result)}, indent=1)
        )
        return
    console.print(
        f"{record.engine}: {steps} steps of {timestep} fs, {record.num_atoms} atoms, "
        f"mean {record.temperature.mean():.0f} K\n"
        f"energy drift: max {result.max_deviation:.4f}, end {result.end_deviation:.4f} meV/atom; slope "
        f"{result.slope:.3g} +- {result.slope_error:.2g} meV/atom/ns; fluctuation {result.fluctuation:.4f} meV/atom\n"
        f"wrote {output / 'nve.csv'} and {output / 'trajectory.xyz'}"
    )
