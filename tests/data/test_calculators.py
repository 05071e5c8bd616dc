from __future__ import annotations

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from mindscaip.data.calculators import isolated_energies, resolve_calculator
from mindscaip.data.point import CalculationError, single_point, unpaired_electrons
from mindscaip.data.xtb import XTB
from mindscaip.errors import MindscaipError

MODULE = """
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

class Holder:
    make = EMT

instance = LennardJones()
number = 3

def text():
    return "no calculator"

def fails():
    raise RuntimeError("no licence")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_calculators.py").write_text(MODULE)
    (tmp_path / "broken_calculators.py").write_text("import no_such_package\n")
    (tmp_path / "wrong_calculators.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_that_resolve(folder):
    assert isinstance(resolve_calculator("gfn2-xtb")(), XTB)
    lennard_jones = resolve_calculator("ase:ase.calculators.lj:LennardJones")
    assert type(pickle.loads(pickle.dumps(lennard_jones))()).__name__ == "LennardJones"
    factory = resolve_calculator("ase:own_calculators:Holder.make")
    assert type(factory()).__name__ == "EMT"
    assert factory() is not factory()
    import sys

    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gfn2-xbt", r"no calculator 'gfn2-xbt' \(did you mean 'gfn2-xtb'\?\)"),
        ("dft", "known are gfn2-xtb, gfn1-xtb, pyscf, psi4 and ase:module:callable"),
        ("ase:own_calculators", "not of the form ase:module:callable"),
        ("ase::f", "not of the form ase:module:callable"),
        ("ase:nowhere:f", "'nowhere' of 'ase:nowhere:f' is neither on the Python path nor in "),
        ("ase:ase.nowhere:f", r"'ase\.nowhere' .* is neither on the Python path"),
        ("ase:broken_calculators:f", "needs 'no_such_package', which is missing"),
        ("ase:wrong_calculators:f", "fails on import: division by zero"),
        ("ase:own_calculators:txet", r"has no 'txet' \(did you mean 'text'\?\)"),
        ("ase:own_calculators:number", "'number' in 'own_calculators' is a int; name a callable"),
        ("ase:own_calculators:instance", "is a LennardJones; name a callable"),
    ],
)
def test_names_that_do_not(folder, name, message):
    with pytest.raises(MindscaipError, match=message):
        resolve_calculator(name)


def test_callables_that_return_no_calculator(folder):
    with pytest.raises(MindscaipError, match="returned a str, not an ASE calculator"):
        resolve_calculator("ase:own_calculators:text")()
    with pytest.raises(MindscaipError, match="failed with RuntimeError: no licence"):
        resolve_calculator("ase:own_calculators:fails")()


def test_unpaired_electrons():
    atoms = {"H": 1, "He": 0, "C": 2, "N": 3, "O": 2, "F": 1, "Na": 1, "P": 3, "S": 2, "Cl": 1, "Fe": 4, "Ce": 1}
    for symbol, expected in atoms.items():
        assert unpaired_electrons(Atoms(symbol).numbers) == expected, symbol
    assert unpaired_electrons(molecule("CH4").numbers) == 0
    assert unpaired_electrons(molecule("CH3").numbers) == 1


def test_xtb_agrees_with_tblite():
    from tblite.ase import TBLite

    cell = Atoms("HF", [[0, 0, 0], [0.1, 0.2, 0.95]], cell=[[5, 0, 0], [0.5, 4.5, 0], [0, 0.3, 6]], pbc=True)
    for atoms in (molecule("CH3CH2OH"), molecule("CH3"), Atoms("N"), cell):
        ours, uhf = XTB(restart=False), unpaired_electrons(atoms.numbers)
        energy, forces = single_point(ours, atoms)
        theirs = TBLite(verbosity=0, accuracy=0.1, multiplicity=uhf + 1)
        atoms.calc = theirs
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert np.allclose(forces, atoms.get_forces(), rtol=0, atol=1e-9)
        if atoms.pbc.all():
            assert np.allclose(ours.get_property("stress", atoms), atoms.get_stress(), rtol=0, atol=1e-9)
        else:
            assert "stress" not in ours.results


def test_forces_are_the_gradient():
    atoms = molecule("CH3OH")
    atoms.rattle(0.05, seed=0)
    _, forces = single_point(XTB(accuracy=0.001), atoms)
    h = 1e-4
    for atom, axis in ((0, 0), (1, 2), (4, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * h
            energies.append(single_point(XTB(accuracy=0.001), moved)[0])
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * h), abs=2e-6)


def test_restart_changes_nothing_that_matters_and_can_be_forgotten(capfd):
    fresh, kept = XTB(restart=False), XTB()
    other = molecule("H2O")
    for k in range(4):
        atoms = molecule("CH3CH2OH")
        atoms.positions[8] += 0.1 * k
        e1, f1 = single_point(fresh, atoms)
        e2, f2 = single_point(kept, atoms)
        assert abs(e1 - e2) < 1e-8
        assert np.abs(f1 - f2).max() < 1e-4
    single_point(kept, other)  # another molecule in between
    kept.forget()
    e3, f3 = single_point(kept, atoms)
    assert e3 == e1
    assert np.array_equal(f3, f1)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_threads_are_left_alone():
    """One thread within the calculation, what was set before after it."""
    import ctypes

    from tblite import _libtblite

    library = ctypes.CDLL(_libtblite.__file__)
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(5)
    try:
        single_point(XTB(), molecule("H2O"))
        assert library.omp_get_max_threads() == 5
    finally:
        library.omp_set_num_threads(before)


def test_failures_are_recordable():
    calculator = XTB()
    with pytest.raises(CalculationError, match="no parameters for U"):
        single_point(calculator, Atoms("UO", [[0, 0, 0], [0, 0, 2]]))
    stuck = XTB()
    stuck._solve = lambda atoms: (_ for _ in ()).throw(RuntimeError("SCF not\n converged"))  # type: ignore[method-assign]
    with pytest.raises(CalculationError, match=r"gfn2-xtb did not converge \(SCF not converged\)"):
        single_point(stuck, molecule("H2O"))
    energy, _ = single_point(calculator, molecule("H2O"))  # usable after a failure
    assert energy == pytest.approx(-137.968, abs=1e-3)
    from ase.calculators.emt import EMT

    with pytest.raises(CalculationError, match="failed with NotImplementedError"):
        single_point(EMT(), molecule("SiH4"))


def test_isolated_energies():
    energies = isolated_energies("gfn2-xtb", ["O", "H", "H", "C"])
    assert list(energies) == ["H", "C", "O"]
    assert energies["H"] == pytest.approx(-10.707211, abs=1e-5)
    # All are above the molecule's share: atoms gain energy when they bind.
    total, _ = single_point(XTB(), molecule("CH3CH2OH"))
    binding = total - (2 * energies["C"] + 6 * energies["H"] + energies["O"])
    assert -50 < binding < -30
    with pytest.raises(CalculationError, match="no energy for an isolated U atom"):
        isolated_energies("gfn2-xtb", ["U"])
