from __future__ import annotations

import ase.io
import numpy as np
import pytest

from mindscaip.data.formats import find_label_keys, read_structures
from mindscaip.data.store import write_store
from mindscaip.errors import MindscaipError

# file, frames, name of the forces, whether there is a stress
REAL = [
    ("acac/train_300K.xyz", 500, "forces", False),
    ("acac/test_MD_300K.xyz", 650, "forces", False),
    ("3bpa/train_300K.xyz", 500, "forces", False),
    ("ethanol/train.xyz", 1000, "forces", False),
    ("spice/spice-dipeptides-train.xyz", 495, "force", False),
    ("mptrj/mptrj-random-1k.xyz", 1000, "forces", True),
    ("water/high_level_water.xyz", 10, "forces", False),
]


@pytest.mark.parametrize(("name", "count", "forces", "stress"), REAL)
def test_real_files_agree_with_ase(real, name, count, forces, stress):
    path = real(name)
    keys = find_label_keys(path)
    assert (keys.energy, keys.forces, keys.stress) == ("energy", forces, "stress" if stress else None)
    assert sum(1 for _ in read_structures(path)) == count

    every = count // 5
    ours = list(read_structures(path, index=f"::{every}"))
    theirs = ase.io.read(path, f"::{every}")
    assert len(ours) == len(theirs) >= 5
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.numbers, b.numbers)
        assert np.array_equal(a.positions, b.positions)
        assert np.array_equal(a.cell, b.cell)
        assert np.array_equal(a.pbc, b.pbc)
        assert a.energy == b.get_potential_energy()
        assert np.array_equal(a.forces, b.arrays["force"] if forces == "force" else b.get_forces())
        if stress:
            assert np.allclose(a.stress, b.get_stress(voigt=False), rtol=0, atol=1e-12)
        else:
            assert a.stress is None


@pytest.mark.parametrize("name", ["acac/isolated_atoms.xyz", "3bpa/iso_atoms.xyz", "ethanol/isolated_atoms.xyz"])
def test_isolated_atoms_have_zero_forces(real, name):
    atoms = list(read_structures(real(name)))
    assert len(atoms) >= 3
    assert all(len(a) == 1 and np.array_equal(a.forces, np.zeros((1, 3))) and a.energy < -10 for a in atoms)


def test_geometries_without_labels(real):
    path = real("md22/atat_geometry_so3lr.xyz")
    with pytest.raises(MindscaipError, match=r"frame 0 .* has no forces; it has species, pos"):
        list(read_structures(path))
    (geometry,) = read_structures(path, labels="ignored")
    assert len(geometry) == 60
    assert geometry.energy is None
    (partial,) = read_structures(path, labels="optional")
    assert partial.energy == -219.132431
    assert partial.forces is None


def test_nan_of_upstream_is_named(real):
    with pytest.raises(
        MindscaipError, match=r"frame 0 of .*atoms_9.xyz \(line 1\) has a value in 'energy' .* not finite"
    ):
        list(read_structures(real("bsct/upstream-layout/bsct_spice/C-N/25729/atoms_9.xyz")))


def xyz(comment: str, *rows: str) -> str:
    return f"{len(rows)}\n{comment}\n" + "".join(row + "\n" for row in rows)


def save(tmp_path, *frames: str):
    path = tmp_path / "frames.xyz"
    path.write_text("".join(frames))
    return path


P = "Properties=species:S:1:pos:R:3"
TWO = ("H 0 0 0 1 2 3", "F 0 0 1 -1 -2 -3")


@pytest.mark.parametrize(
    ("energy", "forces"),
    [("energy", "forces"), ("REF_energy", "REF_forces"), ("dft_energy", "dft_forces"), ("Energy", "force")],
)
def test_known_names(tmp_path, energy, forces):
    path = save(tmp_path, xyz(f"{P}:{forces}:R:3 {energy}=-5.5", *TWO))
    keys = find_label_keys(path)
    assert (keys.energy, keys.forces) == (energy, forces)
    assert str(keys) == f"energy from {energy!r}, forces from {forces!r}"
    (structure,) = read_structures(path)
    assert structure.energy == -5.5
    assert structure.forces.tolist() == [[1, 2, 3], [-1, -2, -3]]


