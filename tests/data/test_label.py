from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from typer.testing import CliRunner

from mindscaip.commands import label as command
from mindscaip.data.formats import read_structures
from mindscaip.data.label import label, read_molecules
from mindscaip.data.point import single_point
from mindscaip.data.sampling import Langevin, Sampling
from mindscaip.data.store import Store, write_store
from mindscaip.data.structure import Structure
from mindscaip.data.xtb import XTB
from mindscaip.errors import MindscaipError
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, KELVIN_TO_EV

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = {"frames": 6, "trajectories": 2, "interval": 2, "equilibration": 5, "relax_steps": 0}
KILLED = Sampling(frames=120, trajectories=1, interval=4, equilibration=10, relax_steps=0)


@pytest.fixture(scope="module")
def two_molecules(tmp_path_factory):
    path = tmp_path_factory.mktemp("label") / "data.h5"
    calls: list[tuple[int, int]] = []
    summary = label(
        read_molecules(["O", "C"]), path, sampling=Sampling(**SHORT), workers=2, progress=lambda *c: calls.append(c)
    )
    return path, summary, calls


def test_two_tiny_molecules(two_molecules):
    path, summary, calls = two_molecules
    assert os.listdir(path.parent) == ["data.h5"]
    assert (summary.frames, summary.molecules, summary.elements, summary.failures) == (12, 2, ["H", "C", "O"], [])
    assert calls[-1] == (12, 12)
    with Store(path) as store:
        assert store.groups == ["O"] * 6 + ["C"] * 6
        assert store.provenance["calculator"] == "gfn2-xtb"
        assert store.provenance["temperature"] == 500.0
        assert store.provenance["versions"]["tblite"] != "not installed"
        assert store.isolated_energies == summary.isolated
        for structure in store:
            energy, forces = single_point(XTB(), structure.to_ase())
            assert structure.energy == pytest.approx(energy, abs=1e-7)
            assert np.allclose(structure.forces, forces, rtol=0, atol=1e-4)
        binding = [s.energy - sum(store.isolated_energies[x] for x in s.symbols) for s in store]
        assert max(binding) < -8
        # Distinct geometries, also across trajectories.
        for group in ("O", "C"):
            assert len({s.positions.tobytes() for s in store if s.group == group}) == 6


def test_frames_do_not_depend_on_the_workers(two_molecules, tmp_path):
    path, _, _ = two_molecules
    label(read_molecules(["O", "C"]), tmp_path / "a.h5", sampling=Sampling(**SHORT), workers=1)
    assert Store(tmp_path / "a.h5").content_hash() == Store(path).content_hash()
    label(read_molecules(["O", "C"]), tmp_path / "b.h5", sampling=Sampling(**SHORT, seed=1), workers=1)
    assert Store(tmp_path / "b.h5").content_hash() != Store(path).content_hash()


RUN = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
from mindscaip.data.label import label, read_molecules
from mindscaip.data.sampling import Sampling
label(read_molecules(["CO", "O"]), sys.argv[1], workers=2, calculator="ase:label_calculators:Patient",
      sampling=Sampling(frames=120, trajectories=1, interval=4, equilibration=10, relax_steps=0))
"""


def start(path: Path) -> subprocess.Popen:
    # It waits a little at every step: however late the signals come, there is work left.
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(path)],
        env={**os.environ, "PAUSE": "0.05"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def parts_when(process: subprocess.Popen, folder: Path, count: int) -> dict[str, int]:
    """Wait for ``count`` parts; their names and inodes (a part that is written again has another inode)."""
    deadline = time.monotonic() + 60
    while True:
        parts = {p.name: p.stat().st_ino for p in folder.glob("task-*.h5")} if folder.exists() else {}
        if len(parts) >= count:
            return parts
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no part within a minute"
        time.sleep(0.005)


def test_killed_run_resumes_to_the_same_frames(folder):
    whole, path = folder / "whole.h5", folder / "killed.h5"
    molecules = read_molecules(["CO", "O"])
    settings = {"calculator": "ase:label_calculators:Patient", "sampling": KILLED}
    label(molecules, whole, **settings, workers=2)

    work = folder / "killed.h5.work"
    process = start(path)
    before = parts_when(process, work, 2)
    process.kill()
    process.wait()
    assert not path.exists()
    with pytest.raises(MindscaipError, match="unfinished work with frames 120, now 40"):
        label(molecules, path, **{**settings, "sampling": replace(KILLED, frames=40)})

    process = start(path)
    again = parts_when(process, work, len(before) + 3)
    assert all(again[name] == inode for name, inode in before.items()), "a finished part was done again"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() != 0
    assert not path.exists()
    kept = {p.name: p.stat().st_ino for p in work.glob("task-*.h5")}
    assert again.items() <= kept.items()

    label(molecules, path, **settings, workers=1)
    a, b = Store(path), Store(whole)
    assert len(a) == 240
    assert a.content_hash() == b.content_hash()
    assert a.isolated_energies == b.isolated_energies
    assert not work.exists()


MODULE = """
import os
import time
import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

