"""Nudged crops, essences on some layers, mixtures, sweeps, likeness."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from essence import Essence, EssenceMismatch, Studio, UserError
from essence.pictures import align
from essence.pictures import faces as faces_module
from essence.pictures.grids import animation
from essence.values import BANDS

from . import fakes

EVERYTHING = ("coarse", "middle", "fine")


@pytest.fixture(scope="module")
def studio():
    return fakes.studio()


def dots(width=300, height=200) -> Image.Image:
    """Red at the left, blue at the right, green below the middle."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[:, : width // 3] = (255, 0, 0)
    pixels[:, -width // 3 :] = (0, 0, 255)
    pixels[height // 2 :, width // 3 : -width // 3] = (0, 255, 0)
    return Image.fromarray(pixels)


# ---- squares


def test_the_square_of_a_face_is_what_align_cuts(face_image):
    (square,) = align.locate(face_image).squares
    assert np.array_equal(
        np.asarray(align.cut(face_image, square, 128)), np.asarray(align.align(face_image, 128))
    )


def test_the_centred_square_is_the_picture_itself(studio):
    picture = dots(63, 64)
    (square,) = studio.locate(picture, aligned=True).squares
    assert np.array_equal(
        np.asarray(studio.cut(picture, square)), np.asarray(studio.crop(picture, aligned=True))
    )


def test_no_nudge_changes_nothing():
    square = align.Square((50.0, 40.0), (20.0, 5.0))
    assert square.nudged(align.Nudge()) == square


def test_corners_go_round_from_the_top_left():
    assert align.Square((10.0, 20.0), (5.0, 0.0)).corners() == [
        (5, 15),
        (15, 15),
        (15, 25),
        (5, 25),
    ]


@pytest.mark.parametrize(
    "nudge, centre, across",
    [
        (align.Nudge(zoom=2), (100, 100), (25, 0)),
        (align.Nudge(right=0.5), (150, 100), (50, 0)),
        (align.Nudge(down=-0.25), (100, 75), (50, 0)),
        (align.Nudge(turn=90), (100, 100), (0, 50)),
    ],
)
def test_nudges_mean_what_they_say(nudge, centre, across):
    square = align.Square((100.0, 100.0), (50.0, 0.0)).nudged(nudge)
    assert square.centre == pytest.approx(centre) and square.across == pytest.approx(across)


def test_shifts_follow_the_square_and_not_the_picture():
    upside_down = align.Square((100.0, 100.0), (-50.0, 0.0)).nudged(
        align.Nudge(right=0.1, down=0.2)
    )
    assert upside_down.centre == pytest.approx((90, 80))


def test_a_square_on_a_smaller_copy_is_the_same_square():
    square = align.Square((120.0, 90.0), (60.0, 10.0))
    assert np.allclose(np.array(square.scaled(0.5).corners()), np.array(square.corners()) / 2)


def test_a_nudged_crop_shows_what_lies_there():
    picture, square = dots(), align.Square((150.0, 100.0), (50.0, 0.0))
    assert np.asarray(align.cut(picture, square.nudged(align.Nudge(right=-1)), 32))[
        16, 16
    ].tolist() == [255, 0, 0]
    assert np.asarray(align.cut(picture, square.nudged(align.Nudge(zoom=2, down=0.5)), 32))[
        16, 16
    ].tolist() == [0, 255, 0]


@pytest.mark.parametrize(
    "nudge", [align.Nudge(0.5, 1, 1, 45), align.Nudge(3, -1, -1, -45), align.Nudge(0.4)]
)
def test_far_nudges_still_give_a_picture(nudge):
    assert align.cut(dots(), align.Square.centred(dots()).nudged(nudge), 64).size == (64, 64)


# ---- some layers


def test_bands_divide_the_layers():
    delta = torch.randn(12, 8)
    essence = Essence(delta, "e", "g")
    parts = [essence.limited([band]).delta for band in EVERYTHING]
    assert torch.equal(sum(parts), delta) and torch.equal(essence.limited(EVERYTHING).delta, delta)
    assert not essence.limited([]).delta.any() and tuple(BANDS) == EVERYTHING
    coarse = essence.limited(["coarse"])
    assert (
        torch.equal(coarse.delta[:4], delta[:4])
        and not coarse.delta[4:].any()
        and coarse.provenance["bands"] == ["coarse"]
    )


def test_an_unknown_band_is_named():
    with pytest.raises(UserError, match="'hair'.*coarse, middle, fine"):
        Essence(torch.zeros(12, 8)).limited(["hair"])


# ---- mixtures


def test_a_mixture_is_the_sum(studio, tmp_path):
    one, two = (Essence(torch.randn(8, 8), name, studio.models.id) for name in ("one", "two"))
    mixed = Essence.mixture([one, two], [0.5, -0.25], "both")
    assert (
        torch.allclose(mixed.delta, 0.5 * one.delta - 0.25 * two.delta)
        and mixed.model == studio.models.id
    )
    mixed.save(tmp_path / "both.essence.safetensors")
    parts = Essence.load(tmp_path / "both.essence.safetensors").provenance["parts"]
    assert parts == [{"name": "one", "strength": 0.5}, {"name": "two", "strength": -0.25}]


def test_a_mixture_refuses_strangers_and_nothing():
    with pytest.raises(EssenceMismatch):
        Essence.mixture(
            [Essence(torch.zeros(8, 8), model="one"), Essence(torch.zeros(8, 8), model="another")],
            [1, 1],
        )
    with pytest.raises(EssenceMismatch):
        Essence.mixture([Essence(torch.zeros(8, 8)), Essence(torch.zeros(18, 512))], [1, 1])
    with pytest.raises(UserError, match="at least one"):
        Essence.mixture([], [])


# ---- sweeps and figures


def test_a_sweep_runs_there_and_back(studio):
    essence = Essence(3 * torch.randn(8, 8), model=studio.models.id)
    with Image.open(
        io.BytesIO(studio.sweep(studio.random_source(0), essence, [-1, 0, 1, 2]))
    ) as image:
        assert image.format == "WEBP" and image.n_frames == 6 and image.size == (32, 32)


def test_one_frame_is_an_animation_too():
    with Image.open(io.BytesIO(animation([dots()]))) as image:
        assert image.size == (300, 200)


def test_nothing_is_more_like_a_picture_than_itself(studio):
    pictures = [studio.random_source(i).inversion for i in range(3)]
    values = studio.similarity(
        studio.embed_target(pictures[1]), np.stack([np.asarray(p) for p in pictures])
    )
    assert values[1] == max(values) and values[1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("faces", (True, False))
def test_loading_ahead_loads_what_finds_faces_where_there_are_any(monkeypatch, faces):
    models, prepared = fakes.studio().models, []
    monkeypatch.setattr(faces_module, "prepare", lambda: prepared.append(True))
    studio = Studio.of(models if faces else dataclasses.replace(models, identity=None))
    assert studio.load().result(30) is studio.models and studio.loaded
    assert prepared == [True] * faces
