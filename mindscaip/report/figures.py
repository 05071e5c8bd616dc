"""The figures of this field, from plain arrays: learning curves, parity, energy conservation, a bond scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from mindscaip.bsct.dataset import Scan
from mindscaip.bsct.fsd import FLOOR, fsd, log_ratio, log_ratio_slope, squared_force_change
from mindscaip.engines.record import NVERecord
from mindscaip.errors import MindscaipError
from mindscaip.report.page import Figure, format_seconds
from mindscaip.report.style import DASHES, DENSITY, MARK, MODEL, QUIET, REFERENCE, SERIES, template
from mindscaip.studies.nve import compare
from mindscaip.units import EV_TO_MEV

DENSITY_FROM = 3000
"""A parity plot of more points than this shows their density: lighter to load and easier to read."""
DENSITY_BINS = 110
FEW_DECADES = 0.6
MANY_DECADES = 3.0
MOST_DECADES = 8
"""Ticks of a logarithmic axis: many in each decade up to the first span, some up to the second, one up to the third."""
LINE_POINTS = 2000
"""Lines of more points than this are thinned (the numbers are never taken from the figure)."""


def learning_curves(curves: Mapping[str, ArrayLike]) -> list[Figure]:
    """Energy and force errors over the epochs of a run, each on a logarithmic axis.

    Args:
        curves: columns of ``curves.csv`` (:data:`mindscaip.training.logs.CURVE_COLUMNS`), one value per validation.
    """
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in curves.items()}
    hover = [
        f"step {int(step)}, {format_seconds(60 * minutes)}"
        for step, minutes in zip(columns["step"], columns["minutes"], strict=True)
    ]
    figures = []
    for title, unit, series, caption in (
        (
            "energy error",
            "meV/atom",
            (
                ("training", "train_energy_mae_meV_per_atom", QUIET),
                ("validation MAE", "val_energy_mae_meV_per_atom", MODEL),
            ),
            "Energy. Training: mean over the epoch with the weights of the moment; validation: averaged (EMA) weights.",
        ),
        (
            "force error",
            "meV/Å",
            (
                ("training |ΔF|", "train_force_error_meV_per_A", QUIET),
                ("validation RMSE", "val_force_rmse_meV_per_A", SERIES[2]),
                ("validation MAE", "val_force_mae_meV_per_A", MODEL),
            ),
            "Forces. Training: length of the error vector per atom; validation: MAE and RMSE over components.",
        ),
    ):
        plot = go.Figure()
        for name, column, colour in series:
            plot.add_scatter(
                x=columns["epoch"],
                y=columns[column],
                mode="lines+markers" if len(hover) < 30 else "lines",
                name=name,
                line={"color": colour, "width": 2},
                marker={"size": 5},
                text=hover,
                hovertemplate=f"epoch %{{x}} (%{{text}})<br>%{{y:.4g}} {unit}<extra>{name}</extra>",
            )
        plot.update_layout(template=template())
        plot.update_xaxes(title_text="epoch")
        values = np.concatenate([columns[column] for _, column, _ in series])
        plot.update_yaxes(title_text=f"{title} ({unit})", type="log", **log_ticks(values))
        figures.append(Figure(plot, caption, height=360))
    return figures


def parity(
    reference: ArrayLike, predicted: ArrayLike, *, quantity: str, unit: str, labels: Sequence[str] | None = None
) -> Figure:
    """Predicted against reference values, with MAE and RMSE in the caption.

    Args:
        reference: any shape.
        predicted: the same shape.
        quantity: for the axes, such as ``"force component"``.
        labels: a name for each point (for the hover text of scatter plots).

    Raises:
        MindscaipError: shapes that differ, or no point.
    """
    x, y = np.asarray(reference, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.shape != y.shape or x.size == 0:
        raise MindscaipError(f"parity of {quantity}: shapes {x.shape} and {y.shape}; give two equal ones with values")
    x, y = x.ravel(), y.ravel()
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    pad = 0.04 * (high - low) or 1.0
    limits = [float(low - pad), float(high + pad)]
    mae, rmse = float(np.abs(y - x).mean()), float(np.sqrt(((y - x) ** 2).mean()))
    plot = go.Figure()
    plot.add_scatter(
        x=limits, y=limits, mode="lines", line={"color": QUIET, "width": 1}, hoverinfo="skip", showlegend=False
    )
    if x.size > DENSITY_FROM:
        plot.add_trace(_density(x, y, limits, unit))
    else:
        plot.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker={"color": MODEL, "size": 5, "opacity": 0.55},
            text=None if labels is None else list(labels),
            hovertemplate=("" if labels is None else "%{text}<br>")
            + f"reference %{{x:.5g}}<br>model %{{y:.5g}} {unit}<extra></extra>",
            showlegend=False,
        )
    plot.update_layout(template=template(), margin={"t": 12})
    plot.update_xaxes(title_text=f"reference {quantity} ({unit})", range=limits, constrain="domain")
    plot.update_yaxes(
        title_text=f"model {quantity} ({unit})", range=limits, scaleanchor="x", scaleratio=1, constrain="domain"
    )
    density = ", as a density" if x.size > DENSITY_FROM else ""
    caption = (
        f"{quantity[0].upper()}{quantity[1:]}: MAE {mae:.4g}, RMSE {rmse:.4g} {unit} over {x.size} values{density}."
    )
    return Figure(plot, caption, height=420)


def _density(x: np.ndarray, y: np.ndarray, limits: list[float], unit: str) -> go.Heatmap:
    counts, edges, _ = np.histogram2d(x, y, bins=DENSITY_BINS, range=[limits, limits])
    middles = 0.5 * (edges[:-1] + edges[1:])
    shown = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan).T.astype(np.float32)
    top = int(np.ceil(np.nanmax(shown)))
    return go.Heatmap(
        x=middles,
        y=middles,
        z=shown,
        customdata=counts.T.astype(np.int32),
        colorscale=DENSITY,
        zmin=0,
        zmax=top,
        hoverongaps=False,
        hovertemplate=f"reference %{{x:.3g}}<br>model %{{y:.3g}} {unit}<br>%{{customdata}} values<extra></extra>",
        colorbar={
            "title": {"text": "values", "side": "right"},
            "tickvals": list(range(top + 1)),
            "ticktext": [f"{10**k}" for k in range(top + 1)],
            "thickness": 10,
            "len": 0.6,
            "outlinewidth": 0,
        },
    )


def nve_energies(records: Sequence[NVERecord]) -> list[Figure]:
    """Total energies of runs from one start, relative to the start, and how far each is from the first run.

    Raises:
        MindscaipError: no record, or records of different steps.
    """
    if not records:
        raise MindscaipError("there is no NVE run to show; give at least one record")
    first = records[0]
    kept = np.unique(np.linspace(0, len(first.step) - 1, min(len(first.step), LINE_POINTS)).round().astype(int))
    energies = go.Figure()
    for record, colour, dash in zip(records, SERIES, DASHES, strict=False):
        relative = (record.total_eV - record.total_eV[0]) * EV_TO_MEV / record.num_atoms
        energies.add_scatter(
            x=record.time_fs[kept],
            y=relative[kept],
            name=record.engine,
            mode="lines",
            line={"color": colour, "width": 2, "dash": dash},
            hovertemplate=f"%{{x:.1f}} fs<br>%{{y:.5f}} meV/atom<extra>{record.engine}</extra>",
        )
    energies.update_layout(template=template())
    energies.update_xaxes(title_text="time (fs)")
    energies.update_yaxes(title_text="E(t) − E(0) (meV/atom)")
    caption = (
        f"Total energy of {first.num_atoms} atoms, {int(first.step[-1])} steps of {_timestep(first):g} fs, relative to "
        "the start. Velocity Verlet oscillates with the fastest vibrations; what counts is that nothing accumulates."
    )
    figures = [Figure(energies, caption, height=360)]
    if len(records) > 1:
        figures.append(_differences(records, kept))
    return figures


def _differences(records: Sequence[NVERecord], kept: np.ndarray) -> Figure:
    first = records[0]
    plot = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.1)
    for record, colour in zip(records[1:], SERIES[1:], strict=False):
        agreement = compare(first, record)
        for row, values, unit in ((1, agreement.energy, "meV/atom"), (2, agreement.position, "Å")):
            plot.add_scatter(
                x=first.time_fs[kept],
                y=_positive(values[kept]),
                name=record.engine,
                showlegend=len(records) > 2 and row == 1,
                mode="lines",
                line={"color": colour, "width": 1.5},
                hovertemplate=f"%{{x:.1f}} fs<br>%{{y:.2e}} {unit}<extra></extra>",
                row=row,
                col=1,
            )
    plot.update_layout(template=template())
    plot.update_xaxes(title_text="time (fs)", row=2, col=1)
    for row, title in ((1, "|ΔE| (meV/atom)"), (2, "largest |Δr| (Å)")):
        shown = np.concatenate([np.asarray(trace.y) for trace in plot.data if trace.yaxis == ("y", "y2")[row - 1]])
        plot.update_yaxes(title_text=title, type="log", exponentformat="power", **_decades(shown), row=row, col=1)
    others = " and ".join(record.engine for record in records[1:])
    caption = (
        f"Difference between {others} and {first.engine} at each step: total energy, and the largest distance of an "
        "atom from its twin. Steps without any difference are left out."
    )
    return Figure(plot, caption, height=360)


def _timestep(record: NVERecord) -> float:
    return float(record.time_fs[-1] / record.step[-1]) if record.step[-1] > 0 else 0.0


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def log_ticks(values: np.ndarray) -> dict[str, Any]:
    """Ticks in plain numbers: at 1, 2 and 5 of each decade, at more where there is less than one, else at decades."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return {}
    low, high = np.log10(positive.min()), np.log10(positive.max())
    span = high - low
    steps: tuple[float, ...] = (
        (1, 1.5, 2, 3, 4, 5, 7) if span < FEW_DECADES else (1, 2, 5) if span < MANY_DECADES else (1,)
    )
    every = max(1, math.ceil((high - low) / MOST_DECADES))
    ticks = [m * 10.0**k for k in range(math.floor(low) - 1, math.ceil(high) + 1, every) for m in steps]
    pad = max(0.05 * (high - low), 0.05)
    return {"range": [low - pad, high + pad], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _decades(values: np.ndarray) -> dict[str, Any]:
    """Whole decades around the values, about four of them labelled."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return {}
    low, high = math.floor(np.log10(positive.min())), math.ceil(np.log10(positive.max()))
    high = max(high, low + 1)
    return {"range": [low, high], "dtick": max(1, round((high - low) / 4)), "tickfont": {"size": 11}}


def bond_scan(scan: Scan, energy: ArrayLike, forces: ArrayLike, *, model: str = "model", reference: str) -> Figure:
    """One bond scan: energies, force changes, and the steps whose largest is the FSD, which is marked.

    Args:
        energy: the model's total energies in eV, ``[K]``.
        forces: the model's forces in eV/A, ``[K, n, 3]``.
        model, reference: names for the legend.

    Raises:
        MindscaipError: as :func:`mindscaip.bsct.fsd.fsd`.
    """
    energy, forces = np.asarray(energy, dtype=np.float64), np.asarray(forces, dtype=np.float64)
    result = fsd(scan, energy, forces)
    j0 = result.minimum_frame
    origin = scan.forces[j0]
    lengths = scan.bond_length
    middles = 0.5 * (lengths[1:] + lengths[:-1])
    slopes = np.abs(log_ratio_slope(log_ratio(forces, scan.forces, scan.energy), lengths))
    floor = float(np.sqrt(FLOOR))
    plot = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.045, row_heights=[0.38, 0.38, 0.24])
    for name, colour, dash, e, f in (
        (reference, REFERENCE, "solid", scan.energy, scan.forces),
        (model, MODEL, "dash", energy, forces),
    ):
        norm = np.sqrt(squared_force_change(f, origin))
        for row, values, unit in ((1, e - scan.energy[j0], "eV"), (2, _positive(norm), "eV/Å")):
            plot.add_scatter(
                x=lengths,
                y=values,
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                mode="lines",
                line={"color": colour, "width": 2, "dash": dash},
                hovertemplate=f"%{{x:.3f}} Å<br>%{{y:.4g}} {unit}<extra>{name}</extra>",
                row=row,
                col=1,
            )
    plot.add_scatter(
        x=middles,
        y=slopes,
        mode="lines",
        line={"color": MODEL, "width": 1.5},
        showlegend=False,
        hovertemplate="%{x:.3f} Å<br>|dl/dL| %{y:.3g} Å⁻¹<extra></extra>",
        row=3,
        col=1,
    )
    plot.add_scatter(
        x=[result.full.bond_length],
        y=[result.full.value],
        mode="markers",
        name="worst step (FSD)",
        marker={"color": MARK, "size": 9, "symbol": "diamond"},
        hovertemplate=f"FSD {result.full.value:.4g} Å⁻¹ at %{{x:.3f}} Å<extra></extra>",
        row=3,
        col=1,
    )
    plot.update_layout(template=template())
    for row in (1, 2, 3):
        plot.add_vline(x=result.full.bond_length, line={"color": MARK, "width": 1, "dash": "dot"}, row=row, col=1)
    plot.add_hline(y=floor, line={"color": QUIET, "width": 1, "dash": "dot"}, row=2, col=1)
    plot.update_xaxes(title_text=f"{scan.bond} bond length (Å)", row=3, col=1)
    plot.update_yaxes(title_text="E − E<sub>ref</sub>(j0) (eV)", range=_energy_range(scan, energy), row=1, col=1)
    plot.update_yaxes(
        title_text="|F − F<sub>ref</sub>(j0)| (eV/Å)", type="log", dtick=1, exponentformat="none", row=2, col=1
    )
    plot.update_yaxes(title_text="|dl/dL| (Å⁻¹)", rangemode="tozero", row=3, col=1)
    worst = result.full
    caption = (
        f"{scan.smiles or scan.key}, {scan.bond} bond, {len(scan)} frames. FSD {worst.value:.4g} Å⁻¹, from the step at "
        f"{worst.bond_length:.2f} Å (red); energy MAE {result.energy_mae:.3g} eV, force MAE "
        f"{result.force_mae:.3g} eV/Å. j0 is the frame of lowest reference energy ({lengths[j0]:.2f} Å); l is twice "
        "the logarithm of the ratio of the two curves in the middle, where changes below the grey line "
        f"({floor:g} eV/Å) count as that."
    )
    return Figure(plot, caption, height=700)


def _energy_range(scan: Scan, energy: np.ndarray) -> list[float]:
    """The well and what it takes to leave it; the repulsion at short bonds, ten times higher, runs out of sight."""
    j0 = int(np.argmin(scan.energy))
    depth = float(np.ptp(scan.energy[j0:])) or float(np.ptp(scan.energy)) or 1.0
    inside = energy[(energy - scan.energy[j0] < 3 * depth) & (energy - scan.energy[j0] > -1.5 * depth)]
    low = float(min(inside.min() - scan.energy[j0], 0.0)) if inside.size else 0.0
    return [low - 0.15 * depth, 3 * depth]
