"""The page learns of a new method without being edited: a toy one that gives pictures and knows no
direction.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from dataclasses import dataclass
from html import unescape

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

import essence
from demo import LAUNCH, api, build, presets, settings
from demo.messages import SKIP
from demo.panels import cards, compare, downloads, grid, items, learning, sources, targets
from demo.session import Session
from essence import Essence, Pictures, Step, StudioPool
from essence.methods.base import Method

from . import fakes, pictures
from .browsing import PATIENCE, settled, unfold
from .test_demo import content, give_essences, learn, move_sliders, run

pytest_plugins = ["tests.browsing"]


@dataclass(frozen=True)
class ToyOptions:
    steps: int = 3
    seed: int = 0
    preview_every: int = 1


def negatives(models, target, toys, options=ToyOptions(), start=None):  # noqa: B008
    """Each source's negative."""
    images = np.stack([255 - np.asarray(source.inversion) for source in toys])
    for index in range(1, options.steps + 1):
        result = Pictures(images, target.name, "toy", thumbnail=target.picture)
        yield Step(index, options.steps, result, {"total": 1 / index}, images)


@pytest.fixture
def toy(monkeypatch):
    method = Method("negatives", negatives, {"toy": ToyOptions()})
    monkeypatch.setitem(essence.METHODS, "toy", method)
    monkeypatch.setitem(essence.PRESETS, "toy", ToyOptions())


@pytest.fixture(scope="module")
def studio():
    return fakes.studio()


@pytest.fixture
def session(studio, toy, monkeypatch):
    """Two sources; one target learned by the toy, one with an essence."""
    for kind in ("Warning", "Info"):
        monkeypatch.setattr(gr, kind, lambda *_, **__: None)
    session = Session()
    for _ in range(2):
        sources.add_random_face(studio, session)
    run(targets.add_targets(studio, session, pictures.SOURCES[:2], True))
    give_essences(studio, session)
    next(iter(session.items.targets.values())).take(None)
    run(learn(studio, session, preset="toy"))
    return session


def negative(session: Session) -> Image.Image:
    source = next(iter(session.items.sources.values())).source
    return Image.fromarray(255 - np.asarray(source.inversion))


def difference(url: str, wanted: Image.Image) -> float:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return float(np.abs(np.asarray(image, float) - np.asarray(wanted, float)).mean())


def test_its_preset_is_offered_and_its_options_are_its_own(toy):
    assert list(presets.presets())[-1] == "toy"
    assert presets.options_of("toy", 7, 5, 0.3, 0.5) == ToyOptions(steps=7, seed=5)
    assert presets.preset_values("toy") == (3, 0.5, 0.5)
    assert settings.restored({}, {"preset": "toy"})[:3] == ["toy", 3, 0.5]


def test_its_row_shows_its_pictures_and_has_no_slider(studio, session):
    made, blended = session.items.targets.values()
    html = items.show(studio, session)[2]
    rows = re.split(r'data-row="', html)[1:]
    assert 'type="range"' not in rows[0] and "data-band" not in rows[0]
    assert 'type="range"' in rows[1] and rows[0].count('class="cell"') == 2
    assert "pictures ready" in cards.targets_html(session)
    assert (
        difference(re.search(r'src="(data:[^"]+)" alt="random 1', rows[0])[1], negative(session))
        < 6
    )
    before = {key: cell.url for key, cell in session.view.cells.items()}
    move_sliders(studio, session, {made.id: 0.5, blended.id: 0.5})
    for (target, _), cell in session.view.cells.items():
        assert (cell.url == before[target, _]) == (target == made.id)


def test_a_source_that_it_did_not_see_has_no_picture(studio, session):
    sources.add_random_face(studio, session)
    rows = re.split(r'data-row="', grid.grid_html(session))[1:]
    assert rows[0].count('class="cell"') == 2 and "Not made for this source" in rows[0]
    assert rows[1].count('class="cell"') == 3
    made, added = next(iter(session.items.targets)), list(session.items.sources)[-1]
    assert compare.open_view(studio, session, made, added) == SKIP
    first = next(iter(session.items.sources))
    items.remove(studio, session, first)
    assert (made, first) not in session.view.cells


