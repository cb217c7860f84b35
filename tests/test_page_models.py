"""Which models the page shows, and what a visitor keeps who goes over to others: the handlers, with
small sets on the disk.
"""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from demo import LAUNCH, build
from demo.panels import crop, learning, models, sources, targets
from demo.session import MAX_ITEMS, Session, TargetItem
from essence import Change, Essence, Nudge, StudioPool
from essence.library import loading
from essence.pictures import align

from . import fakes, pictures
from .browsing import PATIENCE, PHONE, settled
from .test_demo import learn, only, run

pytest_plugins = ["tests.browsing"]
SETS = {"one": "face", "two": "face", "yard": "square", "far": None}


@pytest.fixture
def several(tmp_path, monkeypatch):
    fakes.write_manifest(tmp_path / "weights", monkeypatch, SETS)
    return StudioPool()


@pytest.fixture
def session(several, tmp_path):
    """A photograph and a random face as sources; a photograph and a loaded essence as targets; all
    of it learned, of set "one".
    """
    studio, session = several.of(), Session()
    run(
        sources.add_sources(
            studio, session, [pictures.photograph(tmp_path / "two.jpg", (0, 1))], False, 1
        )
    )
    sources.add_random_face(studio, session)
    run(
        targets.add_targets(
            studio, session, [pictures.photograph(tmp_path / "idol.jpg", (2, 3))], False
        )
    )
    run(learn(studio, session))
    Essence(torch.randn(8, 8), "loaded", studio.models.id).save(tmp_path / "loaded.safetensors")
    run(targets.add_targets(studio, session, [tmp_path / "loaded.safetensors"], False))
    return session


def switch(several, session, name, steps=1):
    with pytest.MonkeyPatch.context() as patched:
        # No news of the loading: how many there would be depends on the machine.
        patched.setattr(models, "LOOK_SECONDS", 600)
        return run(models.switch_models(several, session, name, steps))


# ---- what is shown


def test_every_set_is_shown_with_what_can_be_done(several):
    html = models.models_html(several, Session())
    assert html.count("<li>") == 4 and html.count("in use") == 1
    assert re.findall(r'data-event="use" data-id="(\w+)"', html) == ["two", "yard"]
    assert "python -m essence fetch far" in html and "generator, inverter, clip, latents" in html


def test_the_bundled_set_alone_has_no_control(monkeypatch, tmp_path):
    """As the project is delivered: a line with title, size and licence; the public sets with their
    commands, nothing to press.
    """
    monkeypatch.setenv("ESSENCE_CACHE", str(tmp_path))
    html = models.models_html(StudioPool("mini"), Session())
    assert "<button" not in html and "<summary" in html and "Research and play only" in html
    assert (
        "generator and inverter: Research and other non-commercial use" in html
        and "clip: Any use" in html
    )
    assert re.search(r"mini · \d+ MB", html) and "more than 1.2 GB" in html
    for name in ("ffhq", "church"):
        assert f"python -m essence fetch {name}" in html
    assert (
        "Not here: generator, clip." in html
    )  # of ffhq: its inverter lies in the generator's file


def test_names_of_sets_are_escaped(several, tmp_path):
    path = fakes.files(tmp_path / "<img src=x>")
    assert "<img" not in models.models_html(StudioPool(str(path)), Session())


# ---- loading


@pytest.fixture
def slow(monkeypatch):
    """Loading tells how far it is, and goes on when the returned event is set."""
    load, go_on = loading.load_model_set, threading.Event()

    def slowly(*args, progress, **options):
        progress("measuring", 250, 1000)
        assert go_on.wait(30)
        return load(*args, progress=progress, **options)

    monkeypatch.setattr(loading, "load_model_set", slowly)
    monkeypatch.setattr(models, "LOOK_SECONDS", 0.05)
    return go_on


def test_who_comes_early_sees_how_far_the_loading_is(several, slow):
    session = Session()
    assert "data-waits" in models.arrival(several, session)
    course = models.watch_loading(several, session)
    line = next(course)
    while "measuring: 25%" not in line:
        line = next(course)
    assert "Loading Set one" in line and "data-waits" not in line and "disabled" in line
    slow.set()
    assert (
        list(course)[-1] == models.arrival(several, session) == models.models_html(several, session)
    )


def test_who_goes_over_sees_it_too(several, slow):
    session = Session()
    course = models.switch_models(several, session, "two", 1)
    while "measuring: 25%" not in next(course)[0]:
        assert session.run.model == ""
    slow.set()
    run(course)
    assert session.run.model == "two" and several.of("two").loaded


def test_who_leaves_meanwhile_stops_nobody(several, slow):
    courses = [models.watch_loading(several, Session()) for _ in range(2)]
    [next(course) for course in courses]
    courses[0].close()
    slow.set()
    assert "Loading" not in list(courses[1])[-1]


