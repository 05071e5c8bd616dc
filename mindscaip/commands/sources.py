"""Options that say how files of structures are read: the same for every command that reads data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mindscaip.data.readers import SourceSettings

FormatOption = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="Format of all sources.  \\[default: found from each]")
]
UnitsOption = Annotated[
    str | None,
    typer.Option(metavar="UNITS", help="energy=UNIT,length=UNIT,forces=UNIT,...  \\[default: the format's]"),
]
GradientsOption = Annotated[
    bool | None,
    typer.Option("--forces-are-gradients/--forces-are-forces", help="Sign of the forces.  \\[default: the format's]"),
]
EnergyKeyOption = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the energy.")]
ForcesKeyOption = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the forces.")]
StressKeyOption = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the stress.")]
GroupKeyOption = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the molecule or material.")]
SubsetOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Only subsets whose name holds this; may be repeated.")
]
NoCheckOption = Annotated[bool, typer.Option("--no-check", help="Do not test units and signs on the data.")]


def source_settings(
    *,
    format_name: str | None,
    units: str | None,
    gradients: bool | None,
    keys: tuple[str | None, str | None, str | None, str | None],
    subset: Sequence[str] | None,
    no_check: bool,
) -> SourceSettings:
    """How to read, from the options above.

    Args:
        keys: names of energy, forces, stress and group.
    """
    from mindscaip.data.readers import SourceSettings
    from mindscaip.data.readers.base import ReadOptions

    return SourceSettings(ReadOptions(*keys, tuple(subset or ())), format_name, units, gradients, not no_check)
