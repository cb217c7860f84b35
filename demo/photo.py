"""A photograph as it is kept, so that the crop of its faces can be corrected."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from essence import Square

PHOTO_SIDE = 2000  # pixels, longest side


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph, as JPEG because there may be many, and the squares of its faces in its
    pixels.
    """

    data: bytes
    squares: tuple[Square, ...]

    @classmethod
    def of(cls, picture: Image.Image, squares: Sequence[Square]) -> Photo:
        """`squares` are in the pixels of `picture`, which is made smaller if it is large."""
        factor = min(1.0, PHOTO_SIDE / max(picture.size))
        if factor < 1:
            picture = picture.resize(tuple(max(1, round(factor * side)) for side in picture.size))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=92)
        return cls(buffer.getvalue(), tuple(square.scaled(factor) for square in squares))

    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data))