def test_explicit_keys_win(tmp_path):
    path = save(tmp_path, xyz(f"{P}:forces:R:3:f2:R:3 energy=1 e2=2", "H 0 0 0 1 1 1 2 2 2", "H 0 0 1 1 1 1 2 2 2"))
    (structure,) = read_structures(path, energy_key="e2", forces_key="f2")
    assert structure.energy == 2
    assert (structure.forces == 2).all()
    with pytest.raises(MindscaipError, match=r"has no 'e3' \(asked for as energy\) \(did you mean 'e2'\?\)"):
        list(read_structures(path, energy_key="e3"))


def test_two_different_energies_are_not_guessed(tmp_path):
    path = save(tmp_path, xyz(f"{P}:forces:R:3 energy=1 REF_energy=2", *TWO))
    with pytest.raises(MindscaipError, match="two different energy labels, 'energy' and 'REF_energy'"):
        list(read_structures(path))
    (structure,) = read_structures(path, energy_key="REF_energy")
    assert structure.energy == 2
    same = save(tmp_path, xyz(f"{P}:forces:R:3 energy=1 REF_energy=1.0", *TWO))
    assert next(read_structures(same)).energy == 1


def test_isolated_atom_before_the_frames(tmp_path):
    path = save(tmp_path, xyz(f"{P} energy=-13", "H 0 0 0"), xyz(f"{P}:force:R:3 energy=-5", *TWO))
    atom, pair = read_structures(path)
    assert atom.forces.tolist() == [[0, 0, 0]]
    assert pair.forces.tolist() == [[1, 2, 3], [-1, -2, -3]]


def test_stress_and_virial(tmp_path):
    lattice = 'Lattice="2 0 0 0 3 0 0 0 4"'
    voigt = save(tmp_path, xyz(f'{P}:forces:R:3 {lattice} energy=1 stress="1 2 3 4 5 6"', *TWO))
    (structure,) = read_structures(voigt)
    assert structure.pbc.all()
    assert structure.stress.tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    assert structure.to_ase().get_stress().tolist() == [1, 2, 3, 4, 5, 6]
    virial = save(tmp_path, xyz(f'{P}:forces:R:3 {lattice} energy=1 virial="24 0 0 0 48 0 0 0 -24"', *TWO))
    (structure,) = read_structures(virial)
    assert np.allclose(structure.stress, np.diag([-1, -2, 1]), atol=1e-14)


def test_columns_in_any_order_and_plain_xyz(tmp_path):
    path = save(tmp_path, xyz("Properties=id:I:1:forces:R:3:species:S:1:pos:R:3 energy=1", "7 1 2 3 Cl 4 5 6"))
    (structure,) = read_structures(path)
    assert structure.symbols == ["Cl"]
    assert structure.positions.tolist() == [[4, 5, 6]]
    plain = save(tmp_path, "2\na water of some kind = odd\nO 0 0 0\n1 0 0 1 extra\n")
    (structure,) = read_structures(plain, labels="ignored")
    assert structure.numbers.tolist() == [8, 1]
    assert not structure.pbc.any()


def test_group_key(tmp_path):
    path = save(tmp_path, xyz(f'{P}:forces:R:3 energy=1 smiles="[H]F" group=a', *TWO))
    assert next(read_structures(path)).group == "a"
    assert next(read_structures(path, group_key="smiles")).group == "[H]F"
    with pytest.raises(MindscaipError, match="no 'smile' to group by"):
        next(read_structures(path, group_key="smile"))


def test_index(tmp_path):
    path = save(tmp_path, *[xyz(f"{P}:forces:R:3 energy={i}", *TWO) for i in range(7)])

    def energies(index):
        return [s.energy for s in read_structures(path, index=index)]

    everything = list(range(7))
    for index in (":", "2:5", "::3", "1:6:2", "-1:", "-3:", ":-2", "-5:-1:2"):
        expected = everything[slice(*[int(p) if p else None for p in index.split(":")])]
        assert energies(index) == expected, index
    assert energies(3) == [3]
    assert energies("-1") == [6]
    assert energies(-2) == [5]
    for bad in ("x", "1:2:3:4", "::0", "::-1", "7", "9:"):
        with pytest.raises(MindscaipError):
            energies(bad)


