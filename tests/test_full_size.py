"""Full-size networks through the page, from files in the public formats with random weights:
churches, and 1024 pixels in a browser.
"""

from __future__ import annotations

import base64
import io
import zipfile

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from demo import LAUNCH, build
from demo.panels import compare, grid, models, sources, targets
from demo.session import Session
from essence import StudioPool
from essence.models import latents
from essence.pictures.tensors import square_crop

from . import pictures
from .browsing import add_sources, add_targets, download, unfold
from .test_demo import content, learn, only, run
from .test_golden import calm, full_size

pytest_plugins = ["tests.browsing"]
pytestmark = pytest.mark.slow
MINUTES = 10 * 60_000  # milliseconds: a step of learning takes seconds here


def gentle(key, shape):
    """Random weights whose latents and pictures stay in bounds: the encoder's answer is its last
    biases.
    """
    if key.startswith("styles.") and "linear" in key:
        return torch.randn(shape) * (0 if key.endswith("weight") else 1)
    if key.startswith(("styles.", "input_layer.", "body.", "latlayer")):
        return calm(key, shape)
    return torch.randn(shape) * (0.05 if "to_rgb" in key and key.endswith("conv.weight") else 1)


def model_set(folder, aligned, generator, encoder, layers):
    folder.mkdir()
    torch.manual_seed(0)
    full_size(generator, folder / "g.pt", gentle, latent_avg=torch.zeros(512))
    full_size(encoder, folder / "e.pt", gentle, latent_avg=torch.zeros(layers, 512))
    files = 'generator = {file = "g.pt"}\ninverter = {file = "e.pt"}\n'
    (folder / "model.toml").write_text(f'title = "Random weights"\naligned = "{aligned}"\n{files}')
    return StudioPool(str(folder))


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(latents, "SAMPLES", 2000)


def test_churches_from_pictures_to_a_blend(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", lambda message, *_, **__: told.append(message))
    monkeypatch.setattr(gr, "Info", lambda message, *_, **__: told.append(message))
    studios, session = (
        model_set(tmp_path / "chapel", "square", "stylegan2_church_256", "e4e_encoder_256", 14),
        Session(),
    )
    studio = studios.of(session.run.model)
    wall = pictures.no_face(tmp_path / "wall.png")
    run(sources.add_sources(studio, session, [wall], False, 2))
    run(
        targets.add_targets(
            studio, session, [pictures.photograph(tmp_path / "people.jpg", (0, 1))], False
        )
    )
    source, target = only(session.items.sources), only(session.items.targets)
    assert len(target.faces) == 1 and target.found and not told  # squares, whatever is in them
    with Image.open(wall) as image:
        centre = square_crop(image.convert("RGB")).resize(
            source.picture.size, Image.Resampling.LANCZOS
        )
    assert np.abs(np.asarray(centre, float) - np.asarray(source.picture, float)).mean() < 2
    run(learn(studio, session, steps=2, preset="paper"))  # which does not start from zero
    assert (
        target.essence.delta.shape == (14, 512)
        and target.essence.delta.abs().max() > 0
        and len(session.view.cells) == 1
    )
    assert "chapel" in models.models_html(studios, session) and not told
    html = grid.switch_figures(studio, session)
    assert "likeness" in html and "identity " not in html.split('class="explain"')[0]
    session.view.look = "model"
    compare.open_view(studio, session, target.id, source.id)
    link = compare.download_picture(studio, session, 1.0, whole=False)
    picture = Image.open(io.BytesIO(content(link)[1]))
    assert picture.size == (256, 256) and difference(picture, source.source.inversion) > 1


def test_1024_pixels_in_the_browser(tmp_path, browser):
    studios = model_set(tmp_path / "big", "face", "stylegan2_ffhq_1024", "e4e_encoder_1024", 18)
    assert studios.of().models.size == 1024
    app = build(studios)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    page = browser.new_page()
    page.set_default_timeout(MINUTES)
    try:
        page.goto(f"{url}?preset=paper&steps=4&refine=1")  # the paper's does not start from zero
        expect(page.locator("#models summary")).to_have_text("Models Random weights")
        unfold(page, 0, "Options")
        expect(page.locator("#refine-steps input[type=number]")).to_have_value("1")
        add_sources(page, pictures.photograph(tmp_path / "ann.jpg", (0,), 700))
        add_targets(page, pictures.photograph(tmp_path / "idol.jpg", (1,), 700))
        page.click("#learn")
        expect(page.locator("#progress")).to_contain_text("Learned 1 essence", timeout=MINUTES)
        expect(page.locator("#board .cell img")).to_have_count(1, timeout=MINUTES)
        page.click("#board [data-event=appearance][data-look=model]")
        expect(page.locator("#board [data-look=model][aria-pressed=true]")).to_be_visible()
        download(page, "#board [data-event=cells]", tmp_path / "cells.zip")
        with zipfile.ZipFile(tmp_path / "cells.zip") as archive:
            picture = Image.open(io.BytesIO(archive.read(archive.namelist()[0])))
        assert picture.size == (1024, 1024)
        page.click("#board .cell")
        after = page.locator("dialog.compare img.after").first
        expect(after).to_be_visible(timeout=MINUTES)
        assert after.evaluate("e => [e.naturalWidth, e.naturalHeight]") == [1024, 1024]
        before = page.locator("dialog.compare img.before").get_attribute("src").partition(",")[2]
        assert difference(picture, Image.open(io.BytesIO(base64.b64decode(before)))) > 1
        expect(page.locator("dialog.compare .readout")).not_to_contain_text(
            "Measuring", timeout=MINUTES
        )  # nothing goes on when we leave
    finally:
        page.close()
        app.close()


def difference(a, b) -> float:
    return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()
