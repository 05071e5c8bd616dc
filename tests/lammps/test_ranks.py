"""Several MPI ranks give the numbers of one: energies, forces, virials and all per-atom ones, on any grid of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mindscaip.data.structure import Structure
from mindscaip.engines.lammps import evaluate, read_dump, write_data
from mindscaip.units import EV_PER_ANGSTROM3_TO_BAR
from tests.golden.cases import golden_cases
from tests.models import random_structure, write_small_model
from tests.reference import python_reference

# All ways to rank neighbours; the direct head has no backward pass, and so no exchange in it.
MODELS = {
    "source": {},
    "mutual": {"ranking": "mutual"},
    "knn": {"kind": "knn"},
    "sigmoid": {"ranking": "mutual", "rank_function": "sigmoid"},
    "direct": {"head": "direct"},
}


def crystal() -> Structure:
    """Thirty-six atoms in a triclinic cell."""
    cell = np.array([[8.0, 0.0, 0.0], [2.5, 7.0, 0.0], [-1.5, 2.0, 7.5]])
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(3), np.arange(4), indexing="ij"), -1).reshape(-1, 3)
    rng = np.random.default_rng(3)
    fractions = (grid + rng.uniform(-0.1, 0.1, grid.shape)) / [3, 3, 4]
    return Structure(np.resize([1, 6, 8], 36), fractions @ cell, cell, [True] * 3)


def boxed(structure: Structure, cell: list[float]) -> Structure:
    return Structure(structure.numbers, structure.positions, np.diag(cell), [True] * 3)


def molecule_in_a_corner() -> Structure:
    molecule = golden_cases()[0].structure
    positions = molecule.positions - molecule.positions.min(0) + 0.2
    return boxed(Structure(molecule.numbers, positions), [40.0, 40.0, 40.0])


def systems() -> dict[str, Structure]:
    return {
        "molecule in a corner": molecule_in_a_corner(),
        "liquid": random_structure(36, box=7.5, seed=1),
        "slab with an empty half": boxed(random_structure(30, size=6.5, seed=2), [7.5, 7.5, 24.0]),
        "triclinic crystal": crystal(),
        "twenty atoms": random_structure(20, box=9.0, seed=4),
        "thin box": boxed(random_structure(12, size=2.9, seed=5), [3.3, 9.0, 9.5]),
    }


# LAMMPS itself refuses tiles where the ghost cutoff is longer than the box.
def styles(system: str) -> tuple[str, ...]:
    return ("brick",) if system == "thin box" else ("brick", "tiled")


CASES = [(system, "source") for system in systems()]
CASES += [("slab with an empty half", "mutual"), ("triclinic crystal", "mutual"), ("twenty atoms", "sigmoid")]
CASES += [("liquid", "knn"), ("twenty atoms", "direct")]


@dataclass(frozen=True)
class Found:
    energy: float
    virial: np.ndarray
    forces: np.ndarray
    atom_energies: np.ndarray
    atom_virials: np.ndarray
    centroid_virials: np.ndarray


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_small_model(folder / f"{name}.pt", **options) for name, options in MODELS.items()}


def script(folder: Path, models: dict[str, Path]) -> str:
    """Every case in one start of LAMMPS: a model is read once, then the ranks are arranged as bricks and as tiles."""
    structures = systems()
    lines = []
    for number, (system, model) in enumerate(CASES):
        data = folder / f"{number}.data"
        types = write_data(data, structures[system])
        lines += [
            "clear",
            "units metal",
            "box tilt large",
            "neighbor 0.5 bin",
            f"read_data {data.name}",
            f"pair_style mindscaip '{models[model]}'",
            f"pair_coeff * * {' '.join(types)}",
            "compute w all pair mindscaip",
            "compute e all pe/atom",
            "compute s all stress/atom NULL virial",
            "compute c all centroid/stress/atom NULL virial",
            "thermo_style custom step pe c_w[*]",
        ]
        for style in styles(system):
            lines += ["comm_style tiled", "balance 1.0 rcb"] if style == "tiled" else []
            lines += [
                f"dump d all custom 1 {number}-{style}.dump id fx fy fz c_e c_s[*] c_c[*]",
                "dump_modify d sort id format float %.17g",
                "run 0",
                "undump d",
                f'print "{" ".join(f"$({name}:%.17g)" for name in ["pe", *(f"c_w[{k}]" for k in range(1, 10))])}" '
                f"file {number}-{style}.txt",
            ]
    return "\n".join(lines) + "\n"


def read(folder: Path) -> dict[tuple[str, str, str], Found]:
    found = {}
    for number, (system, model) in enumerate(CASES):
        for style in styles(system):
            values = np.array((folder / f"{number}-{style}.txt").read_text().split(), dtype=np.float64)
            atoms = read_dump(folder / f"{number}-{style}.dump", 19)[1][-1]
            found[system, model, style] = Found(
                values[0],
                values[1:].reshape(3, 3),
                atoms[:, :3],
                atoms[:, 3],
                atoms[:, 4:10] / EV_PER_ANGSTROM3_TO_BAR,
                atoms[:, 10:] / EV_PER_ANGSTROM3_TO_BAR,
            )
    return found


@pytest.fixture(scope="module")
def one_rank(run_lammps_in, models, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("one")
    done = run_lammps_in(folder, script(folder, models))
    assert done.returncode == 0, done.stdout
    return read(folder)


def test_one_rank_gives_what_python_gives(one_rank, models) -> None:
    structures = systems()
    assert len(one_rank) == 2 * len(CASES) - 1 > 20
    for (system, model, style), found in one_rank.items():
        expected = python_reference(models[model], structures[system])
        where = f"{system}, {model}, {style}"
        assert abs(found.energy - expected.energy) <= 1e-9 * len(structures[system]), where
        assert np.abs(found.atom_energies - expected.atom_energies).max() <= 1e-9, where
        assert np.abs(found.forces - expected.forces).max() <= 1e-8, where
        assert np.abs(found.forces).max() > 1e-3, where
        assert np.abs(found.virial - expected.virial).max() <= 1e-8, where
        # Atoms add up to the whole: six components of the symmetric part, nine of the other.
        virial = expected.virial
        symmetric = expected.symmetric_virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
        nine = virial[[0, 1, 2, 0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 2, 2, 0, 0, 1]]
        assert np.abs(found.atom_energies.sum() - expected.energy) <= 1e-8, where
        assert np.abs(-found.atom_virials.sum(0) - symmetric).max() <= 1e-6, where
        assert np.abs(-found.centroid_virials.sum(0) - nine).max() <= 1e-6, where


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks(run_lammps_in, one_rank, models, tmp_path: Path, ranks: int) -> None:
    done = run_lammps_in(tmp_path, script(tmp_path, models), ranks=ranks)
    assert done.returncode == 0, done.stdout
    found = read(tmp_path)
    assert found.keys() == one_rank.keys()
    for case, ours in found.items():
        one = one_rank[case]
        assert abs(ours.energy - one.energy) <= 1e-9 * len(one.forces), case
        for name in ("forces", "virial", "atom_virials", "centroid_virials"):
            assert np.abs(getattr(ours, name) - getattr(one, name)).max() <= 1e-8, (case, name)
        assert np.abs(ours.atom_energies - one.atom_energies).max() <= 1e-9, case


def read_forces(folder: Path, name: str) -> np.ndarray:
    return read_dump(folder / name, 3)[1][-1]


def test_parts_of_a_hybrid_on_ranks_that_own_none_of_it(run_lammps_in, models, tmp_path: Path) -> None:
    """The model sees one corner of the box; ranks beyond it hold only atoms of a type mapped to NULL."""
    mine = random_structure(10, size=4.0, seed=6)
    positions = np.concatenate([mine.positions + 1.0, [[18.0, 2, 2], [20.0, 3, 3], [22.0, 9, 9]]])
    numbers = np.concatenate([mine.numbers, [18, 18, 18]])
    whole = Structure(numbers, positions, np.diag([24.0, 12.0, 12.0]), [True] * 3)
    types = write_data(tmp_path / "mixed.data", whole)
    assert sorted(types) == ["Ar", "C", "H", "O"]
    mapped = " ".join("NULL" if symbol == "Ar" else symbol for symbol in types)
    argon = types.index("Ar") + 1
    # Two models at once, each seen by the atoms that it is for, and a style that does nothing for the others.
    setup = f"""units metal
