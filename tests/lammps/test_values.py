"""Energies, forces, virials and per-atom energies of LAMMPS against Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindscaip.data.structure import Structure
from mindscaip.engines.lammps import evaluate
from tests.golden.cases import model_path
from tests.models import random_structure, write_small_model
from tests.reference import python_reference

TRICLINIC = np.array([[6.0, 0.0, 0.0], [1.0, 4.0, 0.0], [0.0, 0.7, 5.0]])
TURN = np.linalg.qr(np.array([[0.3, 0.8, -0.2], [0.9, -0.1, 0.4], [-0.2, 0.5, 0.7]]))[0]


def assert_same(model: Path, structure: Structure, units: str = "metal") -> None:
    """The bar of a float64 model: 1e-9 eV/atom, 1e-8 eV/A, 1e-8 eV."""
    expected = python_reference(model, structure)
    found = evaluate(model, structure, units, threads=1)
    assert abs(found.energy - expected.energy) <= 1e-9 * len(structure)
    assert np.abs(found.atom_energies - expected.atom_energies).max() <= 1e-9
    assert np.abs(found.forces - expected.forces).max() <= 1e-8
    assert np.abs(found.virial - expected.virial).max() <= 1e-8


def in_cell(cell: np.ndarray, pbc: list[bool], seed: int) -> Structure:
    """Five atoms, some of them outside the cell."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-0.3, 1.4, (5, 3)) @ cell
    return Structure([6, 1, 8, 1, 6], positions, cell, pbc)


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (TRICLINIC @ TURN, [True, True, True]),
        (TRICLINIC * [[1.0], [1.0], [-1.0]] @ TURN, [True, True, True]),
        (TRICLINIC @ TURN, [True, False, True]),
        (TRICLINIC, [False, False, True]),
        (TRICLINIC + np.array([[0.0, 2e-8, 0.0], [0.0, 0.0, -1e-8], [0.0, 0.0, 0.0]]), [True, True, True]),
    ],
    ids=["turned crystal", "left-handed cell", "slab", "wire", "almost in LAMMPS's form"],
)
def test_any_cell_in_its_own_frame(plugin: Path, cell: np.ndarray, pbc: list[bool]) -> None:
    # The model is not invariant under rotation, so a frame that LAMMPS chose would show.
    assert_same(model_path("float64"), in_cell(cell, pbc, seed=3))


def test_units_real(plugin: Path) -> None:
    assert_same(model_path("float64"), in_cell(TRICLINIC, [True, True, True], seed=4), "real")


def test_many_images(plugin: Path, toy: Path) -> None:
    assert_same(toy, Structure([8, 1, 6], np.random.default_rng(5).random((3, 3)) * 2.5, np.eye(3) * 2.5, [True] * 3))


def test_direct_forces(plugin: Path, tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "direct.pt", head="direct")
    structure = in_cell(TRICLINIC @ TURN, [True, True, True], seed=6)
    expected = python_reference(model, structure)
    found = evaluate(model, structure, work=tmp_path / "run", threads=1)
    assert abs(found.energy - expected.energy) <= 1e-9 * len(structure)
    assert np.abs(expected.forces).max() > 1e-3
    assert np.abs(found.forces - expected.forces).max() <= 1e-8
    assert "direct output" in (tmp_path / "run" / "log.lammps").read_text()


def test_virial_is_the_strain_derivative(plugin: Path, toy: Path) -> None:
    structure = random_structure(12, box=6.0, seed=2)
    virial = evaluate(toy, structure, threads=1).virial
    direction = np.random.default_rng(1).uniform(-1.0, 1.0, (3, 3))
    h = 1e-5
    energies = []
    for sign in (1.0, -1.0):
        deformation = np.eye(3) + sign * h * direction
        strained = Structure(
            structure.numbers, structure.positions @ deformation, structure.cell @ deformation, structure.pbc
        )
        energies.append(evaluate(toy, strained, threads=1).energy)
    derivative = (energies[0] - energies[1]) / (2.0 * h)
    assert derivative == pytest.approx(-(virial * direction).sum(), rel=1e-7, abs=1e-8)
