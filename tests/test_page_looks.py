"""Photographs in their own detail on the page: the switch, parts, downloads, a phone."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from demo.panels import compare, grid, sources, targets
from demo.session import Session
from essence import bundled

from . import fakes, pictures
from .browsing import DESKTOP, PHONE, settled
from .test_demo import content, give_essences, move_sliders, only, run

pytest_plugins = ["tests.browsing"]


@pytest.fixture
def looked(tmp_path):
    """A studio, and a session with a photograph, a random face and an essence, its cell open."""
    studio, session = fakes.studio(), Session()
    run(sources.add_sources(studio, session, [pictures.photograph(tmp_path / "a.jpg")], False, 0))
    sources.add_random_face(studio, session)
    run(targets.add_targets(studio, session, [pictures.SOURCES[3]], True))
    give_essences(studio, session)
    grid.show_grid(studio, session)
    target, source = only(session.items.targets), next(iter(session.items.sources.values()))
    compare.open_view(studio, session, target.id, source.id)
    return studio, session, target, source


def cell_image(session, target, source) -> np.ndarray:
    url = session.view.cells[target.id, source.id].url
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image, float)


def test_photographs_and_the_models_pictures_stand_side_by_side(looked):
    studio, session, target, source = looked
    other = list(session.items.sources.values())[1]
    assert cell_image(session, target, source).shape[0] == 256
    assert cell_image(session, target, other).shape[0] == 32
    html = grid.switch_look(studio, session, "model")
    assert cell_image(session, target, source).shape[0] == 32 and "data-part" not in html
    grid.switch_look(studio, session, "oil")
    assert session.view.look == "model"


def test_at_strength_zero_the_cell_is_the_photograph(looked):
    studio, session, target, source = looked
    move_sliders(studio, session, {target.id: 0.0})
    plain = np.asarray(source.source.crop.resize((256, 256), Image.Resampling.LANCZOS), float)
    assert np.abs(cell_image(session, target, source) - plain).mean() < 4  # but for JPEG


def test_a_drag_needs_no_model(looked, monkeypatch):
    studio, session, target, source = looked
    before = cell_image(session, target, source)
    session.items.sources.pop(list(session.items.sources)[1])  # the random face
    monkeypatch.setattr(studio, "blend", None)
    answer = grid.update_grid(studio, session, {"strengths": {target.id: 0.4}})
    assert len(answer["cells"]) == 1
    assert np.abs(cell_image(session, target, source) - before).max() > 1


def test_parts_of_the_face_are_chosen_one_by_one(looked):
    studio, session, target, _ = looked
    html = grid.switch_part(studio, session, target.id, "hair")
    assert target.where == {"hair"}
    assert html.count('data-part="') == 5 and html.count(
        'data-part="hair"\n    aria-pressed="true"'
    )
    grid.switch_part(studio, session, target.id, "nose")
    assert target.where == {"hair"}
    grid.switch_part(studio, session, target.id, "hair")
    assert not target.where


def brush_url(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("RGBA").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_the_brush_decides_where_a_photograph_changes(looked):
    studio, session, target, source = looked
    everywhere = cell_image(session, target, source)
    move_sliders(studio, session, {target.id: 0.0})
    plain = cell_image(session, target, source)
    move_sliders(studio, session, {target.id: 1.0})
    mask = np.zeros((compare.MASK_SIDE,) * 2, np.uint8)
    mask[:, mask.shape[1] // 2 :] = 255
    compare.paint_mask(studio, session, 1.0, brush_url(mask))
    grid.show_grid(studio, session)
    painted = cell_image(session, target, source)
    side = plain.shape[1]
    assert np.abs(painted - plain)[:, : side // 4].max() < 12  # but for JPEG
    right = np.s_[:, 3 * side // 4 :]
    assert np.abs(painted - plain)[right].mean() > 3 * np.abs(painted - everywhere)[right].mean()
    compare.paint_mask(studio, session, 1.0, "")
    grid.show_grid(studio, session)
    assert not target.painted
    assert np.array_equal(cell_image(session, target, source), everywhere)


def test_the_brush_begins_with_the_parts_and_parts_chosen_later_replace_it(looked):
    studio, session, target, source = looked
    assert compare.brush_mask(studio, target, source) == ""
    mask = np.full((compare.MASK_SIDE,) * 2, 255, np.uint8)
    compare.paint_mask(studio, session, 1.0, brush_url(mask))
    assert compare.brush_mask(studio, target, source).startswith("data:image/")
    grid.switch_part(studio, session, target.id, "hair")
    assert not target.painted
    assert compare.brush_mask(studio, target, source).startswith("data:image/")


@pytest.mark.parametrize(
    "mask",
    [
        "data:image/png;base64,####",
        "data:image/png;base64,AAAA",
        brush_url(np.zeros((999, 999), np.uint8)),
    ],
)
def test_a_mask_that_is_none_is_refused_and_told(looked, monkeypatch, mask):
    studio, session, target, _ = looked
    told = []
    monkeypatch.setattr("gradio.Warning", lambda text, **_: told.append(text))
    compare.paint_mask(studio, session, 1.0, mask)
    assert not target.painted and len(told) == 1


def test_random_faces_have_no_brush(looked):
    studio, session, target, _ = looked
    other = list(session.items.sources.values())[1]
    assert "brush" not in compare.open_view(studio, session, target.id, other.id)
    assert (
        compare.paint_mask(studio, session, 1.0, brush_url(np.zeros((128, 128), np.uint8)))
        is not None
    )
    assert not target.painted


def test_a_card_says_how_well_the_model_knows_the_face(looked, monkeypatch):
    studio, session, _, source = looked
    monkeypatch.setattr(studio, "identity_distances", lambda before, after: [0.7] * len(before))
    monkeypatch.setattr(type(studio), "has_faces", True)
    sources.measure_inversions(studio, session, list(session.items.sources.values())[:1])
    assert source.distance == 0.7
    assert "another face" in sources.sources_html(session)
    session.run.lent, source.distance = True, float("nan")
    sources.measure_inversions(studio, session, [source])
    assert "understood" not in sources.sources_html(session)


def test_the_whole_photograph_comes_back_with_the_face_in_it(looked):
    studio, session, target, source = looked
    whole = source.photo.picture()
    name, data = content(compare.download_picture(studio, session, 1.0, True))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == whole.size
        packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp").encode()
        changed = np.abs(np.asarray(image, float) - np.asarray(whole, float)).max(2)
    assert b"compositeWithTrainedAlgorithmicMedia" in packet
    xs, ys = zip(*source.square.corners(), strict=True)
    left, top, right, bottom = (int(f(v)) for v, f in ((xs, min), (ys, min), (xs, max), (ys, max)))
    left, top = max(left, 0), max(top, 0)
    inside = changed[top:bottom, left:right]
    assert inside.max() > 10
    outside = changed.copy()
    outside[max(top - 1, 0) : bottom + 2, max(left - 1, 0) : right + 2] = 0
    assert outside.max() <= 12 * (name.endswith("jpeg"))  # JPEG rounds everywhere


def edited_photograph(page, tmp_path):
    """The grid's one cell: a photograph with a ready-made essence."""
    pictures.photograph(tmp_path / "ann.jpg")
    page.set_input_files("#sources-upload input[type=file]", tmp_path / "ann.jpg")
    settled(page, 1)
    page.set_input_files("#targets-upload input[type=file]", bundled("essences")[0])
    cell = page.locator("#board .cell img")
    expect(cell).to_have_count(1)
    return cell


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_in_the_browser(visit, viewport, tmp_path):
    page = visit(viewport=viewport)
    cell = edited_photograph(page, tmp_path)
    photograph = cell.get_attribute("src")
    page.click("#board [data-event=appearance][data-look=model]")
    expect(cell).not_to_have_attribute("src", photograph)
    expect(page.locator("#board [data-event=part]")).to_have_count(0)
    page.click("#board [data-event=appearance][data-look=photograph]")
    expect(cell).to_have_attribute("src", re.compile("^data:image/jpeg"))
    expect(page.locator("#board [data-event=part]")).to_have_count(5)
    figures = page.locator("#board [data-event=figures]").bounding_box()
    assert figures["x"] + figures["width"] <= viewport["width"]
    page.click("#board .cell")
    with page.expect_download() as waiting:
        page.click("dialog.compare [data-whole]")
    with Image.open(waiting.value.path()) as image, Image.open(tmp_path / "ann.jpg") as given:
        assert image.size == given.size
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0


def test_painting_in_the_browser(visit, tmp_path):
    page = visit()
    cell = edited_photograph(page, tmp_path)
    whole = cell.get_attribute("src")
    page.click("#board .cell")
    after = page.locator("dialog.compare img.after").first
    expect(page.locator("dialog.compare [data-own]")).to_be_enabled()
    opened = after.get_attribute("src")
    page.click("dialog.compare [data-brush=take]")
    box = page.locator("canvas.brush").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 60, steps=5)
    page.mouse.up()
    expect(after).not_to_have_attribute("src", opened)
    expect(cell).not_to_have_attribute("src", whole)
    page.click("dialog.compare [data-event=paint]")
    expect(cell).to_have_attribute("src", whole)


def test_parts_that_are_clicked_one_after_another_all_count(visit, tmp_path):
    page = visit()
    edited_photograph(page, tmp_path)
    parts = page.locator("#board [data-event=part]")
    expect(parts).to_have_count(5)
    for index in range(5):
        parts.nth(index).click()
    for index in range(5):
        expect(parts.nth(index)).to_have_attribute("aria-pressed", "true")
