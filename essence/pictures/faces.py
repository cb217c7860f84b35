"""Finding faces and their landmarks with dlib: the frontal detector and the 68-point predictor.

The predictor's file comes with the package `face_recognition_models`. Points are (x, y) in pixels
of the full picture, and the first pixel covers [0, 1): its centre is at 0.5.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from math import hypot
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..runtime.folders import package_file

PREDICTOR = "shape_predictor_68_face_landmarks.dat"
SEARCH_SIDES = (1200, 2400)  # longest side of the copies searched, in turn
# Pixels, the detector's window: where a face is little larger, smaller ones may have been missed.
SMALLEST_SEEN = 80
MAX_ENLARGEMENT = 6  # of a small picture; beyond that there is nothing to see
# Grey border of the last copy searched, in longest sides: faces that fill the picture lack the
# room that the detector wants.
MARGIN = 0.25
# The detector scores upright faces around 2.3, one in fifteen below 1. One in four that stand on
# their head it takes for an upright one, at 0.2 mostly, one in 250 at more than 1.
CERTAIN = 1.0
FAINTEST = 0.3  # of what is only seen at a second look
TURNS = (0, 90, 180, -90)  # degrees clockwise, tried on a picture
TRANSPOSES = {
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_90,
}
# Of all pixels, at most so many of one level count when the contrast is stretched: a black or white
# background would take all levels for itself.
MOST_OF_ONE_LEVEL = 0.05
# Levels between a face's darkest and brightest parts, below which the contrast is stretched for its
# landmarks: on a face at a fifth of its brightness they are off by up to a twelfth otherwise.
FLAT = 64
# Side of the face's box on the copy where landmarks are found: dlib rounds them to whole pixels.
LANDMARK_BOX = 300

# Where the detector puts its box in FFHQ alignment: left, top, right, bottom as parts of the side.
ALIGNED_BOX = (0.234, 0.294, 0.794, 0.854)

Box = tuple[float, float, float, float]  # left, top, right, bottom

_dlib_lock = threading.Lock()  # dlib promises nothing about two threads in one detector


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture."""

    box: Box
    landmarks: np.ndarray  # [68, 2] float64
    score: float  # the detector's confidence, above 0

    @property
    def side(self) -> float:
        """Of its FFHQ square, in pixels; the detector's boxes come in steps of 1.2 and order faces
        badly.
        """
        return 2 * hypot(*ffhq_square(self.landmarks)[1])


def detect(image: Image.Image) -> list[Face]:
    """All frontal faces of an RGB picture, the largest first; an empty list where there are none.

    The search runs on a copy of moderate size. Small pictures are enlarged for it; where nothing,
    or something small, is found the copy becomes larger, for smaller faces, and at last gets a
    border, for faces that fill the picture. Where nothing certain is found, a second look takes
    the contrast up and turns the picture: the points of a face that lies on its side do so too.
    """
    faces = [Face(box, _landmarks(image, box), score) for box, score in _boxes(image)]
    if max((face.score for face in faces), default=0.0) < CERTAIN:
        faces = _second_look(image, faces)
    return sorted(faces, key=lambda face: face.side, reverse=True)


def _second_look(image: Image.Image, faces: list[Face]) -> list[Face]:
    """On a copy with more contrast, in all four turns: the faces of the turn that shows the best
    one, or the `faces` of the first look where it does not tell more.
    """
    least = max((face.score for face in faces), default=0.0) + FAINTEST
    whole = min(SEARCH_SIDES[0] / max(image.size), MAX_ENLARGEMENT)
    stretched = stretch_contrast(image)
    # Faces that fill the picture, for which the border is, are seen on a smaller copy as well.
    for scale, margin in ((whole, 0.0), (whole / 2, MARGIN)):
        found = {turn: _search(turned(stretched, turn), scale, margin) for turn in TURNS}
        best, turn = max((score, turn) for turn in TURNS for _, score in [(0, 0.0), *found[turn]])
        seen = [(box, score) for box, score in found[turn] if score >= FAINTEST]
        if best >= least and (turn or len(seen) > len(faces)):
            copy = turned(stretched, turn)
            again = (Face(box, _landmarks(copy, box), score) for box, score in seen)
            return [_turn_back(face, turn, image.size) for face in again]
        if faces:
            break
    return faces


def stretch_contrast(image: Image.Image) -> Image.Image:
    """Grey, with the levels spread over the whole range by how often they occur: faces become
    visible in the dark, in fog and against the light.
    """
    grey = image.convert("L")
    counts = np.array(grey.histogram(), np.float64)
    counts = np.minimum(counts, MOST_OF_ONE_LEVEL * counts.sum())
    levels = counts.cumsum() - counts / 2
    return grey.point((255 * levels / counts.sum()).round().astype(int).tolist())


def turned(image: Image.Image, turn: int) -> Image.Image:
    """By `turn` degrees clockwise, one of `TURNS`."""
    return image.transpose(TRANSPOSES[turn]) if turn else image


