"""Runs of many kinds on two ranks: heat flux, npt, minimisation, restart, rerun, hybrid, and long dynamics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.lammps import read_dump, write_data
from mindscaip.graph.neighbors import neighbor_list
from tests.models import random_structure, write_small_model
from tests.reference import python_reference

TYPES = "H C O"
CHARGES = {1: 1, 2: 6, 3: 8}
ZBL = "".join(f"pair_coeff {i} {j} zbl {CHARGES[i]} {CHARGES[j]}\n" for i in CHARGES for j in CHARGES if i <= j)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "model.pt")


def numbers(text: str, tag: str) -> np.ndarray:
    """The numbers of the line that an input printed as ``tag: ...``."""
    line = next(line for line in text.splitlines() if line.startswith(f"{tag}: "))
    return np.array(line.split()[1:], dtype=np.float64)


def heat_flux(path: Path, structure: Structure, velocities: np.ndarray, kinetic: np.ndarray) -> np.ndarray:
    """``sum_i e_i v_i - 1/2 sum_e r_e (g_e . (v_i + v_j))`` edge by edge; eV times the unit of velocity."""
    exported = load_exported(path)
    edges = neighbor_list(structure, exported.contract.list_cutoff)
    energies, gradients, _ = exported.module(
        torch.from_numpy(structure.numbers), torch.from_numpy(edges.index), torch.from_numpy(edges.vectors)
    )
    i, j = edges.index
    power = np.einsum("ec,ec->e", gradients.numpy(), velocities[i] + velocities[j])
    convective = (energies.numpy() + kinetic) @ velocities
    return convective - 0.5 * np.einsum("e,ec->c", power, edges.vectors)


def test_runs_of_many_kinds(run_lammps, model: Path, tmp_path: Path) -> None:
    structure = random_structure(32, box=8.0, seed=7)
    rng = np.random.default_rng(2)
    velocities = rng.normal(scale=4.0, size=structure.positions.shape)  # A/ps
    assert write_data(tmp_path / "liquid.data", structure, velocities) == TYPES.split()
    pair = f"pair_style mindscaip '{model}' timing yes\npair_coeff * * {TYPES}\n"
    done = run_lammps(
        f"""units metal
