from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import cos, pi, sin

import numpy as np
import pytest
from PIL import Image

from essence.errors import BadFile, NoFaceFound, UnreadableImage, UserError
from essence.models import identity
from essence.pictures import align, faces
from essence.pictures.tensors import resize


def landmarks_at(centre=(100.0, 100.0), eyes=50.0, mouth=55.0, angle=0.0) -> np.ndarray:
    """68 points of which eyes and mouth corners are placed: `eyes` apart, `mouth` below them,
    turned by `angle`.
    """
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (-eyes / 2, 0), (eyes / 2, 0)
    points[48], points[54] = (-15, mouth), (15, mouth)
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    return points @ turn.T + centre


def ramp(width: int, height: int) -> Image.Image:
    """Red is x, green is y, both of the pixel's centre, so that a crop shows where it was taken."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


# ---- the square


@pytest.mark.parametrize("eyes, mouth, half", [(50, 40, 100), (40, 60, 108)])
def test_the_square_has_the_datasets_size_and_place(eyes, mouth, half):
    centre, x = align.ffhq_square(landmarks_at(eyes=eyes, mouth=mouth))
    np.testing.assert_allclose(x, (half, 0), atol=1e-9)
    np.testing.assert_allclose(centre, (100, 100 + 0.1 * mouth))


def test_the_square_follows_the_face():
    """Turning, scaling and moving the landmarks turns, scales and moves the square."""
    points = landmarks_at() + np.random.default_rng(0).normal(0, 3, (68, 2))
    turn = 1.7 * np.array([[cos(0.4), -sin(0.4)], [sin(0.4), cos(0.4)]])
    centre, x = align.ffhq_square(points)
    moved_centre, moved_x = align.ffhq_square(points @ turn.T + (31, -7))
    np.testing.assert_allclose(moved_centre, turn @ centre + (31, -7))
    np.testing.assert_allclose(moved_x, turn @ x)


def test_landmarks_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="5, 2"):
        align.ffhq_square(np.zeros((5, 2)))


# ---- the crop


@pytest.mark.parametrize("angle", [0.0, 0.5, pi / 2, -2.0])
@pytest.mark.parametrize("size", [32, 64, 333])
def test_every_pixel_of_the_crop_comes_from_its_place(angle, size):
    points = landmarks_at((120, 110), 20, 20, angle)
    centre, x = align.ffhq_square(points)
    y = np.array([-x[1], x[0]])
    got = np.asarray(align.crop(ramp(250, 230), points, size), float)[..., :2]
    step = (2 * np.arange(size) + 1) / size - 1
    expected = centre + step[None, :, None] * x + step[:, None, None] * y - 0.5
    assert got.shape == (size, size, 2)
    assert np.abs(got - expected)[1:-1, 1:-1].max() < 0.7
    assert abs((got - expected)[1:-1, 1:-1].mean()) < 0.02


def test_fine_detail_averages_out_instead_of_aliasing():
    checks = Image.fromarray((np.indices((900, 900)).sum(0) % 2 * 255).astype(np.uint8)).convert(
        "RGB"
    )
    for angle in (0.0, 0.3):
        got = np.asarray(align.crop(checks, landmarks_at((450, 450), 180, 180, angle), 64), float)
        assert np.abs(got - 127.5).max() < 8


def test_a_crop_that_leaves_the_picture_reflects_and_fades():
    rng = np.random.default_rng(0)
    image = resize(Image.fromarray(rng.integers(0, 255, (12, 10, 3), np.uint8)), (200, 240))
    points = landmarks_at((100, 90), 50, 50)
    inside = align.crop(image, points, 200)
    cut = align.crop(image.crop((0, 40, 200, 240)), points - (0, 40), 200)
    assert difference(inside, cut) > 1
    own, padding = (
        np.s_[50:],
        np.s_[:40],
    )  # the square begins 5 rows above the cut picture's former top
    np.testing.assert_allclose(np.asarray(cut, int)[own], np.asarray(inside, int)[own], atol=1)
    pixels = np.asarray(cut, float)
    assert pixels[padding].std() < 0.8 * pixels[own].std()
    assert np.abs(np.diff(pixels, axis=0)).max() < 40  # no seam


@pytest.mark.parametrize("centre", [(0, 0), (300, 20), (-500, 900), (20, 6)])
def test_any_square_gives_a_picture(centre):
    for size in ((40, 12), (1, 1)):
        got = align.crop(Image.new("RGB", size, (10, 200, 30)), landmarks_at(centre), 48)
        assert got.size == (48, 48) and np.abs(np.asarray(got, int) - (10, 200, 30)).max() <= 1


# ---- finding faces


def test_a_face_is_found_where_it_is(face_image):
    (face,) = faces.detect(face_image)
    left, top, right, bottom = face.box
    assert 128 < left < right < 384 and 128 < top < bottom < 384 and face.score > 0
    assert face.landmarks.shape == (68, 2) and face.landmarks.dtype == np.float64
    eye, other, mouth = (
        face.landmarks[36:42].mean(0),
        face.landmarks[42:48].mean(0),
        face.landmarks[48:68].mean(0),
    )
    assert left < eye[0] < mouth[0] < other[0] < right and top < eye[1] < mouth[1] < bottom


@pytest.mark.parametrize(
    "angle, scale, shift",
    [(0, 1.0, (0, 0)), (10, 1.0, (20, -30)), (-15, 1.6, (0, 40)), (0, 0.4, (9, 9))],
)
def test_aligning_undoes_turning_scaling_and_moving(face_image, angle, scale, shift):
    expected = align.align(face_image, 128)
    moved = face_image.rotate(
        angle, Image.Resampling.BICUBIC, translate=shift, fillcolor=face_image.getpixel((0, 0))
    )
    moved = resize(moved, round(512 * scale))
    got = align.align(moved, 128)
    middle = (24, 24, 104, 104)
    assert difference(got.crop(middle), expected.crop(middle)) < 10
    assert difference(got.crop(middle), moved.resize((128, 128)).crop(middle)) > 20 or scale == 1.0


def test_faces_come_largest_first_even_small_ones(face_image):
    face = face_image.crop((128, 128, 384, 384))
    canvas = Image.new("RGB", (2600, 1400), (128, 128, 128))
    for side, place in (
        (190, (100, 100)),
        (700, (500, 300)),
        (400, (1500, 200)),
        (200, (2100, 900)),
        (260, (1300, 1000)),
    ):
        canvas.paste(resize(face, side), place)
    found = faces.detect(canvas)
    assert [round(face.box[0] // 100) for face in found] == [6, 15, 13, 21, 1]
    assert (
        align.align(canvas, 64, index=3).tobytes()
        == align.crop(canvas, found[3].landmarks, 64).tobytes()
    )


def test_every_face_can_be_asked_for_by_number(face_image):
    canvas = Image.new("RGB", (900, 400), (128, 128, 128))
    canvas.paste(face_image.crop((128, 128, 384, 384)), (40, 60))
    canvas.paste(
        face_image.crop((96, 96, 416, 416))
        .transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        .resize((400, 400)),
        (450, 0),
    )
    crops = align.align_all(canvas, 64)
    assert [align.align(canvas, 64, index).tobytes() for index in (0, 1)] == [
        image.tobytes() for image in crops
    ]
    for index in (2, -1):
        with pytest.raises(NoFaceFound, match="2 found"):
            align.align(canvas, index=index)


@pytest.mark.parametrize("side", [40, 256])
def test_a_face_that_fills_a_small_picture_is_found(face_image, side):
    assert len(faces.detect(resize(face_image.crop((128, 128, 384, 384)), side))) == 1


@pytest.mark.parametrize("size", [(300, 200), (1, 1), (1, 3000), (7, 7)])
def test_no_face_says_what_to_do(size):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    assert faces.detect(Image.fromarray(noise)) == []
    for function in (align.align, align.align_all):
        with pytest.raises(
            NoFaceFound, match=rf"{size[0]} x {size[1]}.*already aligned.*--aligned"
        ):
            function(noise)


def test_an_aligned_picture_is_only_squared_and_resized():
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste((0, 0, 255), (100, 0, 200, 100))
    assert align.align(picture, 32, aligned=True).getcolors() == [(32 * 32, (0, 0, 255))]


def test_files_are_read_and_their_faults_named(face_image, tmp_path):
    face_image.save(tmp_path / "face.png")
    assert align.align(tmp_path / "face.png", 64).tobytes() == align.align(face_image, 64).tobytes()
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UnreadableImage, match="empty.jpg"):
        align.align(tmp_path / "empty.jpg")


def test_threads_share_the_detector(face_image):
    expected = align.align(face_image, 64).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert {
            image.tobytes() for image in pool.map(lambda _: align.align(face_image, 64), range(8))
        } == {expected}


def test_a_missing_predictor_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadFile, match=f"{faces.PREDICTOR}.*pip install face_recognition_models"):
        identity.package_file(faces.PREDICTOR)
    assert issubclass(BadFile, UserError)


def test_importing_loads_neither_dlib_nor_the_models_package():
    code = "import sys, essence.pictures.align; sys.exit(bool({'dlib', 'face_recognition_models', 'pkg_resources'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
