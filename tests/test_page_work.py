"""The page's finer tools in a real browser: crop, order, mixture, layers, the large view, figures,
stop and continue.
"""

from __future__ import annotations

import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks import latency
from demo import LAUNCH, build
from demo.panels.downloads import saved_bytes
from essence import Essence, Nudge
from essence.pictures import align

from . import fakes, pictures
from .browsing import (
    LOAD,
    PATIENCE,
    add_sources,
    add_targets,
    cell,
    download,
    drag,
    quickly,
    set_number,
    settled,
    wait_for_change,
)

pytest_plugins = ["tests.browsing"]

TARGETS = pictures.ROOT / "assets" / "targets"
ESSENCES = sorted((pictures.ROOT / "assets" / "essences").glob("*"))


def load_essences(page: Page, count: int = 1) -> None:
    """Ready-made ones."""
    page.set_input_files(LOAD, ESSENCES[:count])
    expect(page.locator("#targets .item")).to_have_count(count)


def random_faces(page: Page, count: int) -> None:
    for number in range(1, count + 1):
        page.click("#random-face")
        settled(page, number)


def picture_of(page: Page, selector: str) -> str:
    return page.locator(selector).first.get_attribute("src")


def pixels(url: str) -> np.ndarray:
    import base64

    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"), np.float32)


# ---- the crop


def test_a_nudged_crop_is_inverted_again(visit, tmp_path):
    page = visit()
    quickly(page)
    photograph = pictures.photograph(tmp_path / "two.jpg", (0, 1))
    add_sources(page, photograph)
    crop, model = (picture_of(page, f"#sources .pair figure:nth-child({i}) img") for i in (1, 2))
    page.click("#sources [data-event=crop]")
    expect(page.locator("dialog.crop[open] .photo img")).to_be_visible()
    expect(page.locator("dialog.crop .others polygon")).to_have_count(1)  # the other face, dashed
    outline = page.locator("dialog.crop .chosen").get_attribute("points")
    page.locator("dialog.crop input[name=zoom]").fill("1.5")
    assert (
        page.locator("dialog.crop .chosen").get_attribute("points") != outline
    )  # at once, in the page
    expect(page.locator("#sources .pair figure:nth-child(1) img")).not_to_have_attribute(
        "src", crop
    )
    expect(page.locator("#sources .pair figure:nth-child(2) img")).not_to_have_attribute(
        "src", model
    )
    settled(page, 1)
    image = align.load_image(photograph)
    wanted = align.cut(image, align.locate(image).squares[0].nudged(Nudge(zoom=1.5)), 256).resize(
        (160, 160), Image.Resampling.LANCZOS
    )
    shown = pixels(picture_of(page, "dialog.crop .result img"))
    assert np.abs(shown - np.asarray(wanted, np.float32)).mean() < 6
    page.click("dialog.crop [data-reset]")
    expect(page.locator("#sources .pair figure:nth-child(1) img")).to_have_attribute("src", crop)
    page.click("dialog.crop [data-close]")
    expect(page.locator("dialog[open]")).to_have_count(0)


def test_the_square_follows_the_pointer(visit, tmp_path):
    page = visit()
    quickly(page)
    add_sources(page, pictures.photograph(tmp_path / "ann.jpg"))
    crop = picture_of(page, "#sources .pair img")
    page.click("#sources [data-event=crop]")
    box = page.locator("dialog.crop[open] .photo svg").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y - 15, steps=5)
    page.mouse.up()
    right, down = (
        float(page.locator(f"dialog.crop input[name={name}]").input_value())
        for name in ("right", "down")
    )
    assert right > 0.03 and down < -0.01
    expect(page.locator("#sources .pair img").first).not_to_have_attribute("src", crop)


# ---- the shelf