read_data liquid.data
{pair}compute ke all ke/atom
compute pe all pe/atom
compute cs all centroid/stress/atom NULL virial
compute flux all heat/flux ke pe cs
thermo_style custom step pe press c_flux[*]
dump d all custom 1 first.dump id vx vy vz c_ke
dump_modify d sort id format float %.17g
run 0
undump d
print "flux: $(c_flux[1]:%.17g) $(c_flux[2]:%.17g) $(c_flux[3]:%.17g)"
uncompute flux
thermo_style custom step pe press vol
timestep 0.0002
fix move all npt temp 300 300 0.02 iso 1 1 0.2
dump t all custom 2 all.dump id type x y z
dump_modify t sort id format float %.17g
run 4
print "npt: $(pe:%.17g) $(vol:%.17g)"
undump t
run 2 pre no post no
unfix move
fix relax all box/relax iso 0.0 vmax 0.001
minimize 0 1e-6 4 20
unfix relax
minimize 0 1e-6 4 20
print "minimum: $(pe:%.17g)"
write_restart kept.restart
clear
read_restart kept.restart
{pair}run 0
print "restarted: $(pe:%.17g)"
clear
units metal
read_data liquid.data
{pair}thermo 2
rerun all.dump every 4 dump x y z box yes
print "rerun: $(pe:%.17g)"
pair_style hybrid/overlay mindscaip '{model}' zbl 0.6 0.8
pair_coeff * * mindscaip {TYPES}
{ZBL}compute mine all pair mindscaip
thermo_style custom step pe c_mine
rerun all.dump every 4 dump x y z box yes
print "overlay: $(c_mine:%.17g)"
""",
        ranks=2,
    )
    assert done.returncode == 0, done.stdout
    text = done.stdout

    _, atoms = read_dump(tmp_path / "first.dump", 4)
    assert np.abs(atoms[0, :, :3] - velocities).max() < 1e-12
    # compute heat/flux gives J times volume, in energy times velocity.
    expected = heat_flux(model, structure, velocities, atoms[0, :, 3])
    found = numbers(text, "flux")
    assert np.abs(expected).max() > 1.0
    assert found == pytest.approx(expected, rel=1e-7)
    assert text.count("compute heat/flux lacks the heat that message passing moves") == 1  # of all runs of the input

    energy, volume = numbers(text, "npt")
    _, last = read_dump(tmp_path / "all.dump", 4)
    edge = volume ** (1 / 3)
    final = Structure(structure.numbers, last[-1, :, 1:], np.eye(3) * edge, structure.pbc)
    assert abs(volume - 512.0) > 1e-6
    assert energy == pytest.approx(python_reference(model, final).energy, abs=1e-7)
    minimum = numbers(text, "minimum")[0]
    assert minimum < energy
    assert numbers(text, "restarted")[0] == pytest.approx(minimum, abs=1e-8)
    assert "give these again after read_restart:\npair_style mindscaip" in text
    assert f"pair_coeff * * {TYPES}" in text
    assert numbers(text, "rerun")[0] == pytest.approx(energy, abs=1e-7)
    assert numbers(text, "overlay")[0] == pytest.approx(energy, abs=1e-7)
    assert "exchange |" in text


def test_a_restart_without_the_commands_is_refused(run_lammps, model: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "liquid.data", random_structure(12, box=8.0, seed=7))
    done = run_lammps(
        f"units metal\nread_data liquid.data\npair_style mindscaip '{model}'\npair_coeff * * {TYPES}\nrun 0\n"
        "write_restart kept.restart\nclear\nread_restart kept.restart\nrun 0\n"
    )
    assert done.returncode > 0
    assert "give these again after read_restart" in done.stdout
    assert "pair coeff" in next(line for line in done.stdout.splitlines() if line.startswith("ERROR"))


def test_a_restart_of_a_hybrid_says_what_to_give_again(
    run_lammps, model: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Two models in one style: whoever follows the text, word for word, gets the same energy."""
    folder = tmp_path_factory.mktemp("a folder with blanks")
    other = write_small_model(folder / "other.pt", seed=5)
    write_data(tmp_path / "liquid.data", random_structure(12, box=8.0, seed=7))
    done = run_lammps(
        f"""units metal
read_data liquid.data
pair_style hybrid/overlay mindscaip '{model}' zero 3.0 mindscaip '{other}' threads 1
pair_coeff * * mindscaip 2 {TYPES}
pair_coeff * * mindscaip 1 {TYPES}
pair_coeff * * zero
run 0
print "before: $(pe:%.17g)"
write_restart kept.restart
clear
read_restart kept.restart
""",
        ranks=2,
    )
    assert done.returncode == 0, done.stdout
    lines = [line.strip() for line in done.stdout.splitlines()]
    asked = [k for k, line in enumerate(lines) if "keeps no model in restart files" in line]
    assert len(asked) == 2, done.stdout
    parts, coefficients = [], []
    for number, k in enumerate(asked, start=1):
        assert "give the whole 'pair_style hybrid/overlay' command again" in lines[k]
        assert f"mindscaip number {number} of it" in lines[k]
        parts.append(lines[k + 1])
        coefficients.append(lines[k + 3])
        assert f"mindscaip {number} " in coefficients[-1]
    given = "\n".join([f"pair_style hybrid/overlay {parts[0]} zero 3.0 {parts[1]}", *coefficients])
    again = run_lammps(
        f'read_restart kept.restart\n{given}\npair_coeff * * zero\nrun 0\nprint "after: $(pe:%.17g)"\n', ranks=2
    )
    assert again.returncode == 0, again.stdout
    assert numbers(again.stdout, "after")[0] == pytest.approx(numbers(done.stdout, "before")[0], abs=1e-9)


@pytest.mark.slow
def test_a_thousand_steps_on_two_ranks_follow_one(run_lammps, model: Path, tmp_path: Path) -> None:
    """500 K, atoms that change ranks, load balancing; ZBL keeps the random potential from collapsing."""
    write_data(tmp_path / "gas.data", random_structure(12, box=9.0, seed=8))
    script = f"""units metal
read_data gas.data
comm_style tiled
pair_style hybrid/overlay mindscaip '{model}' zbl 0.9 1.2
pair_coeff * * mindscaip {TYPES}
{ZBL}neighbor 0.5 bin
neigh_modify every 1 delay 0 check yes
velocity all create 500.0 4928459 mom yes loop geom
timestep 0.00025
fix integrate all nve
fix even all balance 100 1.05 rcb
dump d all custom 100 atoms.dump id xu yu zu
dump_modify d sort id format float %.17g
thermo 100
run 1000
print "builds: $(nbuild)"
"""
    trajectories = []
    for ranks in (1, 2):
        done = run_lammps(script, ranks=ranks)
        assert done.returncode == 0, done.stdout
        assert numbers(done.stdout, "builds")[0] > 10
        trajectories.append(read_dump(tmp_path / "atoms.dump", 3)[1])
    one, two = trajectories
    assert len(one) == 11
    assert np.abs(one[-1] - one[0]).max() > 1.0
    assert np.abs(two - one).max() < 1e-6
