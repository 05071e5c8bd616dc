"""Code blocks of README and docs run: python blocks of a page as one script, bash blocks of the README as one shell."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.golden.cases import model_path

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def blocks(page: Path, language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_there_are_pages():
    assert {"bsct.md", "data.md", "lammps.md", "model.md", "openmm.md", "python.md"} <= {p.name for p in PAGES}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks(page: Path, tmp_path: Path):
    for module in ("openmm", "openmmtorch", "tblite"):
        if module in page.read_text() and find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    shutil.copy(model_path("float64"), tmp_path / "model.pt")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "data_files").symlink_to(REPOSITORY / "tests" / "data_files")
    (tmp_path / "page.py").write_text(blocks(page, "python"))
    run([sys.executable, "page.py"], tmp_path)


def test_readme(tmp_path: Path, plugin: Path):
    for module in ("openmm", "openmmtorch", "tblite", "rdkit"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    page = REPOSITORY / "README.md"
    printed = run(["bash", "-euo", "pipefail", "-c", blocks(page, "bash")], tmp_path)
    assert "energy drift" in printed
    (tmp_path / "page.py").write_text(blocks(page, "python"))
    run([sys.executable, "page.py"], tmp_path)


def test_links_of_the_pages_lead_somewhere():
    count = 0
    for page in [*PAGES, REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
            count += 1
    assert count > 5
