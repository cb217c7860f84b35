"""Cutting faces out in the alignment of FFHQ, which the generators were trained on.

Points are (x, y) in pixels of the full picture, and the first pixel covers [0, 1): its centre is at
0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, ceil, cos, degrees, hypot, radians, sin
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ..errors import NoFaceFound, UserError
from .faces import detect, ffhq_square
from .loading import load_image
from .tensors import resize, square_crop

SUPERSAMPLING = 4  # the crop is drawn at most this many times finer than wanted
MAX_SIDE = 4096  # pixels, of what is cut out: it is drawn in gigabytes, and no face has more detail


@dataclass(frozen=True)
class Nudge:
    """A correction of a crop by hand: `zoom` above 1 comes closer, `right` and `down` are in sides
    of the square, `turn` is degrees clockwise.
    """

    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0


@dataclass(frozen=True)
class Square:
    """An oriented square in a picture, in its pixels: the centre, and the vector from there to the
    middle of the right side.
    """

    centre: tuple[float, float]
    across: tuple[float, float]

    @classmethod
    def centred(cls, image: Image.Image) -> Square:
        """The largest one in the middle, as `square_crop` takes it."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return cls((left + side / 2, top + side / 2), (side / 2, 0.0))

    @property
    def side(self) -> float:
        """In pixels."""
        return 2 * hypot(*self.across)

    @property
    def turn(self) -> int:
        """Degrees clockwise, in quarter turns, by which the picture has to be turned for what is in
        the square to stand upright: 0, 90, 180 or -90.
        """
        quarters = round(degrees(atan2(self.across[1], self.across[0])) / 90)
        return {0: 0, 1: -90, -1: 90}.get(quarters, 180)

    def corners(self) -> list[tuple[float, float]]:
        """Top left, top right, bottom right, bottom left."""
        (cx, cy), (x, y) = self.centre, self.across
        return [
            (cx + i * x - j * y, cy + i * y + j * x)
            for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]

    def nudged(self, nudge: Nudge) -> Square:
        (cx, cy), (x, y) = self.centre, self.across
        c, s = cos(radians(nudge.turn)) / nudge.zoom, sin(radians(nudge.turn)) / nudge.zoom
        right, down = 2 * nudge.right, 2 * nudge.down
        return Square(
            (cx + right * x - down * y, cy + right * y + down * x), (c * x - s * y, s * x + c * y)
        )

    def scaled(self, factor: float) -> Square:
        """The same square on a copy of the picture, resized by `factor`."""
        (cx, cy), (x, y) = self.centre, self.across
        return Square((factor * cx, factor * cy), (factor * x, factor * y))


# -- where to cut


@dataclass(frozen=True)
class Located:
    """The squares to cut from a picture, in its pixels as it is, the largest face first: where the
    face lies on its side or stands on its head, so does its square. `face_found` is False where a
    face was searched for in vain, and the centred square stands in.
    """

    squares: tuple[Square, ...]
    face_found: bool

    @property
    def turn(self) -> int:
        """Of the largest face; see `Square.turn`."""
        return self.squares[0].turn

    def pick(self, index: int = 0) -> Square:
        """The square of the face number `index`. Raises NoFaceFound."""
        if not 0 <= index < len(self.squares):
            count = len(self.squares)
            raise NoFaceFound(
                f"There is no face number {index + 1}: {count} found in the picture, "
                "the largest first."
            )
        return self.squares[index]


def locate(image: Image.Image, aligned: bool = False, required: bool = True) -> Located:
    """Find the faces of a picture. `aligned` skips the search and takes the centred square, which
    also stands in for a missing face unless one is `required`. Raises NoFaceFound.
    """
    if aligned:
        return Located((Square.centred(image),), face_found=True)
    if faces := detect(image):
        found = (ffhq_square(face.landmarks) for face in faces)
        squares = (Square(tuple(centre.tolist()), tuple(x.tolist())) for centre, x in found)
        return Located(tuple(squares), face_found=True)
    if required:
        raise NoFaceFound(
            f"No face found in this picture of {image.width} x {image.height} pixels. Choose one "
            'where a face looks at the camera, or say that it is "already aligned" (--aligned) '
            "to take its centred square as it is."
        )
    return Located((Square.centred(image),), face_found=False)


