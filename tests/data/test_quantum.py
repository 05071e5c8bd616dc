"""PySCF as a reference: against itself, against published energies, and its failures; Psi4's half by a stand-in."""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from mindscaip.data.calculators import describe_calculator, resolve_calculator
from mindscaip.data.point import CalculationError, single_point
from mindscaip.data.quantum import Psi4, PySCF, parse_level
from mindscaip.errors import MindscaipError
from mindscaip.units import HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV

needs_pyscf = pytest.mark.skipif(
    find_spec("pyscf") is None,
    reason="PySCF is not installed: pip install 'mindscaip[pyscf]'",
)


def test_names():
    assert str(parse_level("pyscf")) == "pyscf:wb97m-d3bj/def2-tzvppd"
    assert str(parse_level("psi4:PBE0")) == "psi4:pbe0/def2-tzvppd"
    assert str(parse_level("pyscf:hf/sto-3g")) == "pyscf:hf/sto-3g"
    for name in ("pyscf:", "pyscf:pbe/", "pyscf:/sto-3g"):
        with pytest.raises(MindscaipError, match="is not of the form pyscf:FUNCTIONAL/BASIS"):
            parse_level(name)


@needs_pyscf
def test_forces_are_the_slope_of_the_energy():
    calculator = PySCF("pbe-d3bj", "def2-svp")
    water = molecule("H2O")
    water.positions += np.random.default_rng(0).normal(scale=0.05, size=(3, 3))
    energy, forces = single_point(calculator, water)
    assert energy == pytest.approx(-76.2 * HARTREE_TO_EV, abs=5)
    ends = []
    for sign in (1, -1):
        moved = water.copy()
        moved.positions[0, 2] += sign * 1e-3
        ends.append(single_point(calculator, moved)[0])
    assert forces[0, 2] == pytest.approx(-(ends[0] - ends[1]) / 2e-3, abs=5e-3)  # the grid moves with the atoms
    assert np.abs(forces.sum(axis=0)).max() < 5e-3


@needs_pyscf
def test_the_start_does_not_change_the_answer_and_saves_iterations():
    from pyscf.scf import hf

    near, far = molecule("CH3OH"), molecule("CH3OH")
    far.positions[0] += 0.05
    calculator = resolve_calculator("pyscf:hf/sto-3g")()
    energy, forces = single_point(calculator, near)
    single_point(calculator, far)
    assert calculator.guess is not None
    assert single_point(calculator, near)[0] == pytest.approx(energy, abs=1e-6)
    saved = calculator.guess
    other = PySCF("hf", "sto-3g")
    cycles = []
    kernel = hf.SCF.kernel

    def counted(self, *arguments, **options):
        value = kernel(self, *arguments, **options)
        cycles.append(self.cycles)
        return value

    hf.SCF.kernel = counted
    try:
        other.set_guess(saved, near.numbers)
        warm = single_point(other, near)
        other.forget()
        assert other.guess is None
        single_point(other, far)
    finally:
        hf.SCF.kernel = kernel
    assert warm[0] == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(warm[1], forces, atol=2e-3)
    assert cycles[0] < cycles[1]


@needs_pyscf
@pytest.mark.slow
def test_the_default_level_is_that_of_the_published_scans():
    """One published frame of the smallest molecule: energy to a meV, forces to a few meV/A."""
    from mindscaip.bsct.dataset import open_scans
    from tests.bsct.makers import reference_data

    scan = open_scans(reference_data("bsct-spice-dev.h5")).load("C-O/21541")
    k = 50
    energy, forces = single_point(resolve_calculator("pyscf")(), Atoms(scan.numbers, scan.positions[k]))
    assert energy == pytest.approx(scan.energy[k], abs=1e-3)
    np.testing.assert_allclose(forces, scan.forces[k], atol=3e-3)


