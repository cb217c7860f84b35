"""From the colours that a file stores to 8-bit sRGB: colour profiles, and more than 8 bits a
channel.
"""

from __future__ import annotations

import io
import sys
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# Whites of the usual depths: floats, then 8, 10, 12, 14 and 16 bits.
WHITES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
# What a profile calls the colours that it is for, by the picture's mode.
SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
# Pillow keeps the upper byte of 16-bit colours. Told that a file's bytes lie the other way round,
# it keeps the lower one.
OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Deep values to uint8. White is the top of the smallest usual range that holds the values."""
    if values.dtype == np.uint16:  # by a table: large pictures would take much memory
        return to_8_bits(np.arange(int(values.max(initial=0)) + 1))[values]
    values = np.nan_to_num(values.astype(np.float64))
    top = float(values.max(initial=0))
    white = next((white for white in WHITES if top <= white), top)
    return (values.clip(0, white) * (255 / white)).round().astype(np.uint8)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque picture as RGB: through its ICC profile to sRGB, or as Pillow converts it where the
    profile is missing, broken or for another kind of picture.
    """
    image = image if image.mode in SPACES else image.convert("RGB")
    if not profile:
        return image.convert("RGB")
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = given.profile.xcolor_space.strip()
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        if SPACES[image.mode] == space:
            transform = ImageCms.buildTransform(
                given, ImageCms.createProfile("sRGB"), image.mode, "RGB"
            )
            if image.mode != "RGB" or not _changes_nothing(transform):
                return ImageCms.applyTransform(image, transform)
    except Exception:  # what lcms says to a broken profile; it is no reason to refuse the picture
        pass
    return image.convert("RGB")


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether it moves no colour by more than rounding does: sRGB itself, under its many names."""
    samples = _colour_samples()
    moved = np.asarray(ImageCms.applyTransform(samples, transform), np.int16)
    return bool(np.abs(moved - np.asarray(samples, np.int16)).max() <= 1)


@lru_cache(maxsize=1)
def _colour_samples() -> Image.Image:
    """Colours from all over the cube, 64 x 64."""
    levels = np.indices((16, 16, 16), np.uint8).reshape(3, 64, 64)
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(17 * levels, 0, -1)))


# -- 16 bits in each of several channels, of which Pillow keeps the upper 8


def has_hidden_depth(image: Image.Image) -> bool:
    """Whether a picture that was opened and not yet loaded stores 16 bits of each colour."""
    tiles = getattr(image, "tile", [])
    names = [_raw_mode(tile[3]).split(";") for tile in tiles]
    return bool(names) and all(
        name[0] in ("RGB", "RGBA", "RGBX") and name[-1] in OTHER_ORDER for name in names
    )


def spread(image: Image.Image, again: Image.Image) -> None:
    """Brings a loaded picture with `has_hidden_depth` whose colours fill only the lower part of 16
    bits, as 12-bit ones do, to the range that they were meant for. `again`: the same, opened anew.
    """
    upper = np.asarray(image)
    if upper[..., :3].max(initial=0) > int(WHITES[-2]) >> 8:
        return
    again.tile = [tile._replace(args=_other_order(tile.args)) for tile in again.tile]
    deep = upper.astype(np.uint16) << 8 | np.asarray(again)
    channels = [to_8_bits(deep[..., :3])]
    if deep.shape[2] == 4:
        channels.append(to_8_bits(deep[..., 3:]))
    image.paste(Image.fromarray(np.concatenate(channels, -1)))


def _raw_mode(args: object) -> str:
    """Of a tile's arguments: how its bytes lie."""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _other_order(args: str | tuple) -> str | tuple:
    mode, order = _raw_mode(args).split(";")
    swapped = f"{mode};{OTHER_ORDER[order]}"
    return swapped if isinstance(args, str) else (swapped, *args[1:])
