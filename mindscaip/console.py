"""The terminal: one console for people (stderr: stdout stays machine-readable) and one style of progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
