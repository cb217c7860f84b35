"""In the browser, with tiny models: what a target shows by itself, words, faces from words,
strengths that suit.
"""

from __future__ import annotations

import re
from itertools import count

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from demo import LAUNCH, build
from essence import Studio
from essence.models.vocabulary import untaught_words

from . import fakes, pictures
from .browsing import DESKTOP, PHONE, cell, set_number, settled, unfold, wait_for_change

pytest_plugins = ["tests.browsing"]


@pytest.fixture(scope="module")
def studio():
    """Whose encoder counts its words."""
    studio = fakes.studio()
    random_source = studio.random_source
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(studio), "unknown_words", lambda _, text: untaught_words(text))
        patch.setattr(studio, "identity_distances", distances)
        patch.setattr(studio, "random_source", lambda _: random_source(next(studio.seeds)))
        yield studio


@pytest.fixture(autouse=True)
def same_faces(studio):
    """The same ones each time."""
    studio.seeds = count()


@pytest.fixture(scope="module")
def address(studio):
    app = build(studio)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    yield url.rstrip("/")
    app.close()


def distances(before: np.ndarray, after: np.ndarray) -> list[float]:
    """Instead of the face network, which sees no faces here."""
    return (np.abs(after.astype(float) - before).mean((1, 2, 3)) / 40).tolist()


def random_faces(page: Page, count: int) -> None:
    for number in range(1, count + 1):
        page.click("#random-face")
        settled(page, number)


def field(page: Page, name: str):
    return page.locator(f"#{name} :is(input, textarea)")


def rows(page: Page, count: int) -> None:
    expect(page.locator("#board [data-row]")).to_have_count(count)


def measured(page: Page) -> None:
    expect(page.locator("#board [data-unmeasured]")).to_have_count(0)


def test_a_dropped_target_shows_itself_and_learning_goes_on_from_there(visit):
    page = visit()
    random_faces(page, 2)
    page.set_input_files("#targets-upload input[type=file]", pictures.SOURCES[0])
    expect(page.locator("#board .cell img")).to_have_count(2)  # by itself
    expect(page.locator("#targets")).to_contain_text("essence at once")
    at_once = cell(page, 0)
    unfold(page, 2, "Settings")
    set_number(page, "#steps", 1000)
    page.click("#learn")
    expect(page.locator("#progress")).to_contain_text(re.compile(r"step \d{2,} of 1000"))
    page.click("#stop")
    expect(page.locator("#progress")).to_contain_text("so far is kept")
    expect(page.locator("#targets")).to_contain_text(re.compile(r"likeness .* → "))
    wait_for_change(page, 0, at_once)
    page.locator("#mode").get_by_text("continue all").click()
    set_number(page, "#steps", 5)
    page.click("#learn")
    expect(page.locator("#progress")).to_contain_text(
        re.compile(r"Learned 1 essence.*Likeness to 1 target: \d\.\d\d → \d\.\d\d"),
    )


