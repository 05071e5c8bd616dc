"""Every input in ``examples/lammps`` runs, with a small model and few steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mindscaip.engines.lammps import read_thermo
from tests.models import write_small_model

EXAMPLES = Path(__file__).parents[2] / "examples" / "lammps"
INPUTS = sorted(EXAMPLES.glob("in.*"))
STEPS = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "model.pt")


def test_there_are_examples() -> None:
    assert {path.name for path in INPUTS} == {
        "in.langevin_hot",
        "in.minimize",
        "in.npt_liquid",
        "in.nve_molecule",
        "in.overlay_zbl",
        "in.two_ranks",
    }


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)
def test_example_runs(run_lammps, model: Path, path: Path, tmp_path: Path) -> None:
    for file in EXAMPLES.iterdir():
        shutil.copy(file, tmp_path)
    lines = [f"variable model index {model}", f"variable steps index {STEPS}"]
    done = run_lammps("\n".join(lines) + "\n" + path.read_text(), ranks=2 if path.name == "in.two_ranks" else 1)
    assert done.returncode == 0, done.stdout
    last = read_thermo(tmp_path / "log.lammps")["Step"][-1]
    assert 0 < last <= STEPS if path.name == "in.minimize" else last == STEPS
    if path.name == "in.two_ranks":
        assert "2 by 1 by 1 MPI processor grid" in done.stdout
        assert "exchange |" in done.stdout