def test_order_names_and_undo(visit):
    page = visit()
    quickly(page)
    add_sources(page, *pictures.SOURCES[:3])
    names = page.locator("#sources .item header b")
    expect(names).to_have_text(["ada", "ben", "cora"])
    page.locator("#sources [data-event=move][data-by='1']").first.click()
    expect(names).to_have_text(["ben", "ada", "cora"])
    names.nth(1).fill("Ada <b>L.</b>")
    names.nth(1).press("Enter")
    expect(names).to_have_text(["ben", "Ada <b>L.</b>", "cora"])
    page.wait_for_timeout(300)
    page.locator("#sources [data-event=remove]").nth(1).click()
    expect(names).to_have_text(["ben", "cora"])
    page.click("#sources [data-event=undo]")
    expect(names).to_have_text(["ben", "Ada <b>L.</b>", "cora"])
    page.click("#clear-sources")
    expect(names).to_have_count(0)
    page.click("#sources [data-event=undo]")
    expect(names).to_have_count(3)


def test_an_essence_file_dropped_on_the_targets(visit):
    page = visit()
    page.locator("#targets-upload button").first.wait_for()
    dropped = page.evaluate_handle(
        """([bytes, name]) => { const data = new DataTransfer(); data.items.add(new File([new Uint8Array(bytes)], name)); return data; }""",
        [list(ESSENCES[0].read_bytes()), ESSENCES[0].name],
    )
    page.dispatch_event("#targets-upload button", "drop", {"dataTransfer": dropped})
    expect(page.locator("#targets")).to_contain_text("essence ready")
    expect(page.locator("#targets .item header b")).to_have_text([Essence.load(ESSENCES[0]).name])


# ---- learning


def test_stop_then_continue(visit):
    page = visit()
    quickly(page)
    random_faces(page, 1)
    add_targets(page, TARGETS / "grin.jpg")
    expect(page.locator("#mode")).to_be_hidden()
    set_number(page, "#steps", 1000)
    page.click("#learn")
    expect(page.locator("#progress")).to_contain_text(re.compile(r"step (\d{2,}) of 1000"))
    page.click("#stop")
    expect(page.locator("#progress")).to_contain_text("best essence so far is kept")
    stopped = cell(page, 0)
    page.locator("#mode").get_by_text("continue all").click()
    set_number(page, "#steps", 30)
    page.click("#learn")
    expect(page.locator("#progress")).to_contain_text("Learned 1 essence")
    wait_for_change(page, 0, stopped)
    expect(page.locator("#learn")).to_be_visible()


# ---- blending


def test_a_mixture_has_a_strength_for_each_essence(visit, tmp_path):
    page = visit()
    random_faces(page, 2)
    load_essences(page, 2)
    expect(page.locator("#board .cell img")).to_have_count(4)
    page.click("[data-mixing='1']")
    expect(page.locator("#board .cell img")).to_have_count(2)
    sliders = page.locator("#board .part input[type=range]")
    expect(sliders).to_have_count(2)
    for number in range(2):
        before = cell(page, 0)
        sliders.nth(number).fill(str(1.2 - number))
        wait_for_change(page, 0, before)
    assert [sliders.nth(i).input_value() for i in range(2)] == ["1.2", "0.2"]
    name = download(page, "#board .first [data-event=save]", tmp_path / "mix.safetensors")
    parts = Essence.load(tmp_path / "mix.safetensors").provenance["parts"]
    assert name == "mixture.essence.safetensors" and [part["strength"] for part in parts] == [
        1.2,
        0.2,
    ]
    page.click("[data-mixing='0']")
    expect(page.locator("#board .cell img")).to_have_count(4)
    assert (
        page.locator("#board [data-row] input[type=range]").first.input_value() == "1"
    )  # the grid has strengths of its own


def test_a_click_counts_the_sliders_as_they_stand(visit, tmp_path):
    page = visit()
    random_faces(page, 1)
    load_essences(page)
    expect(page.locator("#board .cell img")).to_have_count(1)
    expect(page.locator("#board [data-coarse]")).to_have_count(0)
    under_way = []
    page.route("**/component_server/", lambda route: under_way.append(route))  # the next move waits
    slider = page.locator("#board [data-row] input[type=range]")
    slider.fill("-0.5")
    while not under_way:
        page.wait_for_timeout(20)
    slider.fill("0.65")
    download(page, "#board [data-event=save]", tmp_path / "moved.safetensors")
    assert Essence.load(tmp_path / "moved.safetensors").strength == pytest.approx(0.65)
    assert len(under_way) == 1


