"""Imports merge, drop, check and write all or nothing; the description of a store finds what is odd in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mindscaip.cli import app
from mindscaip.data import importing
from mindscaip.data.importing import ImportSettings, Rules, import_data
from mindscaip.data.info import describe
from mindscaip.data.readers.base import ReadOptions
from mindscaip.data.store import Store, write_store
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from tests.data import layouts
from tests.data.test_readers import write_xyz


def test_sources_of_all_kinds_into_one_store(tmp_path):
    first, second, third = (layouts.springs(5, seed=s, group=f"m{s}") for s in range(3))
    sources = [
        layouts.write_sgdml(tmp_path / "md17.npz", first),
        layouts.write_spice(tmp_path / "SPICE.hdf5", {"CC": ("Dipeptides", second)}),
        write_xyz(tmp_path / "own.xyz", third, "energy", "forces", extra="group=third"),
    ]
    summary = import_data(sources, tmp_path / "all.h5")
    assert (summary.structures, summary.atoms, summary.elements) == (15, 120, ["H", "C"])
    with Store(tmp_path / "all.h5") as store:
        layouts.same(list(store), [*first, *second, *third])
        assert sorted(set(store.groups)) == ["Dipeptides::CC", "md17::ethane", "own::third"]
        recorded = store.provenance["sources"]
    assert [source["format"] for source in recorded] == ["sgdml", "spice", "extxyz"]
    assert recorded[1]["units"]["forces_are_gradients"] is True
    assert recorded[0]["checks"]["distances"]["level"] == "ok"


def test_wrong_sign_is_refused_and_nothing_is_written(tmp_path):
    source = layouts.write_sgdml(tmp_path / "md17.npz", layouts.springs(40))
    settings = ImportSettings(forces_are_gradients=True)
    with pytest.raises(MindscaipError, match=r"md17\.npz: .*wrong sign.*--no-check"):
        import_data([source], tmp_path / "data.h5", settings)
    assert [path.name for path in tmp_path.iterdir()] == ["md17.npz"]
    summary = import_data([source], tmp_path / "data.h5", ImportSettings(forces_are_gradients=True, check=False))
    assert summary.structures == 40
    with Store(tmp_path / "data.h5") as store:
        assert store.provenance["checked"] is False


def test_later_parts_of_a_file_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "FIRST_BLOCK", 20)
    monkeypatch.setattr(importing, "LATER_EVERY", 40)
    monkeypatch.setattr(importing, "LATER_BLOCK", 20)
    made = layouts.springs(100)
    for s in made[40:]:
        s.forces = -s.forces
    source = write_xyz(tmp_path / "turns.xyz", made, "energy", "forces")
    with pytest.raises(MindscaipError, match="wrong sign"):
        import_data([source], tmp_path / "data.h5")


def test_rules_drop_and_count(tmp_path):
    made = layouts.springs(10)
    made[2].energy = np.nan
    made[3].forces = made[3].forces * 1e4
    made[5].positions = made[4].positions
    made[6].positions = made[4].positions + 1.0
    made[7].positions[1] = made[7].positions[0] + 0.1
    gold = Structure([79, 79], [[0, 0, 0], [0, 0, 2.6]], energy=-1.0, forces=np.zeros((2, 3)))
    source = write_xyz(tmp_path / "a.xyz", [*made, gold], "energy", "forces")
    rules = Rules(max_force=1e3, min_distance=0.5, elements=("H", "C"), drop_duplicates=True)
    summary = import_data([source], tmp_path / "a.h5", ImportSettings(rules=rules, check=False))
    assert summary.dropped == {
        "energy not finite": 1,
        "a force above 1000 eV/A": 1,
        "duplicate": 1,
        "two atoms closer than 0.5 A": 1,
        "another element": 1,
    }
    assert summary.structures == 6
    with pytest.raises(MindscaipError, match=r"no structure is left .* .9 more than 2 atoms"):
        import_data([source], tmp_path / "b.h5", ImportSettings(rules=Rules(max_atoms=2, elements=("H",)), check=False))
    with pytest.raises(MindscaipError, match="'Hx' is not the symbol"):
        Rules(elements=("Hx",))


def test_copies_with_another_order_of_atoms_are_duplicates(tmp_path):
    (a,) = layouts.springs(1)
    order = np.random.default_rng(0).permutation(len(a))
    b = Structure(a.numbers[order], a.positions[order], energy=a.energy, forces=a.forces[order])
    c = Structure(a.numbers, a.positions + 1e-3, energy=a.energy, forces=a.forces)
    source = write_xyz(tmp_path / "a.xyz", [a, b, c], "energy", "forces")
    summary = import_data([source], tmp_path / "a.h5", ImportSettings(rules=Rules(drop_duplicates=True)))
    assert summary.dropped == {"duplicate": 1}


def test_isolated_atoms_marked_in_a_file_become_reference_energies(tmp_path):
    path = write_xyz(tmp_path / "train.xyz", layouts.springs(5), "energy", "forces")
    with path.open("a") as file:
        for symbol, energy in (("H", -13.6), ("C", -1028.0)):
            file.write(
                f"1\nProperties=species:S:1:pos:R:3 config_type=IsolatedAtom energy={energy}\n{symbol} 0.0 0.0 0.0\n"
            )
    summary = import_data([path], tmp_path / "train.h5")
    assert summary.isolated == {"H": -13.6, "C": -1028.0}
    assert summary.structures == 5
    with Store(tmp_path / "train.h5") as store:
        assert store.isolated_energies == summary.isolated
        assert store.provenance["sources"][0]["checks"]["isolated atoms"]["level"] == "ok"
    # and they travel when stores are merged
    again = import_data([tmp_path / "train.h5"], tmp_path / "again.h5")
    assert again.isolated == summary.isolated


def test_isolated_atoms_from_their_own_file(tmp_path):
    source = write_xyz(tmp_path / "train.xyz", layouts.springs(5), "energy", "forces")
    (tmp_path / "atoms.xyz").write_text("1\nenergy=-0.5\nH 0 0 0\n1\nenergy=-37.8\nC 0 0 0\n")
    with pytest.raises(MindscaipError, match="another level of theory, or in another unit"):
        import_data([source], tmp_path / "a.h5", ImportSettings(isolated=tmp_path / "atoms.xyz"))
    (tmp_path / "atoms.xyz").write_text("1\nenergy=-13.6\nH 0 0 0\n1\nenergy=-1028\nC 0 0 0\n")
    summary = import_data([source], tmp_path / "a.h5", ImportSettings(isolated=tmp_path / "atoms.xyz"))
    assert summary.isolated == {"H": -13.6, "C": -1028.0}


def test_missing_labels_name_what_there_is(tmp_path):
    source = write_xyz(tmp_path / "a.xyz", layouts.springs(3), "U", "dU")
    with pytest.raises(MindscaipError, match="no energy; it has U: name the right one as energy_key"):
        import_data([source], tmp_path / "a.h5")
    with pytest.raises(MindscaipError, match=r"no structure has energy; name the label with --energy-key|no forces"):
        import_data([source], tmp_path / "a.h5", ImportSettings(options=ReadOptions(energy_key="U")))
    options = ReadOptions(energy_key="U", forces_key="dU")
    assert import_data([source], tmp_path / "a.h5", ImportSettings(options=options)).structures == 3


def test_output_is_not_replaced_unasked(tmp_path):
    source = layouts.write_sgdml(tmp_path / "a.npz", layouts.springs(3))
    import_data([source], tmp_path / "a.h5")
    with pytest.raises(MindscaipError, match="exists; name another file or give --overwrite"):
        import_data([source], tmp_path / "a.h5")
    import_data([source], tmp_path / "a.h5", overwrite=True)
    with pytest.raises(MindscaipError, match=r"should end in \.h5"):
        import_data([source], tmp_path / "a.xyz")


def test_description(tmp_path):
    made = layouts.springs(60, group="set::ethane")
    made[10].positions = made[9].positions.copy()
    made[20].energy += 300.0
    made[30].forces = made[30].forces * 500
    made[40].positions[2] = made[40].positions[0] + [0.3, 0.0, 0.0]
    path = tmp_path / "a.h5"
    write_store(path, made)
    info = describe(path)
    assert (info.structures, info.atoms, info.periodic) == (60, 480, 0)
    assert info.labels == {"energy": 60, "forces": 60, "stress": 0}
    assert info.elements == {"H": {"atoms": 360, "structures": 60}, "C": {"atoms": 120, "structures": 60}}
    assert info.subsets == {"set": 60}
    assert info.largest_molecules == {"ethane": 60}
    assert info.duplicates == [(10, 9)]
    found = {(outlier.index, outlier.quantity.split(" (")[0]) for outlier in info.outliers}
    assert found == {
        (20, "energy - reference"),
        (30, "largest force"),
        (40, "nearest distance over covalent radii"),
    }
    assert sum(info.distributions["force on an atom"].counts) == 480
    assert json.loads(json.dumps(info.record()))["num_outliers"] == 3


def test_description_of_a_store_without_labels(tmp_path):
    bare = layouts.springs(3)
    for s in bare:
        s.energy = s.forces = None
    write_store(tmp_path / "bare.h5", bare)
    info = describe(tmp_path / "bare.h5")
    assert info.labels == {"energy": 0, "forces": 0, "stress": 0}
    assert info.reference_source == "none"


def test_description_of_crystals_has_pressures(tmp_path):
    write_store(tmp_path / "a.h5", layouts.crystals(5), {"Al": -1.0})
    info = describe(tmp_path / "a.h5")
    assert info.periodic == 5
    assert info.reference_source == "isolated atoms"
    assert info.distributions["pressure"].count == 5
    assert 2.4 < info.distributions["nearest distance"].median < 3.0


def test_commands(tmp_path):
    source = layouts.write_sgdml(tmp_path / "md17.npz", layouts.springs(30))
    runner = CliRunner()
    done = runner.invoke(app, ["data", "import", str(source), "-o", str(tmp_path / "a.h5"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["structures"] == 30
    shown = runner.invoke(app, ["data", "info", str(tmp_path / "a.h5")])
    assert shown.exit_code == 0, shown.output
    for word in ("30 structures", "ethane 30", "duplicates: 0", "outliers: 0", "eV/A"):
        assert word in shown.stdout
    as_json = runner.invoke(app, ["data", "info", str(tmp_path / "a.h5"), "--json"])
    assert json.loads(as_json.stdout)["structures"] == 30
    wrong = runner.invoke(
        app, ["data", "import", str(source), "-o", str(tmp_path / "b.h5"), "--units", "energy=Ev,x=2"]
    )
    assert isinstance(wrong.exception, MindscaipError)
