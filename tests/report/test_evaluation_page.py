"""The page about errors: what it shows, that it is light, and that a browser draws it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from mindscaip.engines.batched import Prediction
from mindscaip.metrics import ErrorTable
from mindscaip.report import evaluation as page_module
from mindscaip.report.evaluation import evaluation_page
from mindscaip.studies.evaluation import Evaluation
from tests.models import random_structure
from tests.report.browser import chromium


def made_up(models: int = 2, structures: int = 40, groups: int = 3, *, elements=(1, 6, 8), zero: float = 0.0):
    """Predictions that are off by a little, of potentials that get worse; ``zero`` eV per atom off each."""
    rng = np.random.default_rng(0)
    names = [f"model-{k}.pt" for k in range(models)]
    found = Evaluation(names, [ErrorTable() for _ in names], [0.5 + k for k in range(models)])
    start = random_structure(8)
    for k in range(structures):
        structure = replace(
            start, numbers=rng.choice(elements, 8), energy=float(rng.normal()), forces=rng.normal(size=(8, 3))
        )
        structure.group = f"subset {k % groups} <b>&"
        predictions = [
            Prediction(
                structure.energy + rng.normal(scale=0.1 * (m + 1)) + 8 * zero,
                structure.forces + rng.normal(scale=0.1 * (m + 1), size=(8, 3)),
                None,
                None,
                np.zeros(0),
            )
            for m in range(models)
        ]
        for table, prediction in zip(found.tables, predictions, strict=True):
            table.add(structure, prediction)
        found.forces.add(k, structure, predictions)
        found.files.append("data.xyz")
        found.groups.append(structure.group)
    return found


def test_every_number_of_the_tables_is_on_the_page():
    found = made_up()
    text = evaluation_page(found, ["data.xyz"]).html()
    for row in found.rows():
        assert f'data-value="{row["forces_rmse"]!r}"' in text
        assert f'data-value="{row["energy_mae"]!r}"' in text
    assert "subset 1 &lt;b&gt;&amp;" in text
    assert [section.title for section in evaluation_page(found, ["data.xyz"]).sections] == [
        "Errors", "Subsets", "Elements", "Parity of model-0.pt", "Parity of model-1.pt",
    ]  # fmt: skip


def test_one_potential_has_its_numbers_on_top():
    page = evaluation_page(made_up(models=1, groups=1), ["data.xyz"])
    assert [section.title for section in page.sections] == ["Errors", "Elements", "Parity"]
    assert len(page.headline) == 4


def test_another_zero_of_energy_is_taken_off_the_parity_plot():
    near, far = (evaluation_page(made_up(models=1, zero=zero), ["d"]).sections[-1].blocks[0] for zero in (0.0, 500.0))
    assert "model's own zero" not in near.caption
    assert "model's own zero" in far.caption
    assert np.abs(np.asarray(far.plot.data[1].y, dtype=float)).max() < 5000


def test_the_page_stays_light_whatever_the_size_of_the_data(monkeypatch):
    """Figures and tables of many structures, potentials, subsets and elements are under a megabyte."""
    found = made_up(models=6, structures=3100, groups=300, elements=range(1, 90))
    page = evaluation_page(found, ["data.xyz"])
    monkeypatch.setattr("mindscaip.report.page.get_plotlyjs", lambda: "")
    assert len(page.html()) < 1.5e6
    titles = [section.title for section in page.sections]
    assert titles[-1] == f"Parity of model-{page_module.MOST_PARITY - 1}.pt"
    assert "Not drawn: model-4.pt and model-5.pt" in page.sections[-1].text
    subsets = next(section for section in page.sections if section.title == "Subsets")
    assert f"The {page_module.MOST_SUBSETS} of 300 subsets" in subsets.text


def test_energies_alone_make_a_page():
    found = Evaluation(["m.pt"], [ErrorTable()], [1.0])
    for k in range(5):
        structure = random_structure(4, seed=k)
        structure.energy = float(k)
        found.tables[0].add(structure, Prediction(k + 0.1, np.zeros((4, 3)), None, None, np.zeros(0)))
        found.files.append("data.xyz")
        found.groups.append("")
    text = evaluation_page(found, ["data.xyz"]).html()
    assert "force" not in re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL).split("</header>")[1].split(
        "of the element"
    )[0].replace("forces over components", "")


@pytest.fixture(scope="module")
def browser():
    yield from chromium()


@pytest.mark.parametrize(("width", "elements"), [(1200, range(1, 90)), (390, (1, 6, 8))])
def test_a_browser_draws_it_without_overlap(browser, tmp_path, width, elements):
    found = made_up(models=3, structures=150, elements=elements)
    evaluation_page(found, ["data.xyz"]).write(tmp_path / "page.html")
    view = browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.goto(f"file://{tmp_path / 'page.html'}")
    view.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    assert complaints == []
    assert view.locator(".plot .main-svg").count() >= 9
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    # Titles of axes stay inside of their figure, and off the labels of the ticks.
    outside = view.evaluate(
        """() => [...document.querySelectorAll('.plot')].flatMap(plot => {
          const box = plot.getBoundingClientRect();
          return [...plot.querySelectorAll('.xtitle, .ytitle')].filter(title => {
            const t = title.getBoundingClientRect();
            return t.left < box.left - 1 || t.right > box.right + 1 || t.bottom > box.bottom + 1 || t.top < box.top - 1;
          }).map(title => title.textContent);
        })"""
    )
    assert outside == []
    crossing = view.evaluate(
        """() => [...document.querySelectorAll('.plot')].flatMap(plot => {
          const boxes = [...plot.querySelectorAll('.yaxislayer-above text, .ytick text')]
            .map(tick => tick.getBoundingClientRect());
          const out = [];
          for (let i = 1; i < boxes.length; i++) {
            const a = boxes[i - 1], b = boxes[i];
            if (a.top < b.bottom - 1 && b.top < a.bottom - 1) out.push(i);
          }
          return out;
        })"""
    )
    assert crossing == []
    view.close()
