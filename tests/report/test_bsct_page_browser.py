"""The page about bond scans in a browser: what it shows is what was scored, and its controls work."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindscaip.bsct.dataset import open_scans
from mindscaip.bsct.fsd import log_ratio, log_ratio_slope
from mindscaip.bsct.score import read_prediction
from mindscaip.report.bsct_data import collect, find_scans, read_run
from mindscaip.report.bsct_page import write_page
from tests.bsct.makers import FIXTURE
from tests.report.browser import chromium
from tests.report.bsct_makers import PLANTED, WELL_CENTRE, full_size, half, planted, score, zero

KEYS = open_scans(FIXTURE).keys
TIMEOUT = 30_000
"""ms, for a busy machine; nothing here is timed."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs over the scans of the repository, one of which lacks a prediction, and pages of them."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [score(folder / "planted", "planted", planted), score(folder / "half", "half", half)]
    runs.append(score(folder / "zero", "zero", zero, dense=0))
    (folder / "zero" / "predictions" / f"{KEYS[0]}.npz").unlink()
    for name, chosen in (("three", runs), ("one", runs[:1]), ("none", [])):
        read = [read_run(str(run)) for run in chosen]
        write_page(collect(read, find_scans(read, FIXTURE)), folder / f"{name}.html")
    return folder


class Opened:
    """A page in the browser, with everything that went wrong in it."""

    def __init__(self, browser: Any, path: Path, *, size: tuple[int, int] = (1200, 800), fragment: str = "") -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.page = self.context.new_page()
        self.page.set_default_timeout(TIMEOUT)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.page.on(
            "request", lambda request: None if request.url.startswith("file:") else self.faults.append(request.url)
        )
        self.page.goto(path.as_uri() + fragment)
        self.page.wait_for_selector("html[data-ready=yes]")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def key(self) -> str:
        """The open scan, from its heading."""
        return re.sub(
            r"\s+",
            "/",
            self.page.locator("#name").evaluate("n => n.childNodes[0].data + ' ' + n.querySelector('a').textContent"),
        )

    def rows(self) -> list[str]:
        return self.page.locator("#scans tbody tr[data-scan]").evaluate_all("rows => rows.map(r => r.dataset.scan)")

    def fragment(self) -> str:
        return self.page.evaluate("decodeURI(location.hash.slice(1))")

    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture
