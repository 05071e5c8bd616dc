"""The terminal: one console for people (stderr: stdout stays machine-readable) and one style of progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mindscaip.errors import MindscaipError

console = Console(stderr=True, highlight=False)


def progress_bar(*extra: str) -> Progress:
    """A progress bar with counts, elapsed and remaining time; ``extra`` are task fields to show, such as ``loss``."""
    columns = [TextColumn(f"{{task.fields[{name}]}}") for name in extra]
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def exit_on_error(program: str, interrupted: str = "interrupted") -> Iterator[None]:
    """Turn a user's mistake into one sentence on stderr and exit status 2, and Ctrl-C into status 130."""
    try:
        yield
    except MindscaipError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a folder that cannot be written, a full disk
        where = f"{error.filename}: " if error.filename else ""
        print(f"{program}: error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{program}: {interrupted}", file=sys.stderr)
        sys.exit(130)