class Patient(EMT):
    def calculate(self, *args, **kwargs):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        super().calculate(*args, **kwargs)

class NoOxygen(EMT):
    def calculate(self, atoms=None, *args, **kwargs):
        if 8 in atoms.numbers:
            raise RuntimeError("no convergence")
        super().calculate(atoms, *args, **kwargs)

class Dies(EMT):
    def calculate(self, *args, **kwargs):
        os._exit(3)

class Explodes(EMT):
    steps = 0
    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        Explodes.steps += 1
        if Explodes.steps > 40:
            self.results["forces"] = self.results["forces"] + 1e6
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "label_calculators.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def test_failures_are_recorded_and_the_rest_goes_on(folder):
    sampling, calculator = Sampling(**SHORT), "ase:label_calculators:NoOxygen"
    summary = label(read_molecules(["O", "C"]), "a.h5", calculator=calculator, sampling=sampling, workers=1)
    assert summary.frames == 6
    assert [(name, k) for name, k, _ in summary.failures] == [("O", 0), ("O", 1)]
    assert all("no convergence" in reason for _, _, reason in summary.failures)
    assert "isolated O atom" in summary.isolated
    with Store("a.h5") as store:
        assert set(store.groups) == {"C"}
        assert len(store.provenance["failures"]) == 2
        assert store.isolated_energies == {}
    with pytest.raises(MindscaipError, match="no trajectory gave a frame; the first failure was O: "):
        label(read_molecules(["O"]), "b.h5", calculator=calculator, sampling=sampling, workers=1)
    assert not Path("b.h5.work").exists()  # nothing in it to go on from


def test_an_explosion_keeps_the_frames_before_it(folder):
    sampling = Sampling(frames=20, trajectories=1, interval=2, equilibration=5, relax_steps=0)
    summary = label(
        read_molecules(["C"]), "a.h5", calculator="ase:label_calculators:Explodes", sampling=sampling, workers=1
    )
    assert 10 <= summary.frames < 20
    assert len(summary.failures) == 1
    assert "explodes" in summary.failures[0][2]
    assert np.isfinite(summary.force_max)
    assert summary.force_max < 100


def test_a_dead_worker_is_one_sentence(folder):
    with pytest.raises(MindscaipError, match=r"a worker process died .* run the same command again"):
        label(read_molecules(["C"]), "a.h5", calculator="ase:label_calculators:Dies", sampling=Sampling(**SHORT))


