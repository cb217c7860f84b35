"""The page as a person uses it: a real server with the bundled models, a real browser."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from PIL import Image
from playwright.sync_api import expect

from essence import Essence

from . import fakes, pictures
from .browsing import (
    LOAD,
    PATIENCE,
    PHONE,
    add_sources,
    add_targets,
    cell,
    download,
    drag,
    message,
    quickly,
    set_number,
    settled,
    wait_for_change,
)

pytest_plugins = ["tests.browsing"]


# ---- the whole job


def test_from_photographs_and_a_target_to_an_essence_on_disk_and_back(
    visit, tmp_path, record_property
):
    page = visit()
    quickly(page)
    add_sources(
        page,
        pictures.photograph(tmp_path / "ann.jpg", (0,)),
        pictures.photograph(tmp_path / "bob.jpg", (1,)),
    )
    assert (
        page.locator("#sources .item").first.locator("img").count() == 2
    )  # the crop, and what the model understood

    add_targets(page, pictures.photograph(tmp_path / "idol.jpg", (2,)))
    set_number(page, "#steps", 24)
    page.click("#learn")
    expect(page.locator("#progress polyline").first).to_be_visible()
    expect(page.locator("#progress .previews img")).to_have_count(3)
    expect(page.locator("#progress")).to_contain_text("of 24")
    expect(page.locator("#progress")).to_contain_text("Learned 1 essence")
    expect(page.locator("#board .cell img")).to_have_count(2)

    set_number(page, "#steps", 1000)
    add_targets(page, pictures.ROOT / "assets" / "targets" / "drawn-redhead.jpg")
    page.click("#learn")
    expect(page.locator("#progress")).to_contain_text(re.compile(r"step ([5-9]|\d\d) of 1000"))
    began = time.monotonic()
    page.click("#stop")
    expect(page.locator("#progress")).to_contain_text("best essence so far is kept")
    record_property("seconds from stop to its answer", round(time.monotonic() - began, 2))
    expect(page.locator("#learn")).to_be_visible()
    expect(page.locator("#board .cell img")).to_have_count(4)
    page.wait_for_timeout(1500)
    expect(page.locator("#progress")).to_contain_text(
        "best essence so far is kept"
    )  # nothing goes on behind

    first, second = cell(page, 0), cell(page, 1)
    drag(page, "#board .line:nth-child(2) input[type=range]", 0.1)
    wait_for_change(page, 0, first)
    assert cell(page, 1) == second
    page.wait_for_timeout(500)
    assert (
        float(page.locator("#board .line:nth-child(2) input[type=range]").input_value()) < -0.5
    )  # it stays where the hand left it
    drag(page, "#board .line.first input[type=range]", 0.95)
    wait_for_change(page, 1, second)
    values = page.locator("#board input[type=range]").evaluate_all("all => all.map(e => e.value)")
    assert len(set(values)) == 1 and float(values[0]) > 1.5

    page.locator("#board .cell").first.click()
    expect(page.locator("dialog[open] .stack img:visible")).to_have_count(2)
    drag(page, "dialog[open] .stack input", 0.2)
    assert (
        page.locator("dialog .stack").evaluate("e => parseFloat(e.style.getPropertyValue('--cut'))")
        < 30
    )
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)

    assert download(page, "#board .download", tmp_path / "grid.png").endswith(".png")
    with Image.open(tmp_path / "grid.png") as grid:
        grid.load()
        assert grid.format == "PNG" and grid.width > 300 and grid.height > 300
    name = download(page, "#board [data-event=save]", tmp_path / "idol.essence.safetensors")
    assert (
        name == "idol.essence.safetensors" and Essence.load(tmp_path / name).thumbnail is not None
    )

    page.reload()
    page.wait_for_selector("#learn")
    expect(page.locator("#sources .item")).to_have_count(0)
    page.set_input_files(LOAD, tmp_path / name)
    expect(page.locator("#targets .item img")).to_have_count(1)
    expect(page.locator("#targets")).to_contain_text("essence ready")
    page.click("#random-face")
    expect(page.locator("#board .cell img")).to_have_count(1)


def test_bad_files_are_told_and_the_page_goes_on(visit, tmp_path):
    page = visit()
    quickly(page)
    bad = {
        pictures.no_face(tmp_path / "wall.png"): "No face found",
        pictures.empty(tmp_path / "nothing.jpg"): "0 bytes",
        pictures.truncated(tmp_path / "half.jpg"): "damaged or cut short",
        pictures.text(tmp_path / "letter.png"): "not a picture",
        pictures.huge(tmp_path / "huge.png"): "20000 x 20000",
    }
    page.set_input_files(
        "#sources-upload input[type=file]", [*bad, pictures.animation(tmp_path / "wink.gif")]
    )
    for text in bad.values():
        expect(message(page, text)).to_be_visible()
    settled(page, 1)

    add_sources(page, pictures.photograph(tmp_path / "five.jpg", (0, 1, 2, 3, 4), 260))
    expect(message(page, "5 faces found")).to_be_visible()
    faces = page.locator("#sources .faces button")
    expect(faces).to_have_count(5)
    faces.nth(2).click()
    expect(faces.nth(2)).to_have_attribute("aria-pressed", "true")
    settled(page, 2)

    other = pictures.strange_essence(tmp_path / "other.essence.safetensors")
    page.set_input_files(
        LOAD, [other, pictures.corrupted_essence(tmp_path / "torn.essence.safetensors")]
    )
    expect(message(page, "18, 512")).to_be_visible()
    expect(message(page, "torn")).to_be_visible()
    expect(page.locator("#targets .item")).to_have_count(0)
    page.click("#random-face")
    settled(page, 3)


def test_two_visitors_do_not_mix(visit, tmp_path, studio):
    first, second = visit(), visit()
    for page in (first, second):
        quickly(page)
    first.set_input_files(
        "#sources-upload input[type=file]", pictures.photograph(tmp_path / "ann.jpg", (0,))
    )
    second.set_input_files(
        "#sources-upload input[type=file]", pictures.photograph(tmp_path / "bob.jpg", (1,))
    )
    settled(first, 1), settled(second, 1)
    expect(first.locator("#sources")).to_contain_text("ann")
    expect(second.locator("#sources")).to_contain_text("bob")
    first.locator("#targets-examples button").first.click()
    expect(first.locator("#targets .item")).to_have_count(1)
    first.click("#learn")
    second.locator("#sources-examples button").first.click()  # while the other one learns
    settled(second, 2)
    expect(first.locator("#board .cell img")).to_have_count(1)
    expect(second.locator("#targets .item")).to_have_count(0)
    expect(second.locator("#board .cell")).to_have_count(0)
    expect(first.locator("#sources .item")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out(visit, tmp_path, studio, scheme):
    page = visit(viewport=PHONE, color_scheme=scheme)
    essence = Essence(
        studio.random_source(1).w - studio.random_source(2).w, "difference", studio.models.id
    )
    essence.save(tmp_path / "difference.essence.safetensors")
    for count in (1, 2, 3):
        page.click("#random-face")
        settled(page, count)
    page.set_input_files(LOAD, tmp_path / "difference.essence.safetensors")
    expect(page.locator("#board .cell img")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    brightness = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (max(brightness) < 64) == (scheme == "dark")


# ---- the command


@contextmanager
def served(*words: str):
    """(address, process) of `python app.py WORDS`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), *words]
    server = subprocess.Popen(
        command, cwd=pictures.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.terminate()
        server.wait(PATIENCE / 1000)


def test_app_starts_and_answers():
    with served() as (url, server):
        assert "Essence" in answer(url, server)


def test_models_that_cannot_be_loaded_are_one_line_on_the_console(tmp_path):
    folder = fakes.files(tmp_path / "own")
    (folder / "generator.safetensors").write_bytes(b"nothing")
    with served("--model", str(folder)) as (url, server):
        assert server.stderr.readline().decode().startswith("essence: generator.safetensors")
        assert "Essence" in answer(url, server)  # another set can still be chosen
    assert "Traceback" not in server.stderr.read().decode()


def answer(url: str, server: subprocess.Popen) -> str:
    """What the server says, once it does."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE / 1000:
        assert server.poll() is None, server.stderr.read().decode()
        try:
            return urllib.request.urlopen(url, timeout=60).read().decode()
        except OSError:
            time.sleep(0.25)
    raise AssertionError("no answer")
