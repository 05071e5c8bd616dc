"""The command line: gathers the commands and turns a user's mistake into one sentence and exit status 2."""

from __future__ import annotations

import importlib
import sys

import typer

from mindscaip import __version__
from mindscaip.errors import MindscaipError

COMMANDS = ("label", "train", "export", "info", "evaluate", "bsct", "md", "lammps", "doctor")

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
    try:
        app()
    except MindscaipError as error:
        print(f"mindscaip: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a folder that cannot be written, a full disk
        where = f"{error.filename}: " if error.filename else ""
        print(f"mindscaip: error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mindscaip: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
