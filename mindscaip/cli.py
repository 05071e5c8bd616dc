"""The command line: gathers the commands and turns a user's mistake into one sentence and exit status 2."""

from __future__ import annotations

import importlib

import typer

from mindscaip import __version__
from mindscaip.console import exit_on_error
from mindscaip.memory import keep_freed_memory

COMMANDS = ("label", "data", "train", "report", "export", "info", "evaluate", "bsct", "md", "lammps", "doctor")

app = typer.Typer(
    name="mindscaip",
    help=(
        "Train a smooth interatomic potential, run the same model.pt in Python, OpenMM and LAMMPS, "
        "and score its smoothness."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mindscaip {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


for _name in COMMANDS:
    importlib.import_module(f"mindscaip.commands.{_name}").register(app)


def main() -> None:
    """Entry point of the ``mindscaip`` command."""
    keep_freed_memory()
    with exit_on_error("mindscaip"):
        app()


if __name__ == "__main__":
    main()
