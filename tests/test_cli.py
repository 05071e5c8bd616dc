"""The command line as a user meets it: help with an example everywhere, one sentence and status 2 for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.cases import model_path
from tests.toys import write_toy

MINDSCAIP = Path(sys.executable).with_name("mindscaip")
COMMANDS = [
    "label",
    "data import",
    "data info",
    "train",
    "report",
    "export",
    "info",
    "evaluate",
    "bsct score",
    "bsct build",
    "md",
    "lammps build",
    "lammps path",
    "doctor",
]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [MINDSCAIP, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    done = run(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert f"mindscaip {command}" in done.stdout.split("Usage:")[1].split("\n", 1)[1]


def test_version():
    from mindscaip import __version__

    assert run("--version").stdout.strip() == f"mindscaip {__version__}"


MODEL = str(model_path("float64"))
MISTAKES = {
    "no such model": (["info", "nowhere.pt"], "nowhere.pt: no such file"),
    "not a model": (["info", "text.pt"], "text.pt: not a whole model.pt"),
    "data file missing": (["evaluate", MODEL, "nowhere.xyz"], "nowhere.xyz"),
    "data file empty": (["evaluate", MODEL, "empty.xyz"], "empty.xyz"),
    "data with a foreign element": (["evaluate", MODEL, "gold.xyz"], "Au"),
    "data without labels": (["evaluate", MODEL, "bare.xyz"], "bare.xyz"),
    "unknown configuration key": (["train", "model.embed_dims=3"], "did you mean 'embed_dim'"),
    "no configuration": (["train"], "give a configuration"),
    "no training data": (["train", "preset=tiny"], "data.train"),
    "resume without a run": (["train", "--resume", "nowhere"], "nowhere holds no run"),
    "export without a run": (["export", "nowhere", "-o", "model.pt"], "no such checkpoint"),
    "unknown checkpoint": (["export", "nowhere", "-o", "model.pt", "--checkpoint", "worst"], "'worst'"),
    "unknown engine": (["md", MODEL, "start.xyz", "--engine", "gromacs"], "no engine named 'gromacs'"),
    "element not in the model": (["md", MODEL, "gold.xyz"], "element Au"),
    "start file missing": (["md", MODEL, "nowhere.xyz"], "nowhere.xyz"),
    "bad SMILES": (["md", MODEL, "C(("], "C(("),
    "data of no known format": (["data", "import", "text.pt", "-o", "data.h5"], "text.pt is in no format"),
    "not a store": (["data", "info", "empty.xyz"], "empty.xyz"),
    "bad label input": (["label", "C((", "-o", "data.h5"], "C(("),
    "unknown calculator": (["label", "C", "-o", "data.h5", "--calculator", "gfn3-xtb"], "gfn3-xtb"),
    "unknown potential": (["bsct", "score", "gfn2-xbt", "scans.h5"], "gfn2-xbt"),
    "scans missing": (["bsct", "score", MODEL, "nowhere.h5"], "nowhere.h5"),
    "folder that cannot be written": (
        ["md", MODEL, "start.xyz", "--steps", "1", "--engine", "ase", "-o", "text.pt/x"],
        "text.pt",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.pt").write_text("not a model")
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "gold.xyz").write_text(
        '1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.0 pbc="F F F"\nAu 0 0 0 0 0 0\n'
    )
    (tmp_path / "bare.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    (tmp_path / "start.xyz").write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    return tmp_path


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence_and_status_2(name, folder):
    arguments, named = MISTAKES[name]
    done = run(*arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("mindscaip: error: ")]
    assert len(error) == 1, done.stderr
    assert named in error[0]


def test_info_and_evaluate_as_json(folder):
    toy = write_toy(folder / "toy.pt")
    contract = json.loads(run("info", str(toy), "--json").stdout)["contract"]
    assert contract["elements"] == ["H", "C", "N", "O"]
    (folder / "water.xyz").write_text(
        "1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-0.7\nO 0 0 0 0 0.1 0\n"
        "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-0.2\nH 0 0 0 0 0 0\nH 0 0 9 0 0 0\n"
    )
    errors = json.loads(run("evaluate", str(toy), "water.xyz", "--json", cwd=folder).stdout)
    # Far apart, the toy gives -0.1 Z per atom and no force: wrong by 100 meV for the O atom, and by 0.1 eV/A once.
    assert errors["structures"] == 2
    assert errors["energy_mae"] == pytest.approx(50.0)
    assert errors["energy_rmse"] == pytest.approx(100 / 2**0.5)
    assert errors["forces_mae"] == pytest.approx(100 / 9)


def test_md_writes_what_it_says(folder):
    toy = write_toy(folder / "toy.pt")
    done = run("md", str(toy), "start.xyz", "--engine", "ase", "--steps", "4", "--no-relax", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    drift = json.loads(done.stdout)
    assert (drift["engine"], drift["atoms"], drift["steps"]) == ("ASE", 3, 4)
    assert 0 < drift["max_deviation"] < 1.0
    assert len((folder / "md" / "nve.csv").read_text().splitlines()) == 6