def _turn_back(face: Face, turn: int, size: tuple[int, int]) -> Face:
    """A face of the turned picture, in pixels of the picture of `size` as it was."""
    (width, height), points = size, np.concatenate([face.landmarks, np.reshape(face.box, (2, 2))])
    x, y = points.T
    back = {
        0: (x, y),
        90: (y, height - x),
        180: (width - x, height - y),
        -90: (width - y, x),
    }
    points = np.stack(back[turn], -1)
    corners = np.sort(points[68:], axis=0)
    return Face(tuple(corners.ravel().tolist()), points[:68], face.score)


def _boxes(image: Image.Image) -> list[tuple[Box, float]]:
    """(box, score) of all faces: of the copies searched, the one that showed the most."""
    scales = sorted({min(side / max(image.size), MAX_ENLARGEMENT) for side in SEARCH_SIDES})
    best: list[tuple[Box, float]] = []
    for scale in scales:
        best = max(best, _search(image, scale, margin=0), key=len)
        widths = [right - left for (left, _, right, _), _ in best]
        if widths and min(widths) * scale > 1.5 * SMALLEST_SEEN:
            break
    return best or _search(image, scales[0], MARGIN)


def _search(image: Image.Image, scale: float, margin: float) -> list[tuple[Box, float]]:
    """(box, score) of the faces seen on a copy, RGB or grey, resized by `scale` with a border of
    `margin` times its longest side.
    """
    size = tuple(max(1, round(side * scale)) for side in image.size)
    copy = _shrink(image, (0, 0, *image.size), size)
    border = round(margin * max(size))
    pixels = np.asarray(ImageOps.expand(copy, border, (128,) * len(copy.getbands())))
    with _dlib_lock:
        rectangles, scores, _ = _detector().run(pixels, 0, 0.0)
    fx, fy = image.width / size[0], image.height / size[1]
    return [
        (
            (
                (r.left() - border) * fx,
                (r.top() - border) * fy,
                (r.right() + 1 - border) * fx,
                (r.bottom() + 1 - border) * fy,
            ),
            float(score),
        )
        for r, score in zip(rectangles, scores, strict=True)
    ]


def _landmarks(image: Image.Image, box: Box) -> np.ndarray:
    """[68, 2] points of the face in `box`, found on a copy of its surroundings where the box has a
    standard size.
    """
    left, top, right, bottom = box
    reach = 0.5 * (right - left)  # brows and chin often lie outside the box
    area = np.array(
        [
            max(left - reach, 0),
            max(top - reach, 0),
            min(right + reach, image.width),
            min(bottom + reach, image.height),
        ]
    )
    extent = area[2:] - area[:2]
    size = np.maximum(np.rint(extent * LANDMARK_BOX / (right - left)), 1).astype(int)
    scale = size / extent
    copy = _shrink(image, tuple(area), tuple(size.tolist()))
    darkest, brightest = np.percentile(np.asarray(copy.convert("L")), (5, 95))
    if brightest - darkest < FLAT:
        copy = stretch_contrast(copy)
    corners = ((np.array(box).reshape(2, 2) - area[:2]) * scale).round().astype(int).tolist()
    import dlib

    with _dlib_lock:
        points = _predictor()(
            np.asarray(copy), dlib.rectangle(*corners[0], corners[1][0] - 1, corners[1][1] - 1)
        )
    return (np.array([(p.x, p.y) for p in points.parts()]) + 0.5) / scale + area[:2]


def _shrink(image: Image.Image, area: tuple[float, ...], size: tuple[int, int]) -> Image.Image:
    """A part of the picture at another size; where that is much smaller, whole pixels are averaged
    first, which is fast.
    """
    return image.resize(size, Image.Resampling.BILINEAR, box=area, reducing_gap=2.0)


def aligned_landmarks(picture: Image.Image) -> np.ndarray:
    """[68, 2] points in [-1, 1] of the face in an aligned square, whose place is known."""
    left, top, right, bottom = (edge * picture.width for edge in ALIGNED_BOX)
    points = _landmarks(picture, (left, top, right, bottom))
    return 2 * points / picture.width - 1


def prepare() -> None:
    """Load dlib's models ahead of the first picture: it takes a second in which dlib lets no other
    thread run.
    """
    with _dlib_lock:
        _detector(), _predictor()


@lru_cache(maxsize=1)
def _detector() -> Any:
    import dlib

    return dlib.get_frontal_face_detector()


@lru_cache(maxsize=1)
def _predictor() -> Any:
    """100 MB from disk, once. Call under the lock."""
    import dlib

    return dlib.shape_predictor(str(package_file(PREDICTOR)))


def ffhq_square(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre [2], and the vector [2] from there to the middle of the right side, of FFHQ's square
    (the dataset's paper, arXiv 1812.04948, appendix A): the eye line corrected by the mouth, twice
    the eyes' distance or 1.8 times the way to the mouth from the centre to a side, and a tenth of
    the way down to the mouth.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (68, 2):
        raise ValueError(f"68 points (x, y) are needed, not an array of shape {points.shape}")
    left_eye, right_eye = points[36:42].mean(0), points[42:48].mean(0)  # as seen in the picture
    eyes, mouth = (left_eye + right_eye) / 2, (points[48] + points[54]) / 2
    across, down = right_eye - left_eye, mouth - eyes
    x = across - np.array([-down[1], down[0]])
    x *= max(2.0 * hypot(*across), 1.8 * hypot(*down)) / hypot(*x)
    return eyes + 0.1 * down, x
