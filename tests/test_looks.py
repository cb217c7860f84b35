"""Photographs as sources: both looks on the command line, parts of a picture, the whole picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from essence import Essence
from essence.cli import inputs
from essence.cli.main import main
from essence.pictures.regions import REGIONS, face_regions

from . import fakes

# Larger than the models' side, so that it has a resolution of its own.
PICTURE = Image.effect_mandelbrot((500, 400), (-2, -1.5, 1, 1.5), 40).convert("RGB")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(inputs, "Studio", lambda *_, **__: fakes.studio())
    monkeypatch.chdir(tmp_path)
    PICTURE.save("a.png")
    direction = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    Essence(direction, "e", "fake-0").save("e.safetensors")
    np.save("w.npy", torch.randn(8, 8).numpy())

    def call(line):
        try:
            code = main(line.split())
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


APPLY = "apply --aligned --refine 0 --essence e.safetensors --json"


def pixels(name: str) -> np.ndarray:
    with Image.open(name) as picture:
        return np.asarray(picture.convert("RGB"), int)


def test_a_photograph_keeps_its_own_resolution(run):
    code, out, err = run(f"{APPLY} --source a.png --out o.png")
    assert code == 0, err
    assert json.loads(out)["look"] == "photograph" and pixels("o.png").shape == (400, 400, 3)
    run(f"{APPLY} --source a.png --size 100 --out small.png")
    assert pixels("small.png").shape == (100, 100, 3)
    run(f"{APPLY} --source a.png --look model --out model.png")
    assert pixels("model.png").shape == (32, 32, 3)


def test_at_strength_zero_it_is_the_photograph(run):
    run(f"{APPLY} --source a.png --strength 0 --out o.png")
    assert np.array_equal(pixels("o.png"), np.asarray(PICTURE.crop((50, 0, 450, 400)), int))
    run(f"{APPLY} --source a.png --strength 0 --whole --out whole.png")
    assert np.array_equal(pixels("whole.png"), np.asarray(PICTURE, int))


def test_the_whole_photograph_changes_inside_the_square_alone(run):
    code, _, err = run(f"{APPLY} --source a.png --whole --out o.png")
    assert code == 0, err
    changed = pixels("o.png") != np.asarray(PICTURE, int)
    assert changed.any() and not changed[:, :50].any() and not changed[:, 450:].any()


def test_a_mask_keeps_the_edit_where_it_is_white(run):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save("m.png")
    run(f"{APPLY} --source a.png --mask m.png --out o.png")
    changed = np.abs(pixels("o.png") - np.asarray(PICTURE.crop((50, 0, 450, 400)), int)).mean(2)
    assert changed[:, :150].mean() > 5 * changed[:, 260:].mean()


def test_latents_have_the_models_picture(run):
    code, out, _ = run(f"{APPLY} --source w.npy --out o.png")
    assert code == 0 and json.loads(out)["look"] == "model" and pixels("o.png").shape[0] == 32


@pytest.mark.parametrize(
    "line, message",
    [
        ("--source w.npy --look photograph", "made of latents"),
        ("--source w.npy --whole", "--whole"),
        ("--source a.png --look model --whole", "--whole"),
        ("--source a.png --where nose", "hair, skin, eyes, mouth, background"),
        ("--source a.png --look model --where hair", "--look photograph"),
    ],
)
def test_looks_that_cannot_be_are_one_line(run, line, message):
    code, _, err = run(f"{APPLY} {line} --out o.png")
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1


def test_the_grid_in_both_looks(run):
    line = "grid --sources a.png w.npy --aligned --refine 0 --essences e.safetensors --strength 1"
    code, _, err = run(f"{line} --out g.png")
    assert code == 0, err
    assert pixels("g.png").shape[0] > 2 * 400
    run(f"{line} --look model --out m.png")
    assert pixels("m.png").shape[0] < 100


def test_every_picture_says_what_it_is(run):
    run(f"{APPLY} --source a.png --out o.png")
    run(f"{APPLY} --source w.npy --out m.png")
    for name, source in (("o.png", "compositeWith"), ("m.png", "digitalsourcetype/trained")):
        with Image.open(name) as picture:
            packet = picture.info["XML:com.adobe.xmp"]
        assert source in packet and "e at strength 1" in packet


# -- parts of a face


def landmarks() -> torch.Tensor:
    """A plain face."""
    points = torch.zeros(68, 2)
    angle = torch.linspace(3.14, 0, 17)
    points[:17] = torch.stack([0.5 * angle.cos(), 0.1 + 0.7 * angle.sin()], 1)
    points[17:27] = torch.stack([torch.linspace(-0.4, 0.4, 10), torch.full((10,), -0.2)], 1)
    points[27:36, 1] = torch.linspace(-0.1, 0.2, 9)
    for first, x in ((36, -0.22), (42, 0.22)):
        turn = torch.linspace(0, 5.2, 6)
        points[first : first + 6] = torch.stack([x + 0.1 * turn.cos(), 0.05 * turn.sin()], 1)
    turn = torch.linspace(0, 6, 20)
    points[48:68] = torch.stack([0.2 * turn.cos(), 0.45 + 0.08 * turn.sin()], 1)
    return points


def test_regions_share_the_picture_between_them():
    picture = torch.full((3, 64, 64), 0.8)
    picture[:, 12:60, 16:48] = torch.tensor([0.5, 0.2, 0.0]).view(3, 1, 1)  # the face
    picture[:, 4:16, 14:50] = -0.8  # dark hair
    masks = face_regions(picture, landmarks())
    assert tuple(masks) == REGIONS
    total = sum(masks.values())
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)
    assert all(mask.min() >= 0 for mask in masks.values())
    places = {"hair": (8, 32), "skin": (38, 20), "eyes": (31, 25), "mouth": (46, 32)}
    for name, (row, column) in {**places, "background": (2, 2)}.items():
        assert masks[name][0, row, column] > 0.5, name
