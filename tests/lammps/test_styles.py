"""What LAMMPS asks of a pair style beyond energy and forces: stress, hybrid, repeated set-up, no ``plugin load``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindscaip.data.structure import Structure
from mindscaip.engines.lammps import read_dump, read_thermo, write_data
from mindscaip.units import EV_PER_ANGSTROM3_TO_BAR
from tests.golden.cases import model_path
from tests.reference import python_reference

MODEL = model_path("float64")
CELL = np.array([[6.0, 0.0, 0.0], [1.0, 5.0, 0.0], [0.0, 0.7, 5.5]])


@pytest.fixture
def crystal(tmp_path: Path) -> Structure:
    """Eight atoms H C O (types 1 2 3) in a triclinic cell, with ``structure.data`` written."""
    grid = np.stack(np.meshgrid([0.05, 0.55], [0.1, 0.6], [0.2, 0.7], indexing="ij"), -1).reshape(-1, 3)
    grid += np.random.default_rng(8).uniform(-0.04, 0.04, grid.shape)
    structure = Structure([6, 1, 8, 1, 6, 1, 8, 1], grid @ CELL, CELL, [True] * 3)
    write_data(tmp_path / "structure.data", structure)
    return structure


def setup(units: str = "metal") -> str:
    return f"units {units}\natom_style atomic\nbox tilt large\nread_data structure.data\n"


def test_stress_of_atoms_and_of_the_box(run_lammps, crystal: Structure, tmp_path: Path) -> None:
    done = run_lammps(
        setup()
        + f"""pair_style mindscaip '{MODEL}'
pair_coeff * * H C O
compute w all pair mindscaip
compute p all pressure NULL virial
compute s all stress/atom NULL virial
compute c all centroid/stress/atom NULL virial
thermo_style custom step vol c_w[*] c_p[*]
thermo_modify norm no format float %.17g
dump d all custom 1 atoms.dump id c_s[*] c_c[*]
dump_modify d sort id format float %.17g
run 0
"""
    )
    assert done.returncode == 0, done.stdout
    thermo = read_thermo(tmp_path / "log.lammps")
    _, atoms = read_dump(tmp_path / "atoms.dump", 15)
    expected = python_reference(MODEL, crystal)
    # compute pair: xx xy xz yx yy yz zx zy zz, not symmetrised.
    found = np.array([thermo[f"c_w[{k}]"][0] for k in range(1, 10)]).reshape(3, 3)
    assert np.abs(found - expected.virial).max() <= 1e-8
    assert np.abs(found - found.T).max() > 1e-6, "the case should tell the nine components from six"
    # compute pressure: xx yy zz xy xz yz of the symmetric part.
    symmetric = expected.symmetric_virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    pressure = np.array([thermo[f"c_p[{k}]"][0] for k in range(1, 7)])
    volume = thermo["Volume"][0]
    assert pressure == pytest.approx(symmetric / volume * EV_PER_ANGSTROM3_TO_BAR, rel=1e-6, abs=1e-3)
    # Atoms add up to the box; LAMMPS gives -virial in pressure times volume.
    to_pressure_volume = -(pressure * volume) / symmetric
    assert atoms[0, :, :6].sum(0) == pytest.approx(symmetric * to_pressure_volume, rel=1e-9)
    # Centroid: xx yy zz xy xz yz yx zx zy.
    nine = expected.virial[[0, 1, 2, 0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 2, 2, 0, 0, 1]]
    assert atoms[0, :, 6:].sum(0) == pytest.approx(nine * to_pressure_volume.mean(), rel=1e-7, abs=1e-2)


def test_hybrid_overlay_adds_up(run_lammps, crystal: Structure, tmp_path: Path) -> None:
    charges = {1: 1, 2: 6, 3: 8}
    zbl = "".join(f"pair_coeff {i} {j} {{0}}{charges[i]} {charges[j]}\n" for i in charges for j in charges if i <= j)
    dump = "dump d all custom 1 {0}.dump id fx fy fz\ndump_modify d sort id format float %.17g\nrun 0\nundump d\n"
    done = run_lammps(
        setup()
        + "pair_style zbl 3.0 4.0\n"
        + zbl.format("")
        + dump.format("zbl")
        + f"pair_style hybrid/overlay mindscaip '{MODEL}' zbl 3.0 4.0\npair_coeff * * mindscaip H C O\n"
        + zbl.format("zbl ")
        + dump.format("both")
    )
    assert done.returncode == 0, done.stdout
    zbl_forces = read_dump(tmp_path / "zbl.dump", 3)[1][0]
    both = read_dump(tmp_path / "both.dump", 3)[1][0]
    assert np.abs(both - zbl_forces - python_reference(MODEL, crystal).forces).max() <= 1e-8


def test_hybrid_with_a_type_left_to_another_style(run_lammps, crystal: Structure, tmp_path: Path) -> None:
    done = run_lammps(
        setup()
        + f"""pair_style hybrid mindscaip '{MODEL}' zero 3.0