def test_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some.smi").write_text("# comment\nOCC ethanol\n\nC#N\n")
    Path("pair.xyz").write_text("2\nplain\nH 0 0 0\nF 0 0 1\n" * 2)
    Path("mixed.xyz").write_text("2\n\nH 0 0 0\nF 0 0 1\n1\n\nO 0 0 0\n")
    Path("pair.pdb").write_text(
        "ATOM      1  H   HF      1       0.000   0.000   0.000  1.00  0.00           H\n"
        "ATOM      2  F   HF      1       0.000   0.000   0.950  1.00  0.00           F\nEND\n"
    )
    molecules = read_molecules(["CCO", "some.smi", "pair.xyz", "mixed.xyz", "pair.pdb"])
    assert [m.name for m in molecules] == ["CCO", "C#N", "pair", "mixed/HF", "mixed/O", "pair"]
    assert molecules[0].symbols == ("C", "H", "O")
    assert molecules[0].num_atoms == 9
    assert molecules[0].start(1).positions.tolist() != molecules[0].start(2).positions.tolist()
    assert molecules[-1].start(0).positions[1, 2] == 0.95


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C(C", r"'C\(C' is not a SMILES"),
        ("[NH4+]", r"charge \+1"),
        ("missing.xyz", "missing.xyz does not exist"),
        ("bad.smi", "line 2 of bad.smi: 'CX' is not a SMILES"),
        ("empty.smi", "holds no SMILES"),
        ("notes.pdb", "cannot be read as a structure file"),
        (".", "is a folder"),
    ],
)
def test_bad_inputs(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.smi").write_text("C\nCX\n")
    Path("empty.smi").write_text("\n")
    Path("notes.pdb").write_text("these are notes\n")
    with pytest.raises(MindscaipError, match=message):
        read_molecules([text])


@pytest.mark.parametrize(
    "bad", [{"frames": 0}, {"interval": 0}, {"temperature": -1}, {"timestep": 0}, {"friction": -1}]
)
def test_bad_sampling(bad):
    with pytest.raises(MindscaipError, match=next(iter(bad))):
        Sampling(**bad)


class Springs(LennardJones):
    """Independent harmonic wells at the origin, 2 eV/A^2."""

    def calculate(self, atoms=None, properties=(), system_changes=()):
        self.results = {"energy": float(np.sum(atoms.positions**2)), "forces": -2.0 * atoms.positions}


def springs(n: int, sampling: Sampling) -> Langevin:
    return Langevin.from_rest(Atoms(f"C{n}", np.zeros((n, 3))), Springs(), sampling, np.random.default_rng(1))


def test_langevin_samples_the_canonical_distribution():
    """Harmonic wells: <x^2> = kT / k and <v^2> = kT / m, which BAOAB meets (the former for any time step)."""
    dynamics = springs(400, Sampling(temperature=300.0, timestep=2.0, friction=0.05))
    dynamics.run(200)
    x2, v2 = [], []
    for _ in range(100):
        dynamics.run(15)
        x2.append(np.mean(dynamics.atoms.positions**2))
        v2.append(np.mean(dynamics.velocities**2))
    assert np.mean(x2) == pytest.approx(KELVIN_TO_EV * 300 / 2.0, rel=0.02)
    mass = 12.011 * AMU_ANGSTROM2_PER_FS2_TO_EV
    assert np.mean(v2) == pytest.approx(KELVIN_TO_EV * 300 / mass, rel=0.02)


def test_without_friction_it_conserves_energy():
    dynamics = springs(20, Sampling(temperature=300.0, timestep=0.5, friction=0.0))
    mass = 12.011 * AMU_ANGSTROM2_PER_FS2_TO_EV

    def total() -> float:
        return dynamics.energy + 0.5 * mass * float(np.sum(dynamics.velocities**2))

    start = total()
    dynamics.run(1000)
    assert total() == pytest.approx(start, rel=1e-4)


def test_langevin_state_is_complete():
    sampling = Sampling(temperature=300.0)
    a = springs(3, sampling)
    a.run(10)
    state = json.loads(json.dumps(a.state()))
    b = Langevin.from_state(Springs(), sampling, state)
    a.run(10)
    b.run(10)
    assert np.array_equal(a.atoms.positions, b.atoms.positions)
    assert np.array_equal(a.velocities, b.velocities)
    assert a.step == b.step == 20


def test_periodic_frames_carry_a_stress(tmp_path):
    cell = np.eye(3) * 4.0
    crystal = Structure([29] * 4, np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]]) * 0.9, cell * 0.9, [True] * 3)
    write_store(tmp_path / "cu.h5", [crystal])
    label(
        read_molecules([str(tmp_path / "cu.h5")]),
        tmp_path / "out.h5",
        calculator="ase:ase.calculators.emt:EMT",
        sampling=Sampling(frames=2, trajectories=1, interval=1, equilibration=2, relax_steps=0),
        workers=1,
    )
    for structure in read_structures(tmp_path / "out.h5"):
        atoms = structure.to_ase()
        atoms.calc = EMT()
        assert np.allclose(structure.stress, atoms.get_stress(voigt=False), rtol=0, atol=1e-12)
        assert structure.pbc.all()
        assert structure.group == "cu"


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return app


def test_relaxation_precedes_the_dynamics(tmp_path):
    """At 0 K nothing moves away from the minimum."""
    sampling = Sampling(temperature=0.0, frames=2, trajectories=1, interval=1, equilibration=0)
    summary = label(read_molecules(["O"]), tmp_path / "a.h5", sampling=sampling, workers=1)
    assert summary.force_max < 0.06
    unrelaxed = label(read_molecules(["O"]), tmp_path / "b.h5", sampling=replace(sampling, relax_steps=0), workers=1)
    assert unrelaxed.force_max > 0.1


def test_command(app, folder):
    arguments = ["label", "O", "-o", "a.h5", "--frames", "3", "--trajectories", "1", "--interval", "1"]
    arguments += ["--equilibration", "2", "--workers", "1", "--calculator", "ase:ase.calculators.emt:EMT"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["frames"] == 3
    assert summary["elements"] == ["H", "O"]
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, MindscaipError)
    assert "--overwrite" in str(again.exception)
    result = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert result.exit_code == 0
    assert "3 frames of 1 molecules (H O)" in result.stderr


def test_command_mistakes(app, folder):
    unknown = CliRunner().invoke(app, ["label", "O", "-o", "a.h5", "--calculator", "gfn2xtb"])
    assert "did you mean 'gfn2-xtb'?" in str(unknown.exception)
    bad = CliRunner().invoke(app, ["label", "C(", "-o", "a.h5"])
    assert "is not a SMILES" in str(bad.exception)
    assert os.listdir(folder) == ["label_calculators.py"]
    shown = CliRunner().invoke(app, ["label", "--help"])
    assert shown.exit_code == 0
    assert "mindscaip label CCO" in shown.stdout