def test_figures_and_the_large_view_are_of_its_pictures(studio, session):
    made, first = next(iter(session.items.targets)), next(iter(session.items.sources))
    html = grid.switch_figures(studio, session)
    assert len(re.findall(r"likeness -?\d\.\d\d", html)) == 4
    html = compare.open_view(studio, session, made, first)
    assert "data-own" not in html and "sweep" not in html
    data = compare.measure_strengths(studio, session)
    strip = json.loads(unescape(re.search(r'data-strip="([^"]+)"', data)[1]))
    cell = session.view.cells[made, first]
    assert strip["likeness"] == [pytest.approx(cell.figures[1], abs=1e-3)] * 2
    assert compare.download_sweep(studio, session) == SKIP
    _, png = content(compare.download_picture(studio, session, 1.0, False))
    assert Image.open(io.BytesIO(png)).tobytes() == negative(session).tobytes()


def test_it_is_downloaded_and_not_mixed(studio, session):
    made, blended = session.items.targets.values()
    name, data = content(downloads.download_result(studio, session, made.id))
    with Image.open(io.BytesIO(data)) as image:
        assert name == f"{made.name}.png" and image.width > 2 * studio.models.size
    _, data = content(downloads.download_cells(studio, session))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.namelist()) == 4
    assert content(downloads.download_grid(studio, session))[0].endswith(".png")
    html = grid.switch_mixing(studio, session, True)
    assert html.count('class="part side"') == 1 and made.name not in html.split("cells")[-1]


def test_learning_goes_on_and_starts_over(studio, session):
    made = next(iter(session.items.targets.values()))
    assert [item.name for item in learning.to_learn(session, learning.AGAIN)][0] == made.name
    run(learn(studio, session, learning.CONTINUE, steps=2))
    assert isinstance(made.result, Essence) and made.pictures is None
    run(learn(studio, session, learning.AGAIN, preset="toy"))
    assert isinstance(made.result, Pictures) and made.essence is None


def test_where_pictures_are_slow_it_needs_no_strips(studio, session):
    session.run.lent = True
    html = items.show(studio, session)[2]
    names = re.findall(r'data-strip="(\w+)"', html)
    assert len(names) == 2
    strips = grid.update_grid(studio, session, {"strips": names})["strips"]
    assert sorted(strips) == sorted(names)


def test_the_endpoint_gives_its_pictures(studio, toy):
    learn = api.endpoints(StudioPool.around(studio))["learn"]
    face = base64.b64encode(pictures.SOURCES[0].read_bytes()).decode()
    *_, last = learn(face, [studio.random_source(0).w.tolist()] * 2, "toy")
    assert len(last["pictures"]) == 2 and "essence" not in last


def test_in_the_browser(toy, studio, browser, tmp_path):
    app = build(studio)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    page, wrong = browser.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    try:
        page.goto(f"{url}?preset=toy")
        for number in (1, 2):
            page.click("#random-face")
            settled(page, number)
        page.locator("#targets-examples button").first.click()
        expect(page.locator("#targets .item")).to_have_count(1)
        unfold(page, 2, "Settings")
        expect(page.locator("#preset input[value=toy]")).to_be_checked()
        page.click("#learn")
        expect(page.locator("#board .cell img")).to_have_count(2)
        expect(page.locator("#board [data-row] input")).to_have_count(0)
        page.locator("#board .first input[type=range]").fill("0.5")
        page.locator("#board .cell").first.click()
        readout = page.locator("dialog.compare[open] .readout")
        expect(readout).to_contain_text("likeness")
        assert not wrong
    finally:
        page.close()
        app.close()
