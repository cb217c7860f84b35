"""How the page behaves: keyboard, closed tabs, reloads, remembered settings, narrow screens,
labels.
"""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Page, expect

from . import pictures
from .browsing import (
    LOAD,
    PATIENCE,
    PHONE,
    cell,
    quickly,
    set_number,
    settled,
    unfold,
    wait_for_change,
)

pytest_plugins = ["tests.browsing"]

ESSENCE = sorted((pictures.ROOT / "assets" / "essences").glob("*"))[0]


@pytest.fixture
def at_work(studio, monkeypatch):
    """The learnings that are under way in the studio."""
    running, extract = [], studio.extract

    def counted(*args, **kwargs):
        mark = object()
        running.append(mark)
        try:
            yield from extract(*args, **kwargs)
        finally:
            running.remove(mark)

    monkeypatch.setattr(studio, "extract", counted)
    return running


def learn_for_long(page: Page) -> None:
    quickly(page)
    page.click("#random-face")
    settled(page, 1)
    page.locator("#targets-examples button").first.click()
    expect(page.locator("#targets .item")).to_have_count(1)
    set_number(page, "#steps", 1000)
    page.click("#learn")
    expect(page.locator("#progress")).to_contain_text(re.compile(r"step \d+ of 1000"))


def until(condition) -> float:
    """How long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE / 1000, "still not so"
        time.sleep(0.1)
    return time.monotonic() - began


def test_a_closed_tab_frees_the_work(visit, at_work, record_property):
    page = visit()
    learn_for_long(page)
    assert len(at_work) == 1
    page.close()
    record_property("seconds", round(until(lambda: not at_work), 1))


def test_a_reload_during_learning_starts_anew(visit, at_work):
    page = visit()
    learn_for_long(page)
    page.reload()
    page.wait_for_selector("#learn")
    until(lambda: not at_work)
    expect(page.locator("#sources .item")).to_have_count(0)
    learn_for_long(page)
    page.click("#stop")
    expect(page.locator("#progress")).to_contain_text("best essence so far is kept")
    until(lambda: not at_work)


def test_the_second_visitor_is_told_to_wait_and_gets_a_turn(visit, at_work):
    first, second = visit(), visit()
    learn_for_long(first)
    quickly(second)
    second.click("#random-face")
    settled(second, 1)
    second.locator("#targets-examples button").first.click()
    expect(second.locator("#targets .item")).to_have_count(1)
    second.click("#learn")
    expect(second.locator("#progress")).to_contain_text("1 visitor before you")
    first.close()
    expect(second.locator("#progress")).to_contain_text("Learned 1 essence")


def test_a_waiting_visitor_can_stop(visit, at_work):
    first, second = visit(), visit()
    learn_for_long(first)
    second.click("#random-face")
    settled(second, 1)
    second.locator("#targets-examples button").first.click()
    expect(second.locator("#targets .item")).to_have_count(1)
    second.click("#learn")
    expect(second.locator("#progress")).to_contain_text("before you")
    second.click("#stop")
    expect(second.locator("#progress")).to_contain_text("Nothing was learned yet")
    expect(second.locator("#learn")).to_be_visible()
    first.close()
    until(lambda: not at_work)
    second.wait_for_timeout(3000)
    assert not at_work
    expect(second.locator("#targets")).to_contain_text("essence at once")


def test_keyboard_only(visit):
    page = visit()

    def press(selector: str, key: str = "Enter") -> None:
        page.locator(selector).first.focus()
        page.keyboard.press(key)

    press("#sources-examples button")
    settled(page, 1)
    press("#targets-examples button")
    expect(page.locator("#targets .item")).to_have_count(1)
    page.locator(".es-card").nth(1).get_by_role("button", name="Ready-made essences").focus()
    page.keyboard.press("Enter")
    press("#essences-examples button")
    expect(page.locator("#board .cell img")).to_have_count(2)
    before = cell(page, 0)
    for _ in range(6):
        press("#board [data-row] input[type=range]", "ArrowLeft")
    wait_for_change(page, 0, before)
    assert page.locator("#board [data-row] input[type=range]").first.input_value() == "0.7"
    press("#board .cell")
    expect(page.locator("dialog.compare[open]")).to_be_visible()
    press("dialog.compare .stack input", "End")
    assert (
        page.locator("dialog.compare .stack").evaluate("e => e.style.getPropertyValue('--cut')")
        == "100%"
    )
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
    press("#sources [data-event=crop]", "Space")
    expect(page.locator("dialog.crop[open]")).to_be_visible()
    page.keyboard.press("Escape")
    press("#sources [data-event=remove]")
    expect(page.locator("#sources .item")).to_have_count(0)
    expect(page.locator("#sources [data-event=undo]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#sources .item")).to_have_count(1)


def test_every_control_has_a_name(visit):
    page = visit()
    page.click("#random-face")
    settled(page, 1)
    page.set_input_files(LOAD, ESSENCE)
    page.click("#board .cell")
    expect(page.locator("dialog.compare[open]")).to_be_visible()
    controls = "button, input, img, [role=button], [role=img], [role=textbox], [role=group]"
    nameless = page.evaluate(
        """controls => [...document.querySelectorAll(controls)].filter(e => {
        if (!e.checkVisibility() || e.type === 'file' || e.matches('img[alt=""]')) return false;
        const label = e.labels?.[0]?.textContent.trim();
        return !(e.ariaLabel || e.title || e.alt || label || e.textContent.trim() || e.getAttribute("aria-labelledby"));
    }).map(e => e.outerHTML.slice(0, 160))""",
        controls,
    )
    assert not nameless


# Texts whose contrast to what is behind them is below 4.5, as WCAG 2 counts it. Pictures and
# gradients are not looked at.
PALE = """() => {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const over = (top, below) => below.map((value, i) => (top[i] * top[3] + value * (255 - top[3])) / 255);
    const behind = (e) => (e ? over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255]);
    const linear = (value) => (value <= 10.3 ? value / 3295 : ((value / 255 + 0.055) / 1.055) ** 2.4);
    const luminance = (colour) => colour.map(linear).reduce((sum, value, i) => sum + [0.2126, 0.7152, 0.0722][i] * value, 0.05);
    const written = (e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const shown = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.clientWidth > 1;
    return [...document.querySelectorAll("body *")].filter((e) => written(e) && shown(e)).filter((e) => {
        const ground = behind(e);
        const [dark, light] = [ground, over(rgba(getComputedStyle(e).color), ground)].map(luminance).sort((a, b) => a - b);
        return light / dark < 4.5;
    }).map((e) => e.textContent.trim().slice(0, 40));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(visit, scheme):
    page = visit(color_scheme=scheme)
    page.click("#random-face")
    settled(page, 1)
    page.set_input_files(LOAD, ESSENCE)
    expect(page.locator("#board .cell img")).to_have_count(1)
    page.click("[data-event=figures]")
    expect(page.locator("#board .explain")).to_be_visible()
    unfold(page, 2, "Settings")
    page.wait_for_timeout(500)
    assert page.evaluate(PALE) == []
    page.add_style_tag(content="#board .explain { color: grey !important; opacity: 1 }")
    assert [text[:8] for text in page.evaluate(PALE)] == ["Identity"]


def test_settings_are_remembered(visit):
    page = visit()
    page.locator("#preset").get_by_text("quick").click()
    unfold(page, 2, "Settings")
    expect(page.locator("#steps input[type=number]")).to_have_value("40")
    set_number(page, "#steps", 37)
    page.wait_for_timeout(1000)
    page.reload()
    page.wait_for_selector("#learn")
    unfold(page, 2, "Settings")
    expect(page.locator("#steps input[type=number]")).to_have_value("37")
    expect(page.locator("#preset input[value=quick]")).to_be_checked()


def test_settings_that_come_back_late_overwrite_nothing(browser, address):
    """They wait for the first answer: the call that brings it is held back here."""
    page, held = browser.new_page(), []
    page.route(
        re.compile("/run/"), lambda route: held.append(route)
    )  # Playwright marks what it is given
    page.goto(address)
    page.wait_for_selector("#learn")
    unfold(page, 2, "Settings")
    steps = page.locator("#steps input[type=number]")
    expect(steps).to_be_disabled()
    for route in [*held]:
        route.continue_()
    page.unroute_all()
    expect(steps).to_be_enabled()
    expect(page.locator("#preset input").first).to_be_enabled()
    set_number(page, "#steps", 33)
    expect(steps).to_have_value("33")
    page.close()


def test_a_link_reopens_the_settings(visit, address):
    page = visit()
    unfold(page, 2, "Settings")
    page.locator("#preset").get_by_text("thorough").click()
    expect(page.locator("#steps input[type=number]")).to_have_value("300")
    set_number(page, "#steps", 210)
    page.click("#link")
    page.wait_for_url(re.compile("steps=210"))
    another = visit()
    another.goto(page.url)
    another.wait_for_selector("#learn")
    unfold(another, 2, "Settings")
    expect(another.locator("#steps input[type=number]")).to_have_value("210")
    expect(another.locator("#preset input[value=thorough]")).to_be_checked()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_of_a_phone_whatever_is_open(visit, tmp_path, scheme):
    page = visit(viewport=PHONE, color_scheme=scheme)
    quickly(page)
    photograph = pictures.photograph(tmp_path / "a-photograph-with-quite-a-long-name.jpg", (0, 1))
    page.set_input_files("#sources-upload input[type=file]", photograph)
    settled(page, 1)
    page.set_input_files(LOAD, ESSENCE)
    expect(page.locator("#board .cell img")).to_have_count(1)
    assert narrow(page)
    page.click("[data-event=figures]")
    page.click("[data-mixing='1']")
    expect(page.locator("#board .mixed")).to_be_visible()
    assert narrow(page)
    for opener, dialog in (
        ("#board .cell", "dialog.compare[open]"),
        ("#sources [data-event=crop]", "dialog.crop[open]"),
    ):
        page.locator(opener).first.click()
        expect(page.locator(dialog)).to_be_visible()
        box = page.locator(dialog).bounding_box()
        assert narrow(page) and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
        assert page.locator(dialog).evaluate("e => e.scrollWidth <= e.clientWidth")
        page.keyboard.press("Escape")


def test_the_rows_of_a_grid_wider_than_a_phone_scroll_together(visit):
    page = visit(viewport=PHONE)
    for number in range(6):
        page.click("#random-face")
        settled(page, number + 1)
    page.set_input_files(LOAD, ESSENCE)
    expect(page.locator("#board .cell img")).to_have_count(6)
    assert narrow(page)
    rows = page.locator("#board .cells")
    rows.last.evaluate("e => e.scrollLeft = 40")
    expect(rows).to_have_count(2)
    page.wait_for_function(
        "[...document.querySelectorAll('#board .cells')].every(e => e.scrollLeft === 40)"
    )


def narrow(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