def test_models_that_cannot_be_loaded_are_told_to_who_waits(several, messages, tmp_path):
    (tmp_path / "weights" / "one" / "generator.safetensors").write_bytes(b"nothing")
    assert (
        "Loading" not in run(models.watch_loading(several, Session()))[-1]
        and "generator.safetensors" in messages[-1]
    )


# ---- going over


def test_photographs_and_targets_stay_and_are_of_the_new_models(several, session, messages):
    (ann, made_up), (idol, _) = session.items.sources.values(), session.items.targets.values()
    before, crop = ann.source, ann.picture
    frames = switch(several, session, "two")
    assert (
        "Loading Set two" in frames[0][0]
        and frames[-1][0] == models.SKIP
        and "Set two" in frames[1][0]
    )
    two = several.of("two")
    assert (
        session.run.model == "two"
        and list(session.items.sources.values()) == [ann, made_up]
        and list(session.items.targets.values()) == [idol]
    )
    assert {item.source.model for item in session.items.ready()} == {two.models.id} and len(
        session.items.ready()
    ) == 2
    assert ann.source is not before and not ann.stale and len(ann.faces) == 2
    assert np.array_equal(
        np.asarray(ann.picture),
        np.asarray(align.cut(ann.photo.picture(), ann.photo.squares[0], ann.picture.width)),
    )
    assert (
        np.abs(np.asarray(ann.picture, float) - np.asarray(crop, float)).mean() < 3
    )  # but for JPEG
    # What the new models answer at once is in the grid, and nothing of the old ones.
    assert not idol.learned and idol.essence.model == two.models.id
    assert {cell.source.model for cell in session.view.cells.values()} == {two.models.id}
    assert "2 essences will be back" in messages[-1]
    run(learn(two, session))
    assert idol.learned
    assert idol.essence.model == two.models.id and len(session.view.cells) == 2


def test_who_comes_back_finds_the_essences_again(several, session, messages):
    idol, loaded = session.items.targets.values()
    learned = idol.essence
    switch(several, session, "two")
    run(learn(several.of("two"), session))
    other = idol.essence
    switch(several, session, "one")
    assert (
        idol.essence is learned
        and list(session.items.targets.values()) == [idol, loaded]
        and len(session.view.cells) == 4
    )
    switch(several, session, "two")
    assert idol.essence is other


def test_an_essence_of_another_crop_does_not_come_back(several, session, messages):
    idol = next(iter(session.items.targets.values()))
    switch(several, session, "two")
    targets.choose_target_face(several.of("two"), session, idol.id, 1)
    switch(several, session, "one")
    assert (
        not idol.learned and idol.chosen == 1 and idol.essence.model == several.of("one").models.id
    )


def test_faces_become_squares_and_squares_faces(several, session, tmp_path, messages):
    ann, idol = (
        next(iter(session.items.sources.values())),
        next(iter(session.items.targets.values())),
    )
    crop.nudge_crop(several.of(), session, ann.id, {"zoom": 1.3})
    switch(several, session, "yard")
    assert (
        len(ann.faces) == len(idol.faces) == 1
        and ann.nudge == Nudge()
        and len(session.items.ready()) == 2
    )
    run(
        sources.add_sources(
            several.of("yard"), session, [pictures.no_face(tmp_path / "wall.png")], False, 1
        )
    )
    run(
        targets.add_targets(
            several.of("yard"), session, [pictures.no_face(tmp_path / "wall.png")], False
        )
    )
    switch(several, session, "one")
    assert len(ann.faces) == len(idol.faces) == 2 and len(session.items.ready()) == 3
    assert [item.found for item in session.items.targets.values()] == [True, False, True]


def test_the_same_photographs_are_not_inverted_twice(several, session):
    ann = next(iter(session.items.sources.values()))
    switch(several, session, "two", steps=3)
    switch(several, session, "one", steps=3)
    first = ann.source.w
    frames = switch(several, session, "two", steps=3)
    assert len(frames) == 2 + 1 + 1  # loading, gone over, one for both sources, the whole
    switch(several, session, "one", steps=3)
    assert torch.equal(ann.source.w, first)


@pytest.mark.parametrize("name", ["one", "nowhere", "/etc", ""])
def test_names_from_the_browser_are_checked(several, name):
    session = Session()
    assert switch(several, session, name) == [] and session.run.model == ""


def test_a_set_that_cannot_be_loaded_changes_nothing(several, session, messages, tmp_path):
    cells = dict(session.view.cells)
    (tmp_path / "weights" / "two" / "generator.safetensors").write_bytes(b"nothing")
    for name, expected in (("far", "essence fetch far"), ("two", "generator.safetensors")):
        frames = switch(several, session, name)
        assert expected in messages[-1] and session.run.model == "" and session.view.cells == cells
        assert "Set one" in frames[-1][0] and "Loading" not in frames[-1][0]


