"""The handlers of the finer tools as plain functions: crop, order, mixture, layers, figures,
downloads, settings, the line.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from demo import blending, looks, presets, rendering, settings
from demo.messages import SKIP
from demo.panels import (
    cards,
    compare,
    crop,
    downloads,
    grid,
    items,
    learning,
    sources,
    targets,
)
from demo.photo import PHOTO_SIDE
from demo.session import MIX, STRONGEST, WEAKEST, Session
from demo.visitors import Visitors
from demo.waiting_list import WaitingList
from essence import Essence, Nudge, StudioPool, UserError
from essence.pictures import align

from . import fakes, pictures
from .test_demo import content, give_essences, learn, move_sliders, only, run


@pytest.fixture(scope="module")
def studio():
    """Its models have no mapper: nothing is learned before somebody asks for it."""
    return fakes.studio(with_mapper=False)


pytestmark = pytest.mark.usefixtures("messages")


@pytest.fixture
def session(studio):
    """Three sources, two targets with large essences."""
    session = Session()
    run(sources.add_sources(studio, session, pictures.SOURCES[:3], True, 0))
    run(targets.add_targets(studio, session, pictures.SOURCES[3:5], True))
    give_essences(studio, session)
    return session


def names(added) -> list[str]:
    return [item.name for item in added.values()]


# ---- the crop


def test_a_nudge_crops_and_inverts_anew_and_zero_brings_the_first_crop_back(studio, tmp_path):
    session = Session()
    photograph = pictures.photograph(tmp_path / "two.jpg", (0, 1))
    run(sources.add_sources(studio, session, [photograph], False, 0))
    item = only(session.items.sources)
    first, w = item.picture, item.source.w
    crop.nudge_crop(studio, session, item.id, {"zoom": 1.5, "right": 0.1, "down": 0, "turn": 5})
    assert (
        item.stale and item.picture is not first and item.source is not None
    )  # the grid keeps what it has meanwhile
    run(sources.invert_stale(studio, session, 2))
    assert not item.stale and item.source.crop is item.nudged and (item.source.w != w).any()
    image = align.load_image(photograph)
    square = align.locate(image).squares[0].nudged(Nudge(1.5, 0.1, 0, 5))
    wanted = align.cut(image, square, item.picture.width)
    assert (
        np.abs(np.asarray(item.picture, np.float32) - np.asarray(wanted, np.float32)).mean() < 3
    )  # but for JPEG
    crop.nudge_crop(studio, session, item.id, {})
    assert item.picture is first
    crop.nudge_crop(studio, session, item.id, {"zoom": 2})
    run(sources.choose_source_face(studio, session, item.id, 1, 0))
    assert item.nudge == Nudge() and item.picture is item.faces[1] and not item.stale


def test_another_crop_ends_the_inversion_of_the_first(studio):
    session = Session()
    adding = sources.add_sources(studio, session, [pictures.SOURCES[0]], True, 50)
    next(adding), next(adding)
    item = only(session.items.sources)
    crop.nudge_crop(studio, session, item.id, {"zoom": 1.2})
    rest = run(adding)
    assert len(rest) == 1 and item.stale


def test_another_crop_of_a_target_is_another_essence(studio, session):
    target = next(iter(session.items.targets.values()))
    crop.nudge_crop(studio, session, target.id, {"turn": 0})
    assert target.essence is not None
    crop.nudge_crop(studio, session, target.id, {"turn": 10})
    assert target.essence is None and target.nudged is not None


@pytest.mark.parametrize(
    "values, nudge",
    [
        ({"zoom": 99, "right": -7, "down": 0.2, "turn": 1e9}, Nudge(2, -0.5, 0.2, 180)),
        ({"zoom": "1", "right": None, "down": float("nan"), "turn": [], "more": 1}, Nudge()),
    ],
)
def test_nudges_from_the_browser_are_checked(values, nudge):
    assert crop.checked_nudge(values) == nudge


def test_the_editor_shows_the_photograph_with_all_its_faces(studio, tmp_path):
    session = Session()
    run(
        sources.add_sources(
            studio, session, [pictures.photograph(tmp_path / "three.jpg", (0, 1, 2), 260)], False, 0
        )
    )
    item = only(session.items.sources)
    html = crop.edit_crop(studio, session, item.id)
    assert (
        html.count("<polygon points") == 2
        and html.count('class="chosen"') == 1
        and html.count('type="range"') == 4
    )
    assert crop.edit_crop(studio, session, "nobody") == SKIP
    sources.add_random_face(studio, session)
    made_up = list(session.items.sources)[-1]  # it has no photograph
    assert crop.edit_crop(studio, session, made_up) == SKIP
    assert crop.nudge_crop(studio, session, made_up, {"zoom": 2}) == (SKIP, SKIP, SKIP)


def test_large_photographs_are_kept_small(studio, tmp_path):
    session = Session()
    Image.new("RGB", (5000, 1000), "grey").save(tmp_path / "wide.jpg")
    run(sources.add_sources(studio, session, [tmp_path / "wide.jpg"], True, 0))
    photo = only(session.items.sources).photo
    assert photo.picture().size == (PHOTO_SIDE, 400) and photo.squares[0].centre == pytest.approx(
        (1000, 200)
    )


# ---- order, names, undo


def test_items_move_and_stay_inside(studio, session):
    ada, ben, cora = session.items.sources
    items.move(studio, session, ada, 1)
    assert list(session.items.sources) == [ben, ada, cora]
    for by in (-1, -1, 7):
        items.move(studio, session, ada, by)
    assert list(session.items.sources) == [ada, ben, cora]
    first, second = session.items.targets
    html = items.move(studio, session, second, -1)[2]
    assert html.index(f'data-row="{second}"') < html.index(f'data-row="{first}"')


def test_what_changes_while_cells_are_drawn_is_not_taken_for_drawn(studio, session, monkeypatch):
    first, make = next(iter(session.items.targets)), blending.edited

    def changed_meanwhile(*arguments, **options):
        monkeypatch.setattr(blending, "edited", make)
        made = make(*arguments, **options)
        grid.switch_band(studio, session, first, "coarse")  # as another thread may
        return made

    monkeypatch.setattr(blending, "edited", changed_meanwhile)
    grid.switch_band(studio, session, first, "fine")
    shown = {key: cell.url for key, cell in session.view.cells.items()}
    session.view.cells.clear()
    blending.draw_cells(studio, session)
    assert shown == {key: cell.url for key, cell in session.view.cells.items()}


def test_what_is_shown_says_how_new_it_is(session):
    numbers = [int(re.search(r'data-number="(\d+)"', html)[1]) for html in shown_twice(session)]
    assert numbers == sorted(set(numbers))


def shown_twice(session: Session) -> list[str]:
    return [
        html(session)
        for html in (cards.sources_html, cards.targets_html, grid.grid_html)
        for _ in range(2)
    ]


def test_names_are_one_short_line(studio, session):
    item = next(iter(session.items.sources.values()))
    items.rename(studio, session, item.id, "  Ada\n <b>Lovelace</b> " + "x" * 99)
    assert item.name.startswith("Ada <b>Lovelace</b> xx") and len(item.name) == 40
    items.rename(studio, session, item.id, "   ")
    assert item.name.startswith("Ada") and "<b>Love" not in cards.sources_html(session)


def test_random_faces_can_be_told_apart(studio):
    session = Session()
    for _ in range(3):
        sources.add_random_face(studio, session)
    items.remove(studio, session, list(session.items.sources)[1])
    sources.add_random_face(studio, session)
    assert names(session.items.sources) == ["random 1", "random 3", "random 2"]


def test_undo_brings_back_what_was_removed_last(studio, session):
    before = names(session.items.sources)
    ben = list(session.items.sources)[1]
    html = items.remove(studio, session, ben)
    assert "Removed ben" in html[0] and "Removed" not in html[1]
    items.undo(studio, session)
    assert names(session.items.sources) == before
    items.clear(studio, session, "sources")
    assert not session.items.sources and "Removed 3" in cards.sources_html(session)
    items.undo(studio, session)
    assert names(session.items.sources) == before and "Removed" not in cards.sources_html(session)
    items.undo(studio, session)
    assert names(session.items.sources) == before


# ---- mixture and layers


def test_the_mixture_is_one_row_of_the_sum(studio, session):
    one, two = session.items.targets.values()
    html = grid.switch_mixing(studio, session, True)
    assert html.count('class="cell"') == 3 and html.count('class="part side"') == 2
    move_sliders(studio, session, {one.id: 0.75, two.id: -0.5})
    assert (one.share, two.share, one.strength) == (0.75, -0.5, 1.0)
    source = next(iter(session.items.sources.values()))
    wanted = studio.models.render(
        (source.source.w + 0.75 * one.essence.delta - 0.5 * two.essence.delta)[None]
    )[0]
    shown = studio.blend([source.source], [session.row(MIX).essence], [1.0])[0, 0]
    assert np.abs(shown.astype(int) - wanted).max() <= 1
    essence = session.row(MIX).essence
    grid.show_grid(studio, session)
    assert session.row(MIX).essence is essence  # nothing changed, nothing drawn
    html = grid.switch_mixing(studio, session, False)
    assert html.count('class="cell"') == 6


def test_a_mixture_is_looked_at_and_kept_like_an_essence(studio, session, tmp_path):
    grid.switch_mixing(studio, session, True)
    source = next(iter(session.items.sources))
    assert "mixture" in compare.open_view(studio, session, MIX, source)
    strip = strip_of(compare.measure_strengths(studio, session))
    assert strip["likeness"] == [None] * len(compare.STRENGTHS)
    name, data = content(downloads.download_result(studio, session, MIX))
    (tmp_path / name).write_bytes(data)
    assert len(Essence.load(tmp_path / name).provenance["parts"]) == 2


def test_a_mixture_of_nothing_says_what_is_missing(studio):
    session = Session()
    sources.add_random_face(studio, session)
    assert "a learned or loaded essence" in grid.switch_mixing(studio, session, True)


def test_switching_a_band_off_draws_its_row_without_those_layers(
    studio, session, monkeypatch, tmp_path
):
    one, two = session.items.targets.values()
    drawn, blend = [], studio.blend
    monkeypatch.setattr(studio, "blend", lambda s, e, *k: drawn.append(e) or blend(s, e, *k))
    grid.switch_band(studio, session, one.id, "coarse")
    ((essence,),) = drawn
    assert not essence.delta[:4].any() and (essence.delta[4:] == one.essence.delta[4:]).all()
    grid.switch_band(studio, session, one.id, "hair")
    grid.switch_band(studio, session, "nobody", "fine")
    assert len(drawn) == 1 and one.bands == {"middle", "fine"} and len(two.bands) == 3
    name, data = content(downloads.download_result(studio, session, one.id))
    (tmp_path / name).write_bytes(data)
    assert Essence.load(tmp_path / name).provenance["bands"] == ["fine", "middle"]
    grid.switch_band(studio, session, one.id, "coarse")
    assert drawn[-1][0] is one.essence


# ---- sliders, past Gradio's events


def test_a_slider_brings_its_own_pictures_and_nothing_else(studio, session):
    grid.show_grid(studio, session)
    one, two = session.items.targets

    def move(**strengths: float) -> list[dict]:
        values = {one: strengths.get("one", 1.0), two: strengths.get("two", 1.0)}
        answer = grid.update_grid(studio, session, {"strengths": values})
        assert not answer["slow"]
        return answer["cells"]

    assert move() == []
    found = move(one=-0.4)
    assert [(c["target"], c["source"]) for c in found] == [(one, s) for s in session.items.sources]
    assert all(session.view.cells[c["target"], c["source"]].url == c["picture"] for c in found)
    html = grid.grid_html(session)
    assert all(c["picture"] in html and c["figures"] == c["strip"] == "" for c in found)
    grid.switch_figures(studio, session)
    assert all("data-lacking" in cell["figures"] for cell in move(one=-0.4, two=0.3))
    assert len(move(one=-0.4, two=0.3)) == 0
    session.run.lent = True
    # The page has to learn that it is slow now: all cells, with the names of their strips.
    answer = grid.update_grid(studio, session, {"strengths": {two: 0.5}, "slow": False})
    assert answer["slow"] and len(answer["cells"]) == 6
    html = grid.grid_html(session)
    assert all(f'data-strip="{cell["strip"]}"' in html for cell in answer["cells"])


def test_only_its_own_page_can_ask_for_a_sessions_pictures(studio, session, monkeypatch, messages):
    visitors = Visitors()
    update = grid.update_function(StudioPool.around(studio), visitors)
    other, strengths = visitors.welcome(Session()), dict.fromkeys(session.items.targets, 0.2)
    visitors.welcome(session)
    assert (
        len(session.run.word) > 20
        and session.run.word != other.run.word
        and f'data-visitor="{session.run.word}"' in grid.grid_html(session)
    )
    assert len(update({"visitor": session.run.word, "strengths": strengths})["cells"]) == 6
    answer = update({"visitor": other.run.word, "strengths": strengths})
    assert answer["cells"] == [] and not other.view.cells
    for values in (
        None,
        "x",
        [],
        {},
        {"visitor": ["a"], "strengths": strengths},
        {"visitor": session.run.word},
    ):
        assert update(values) is None
    assert update({"visitor": "", "strengths": strengths}) is None
    word = other.run.word
    del other
    assert visitors.find(word) is None  # nothing is kept longer than by Gradio

    def fails(*_):
        raise UserError("no room")

    monkeypatch.setattr(studio, "blend", fails)
    session.view.look = "model"  # what was found of photographs needs no model
    strengths = dict.fromkeys(session.items.targets, 0.7)
    assert update({"visitor": session.run.word, "strengths": strengths}) is None
    # The event then tells it, and the page asks no more.
    messages.clear()
    cells, strips = grid.queued_update(studio, session, {"strengths": strengths})
    assert messages == ["no room"] and strips == SKIP
    assert json.loads(unescape(re.search(r'data-answer="([^"]+)"', cells)[1]))["cells"] == []


# ---- figures and the large view


def test_figures_are_made_on_demand_and_not_while_dragging(studio, session, monkeypatch):
    counted, distances = [], studio.identity_distances
    monkeypatch.setattr(
        studio, "identity_distances", lambda a, b: counted.append(len(a)) or distances(a, b)
    )
    assert 'class="figures"' not in grid.show_grid(studio, session) and not counted
    html = grid.switch_figures(studio, session)
    assert (
        counted == [3, 3]
        and len(re.findall(r"identity \d\.\d\d", html)) == 6
        and len(re.findall(r"likeness -?\d\.\d\d", html)) == 6
    )
    target = next(iter(session.items.targets))
    html = move_sliders(studio, session, {target: 0.0})
    assert html.count(">…<") == 3 and counted == [3, 3]
    answer = grid.update_grid(studio, session, {"figures": True})
    assert [cell["figures"].count("identity 0.00") for cell in answer["cells"]] == [1, 1, 1]
    assert grid.show_grid(studio, session).count("identity 0.00") == 3 and counted == [3, 3, 3]
    assert 'class="figures"' not in grid.switch_figures(studio, session)


def strip_of(html: str) -> dict:
    return json.loads(unescape(re.search(r'data-strip="([^"]+)"', html)[1]))


def test_the_strip_has_a_picture_and_figures_for_each_strength(studio, session):
    assert compare.measure_strengths(studio, session) == SKIP
    target, source = next(iter(session.items.targets)), next(iter(session.items.sources))
    compare.open_view(studio, session, target, source)
    strip = strip_of(compare.measure_strengths(studio, session))
    assert strip["strengths"][0] == WEAKEST and strip["strengths"][-1] == STRONGEST
    assert (
        len(set(strip["frames"]))
        == len(strip["strengths"])
        == len(strip["identity"])
        == len(strip["likeness"])
    )
    zero = strip["strengths"].index(0)
    assert strip["identity"][zero] == min(strip["identity"]) == pytest.approx(0, abs=1e-3)
    items.remove(studio, session, source)
    assert compare.measure_strengths(studio, session) == SKIP


# ---- strips for the grid


def gathered(studio, session) -> list[dict[str, list[str]]]:
    """What the page gets, answer by answer, as it asks for what it lacks."""
    lacking, answers = set(re.findall(r'data-strip="(\w+)"', grid.grid_html(session))), []
    while lacking:
        data = grid.update_grid(studio, session, {"strips": sorted(lacking)})
        assert data["strengths"] == list(blending.STRIP_STRENGTHS)
        assert data["strips"].keys() <= lacking and data["strips"]
        lacking -= data["strips"].keys()
        answers.append(data["strips"])
    return answers


@pytest.mark.parametrize("look", ["model", "photograph"])
@pytest.mark.parametrize("lent, answers", [(True, [3, 3]), (False, [1] * 6)])
def test_where_pictures_are_slow_the_page_gets_a_strip_of_each_cell(
    studio, session, lent, answers, look
):
    session.view.look = look
    grid.show_grid(studio, session)
    session.run.lent, session.run.paces = lent, () if lent else (9.0, 9.0)
    strips = gathered(studio, session)
    assert [len(frames) for frames in strips] == answers
    (target, source), cell = next(iter(session.view.cells.items()))
    pictures = compare.at_strengths(
        studio,
        session,
        session.items.targets[target],
        session.items.sources[source],
        blending.STRIP_STRENGTHS,
        rendering.CELL_SIDE,
    )
    for url, picture in zip(strips[0][cell.strip], pictures, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            wanted = np.asarray(picture, np.float32)
            assert np.abs(np.asarray(image, np.float32) - wanted).mean() < 3  # but for JPEG
    assert len(set(strips[0][cell.strip])) == len(pictures)


def test_a_strip_lasts_as_long_as_all_but_the_strength(studio, session):
    session.run.lent = True
    one, two = session.items.targets

    def names() -> list[str]:
        return [cell.strip for (target, _), cell in session.view.cells.items() if target == one]

    grid.show_grid(studio, session)
    before = names()
    move_sliders(studio, session, {one: 0.3})
    assert names() == before and len(set(before)) == 3
    grid.switch_band(studio, session, one, "fine")
    assert not set(names()) & set(before)
    before = names()
    session.items.targets[one].bands = session.items.targets[one].bands ^ {
        "coarse"
    }  # not drawn yet: what the page shows is another essence
    assert not grid.update_grid(studio, session, {"strips": before})["strips"]


def test_what_the_page_shows_from_its_strips_is_not_drawn_again(studio, session, monkeypatch):
    target = next(iter(session.items.targets))
    monkeypatch.setattr(studio, "blend", None)
    request = {"strengths": {target: -0.8}, "pictures": False}
    assert grid.update_grid(studio, session, request) == {"slow": False, "cells": []}
    assert session.items.targets[target].strength == -0.8
    assert not grid.update_grid(studio, session, {"strips": ["nothing", "of", "ours"]})["strips"]


def test_the_pace_is_measured_and_quick_pages_have_no_strips(studio, monkeypatch):
    took = iter([0, 8, 0, 9, 0, 7, 0, 0.2])
    monkeypatch.setattr(looks, "time", SimpleNamespace(monotonic=lambda: next(took)))
    session = Session()

    def drawn(strength: float) -> str:
        return move_sliders(studio, session, dict.fromkeys(session.items.targets, strength))

    sources.add_random_face(studio, session), sources.add_random_face(studio, session)
    run(targets.add_targets(studio, session, [pictures.SOURCES[3]], True))
    give_essences(studio, session)
    assert session.run.paces == (4,) and not session.run.slow  # the models had to warm up, perhaps
    assert all("data-strip=" in drawn(strength) for strength in (0.5, 0.6)) and session.run.slow
    assert not re.search(
        "data-strip|data-slow|preparing", drawn(0.7)
    )  # the device had been busy with others
    assert session.run.paces == pytest.approx((4, 4.5, 3.5, 0.1)) and not session.run.slow


def test_the_strips_of_a_grid_have_a_limit():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    noise = Image.fromarray(noise)
    sizes = [len(rendering.small_data_url(noise, most)) for most in (10**6, 50_000, 7_000)]
    assert sizes[0] > 50_000 >= sizes[1] > 7_000 >= sizes[2]
    assert rendering.small_data_url(noise, 10**6) == rendering.data_url(noise, rendering.CELL_SIDE)


# ---- downloads


@pytest.mark.parametrize("look, side", [("model", 32), ("photograph", 256)])
def test_all_cells_as_an_archive(studio, session, look, side):
    session.view.look = look
    name, data = content(downloads.download_cells(studio, session))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert (
            name.endswith(".zip")
            and len(archive.namelist()) == 6
            and "1-dan/2-ben.png" in archive.namelist()
        )
        with Image.open(io.BytesIO(archive.read("1-dan/2-ben.png"))) as image:
            assert image.size == (side, side)


def test_nothing_to_keep_is_told(studio, messages):
    assert downloads.download_cells(studio, Session()) == SKIP and messages
    assert (
        compare.download_sweep(studio, Session())
        == compare.download_picture(studio, Session(), 1, False)
        == SKIP
    )


def test_the_large_view_is_kept_at_its_own_strength(studio, session):
    target, source = (
        list(session.items.targets.values())[0],
        list(session.items.sources.values())[0],
    )
    session.view.look = "model"
    compare.open_view(studio, session, target.id, source.id)
    name, data = content(compare.download_picture(studio, session, -0.4, False))
    with Image.open(io.BytesIO(data)) as image:
        wanted = studio.models.render((source.source.w - 0.4 * target.essence.delta)[None])[0]
        assert name == "ada-dan.png" and np.abs(np.asarray(image).astype(int) - wanted).max() <= 1
    name, data = content(compare.download_sweep(studio, session))
    with Image.open(io.BytesIO(data)) as image:
        assert name == "ada-dan.webp" and image.n_frames > len(compare.SWEEP)


# ---- settings


def test_presets_in_words_differ_in_patience_only():
    quick, balanced, thorough = (
        presets.presets()[name] for name in ("quick", "balanced", "thorough")
    )
    assert (
        quick.steps < balanced.steps < thorough.steps
        and quick.penalty == balanced.penalty == thorough.penalty
    )


def test_settings_come_from_the_link_then_the_browser_then_the_defaults():
    saved = {"steps": 37, "refine": 3}
    assert settings.restored(None, {}) == ["balanced", 100, 0.5, 0.5, 1, 0, 50]
    assert settings.restored(saved, {}) == ["balanced", 37, 0.5, 0.5, 1, 0, 3]
    assert settings.restored(saved, {"steps": "12"}) == ["balanced", 12, 0.5, 0.5, 1, 0, 3]
    of_preset = settings.restored(saved, {"preset": "thorough"})
    assert of_preset == ["thorough", 300, 0.5, 0.5, 1, 0, 3]
    assert settings.restored({}, {"preset": "paper"})[3] == 0, "the paper has no such term"
    assert settings.restore({}, SimpleNamespace(query_params={"seed": "7"}))[5]["value"] == 7


@pytest.mark.parametrize(
    "junk",
    [
        {"steps": "many", "seed": "nan", "refine": None, "preset": "<b>"},
        {"steps": "inf"},
        {"faces": "x"},
    ],
)
def test_junk_in_a_link_is_left_alone(junk):
    assert settings.restored({}, junk) == settings.restored({}, {})


def test_settings_are_pulled_into_their_limits_and_come_back():
    assert settings.restored({}, {"steps": "99999", "consistency": "-3", "refine": "1e9"}) == [
        "balanced",
        1000,
        0.0,
        0.5,
        1,
        0,
        100,
    ]
    values = ["quick", 44, 0.3, 1.5, 3, 5, 0]
    assert settings.restored(settings.remember(*values), {}) == values


# ---- the line


def test_the_line_says_who_is_before(studio, session):
    line = WaitingList()
    for visitor in "abc":
        line.join(visitor, Session())
    line.join("a", session)  # twice is once
    assert [line.ahead(visitor) for visitor in "abcd"] == [0, 1, 2, None]
    assert "2 visitors before you" in learning.place_note(
        2
    ) and "1 visitor before" in learning.place_note(1)
    line.leave("a")
    assert line.ahead("c") == 1


def test_whose_turn_has_come_is_told_nothing_more_by_the_line(session):
    """Or "Starting." could come after the stream's last word."""
    line = WaitingList()
    line.join("a", session), line.join("b", Session())
    line.begin("a")
    assert line.ahead("a") is None and line.ahead("b") == 1
    line.leave("a")
    assert line.ahead("a") is None and line.ahead("b") == 0
    line.join("a", session)  # once more
    assert line.ahead("a") == 1
    line.begin("b"), line.close("b")
    line.join("b", Session())
    assert line.ahead("a") == 0 and line.ahead("b") == 1


