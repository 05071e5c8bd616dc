"""Every published layout is read into the same structures, in eV and A, with the signs of this package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import ase.db
import numpy as np
import pytest

from mindscaip.data.formats import read_structures
from mindscaip.data.readers import files_of, format_of, read_source, units_of
from mindscaip.data.readers.base import FileUnits, ReadOptions, molecule_of, subset_of
from mindscaip.data.store import write_store
from mindscaip.errors import MindscaipError
from mindscaip.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV, KCAL_PER_MOL_TO_EV, unit_factor
from tests.data import layouts


def needs(module: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install 'mindscaip[datasets]'")


def write_xyz(path: Path, structures, energy="my_energy", forces="my_forces", extra="") -> Path:
    with path.open("w") as file:
        for s in structures:
            cell = f'Lattice="{" ".join(map(repr, map(float, s.cell.flat)))}" ' if s.pbc.any() else ""
            file.write(f"{len(s)}\n{cell}Properties=species:S:1:{forces}:R:3:pos:R:3 {energy}={s.energy!r} {extra}\n")
            for symbol, x, f in zip(s.symbols, s.positions, s.forces, strict=True):
                file.write(f"{symbol} {' '.join(repr(float(v)) for v in (*f, *x))}\n")
    return path


def write_ase(path: Path, structures) -> Path:
    with ase.db.connect(path) as database:
        for s in structures:
            database.write(s.to_ase(), mp_id=s.group or "none", data={"data_id": "part"})
    return path


@pytest.mark.parametrize("write", [layouts.write_sgdml, layouts.write_rmd17])
def test_sgdml(tmp_path, write):
    made = layouts.springs(5)
    path = write(tmp_path / "ethane.npz", made)
    assert format_of(path) == "sgdml"
    read = list(read_source(path))
    layouts.same(read, made)
    assert {s.group for s in read} == {"ethane"}


def test_sgdml_archives_that_name_their_units(tmp_path):
    made = layouts.springs(3)
    energies = np.array([s.energy for s in made])
    path = layouts.write_sgdml(
        tmp_path / "units.npz", made, E=energies, F=np.stack([s.forces for s in made]), e_unit="eV", r_unit="Ang"
    )
    assert units_of(path, "sgdml").energy == "eV"
    layouts.same(list(read_source(path)), made)


def test_spice(tmp_path):
    made = {
        "C#C": ("SPICE Dipeptides Single Points Dataset v1.2", layouts.springs(3, seed=1)),
        "CC": ("SPICE PubChem Set 1 Single Points Dataset v1.2", layouts.springs(4, seed=2)),
    }
    path = layouts.write_spice(tmp_path / "SPICE.hdf5", made)
    assert format_of(path) == "spice"
    read = list(read_source(path))
    layouts.same(read, [*made["C#C"][1], *made["CC"][1]])
    assert [subset_of(s.group)[:12] for s in read] == ["SPICE Dipept"] * 3 + ["SPICE PubChe"] * 4
    assert [molecule_of(s.group) for s in read] == ["C#C"] * 3 + ["CC"] * 4
    some = list(read_source(path, ReadOptions(subsets=("pubchem set 1",))))
    layouts.same(some, made["CC"][1])
    with pytest.raises(MindscaipError, match="no subset like Water; it has: SPICE Dipeptides"):
        list(read_source(path, ReadOptions(subsets=("Water",))))


def test_spice_that_declares_other_units_is_refused(tmp_path):
    import h5py

    path = layouts.write_spice(tmp_path / "SPICE.hdf5", {"CC": ("a", layouts.springs(2))})
    with h5py.File(path, "a") as file:
        file["CC/conformations"].attrs["units"] = "angstrom"
    with pytest.raises(MindscaipError, match=r"declares conformations in 'angstrom', SPICE has it in bohr; .*--units"):
        list(read_source(path))


def test_spice_excerpt(real):
    path = real("spice/SPICE-1.1.4_n2.hdf5")
    read = list(read_source(path))
    assert len(read) == 55
    import h5py

    with h5py.File(path) as file:
        molecule = file["C#C.[Na+]"]
        last = read[-1]
        assert last.energy == pytest.approx(molecule["dft_total_energy"][-1] * HARTREE_TO_EV)
        assert np.allclose(last.positions, molecule["conformations"][-1] * BOHR_TO_ANGSTROM)
        gradient = molecule["dft_total_gradient"][-1]
        assert np.allclose(last.forces, -gradient * HARTREE_TO_EV / BOHR_TO_ANGSTROM)


def test_md17_excerpt(real):
    path = real("rmd17/md17-ethanol-2000.npz")
    read = list(read_source(path))
    assert len(read) == 2000
    arrays = np.load(path)
    assert read[7].energy == pytest.approx(arrays["E"][7, 0] * KCAL_PER_MOL_TO_EV)
    assert np.allclose(read[7].forces, arrays["F"][7] * KCAL_PER_MOL_TO_EV)


def test_mptrj_excerpt(real):
    path = real("mptrj/mptrj-random-1k.xyz")
    read = list(read_source(path))
    assert len(read) == 1000
    assert read[0].group.startswith("mp-")
    layouts.same(read, list(read_structures(path)))


def test_dipeptides_excerpt_has_its_forces_in_another_column(real):
    read = list(read_source(real("spice/spice-dipeptides-train.xyz")))
    assert len(read) == 495
    assert all(s.forces is not None for s in read)


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_mptrj_of_chgnet(tmp_path, suffix):
    needs("ijson")
    made = layouts.crystals(6)
    for s in made[3:]:
        s.group = "mp-2"
    path = layouts.write_chgnet(tmp_path / f"MPtrj{suffix}", made)
    assert format_of(path) == "chgnet"
    read = list(read_source(path))
    layouts.same(read, made)
    assert [s.group for s in read] == ["mp-134"] * 3 + ["mp-2"] * 3
    corrected = next(read_source(path, ReadOptions(energy_key="corrected_total_energy")))
    assert corrected.energy == pytest.approx(made[0].energy - 2.7)


@pytest.mark.parametrize("suffix", [".db", ".json"])
def test_ase_databases(tmp_path, suffix):
    made = layouts.crystals(4)
    path = write_ase(tmp_path / f"data{suffix}", made)
    assert format_of(path) == "ase-db"
    read = list(read_source(path))
    layouts.same(read, made)
    assert {s.group for s in read} == {"part::mp-134"}


def test_lmdb_databases(tmp_path):
    needs("lmdb")
    made = layouts.crystals(12)
    path = layouts.write_lmdb(tmp_path / "data.0000.aselmdb", made, ("elytes", "metals"))
    assert format_of(path) == "ase-lmdb"
    read = list(read_source(path))
    layouts.same(read, made)
    assert {s.group for s in read} == {"elytes::C2H6", "metals::C2H6"}
    assert len(list(read_source(path, ReadOptions(subsets=("metal",))))) == 6
    assert files_of(tmp_path) == [path]


def test_lmdb_databases_of_the_backend_package(tmp_path):
    needs("lmdb")
    aselmdb = pytest.importorskip("ase_db_backends.aselmdb", reason="ase-db-backends is not installed")
    made = layouts.crystals(3)
    path = tmp_path / "data.aselmdb"
    with aselmdb.LMDBDatabase(path) as database:
        for s in made:
            database.write(s.to_ase(), data={"data_id": "rattled"})
    layouts.same(list(read_source(path)), made)


def test_any_column_names(tmp_path):
    made = layouts.springs(3)
    path = write_xyz(tmp_path / "odd.xyz", made, extra="config_type=warm smiles=CC")
    read = list(read_source(path, ReadOptions(energy_key="my_energy", forces_key="my_forces")))
    layouts.same(read, made)
    assert {s.group for s in read} == {"warm::CC"}
    with pytest.raises(MindscaipError, match=r"frame 0 .*has no 'my_enery' .*did you mean 'my_energy'"):
        list(read_source(path, ReadOptions(energy_key="my_enery")))


def test_units_by_name(tmp_path):
    made = layouts.springs(3)
    converted = []
    for s in made:
        units = {
            q: unit_factor(q, u) for q, u in (("energy", "hartree"), ("length", "bohr"), ("forces", "hartree/bohr"))
        }
        s2 = layouts.springs(1)[0]
        s2.positions, s2.energy = s.positions / units["length"], s.energy / units["energy"]
        s2.forces = -s.forces / units["forces"]
        converted.append(s2)
    path = write_xyz(tmp_path / "atomic.xyz", converted, "energy", "forces", extra="energy_unit=Hartree")
    units = FileUnits().overridden("energy=Hartree,length=Bohr", True)
    assert units.forces == "Hartree/Bohr"
    layouts.same(list(read_source(path, ReadOptions(declared_units=True), units=units)), made)
    with pytest.raises(MindscaipError, match=r"declares energy_unit=Hartree; import it with .*--units"):
        list(read_source(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("energy=hartee", "'hartee' is not a unit of energy"),
        ("enrgy=eV", "did you mean 'energy'"),
        ("forces=eV", "not of the form energy/length"),
        ("stress=eV/A^2", "not a unit of stress"),
    ],
)
def test_unknown_units_are_named(text, message):
    with pytest.raises(MindscaipError, match=message):
        FileUnits().overridden(text)


def test_stores_are_sources_too(tmp_path):
    made = layouts.springs(4)
    write_store(tmp_path / "a.h5", made)
    assert format_of(tmp_path / "a.h5") == "store"
    layouts.same(list(read_source(tmp_path / "a.h5")), made)


def test_unknown_files_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(MindscaipError, match=r"a\.txt is in no format .*--format: extxyz"):
        list(read_source(tmp_path / "a.txt"))
    with pytest.raises(MindscaipError, match=r"b\.txt does not exist"):
        list(read_source(tmp_path / "b.txt"))
    with pytest.raises(MindscaipError, match=r"there is no format 'spicy' \(did you mean 'spice'"):
        list(read_source(tmp_path / "a.txt", format_name="spicy"))
    for suffix, format_name in ((".npz", "sgdml"), (".hdf5", "spice"), (".aselmdb", "ase-lmdb"), (".db", "ase-db")):
        if format_name == "ase-lmdb" and find_spec("lmdb") is None:
            continue
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"not what it says" * 20)
        with pytest.raises(MindscaipError, match="cut off, damaged or not"):
            list(read_source(path, format_name=format_name))