def test_nobody_goes_over_while_learning(several, session, messages):
    course = learn(several.of(), session, learning.AGAIN, steps=50)
    next(course), next(course)
    assert len(switch(several, session, "two")) == 1
    assert "Stop the learning first" in messages[-1] and session.run.model == ""
    course.close()
    learning.after_stop(several.of(), session)
    switch(several, session, "two")
    assert session.run.model == "two"


def test_two_sessions_work_with_models_of_their_own(several, session):
    other = Session()
    switch(several, other, "two")
    sources.add_random_face(several.of(other.run.model), other)
    assert only(other.items.sources).source.model == several.of("two").models.id
    assert {item.source.model for item in session.items.ready()} == {
        several.of("one").models.id
    } and session.run.model == ""


def test_no_model_lies_in_a_session(several, session):
    """Nothing that a session holds is of torch but essences' and sources' tables, targets'
    embeddings and what photographs take over, on the CPU.
    """
    switch(several, session, "two")
    seen, queue = set(), [session]
    while queue:
        value = queue.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        assert not isinstance(value, torch.nn.Module)
        if isinstance(value, Change):
            tables = [each for each in vars(value).values() if isinstance(each, torch.Tensor)]
            assert all(each.device == torch.device("cpu") for each in tables)
            continue
        if isinstance(value, torch.Tensor):
            assert value.device == torch.device("cpu") and value.shape in {(8, 8), (8,)}
        elif isinstance(value, dict):
            queue += value.values()
        elif isinstance(value, (list, tuple)):
            queue += value
        elif type(value).__module__.split(".")[0] in ("demo", "essence"):
            queue += vars(value).values()


def test_what_waits_for_room_waits_on(several, session):
    switch(several, session, "two")
    for _ in range(MAX_ITEMS - 1):
        item = TargetItem("filler", essence=Essence(torch.zeros(8, 8), "filler"))
        session.items.targets[item.id] = item
    switch(several, session, "one")
    assert len(session.items.targets) == MAX_ITEMS and [
        item.name for item in session.items.aside["one"]
    ] == ["loaded"]


def test_the_examples_that_fit_are_shown(several, session):
    assert models.usable_examples(several, "yard") == (False, False) and models.usable_examples(
        StudioPool("one"), "one"
    ) == (True, False)
    assert [update["visible"] for update in switch(several, session, "yard")[1][1:3]] == [
        False,
        False,
    ]
    assert [update["visible"] for update in switch(several, session, "one")[1][1:3]] == [
        True,
        False,
    ]


def test_the_bundled_essences_are_shown_with_the_bundled_models():
    assert models.usable_examples(StudioPool("mini"), "mini") == (True, True)


# ---- in the browser


def test_a_visitor_goes_over_and_back_and_another_does_not(several, browser):
    app = build(several)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    try:
        first, second = (browser.new_page(viewport=PHONE) for _ in range(2))
        for page in (first, second):
            page.set_default_timeout(PATIENCE)
            page.goto(url)
            page.click("#random-face")
            settled(page, 1)
        before = picture(second)
        for name, words in (("two", "Set two"), ("one", "Set one")):
            if not first.locator("#models details[open]").count():
                first.click("#models summary")
            first.click(f"#models button[data-id={name}]")
            expect(first.locator("#models summary")).to_have_text(f"Models {words}")
            expect(first.locator("#models .used")).to_have_count(1)
            settled(first, 1)
            assert first.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        expect(second.locator("#models summary")).to_have_text("Models Set one")
        assert picture(second) == before
        for page in (first, second):
            page.close()
    finally:
        app.close()


def test_who_changes_their_mind_gets_the_set_named_last(several, browser):
    app = build(several)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    try:
        page = browser.new_page(viewport=PHONE)
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.click("#random-face")
        settled(page, 1)
        page.click("#models summary")
        button = "document.querySelector('#models button[data-id={}]').click()"
        # The way back is asked for while the way there is under way.
        page.evaluate(button.format("two"))
        expect(page.locator("#models summary")).to_have_text("Models Set two")
        page.evaluate(button.format("one"))
        expect(page.locator("#models summary")).to_have_text("Models Set one")
        settled(page, 1)
        page.close()
    finally:
        app.close()


def test_a_visitor_who_comes_while_the_models_load_is_told(several, browser, slow):
    app = build(several)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    try:
        page = browser.new_page(viewport=PHONE)
        page.goto(url)
        line = page.locator("#models summary")
        expect(line).to_have_text("Models Loading Set one … measuring: 25%")
        line.click()
        several.of().loading = ("measuring", 500, 1000)
        expect(line).to_have_text("Models Loading Set one … measuring: 50%")
        expect(page.locator("#models li").first).to_be_visible()  # news do not shut it
        page.click("#random-face")  # waits for its turn
        slow.set()
        expect(line).to_have_text("Models Set one")
        expect(page.locator("#models li").first).to_be_visible()
        settled(page, 1)
        page.close()
    finally:
        slow.set()
        app.close()


def picture(page) -> str:
    return page.locator("#sources .pair img").last.get_attribute("src")