def test_layer_switches(visit, studio):
    page = visit()
    random_faces(page, 1)
    load_essences(page)
    expect(page.locator("#board .cell img")).to_have_count(1)
    whole = cell(page, 0)
    seen = {whole}
    for band in ("coarse", "middle", "fine"):
        before = cell(page, 0)
        page.click(f"[data-band={band}]")
        expect(page.locator(f"[data-band={band}]")).to_have_attribute("aria-pressed", "false")
        wait_for_change(page, 0, before)
        seen.add(cell(page, 0))
    assert len(seen) == 4
    source = picture_of(page, "#board .head img")
    assert np.abs(pixels(cell(page, 0)) - pixels(source)).max() < 2  # no layer, no change
    (
        page.click("[data-band=coarse]"),
        page.click("[data-band=middle]"),
        page.click("[data-band=fine]"),
    )
    expect(page.locator("#board .cell img")).to_have_attribute("src", whole)


def test_an_answer_that_is_overtaken_does_not_stay(visit):
    page = visit()
    random_faces(page, 1)
    load_essences(page)
    expect(page.locator("#board .cell img")).to_have_count(1)
    coarse, fine = (page.locator(f"[data-band={band}]") for band in ("coarse", "fine"))
    held = []

    def hold(route):
        answer = route.fetch()  # the server has done it
        held.append((route, answer))
        if len(held) > 1:
            route.fulfill(response=answer)

    page.route("**/run/**", hold)
    coarse.click()
    while not held:
        page.wait_for_timeout(20)
    fine.click()
    expect(fine).to_have_attribute("aria-pressed", "false")
    expect(coarse).to_have_attribute("aria-pressed", "false")
    late, answer = held[0]
    with page.expect_response(lambda response: response.request == late.request):
        late.fulfill(response=answer)
    page.wait_for_timeout(500)
    expect(fine).to_have_attribute("aria-pressed", "false")


def test_strengths_of_the_grid_are_not_taken_for_the_mixture_s(visit):
    page = visit()
    random_faces(page, 1)
    load_essences(page, 2)
    expect(page.locator("#board .cell img")).to_have_count(2)
    before = cell(page, 0)
    page.locator("#board [data-row] input[type=range]").first.fill("1.7")
    wait_for_change(page, 0, before)
    held = []

    def hold(route):
        answer = route.fetch()  # the server shows the mixture, the page still the grid
        held.append(route)
        if len(held) > 1:
            route.fulfill(response=answer)

    page.route("**/run/**", hold)
    page.click("[data-mixing='1']")
    while not held:
        page.wait_for_timeout(20)
    page.click("#board [data-event=figures]")
    sliders = page.locator("#board .part input[type=range]")
    expect(sliders).to_have_count(2)
    assert [sliders.nth(i).get_attribute("value") for i in range(2)] == ["0.5", "0.5"]


def test_values_can_be_typed_and_reset(visit):
    page = visit()
    random_faces(page, 1)
    load_essences(page)
    expect(page.locator("#board .cell img")).to_have_count(1)
    before = cell(page, 0)
    field = page.locator("#board [data-row] input[type=number]")
    field.fill("-0.75")
    field.press("Enter")
    wait_for_change(page, 0, before)
    slider = page.locator("#board [data-row] input[type=range]")
    assert slider.input_value() == "-0.75"
    slider.dblclick()
    expect(page.locator("#board .cell img")).to_have_attribute("src", before)
    assert slider.input_value() == "1"


def test_figures_are_shown_and_follow_once_a_slider_rests(visit):
    page = visit()
    random_faces(page, 2)
    load_essences(page)
    page.click("[data-event=figures]")
    figures = page.locator("#board .figures")
    expect(figures.first).to_have_text(re.compile(r"identity 0\.\d\d.*likeness 0\.\d\d"))
    before = figures.all_inner_texts()
    page.locator("#board [data-row] input[type=range]").fill("0")
    expect(figures.first).to_contain_text("identity 0.00")
    assert len(before) == 2 and before != figures.all_inner_texts()
    expect(page.locator("#board .explain")).to_contain_text("same person")


