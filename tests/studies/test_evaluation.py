"""Errors of several potentials on the same structures: definitions, parts, what is left out, the command."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase.io import write
from typer.testing import CliRunner

from mindscaip.bsct.potentials import resolve_potential
from mindscaip.cli import app
from mindscaip.commands.evaluate import split_arguments
from mindscaip.contract import load_exported
from mindscaip.data.readers import SourceSettings
from mindscaip.data.store import write_store
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import Prediction, evaluate
from mindscaip.errors import MindscaipError
from mindscaip.metrics import ErrorTable, error_statistics
from mindscaip.studies import evaluation
from mindscaip.studies.evaluation import Evaluation, ForceSample, Labelled, evaluate_potentials, read_labelled
from mindscaip.units import unit_factor
from tests.data import layouts
from tests.models import random_structure
from tests.toys import write_toy


def labelled(count: int, *, seed: int = 0, stress: bool = False) -> list[Structure]:
    """Random molecules or crystals of H, C and O with random labels, in two groups."""
    rng = np.random.default_rng(seed)
    structures = []
    for k in range(count):
        structure = random_structure(int(rng.integers(3, 9)), seed=seed + k, box=6.0 if stress else None)
        structure.energy = float(rng.normal(scale=3.0))
        structure.forces = rng.normal(size=(len(structure), 3))
        structure.group = f"{'odd' if k % 2 else 'even'}::molecule-{k % 4}"
        if stress:
            half = rng.normal(size=(3, 3))
            structure.stress = half + half.T
        structures.append(structure)
    return structures


def off_by(structure: Structure, energy: float, forces: np.ndarray | float = 0.0) -> Prediction:
    """A prediction that is wrong by so much (eV, eV/A)."""
    return Prediction(structure.energy + energy, structure.forces + forces, None, None, np.zeros(0))


# --- definitions -----------------------------------------------------------------------------------------------------


def test_errors_are_means_over_structures_and_components():
    a, b = Structure(np.array([1, 8]), np.eye(3)[:2]), Structure(np.array([8]), np.zeros((1, 3)))
    a.energy, a.forces, b.energy, b.forces = 1.0, np.zeros((2, 3)), 2.0, np.zeros((1, 3))
    table = ErrorTable()
    table.add(a, off_by(a, 0.2, np.array([[0.3, 0, 0], [0, -0.6, 0]])))
    table.add(b, off_by(b, -0.3, np.array([[0, 0, 0.9]])))
    found = table.overall()
    assert found["energy_mae"] == pytest.approx(1000 * (0.1 + 0.3) / 2)
    assert found["energy_rmse"] == pytest.approx(1000 * np.sqrt((0.01 + 0.09) / 2))
    assert found["forces_mae"] == pytest.approx(1000 * 1.8 / 9)
    assert found["forces_rmse"] == pytest.approx(1000 * np.sqrt((0.09 + 0.36 + 0.81) / 9))
    assert "stress_mae" not in found
    oxygen, hydrogen = table.of_element(8), table.of_element(1)
    assert oxygen["forces_mae"] == pytest.approx(1000 * 1.5 / 6)
    assert hydrogen["forces_rmse"] == pytest.approx(1000 * np.sqrt(0.09 / 3))
    assert (oxygen["energy_mae"], hydrogen["energy_mae"]) == (pytest.approx(200), pytest.approx(100))
    assert (table.atoms_of(8), table.structures_with(8), table.structures_with(1)) == (2, 2, 1)


def test_the_shift_takes_off_constants_per_element_and_no_more():
    structures = labelled(40)
    constants = {1: -13.6, 6: -1030.0, 8: -2040.0}
    noise = np.random.default_rng(1).normal(scale=0.01, size=len(structures))
    table, plain = ErrorTable(), ErrorTable()
    for structure, error in zip(structures, noise, strict=True):
        shift = sum(constants[z] for z in structure.numbers.tolist())
        table.add(structure, off_by(structure, shift + error))
        plain.add(structure, off_by(structure, error))
    shifted, unshifted = table.overall(), plain.overall()
    assert shifted["energy_mae"] > 1e5
    assert shifted["energy_rmse_shifted"] == pytest.approx(unshifted["energy_rmse_shifted"], rel=1e-6)
    assert 0.5 * unshifted["energy_rmse"] < shifted["energy_rmse_shifted"] <= unshifted["energy_rmse"]


def test_of_one_composition_the_shift_is_the_mean():
    structures = [random_structure(6, seed=1) for _ in range(5)]
    errors = np.array([1.0, 2.0, 4.0, 0.0, -3.0])
    table = ErrorTable()
    for structure, error in zip(structures, errors, strict=True):
        structure.energy, structure.forces = 0.0, np.zeros((6, 3))
        table.add(structure, off_by(structure, error))
    assert table.overall()["energy_mae_shifted"] == pytest.approx(1000 * np.abs(errors - errors.mean()).mean() / 6)


def test_parts_make_up_the_whole():
    structures = labelled(11, stress=True)
    rng = np.random.default_rng(2)
    table = ErrorTable()
    for s in structures:
        stress = s.stress + rng.normal(size=(3, 3))
        forces = s.forces + rng.normal(size=s.forces.shape)
        table.add(s, Prediction(s.energy + rng.normal(), forces, stress, None, np.zeros(0)))
    overall, parts = table.overall(), [np.arange(0, 4), np.arange(4, 11)]
    atoms = table.energies()[2]
    for name, weights in (
        ("energy_mae", [4, 7]),
        ("forces_mae", [atoms[part].sum() for part in parts]),
        ("stress_mae", [4, 7]),
    ):
        assert overall[name] == pytest.approx(np.average([table.of(part)[name] for part in parts], weights=weights))
    by_element = [table.of_element(z)["forces_rmse"] ** 2 for z in table.elements]
    weights = [table.atoms_of(z) for z in table.elements]
    assert overall["forces_rmse"] ** 2 == pytest.approx(np.average(by_element, weights=weights))


def test_the_table_gives_the_numbers_of_the_plain_function(tmp_path):
    model = load_exported(write_toy(tmp_path / "toy.pt"))
    structures = labelled(7, stress=True)
    predictions = evaluate(model, structures)
    expected = error_statistics(structures, predictions)
    found = evaluate_potentials([resolve_potential(str(tmp_path / "toy.pt"))], _items(structures), batch_size=3)
    overall = found.tables[0].overall()
    assert set(expected) == {f"{q}_{e}" for q in ("energy", "forces", "stress") for e in ("mae", "rmse")}
    assert {name: overall[name] for name in expected} == pytest.approx(expected)
    difference = np.concatenate([(p.forces - s.forces).ravel() for s, p in zip(structures, predictions, strict=True)])
    assert expected["forces_rmse"] == pytest.approx(1000 * np.sqrt((difference**2).mean()))


def _items(structures: Sequence[Structure], file: str = "data.xyz") -> list[Labelled]:
    return [Labelled(structure, file) for structure in structures]


# --- potentials ------------------------------------------------------------------------------------------------------


@pytest.fixture
def calculators(tmp_path, monkeypatch):
    """A module of the user's with two calculators: one of Lennard-Jones, one that fails for oxygen."""
    (tmp_path / "user_potentials.py").write_text(
        """
from ase.calculators.lj import LennardJones


def lj():
    return LennardJones(sigma=1.5, epsilon=0.1, rc=4.0)


class Picky(LennardJones):
    def calculate(self, atoms=None, properties=(), system_changes=()):
        if 8 in atoms.numbers:
            raise RuntimeError("no oxygen here")
        super().calculate(atoms, properties, system_changes)


def picky():
    return Picky(sigma=1.5, epsilon=0.1, rc=4.0)
"""
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_any_potential_is_compared_stress_included(calculators):
    from ase.calculators.lj import LennardJones

    write_toy(calculators / "toy.pt")
    structures = labelled(5, stress=True)
    potentials = [resolve_potential(name) for name in ("toy.pt", "ase:user_potentials:lj")]
    found = evaluate_potentials(potentials, _items(structures))
    errors = []
    for structure in structures:
        atoms = structure.to_ase()
        atoms.calc = LennardJones(sigma=1.5, epsilon=0.1, rc=4.0)
        errors.append([np.abs(atoms.get_stress(voigt=False) - structure.stress).mean()])
    assert found.tables[1].overall()["stress_mae"] == pytest.approx(1000 * np.mean(errors))
    assert [len(table) for table in found.tables] == [5, 5]
    assert all(seconds > 0 for seconds in found.seconds)


def test_what_one_potential_cannot_do_is_left_out_for_all(calculators):
    write_toy(calculators / "toy.pt", elements=("H", "C", "O"))
    structures = labelled(12)
    for structure in structures[::2]:
        structure.numbers[structure.numbers == 8] = 6
    structures[3].numbers[0] = 79
    potentials = [resolve_potential(name) for name in ("toy.pt", "ase:user_potentials:picky")]
    good = [k for k, s in enumerate(structures) if not {8, 79} & set(s.numbers.tolist())]
    assert len(good) >= 6
    found = evaluate_potentials(potentials, _items(structures), skip_failures=True, batch_size=1)
    assert [len(table) for table in found.tables] == [len(good)] * 2
    assert found.skipped.total() == 12 - len(good)
    assert any("Au" in reason for reason in found.skipped)
    alone = evaluate_potentials(potentials[:1], _items([structures[k] for k in good]))
    assert found.tables[0].overall() == pytest.approx(alone.tables[0].overall())
    with pytest.raises(MindscaipError, match=r"structure \d+ .*no oxygen here.*--skip-failures"):
        evaluate_potentials(potentials[1:], _items(structures))
    with pytest.raises(MindscaipError, match=r"Au of structure 3 .*--skip-failures"):
        evaluate_potentials(potentials[:1], _items(structures))
    with pytest.raises(MindscaipError, match="no structures to evaluate on: the calculator failed"):
        evaluate_potentials(potentials[1:], _items([s for s in structures if 8 in s.numbers]), skip_failures=True)


def test_the_force_sample_thins_itself_out(monkeypatch):
    monkeypatch.setattr(evaluation, "PARITY_ATOMS", 100)
    structures = labelled(200)
    sample = ForceSample()
    for index, structure in enumerate(structures):
        sample.add(index, structure, [off_by(structure, 0.0, 1.0)])
    label, predicted = sample.components(0)
    kept = structures[:: sample.stride]
    assert sample.stride > 1
    assert 50 < sum(map(len, kept)) <= 100 + max(map(len, kept))
    np.testing.assert_allclose(label, np.concatenate([s.forces.ravel() for s in kept]).astype(np.float32))
    np.testing.assert_allclose(predicted, label + 1, rtol=1e-5, atol=1e-5)


# --- parts -----------------------------------------------------------------------------------------------------------


def test_subsets_are_files_then_subsets_then_groups(tmp_path):
    potential = resolve_potential(str(write_toy(tmp_path / "toy.pt")))
    structures = labelled(8)
    found = evaluate_potentials([potential], _items(structures))
    assert list(found.parts()) == ["even", "odd"]
    assert list(found.parts("group")) == ["even::molecule-0", "even::molecule-2", "odd::molecule-1", "odd::molecule-3"]
    assert found.parts("file") == {} == found.parts("none")
    for k, structure in enumerate(structures):
        structure.group = f"molecule-{k % 3}"
    assert list(evaluate_potentials([potential], _items(structures)).parts()) == [f"molecule-{k}" for k in range(3)]
    both = evaluate_potentials([potential], [*_items(structures[:5], "a.xyz"), *_items(structures[5:], "b.xyz")])
    assert {name: len(chosen) for name, chosen in both.parts().items()} == {"a.xyz": 5, "b.xyz": 3}


def test_names_without_folders_where_they_differ():
    tables = [ErrorTable(), ErrorTable()]
    assert Evaluation(["runs/a.pt", "b.pt"], tables, [0.0, 0.0]).labels == ["a.pt", "b.pt"]
    assert Evaluation(["1/a.pt", "2/a.pt"], tables, [0.0, 0.0]).labels == ["1/a.pt", "2/a.pt"]
    assert Evaluation(["ase:m:f", "mace-off:small"], tables, [0.0, 0.0]).labels == ["ase:m:f", "mace-off:small"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_toy(folder / "a.pt")
    write_toy(folder / "b.pt", cutoff=4.0, dtype="float32")
    for name, seed in (("hot.xyz", 0), ("cold.xyz", 50)):
        write(folder / name, [s.to_ase() for s in labelled(9, seed=seed)], format="extxyz")
    return folder


def run(folder: Path, *arguments: str, status: int = 0):
    named = [str(folder / a) if a.endswith((".pt", ".xyz", ".html")) else a for a in arguments]
    result = CliRunner().invoke(app, ["evaluate", "--no-check", *named])  # random atoms stand at odd distances
    if status == 0:
        assert result.exit_code == 0, result.output
    else:
        assert isinstance(result.exception, MindscaipError), result.output
    return result


def test_one_potential_keeps_the_keys_of_its_json(folder):
    answer = json.loads(run(folder, "a.pt", "hot.xyz", "--json").stdout)
    structures = [item.structure for item in read_labelled([folder / "hot.xyz"], SourceSettings(check=False))]
    expected = error_statistics(structures, evaluate(load_exported(folder / "a.pt"), structures))
    assert answer["model"] == str(folder / "a.pt")
    assert (answer["data"], answer["structures"]) == (str(folder / "hot.xyz"), 9)
    assert {name: answer[name] for name in expected} == pytest.approx(expected)
    assert set(answer["elements"]) == {"H", "C", "O"}
    assert answer["subsets"] == {}


def test_several_potentials_and_files_in_one_table(folder):
    arguments = ("a.pt", "b.pt", "hot.xyz", "cold.xyz")
    answer = json.loads(run(folder, *arguments, "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(run(folder, *arguments, "--csv").stdout)))
    assert [model["model"] for model in answer["models"]] == [str(folder / "a.pt"), str(folder / "b.pt")]
    for model in answer["models"]:
        assert set(model["subsets"]) == {"hot.xyz", "cold.xyz"}
        own = [row for row in rows if row["model"] == model["model"]]
        assert [row["part"] for row in own] == ["all", "subset", "subset", "element", "element", "element"]
        assert float(own[0]["forces_rmse"]) == model["forces_rmse"]
        assert float(own[1]["energy_mae"]) == model["subsets"]["cold.xyz"]["energy_mae"]
    markdown = run(folder, *arguments, "--markdown").stdout
    assert markdown.count("| ") > 10
    assert re.search(r"\| cold.xyz \| b.pt \| 9 \|", markdown)
    text = run(folder, *arguments).stdout
    assert "subsets" in text
    assert "hot.xyz" in text


def test_symmetry_of_several_models(folder):
    answer = json.loads(run(folder, "a.pt", "b.pt", "hot.xyz", "--json", "--rotations", "2").stdout)
    for model in answer["models"]:
        assert model["symmetry"]["model"]["forces_spread"] < 1  # the toy potential is invariant


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hot.xyz",), "is no potential"),
        (("gfn2-xbt", "hot.xyz"), "did you mean 'gfn2-xtb'"),
        (("a.pt",), "no labelled structures are given after"),
        (("a.pt", "hot.xyz", "b.pt"), "stands after the data"),
        (("a.pt", "nowhere.xyz"), "does not exist"),
        (("a.pt", "hot.xyz", "--by", "subsets"), "did you mean 'subset'"),
        (("a.pt", "hot.xyz", "--json", "--csv"), "give one of them"),
        (("a.pt", "hot.xyz", "--page", "errors.pdf"), "end in .html"),
        (("a.pt", "hot.xyz", "--batch-size", "0"), "batch_size is 0"),
        (("gfn2-xtb", "hot.xyz", "--rotations", "2"), "--rotations is for a model.pt"),
    ],
)
def test_mistakes_are_named(arguments, words, folder):
    if "gfn2-xtb" in arguments:
        pytest.importorskip("tblite", reason="tblite is not installed: pip install 'mindscaip[label]'")
    assert words in str(run(folder, *arguments, status=2).exception)


def test_potentials_come_first():
    models, data = split_arguments(["a.pt", "gfn2-xtb", "ase:m:f", "mace-off:small", "x.xyz", "y.h5"])
    assert models == ["a.pt", "gfn2-xtb", "ase:m:f", "mace-off:small"]
    assert data == [Path("x.xyz"), Path("y.h5")]


def test_labels_are_needed(folder, tmp_path):
    bare = labelled(2)
    write(tmp_path / "bare.xyz", [Structure(s.numbers, s.positions).to_ase() for s in bare], format="extxyz")
    with pytest.raises(MindscaipError, match=r"bare\.xyz.*energy"):
        list(read_labelled([tmp_path / "bare.xyz"]))


# --- data in any format, units and names ----------------------------------------------------------------------------


def write_frames(path: Path, structures: Sequence[Structure], energy: float = 1.0, forces: float = 1.0) -> Path:
    """Extended XYZ with odd names, energies and forces times a factor."""
    with path.open("w") as file:
        for number, s in enumerate(structures):
            lattice = f'Lattice="{" ".join(map(repr, s.cell.ravel().tolist()))}" ' if s.pbc.any() else ""
            stress = f'sigma="{" ".join(map(repr, s.stress.ravel().tolist()))}" ' if s.stress is not None else ""
            file.write(
                f"{len(s)}\n{lattice}{stress}Properties=species:S:1:pos:R:3:slope:R:3 U={s.energy * energy!r} "
                f"phase=p{number % 2}\n"
            )
            for symbol, row in zip(s.symbols, np.hstack([s.positions, s.forces * forces]).tolist(), strict=True):
                file.write(f"{symbol} {' '.join(map(repr, row))}\n")
    return path


NAMES = ("--energy-key", "U", "--forces-key", "slope")


def errors_of(model: Path, data: Path, *options: str) -> dict:
    result = CliRunner().invoke(app, ["evaluate", str(model), str(data), "--json", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout) | {"said": result.stderr}


def expected_errors(model: Path, structures: Sequence[Structure]) -> dict[str, float]:
    return error_statistics(structures, evaluate(load_exported(model), structures))


def test_stress_and_groups_under_any_name(tmp_path):
    model = write_toy(tmp_path / "al.pt", elements=("Al",))
    made = layouts.crystals(8)
    path = write_frames(tmp_path / "odd.xyz", made)
    expected = expected_errors(model, made)
    assert expected["stress_mae"] > 0
    found = errors_of(model, path, *NAMES, "--stress-key", "sigma", "--group-key", "phase")
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert set(found["subsets"]) == {"p0", "p1"}
    assert "--stress-key" not in found["said"]
    without = errors_of(model, path, *NAMES)
    assert "stress_mae" not in without
    assert "8 periodic structures have no stress" in without["said"]
    with pytest.raises(MindscaipError, match=r"has no 'sigmma' \(asked for as stress\) \(did you mean 'sigma'"):
        errors_of(model, path, *NAMES, "--stress-key", "sigmma")


def test_gradients_are_taken_for_what_they_are_or_refused(tmp_path):
    model = write_toy(tmp_path / "toy.pt", elements=("H", "C"))
    made = layouts.springs(40)
    expected = expected_errors(model, made)
    path = write_frames(tmp_path / "gradients.xyz", made, forces=-1.0)
    found = errors_of(model, path, *NAMES, "--forces-are-gradients")
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(MindscaipError, match=r"gradients\.xyz: .*--forces-are-gradients.*--no-check"):
        errors_of(model, path, *NAMES)
    with pytest.raises(MindscaipError, match=r"wrong sign"):
        errors_of(model, write_frames(tmp_path / "forces.xyz", made), *NAMES, "--forces-are-gradients")
    as_they_are = errors_of(model, path, *NAMES, "--no-check")
    assert as_they_are["forces_rmse"] != pytest.approx(expected["forces_rmse"], rel=1e-3)


def test_units_are_named_or_found_out(tmp_path):
    model = write_toy(tmp_path / "toy.pt", elements=("H", "C"))
    made = layouts.springs(40)
    expected = expected_errors(model, made)
    kcal = 1 / unit_factor("energy", "kcal/mol")
    path = write_frames(tmp_path / "kcal.xyz", made, energy=kcal, forces=kcal)
    found = errors_of(model, path, *NAMES, "--units", "energy=kcal/mol")
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    with pytest.raises(MindscaipError, match=r"kcal\.xyz: .*kcal/mol"):
        errors_of(model, path, *NAMES)
    with pytest.raises(MindscaipError, match="'kcall/mol' is not a unit of energy"):
        errors_of(model, path, *NAMES, "--units", "energy=kcall/mol")
    # a published format in kcal/mol needs no option but its name where the file has none
    archive = layouts.write_sgdml(tmp_path / "md17.npz", made)
    found = errors_of(model, archive)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    renamed = archive.rename(tmp_path / "md17.data")
    with pytest.raises(MindscaipError, match=r"md17\.data is in no format .*--format"):
        errors_of(model, renamed)
    assert errors_of(model, renamed, "--format", "sgdml")["forces_mae"] == pytest.approx(found["forces_mae"])


def test_stores_are_taken_as_they_are_and_parts_of_a_set_by_name(tmp_path):
    model = write_toy(tmp_path / "toy.pt", elements=("H", "C", "O"))
    made = labelled(6)  # random: an import would refuse it
    write_store(tmp_path / "a.h5", made)
    found = errors_of(model, tmp_path / "a.h5", "--subset", "odd")
    expected = expected_errors(model, made[1::2])
    assert found["structures"] == 3
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(MindscaipError, match="covalent radii"):
        errors_of(model, tmp_path / "a.h5", "--units", "energy=eV")
    with pytest.raises(MindscaipError, match="no structures of a subset like even-odder"):
        errors_of(model, tmp_path / "a.h5", "--subset", "even-odder")
    with pytest.raises(MindscaipError, match="--energy-key U has no meaning here"):
        errors_of(model, tmp_path / "a.h5", "--energy-key", "U")


def test_isolated_atoms_are_references_and_no_structures(tmp_path):
    model = write_toy(tmp_path / "toy.pt", elements=("H", "C", "O"))
    path = tmp_path / "set.xyz"
    atom = "1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-500.0 config_type=IsolatedAtom\nO 0 0 0 0 0 0\n"
    frame = (
        "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy={} config_type=water\nO 0 0 0 0 0 0.1\nH 0 0 1 0 0 -0.1\n"
    )
    path.write_text(atom + frame.format(-1.0) + frame.format(-1.1))
    for options in ((), ("--subset", "water")):
        assert errors_of(model, path, "--no-check", *options)["structures"] == 2
    with pytest.raises(MindscaipError, match="no structures of a subset like nothing"):
        errors_of(model, path, "--no-check", "--subset", "nothing")
