"""``mindscaip train``: train a model from a configuration, or go on with a run."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

_EXAMPLE = (
    "Example:  mindscaip train preset=small data.train=data.h5 run=runs/first training.epochs=50\n\n"
    "Then:  mindscaip export runs/first -o model.pt"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="train", epilog=_EXAMPLE)(train_command)


def train_command(
    arguments: list[str] = typer.Argument(
        None, metavar="[CONFIG.yaml] [preset=NAME] [key=value]...", help="Later arguments win over earlier ones."
    ),
    resume: Path = typer.Option(
        None, "--resume", metavar="RUN", help="Go on with the run in this folder; training.key=value may change."
    ),
    show: bool = typer.Option(False, "--show-config", help="Print the configuration and its keys, and stop."),
) -> None:
    """Train MinDScAIP. Ctrl-C or SIGTERM saves at once; --resume goes on from there with the same numbers."""
    from mindscaip.config import describe_config, load_config
    from mindscaip.console import console
    from mindscaip.errors import MindscaipError

    if resume is None and not arguments and not show:
        raise MindscaipError("give a configuration: a YAML file, preset=NAME or key=value; see --help")
    if resume is not None and show:
        raise MindscaipError("--show-config goes with a new configuration; that of a run is in its config.yaml")
    config = None if resume is not None else load_config(arguments or [])
    if show:
        typer.echo(describe_config(config or load_config([])), nl=False)
        return

    from mindscaip.training import prepare
    from mindscaip.training.distributed import is_first_process, leave_together
    from mindscaip.training.interrupt import Interrupted

    try:
        if resume is not None:
            prepare.resume(resume, arguments or [])
        elif config is not None:
            prepare.train(config)
    except MindscaipError as error:
        if is_first_process():  # it speaks for all
            print(f"mindscaip: error: {error}", file=sys.stderr, flush=True)
        leave_together()
        sys.exit(2)
    except Interrupted as stopped:
        if is_first_process():
            console.print(stopped.message, markup=False, soft_wrap=True)
        leave_together()
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        if is_first_process():
            folder = resume if resume is not None else Path(config.run if config is not None else "")
            there = (folder / prepare.CONFIG_FILE).exists()
            cure = f"go on with 'mindscaip train --resume {folder}'" if there else "nothing was trained yet"
            console.print(f"interrupted; {cure}", markup=False, soft_wrap=True)
        sys.exit(130)
