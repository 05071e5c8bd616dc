"""Lazy sequences over stores and lists give the numbers of plain lists; splits do not leak."""

from __future__ import annotations

import numpy as np
import pytest

from mindscaip.data.collection import Collection, geometry_hash
from mindscaip.data.reference import force_scale, reference_energies
from mindscaip.data.splits import find_leakage, formulas, split_by_file, split_by_rule
from mindscaip.data.store import Store, write_store
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from tests.data import layouts


@pytest.fixture
def mixed(tmp_path, structures) -> tuple[Collection, list[Structure]]:
    """The structures of the fixture in a store, some others in a list, and another store; and all as one list."""
    others = layouts.springs(4)
    write_store(tmp_path / "a.h5", structures)
    write_store(tmp_path / "b.h5", structures[::-1])
    parts = [Store(tmp_path / "a.h5"), others, Store(tmp_path / "b.h5")]
    return Collection(parts), [*structures, *others, *structures[::-1]]


def test_items_and_views(mixed):
    data, plain = mixed
    assert len(data) == len(plain) == 18
    layouts.same([data[i] for i in range(18)], plain, 0.0)
    layouts.same(list(data[3:15:2]), plain[3:15:2], 0.0)
    assert data[-1].energy == plain[-1].energy
    view = data.select(np.array([17, 0, 8]))
    layouts.same(list(view), [plain[17], plain[0], plain[8]], 0.0)
    assert view.num_atoms.tolist() == [len(plain[i]) for i in (17, 0, 8)]
    assert view.groups == [plain[i].group for i in (17, 0, 8)]
    assert len(data[:0]) == 0


def test_rows_are_those_of_the_structures(mixed, monkeypatch):
    monkeypatch.setattr("mindscaip.data.collection.CHUNK", 5)
    data, plain = mixed
    view = data.select(np.array([12, 1, 9, 2, 16, 7, 0]))
    chosen = [plain[i] for i in view.indices]
    rows = list(view.rows())
    assert [len(r.num_atoms) for r in rows] == [5, 2]
    assert np.array_equal(np.concatenate([r.forces for r in rows]), np.concatenate([s.forces for s in chosen]))
    assert np.array_equal(np.concatenate([r.numbers for r in rows]), np.concatenate([s.numbers for s in chosen]))
    counts = np.concatenate([r.compositions() for r in rows])
    assert counts.sum(1).tolist() == [len(s) for s in chosen]
    assert counts[0, chosen[0].numbers[0]] == (chosen[0].numbers == chosen[0].numbers[0]).sum()


def test_references_and_scale_are_those_of_a_list(mixed):
    data, plain = mixed
    assert reference_energies(data) == pytest.approx(reference_energies(plain), rel=1e-9)
    assert force_scale(data) == pytest.approx(force_scale(plain), rel=1e-12)
    taken = dict.fromkeys(reference_energies(plain), -5.0)
    shifted = [Structure(s.numbers, s.positions, energy=s.energy + 5.0 * len(s), forces=s.forces) for s in plain]
    assert reference_energies(data, subtract=taken) == pytest.approx(reference_energies(shifted), abs=1e-6)


def test_missing_labels_are_named(tmp_path, structures):
    structures[4].forces = None
    write_store(tmp_path / "a.h5", structures)
    with pytest.raises(MindscaipError, match="structure 4 has no forces to train on"):
        Collection([Store(tmp_path / "a.h5")]).check_labels()


def test_pages_can_be_given_back(mixed):
    data, plain = mixed
    data.release()
    layouts.same([data[3]], [plain[3]], 0.0)


def test_geometry_hashes_know_copies(structures):
    hashes = [geometry_hash(s) for s in structures]
    assert len(set(hashes)) == len(structures)
    copy = Structure(structures[5].numbers[::-1], structures[5].positions[::-1] + 1e-7, structures[5].cell, [True] * 3)
    assert geometry_hash(copy) == hashes[5]
    copy.cell = copy.cell + 0.01
    assert geometry_hash(copy) != hashes[5]
    moved = Structure(structures[4].numbers, structures[4].positions + np.array([0.001, 0, 0]))
    assert geometry_hash(moved) != hashes[4]


def molecules() -> Collection:
    made = []
    for k in range(8):
        frames = layouts.springs(5, seed=k, group=f"set{k % 2}::molecule {k // 2}")
        made += frames
    return Collection([made])


def test_conformers_of_a_molecule_stay_together_also_across_subsets():
    data = molecules()
    train, val = split_by_rule(data, "group", 0.25)
    assert len(train) == 30
    assert len(val) == 10
    assert not {g.split("::")[1] for g in train.groups} & {g.split("::")[1] for g in val.groups}
    assert not find_leakage(train, val)
    random_train, random_val = split_by_rule(data, "random", 0.25)
    assert len(find_leakage(random_train, random_val).groups) >= 3


def test_split_by_composition(structures):
    ethane = layouts.springs(5)
    train, val = split_by_rule(Collection([structures + ethane]), "composition", 0.3)
    assert not set(formulas(train)) & set(formulas(val))
    assert "H6 C2" in formulas(Collection([ethane]))


def test_structures_without_a_group_are_split_by_formula():
    ethane = layouts.springs(5, group="")
    others = [Structure([8, 1, 1], np.eye(3) + i, energy=0.0, forces=np.zeros((3, 3))) for i in range(5)]
    train, val = split_by_rule(Collection([ethane + others]), "group", 0.5)
    assert {len(s) for s in train}.isdisjoint({len(s) for s in val})


def test_split_by_file(tmp_path):
    data = molecules()
    listing = tmp_path / "val.txt"
    listing.write_text("# what validates\nmolecule 3\n\nset0::molecule 0\n12\n")
    train, val = split_by_file(data, listing)
    assert val.indices.tolist() == [*range(0, 5), 12, *range(30, 40)]
    assert sorted([*train.indices, *val.indices]) == list(range(40))
    listing.write_text("molecule 9\n")
    with pytest.raises(MindscaipError, match=r"line 1 of .*'molecule 9' is neither a group.*did you mean 'molecule"):
        split_by_file(data, listing)
    with pytest.raises(MindscaipError, match="does not exist"):
        split_by_file(data, tmp_path / "none.txt")


def test_leakage_between_files_is_named():
    a = Collection([layouts.springs(10, seed=1, group="water")])
    b = Collection([layouts.springs(5, seed=2, group="new::water") + list(a[3:5])])
    leak = find_leakage(a, b)
    assert leak.groups == ("water",)
    assert leak.copies == 2
    assert leak.examples == (5, 6)
    assert "1 molecules are in both: water" in str(leak)
    assert not find_leakage(a, Collection([layouts.springs(5, seed=3, group="other")]))
