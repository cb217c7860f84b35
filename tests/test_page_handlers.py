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

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from demo import blending, board, crop, keeping, learning, settings, shelves, views, wiring
from demo.line import Line
from demo.messages import SKIP
from demo.session import MIX, PHOTO_SIDE, Session, Visitors
from essence import Essence, StudioPool, UserError
from essence.pictures import align

from . import fakes, pictures
from .test_demo import content, give_essences, learn, only, run


@pytest.fixture(scope="module")
def studio():
    return fakes.studio()


@pytest.fixture(autouse=True)
def messages(monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", lambda message, *_, **__: told.append(message))
    monkeypatch.setattr(gr, "Info", lambda message, *_, **__: told.append(message))
    return told


@pytest.fixture
def session(studio):
    """Three sources, two targets with large essences."""
    session = Session()
    run(shelves.add_sources(studio, session, pictures.SOURCES[:3], True, 0))
    run(shelves.add_targets(studio, session, pictures.SOURCES[3:5], True))
    give_essences(studio, session)
    return session


def names(items) -> list[str]:
    return [item.name for item in items.values()]


# ---- the crop


def test_a_nudge_crops_and_inverts_anew_and_zero_brings_the_first_crop_back(studio, tmp_path):
    session = Session()
    photograph = pictures.photograph(tmp_path / "two.jpg", (0, 1))
    run(shelves.add_sources(studio, session, [photograph], False, 0))
    item = only(session.sources)
    first, w = item.picture, item.source.w
    shelves.nudge(studio, session, item.id, {"zoom": 1.5, "right": 0.1, "down": 0, "turn": 5})
    assert (
        item.stale and item.picture is not first and item.source is not None
    )  # the grid keeps what it has meanwhile
    run(shelves.invert_stale(studio, session, 2))
    assert not item.stale and item.source.crop is item.nudged and (item.source.w != w).any()
    image = align.load_image(photograph)
    wanted = align.cut(image, align.locate(image).squares[0].nudged(align.Nudge(1.5, 0.1, 0, 5)), 256)
    assert (
        np.abs(np.asarray(item.picture, np.float32) - np.asarray(wanted, np.float32)).mean() < 3
    )  # but for JPEG
    shelves.nudge(studio, session, item.id, {})
    assert item.picture is first
    shelves.nudge(studio, session, item.id, {"zoom": 2})
    run(shelves.choose_source_face(studio, session, item.id, 1, 0))
    assert item.nudge == align.Nudge() and item.picture is item.faces[1] and not item.stale


def test_another_crop_ends_the_inversion_of_the_first(studio):
    session = Session()
    adding = shelves.add_sources(studio, session, [pictures.SOURCES[0]], True, 50)
    next(adding), next(adding)
    item = only(session.sources)
    shelves.nudge(studio, session, item.id, {"zoom": 1.2})
    rest = run(adding)
    assert len(rest) == 1 and item.stale


def test_another_crop_of_a_target_is_another_essence(studio, session):
    target = next(iter(session.targets.values()))
    shelves.nudge(studio, session, target.id, {"turn": 0})
    assert target.essence is not None
    shelves.nudge(studio, session, target.id, {"turn": 10})
    assert target.essence is None and target.nudged is not None


@pytest.mark.parametrize(
    "values, nudge",
    [
        ({"zoom": 99, "right": -7, "down": 0.2, "turn": 1e9}, align.Nudge(2, -0.5, 0.2, 45)),
        ({"zoom": "1", "right": None, "down": float("nan"), "turn": [], "more": 1}, align.Nudge()),
    ],
)
def test_nudges_from_the_browser_are_checked(values, nudge):
    assert crop.checked(values) == nudge


def test_the_editor_shows_the_photograph_with_all_its_faces(studio, tmp_path):
    session = Session()
    run(
        shelves.add_sources(
            studio, session, [pictures.photograph(tmp_path / "three.jpg", (0, 1, 2), 260)], False, 0
        )
    )
    item = only(session.sources)
    html = shelves.edit_crop(session, item.id)
    assert (
        html.count("<polygon points") == 2
        and html.count('class="chosen"') == 1
        and html.count('type="range"') == 4
    )
    assert shelves.edit_crop(session, "nobody") == SKIP
    shelves.random_face(studio, session)
    assert shelves.edit_crop(session, list(session.sources)[-1]) == SKIP  # it has no photograph
    assert shelves.nudge(studio, session, list(session.sources)[-1], {"zoom": 2}) == (
        SKIP,
        SKIP,
        SKIP,
    )


def test_large_photographs_are_kept_small(studio, tmp_path):
    session = Session()
    Image.new("RGB", (5000, 1000), "grey").save(tmp_path / "wide.jpg")
    run(shelves.add_sources(studio, session, [tmp_path / "wide.jpg"], True, 0))
    photo = only(session.sources).photo
    assert photo.picture().size == (PHOTO_SIDE, 400) and photo.squares[0].centre == pytest.approx(
        (1000, 200)
    )


# ---- order, names, undo


def test_items_move_and_stay_inside(studio, session):
    ada, ben, cora = session.sources
    shelves.move(studio, session, ada, 1)
    assert list(session.sources) == [ben, ada, cora]
    for by in (-1, -1, 7):
        shelves.move(studio, session, ada, by)
    assert list(session.sources) == [ada, ben, cora]
    first, second = session.targets
    html = shelves.move(studio, session, second, -1)[2]
    assert html.index(f'data-row="{second}"') < html.index(f'data-row="{first}"')


def test_names_are_one_short_line(studio, session):
    item = next(iter(session.sources.values()))
    shelves.rename(studio, session, item.id, "  Ada\n <b>Lovelace</b> " + "x" * 99)
    assert item.name.startswith("Ada <b>Lovelace</b> xx") and len(item.name) == 40
    shelves.rename(studio, session, item.id, "   ")
    assert item.name.startswith("Ada") and "<b>Love" not in views.sources(session)


def test_random_faces_can_be_told_apart(studio):
    session = Session()
    for _ in range(3):
        shelves.random_face(studio, session)
    shelves.remove(studio, session, list(session.sources)[1])
    shelves.random_face(studio, session)
    assert names(session.sources) == ["random 1", "random 3", "random 2"]


def test_undo_brings_back_what_was_removed_last(studio, session):
    before = names(session.sources)
    ben = list(session.sources)[1]
    html = shelves.remove(studio, session, ben)
    assert "Removed ben" in html[0] and "Removed" not in html[1]
    shelves.undo(studio, session)
    assert names(session.sources) == before
    shelves.clear(studio, session, "sources")
    assert not session.sources and "Removed 3" in views.sources(session)
    shelves.undo(studio, session)
    assert names(session.sources) == before and "Removed" not in views.sources(session)
    shelves.undo(studio, session)
    assert names(session.sources) == before


# ---- mixture and layers


def test_the_mixture_is_one_row_of_the_sum(studio, session):
    one, two = session.targets.values()
    html = blending.switch_mixing(studio, session, True)
    assert html.count('class="cell"') == 3 and html.count('class="part side"') == 2
    blending.set_strengths(studio, session, {one.id: 0.75, two.id: -0.5})
    assert (one.share, two.share, one.strength) == (0.75, -0.5, 1.0)
    source = next(iter(session.sources.values()))
    wanted = studio.models.render(
        (source.source.w + 0.75 * one.essence.delta - 0.5 * two.essence.delta)[None]
    )[0]
    shown = studio.blend([source.source], [session.row(MIX).essence], [1.0])[0, 0]
    assert np.abs(shown.astype(int) - wanted).max() <= 1
    essence = session.row(MIX).essence
    blending.draw(studio, session)
    assert session.row(MIX).essence is essence  # nothing changed, nothing drawn
    html = blending.switch_mixing(studio, session, False)
    assert html.count('class="cell"') == 6


def test_a_mixture_is_looked_at_and_kept_like_an_essence(studio, session, tmp_path):
    blending.switch_mixing(studio, session, True)
    source = next(iter(session.sources))
    assert "mixture" in blending.look(studio, session, MIX, source)
    assert strip_of(blending.details(studio, session))["likeness"] == [None] * len(blending.STRIP)
    name, data = content(keeping.download_essence(session, MIX))
    (tmp_path / name).write_bytes(data)
    assert len(Essence.load(tmp_path / name).provenance["parts"]) == 2


def test_a_mixture_of_nothing_says_what_is_missing(studio):
    session = Session()
    shelves.random_face(studio, session)
    assert "a learned or loaded essence" in blending.switch_mixing(studio, session, True)


def test_switching_a_band_off_draws_its_row_without_those_layers(
    studio, session, monkeypatch, tmp_path
):
    one, two = session.targets.values()
    drawn, blend = [], studio.blend
    monkeypatch.setattr(studio, "blend", lambda s, e, k: drawn.append(e) or blend(s, e, k))
    blending.switch_band(studio, session, one.id, "coarse")
    ((essence,),) = drawn
    assert not essence.delta[:4].any() and (essence.delta[4:] == one.essence.delta[4:]).all()
    blending.switch_band(studio, session, one.id, "hair")
    blending.switch_band(studio, session, "nobody", "fine")
    assert len(drawn) == 1 and one.bands == {"middle", "fine"} and len(two.bands) == 3
    name, data = content(keeping.download_essence(session, one.id))
    (tmp_path / name).write_bytes(data)
    assert Essence.load(tmp_path / name).provenance["bands"] == ["fine", "middle"]
    blending.switch_band(studio, session, one.id, "coarse")
    assert drawn[-1][0] is one.essence


# ---- sliders, past Gradio's events


def test_a_slider_brings_its_own_pictures_and_nothing_else(studio, session):
    blending.draw(studio, session)
    one, two = session.targets
    assert blending.redraw(studio, session, {one: 1.0, two: 1.0}) == []
    found = blending.redraw(studio, session, {one: -0.4})
    assert [cell[:2] for cell in found] == [(one, source) for source in session.sources]
    assert all(session.cells[target, source].url == url for target, source, url, _ in found)
    assert all(url in board.board(session) and figures == "" for *_, url, figures in found)
    blending.switch_measuring(studio, session)
    assert all(
        "data-lacking" in figures for *_, figures in blending.redraw(studio, session, {two: 0.3})
    )
    session.lent = True
    assert (
        blending.redraw(studio, session, {two: 0.5}) is None
    )  # the page has to learn that it is slow now


def test_only_its_own_page_can_ask_for_a_sessions_pictures(studio, session, monkeypatch):
    visitors = Visitors()
    redraw = wiring.redrawing(StudioPool.around(studio), visitors)
    other, strengths = visitors.welcome(Session()), dict.fromkeys(session.targets, 0.2)
    visitors.welcome(session)
    assert (
        len(session.word) > 20
        and session.word != other.word
        and f'data-visitor="{session.word}"' in board.board(session)
    )
    assert len(redraw({"visitor": session.word, "strengths": strengths})) == 6
    assert redraw({"visitor": other.word, "strengths": strengths}) == [] and not other.cells
    for values in (
        None,
        "x",
        [],
        {},
        {"visitor": ["a"], "strengths": strengths},
        {"visitor": session.word},
    ):
        assert redraw(values) is None
    assert redraw({"visitor": "", "strengths": strengths}) is None
    word = other.word
    del other
    assert visitors.find(word) is None  # nothing is kept longer than by Gradio

    def fails(*_):
        raise UserError("no room")

    monkeypatch.setattr(studio, "blend", fails)
    assert (
        redraw({"visitor": session.word, "strengths": dict.fromkeys(session.targets, 0.7)}) is None
    )  # the event then tells it


# ---- figures and the large view


def test_figures_are_made_on_demand_and_not_while_dragging(studio, session, monkeypatch):
    counted, distances = [], studio.identity_distances
    monkeypatch.setattr(
        studio, "identity_distances", lambda a, b: counted.append(len(a)) or distances(a, b)
    )
    assert 'class="figures"' not in blending.measure(studio, session) and not counted
    html = blending.switch_measuring(studio, session)
    assert (
        counted == [3, 3]
        and len(re.findall(r"identity \d\.\d\d", html)) == 6
        and len(re.findall(r"likeness -?\d\.\d\d", html)) == 6
    )
    target = next(iter(session.targets))
    assert blending.set_strengths(studio, session, {target: 0.0}).count(">…<") == 3 and counted == [
        3,
        3,
    ]
    assert blending.measure(studio, session).count("identity 0.00") == 3 and counted == [3, 3, 3]
    assert 'class="figures"' not in blending.switch_measuring(studio, session)


def strip_of(html: str) -> dict:
    return json.loads(unescape(re.search(r'data-strip="([^"]+)"', html)[1]))


def test_the_strip_has_a_picture_and_figures_for_each_strength(studio, session):
    assert blending.details(studio, session) == SKIP
    target, source = next(iter(session.targets)), next(iter(session.sources))
    blending.look(studio, session, target, source)
    strip = strip_of(blending.details(studio, session))
    assert strip["strengths"][0] == views.WEAKEST and strip["strengths"][-1] == views.STRONGEST
    assert (
        len(set(strip["frames"]))
        == len(strip["strengths"])
        == len(strip["identity"])
        == len(strip["likeness"])
    )
    zero = strip["strengths"].index(0)
    assert strip["identity"][zero] == min(strip["identity"]) == pytest.approx(0, abs=1e-3)
    shelves.remove(studio, session, source)
    assert blending.details(studio, session) == SKIP


# ---- strips for the grid


def gathered(studio, session) -> list[dict[str, list[str]]]:
    """What the page gets, answer by answer, as it asks for what it lacks."""
    lacking, answers = set(re.findall(r'data-strip="(\w+)"', board.board(session))), []
    while lacking:
        data = json.loads(
            unescape(
                re.search(r'data-strips="([^"]+)"', blending.strips(studio, session, lacking))[1]
            )
        )
        assert data["strengths"] == list(blending.COARSE_STRIP) and data["frames"].keys() <= lacking
        lacking -= data["frames"].keys()
        answers.append(data["frames"])
    return answers


@pytest.mark.parametrize("lent, answers", [(True, [3, 3]), (False, [1] * 6)])
def test_where_pictures_are_slow_the_page_gets_a_strip_of_each_cell(studio, session, lent, answers):
    session.lent, session.paces = lent, () if lent else (9.0, 9.0)
    strips = gathered(studio, session)
    assert [len(frames) for frames in strips] == answers
    (target, source), cell = next(iter(session.cells.items()))
    pictures = blending.strip(
        studio, session.sources[source], session.targets[target].essence, blending.COARSE_STRIP
    )
    for url, pixels in zip(strips[0][cell.strip], pictures, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            assert np.abs(np.asarray(image, np.float32) - pixels).mean() < 3  # but for JPEG
    assert len(set(strips[0][cell.strip])) == len(pictures)


def test_a_strip_lasts_as_long_as_all_but_the_strength(studio, session):
    session.lent = True
    one, two = session.targets

    def names() -> list[str]:
        return [cell.strip for (target, _), cell in session.cells.items() if target == one]

    blending.draw(studio, session)
    before = names()
    blending.set_strengths(studio, session, {one: 0.3})
    assert names() == before and len(set(before)) == 3
    blending.switch_band(studio, session, one, "fine")
    assert not set(names()) & set(before)
    before = names()
    session.targets[one].bands = session.targets[one].bands ^ {
        "coarse"
    }  # not drawn yet: what the page shows is another essence
    assert not gathered_frames(blending.strips(studio, session, before))


def gathered_frames(html: str) -> dict:
    return json.loads(unescape(re.search(r'data-strips="([^"]+)"', html)[1]))["frames"]


def test_what_the_page_shows_from_its_strips_is_not_drawn_again(studio, session, monkeypatch):
    target = next(iter(session.targets))
    monkeypatch.setattr(studio, "blend", None)
    assert blending.set_strengths(studio, session, {target: -0.8}, drawn=True) == SKIP
    assert session.targets[target].strength == -0.8
    assert not gathered_frames(blending.strips(studio, session, ["nothing", "of", "ours"]))


def test_the_pace_is_measured_and_quick_pages_have_no_strips(studio, monkeypatch):
    took = iter([0, 8, 0, 9, 0, 7, 0, 0.2])
    monkeypatch.setattr(blending, "time", SimpleNamespace(monotonic=lambda: next(took)))
    session = Session()

    def drawn(strength: float) -> str:
        return blending.set_strengths(studio, session, dict.fromkeys(session.targets, strength))

    shelves.random_face(studio, session), shelves.random_face(studio, session)
    run(shelves.add_targets(studio, session, [pictures.SOURCES[3]], True))
    give_essences(studio, session)
    assert session.paces == (4,) and not session.slow  # the models had to warm up, perhaps
    assert all("data-strip=" in drawn(strength) for strength in (0.5, 0.6)) and session.slow
    assert not re.search(
        "data-strip|data-slow|preparing", drawn(0.7)
    )  # the device had been busy with others
    assert session.paces == pytest.approx((4, 4.5, 3.5, 0.1)) and not session.slow


def test_the_strips_of_a_grid_have_a_limit():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    sizes = [len(views.small_url(noise, most)) for most in (10**6, 50_000, 7_000)]
    assert sizes[0] > 50_000 >= sizes[1] > 7_000 >= sizes[2]
    assert views.small_url(noise, 10**6) == views.data_url(noise, views.CELL_SIDE)


# ---- downloads


def test_all_cells_as_an_archive(studio, session):
    name, data = content(keeping.download_cells(studio, session))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert (
            name.endswith(".zip")
            and len(archive.namelist()) == 6
            and "1-dan/2-ben.png" in archive.namelist()
        )
        with Image.open(io.BytesIO(archive.read("1-dan/2-ben.png"))) as image:
            assert image.size == (studio.models.size,) * 2


def test_nothing_to_keep_is_told(studio, messages):
    assert keeping.download_cells(studio, Session()) == SKIP and messages
    assert (
        keeping.download_sweep(studio, Session())
        == keeping.download_picture(studio, Session(), 1)
        == SKIP
    )


def test_the_large_view_is_kept_at_its_own_strength(studio, session):
    target, source = list(session.targets.values())[0], list(session.sources.values())[0]
    blending.look(studio, session, target.id, source.id)
    name, data = content(keeping.download_picture(studio, session, -0.4))
    with Image.open(io.BytesIO(data)) as image:
        wanted = studio.models.render((source.source.w - 0.4 * target.essence.delta)[None])[0]
        assert name == "ada-dan.png" and np.abs(np.asarray(image).astype(int) - wanted).max() <= 1
    name, data = content(keeping.download_sweep(studio, session))
    with Image.open(io.BytesIO(data)) as image:
        assert name == "ada-dan.webp" and image.n_frames > len(keeping.SWEEP)


# ---- settings


def test_presets_in_words_differ_in_patience_only():
    quick, balanced, thorough = (
        learning.CHOICES[name] for name in ("quick", "balanced", "thorough")
    )
    assert (
        quick.steps < balanced.steps < thorough.steps
        and quick.penalty == balanced.penalty == thorough.penalty
    )


def test_settings_come_from_the_link_then_the_browser_then_the_defaults():
    defaults = settings.restored(None, {})
    assert defaults == ["balanced", 100, 0.5, 0, 25]
    assert settings.restored({"steps": 37, "refine": 3}, {}) == ["balanced", 37, 0.5, 0, 3]
    assert settings.restored({"steps": 37, "refine": 3}, {"steps": "12"}) == [
        "balanced",
        12,
        0.5,
        0,
        3,
    ]
    assert settings.restored({"steps": 37, "refine": 3}, {"preset": "thorough"}) == [
        "thorough",
        300,
        0.5,
        0,
        3,
    ]
    assert settings.restore({}, SimpleNamespace(query_params={"seed": "7"}))[3]["value"] == 7


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
        0,
        100,
    ]
    values = ["quick", 44, 0.3, 5, 0]
    assert settings.restored(settings.remember(*values), {}) == values


# ---- the line


def test_the_line_says_who_is_before(studio, session):
    line = Line()
    for visitor in "abc":
        line.join(visitor, Session())
    line.join("a", session)  # twice is once
    assert [line.ahead(visitor) for visitor in "abcd"] == [0, 1, 2, None]
    assert "2 visitors before you" in learning.place(2) and "1 visitor before" in learning.place(1)
    line.leave("a")
    assert line.ahead("c") == 1


def test_whose_turn_has_come_is_told_nothing_more_by_the_line(session):
    """Or "Starting." could come after the stream's last word."""
    line = Line()
    line.join("a", session), line.join("b", Session())
    line.begin("a")
    assert line.ahead("a") is None and line.ahead("b") == 1
    line.leave("a")
    assert line.ahead("a") is None and line.ahead("b") == 0
    line.join("a", session)  # once more
    assert line.ahead("a") == 1
    line.begin("b"), line.gone("b")
    line.join("b", Session())
    assert line.ahead("a") == 0 and line.ahead("b") == 1


def test_the_late_end_of_a_stopped_run_leaves_the_next_one_its_place(session):
    line = Line()
    line.join("a", session), line.begin("a")
    line.leave("a"), line.join("a", session)  # Stop, and Learn at once
    line.end("a")
    assert line.ahead("a") == 0
    line.begin("a"), line.end("a")
    line.join("b", Session())
    assert line.ahead("a") is None and line.ahead("b") == 0


def test_a_visitor_who_has_gone_learns_no_more(studio, session):
    line, course = Line(), learn(studio, session, learning.AGAIN, steps=10_000)
    line.join("a", session)
    next(course), next(course)
    line.gone("a"), line.gone("nobody")
    assert next(course, "ended") == "ended" and line.ahead("a") is None and not studio.queue.busy


def test_after_learning_nothing_is_under_way(studio, session):
    run(learn(studio, session, learning.AGAIN, steps=2))
    assert session.learning is None
    assert "is kept" in learning.stopped(studio, session)[0]
    for target in session.targets.values():
        target.essence = None
    assert "Nothing was learned yet" in learning.stopped(studio, session)[0]


def test_a_target_recropped_while_it_is_learned_has_no_essence(studio, session):
    target, other = session.targets.values()
    target.essence = None
    course = learn(studio, session, steps=10_000)
    next(course), next(course)
    shelves.nudge(studio, session, target.id, {"zoom": 1.5})
    run(course)
    assert target.essence is None and other.essence is not None


def test_board_explains_its_figures(session):
    session.measuring = True
    assert board.EXPLANATION in board.board(session)
