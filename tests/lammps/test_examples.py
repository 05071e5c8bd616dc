"""Every input in ``examples/lammps`` runs, with a golden model and few steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mindscaip.engines.lammps import read_thermo
from tests.golden.cases import model_path

EXAMPLES = Path(__file__).parents[2] / "examples" / "lammps"
INPUTS = sorted(EXAMPLES.glob("in.*"))


def test_there_are_examples() -> None:
    assert INPUTS


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)
def test_example_runs(run_lammps, path: Path, tmp_path: Path) -> None:
    for file in EXAMPLES.iterdir():
        shutil.copy(file, tmp_path)
    lines = [f"variable model index {model_path('float64')}", "variable steps index 20"]
    done = run_lammps("\n".join(lines) + "\n" + path.read_text())
    assert done.returncode == 0, done.stdout
    assert read_thermo(tmp_path / "log.lammps")["Step"][-1] == 20
