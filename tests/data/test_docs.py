from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer
from typer.testing import CliRunner

from mindscaip.commands import label as command

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/data.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "energy from 'REF_energy', forces from 'REF_forces'" in printed
    assert "1 ['H', 'O'] {'H': -10.7, 'O': -102.5} {'made': 'by hand'}" in printed
    assert len(names["validation"]) == 2


def test_commands_have_the_options_they_are_shown_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^mindscaip (label .*)$", PAGE, flags=re.MULTILINE)
    assert len(lines) == 1
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    # The files are not there: the options are accepted and the first missing file is named.
    result = CliRunner().invoke(app, shlex.split(lines[0]))
    assert "molecules.smi does not exist" in str(result.exception)
