"""Energy and four derivatives along paths: no jump where smoothness is claimed, a jump in every negative control."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from tests.models import ELEMENTS, small_model, write_small_model
from tests.physics import paths
from tests.physics.cases import CONTROLS, smooth
from tests.physics.checks import continuity
from tests.physics.potentials import ModelPotential, eager, exported

RANKINGS = ("source", "mutual")
ORDINARY = ("separating_fragments", "grazing", "leaving_a_surface")


@pytest.mark.slow
@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("path", ["dense", "sparse"])
def test_no_jump_while_hundreds_of_neighbours_enter_and_leave(ranking, path):
    potential = smooth(ranking)
    way = getattr(paths, path)(potential)
    events = paths.count_events(way, potential)
    assert events.list_entries + events.list_exits > 100, events
    assert events.window_entries + events.window_exits > 70, events
    assert min(events.list_entries, events.list_exits, events.window_entries, events.window_exits) > 25, events
    if path == "dense":
        assert events.widest_window > potential.k
    found = continuity(potential, way)
    assert found.smooth, found


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("path", ORDINARY)
def test_no_jump_where_few_neighbours_are_left(ranking, path):
    potential = smooth(ranking)
    way = getattr(paths, path)(potential)
    found = continuity(potential, way)
    assert found.smooth, found
    assert found.derivatives[0].size > 1e-3  # something happens along the path


WIDER = {"fcc": (8, 12), "bcc": (6, 8), "diamond": (3, 4)}
"""``k`` and the shell of tied neighbours that is wider; half of its size is its rank, so all of it carries weight."""


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("lattice", WIDER)
def test_no_jump_through_perfect_crystals(lattice, ranking):
    k, shell = WIDER[lattice]
    potential = smooth(ranking, k=k)
    ways = [way for way in paths.crystals(potential) if way.name.startswith(lattice)]
    assert ways
    for way in ways:
        found = continuity(potential, way)
        assert found.smooth, f"{way.name}: {found}"
        assert found.derivatives[0].size > 1e-3, way.name
        assert paths.count_events(way, potential, 3).widest_window == shell > potential.k


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, ModelPotential]:
    folder: FilePath = tmp_path_factory.mktemp("models")
    return {ranking: exported(write_small_model(folder / f"{ranking}.pt", ranking=ranking)) for ranking in RANKINGS}


@pytest.mark.slow
@pytest.mark.parametrize("ranking", RANKINGS)
def test_exported_files_are_as_smooth(ranking, files):
    for way in paths.all_paths(files[ranking], quick=True):
        found = continuity(files[ranking], way)
        assert found.smooth, f"{way.name}: {found}"


@pytest.mark.parametrize("settings", [{"gamma": 1.0, "temperature": 10.0}, {"gamma": 5.0, "temperature": 1.0}], ids=str)
def test_no_jump_at_either_end_of_smearing_and_temperature(settings):
    potential = eager(small_model(**settings), ELEMENTS, str(settings))
    for way in (paths.dense(potential, 0.1), paths.crystals(potential)[0]):
        found = continuity(potential, way)
        assert found.smooth, f"{way.name}: {found}"


CATCHES = {
    "hard kNN": ("dense", "separating_fragments"),
    "list too short": ("separating_fragments", "leaving_a_surface"),
    "fixed width": ("dense", "leaving_a_surface"),
    "sigmoid, finite list": ("dense", "separating_fragments"),
}
"""Two paths on which each control is found out."""


@pytest.mark.parametrize("control", CONTROLS)
def test_negative_controls_are_found_out(control):
    """The energy itself jumps, by far more than the tolerance; smooth models pass the same paths."""
    potential = CONTROLS[control]()
    for name in CATCHES[control]:
        way = paths.dense(potential, 0.1) if name == "dense" else getattr(paths, name)(potential)
        energy = continuity(potential, way, derivatives=0, levels=5).derivatives[0]
        assert energy.breaks > 0, f"{name}: {energy}"
        assert energy.jump > 100 * energy.tolerance, f"{name}: {energy}"


def test_hard_ranks_and_fixed_widths_fail_where_distances_are_tied():
    for control in ("hard kNN", "fixed width"):
        potential = CONTROLS[control]()
        energy = continuity(potential, paths.crystals(potential)[0], derivatives=0, levels=5).derivatives[0]
        assert energy.breaks == 1, energy
        assert abs(energy.place) < 0.01