def test_of_several_starts_one_answer_is_taken_by_a_click(visit):
    page = visit()
    random_faces(page, 1)
    page.set_input_files("#targets-upload input[type=file]", pictures.SOURCES[0])
    expect(page.locator("#board .cell img").first).to_be_visible()
    unfold(page, 2, "Settings")
    set_number(page, "#steps", 4)
    set_number(page, "#starts", 3)
    # Random networks and a face network that sees no faces: nobody would change at all.
    set_number(page, "#identity", 0)
    page.click("#learn")
    answers = page.locator("#targets [data-event=choice]")
    expect(answers).to_have_count(3)
    expect(answers.first).to_have_attribute("aria-pressed", "true")
    before = cell(page, 0)
    answers.nth(1).click()
    expect(answers.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(answers.first).to_have_attribute("aria-pressed", "false")
    wait_for_change(page, 0, before)


@pytest.mark.parametrize(
    "viewport, scheme",
    [pytest.param(DESKTOP, "light", marks=pytest.mark.slow), (PHONE, "dark")],
    ids=["desktop", "phone"],
)
def test_a_target_in_words_from_chips_and_keys(visit, viewport, scheme):
    page = visit(viewport=viewport, color_scheme=scheme)
    random_faces(page, 1)
    unfold(page, 1, "Words to choose from")
    for phrase in ("old", "a beard", "lit from the left"):
        page.locator(f'#notions [data-id="{phrase}"]').focus()
        before = field(page, "words").input_value()
        page.keyboard.press("Enter")
        expect(field(page, "words")).not_to_have_value(before)
    expect(field(page, "words")).to_have_value("an old person with a beard, lit from the left")
    field(page, "neutral").fill("a person")
    field(page, "words").press("Enter")
    rows(page, 1)
    expect(field(page, "words")).to_have_value("")
    expect(page.locator("#targets .words")).to_contain_text("an old person with a beard")
    expect(page.locator("#targets")).to_contain_text("from “a person”")
    expect(page.locator("#board .words")).to_be_visible()
    for card in page.locator(".words").all():
        inside = card.evaluate("e => e.firstElementChild.scrollHeight <= e.clientHeight + 1")
        assert inside
    field(page, "words").fill("a pirate with purple hair")
    page.click("#add-words")
    told = page.locator(".toast-body", has_text="purple hair")
    expect(told).to_contain_text("near it: red hair")
    expect(told).to_contain_text("--model ffhq")
    rows(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


@pytest.mark.slow
def test_a_face_from_words_is_chosen_as_a_source(visit):
    page = visit()
    page.set_input_files("#targets-upload input[type=file]", pictures.SOURCES[0])
    field(page, "face-words").fill("a smiling woman")
    page.click("#imagine")
    expect(page.locator("#imagined")).to_contain_text(re.compile(r"seed \d+: choose one"))
    seed = re.search(r"seed \d+", page.locator("#imagined").inner_text())[0]
    page.locator("#imagined button").nth(2).click()
    settled(page, 1)
    expect(page.locator("#sources")).to_contain_text(seed)
    expect(page.locator("#sources .item header b")).to_have_text("a smiling woman 3")
    expect(page.locator("#board .cell img")).to_have_count(1)


def test_strengths_that_suit_and_cells_that_are_held(visit):
    page = visit()
    random_faces(page, 2)
    page.set_input_files("#targets-upload input[type=file]", pictures.SOURCES[:2])
    rows(page, 2)
    measured(page)
    expect(page.locator("#board .scale[role=img]")).to_have_count(2)
    sliders = page.locator("#board [data-row] input[type=range]")

    def values() -> list[float]:
        return [float(each) for each in sliders.evaluate_all("all => all.map(e => e.value)")]

    assert values() == [1, 1]
    sliders.first.fill("-1.2")
    page.wait_for_timeout(300)
    page.click("#board [data-event=suiting]")
    expect(page.locator("#board [data-event=suiting]")).to_have_attribute("aria-pressed", "true")
    expect(sliders.first).not_to_have_value("-1.2")
    measured(page)  # the second row's too
    suited = values()
    assert all(0 <= value <= 2 for value in suited)
    # The hand has it again, and keeps it.
    sliders.first.fill("1.8")
    page.click("#board [data-event=figures]")
    expect(page.locator("#board .figures").first).to_contain_text("likeness")
    assert values() == [1.8, suited[1]]
    sliders.nth(1).fill("2")
    expect(page.locator("#board [data-lacking]")).to_have_count(0)
    page.click("#board [data-budget='0.3']")
    measured(page)
    expect(page.locator("#board [data-lacking]")).to_have_count(0)
    texts = " ".join(page.locator("#board .figures").all_inner_texts())
    kept = [float(each) for each in re.findall(r"identity (\d\.\d+)", texts)]
    assert len(kept) == 4 and max(kept) <= 0.3 + 0.05  # interpolated
    assert values() == [1.8, 2]


# ---- with the bundled models


def test_the_bundled_models_answer_at_once_and_well():
    studio = Studio("mini")
    people = [studio.random_source(seed) for seed in range(3, 7)]
    for name in ("grin", "drawn-redhead"):
        picture = pictures.ROOT / "assets" / "targets" / f"{name}.jpg"
        target = studio.target(picture, aligned=True)
        before, after = studio.cosines(target, people, studio.instant(target))
        assert after > before + 0.1
    said = studio.text_target("an old man with grey hair")
    before, after = studio.cosines(said, people, studio.instant(said))
    assert after > before + 0.02 and studio.instant(said).text == said.text
