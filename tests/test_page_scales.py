"""What is kept of identity beside the sliders, strengths that suit, and a budget for all cells."""

from __future__ import annotations

import base64
import io
import json
import re
from html import unescape

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from demo import scales
from demo.blending import figures_of
from demo.looks import edited
from demo.panels import downloads, grid, items, sources, targets
from demo.rendering import CELL_SIDE
from demo.scale import FINE, MEASURED, STRONGEST, WEAKEST, Scale, kept_range
from demo.session import Session

from . import fakes, pictures
from .test_demo import content, give_essences, run


@pytest.fixture(scope="module")
def studio():
    """Without the face network, which sees no faces in what tiny models make."""
    studio = fakes.studio()

    def distances(before: np.ndarray, after: np.ndarray) -> list[float]:
        return (np.abs(after.astype(float) - before).mean((1, 2, 3)) / 40).tolist()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio, "identity_distances", distances)
        yield studio


@pytest.fixture
def session(studio, monkeypatch):
    """Two random faces, two targets with large essences, the grid drawn."""
    for kind in ("Warning", "Info"):
        monkeypatch.setattr(gr, kind, lambda *_, **__: None)
    session = Session()
    for _ in range(2):
        sources.add_random_face(studio, session)
    run(targets.add_targets(studio, session, pictures.SOURCES[3:5], True))
    give_essences(studio, session)
    return session


@pytest.fixture
def photographed(studio, session):
    """The first of the sources is a photograph."""
    items.remove(studio, session, next(iter(session.items.sources)))
    run(sources.add_sources(studio, session, pictures.SOURCES[:1], True, 0))
    items.move(studio, session, list(session.items.sources)[-1], -1)
    return session


def scale(distances) -> Scale:
    return Scale(None, (), distances)


def measure_all(studio, session) -> list[dict]:
    """What the page gets, as it asks for what it lacks."""
    answers = []
    while (answer := grid.update_grid(studio, session, {"scales": True}))["scales"]:
        answers.append(answer)
    return answers


# ---- a scale


def test_people_are_recognised_up_to_where_the_distance_crosses_the_budget():
    straight = scale([abs(s) * 0.5 for s in MEASURED])
    for budget in (0.1, 0.3, 0.6, 0.7):
        low, high = straight.range(budget)
        assert low == pytest.approx(-min(budget / 0.5, 1.5), abs=0.051)
        assert high == pytest.approx(min(budget / 0.5, 2.0), abs=0.051)
        kept = (low <= FINE) & (high >= FINE)
        assert (straight.distance()[kept] <= budget + 1e-9).all()
    assert scale([0] * len(MEASURED)).range(0.3) == (WEAKEST, STRONGEST)


def test_what_comes_back_beyond_a_stranger_does_not_count():
    there_and_back = np.where(np.abs(FINE - 1) < 0.18, 0.9, 0.1) * (FINE != 0)
    assert kept_range(there_and_back, 0.6) == (WEAKEST, pytest.approx(0.8))


# ---- measuring


def test_cells_are_measured_one_by_one_and_no_more_than_once(studio, session):
    html = grid.grid_html(session)
    assert html.count("data-unmeasured") == 2 and "Identity kept:" not in html
    answers = measure_all(studio, session)
    assert len(answers) == 4 and all(answer["cells"] == [] for answer in answers)
    html = grid.grid_html(session)
    assert "data-unmeasured" not in html and html.count("Identity kept:") == 2
    assert answers[1]["scales"].popitem()[1] in html
    for target in session.items.targets.values():
        for item in session.items.ready():
            found = session.scale(target, item)
            assert found.distances[MEASURED.index(0.0)] == 0
            picture = edited(studio, session, [target], [item], [1.5], CELL_SIDE)[0]
            ((identity, _),) = figures_of(studio, session, target, [item], picture)
            at = MEASURED.index(1.5)
            assert found.distances[at] == pytest.approx(identity, abs=1e-3)


def test_what_a_scale_was_made_of_makes_it_anew_and_strengths_do_not(studio, photographed):
    session = photographed
    measure_all(studio, session)
    target = next(iter(session.items.targets.values()))
    grid.update_grid(studio, session, {"strengths": {target.id: 0.4}})
    assert not list(scales.lacking(session))
    grid.switch_band(studio, session, target.id, "fine")
    assert {row.id for row, _ in scales.lacking(session)} == {target.id}
    grid.switch_look(studio, session, "model")
    assert len(list(scales.lacking(session))) == 3  # the random face has one look alone
    items.clear(studio, session, "sources")
    assert not session.view.scales


def test_of_many_sources_the_first_ones_are_measured_until_all_are_held(studio, session):
    for _ in range(scales.SEEN):
        sources.add_random_face(studio, session)
    assert len(list(scales.lacking(session))) == 2 * scales.SEEN
    grid.choose_budget(studio, session, "0.3")
    assert len(list(scales.lacking(session))) == 2 * (scales.SEEN + 2)


@pytest.mark.parametrize("why", ["lent", "mixing", "no faces"])
def test_where_there_is_no_scale_nothing_asks_for_one(studio, session, why, monkeypatch):
    if why == "lent":
        session.run.lent = True
    elif why == "mixing":
        grid.switch_mixing(studio, session, True)
    else:
        monkeypatch.setattr(type(studio), "has_faces", False)
    html = grid.show_grid(studio, session)
    assert not re.search("data-scale|data-budget|suiting", html)
    assert grid.update_grid(studio, session, {"scales": True})["scales"] == {}