@needs_pyscf
def test_failures_have_their_sentence(monkeypatch):
    with pytest.raises(MindscaipError, match="does not know the functional 'nonsense'"):
        resolve_calculator("pyscf:nonsense/sto-3g")
    with pytest.raises(MindscaipError, match="does not know the basis 'nonsense'"):
        resolve_calculator("pyscf:hf/nonsense")
    calculator = PySCF("hf", "sto-3g")
    with pytest.raises(CalculationError, match="HO has 9 electrons; pyscf:hf/sto-3g is spin restricted"):
        single_point(calculator, molecule("OH"))
    with pytest.raises(CalculationError, match="an isolated O atom has 2 unpaired electrons"):
        single_point(calculator, Atoms("O"))
    with pytest.raises(CalculationError, match="without periodic boundaries"):
        single_point(calculator, Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=[5, 5, 5], pbc=True))
    with pytest.raises(CalculationError, match="cannot set up the molecule with sto-3g"):
        single_point(calculator, Atoms("Rn"))
    monkeypatch.setattr("mindscaip.data.quantum.MAX_CYCLES", 1)
    monkeypatch.setattr("mindscaip.data.quantum.TOLERANCE", 1e-14)
    from pyscf.soscf import newton_ah

    monkeypatch.setattr(newton_ah._CIAH_SOSCF, "max_cycle", 1, raising=False)
    with pytest.raises(CalculationError, match="did not converge"):
        single_point(calculator, molecule("CH3OH"))


@needs_pyscf
def test_heavy_elements_have_core_potentials():
    energy, _ = single_point(PySCF("hf", "def2-svp"), Atoms("IH", [[0, 0, 0], [0, 0, 1.61]]))
    assert -320 < energy / HARTREE_TO_EV < -290  # all electrons would give -6900


@needs_pyscf
def test_the_level_in_words():
    words = describe_calculator("pyscf")
    assert words.startswith("wb97m-d3bj/def2-tzvppd, spin restricted, density fitting")
    assert "PySCF 2" in words
    assert describe_calculator("ase:a:b") == "ase:a:b"


def test_psi4(monkeypatch):
    """Psi4 itself is not on PyPI: what is handed to it, and what becomes of its answer."""
    asked = {}
    fake = types.ModuleType("psi4")
    fake.__version__ = "1.9"
    fake.core = types.SimpleNamespace(be_quiet=lambda: None, clean=lambda: None)
    fake.geometry = lambda text: text

    def gradient(method, *, molecule, return_wfn):
        asked.update(method=method, molecule=molecule)
        return np.full((2, 3), 0.5), types.SimpleNamespace(energy=lambda: -1.0)

    fake.gradient = gradient
    monkeypatch.setitem(sys.modules, "psi4", fake)
    hydrogen = Atoms("H2", [[0, 0, 0], [0, 0, 0.529177210903]])
    calculator = resolve_calculator("psi4:pbe/sto-3g")()
    assert isinstance(calculator, Psi4)
    energy, forces = single_point(calculator, hydrogen)
    assert asked["method"] == "pbe/sto-3g"
    lines = asked["molecule"].splitlines()
    assert lines[0] == "0 1"
    assert lines[2].startswith("H 0.00000000000000 0.00000000000000 1.0000000")
    assert {"units bohr", "no_com", "no_reorient", "symmetry c1"} <= set(lines)
    assert energy == pytest.approx(-HARTREE_TO_EV)
    np.testing.assert_allclose(forces, -0.5 * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM)

    def fails(*arguments, **options):
        raise RuntimeError("Could not converge\nSCF iterations")

    fake.gradient = fails
    with pytest.raises(CalculationError, match="psi4:pbe/sto-3g failed: Could not converge SCF iterations"):
        single_point(resolve_calculator("psi4:pbe/sto-3g")(), hydrogen)


@pytest.mark.parametrize(("name", "cure"), [("pyscf", r"mindscaip\[pyscf\]"), ("psi4", "conda install")])
def test_programs_that_are_not_installed(monkeypatch, name, cure):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MindscaipError, match=f"the reference {name} needs .*{cure}"):
        resolve_calculator(name)