GOOD = xyz(f"{P}:forces:R:3 energy=1", *TWO)
DAMAGED = {
    "empty": ("", "is empty"),
    "only blank lines": ("\n\n", "is empty"),
    "cut off after a row": (GOOD + "2\nenergy=1\nH 0 0 0\n", r"frame 1 of .* \(line 5\) ends after 1 of 2 atoms"),
    "cut off after the count": (GOOD + "2\n", "frame 1 .* ends after 0 of 2"),
    "cut off within a row": (GOOD + GOOD[:-8], r"frame 1 .* has 5 columns for atom 1, not 7"),
    "too many rows": (GOOD + "H 0 0 1 1 1 1\n", "line 5 of .* should hold the atom count of frame 1"),
    "no atoms": ("0\n\n", "has 0 atoms"),
    "not a number": (GOOD.replace("F 0 0 1", "F 0 0 x"), "has 'x' for atom 1 in 'pos', expected a number"),
    "nan position": (GOOD.replace("F 0 0 1", "F 0 0 nan"), r"frame 0 .*positions .* not finite"),
    "nan force": (GOOD + GOOD.replace("-3", "nan"), r"frame 1 .* value in 'forces' that is not finite"),
    "nan energy": (GOOD.replace("energy=1", "energy=nan"), "value in 'energy' that is not finite"),
    "bad energy": (GOOD.replace("energy=1", "energy=low"), "has 'low' for 'energy', expected a number"),
    "no energy": (GOOD.replace("energy", "enthalpy"), r"frame 0 .* has no energy; it has enthalpy"),
    "no energy later": (
        GOOD + GOOD.replace("energy", "REF_energy"),
        r"frame 1 .* no 'energy', which an earlier frame has",
    ),
    "no forces": (xyz(f"{P} energy=1", "H 0 0 0", "H 0 0 1"), "has no forces; it has species, pos"),
    "a gradient": (GOOD.replace("forces", "gradient"), "'gradient', a gradient: forces have the opposite sign"),
    "no element": (GOOD.replace("F 0", "Qq 0"), "species 'Qq', which is not an element"),
    "properties": (GOOD.replace(":pos:R:3", ":pos:R"), "malformed Properties"),
    "units": (GOOD.replace("energy=1", "energy=1 energy_unit=Hartree"), "declares energy_unit=Hartree"),
    "lattice": (GOOD.replace("energy=1", 'energy=1 Lattice="1 2 3"'), "for 'Lattice', expected 9 numbers"),
    "flat cell": (GOOD.replace("energy=1", 'energy=1 Lattice="1 0 0 1 0 0 0 0 1"'), "frame 0 .* linearly independent"),
    "pbc": (GOOD.replace("energy=1", 'energy=1 pbc="Y Y N"'), "expected three of T and F"),
    "binary": ("\x00\x01\x02PK\x03", "should hold the atom count"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_sentence(tmp_path, case):
    text, message = DAMAGED[case]
    with pytest.raises(MindscaipError, match=message) as caught:
        list(read_structures(save(tmp_path, text)))
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "train.xyz").write_text(GOOD)
    with pytest.raises(MindscaipError, match=r"does not exist \(did you mean 'train.xyz'\?\)"):
        list(read_structures(tmp_path / "trian.xyz"))
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(MindscaipError, match=r"unknown format '.npz'; the formats read are .xyz, .extxyz, .h5"):
        list(read_structures(tmp_path / "a.npz"))
    with pytest.raises(MindscaipError, match="is a folder"):
        list(read_structures(tmp_path))


def test_store_as_a_format(tmp_path, structures):
    path = tmp_path / "a.h5"
    write_store(path, structures)
    assert [s.energy for s in read_structures(path, index="1::2")] == [s.energy for s in structures[1::2]]
    assert find_label_keys(path).stress == "stress"
    with pytest.raises(MindscaipError, match="leave out the key 'e'"):
        list(read_structures(path, energy_key="e"))
    structures[2].forces = None
    write_store(path, structures)
    with pytest.raises(MindscaipError, match=r"structure 2 of .* has no forces"):
        list(read_structures(path))
    assert len(list(read_structures(path, labels="optional"))) == 7