def test_by_gradios_queue_scales_have_the_part_of_the_strips(studio, session):
    cells, apart = grid.queued_update(studio, session, {"scales": True, "strengths": {}})
    data = json.loads(unescape(re.search(r'data-answer="([^"]+)"', apart)[1]))
    assert cells == gr.skip() and len(data["scales"]) == 1


# ---- strengths that suit


def test_auto_follows_the_measurement_and_the_hand_has_the_last_word(studio, session):
    one, two = session.items.targets.values()
    grid.switch_suiting(studio, session)
    assert (one.strength, two.strength) == (1, 1)  # nothing is known yet
    answers = measure_all(studio, session)
    for target in (one, two):
        found = [
            studio.auto_strength(item.source, target.essence, target.embedded)
            for item in session.items.ready()
        ]
        assert target.strength == pytest.approx(np.median(found), abs=0.026)
    suited = {id: values for answer in answers for id, values in answer["suited"].items()}
    assert suited == {t.id: [t.strength, 1] for t in (one, two) if t.suited}
    drawn = {(c["target"], c["source"]) for answer in answers for c in answer["cells"]}
    assert drawn == {(id, source) for id in suited for source in session.items.sources}
    grid.update_grid(studio, session, {"strengths": {one.id: -0.4}})
    grid.switch_band(studio, session, one.id, "fine")
    measure_all(studio, session)
    assert one.strength == -0.4 and one.by_hand and not two.by_hand
    grid.switch_suiting(studio, session)
    html = grid.switch_suiting(studio, session)
    assert html.count("data-unmeasured") == 1  # its strength was not searched for
    measure_all(studio, session)
    assert one.strength != -0.4 and not one.by_hand


def test_auto_off_leaves_strengths_alone(studio, session):
    measure_all(studio, session)
    assert {target.strength for target in session.items.targets.values()} == {1.0}


# ---- a budget


def cell_pixels(session, target, item) -> np.ndarray:
    url = session.view.cells[target.id, item.id].url
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image, float)


@pytest.mark.parametrize("look", ["photograph", "model"])
def test_every_cell_is_held_to_the_budget_by_its_own_scale(studio, photographed, look):
    session = photographed
    grid.switch_look(studio, session, look)
    target, other = session.items.targets.values()
    free = {item.id: cell_pixels(session, target, item) for item in session.items.ready()}
    grid.choose_budget(studio, session, "0.3")
    measure_all(studio, session)
    # As if one source bore everything, and the other little.
    first, second = session.items.ready()
    for item, most in ((first, 0.01), (second, 0.6)):
        known = session.scale(target, item)
        distances = [most * abs(s) for s in MEASURED]
        made = Scale(known.source, known.made_of, distances)
        session.view.scales[target.id, item.id] = made
    assert (session.held(target, first, 1), session.held(target, second, 1)) == (1, 0.5)
    assert session.held(target, second, -1.5) == -0.5 and session.held(target, second, 0.2) == 0.2
    grid.show_grid(studio, session)
    wanted = edited(studio, session, [target], [second], [0.5], CELL_SIDE, hold=False)[0][0]
    assert np.abs(cell_pixels(session, target, second) - np.asarray(wanted, float)).mean() < 3
    assert np.abs(cell_pixels(session, target, first) - free[first.id]).mean() < 1
    grid.choose_budget(studio, session, "None")
    for item in session.items.ready():
        assert np.abs(cell_pixels(session, target, item) - free[item.id]).mean() < 1


def test_only_the_budgets_that_are_offered_are_taken(studio, session):
    for junk in ("0.45", "nan", "-1", "<b>", ""):
        grid.choose_budget(studio, session, junk)
    assert session.view.budget == 0.45


def test_a_held_picture_says_the_strength_that_it_has(studio, session):
    grid.choose_budget(studio, session, "0.3")
    measure_all(studio, session)
    target, item = next(iter(session.items.targets.values())), session.items.ready()[0]
    known = session.scale(target, item)
    session.view.scales[target.id, item.id] = Scale(
        known.source, known.made_of, [0.6 * abs(s) for s in MEASURED]
    )
    packet = downloads.packet(session, [target], [item]).decode()
    assert "0.5" in packet
    assert content(downloads.download_cells(studio, session))[0].endswith(".zip")


def test_a_look_that_changes_while_a_cell_is_measured_spoils_nothing(studio, session, monkeypatch):
    plain, sides = scales.edited, iter([64, 32, 64])

    def changing(*arguments, **options):
        (row,) = plain(*arguments, **options)
        side = next(sides, None)
        return [[picture.resize((side, side)) if side else picture for picture in row]]

    monkeypatch.setattr(scales, "edited", changing)
    target, item = next(scales.lacking(session))
    assert scales.measure_next(studio, session) is target  # and is asked again
    assert session.scale(target, item) is None
    assert scales.measure_next(studio, session) is target
    assert session.scale(target, item) is not None


def test_what_changes_while_a_cell_is_measured_makes_it_measured_anew(studio, session, monkeypatch):
    plain, calls = scales.edited, []
    target, item = next(scales.lacking(session))

    def changing(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            target.where = frozenset({"hair"})
        return plain(*arguments, **options)

    monkeypatch.setattr(scales, "edited", changing)
    assert scales.measure_next(studio, session) is target
    assert session.view.scales == {}
    assert scales.measure_next(studio, session) is target
    assert session.scale(target, item) is not None
