"""The page is whole, needs no network, and its tables hold the numbers that it was given."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mindscaip.errors import MindscaipError
from mindscaip.report.figures import bond_scan, learning_curves, nve_energies, parity
from mindscaip.report.page import (
    Command,
    Commands,
    Facts,
    Number,
    NumberTable,
    Page,
    Section,
    Table,
    format_number,
    format_seconds,
)
from mindscaip.studies.read import read_record
from mindscaip.studies.write import write_record
from tests.models import random_structure
from tests.report.makers import NUMBERS, curves, morse_scan, nve_record

LOADING = {"src", "href", "srcset", "data", "poster", "action", "background"}
VALUES = {"small": 3.25e-9, "count": 374465, "plain": 12.3456789, "negative": -0.0421, "zero": 0.0, "missing": None}


class Reader(HTMLParser):
    """What the tests want to know of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.exact: list[str] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.json: list[str] = []
        self._tags: list[str] = []
        self._is_json = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.links += [value or "" for name, value in attributes if name in LOADING]
        self.ids += [value or "" for name, value in attributes if name == "id"]
        self.exact += [value or "" for name, value in attributes if name == "data-value"]
        self._is_json = tag == "script" and named.get("type") == "application/json"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "link", "br"):
            self._tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._tags and self._tags.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._is_json and self._tags[-1:] == ["script"]:
            self.json.append(data)
        elif self._tags[-1:] == ["h2"]:
            self.headings.append(data)
        elif {"td", "th"} & set(self._tags):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def page() -> Page:
    scan, energy, forces = morse_scan()
    rng = np.random.default_rng(0)
    many = rng.normal(size=5000)
    return Page(
        title="A page with <brackets> & an ampersand",
        lead="What it is about.",
        headline=[Number("headline number", 1.5, "meV/Å")],
        sections=[
            Section(
                "What was run", [Facts({"Model": {"elements": "C H <O>"}}), Commands([Command("Step", "do x", 62)])]
            ),
            Section("Learning curves", learning_curves(curves()), side_by_side=True),
            Section("Parity", [parity(many, many + 0.1, quantity="force component", unit="eV/Å")]),
            Section("Energy conservation", nve_energies([nve_record("A"), nve_record("B", shift=1e-9)])),
            Section("Bond scan", [bond_scan(scan, energy, forces, reference="Morse </script>")], text="One\n\ntwo."),
            Section(
                "Numbers",
                [
                    NumberTable({"Group": [Number(name, value, "eV") for name, value in VALUES.items()]}),
                    Table(("molecule", "FSD (Å⁻¹)"), [("CO", 12.5), ("CCO", float("nan"))], caption="Scores."),
                ],
            ),
        ],
        footer="The end.",
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(page: Page) -> str:
    return page.html()


@pytest.fixture(scope="module")
def reader(text: str) -> Reader:
    return Reader(text)


def test_every_section_is_there_and_linked(page: Page, reader: Reader) -> None:
    assert reader.headings == [section.title for section in page.sections]
    anchors = [link[1:] for link in reader.links if link.startswith("#")]
    assert anchors == [section.anchor for section in page.sections]
    assert set(anchors) <= set(reader.ids)
    assert len(set(reader.ids)) == len(reader.ids)


def test_nothing_is_loaded_from_anywhere(text: str, reader: Reader) -> None:
    assert reader.links
    assert all(link.startswith("#") for link in reader.links)
    assert "default-src 'none'" in text.split("<style>")[0]
    assert "@import" not in text.split("</style>")[0]
    assert "url(" not in text.split("</style>")[0]


def test_plotly_is_there_once_and_the_file_stays_small(text: str) -> None:
    assert text.count("define.amd") <= 2
    assert len(text.encode()) < 8_000_000


def test_each_figure_has_its_data_and_a_fixed_height(reader: Reader) -> None:
    plots = [json.loads(data) for data in reader.json]
    assert len(plots) == 2 + 1 + 2 + 1
    for number, plot in enumerate(plots, start=1):
        assert f"figure-{number}" in reader.ids
        assert plot["data"]
        assert plot["layout"]["height"] >= 300
        titles = [axis["title"]["text"] for name, axis in plot["layout"].items() if "axis" in name and "title" in axis]
        assert len(titles) >= 2
    assert any(trace.get("name") == "Morse </script>" for trace in plots[-1]["data"])


def test_tables_hold_the_numbers_as_given(reader: Reader) -> None:
    exact = [float(value) for value in reader.exact]
    assert exact[: len(VALUES) - 1] == [value for value in VALUES.values() if value is not None]
    rows = {row[0]: row[1:] for row in reader.rows if row}
    assert rows["count"][0].replace("\u202f", "") == "374465"
    assert rows["plain"][:2] == ["12.3", "eV"]
    assert rows["missing"][0] == "–"
    assert rows["CO"] == ["12.5"]
    assert rows["CCO"] == ["–"]


def test_text_is_escaped(text: str) -> None:
    assert "&lt;brackets&gt; &amp; an ampersand</h1>" in text
    assert "C H &lt;O&gt;" in text


def test_a_page_without_figures_carries_no_plotly() -> None:
    assert len(Page("Small", [Section("Only text", [], text="Nothing to see.")]).html()) < 20_000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (5, "5"), (1234567, "1&#8239;234&#8239;567"), (0.12345, "0.123"), (9.876, "9.88"),
        (-45.678, "−45.7"), (1023.4, "1023"), (3.2e-9, "3.20 × 10<sup>−9</sup>"),
        (-1.11e7, "−1.11 × 10<sup>7</sup>"), (float("inf"), "∞"),
        (float("nan"), "–"), (None, "–"), ("a<b", "a&lt;b"),
    ],
)  # fmt: skip
def test_numbers_are_readable(value: float | int | str | None, shown: str) -> None:
    assert format_number(value) == shown


def test_times_are_readable() -> None:
    assert [format_seconds(s) for s in (0.04, 9.94, 9.96, 59.4, 59.6, 302.0)] == [
        "0.0 s", "9.9 s", "10 s", "59 s", "1 min 00 s", "5 min 02 s",
    ]  # fmt: skip


def test_write_replaces_the_file_as_a_whole(page: Page, tmp_path: Path, text: str) -> None:
    path = tmp_path / "sub" / "report.html"
    page.write(path)
    page.write(path)
    assert path.read_text(encoding="utf-8") == text
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    record = nve_record("Engine 1.0 (CPU)", shift=1e-9)
    structure = random_structure(len(NUMBERS))
    write_record(tmp_path, structure, record)
    again = read_record(tmp_path)
    assert again.engine == record.engine
    for name in ("step", "time_fs", "potential_eV", "kinetic_eV", "total_eV", "positions", "velocities", "temperature"):
        assert np.array_equal(getattr(again, name), getattr(record, name)), name
    (tmp_path / "record.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(MindscaipError, match="no whole NVE run"):
        read_record(tmp_path)


def test_a_browser_draws_every_figure(page: Page, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on the path; the page is checked without drawing it")
    path = tmp_path / "report.html"
    page.write(path)
    arguments = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1280,2000", "--virtual-time-budget=20000", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run(
        [browser, *arguments, path.as_uri()], capture_output=True, text=True, timeout=120, check=True, errors="replace"
    )
    assert 'data-ready="yes"' in done.stdout
    assert done.stdout.count('class="main-svg"') >= 6
    assert "Refused to" not in done.stderr
    assert "Content Security Policy" not in done.stderr
