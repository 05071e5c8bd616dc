"""The page about a training run: losses, validation errors and, where they were scored, smoothness and dynamics."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from mindscaip import __version__
from mindscaip.errors import MindscaipError
from mindscaip.report.figures import learning_curves, log_ticks
from mindscaip.report.page import Facts, Figure, Number, Page, Section, format_seconds
from mindscaip.report.style import MARK, MODEL, SECOND, SERIES, template
from mindscaip.training.checkpoint import BEST, LAST, load_checkpoint
from mindscaip.training.logs import CURVES
from mindscaip.training.smoothness import FSD, FSD_INTRINSIC, NVE, SCAN_ENERGY, SCAN_FORCE, SECONDS

FEW = 30
"""Curves of fewer points than this show them."""


def read_curves(path: str | os.PathLike) -> dict[str, list[float]]:
    """The columns of a ``curves.csv``; NaN where a validation has no value.

    Raises:
        MindscaipError: there is no such file, or it holds no row yet.
    """
    path = Path(path)
    if not path.is_file():
        raise MindscaipError(f"{path}: no such file; the folder of a run holds one after its first validation")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise MindscaipError(f"{path} holds no validation yet; wait for the first one")
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}


def smoothness_curves(curves: Mapping[str, ArrayLike], best_epoch: int | None = None) -> list[Figure]:
    """Both FSD and the errors along the scans, and the energy conservation, over the epochs; none for fewer than two.

    Args:
        curves: columns of ``curves.csv``, NaN where a validation was not scored.
        best_epoch: marked in the figures.
    """
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in curves.items()}
    if FSD not in columns or np.isfinite(columns[FSD]).sum() < 2:
        return []
    smooth = (("FSD intrinsic", FSD_INTRINSIC, MODEL), ("FSD as published", FSD, SECOND))
    figures = [
        _curves(
            columns,
            smooth,
            "force smoothness deviation (Å⁻¹)",
            "Å⁻¹",
            best_epoch,
            "Smoothness along the bond scans, means, with the averaged (EMA) weights; lower is smoother.",
        ),
        _curves(
            columns,
            (("force MAE (eV/Å)", SCAN_FORCE, SERIES[2]), ("energy MAE, shifted (eV)", SCAN_ENERGY, SERIES[3])),
            "error along the scans",
            "",
            best_epoch,
            "Errors on the same scans: a potential without any forces would be smooth.",
        ),
    ]
    if NVE in columns and np.isfinite(columns[NVE]).any():
        series = (("largest deviation", NVE, MODEL),)
        caption = "Short runs at constant energy from the molecules of the scans, the largest of all."
        figures.append(_curves(columns, series, "max |E(t) − E(0)| (meV/atom)", "meV/atom", best_epoch, caption))
    return figures


def _curves(
    columns: Mapping[str, np.ndarray],
    series: Sequence[tuple[str, str, str]],
    title: str,
    unit: str,
    best_epoch: int | None,
    caption: str,
) -> Figure:
    plot = go.Figure()
    shown = []
    for name, column, colour in series:
        there = np.isfinite(columns[column])
        shown.append(columns[column][there])
        plot.add_scatter(
            x=columns["epoch"][there],
            y=columns[column][there],
            name=name,
            mode="lines+markers" if there.sum() < FEW else "lines",
            line={"color": colour, "width": 2},
            marker={"size": 5},
            hovertemplate=f"epoch %{{x}}<br>%{{y:.4g}} {unit}<extra>{name}</extra>",
        )
    if best_epoch is not None:
        plot.add_vline(x=best_epoch, line={"color": MARK, "width": 1, "dash": "dot"})
        caption += " Red: the best checkpoint."
    last = float(np.nanmax(columns["epoch"]))
    plot.update_layout(template=template(), showlegend=len(series) > 1)
    plot.update_xaxes(title_text="epoch", range=[0, 1.02 * last])
    plot.update_yaxes(title_text=title, type="log", **log_ticks(np.concatenate(shown)))
    return Figure(plot, caption, height=360)


def training_page(run: str | os.PathLike) -> Page:
    """The page of the run in a folder, finished or not.

    Raises:
        MindscaipError: no run there, or no validation yet.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise MindscaipError(f"{folder}: no such folder; give the folder of a run of 'mindscaip train'")
    curves = read_curves(folder / CURVES)
    state = load_checkpoint(folder / (LAST if (folder / LAST).exists() else BEST))
    record = state["record"]
    best = load_checkpoint(folder / BEST)["record"]["epochs"] if (folder / BEST).exists() else None
    place = curves["epoch"].index(best) if best in curves["epoch"] else len(curves["epoch"]) - 1
    figures = smoothness_curves(curves, best)
    minutes = record["minutes"]
    sections = [Section("Learning curves", learning_curves(curves), side_by_side=True)]
    if figures:
        seconds = np.array(curves[SECONDS])
        scored = np.isfinite(seconds)
        part = 100 * float(seconds[scored].sum()) / (60 * minutes) if minutes else math.nan
        text = (
            f"{int(scored.sum())} scores took {format_seconds(float(seconds[scored].sum()))}, {part:.1f} % of the "
            "wall time of the training."
        )
        sections.append(Section("Smoothness", figures, text=text, side_by_side=True))
    sections.append(Section("What was run", [_facts(state)]))
    return Page(
        title=f"Training of {folder.resolve().name}",
        lead=(
            f"{record['steps']} steps, {record['epochs']} epochs in {format_seconds(60 * minutes)} on "
            f"{record['num_train']} structures, validated on {record['num_val']}."
        ),
        headline=_headline(curves, place, best),
        sections=sections,
        footer=f"Written by mindscaip {__version__}.",
    )