def align(image: Any, size: int = 256, index: int = 0, aligned: bool = False) -> Image.Image:
    """The face number `index`, the largest first, cut out like FFHQ's pictures: RGB, `size` x
    `size`.

    `image` is anything `load_image` takes. `aligned` skips the search: the centred square, resized.
    Raises `NoFaceFound`, `UnreadableImage` or `OversizedImage`.
    """
    check_side(size)
    image = load_image(image)
    return cut(image, locate(image, aligned).pick(index), size)


def align_all(image: Any, size: int = 256) -> list[Image.Image]:
    """Every face of the picture as `align` would cut it, the largest first. Raises `NoFaceFound`
    where there is none.
    """
    check_side(size)
    image = load_image(image)
    return [cut(image, square, size) for square in locate(image).squares]


# -- the crop


def check_side(size: int) -> None:
    """Raises UserError for a side that no face is worth."""
    if not 1 <= size <= MAX_SIDE:
        raise UserError(
            f"A face is cut out with a side of 1 to {MAX_SIDE} pixels, not {size}: more would take "
            "gigabytes of memory and show no more of it."
        )


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
    # In floats: on 8 bits Pillow's transform cuts the fraction off, half a level darker.
    for band in image.split():
        drawn = band.convert("F").transform(
            (fine, fine), Image.Transform.AFFINE, transform, Image.Resampling.BICUBIC
        )
        pixels = np.asarray(drawn.resize((size, size), Image.Resampling.LANCZOS))
        bands.append(_to_image(pixels))
    return Image.merge("RGB", bands)


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _zoom(
    image: Image.Image, centre: np.ndarray, x: np.ndarray, factor: int
) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Only the part around the square, shrunk by a whole factor, and the square in its
    coordinates.
    """
    reach = np.abs(x).sum() * 1.1 + factor  # a tenth more, for reflections to show something
    edge = np.array(image.size)
    low = np.floor(centre - reach).clip(0, edge - 1).astype(int)
    high = np.ceil(centre + reach).clip(low + 1, edge).astype(int)
    part = image.crop((*low.tolist(), *high.tolist()))
    if factor > 1:  # else it would be a copy more
        part = part.reduce(factor)
    return part, (centre - low) / factor, x / factor


def _pad(image: Image.Image, centre: np.ndarray, x: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    """Reflections wherever the square leaves the picture, faded into the median colour; with the
    new centre.
    """
    reach, side = np.abs(x).sum(), 2 * hypot(*x)
    over = np.stack([reach - centre, centre + reach - image.size])  # [low|high, x|y] pixels missing
    if over.max() <= 0.5:
        return image, centre
    # A wide border wherever one is needed, so that the fade is as gentle for two missing pixels as
    # for two hundred.
    border = np.ceil(np.maximum(over, 0.3 * side)).astype(int)
    pixels = np.pad(
        np.asarray(image),
        ((border[0, 1], border[1, 1]), (border[0, 0], border[1, 0]), (0, 0)),
        "reflect",
    )
    rows, columns = _depth(image.height, border[:, 1]), _depth(image.width, border[:, 0])
    depth = np.maximum.outer(rows, columns)[..., None]
    blur = ImageFilter.GaussianBlur(0.03 * side)
    soft = np.asarray(Image.fromarray(pixels).filter(blur), np.float32)
    padded = pixels + (soft - pixels) * (6 * depth).clip(0, 1)  # the picture's own pixels stay
    padded += (np.median(padded, axis=(0, 1)) - padded) * depth.clip(0, 1)
    return _to_image(padded), centre + border[0]


def _depth(length: int, border: np.ndarray) -> np.ndarray:
    """Along one side, how far each pixel lies in its border: 1 at the outer end, 0 at the picture's
    edge, less inside.
    """
    place = np.arange(length + border.sum(), dtype=np.float32)
    return 1 - np.minimum(place / border[0], place[::-1] / border[1])