pair_coeff * * mindscaip H C NULL
pair_coeff * 3 zero
thermo_modify norm no format float %.17g
dump d all custom 1 atoms.dump id fx fy fz
dump_modify d sort id format float %.17g
run 0
"""
    )
    assert done.returncode == 0, done.stdout
    mine = crystal.numbers != 8
    subset = Structure(crystal.numbers[mine], crystal.positions[mine], crystal.cell, crystal.pbc)
    expected = python_reference(MODEL, subset)
    forces = read_dump(tmp_path / "atoms.dump", 3)[1][0]
    assert read_thermo(tmp_path / "log.lammps")["E_pair"][0] == pytest.approx(expected.energy, abs=1e-8)
    assert np.abs(forces[mine] - expected.forces).max() <= 1e-8
    assert (forces[~mine] == 0.0).all()


def test_types_without_atoms_may_be_null(run_lammps, tmp_path: Path) -> None:
    done = run_lammps(
        f"""units metal
region box block 0 20 0 20 0 20
create_box 3 box
create_atoms 2 single 3 3 3
create_atoms 2 single 4.3 3 3
mass * 12.0
pair_style mindscaip '{MODEL}' threads 1
pair_coeff * * NULL C NULL
thermo_modify norm no format float %.17g
run 0
"""
    )
    assert done.returncode == 0, done.stdout
    pair = Structure([6, 6], [[3.0, 3, 3], [4.3, 3, 3]])
    expected = python_reference(MODEL, pair).energy
    assert read_thermo(tmp_path / "log.lammps")["E_pair"][0] == pytest.approx(expected, abs=1e-9)


def test_molecular_atoms_in_real_units_minimize_and_run_again(run_lammps, tmp_path: Path) -> None:
    """Bonds with special_bonds 1 1 1, ``minimize``, ``clear``, and the style set twice in one instance."""
    (tmp_path / "bonded.data").write_text(
        """two carbons and a hydrogen

3 atoms
1 bonds
2 atom types
1 bond types

0 30 xlo xhi
0 30 ylo yhi
0 30 zlo zhi

Masses

1 12.011
2 1.008

Atoms  # bond

1 1 1 10.0 10.0 10.0
2 1 1 11.4 10.0 10.0
3 1 2 10.0 11.1 10.0

Bonds

1 1 1 2
"""
    )
    once = f"""units real
atom_style bond
bond_style zero
special_bonds lj/coul 1 1 1
read_data bonded.data
bond_coeff *
pair_style mindscaip '{MODEL}'
pair_coeff * * C H
pair_style mindscaip '{model_path("float32")}'
pair_style mindscaip '{MODEL}'
pair_coeff * * C H
thermo_modify norm no format float %.17g
run 0
minimize 0 1e-4 5 20
fix 1 all nve
run 20 pre yes
"""
    done = run_lammps(once + "clear\n" + once)
    assert done.returncode == 0, done.stdout


LIBRARY = """
import sys
import lammps
instances = [lammps.lammps(cmdargs=["-log", "none", "-screen", "none"]) for _ in range(2)]
for instance in instances:
    instance.commands_string(sys.argv[1])
    print(repr(instance.get_thermo("pe")))
instances[0].close()
instances[1].command("run 5")
print(repr(instances[1].get_thermo("pe")))
"""


def test_python_module_finds_the_style(run_python, crystal: Structure, tmp_path: Path) -> None:
    script = setup() + f"pair_style mindscaip '{MODEL}'\npair_coeff * * H C O\nthermo_modify norm no\nrun 0\n"
    done = run_python(LIBRARY, script)
    assert done.returncode == 0, done.stdout
    energies = [float(line) for line in done.stdout.split()]
    expected = python_reference(MODEL, crystal).energy
    assert energies == pytest.approx([expected] * 3, abs=1e-8)