def _headline(curves: Mapping[str, Sequence[float]], place: int, best: int | None) -> list[Number]:
    cards = [] if best is None else [Number("best checkpoint", best, "epochs")]
    for column, name, unit in (
        ("val_force_mae_meV_per_A", "validation force MAE", "meV/Å"),
        ("val_energy_mae_meV_per_atom", "validation energy MAE", "meV/atom"),
        (FSD_INTRINSIC, "FSD intrinsic", "Å⁻¹"),
        (NVE, "max |E(t) − E(0)|", "meV/atom"),
    ):
        if column in curves and math.isfinite(curves[column][place]):
            cards.append(Number(name, curves[column][place], unit))
    return cards


def _facts(state: Mapping[str, Any]) -> Facts:
    config, record = state["config"], state["record"]
    model, training, smoothness = config["model"], config["training"], config.get("smoothness", {})
    facts = {
        "Model": {
            "width, layers, heads": f"{model['embed_dim']}, {model['num_layers']}, {model['num_heads']}",
            "cutoff, neighbours": f"{model['graph']['cutoff']:g} Å, k = {model['graph']['k']}",
            "smearing, temperature": f"{model['gamma']:g}, {model['temperature']:g}",
            "forces": model["head"],
            "elements": " ".join(state["elements"]),
        },
        "Training": {
            "data": str(record["data_train"]),
            "learning rate": f"{training['learning_rate']:g} down to {training['final_learning_rate']:g} of it",
            "batch": f"{training['batch_size']} structures",
            "weight decay": f"{training['weight_decay']:g}",
            "EMA": f"{training['ema_decay']:g}",
            "seed": str(training["seed"]),
        },
    }
    if smoothness.get("scans"):
        rule = smoothness["select"]
        details = {"within": f"{smoothness['tolerance']:g}", "weighted": f"{smoothness['weight']:g}"}
        facts["Smoothness"] = {
            "scans": Path(smoothness["scans"]).name,
            "every": f"{smoothness['every']} epochs at least",
            "best checkpoint": rule if rule == "validation" else f"{rule} {details[rule]}, {smoothness['metric']}",
        }
    return Facts(facts)