read_data mixed.data
pair_style hybrid/overlay mindscaip '{models["source"]}' zero 3.0 mindscaip '{models["mutual"]}'
pair_coeff * * mindscaip 1 {mapped}
pair_coeff * * mindscaip 2 {mapped}
pair_coeff * {argon} zero
pair_coeff {argon} * zero
thermo_style custom step pe
dump d all custom 1 forces.dump id fx fy fz
dump_modify d sort id format float %.17g
run 0
print "energy: $(pe:%.17g)"
"""
    part = Structure(mine.numbers, mine.positions + 1.0, whole.cell, whole.pbc)
    expected = [python_reference(models[name], part) for name in ("source", "mutual")]
    forces = sum(found.forces for found in expected)
    for ranks in (1, 2, 3):
        done = run_lammps_in(tmp_path, "processors * 1 1\n" + setup, ranks=ranks)
        assert done.returncode == 0, done.stdout
        line = next(line for line in done.stdout.splitlines() if line.startswith("energy: "))
        assert float(line.split()[1]) == pytest.approx(sum(found.energy for found in expected), abs=1e-8)
        found_forces = read_forces(tmp_path, "forces.dump")
        assert np.abs(found_forces[:10] - forces).max() <= 1e-8
        assert (found_forces[10:] == 0.0).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_general_triclinic_box(plugin: Path, models, tmp_path: Path, ranks: int) -> None:
    """Each rank turns its edges back into the frame of the user, which the model is not indifferent to."""
    structure = crystal()
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    turned = Structure(structure.numbers, structure.positions @ turn, structure.cell @ turn, structure.pbc)
    expected = python_reference(models["source"], turned)
    found = evaluate(models["source"], turned, work=tmp_path, threads=1, ranks=ranks)
    assert "avec" in (tmp_path / "structure.data").read_text()
    assert abs(found.energy - expected.energy) <= 1e-9 * len(structure)
    assert np.abs(found.forces - expected.forces).max() <= 1e-8
    assert np.abs(found.virial - expected.virial).max() <= 1e-8
    assert np.abs(found.atom_energies - expected.atom_energies).max() <= 1e-9
