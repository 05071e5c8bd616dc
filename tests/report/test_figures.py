"""Figures show the numbers that they were given."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mindscaip.bsct.fsd import fsd
from mindscaip.errors import MindscaipError
from mindscaip.report import figures
from mindscaip.report.figures import bond_scan, learning_curves, nve_energies, parity
from mindscaip.units import EV_TO_MEV
from tests.report.makers import curves, morse_scan, nve_record


def trace(figure: figures.Figure, name: str):
    found = [t for t in figure.plot.data if t.name == name]
    assert found, f"no trace {name!r} among {[t.name for t in figure.plot.data]}"
    return found[0]


def test_learning_curves_have_both_quantities_on_log_axes() -> None:
    columns = curves()
    energy, forces = learning_curves(columns)
    assert np.allclose(trace(energy, "validation MAE").y, columns["val_energy_mae_meV_per_atom"])
    assert np.allclose(trace(energy, "training").y, columns["train_energy_mae_meV_per_atom"])
    assert np.allclose(trace(forces, "validation MAE").y, columns["val_force_mae_meV_per_A"])
    for figure, unit in ((energy, "meV/atom"), (forces, "meV/Å")):
        assert figure.plot.layout.yaxis.type == "log"
        assert unit in figure.plot.layout.yaxis.title.text
        assert figure.plot.layout.xaxis.title.text == "epoch"


def test_learning_curves_of_one_epoch() -> None:
    assert len(learning_curves(curves(1))) == 2


def test_parity_shows_every_point_and_its_errors() -> None:
    reference = np.array([[0.0, 1.0], [2.0, 3.0]])
    predicted = reference + np.array([[0.5, -0.5], [1.5, 0.5]])
    figure = parity(reference, predicted, quantity="force component", unit="eV/Å", labels=["a", "b", "c", "d"])
    points = figure.plot.data[1]
    assert points.x.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert points.y.tolist() == [0.5, 0.5, 3.5, 3.5]
    assert f"MAE 0.75, RMSE {math.sqrt(0.75):.4g} eV/Å over 4 values" in figure.caption
    assert figure.plot.layout.xaxis.range == figure.plot.layout.yaxis.range
    assert figure.plot.layout.xaxis.title.text == "reference force component (eV/Å)"


def test_parity_of_many_points_is_a_density_that_counts_them_all() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=20_000)
    figure = parity(reference, reference + 0.1 * rng.normal(size=20_000), quantity="force component", unit="eV/Å")
    density = figure.plot.data[1]
    assert density.type == "heatmap"
    assert density.customdata.sum() == 20_000
    assert "as a density" in figure.caption
    assert len(figure.plot.to_json()) < 500_000


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0, 2.0]), ([], [])])
def test_parity_refuses_what_cannot_be_compared(x: list[float], y: list[float]) -> None:
    with pytest.raises(MindscaipError, match="shapes"):
        parity(x, y, quantity="energy", unit="eV")


def test_nve_energies_are_relative_per_atom_and_their_difference_is_on_a_log_axis() -> None:
    a, b = nve_record("engine A"), nve_record("engine B", shift=1e-9)
    energies, differences = nve_energies([a, b])
    for record in (a, b):
        expected = (record.total_eV - record.total_eV[0]) * EV_TO_MEV / 6
        assert np.allclose(trace(energies, record.engine).y, expected, rtol=0, atol=1e-15)
    assert "meV/atom" in energies.plot.layout.yaxis.title.text
    assert "fs" in energies.plot.layout.xaxis.title.text
    energy, position = differences.plot.data
    assert np.isnan(energy.y[0])  # equal at the start: nothing to show on a log axis
    assert np.allclose(energy.y[1:], np.abs(a.total_eV - b.total_eV)[1:] * EV_TO_MEV / 6)
    assert position.y[-1] == pytest.approx(math.sqrt(3) * 40e-9, rel=1e-6)
    assert differences.plot.layout.yaxis.type == differences.plot.layout.yaxis2.type == "log"


def test_nve_energies_of_one_or_no_engine() -> None:
    assert len(nve_energies([nve_record("alone")])) == 1
    with pytest.raises(MindscaipError, match="no NVE run"):
        nve_energies([])


def test_nve_energies_of_identical_runs() -> None:
    _, differences = nve_energies([nve_record("A"), nve_record("B")])
    assert np.isnan(differences.plot.data[0].y).all()


def test_long_runs_are_thinned_to_both_ends() -> None:
    long = nve_record("long", steps=9999)
    (figure,) = nve_energies([long])
    shown = figure.plot.data[0].x
    assert len(shown) == figures.LINE_POINTS
    assert (shown[0], shown[-1]) == (long.time_fs[0], long.time_fs[-1])


def test_bond_scan_shows_energies_force_changes_and_the_step_that_is_the_fsd() -> None:
    scan, energy, forces = morse_scan()
    result = fsd(scan, energy, forces)
    j0 = result.minimum_frame
    figure = bond_scan(scan, energy, forces, reference="Morse")
    model = [t for t in figure.plot.data if t.name == "model"]
    reference = [t for t in figure.plot.data if t.name == "Morse"]
    assert np.allclose(reference[0].y, scan.energy - scan.energy[j0])
    assert np.allclose(model[0].y, energy - scan.energy[j0])
    norm = np.linalg.norm((forces - scan.forces[j0]).reshape(len(scan), -1), axis=1)
    assert np.allclose(model[1].y, norm)
    assert np.isnan(reference[1].y[j0])  # zero there by definition
    worst = trace(figure, "worst step (FSD)")
    assert (worst.x[0], worst.y[0]) == (result.full.bond_length, result.full.value)
    assert f"FSD {result.full.value:.4g}" in figure.caption
    assert {line.x0 for line in figure.plot.layout.shapes if line.x0 == line.x1} == {result.full.bond_length}
