"""dlib's 68 landmarks of faces whose place is known, and tight crops put into FFHQ alignment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..pictures.faces import ALIGNED_BOX, PREDICTOR, ffhq_square
from ..runtime.folders import package_file

SIDE = 128
# In dlib's face chips with 25 % padding, as FairFace has them.
TIGHT_BOX = (0.076, 0.076, 0.892, 0.892)


@lru_cache(maxsize=1)
def predictor() -> Any:
    import dlib  # heavy, and only recipes need it here

    return dlib.shape_predictor(str(package_file(PREDICTOR)))


def landmarks(
    pictures: Sequence[np.ndarray] | np.ndarray,
    box: tuple[float, float, float, float] = ALIGNED_BOX,
) -> np.ndarray:
    """uint8 pictures [N, H, W, 3] to landmarks [N, 68, 2] in [0, 1], by dlib's predictor in a fixed
    box.
    """
    import dlib

    points = np.empty((len(pictures), 68, 2), np.float32)
    for i, picture in enumerate(pictures):
        # The box has whole pixels, which are finer on a larger picture.
        picture = dlib.resize_image(np.ascontiguousarray(picture), 2.0)
        side = picture.shape[0]
        rectangle = dlib.rectangle(*(round(edge * side) for edge in box))
        parts = predictor()(picture, rectangle).parts()
        points[i] = [((p.x + 0.5) / side, (p.y + 0.5) / side) for p in parts]
    return points


def align_tight_crop(image: Image.Image) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """A tight face chip in FFHQ alignment: uint8 [128, 128, 3], its edge pixels stretched outwards;
    its landmarks [68, 2] in [0, 1]; and uint8 [128, 128], 255 where the chip itself lies.
    """
    pixels = np.asarray(image)
    size = np.array([image.width, image.height])
    marks = landmarks(pixels[None], TIGHT_BOX)[0].astype(np.float64) * size
    centre, x = ffhq_square(marks)  # x: half of the square's side, along its x axis
    y = np.array([-x[1], x[0]])
    border = max(image.size)
    corners = [centre + border + i * x + j * y for i, j in ((-1, -1), (-1, 1), (1, 1), (1, -1))]

    def cut(framed: np.ndarray) -> np.ndarray:
        quad = [v for corner in corners for v in corner]
        picture = Image.fromarray(framed).transform(
            (SIDE, SIDE), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR
        )
        return np.asarray(picture)

    aligned = cut(np.pad(pixels, ((border, border), (border, border), (0, 0)), mode="edge"))
    mask = cut(np.pad(np.full(pixels.shape[:2], 255, np.uint8), border))
    offset = marks - centre
    inside = np.stack([offset @ x, offset @ y], 1) / (x @ x) / 2 + 0.5
    return aligned, torch.from_numpy(inside).float(), mask
