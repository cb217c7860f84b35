"""Finding faces and cutting them out in the alignment of FFHQ, which the generators were trained on.

dlib's frontal detector and its 68-point predictor; the predictor's file comes with the package `face_recognition_models`.
Points are (x, y) in pixels of the full picture, and the first pixel covers [0, 1): its centre is at 0.5.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, hypot, radians, sin
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from .errors import NoFaceFound
from .images import load_image, resize, square_crop
from .models.identity import package_file

PREDICTOR = "shape_predictor_68_face_landmarks.dat"
SEARCH_SIDES = (1200, 2400)  # longest side of the copies searched, in turn
SMALLEST_SEEN = 80  # pixels: the detector's window. Faces little larger may have fellows that are missed
MAX_ENLARGEMENT = 6  # of a small picture; beyond that there is nothing to see
MARGIN = 0.25  # grey border of the last copy searched: faces that fill the picture lack the room the detector wants
LANDMARK_BOX = 300  # side of the face's box on the copy where landmarks are found; dlib rounds them to whole pixels
SUPERSAMPLING = 4  # the crop is drawn at most this many times finer than wanted

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
        """Of its FFHQ square, in pixels. (The detector's boxes come in steps of 1.2 and order faces badly.)"""
        return 2 * hypot(*ffhq_square(self.landmarks)[1])


@dataclass(frozen=True)
class Nudge:
    """A correction of a crop by hand: `zoom` above 1 comes closer, `right` and `down` are in sides of the square, `turn` is
    degrees clockwise."""

    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0


@dataclass(frozen=True)
class Square:
    """An oriented square in a picture, in its pixels: the centre, and the vector from there to the middle of the right side."""

    centre: tuple[float, float]
    across: tuple[float, float]

    @classmethod
    def centred(cls, image: Image.Image) -> Square:
        """The largest one in the middle, as `square_crop` takes it."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return cls((left + side / 2, top + side / 2), (side / 2, 0.0))

    def corners(self) -> list[tuple[float, float]]:
        """Top left, top right, bottom right, bottom left."""
        (cx, cy), (x, y) = self.centre, self.across
        return [(cx + i * x - j * y, cy + i * y + j * x) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]

    def nudged(self, nudge: Nudge) -> Square:
        (cx, cy), (x, y) = self.centre, self.across
        c, s = cos(radians(nudge.turn)) / nudge.zoom, sin(radians(nudge.turn)) / nudge.zoom
        right, down = 2 * nudge.right, 2 * nudge.down
        return Square((cx + right * x - down * y, cy + right * y + down * x), (c * x - s * y, s * x + c * y))

    def scaled(self, factor: float) -> Square:
        """The same square on a copy of the picture, resized by `factor`."""
        (cx, cy), (x, y) = self.centre, self.across
        return Square((factor * cx, factor * cy), (factor * x, factor * y))


# ---- the public names

def align(image: Any, size: int = 256, index: int = 0, aligned: bool = False) -> Image.Image:
    """The face number `index`, the largest first, cut out like FFHQ's pictures: RGB, `size` x `size`.

    `image` is anything `load_image` takes. `aligned` skips the search: the centred square, resized.
    Raises `NoFaceFound`, `UnreadableImage` or `OversizedImage`.
    """
    image = load_image(image)
    return resize(square_crop(image), size) if aligned else cut(image, square(image, index), size)


def align_all(image: Any, size: int = 256) -> list[Image.Image]:
    """Every face of the picture as `align` would cut it, the largest first. Raises `NoFaceFound` where there is none."""
    image = load_image(image)
    return [crop(image, face.landmarks, size) for face in _faces_or_advice(image)]


def square(image: Image.Image, index: int = 0) -> Square:
    """Where `align` would cut the face number `index`. Raises `NoFaceFound`."""
    found = squares(image)
    if not 0 <= index < len(found):
        raise NoFaceFound(f"There is no face number {index + 1}: {len(found)} found in the picture, the largest first.")
    return found[index]


def squares(image: Image.Image, aligned: bool = False) -> list[Square]:
    """Where `align_all` would cut, for `cut`; `aligned`: the centred square. Raises `NoFaceFound` where there is no face."""
    if aligned:
        return [Square.centred(image)]
    found = (ffhq_square(face.landmarks) for face in _faces_or_advice(image))
    return [Square(tuple(centre.tolist()), tuple(x.tolist())) for centre, x in found]


def _faces_or_advice(image: Image.Image) -> list[Face]:
    found = detect(image)
    if not found:
        raise NoFaceFound(
            f"No face found in this picture of {image.width} x {image.height} pixels. Choose one where a face looks at "
            "the camera, or say that it is \"already aligned\" (--aligned) to take its centred square as it is.")
    return found


# ---- detection

def detect(image: Image.Image) -> list[Face]:
    """All frontal faces of an RGB picture, the largest first; an empty list where there are none.

    The search runs on a copy of moderate size. Small pictures are enlarged for it; where nothing, or something small, is
    found the copy becomes larger, for smaller faces, and at last gets a border, for faces that fill the picture.
    """
    faces = [Face(box, _landmarks(image, box), score) for box, score in _boxes(image)]
    return sorted(faces, key=lambda face: face.side, reverse=True)


def _boxes(image: Image.Image) -> list[tuple[Box, float]]:
    """(box, score) of all faces: of the copies searched, the one that showed the most."""
    scales = sorted({min(side / max(image.size), MAX_ENLARGEMENT) for side in SEARCH_SIDES})
    best: list[tuple[Box, float]] = []
    for scale in scales:
        best = max(best, _search(image, scale, margin=0), key=len)
        if best and min(right - left for (left, _, right, _), _ in best) * scale > 1.5 * SMALLEST_SEEN:
            break
    return best or _search(image, scales[0], MARGIN)


def _search(image: Image.Image, scale: float, margin: float) -> list[tuple[Box, float]]:
    """(box, score) of the faces seen on a copy resized by `scale` with a border of `margin` times its longest side."""
    size = tuple(max(1, round(side * scale)) for side in image.size)
    copy = _shrink(image, (0, 0, *image.size), size)
    border = round(margin * max(size))
    pixels = np.pad(np.asarray(copy), ((border, border), (border, border), (0, 0)), constant_values=128)
    with _dlib_lock:
        rectangles, scores, _ = _detector().run(pixels, 0, 0.0)
    fx, fy = image.width / size[0], image.height / size[1]
    return [(((r.left() - border) * fx, (r.top() - border) * fy,
              (r.right() + 1 - border) * fx, (r.bottom() + 1 - border) * fy), float(score))
            for r, score in zip(rectangles, scores, strict=True)]


def _landmarks(image: Image.Image, box: Box) -> np.ndarray:
    """[68, 2] points of the face in `box`, found on a copy of its surroundings where the box has a standard size."""
    left, top, right, bottom = box
    reach = 0.5 * (right - left)  # brows and chin often lie outside the box
    area = np.array([max(left - reach, 0), max(top - reach, 0),
                     min(right + reach, image.width), min(bottom + reach, image.height)])
    extent = area[2:] - area[:2]
    size = np.maximum(np.rint(extent * LANDMARK_BOX / (right - left)), 1).astype(int)
    scale = size / extent
    copy = _shrink(image, tuple(area), tuple(size.tolist()))
    corners = ((np.array(box).reshape(2, 2) - area[:2]) * scale).round().astype(int).tolist()
    import dlib
    with _dlib_lock:
        points = _predictor()(np.asarray(copy), dlib.rectangle(*corners[0], corners[1][0] - 1, corners[1][1] - 1))
    return (np.array([(p.x, p.y) for p in points.parts()]) + 0.5) / scale + area[:2]


def _shrink(image: Image.Image, area: tuple[float, ...], size: tuple[int, int]) -> Image.Image:
    """A part of the picture at another size; far from it, whole pixels are averaged first, which is fast."""
    return image.resize(size, Image.Resampling.BILINEAR, box=area, reducing_gap=2.0)


def prepare() -> None:
    """Load dlib's models now: with the first picture, their second of loading would be everybody's, as dlib lets no other thread work."""
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


# ---- the crop

def crop(image: Image.Image, landmarks: np.ndarray, size: int = 256) -> Image.Image:
    """The oriented square around a face, `size` x `size`; `landmarks` [68, 2] in pixels of `image`.

    Where it leaves the picture it shows reflections that blur and fade to the median colour.
    """
    return _draw(image, *ffhq_square(landmarks), size)


def cut(image: Image.Image, square: Square, size: int = 256) -> Image.Image:
    """A square of a picture, `size` x `size`, as `crop` draws it."""
    if square == Square.centred(image):
        return resize(square_crop(image), size)
    return _draw(image, np.array(square.centre), np.array(square.across), size)


def _draw(image: Image.Image, centre: np.ndarray, x: np.ndarray, size: int) -> Image.Image:
    side = 2 * hypot(*x)
    image, centre, x = _zoom(image, centre, x, factor=max(1, int(side / size / 2)))
    image, centre = _pad(image, centre, x)
    fine = size * min(max(2, ceil(2 * hypot(*x) / size)), SUPERSAMPLING)
    y = np.array([-x[1], x[0]])
    right, down, origin = 2 * x / fine, 2 * y / fine, centre - x - y
    transform = (right[0], down[0], origin[0], right[1], down[1], origin[1])
    bands = []
    for band in image.split():  # in floats: on 8 bits Pillow's transform cuts the fraction off, half a level darker
        drawn = band.convert("F").transform((fine, fine), Image.Transform.AFFINE, transform, Image.Resampling.BICUBIC)
        bands.append(np.asarray(drawn.resize((size, size), Image.Resampling.LANCZOS)))
    return _to_image(np.stack(bands, -1))


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def ffhq_square(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre [2], and the vector [2] from there to the middle of the right side, of FFHQ's square (the dataset's paper,
    arXiv 1812.04948, appendix A): the eye line corrected by the mouth, twice the eyes' distance or 1.8 times the way to
    the mouth from the centre to a side, and a tenth of the way down to the mouth."""
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (68, 2):
        raise ValueError(f"68 points (x, y) are needed, not an array of shape {points.shape}")
    left_eye, right_eye = points[36:42].mean(0), points[42:48].mean(0)  # left and right of the picture
    eyes, mouth = (left_eye + right_eye) / 2, (points[48] + points[54]) / 2
    across, down = right_eye - left_eye, mouth - eyes
    x = across - np.array([-down[1], down[0]])
    x *= max(2.0 * hypot(*across), 1.8 * hypot(*down)) / hypot(*x)
    return eyes + 0.1 * down, x


def _zoom(image: Image.Image, centre: np.ndarray, x: np.ndarray, factor: int
          ) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Only the part around the square, shrunk by a whole factor; with the square in its coordinates."""
    reach = np.abs(x).sum() * 1.1 + factor  # a tenth more, so that reflections have something to show
    edge = np.array(image.size)
    low = np.floor(centre - reach).clip(0, edge - 1).astype(int)
    high = np.ceil(centre + reach).clip(low + 1, edge).astype(int)
    part = image.crop((*low.tolist(), *high.tolist())).reduce(factor)
    return part, (centre - low) / factor, x / factor


def _pad(image: Image.Image, centre: np.ndarray, x: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """Reflections wherever the square leaves the picture, faded into the median colour; with the new centre."""
    reach, side = np.abs(x).sum(), 2 * hypot(*x)
    over = np.stack([reach - centre, centre + reach - image.size])  # [low|high, x|y] pixels missing
    if over.max() <= 0.5:
        return image, centre
    # A wide border wherever one is needed, so that the fade is as gentle for two missing pixels as for two hundred.
    border = np.ceil(np.maximum(over, 0.3 * side)).astype(int)
    pixels = np.pad(np.asarray(image), ((border[0, 1], border[1, 1]), (border[0, 0], border[1, 0]), (0, 0)), "reflect")
    depth = np.maximum.outer(_depth(image.height, border[:, 1]), _depth(image.width, border[:, 0]))[..., None]
    soft = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.03 * side)), np.float32)
    padded = pixels + (soft - pixels) * (6 * depth).clip(0, 1)  # the picture's own pixels stay
    padded += (np.median(padded, axis=(0, 1)) - padded) * depth.clip(0, 1)
    return _to_image(padded), centre + border[0]


def _depth(length: int, border: np.ndarray) -> np.ndarray:
    """Along one side, how far each pixel lies in its border: 1 at the outer end, 0 at the picture's edge, less inside."""
    place = np.arange(length + border.sum(), dtype=np.float32)
    return 1 - np.minimum(place / border[0], place[::-1] / border[1])
