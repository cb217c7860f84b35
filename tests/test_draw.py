from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from essence.pictures import faces
from essence.train.data.drawing import draw
from essence.train.data.drawing.accessories import ACCESSORIES
from essence.train.data.drawing.canvas import BLACK, Canvas, curve, mirror
from essence.train.data.drawing.hair import HAIR
from essence.train.data.drawing.parts import EYE, MOUTH
from essence.train.data.drawing.strokes import oil, pencil


@pytest.fixture(scope="module")
def drawings() -> dict[str, Image.Image]:
    return {name: draw.draw_target(name, 128) for name in draw.NAMES}


def colour_at(image: Image.Image, x: float, y: float) -> np.ndarray:
    """The mean colour around a place given in [0, 1]."""
    pixels, row, column = np.asarray(image, float), round(y * image.height), round(x * image.width)
    return pixels[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].mean((0, 1))


def test_a_drawing_is_the_same_every_time(drawings):
    assert draw.draw_target("redhead", 128).tobytes() == drawings["redhead"].tobytes()
    assert draw.draw_target("redhead", 128, seed=1).tobytes() != drawings["redhead"].tobytes()


def test_the_size_changes_the_resolution_only(drawings):
    large = draw.draw_target("moustache", 256).resize((128, 128), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(large, float) - np.asarray(drawings["moustache"], float)).mean() < 3


def test_drawings_are_rgb_and_all_different(drawings):
    assert len(drawings) >= 6
    assert {(image.mode, image.size) for image in drawings.values()} == {("RGB", (128, 128))}
    pixels = [np.asarray(image, float) for image in drawings.values()]
    for i, a in enumerate(pixels):
        assert all(np.abs(a - b).mean() > 15 for b in pixels[:i])


def test_eyes_are_where_the_alignment_has_them(drawings):
    """Dark pupils at FFHQ's eyes, on both sides, darker than the cheek below."""
    for image in drawings.values():
        for x in (EYE[0], 1 - EYE[0]):
            assert colour_at(image, x, EYE[1]).mean() < colour_at(image, x, 0.6).mean() - 40


def test_the_detector_takes_drawings_for_aligned_faces(drawings):
    """They act as already aligned targets: the square that dlib would cut is nearly the whole
    picture.
    """
    for image in drawings.values():
        (face,) = faces.detect(image)
        centre, x = faces.ffhq_square(face.landmarks)
        assert np.abs(centre - 64).max() < 3 and abs(x[0] - 64) < 8 and abs(x[1]) < 3


def test_each_face_has_what_it_is_known_by(drawings):
    red, _, blue = colour_at(drawings["redhead"], 0.3, 0.12)
    assert red > 2 * blue
    red, _, blue = colour_at(drawings["clown"], 0.1, 0.3)
    assert blue > 1.5 * red
    red, green, _ = colour_at(drawings["clown"], 0.5, 0.615)
    assert red > 3 * green
    beard = colour_at(drawings["greybeard"], 0.5, 0.92)
    assert beard.min() > 140 and np.ptp(beard) < 25
    assert colour_at(drawings["moustache"], 0.42, MOUTH[1] - 0.03).max() < 90
    assert np.ptp(np.asarray(drawings["pencil"], int), axis=-1).max() == 0


def test_every_look_is_complete():
    for look in draw.LOOKS.values():
        assert look.style in HAIR and set(look.extras) <= set(ACCESSORIES)
    assert {extra for look in draw.LOOKS.values() for extra in look.extras} == set(ACCESSORIES)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="dragon.*redhead.*oil"):
        draw.draw_target("dragon")


@pytest.mark.parametrize("style", [oil, pencil])
def test_strokes_follow_the_picture_but_are_not_it(style):
    """Any picture can be done again: blurred, the result keeps its light and dark; by pixels it is
    another.
    """
    x, y = np.meshgrid(np.linspace(-1, 1, 200), np.linspace(-1, 1, 200))
    disc = Image.fromarray(
        np.where((x**2 + y**2 < 0.4)[..., None], (40, 60, 150), (240, 230, 200)).astype(np.uint8)
    )
    done = style(disc, seed=3)
    assert done.size == disc.size and done.tobytes() == style(disc, seed=3).tobytes()
    assert (
        colour_at(done.reduce(20), 0.5, 0.5).mean()
        < colour_at(done.reduce(20), 0.05, 0.05).mean() - 30
    )
    assert np.asarray(done, float)[20:40, 20:40].std() > 1


def test_a_curve_goes_through_its_points():
    points = [(0.1, 0.2), (0.4, 0.9), (0.8, 0.3), (0.5, 0.1)]
    for closed in (True, False):
        path = np.array(curve(points, closed))
        assert all(np.abs(path - point).sum(1).min() < 1e-9 for point in points)
    assert curve(points, False)[-1] == pytest.approx(points[-1])


def test_masks_lie_where_they_are_asked_for():
    canvas = Canvas(200)
    disc = canvas.disc((0.25, 0.5), 0.1)
    assert disc.sum() / 200**2 == pytest.approx(np.pi * 0.1**2, rel=0.05)
    assert (disc * canvas.x).sum() / disc.sum() == pytest.approx(0.25, abs=0.005)
    square = canvas.shape([(0.1, 0.1), (0.5, 0.1), (0.5, 0.5), (0.1, 0.5)], smooth=False)
    assert square.mean() == pytest.approx(0.16, rel=0.03)
    assert mirror([(0.25, 0.5)]) == [(0.75, 0.5)]


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 1.0), (-0.3, 0.5), (1.4, 1.4)])
def test_a_ball_stays_within_its_outline(centre):
    canvas = Canvas(100)
    canvas.ball(centre, 0.2, (200, 30, 30))
    far = np.hypot(canvas.x - centre[0], canvas.y - centre[1]) > 0.22
    near = np.hypot(canvas.x - centre[0], canvas.y - centre[1]) < 0.18
    assert canvas.pixels[far].max(initial=0) == 0
    assert canvas.pixels[near].max(-1).min(initial=255) >= BLACK[0]
