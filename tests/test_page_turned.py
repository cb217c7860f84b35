"""Pictures on their head or side on the page: the turn is shown, and can be undone."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from demo.panels import cards, crop, sources, targets
from demo.session import Session

from . import fakes, pictures
from .browsing import add_sources
from .test_demo import only, run

pytest_plugins = ["tests.browsing"]


@pytest.fixture
def on_its_head(tmp_path) -> Path:
    path = pictures.photograph(tmp_path / "ann.png", side=100)
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.ROTATE_180).save(path)
    return path


def test_the_turn_is_told_shown_and_undone(on_its_head, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Info", lambda message, *_, **__: told.append(message))
    studio, session = fakes.studio(), Session()
    run(sources.add_sources(studio, session, [on_its_head], False, 0))
    run(targets.add_targets(studio, session, [on_its_head], False))
    assert [message.startswith("ann was turned by 180°") for message in told] == [True, True]
    assert "turned by 180°" in cards.sources_html(session)
    assert "turned by 180°" in cards.targets_html(session)
    item = only(session.items.sources)
    upright = np.asarray(item.picture, float)
    assert "turned by 180°" in crop.edit_crop(studio, session, item.id)
    crop.nudge_crop(studio, session, item.id, {"turn": 180})
    as_it_came = np.asarray(item.picture, float)
    assert np.abs(as_it_came[::-1, ::-1] - upright).mean() < 3
    assert "turned by" not in cards.sources_html(session)


def test_a_picture_that_stands_upright_is_not_talked_about(tmp_path):
    studio, session = fakes.studio(), Session()
    path = pictures.photograph(tmp_path / "ann.png", side=100)
    run(sources.add_sources(studio, session, [path], False, 0))
    item = only(session.items.sources)
    assert "turned by" not in cards.sources_html(session) + crop.edit_crop(studio, session, item.id)


def test_a_button_of_the_crop_takes_the_picture_as_it_came(visit, on_its_head):
    page = visit()
    add_sources(page, on_its_head)
    caption = page.locator("#sources .item figcaption").first
    expect(caption).to_have_text("turned by 180°")
    page.click("#sources [data-event=crop]")
    page.click("#crop [data-turn]")
    expect(caption).to_have_text("picture")
    assert page.locator("#crop input[name=turn]").input_value() == "180"
    page.click("#crop [data-reset]")
    expect(caption).to_have_text("turned by 180°")
