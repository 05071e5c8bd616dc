"""Wrong units and signs are found on the data themselves, and right ones pass."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from mindscaip.data.checks import atomic_energies, check_isolated, check_structures, raise_on_error
from mindscaip.data.readers import format_of, read_source, units_of
from mindscaip.data.readers.base import FileUnits, ReadOptions
from mindscaip.errors import MindscaipError
from mindscaip.units import HARTREE_TO_EV
from tests.data import layouts


def levels(findings) -> dict[str, str]:
    return {finding.name: finding.level for finding in findings}


def refusal(path, units=None, gradients=None) -> str:
    """What the checks say against reading ``path`` in ``units``; empty if they pass."""
    name = format_of(path)
    taken = units_of(path, name).overridden(units, gradients)
    structures = itertools.islice(read_source(path, ReadOptions(declared_units=True), units=taken), 1000)
    try:
        raise_on_error(check_structures(list(structures), taken), str(path))
    except MindscaipError as error:
        return str(error)
    return ""


REAL = [
    "rmd17/md17-ethanol-2000.npz",
    "spice/SPICE-1.1.4_n2.hdf5",
    "acac/train_300K.xyz",
    "3bpa/train_300K.xyz",
    "ethanol/train.xyz",
    "water/high_level_water.xyz",
    "spice/spice-dipeptides-train.xyz",
    "mptrj/mptrj-random-1k.xyz",
]


@pytest.mark.parametrize("name", REAL)
def test_real_data_read_as_published_pass(real, name):
    assert refusal(real(name)) == ""


# file, units to read it in (None: the right ones), whether forces are taken for gradients, what has to be said
WRONG = [
    ("rmd17/md17-ethanol-2000.npz", None, True, "wrong sign; they are forces, not gradients"),
    ("rmd17/md17-ethanol-2000.npz", "energy=eV,forces=eV/Angstrom", None, "--units energy=kcal/mol"),
    ("rmd17/md17-ethanol-2000.npz", "energy=kcal/mol,forces=eV/Angstrom", None, "--units forces=kcal/mol/Angstrom"),
    ("rmd17/md17-ethanol-2000.npz", "energy=eV,forces=kcal/mol/Angstrom", None, "--units energy=kcal/mol"),
    ("rmd17/md17-ethanol-2000.npz", "energy=hartree,forces=kcal/mol/Angstrom", None, "--units energy=kcal/mol"),
    ("rmd17/md17-ethanol-2000.npz", "length=bohr,forces=kcal/mol/Angstrom", None, "--units length=Angstrom"),
    ("spice/SPICE-1.1.4_n2.hdf5", None, False, "wrong sign; they are gradients: give --forces-are-gradients"),
    ("spice/SPICE-1.1.4_n2.hdf5", "length=Angstrom,forces=hartree/bohr", None, "--units length=bohr"),
    ("spice/SPICE-1.1.4_n2.hdf5", "length=Angstrom", None, "--units length=bohr"),
    ("spice/SPICE-1.1.4_n2.hdf5", "energy=eV,length=Angstrom", None, "--units energy=hartree"),
    ("acac/train_300K.xyz", None, True, "wrong sign"),
    ("ethanol/train.xyz", "forces=hartree/bohr", None, "--units forces=eV/Angstrom"),
    ("spice/spice-dipeptides-train.xyz", None, True, "wrong sign"),
    ("mptrj/mptrj-random-1k.xyz", "length=bohr", None, "--units length=Angstrom"),
]


@pytest.mark.parametrize(("name", "units", "gradients", "said"), WRONG)
def test_real_data_read_wrongly_are_refused_with_the_cure(real, name, units, gradients, said):
    assert said in refusal(real(name), units, gradients)


def test_slope_of_exact_forces_is_one():
    (finding,) = [f for f in check_structures(layouts.springs(60)) if f.name == "energy against forces"]
    assert finding.level == "ok"
    assert finding.values["slope"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("energy", "forces", "said"),
    [
        (1.0, -1.0, "they are gradients"),
        (1.0 / HARTREE_TO_EV, 1.0, "energies are in hartree, not eV"),
        (23.06, 1.0, "energies are in kcal/mol, not eV"),
        (96.485, 1.0, "energies are in kJ/mol, not eV"),
        (0.125, 1.0, "energies are per atom, not total"),
        (1.0, 1 / 51.422, "forces are in hartree/bohr, not eV/Angstrom"),
        (
            1.0,
            -1 / 51.422,
            "they are gradients: give --forces-are-gradients, and besides: it looks as if forces are in",
        ),
        (1.0, 0.05, "energies and forces do not belong together"),
    ],
)
def test_ratios_are_named(energy, forces, said):
    made = layouts.springs(60)
    for s in made:
        s.energy, s.forces = s.energy * energy, s.forces * forces
    messages = [f.message for f in check_structures(made) if f.level == "error" and "forces" in f.name]
    assert any(said in message for message in messages), messages


def test_units_other_than_ours_are_named_relative_to_what_was_declared():
    made = layouts.springs(60)
    for s in made:
        s.energy *= HARTREE_TO_EV  # eV read as Hartree
    units = FileUnits(energy="hartree")
    messages = [f.message for f in check_structures(made, units) if f.level == "error"]
    assert any("energies are in eV, not hartree (--units energy=eV)" in message for message in messages)


def test_turned_and_moved_molecules_are_compared_all_the_same():
    made = layouts.springs(60)
    rng = np.random.default_rng(3)
    for s in made:
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        q[:, 0] *= np.sign(np.linalg.det(q))
        s.positions, s.forces = s.positions @ q + rng.normal(size=3), s.forces @ q
    assert levels(check_structures(made))["energy against forces"] == "ok"
    for s in made:
        s.forces = -s.forces
    assert levels(check_structures(made))["energy against forces"] == "error"


def test_crystals_with_changing_cells():
    made = layouts.crystals(80)
    found = levels(check_structures(made))
    assert found["energy against stress"] == "ok"
    assert found["energy against forces"] != "error"
    for s in made:
        s.stress = -s.stress
    finding = next(f for f in check_structures(made) if f.name == "energy against stress")
    assert finding.level == "error"
    assert "positive under compression" in finding.message


def test_frames_without_neighbours_are_said_to_be_untested():
    findings = check_structures(layouts.springs(1))
    assert levels(findings)["energy against forces"] == "unknown"
    assert any("could not be tested" in f.message for f in findings)


def test_noble_gases_and_pairs_of_ions_have_large_distances():
    from mindscaip.data.structure import Structure

    gas = [Structure([18] * 3, np.eye(3) * r, energy=-0.01, forces=np.zeros((3, 3))) for r in (2.7, 2.9)]
    assert levels(check_structures(gas))["distances"] == "unknown"
    ions = [Structure([11, 17], [[0, 0, 0], [0, 0, r]], energy=-0.01, forces=np.zeros((2, 3))) for r in (5.7, 6.9)]
    assert levels(check_structures(ions))["distances"] == "unknown"


def test_isolated_atoms_of_another_unit_are_found():
    made = layouts.springs(3)
    right = {"H": -13.6, "C": -1028.0}
    assert check_isolated(made, right).level == "ok"
    wrong = check_isolated(made, {symbol: energy / HARTREE_TO_EV for symbol, energy in right.items()})
    assert wrong.level == "error"
    assert re.search("another level of theory, or in another unit", wrong.message)
    assert check_isolated(made, {"H": -13.6}).level == "unknown"


@pytest.mark.parametrize(
    ("z", "hartree"), [(1, -0.5), (6, -37.8), (8, -75.06), (17, -460.1), (35, -2573.0), (53, -6918.0)]
)
def test_free_atoms(z, hartree):
    assert atomic_energies()[z] / HARTREE_TO_EV == pytest.approx(hartree, rel=0.02)