def opened(browser: Any, folder: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The page of three potentials; no test may leave an error in its console or a request for the network."""
    opened = Opened(browser, folder / "three.html")
    yield opened
    assert opened.faults == []
    opened.context.close()


def summary(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name / "summary.json").read_text())


def test_summary_shows_the_means_of_the_scores(opened: Opened, folder: Path) -> None:
    for p, name in enumerate(("planted", "half", "zero")):
        means = summary(folder, name)["mean"]
        cells = opened.page.locator(f"#summary tr[data-potential='{p}'] td[data-metric]").evaluate_all(
            "cells => cells.map(c => [c.dataset.metric, c.dataset.value, c.innerText])"
        )
        assert {"fsd", "fsd_compress", "fsd_stretch", "fsd_intrinsic", "energy_mae", "force_mae"} <= {
            c[0] for c in cells
        }
        for metric, exact, shown in cells:
            if means[metric] is None:  # no denser path, no intrinsic metric
                assert exact == "NaN"
                assert shown.startswith("–")
            else:
                assert float(exact) == pytest.approx(means[metric], rel=1e-5)


def test_paths_of_different_density_are_said_on_the_page(browser: Any, folder: Path, tmp_path: Path) -> None:
    read = [read_run(str(folder / name)) for name in ("planted", "half")]
    write_page(collect([read[0], replace(read[1], dense=1.0)], find_scans(read, FIXTURE)), tmp_path / "page.html")
    opened = Opened(browser, tmp_path / "page.html")
    assert re.search(r"frame interval differ \(planted \d+, half 1\)", opened.text("#summary-note"))
    assert opened.faults == []
    opened.context.close()


def test_means_over_fewer_scans_are_said_on_the_page(browser: Any, folder: Path, tmp_path: Path) -> None:
    """A geometry between frames that failed costs the intrinsic FSD of one scan, and with it that mean's fairness."""
    read = [read_run(str(folder / name)) for name in ("planted", "half", "zero")]
    lacking = {KEYS[0]: {**read[1].rows[KEYS[0]], "fsd_intrinsic": math.nan}}
    read[1] = replace(read[1], rows={**read[1].rows, **lacking})
    write_page(collect(read, find_scans(read, FIXTURE)), tmp_path / "page.html")
    opened = Opened(browser, tmp_path / "page.html")
    said = f"intrinsic FSD are over fewer scans, since a geometry between frames failed: half {len(KEYS) - 1} of "
    assert f"{said}{len(KEYS)}." in opened.text("#summary-note")
    opened.page.locator("#potentials [data-potential='1']").click()
    assert "fewer scans" not in opened.text("#summary-note")
    assert opened.faults == []
    opened.context.close()


def test_the_step_marked_in_the_picture_is_the_one_in_the_scores(browser: Any, folder: Path) -> None:
    scans = open_scans(FIXTURE)
    for key in (PLANTED, KEYS[0]):
        opened = Opened(browser, folder / "three.html", fragment=f"#{key}")
        scan = scans.load(key)
        marks = opened.page.locator("[data-panel=slope] .mark").evaluate_all(
            "marks => marks.map(m => [+m.dataset.potential, +m.dataset.frame, +m.dataset.slope])"
        )
        names = ("planted", "half", "zero")
        drawn = [n for n in names if read_prediction(folder / n, key) is not None]
        assert [names[p] for p, _, _ in marks] == drawn
        for p, frame, slope in marks:
            row = next(r for r in summary(folder, names[p])["scans"] if f"{r['bond']}/{r['id']}" == key)
            middle = 0.5 * (scan.bond_length[frame] + scan.bond_length[frame + 1])
            assert middle == pytest.approx(row["fsd_bond_length"], abs=1e-9)
            assert abs(slope) == pytest.approx(row["fsd"], rel=1e-4)
            prediction = read_prediction(folder / names[p], key)
            assert prediction is not None
            slopes = log_ratio_slope(log_ratio(prediction.forces, scan.forces, scan.energy), scan.bond_length)
            assert frame == int(np.argmax(np.abs(slopes)))
            for box in opened.page.locator(f"[data-panel=intrinsic] .mark[data-potential='{p}']").all():
                assert float(box.get_attribute("data-length") or 0) == row["fsd_intrinsic_bond_length"]
                assert abs(float(box.get_attribute("data-height") or 0)) == pytest.approx(
                    row["fsd_intrinsic"], rel=1e-5
                )
            # The band of that step goes through every panel.
            bands = opened.page.locator(f".offending[data-potential='{p}'][data-frame='{frame}']").count()
            assert bands == opened.count("[data-panel]")
        assert opened.count("[data-panel=intrinsic] .mark") == 2  # the third has no denser path
        opened.context.close()


def test_the_planted_well_is_marked(opened: Opened, folder: Path) -> None:
    row = opened.page.locator(f"#scans tr[data-scan='{PLANTED}']")
    row.click()
    scan = open_scans(FIXTURE).load(PLANTED)
    frame = int(opened.page.locator("[data-panel=slope] .mark[data-potential='0']").get_attribute("data-frame") or -1)
    assert abs(scan.bond_length[frame] - WELL_CENTRE) < 0.08
    intrinsic = opened.page.locator("[data-panel=intrinsic] .mark[data-potential='0']").get_attribute("data-length")
    assert abs(float(intrinsic or 0) - WELL_CENTRE) < 0.08
    # In pixels: the mark stands at the well on the axis of the picture.
    mark = opened.page.locator("[data-panel=slope] .mark[data-potential='0']").bounding_box()
    ticks = opened.page.locator("#curves .tick[text-anchor=middle]").evaluate_all(
        "ticks => ticks.map(t => [t, t.getBoundingClientRect()]).map(([t, b]) => [+t.textContent, b.x + b.width / 2])"
    )
    (a, at_a), (b, at_b) = ticks[0], ticks[-1]
    assert mark is not None
    place = a + (mark["x"] + mark["width"] / 2 - at_a) / (at_b - at_a) * (b - a)
    assert abs(place - WELL_CENTRE) < 0.08
    # Without the well this potential is nearly the reference: the largest FSD of its scans is that of the well.
    values = {f"{r['bond']}/{r['id']}": r["fsd"] for r in summary(folder, "planted")["scans"]}
    assert max(values, key=values.__getitem__) == PLANTED


def test_a_click_on_a_point_of_the_scatter_opens_its_scan(opened: Opened) -> None:
    for key in (KEYS[3], KEYS[1]):
        dot = opened.page.locator(f"#scatter .dots path[data-scan='{key}'][data-potential='0']").bounding_box()
        assert dot is not None
        opened.page.mouse.move(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
        assert key in opened.text("#tip")
        opened.page.mouse.down()
        opened.page.mouse.up()
        assert opened.key() == opened.fragment() == key
        assert opened.count(f"#scatter .chosen path[data-scan='{key}']") >= 2


def test_all_four_curves_with_reference_and_every_potential(opened: Opened) -> None:
    opened.page.goto(opened.page.url.split("#")[0] + f"#{PLANTED}")
    assert opened.key() == PLANTED
    for panel, potentials, reference in (
        ("energy", 3, 1),
        ("force", 3, 1),
        ("ratio", 3, 0),
        ("slope", 3, 0),
        ("intrinsic", 2, 0),
    ):
        paths = opened.page.locator(f"[data-panel={panel}] .curve").evaluate_all("c => c.map(p => p.getAttribute('d'))")
        assert len(paths) == potentials, panel
        assert all(len(path) > 500 and "NaN" not in path for path in paths)
        assert opened.count(f"[data-panel={panel}] .reference") == reference
    assert opened.count("#molecule .scanned") == 1
    if opened.page.locator("#sketch").is_visible():  # RDKit is there
        assert opened.count("#sketch .scanned") == 1


def test_a_missing_prediction_is_named(opened: Opened) -> None:
    opened.page.locator(f"#scans tr[data-scan='{KEYS[0]}']").click()
    assert "missing" in opened.text("#scores")
    assert opened.count("[data-panel=energy] .curve") == 2
    assert opened.text("#missing summary") == "1 result is missing"
    opened.page.locator("#missing summary").click()
    assert f"zero, {KEYS[0]}" in opened.text("#missing ul")


def test_bond_types_and_search_choose_scans(opened: Opened, folder: Path) -> None:
    page = opened.page
    page.locator("#bonds [data-bond='C-O']").click()
    assert set(opened.rows()) == {key for key in KEYS if key.startswith("C-O")}
    assert opened.text("#count") == f"{len(opened.rows())} of {len(KEYS)} scans"
    rows = [r for r in summary(folder, "half")["scans"] if r["bond"] == "C-O"]
    shown = float(
        page.locator("#summary tr[data-potential='1'] td[data-metric=fsd]").get_attribute("data-value") or "nan"
    )
    assert shown == pytest.approx(np.mean([r["fsd"] for r in rows]), rel=1e-5)
    page.locator("#bonds [data-bond='C-N']").click()
    assert set(opened.rows()) == {key for key in KEYS if key.startswith(("C-O", "C-N"))}
    page.keyboard.press("Escape")
    assert len(opened.rows()) == len(KEYS)
    formulas = {f"{r['bond']}/{r['id']}": r["formula"] for r in summary(folder, "half")["scans"]}
    for query in ("ch5n", "C2H6O-0", "c2h6o", "nothing like it"):
        page.locator("#search").fill(query)
        found = {key for key in KEYS if query.lower() in key.lower() or query.lower() in formulas[key].lower()}
        assert set(opened.rows()) == found, query
    assert "No scan matches" in opened.text("#scans")
    page.locator("#search").fill("CN")  # SMILES
    assert any(formulas[key] == "CH5N" for key in opened.rows())
    page.locator("#search").press("Enter")
    assert opened.key() == opened.rows()[0]
    # The label of a bond type below its boxes does the same as its chip.
    page.locator("#search").press("Escape")
    page.locator("#boxes .pick[data-bond='C-C']").click()
    assert set(opened.rows()) == {key for key in KEYS if key.startswith("C-C")}
    page.locator("#boxes .pick[data-bond='C-C']").click()
    assert len(opened.rows()) == len(KEYS)


def test_the_table_sorts_by_any_column(opened: Opened, folder: Path) -> None:
    values = {f"{r['bond']}/{r['id']}": r["fsd"] for r in summary(folder, "half")["scans"]}
    button = opened.page.locator("#scans [data-column=p1]")
    button.click()
    assert opened.rows() == sorted(values, key=values.__getitem__, reverse=True)
    opened.page.locator("#scans [data-column=p1]").click()
    assert opened.rows() == sorted(values, key=values.__getitem__)
    assert opened.page.locator("#scans th[aria-sort]").get_attribute("aria-sort") == "ascending"
    opened.page.locator("#scans [data-column=formula]").click()
    formulas = opened.page.locator("#scans tbody tr").evaluate_all("rows => rows.map(r => r.cells[2].innerText)")
    assert formulas == sorted(formulas)
    # Scans without a value come last, whichever way.
    opened.page.locator("#y").select_option("fsd_intrinsic")
    opened.page.locator("#scans [data-column=p2]").click()
    assert opened.page.locator("#scans tbody tr").first.locator("td").last.inner_text() == "–"
    opened.page.locator("#summary [data-column=fsd]").click()
    order = opened.page.locator("#summary tbody tr").evaluate_all(
        "rows => rows.map(r => +r.querySelector('[data-metric=fsd]').dataset.value)"
    )
    assert order == sorted(order)


def test_keys_go_through_the_table_and_hide_potentials(opened: Opened) -> None:
    page, rows = opened.page, opened.rows()
    assert opened.key() == rows[0]  # the worst scan of the first potential is open
    assert opened.fragment() == ""
    for key, expected in (("ArrowRight", 1), ("j", 2), ("ArrowLeft", 1), ("k", 0), ("k", len(rows) - 1), ("j", 0)):
        page.keyboard.press(key)
        assert opened.key() == opened.fragment() == rows[expected]
        assert page.locator("#scans tr[aria-selected=true]").get_attribute("data-scan") == rows[expected]
    page.locator("#next").click()
    assert opened.key() == rows[1]
    assert opened.text("#place") == f"2 of {len(rows)}"
    page.keyboard.press("2")
    assert opened.count("[data-panel=energy] .curve[data-potential='1']") == 0
    assert opened.count("#scatter .dots path[data-potential='1']") == 0
    page.keyboard.press("2")
    assert opened.count("[data-panel=energy] .curve[data-potential='1']") == 1
    page.locator("#potentials [data-potential='0']").click()
    assert opened.count("#scatter .dots path[data-potential='0']") == 0
    page.keyboard.press("/")
    page.keyboard.type("jk2")  # typed, not obeyed
    assert page.locator("#search").input_value() == "jk2"


def test_a_link_opens_its_scan(browser: Any, folder: Path) -> None:
    opened = Opened(browser, folder / "three.html", fragment=f"#{KEYS[2]}")
    assert opened.key() == KEYS[2]
    opened.page.evaluate(f"location.hash = '#{KEYS[4]}'")
    opened.page.wait_for_function(f"document.getElementById('name').innerText.includes('{KEYS[4].split('/')[1]}')")
    opened.page.evaluate("location.hash = '#C-C/no-such-scan'")
    assert opened.key() == KEYS[4]
    opened.context.close()


def test_zoom_frame_and_theme(opened: Opened) -> None:
    page = opened.page
    page.goto(page.url.split("#")[0] + f"#{PLANTED}")
    whole = page.locator("#curves .tick[text-anchor=middle]").evaluate_all("t => t.map(x => x.textContent)")
    page.keyboard.press("z")
    near = page.locator("#curves .tick[text-anchor=middle]").evaluate_all("t => t.map(x => +x.textContent)")
    assert min(near) > 1.6
    assert max(near) < 2.8
    assert abs(float(opened.text("#length").split()[2]) - WELL_CENTRE) < 0.08
    page.keyboard.press("z")
    assert whole == page.locator("#curves .tick[text-anchor=middle]").evaluate_all("t => t.map(x => x.textContent)")
    box = page.locator("#curves svg").bounding_box()
    assert box is not None
    y = box["y"] + 40
    page.mouse.move(box["x"] + 300, y)
    before = opened.text("#length")
    page.mouse.down()
    page.mouse.move(box["x"] + 400, y, steps=3)
    page.mouse.up()
    assert page.locator("#reset").is_visible()
    assert opened.text("#length") != before
    page.locator("#reset").click()
    assert not page.locator("#reset").is_visible()
    atoms = page.locator("#molecule svg").inner_html()
    page.locator("#frame").fill("0")
    assert "frame 0" in opened.text("#length")
    assert page.locator("#molecule svg").inner_html() != atoms
    page.locator("#frame").blur()
    page.keyboard.press(".")
    assert "frame 1" in opened.text("#length")
    seen = set()
    for _ in range(3):
        page.keyboard.press("t")
        seen.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(seen) == 2
    page.keyboard.press("?")
    assert page.locator("#guide").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#guide").is_visible()


def test_axes_can_be_chosen(opened: Opened) -> None:
    page = opened.page
    before = page.locator("#scatter .dots path").first.get_attribute("transform")
    page.locator("#x").select_option("force_mae")
    assert "F MAE (eV/Å)" in opened.text("#scatter")
    assert page.locator("#scatter .dots path").first.get_attribute("transform") != before
    page.locator("#xlog").uncheck()
    page.locator("#ylog").uncheck()
    page.locator("#y").select_option("tortuosity")
    assert "tortuosity" in opened.text("#scatter")
    assert opened.page.locator("h2 .metric").first.inner_text() == "tortuosity"
    # Intrinsic values are absent for the potential without a denser path: said, not drawn at zero.
    page.locator("#y").select_option("fsd_intrinsic")
    assert f"{len(KEYS)} without a value" in opened.text("#scatter-note")
    assert opened.count("#scatter .dots path[data-potential='2']") == 0


@pytest.mark.parametrize(("name", "potentials"), [("none", 0), ("one", 1)])
def test_pages_of_no_and_one_potential(browser: Any, folder: Path, name: str, potentials: int) -> None:
    opened = Opened(browser, folder / f"{name}.html")
    assert opened.count("#potentials button") == potentials
    assert opened.page.locator("#scatter").is_visible() == (potentials > 0)
    assert len(opened.rows()) == len(KEYS)
    assert opened.count("[data-panel=energy] .reference") == 1
    assert opened.count("[data-panel]") == (2 if potentials == 0 else 5)
    opened.page.keyboard.press("ArrowRight")
    assert opened.key() == opened.rows()[1]
    if potentials:
        opened.page.keyboard.press("1")
        assert "hidden" in opened.text("#scatter")
        assert opened.count("[data-panel]") == 2
    assert opened.overflow() == 0
    assert opened.faults == []
    opened.context.close()


def test_on_a_phone_a_scan_opens_over_the_page(browser: Any, folder: Path) -> None:
    opened = Opened(browser, folder / "three.html", size=(390, 844))
    page = opened.page
    assert opened.overflow() == 0
    assert not page.locator("#detail").is_visible()
    dot = page.locator("#scatter .dots path").first.bounding_box()
    assert dot is not None
    page.mouse.click(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
    assert page.locator("#detail").is_visible()
    assert opened.fragment() in KEYS
    curves = page.locator("#curves svg").bounding_box()
    assert curves is not None
    assert curves["width"] > 300
    assert opened.overflow() == 0
    page.locator("#close").click()
    assert not page.locator("#detail").is_visible()
    assert opened.fragment() == ""
    assert opened.faults == []
    opened.context.close()


def test_a_page_of_full_size(browser: Any, tmp_path: Path) -> None:
    data = full_size()
    write_page(data, tmp_path / "page.html")
    assert len(data.scans) == 485
    assert (tmp_path / "page.html").stat().st_size < 6_000_000
    opened = Opened(browser, tmp_path / "page.html")
    assert len(opened.rows()) == 485
    assert opened.count("#scatter .dots path") == 3 * 485
    assert opened.count("#boxes .box") == 3 * 9
    opened.page.keyboard.press("ArrowRight")
    assert opened.key() == opened.rows()[1]
    opened.page.locator("#search").fill("N-O")
    assert opened.text("#count") == "15 of 485 scans"
    assert opened.overflow() == 0
    assert opened.faults == []
    opened.context.close()