def test_the_late_end_of_a_stopped_run_leaves_the_next_one_its_place(session):
    line = WaitingList()
    line.join("a", session), line.begin("a")
    line.leave("a"), line.join("a", session)  # Stop, and Learn at once
    line.end("a")
    assert line.ahead("a") == 0
    line.begin("a"), line.end("a")
    line.join("b", Session())
    assert line.ahead("a") is None and line.ahead("b") == 0


def test_a_visitor_who_has_gone_learns_no_more(studio, session):
    line, course = WaitingList(), learn(studio, session, learning.AGAIN, steps=10_000)
    line.join("a", session)
    next(course), next(course)
    line.close("a"), line.close("nobody")
    assert list(course) == [(SKIP,) * 4] and line.ahead("a") is None and not studio.queue.busy


def test_after_learning_nothing_is_under_way(studio, session):
    run(learn(studio, session, learning.AGAIN, steps=2))
    assert session.run.learning is None
    assert "is kept" in learning.after_stop(studio, session)[0]
    for target in session.items.targets.values():
        target.essence = None
    assert "Nothing was learned yet" in learning.after_stop(studio, session)[0]


def test_a_target_recropped_while_it_is_learned_has_no_essence(studio, session):
    target, other = session.items.targets.values()
    target.essence = None
    course = learn(studio, session, steps=10_000)
    next(course), next(course)
    crop.nudge_crop(studio, session, target.id, {"zoom": 1.5})
    run(course)
    assert target.essence is None and other.essence is not None


def test_board_explains_its_figures(session):
    session.view.measuring = True
    assert grid.EXPLANATION in grid.grid_html(session)
