from __future__ import annotations

import numpy as np
import pytest

from mindscaip.data.formats import read_structures
from mindscaip.data.reference import force_scale, read_isolated_energies, reference_energies
from mindscaip.data.store import write_store
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

TRUE = {1: -13.0, 6: -1030.0, 8: -2040.0}


def molecule(numbers, energy=None, forces=None) -> Structure:
    numbers = np.array(numbers)
    positions = np.arange(3.0 * len(numbers)).reshape(-1, 3)
    if energy is None:
        energy = sum(TRUE[z] for z in numbers)
    return Structure(numbers, positions, energy=energy, forces=forces)


def test_determined_compositions_are_met_exactly():
    data = [molecule([1, 1, 8]), molecule([6, 1, 1, 1, 1]), molecule([6, 8]), molecule([6, 8, 8])]
    fitted = reference_energies(data)
    assert list(fitted) == ["H", "C", "O"]
    assert np.allclose(list(fitted.values()), list(TRUE.values()), rtol=1e-12)


def test_it_is_the_least_squares_of_the_energy_per_atom():
    rng = np.random.default_rng(0)
    data = [molecule(rng.choice([1, 6, 8], size=n), energy=rng.normal() * n) for n in rng.integers(1, 12, 40)]
    data += data[:7]  # repeated compositions count as often as they occur
    fitted = reference_energies(data)
    x = np.array([[np.sum(s.numbers == z) for z in TRUE] for s in data], dtype=float)
    n = x.sum(axis=1)
    expected, *_ = np.linalg.lstsq(x / n[:, None], np.array([s.energy for s in data]) / n, rcond=None)
    assert np.allclose(list(fitted.values()), expected, atol=1e-10)


def test_one_composition_gives_equal_energies():
    fitted = reference_energies([molecule([6, 1, 1, 1, 1], energy=-50.0 + d) for d in (-1.0, 1.0)])
    assert np.allclose(list(fitted.values()), -10.0, rtol=1e-12)


def test_compositions_in_proportion_do_not_blow_up():
    data = [molecule([6, 1, 1] * n, energy=-36.0 * n + 1e-4 * n * n) for n in (1, 2, 3)]
    fitted = reference_energies(data)
    assert abs(fitted["C"] + 2 * fitted["H"] + 36.0) < 1e-3
    assert max(abs(e + 12) for e in fitted.values()) < 1e-3


def test_on_real_molecules(real):
    data = list(read_structures(real("spice/spice-dipeptides-train.xyz")))
    fitted = reference_energies(data)
    residual = [(s.energy - sum(fitted[x] for x in s.symbols)) / len(s) for s in data]
    raw = [s.energy / len(s) for s in data]
    assert list(fitted)[:4] == ["H", "C", "N", "O"]
    assert np.std(residual) < 0.03 < 0.08 < np.std(raw)
    assert all(-15 < e < 0 for e in fitted.values())


def test_isolated_atoms(real, tmp_path):
    isolated = read_isolated_energies(real("acac/isolated_atoms.xyz"))
    assert isolated == {"H": -13.568422178253735, "C": -1026.8538996116154, "O": -2037.796869412825}
    data = list(read_structures(real("acac/train_300K.xyz"), index=":5"))
    assert reference_energies(data, isolated) == isolated
    binding = [(s.energy - sum(isolated[x] for x in s.symbols)) / len(s) for s in data]
    assert all(-7 < e < -4 for e in binding)
    # Only the elements that occur, and from a store as well.
    write_store(tmp_path / "a.h5", data, {**isolated, "N": -1.0})
    stored = read_isolated_energies(tmp_path / "a.h5")
    assert stored["N"] == -1.0
    assert reference_energies(data, stored) == isolated


def test_mistakes(tmp_path):
    water = molecule([1, 1, 8])
    with pytest.raises(MindscaipError, match="no isolated-atom energy for O"):
        reference_energies([water], {"H": -13.0})
    with pytest.raises(MindscaipError, match="there are no structures"):
        reference_energies([])
    water.energy = None
    with pytest.raises(MindscaipError, match="structure 1 has no energy"):
        reference_energies([molecule([1]), water])
    path = tmp_path / "iso.xyz"
    path.write_text("1\nenergy=-1\nH 0 0 0\n1\nenergy=-2\nH 0 0 0\n")
    with pytest.raises(MindscaipError, match="gives H twice"):
        read_isolated_energies(path)
    path.write_text("2\nenergy=-1\nH 0 0 0\nH 0 0 1\n")
    with pytest.raises(MindscaipError, match=r"frame 0 of .* has 2 atoms"):
        read_isolated_energies(path)
    path.write_text("1\nno label\nH 0 0 0\n")
    with pytest.raises(MindscaipError, match="has no energy"):
        read_isolated_energies(path)
    write_store(tmp_path / "a.h5", [molecule([1])])
    with pytest.raises(MindscaipError, match="holds no isolated-atom energies"):
        read_isolated_energies(tmp_path / "a.h5")


def test_force_scale():
    data = [
        molecule([1], forces=[[3.0, 0, 0]]),
        molecule([1, 1], forces=[[0, 0, 0], [0, 0, 3.0]]),
        molecule([1]),
    ]
    assert force_scale(data) == pytest.approx(np.sqrt(18 / 9), rel=1e-15)
    with pytest.raises(MindscaipError, match="no structure has forces"):
        force_scale(data[2:])