def test_the_picture_is_the_one_where_the_hand_stopped(visit):
    """However fast it went."""
    page = visit()
    random_faces(page, 1)
    load_essences(page)
    expect(page.locator("#board .cell img")).to_have_count(1)
    slider = page.locator("#board [data-row] input[type=range]")
    before = cell(page, 0)
    slider.evaluate("""s => { for (let v = 2; v > -0.7; v -= 0.05) {
        s.value = v; s.dispatchEvent(new Event('input', { bubbles: true })); } }""")
    wait_for_change(page, 0, before)
    page.wait_for_timeout(1500)
    fast = cell(page, 0)
    assert slider.input_value() == "-0.65"
    slider.fill("1")
    wait_for_change(page, 0, fast)
    slider.fill("-0.65")
    expect(page.locator("#board .cell img")).to_have_attribute("src", fast)


def test_pictures_follow_the_hand_without_gradios_events_or_else_with_them(visit):
    page = visit()
    random_faces(page, 2)
    load_essences(page, 2)
    expect(page.locator("#board .cell img")).to_have_count(4)
    expect(page.locator("#board [data-unmeasured]")).to_have_count(0)
    page.wait_for_timeout(500)
    asked = []
    page.on(
        "request",
        lambda request: (
            asked.append(request.url.strip("/").rsplit("/", 1)[-1])
            if request.method == "POST"
            else None
        ),
    )
    before, coarse = [cell(page, row) for row in (0, 1)], page.locator("#board [data-coarse]")
    slider = page.locator("#board [data-row] input[type=range]").first
    slider.fill("-0.65")
    wait_for_change(page, 0, before[0])
    expect(coarse).to_have_count(0)
    # A picture as soon as it is there, and at rest the finer one.
    assert asked == ["component_server"] * 2 and cell(page, 1) == before[1]
    page.route(
        "**/component_server/", lambda route: route.fulfill(json=None)
    )  # a page whose word the server does not know
    drawn = cell(page, 0)
    slider.fill("1")
    wait_for_change(page, 0, drawn)
    expect(coarse).to_have_count(0)
    again, first, other = (pixels(url) for url in (cell(page, 0), before[0], drawn))
    assert (
        len(asked) == 6 and np.abs(again - first).mean() < 0.5 < np.abs(other - first).mean()
    )  # in another batch it rounds otherwise


@pytest.mark.parametrize("slider", [latency.ROW, latency.ALL])
def test_latency_is_from_a_movement_to_its_pictures(visit, slider):
    page = visit()
    latency.fill(page, 1, ESSENCES[:1])
    before = cell(page, 0)
    seconds = latency.measure(page, slider, 2)
    assert len(seconds) == 2 and all(0 < each < PATIENCE / 1000 for each in seconds)
    assert cell(page, 0) != before


def test_frames_of_a_learning_are_counted_as_they_are_seen(visit):
    page = visit()
    quickly(page)
    latency.add_faces(page, 2)
    seconds = latency.frames(page)
    assert 2 <= len(seconds) < 12 and all(0 < each < PATIENCE / 1000 for each in seconds)


# ---- the large view


def test_the_strip_is_scrubbed_with_the_server_stopped(browser):
    studio = fakes.studio()
    app = build(studio)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    random_faces(page, 1)
    essence = Essence(3 * studio.random_source(5).w, "strong", studio.models.id)
    page.set_input_files(
        LOAD, {"name": "strong.essence.safetensors", "mimeType": "", "buffer": saved(essence)}
    )
    page.click("#board .cell")
    own = page.locator("dialog.compare [data-own]")
    expect(own).to_be_enabled()
    app.close()
    shown, figures = set(), {}
    for strength in ("-1.5", "-0.5", "0", "1.1", "2"):
        own.fill(strength)
        expect(page.locator("dialog.compare .own output")).to_have_text(f"{float(strength):.2f}")
        shown.add(
            (
                picture_of(page, "dialog.compare img.after"),
                page.locator("dialog.compare img.next").evaluate("e => e.style.opacity"),
            )
        )
        figures[strength] = page.locator("dialog.compare .readout").inner_text()
    assert (
        len(shown) == 5
        and figures["0"].startswith("0.00 identity")
        and not figures["2"].startswith("0.00 identity")
    )
    page.context.close()


