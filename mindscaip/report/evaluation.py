"""The page about errors on labelled structures: one or several potentials in one table, by subset and element, parity.

Figures of many values show densities and thinned curves, so that the page stays light whatever the size of the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mindscaip import __version__
from mindscaip.report.figures import log_ticks, parity
from mindscaip.report.page import Block, Figure, Number, Page, Section, Table, Value
from mindscaip.report.style import DASHES, SERIES, template
from mindscaip.studies.evaluation import QUANTITIES, By, Evaluation
from mindscaip.units import EV_TO_MEV

MOST_SUBSETS = 40
"""So many subsets, those of the largest errors, are drawn and listed; the others are in the CSV."""
SMALLEST_SHOWN = 1e-5
"""Errors below this part of the largest do not stretch a logarithmic axis."""
MOST_NAMED = 12
MOST_ROWS = 60
"""A table of more rows than this shows the parts of the largest errors."""
MOST_PARITY = 4
"""Parity plots are shown of the first so many potentials."""
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
CURVE_POINTS = 160
OTHER_ZERO = 5.0
"""A potential counts energies from another zero when its error falls by this factor with the shift."""


def evaluation_page(found: Evaluation, data: Sequence[str], by: By = "auto") -> Page:
    """The page.

    Args:
        data: names of the files, for the lead.
        by: what the subsets are, see :meth:`Evaluation.parts`.
    """
    found = replace(found, models=found.labels)
    rows = found.rows(by)
    overall = [row for row in rows if row["part"] == "all"]
    subsets = _worst(_by_name(rows, "subset"), MOST_SUBSETS)
    elements = _by_name(rows, "element")
    atoms = overall[0]["atoms"]
    symbols = found.elements
    named = " ".join(symbols) if len(symbols) <= MOST_NAMED else _count(len(symbols), "element")
    lead = (
        f"{_count(len(found), 'structure')} with {_number(atoms)} atoms of {named} from "
        f"{', '.join(data)}, predicted by {_names(found.models)}."
    )
    if found.skipped:
        lead += f" {_count(found.skipped.total(), 'structure')} left out for want of an answer."
    sections = [Section("Errors", _overall_blocks(found, overall), text=_definitions(overall))]
    if subsets:
        sections.append(_part_section("Subsets", "subset", subsets, found.models, len(found.parts(by))))
    if len(elements) > 1:
        sections.append(_part_section("Elements", "element", elements, found.models, len(elements)))
    sections += _parity_sections(found)
    return Page(
        title="Errors of potentials" if len(found.models) > 1 else f"Errors of {found.models[0]}",
        lead=lead,
        headline=_headline(overall[0]) if len(found.models) == 1 else (),
        sections=sections,
        footer=f"Written by mindscaip {__version__}.",
    )


def _headline(row: dict[str, Any]) -> list[Number]:
    cards = [("energy_mae", "energy MAE", "meV/atom"), ("energy_rmse", "energy RMSE", "meV/atom")]
    cards += [("forces_mae", "force MAE", "meV/Å"), ("forces_rmse", "force RMSE", "meV/Å")]
    cards += [("stress_rmse", "stress RMSE", "meV/Å³")]
    return [Number(name, row[key], unit) for key, name, unit in cards if key in row]


def _definitions(overall: Sequence[dict[str, Any]]) -> str:
    text = (
        "Energies are per atom; forces over components. “Shifted” is after the per-element constants that fit best "
        "were taken off the difference: potentials that count energies from another zero are compared by it."
    )
    if any("stress_mae" in row for row in overall):
        text += " Stress is over its nine components."
    return text


def _overall_blocks(found: Evaluation, overall: Sequence[dict[str, Any]]) -> list[Block]:
    quantities = [q for q in QUANTITIES if any(q[0] in row for row in overall)]
    cells: list[list[Value]] = [
        [row["model"], *_errors(row, quantities), 1e3 * seconds / max(row["structures"], 1)]
        for row, seconds in zip(overall, found.seconds, strict=True)
    ]
    caption = f"{_units(quantities)} Time in ms per structure."
    blocks: list[Block] = [Table(["potential", *_headings(quantities), "time"], cells, caption=caption)]
    figure = _distribution(found)
    return [*blocks, figure] if figure is not None else blocks


Quantities = Sequence[tuple[str, str, str, str]]


def _headings(quantities: Quantities) -> list[str]:
    return [text for _, _, name, _ in quantities for text in (f"{name.replace(', ', ' ')} MAE", "RMSE")]


def _errors(row: dict[str, Any], quantities: Quantities) -> list[Value]:
    return [row.get(key) for mae, rmse, *_ in quantities for key in (mae, rmse)]


def _units(quantities: Quantities) -> str:
    units = {name.partition(",")[0]: _typeset(unit) for _, _, name, unit in quantities}
    text = ", ".join(f"{name} in {unit}" for name, unit in units.items())
    return f"{text[0].upper()}{text[1:]}."


def _distribution(found: Evaluation) -> Figure | None:
    """How many force components are off by more than so much."""
    plot = go.Figure()
    lowest, highest = math.inf, 0.0
    for k, model in enumerate(found.models):
        label, predicted = found.forces.components(k)
        if not label.size:
            return None
        error = np.sort(np.abs(predicted.astype(np.float64) - label)) * EV_TO_MEV
        share = 1.0 - np.arange(len(error)) / len(error)
        # Even steps in the logarithm of the share: the few large errors are what one looks for.
        wanted = np.geomspace(1.0, 1.0 / len(error), CURVE_POINTS)
        kept = np.unique(np.searchsorted(-share, -wanted).clip(0, len(error) - 1))
        kept = kept[error[kept] > 0]
        if not kept.size:
            continue
        lowest, highest = min(lowest, float(error[len(error) // 20]) or math.inf), max(highest, float(error[-1]))
        plot.add_scatter(
            x=error[kept],
            y=100 * share[kept],
            mode="lines",
            name=model,
            line={"color": SERIES[k % len(SERIES)], "width": 2, "dash": DASHES[k // len(SERIES) % len(DASHES)]},
            hovertemplate=f"%{{y:.3g}} % above %{{x:.3g}} meV/Å<extra>{model}</extra>",
        )
    if not plot.data:
        return None
    plot.update_layout(template=template(), showlegend=len(found.models) > 1)
    low = max(lowest if math.isfinite(lowest) else 0.0, highest * SMALLEST_SHOWN)
    plot.update_xaxes(title_text="|ΔF| of a component (meV/Å)", type="log", **log_ticks(np.array([low, highest])))
    plot.update_yaxes(title_text="components above (%)", type="log", dtick=1, exponentformat="none")
    caption = "Share of the force components whose error is larger than the value below"
    caption += f", of every {found.forces.stride}th structure." if found.forces.stride > 1 else "."
    return Figure(plot, caption, height=360)


def _by_name(rows: Sequence[dict[str, Any]], part: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of one part of the data by its name, a row per potential."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["part"] == part:
            found.setdefault(row["name"], []).append(row)
    return found


def _worst(parts: dict[str, list[dict[str, Any]]], most: int) -> dict[str, list[dict[str, Any]]]:
    """At most so many of them: those with the largest errors, in the order of the data."""
    if len(parts) <= most:
        return parts
    size = {name: max(_main_error(row) for row in rows) for name, rows in parts.items()}
    kept = set(sorted(size, key=lambda name: -size[name])[:most])
    return {name: rows for name, rows in parts.items() if name in kept}


def _main_error(row: dict[str, Any]) -> float:
    return float(row.get("forces_rmse", row["energy_rmse_shifted"]))


def _part_section(
    title: str, what: str, parts: dict[str, list[dict[str, Any]]], models: Sequence[str], total: int
) -> Section:
    several = len(models) > 1
    every = [row for rows in parts.values() for row in rows]
    # One kind of energy is enough here: that which says something of every potential.
    unwanted = "energy_mae" if any(map(_other_zero, every)) else "energy_mae_shifted"
    quantities = [q for q in QUANTITIES if q[0] != unwanted and any(q[0] in row for row in every)]
    listed = _worst(parts, max(1, MOST_ROWS // len(models)))
    columns = [what, *(["potential"] if several else []), "structures", "atoms", *_headings(quantities)]
    cells: list[list[Value]] = [
        [
            name if k == 0 else "",
            *([row["model"]] if several else []),
            row["structures"],
            row["atoms"],
            *_errors(row, quantities),
        ]
        for name, rows in listed.items()
        for k, row in enumerate(rows)
    ]
    text = ""
    if what == "element":
        text = "Forces are those on the atoms of the element; energy and stress are of the structures that hold it."
    elif total > len(parts):
        text = f"The {len(parts)} of {total} subsets with the largest errors."
    note = "" if len(listed) == len(parts) else f" The {len(listed)} with the largest errors; the CSV lists all."
    blocks: list[Block] = [_dots(parts, models, what), Table(columns, cells, caption=_units(quantities) + note)]
    return Section(title, blocks, text=text)


def _dots(parts: dict[str, list[dict[str, Any]]], models: Sequence[str], what: str) -> Figure:
    """The main error of each part: along the bottom for elements, down the side for the longer names of subsets."""
    forces = all("forces_rmse" in row for rows in parts.values() for row in rows)
    key, name, unit = (
        ("forces_rmse", "force RMSE", "meV/Å")
        if forces
        else ("energy_rmse_shifted", "energy RMSE, shifted", "meV/atom")
    )
    sideways = what != "element"
    names = [_short(part) for part in parts]
    plot = go.Figure()
    values = []
    for k, model in enumerate(models):
        errors = [rows[k][key] for rows in parts.values()]
        values += errors
        plot.add_scatter(
            x=errors if sideways else names,
            y=names if sideways else errors,
            mode="markers",
            name=model,
            marker={"color": SERIES[k % len(SERIES)], "size": 9, "symbol": SYMBOLS[k // len(SERIES) % len(SYMBOLS)]},
            hovertemplate=f"%{{{'y' if sideways else 'x'}}}<br>%{{{'x' if sideways else 'y'}:.4g}} {unit}"
            f"<extra>{model}</extra>",
        )
    plot.update_layout(template=template(), showlegend=len(models) > 1)
    scale: dict[str, Any] = {"title_text": f"{name} ({unit})", "rangemode": "tozero"}
    positive = [value for value in values if value > SMALLEST_SHOWN * max(values)]
    if positive and max(positive) > 20 * min(positive):
        scale |= {"type": "log", **log_ticks(np.array(positive))}
    categories: dict[str, Any] = {"type": "category", "showgrid": True}
    if sideways:
        plot.update_xaxes(**scale)
        plot.update_yaxes(autorange="reversed", **categories)
        height = 110 + 24 * len(names)
    else:
        plot.update_xaxes(title_text="element", tickfont={"size": 11 if len(names) < 40 else 8}, **categories)
        plot.update_yaxes(**scale)
        height = 320
    return Figure(plot, f"{name[0].upper()}{name[1:]} of each {what}.", height=height)


def _parity_sections(found: Evaluation) -> list[Section]:
    sections = []
    for k, model in enumerate(found.models[:MOST_PARITY]):
        figures: list[Block] = [_energy_parity(found, k)]
        label, predicted = found.forces.components(k)
        if label.size:
            figure = parity(label, predicted, quantity="force component", unit="eV/Å")
            if found.forces.stride > 1:
                caption = f"{figure.caption.rstrip('.')} of every {found.forces.stride}th structure."
                figure = replace(figure, caption=caption)
            figures.append(figure)
        title = "Parity" if len(found.models) == 1 else f"Parity of {model}"
        sections.append(Section(title, figures, side_by_side=True))
    if len(found.models) > MOST_PARITY:
        last = sections[-1]
        sections[-1] = replace(last, text=f"Not drawn: {_names(found.models[MOST_PARITY:])}.")
    return sections


def _energy_parity(found: Evaluation, k: int) -> Figure:
    """Energies per atom over the constants that fit the labels; with the model's own zero where it differs."""
    table = found.tables[k]
    errors = table.overall()
    label, predicted = table.relative_energies()
    moved = _other_zero(errors)
    if moved:
        predicted = predicted - table.shift()
    labels = [group or file for group, file in zip(found.groups, found.files, strict=True)]
    figure = parity(
        label * EV_TO_MEV,
        predicted * EV_TO_MEV,
        quantity="energy per atom",
        unit="meV",
        labels=labels if len(set(labels)) > 1 else None,
    )
    note = " Relative to the per-element constants that fit the reference best"
    note += "; the model's own zero, which is another, was taken off." if moved else "."
    return replace(figure, caption=figure.caption + note)


def _other_zero(errors: dict[str, Any]) -> bool:
    return bool(errors["energy_rmse"] > OTHER_ZERO * errors["energy_rmse_shifted"])


def _names(models: Sequence[str]) -> str:
    return models[0] if len(models) == 1 else f"{', '.join(models[:-1])} and {models[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{_number(number)} {noun}" + ("" if number == 1 else "s")


def _number(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _typeset(unit: str) -> str:
    return unit.replace("^3", "³").replace("/A", "/Å")


def _short(name: str) -> str:
    return name if len(name) <= 36 else f"{name[:33]}…"
