"""A page: sections of figures, tables and text in one HTML file that needs nothing from a network.

plotly.js is inlined once, and the page's own content security policy forbids every load, so that what it shows is what
the file holds.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mindscaip.files import atomic_path
from mindscaip.report.style import CSS

Value = float | int | str | None
"""What a table cell holds; numbers are formatted and right-aligned, None and NaN are shown as a dash."""

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_SCRIPT = """
const touch = matchMedia('(pointer: coarse)').matches;
for (const node of document.querySelectorAll('.plot')) {
  const plot = JSON.parse(document.getElementById(node.id + '-data').textContent);
  if (touch) plot.layout.dragmode = false;  // there, a finger on a figure scrolls the page
  Plotly.newPlot(node, plot.data, plot.layout, {
    responsive: true, displayModeBar: false});
}
document.documentElement.dataset.ready = 'yes';
"""


@dataclass(frozen=True)
class Number:
    """One result: ``value`` in ``unit``, and a ``note`` that says what it is over or compared with."""

    name: str
    value: Value
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot with its caption; the width follows the page, the height (px) is fixed."""

    plot: go.Figure
    caption: str
    height: int = 380


@dataclass(frozen=True)
class Table:
    """Rows of cells under column headings (units belong into the headings)."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    caption: str = ""


@dataclass(frozen=True)
class NumberTable:
    """Results in groups: quantity, value, unit, note."""

    groups: Mapping[str, Sequence[Number]]


@dataclass(frozen=True)
class Facts:
    """Groups of names and texts, such as a model's contract."""

    groups: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Command:
    """A step: what it was for, the command or call that made it, and the wall time in seconds."""

    title: str
    command: str
    seconds: float | None = None


@dataclass(frozen=True)
class Commands:
    """The steps that led to the page, in order."""

    steps: Sequence[Command]


Block = Figure | Table | NumberTable | Facts | Commands


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; figures stand side by side where there is room and ``side_by_side``."""

    title: str
    blocks: Sequence[Block]
    text: str = ""
    side_by_side: bool = False

    @property
    def anchor(self) -> str:
        """The id of the section in the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        lead: one or two sentences below the title.
        headline: the few numbers to see first.
        footer: one line at the end.
    """

    title: str
    sections: Sequence[Section]
    lead: str = ""
    headline: Sequence[Number] = field(default_factory=tuple)
    footer: str = ""

    def html(self) -> str:
        """The page as HTML."""
        figures = _Figures()
        sections = "\n".join(_section(section, figures) for section in self.sections)
        links = "".join(f'<a href="#{s.anchor}">{_text(s.title)}</a>' for s in self.sections)
        script = f"<script>{get_plotlyjs()}</script>\n<script>{_SCRIPT}</script>" if figures.count else ""
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{_text(self.title)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{_text(self.title)}</h1>
{f'<p class="lead">{_text(self.lead)}</p>' if self.lead else ""}
<nav>{links}</nav>
</header>
<main>
{_headline(self.headline)}
{sections}
</main>
{f"<footer>{_text(self.footer)}</footer>" if self.footer else ""}
{script}
</body>
</html>
"""

    def write(self, path: str | os.PathLike) -> None:
        """Write the page, whole or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")


def format_number(value: Value) -> str:
    """A value as HTML: integers in full, floats to three digits, powers of ten where these say more."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace(",", "&#8239;")
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    size = abs(float(value))
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa} × 10<sup>{int(exponent)}</sup>".replace("-", "−")
    return f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}".replace("-", "−")


class _Figures:
    """Gives each figure of a page its id."""

    def __init__(self) -> None:
        self.count = 0

    def next_id(self) -> str:
        self.count += 1
        return f"figure-{self.count}"


def _section(section: Section, figures: _Figures) -> str:
    blocks = "\n".join(_block(block, figures) for block in section.blocks)
    if section.side_by_side:
        blocks = f'<div class="columns">\n{blocks}\n</div>'
    text = "".join(f"<p>{_text(part)}</p>" for part in section.text.split("\n\n") if part)
    return f'<section id="{section.anchor}">\n<h2>{_text(section.title)}</h2>\n{text}\n{blocks}\n</section>'


def _block(block: Block, figures: _Figures) -> str:
    if isinstance(block, Figure):
        return _figure(block, figures.next_id())
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, NumberTable):
        return _number_table(block)
    if isinstance(block, Facts):
        return _facts(block)
    return _commands(block)


def _figure(figure: Figure, name: str) -> str:
    plot = go.Figure(figure.plot)
    plot.update_layout(height=figure.height, autosize=True)
    # Inside a script element only "</" could end the data; JSON allows the backslash.
    data = (plot.to_json() or "").replace("</", "<\\/")
    return (
        f'<figure>\n<div class="plot" id="{name}" style="height:{figure.height}px" role="img" '
        f'aria-label="{_text(figure.caption)}"></div>\n'
        f'<script type="application/json" id="{name}-data">{data}</script>\n'
        f"<figcaption>{_text(figure.caption)}</figcaption>\n</figure>"
    )


def _table(table: Table) -> str:
    numeric = [
        any(isinstance(row[k], int | float) for row in table.rows)
        and not any(isinstance(row[k], str) for row in table.rows)
        for k in range(len(table.columns))
    ]
    head = "".join(
        f"<th{_class('number' if number else '')}>{_text(name)}</th>"
        for name, number in zip(table.columns, numeric, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(_cell(value, number) for value, number in zip(row, numeric, strict=True)) + "</tr>"
        for row in table.rows
    )
    caption = f"<figcaption>{_text(table.caption)}</figcaption>" if table.caption else ""
    return (
        f'<figure><div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
        f"{caption}</figure>"
    )


def _number_table(table: NumberTable) -> str:
    rows = []
    for group, numbers in table.groups.items():
        rows.append(f'<tr class="group"><th colspan="4">{_text(group)}</th></tr>')
        rows += [
            f'<tr><td>{_text(n.name)}</td>{_cell(n.value, True)}<td class="unit">{_text(n.unit)}</td>'
            f'<td class="note">{_text(n.note)}</td></tr>'
            for n in numbers
        ]
    return '<div class="scroll"><table class="numbers">\n<tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>"


def _cell(value: Value, number: bool) -> str:
    exact = "" if value is None or isinstance(value, str) else f' data-value="{value!r}"'
    return f"<td{_class('number' if number else '')}{exact}>{format_number(value)}</td>"


def _facts(facts: Facts) -> str:
    groups = []
    for title, pairs in facts.groups.items():
        items = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in pairs.items())
        groups.append(f"<div><h3>{_text(title)}</h3><dl>{items}</dl></div>")
    return f'<div class="facts">{"".join(groups)}</div>'


def _commands(commands: Commands) -> str:
    items = []
    for step in commands.steps:
        time = "" if step.seconds is None else f'<span class="time">{_text(format_seconds(step.seconds))}</span>'
        items.append(f"<li>{time}{_text(step.title)}<code>{_text(step.command)}</code></li>")
    return f'<ol class="commands">{"".join(items)}</ol>'


def _headline(numbers: Sequence[Number]) -> str:
    if not numbers:
        return ""
    cards = "".join(
        f'<div class="card"><div class="value"><span>{format_number(n.value)}</span> '
        f'<span class="unit">{_text(n.unit)}</span></div><div class="name">{_text(n.name)}</div></div>'
        for n in numbers
    )
    return f'<div class="headline">{cards}</div>'


def format_seconds(seconds: float) -> str:
    """A wall time for people: ``3.2 s``, ``48 s``, ``5 min 02 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _text(text: str) -> str:
    return html.escape(text, quote=True)
