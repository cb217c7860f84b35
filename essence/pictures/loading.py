"""Reading pictures: any file, bytes or array to an upright RGB picture of 8 bits a channel."""

from __future__ import annotations

import io
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import OversizedImage, UnreadableImage

MAX_PIXELS = 64_000_000  # a 64-megapixel picture takes about 200 MB once decoded
PAPER = (255, 255, 255)  # what shows through transparent pixels
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # EXIF orientation -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's readers let anything out on a broken file, memory errors of a lying header too.
BROKEN = Exception
RUNS_PROGRAMS = ("EPS",)  # formats that Pillow hands to another program on the machine

_warnings_lock = threading.Lock()


def load_image(
    source: str | Path | bytes | Image.Image | np.ndarray, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Reads any picture as upright 8-bit RGB; what was given stays as it was.

    Takes a path, a file's bytes, a PIL image, or an array `[H, W]` or `[H, W, 1|3|4]` (uint8,
    uint16, bool, or floats in [0, 1]). EXIF orientation is applied, transparency lies on white, an
    animation gives its first frame. The size is read from the header before anything is decoded.
    Raises `UnreadableImage` (missing, empty, truncated, no picture) and `OversizedImage` (more than
    `max_pixels`).
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "The picture", max_pixels)
    data, name = _read_bytes(source)
    stream = io.BytesIO(data)
    try:
        with _quiet_about_size():
            image = Image.open(stream, formats=_formats())
    except Image.DecompressionBombError as error:
        raise OversizedImage(_too_big(name, _header_size(stream), max_pixels)) from error
    except BROKEN as error:
        raise UnreadableImage(
            f"{name} is not a picture that can be read. Use a JPEG, PNG or WebP file."
        ) from error
    return _decode(image, name, max_pixels)


def _read_bytes(source: str | Path | bytes) -> tuple[bytes, str]:
    """The file's bytes, and what to call it in a message."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), "The picture"
    elif isinstance(source, (str, Path)):
        name = Path(source).name or str(source)
        try:
            data = Path(source).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableImage(
                f"{name} cannot be opened ({reason}). Check the path: {source}"
            ) from error
    else:
        raise UnreadableImage(
            f"A {type(source).__name__} is no picture. Give a path, bytes, a PIL image or an array."
        )
    if not data:
        raise UnreadableImage(f"{name} is empty (0 bytes). Save or upload the picture again.")
    return data, name


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in RUNS_PROGRAMS]


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise OversizedImage(_too_big(name, image.size, max_pixels))
    try:
        with _quiet_about_size():
            image.load()  # the first frame of an animation
        upright = _to_rgb(_upright(image))
    except BROKEN as error:
        raise UnreadableImage(
            f"{name} is damaged or cut short ({error}). Save, download or upload it again."
        ) from error
    # The orientation is used up, and where a photograph was taken is nobody's business
    upright.info = {}
    return upright


def _too_big(name: str, size: tuple[int, int] | None, max_pixels: int) -> str:
    extent = (
        f"is {size[0]} x {size[1]} pixels ({size[0] * size[1] / 1e6:.0f} million)"
        if size
        else "is far too large"
    )
    side = int(max_pixels**0.5)
    return (
        f"{name} {extent}; the limit is {max_pixels / 1e6:.4g} million. "
        f"Shrink it, for example to {side} x {side} or less, or crop it to the face."
    )


def _header_size(stream: io.BytesIO) -> tuple[int, int] | None:
    """Width and height of a picture that `Image.open` refuses: its error names their product
    only.
    """
    prefix = stream.getvalue()[:16]
    for factory, accept in Image.OPEN.values():
        if accept is None or accept(prefix) is not True:
            continue
        try:
            stream.seek(0)
            return factory(stream, "").size
        except BROKEN:
            continue
    return None


@contextmanager
def _quiet_about_size():
    """Hides Pillow's warning about large pictures: the limit here is ours. Filters are global,
    hence the lock.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. (`ImageOps.exif_transpose` also rewrites the EXIF, and fails where that
    is broken.)
    """
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION))
    except BROKEN:  # broken EXIF is no reason to refuse a good picture
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (*PAPER, 255))
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Deep grey values to uint8. White is the top of the smallest usual range that holds the
    values.
    """
    values = np.nan_to_num(values.astype(np.float64))
    top = float(values.max(initial=0))
    white = next((w for w in (1.0, 255.0, 65535.0) if top <= w), top)
    return (values.clip(0, white) * (255 / white)).round().astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] in (3, 4)):
        raise UnreadableImage(
            f"An array of shape {array.shape} is no picture: give [H, W] or [H, W, 1|3|4]."
        )
    if array.dtype == np.uint16:
        array = array / 65535
    elif array.dtype == np.bool_:
        array = array.astype(np.float32)
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= -0.01 and high <= 1.01):  # refuses NaN; lets a resampler's overshoot pass
            raise UnreadableImage(
                f"Floats in an array must lie in [0, 1], not {low:.3g} .. {high:.3g}."
            )
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UnreadableImage(
            f"An array of {array.dtype} is no picture: give uint8, uint16, bool or floats in "
            "[0, 1]."
        )
    return Image.fromarray(np.ascontiguousarray(array))