def test_where_a_gpu_is_lent_the_grid_is_scrubbed_with_the_server_stopped(browser, monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    studio = fakes.studio()
    app = build(studio)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    random_faces(page, 2)
    for seed in (5, 6):
        essence = Essence(3 * studio.random_source(seed).w, f"strong {seed}", studio.models.id)
        page.set_input_files(
            LOAD,
            {
                "name": f"strong-{seed}.essence.safetensors",
                "mimeType": "",
                "buffer": saved(essence),
            },
        )
        expect(page.locator("#board .cell img")).to_have_count(2 * (seed - 4))
    expect(page.locator("#board .preparing")).to_be_empty()
    page.wait_for_function("essence.known.size === 4")
    page.locator("#board [data-row] input[type=range]").first.fill("0.3")
    expect(page.locator("#board .cell .next")).to_have_count(2)
    page.locator("#board [data-band=fine]").first.click()
    # Drawn by the server, which knows the strength.
    expect(page.locator("#board .cell .next")).to_have_count(0)
    expect(page.locator("#board [data-row] input[type=range]").first).to_have_attribute(
        "value", "0.3"
    )
    expect(page.locator("#board .preparing")).to_be_empty()  # the row has other strips now
    app.close()
    page.context.set_offline(True)  # another test's server may come to stand at this one's port
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    def shown(row: int) -> list[tuple[str, str]]:
        images = page.locator(f"#board .line:nth-child({row + 2}) .cell")
        return images.evaluate_all(
            "all => all.map(e => [e.children[0].src, e.children[1]?.style.opacity].join())"
        )

    first, second = shown(0), shown(1)
    slider = page.locator("#board .line:nth-child(2) input[type=range]")
    for value in (0.4, -1.5, 1.9):
        before = shown(0)
        slider.evaluate(
            "(s, value) => { s.value = value; s.dispatchEvent(new Event('input', { bubbles: true })); }",
            value,
        )
        assert all(a != b for a, b in zip(before, shown(0), strict=True))
    assert shown(1) == second and not asked
    drag(page, "#board .line:nth-child(2) input[type=range]", 0.1)
    assert float(slider.input_value()) < -0.5 and shown(0) not in (first, before)
    drag(page, "#board .line.first input[type=range]", 0.3)
    assert all(a != b for a, b in zip(second, shown(1), strict=True))
    page.context.close()


def saved(essence: Essence) -> bytes:
    return saved_bytes(essence, ".safetensors")


@pytest.mark.parametrize("button, kind", [("picture", "PNG"), ("sweep", "WEBP")])
def test_the_large_view_is_kept(visit, tmp_path, button, kind):
    page = visit()
    random_faces(page, 1)
    load_essences(page)
    page.click("#board .cell")
    expect(page.locator("dialog.compare [data-own]")).to_be_enabled()
    page.locator("dialog.compare [data-own]").fill("1.5")
    name = download(page, f"dialog.compare [data-event={button}]", tmp_path / "kept")
    with Image.open(tmp_path / "kept") as image:
        assert (
            image.format == kind
            and name.endswith(kind.lower())
            and (getattr(image, "n_frames", 1) > 20) == (kind == "WEBP")
        )


def test_all_pictures_come_in_an_archive(visit, tmp_path):
    page = visit()
    random_faces(page, 2)
    load_essences(page, 2)
    assert download(page, "#board [data-event=cells]", tmp_path / "cells.zip").endswith(".zip")
    with zipfile.ZipFile(tmp_path / "cells.zip") as archive:
        assert len(archive.namelist()) == 4 and archive.testzip() is None
