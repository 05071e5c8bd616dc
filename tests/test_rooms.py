"""Data flows one way through the rooms, and light things stay light."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mindscaip"
# A room imports only from rooms before it.
ORDER = [
    "errors",
    "units",
    "files",
    "packages",
    "memory",
    "console",
    "contract",
    "config",
    "data",
    "graph",
    "model",
    "engines",
    "metrics",
    "bsct",
    "studies",
    "training",
    "export",
    "report",
    "commands",
    "cli",
]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mindscaip."):
            found.add(node.module.split(".")[1])
    return found


def test_a_room_imports_only_from_rooms_before_it():
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" and path.parent.name != "presets"]
    assert len(modules) > 50
    for path in modules:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert room in ORDER, f"{room} has no place in the order of rooms"
        for other in imports(path):
            assert ORDER.index(other) <= ORDER.index(room), f"{path.relative_to(PACKAGE)} imports from {other}"


def test_importing_mindscaip_imports_nothing_heavy():
    script = (
        "import sys, mindscaip, mindscaip.engines.lammps_plugin_path; "
        "print([m for m in ('torch', 'ase', 'openmm', 'h5py', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
