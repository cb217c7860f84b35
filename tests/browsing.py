"""What the browser tests share: a real server with the bundled models, a real browser, and what a
person does with them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from demo import LAUNCH, build
from essence import Studio

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE = 300_000  # milliseconds; a shared machine may be ten times slower than another day
expect.set_options(timeout=PATIENCE)
LOAD = "#targets-upload input[type=file]"
# The words of Gradio and of several Chromiums when a page with an open stream is left, as this test
# does, and no other.
LEAVING, LEFT = (
    ("BodyStreamBuffer was aborted", "signal is aborted", "Connection errored out"),
    "test_a_reload_during_learning_starts_anew",
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def studio():
    return Studio()


@pytest.fixture(scope="session")
def address(studio):
    app = build(studio)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    yield url.rstrip("/")
    app.close()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM") or shutil.which(
            "chromium"
        )  # otherwise Playwright's own
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(request, browser, address):
    """Opens the page for a new visitor. At the end: nothing came from elsewhere, no page had an
    error.
    """
    contexts, wrong = [], []

    def open_page(**options) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type == "error" else None,
        )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "data:", "blob:"))
                else wrong.append(request.url)
            ),
        )
        page.goto(address)
        page.wait_for_selector("#learn")
        return page

    yield open_page
    for context in contexts:
        context.close()
    if request.node.name == LEFT:
        wrong = [text for text in wrong if not any(known in text for known in LEAVING)]
    assert not wrong, wrong


# ---- what a person does


def set_number(page: Page, control: str, value: int) -> None:
    """Again where the page was still putting the control in place."""
    field = page.locator(f"{control} input[type=number]")
    for _ in range(20):
        field.fill(str(value))
        field.press("Tab")
        page.wait_for_timeout(200)
        if field.input_value() == str(value):
            return
    raise AssertionError(f"{control} does not take {value}")


def unfold(page: Page, card: int, label: str) -> None:
    page.locator(".es-card").nth(card).get_by_role("button", name=label).click()


def quickly(page: Page) -> None:
    """Few steps of refinement and learning."""
    unfold(page, 0, "Options")
    set_number(page, "#refine-steps", 2)
    unfold(page, 2, "Settings")
    set_number(page, "#steps", 12)


def add_sources(page: Page, *files: Path) -> None:
    count = page.locator("#sources .item").count()
    page.set_input_files("#sources-upload input[type=file]", files)
    settled(page, count + len(files))


def settled(page: Page, count: int) -> None:
    """So many sources, none of them still being refined."""
    expect(page.locator("#sources .item")).to_have_count(count)
    expect(page.locator("#sources")).not_to_contain_text("refining")
    expect(page.locator("#sources .busy")).to_have_count(0)


def add_targets(page: Page, *files: Path) -> None:
    count = page.locator("#targets .item").count()
    page.set_input_files("#targets-upload input[type=file]", files)
    expect(page.locator("#targets .item")).to_have_count(count + len(files))


def drag(page: Page, slider: str, part: float) -> None:
    """With the mouse, from the middle to `part` of the slider's length."""
    page.locator(slider).scroll_into_view_if_needed()
    box = page.locator(slider).bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + part * box["width"], y, steps=8)
    page.mouse.up()


def download(page: Page, button: str, path: Path) -> str:
    with page.expect_download() as arriving:
        page.locator(button).first.click()
    arriving.value.save_as(path)
    return arriving.value.suggested_filename


def cell(page: Page, row: int, column: int = 0) -> str:
    return (
        page.locator(f"#board .line:nth-child({row + 2}) .cell img")
        .nth(column)
        .get_attribute("src")
    )


def wait_for_change(page: Page, row: int, before: str) -> None:
    expect(
        page.locator(f"#board .line:nth-child({row + 2}) .cell img").first
    ).not_to_have_attribute("src", before)


def message(page: Page, text: str):
    return page.locator(".toast-body", has_text=text).first
