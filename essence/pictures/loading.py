"""Reading pictures: any file, bytes or array to an upright sRGB picture of 8 bits a channel."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import OversizedImage, UnreadableImage
from .colours import has_hidden_depth, spread, to_8_bits, to_srgb

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
# What an HEIC file calls itself, in its first box; AVIF files have the same box.
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}

_warnings_lock = threading.Lock()


def load_image(
    source: str | Path | bytes | Image.Image | np.ndarray, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Reads any picture as upright 8-bit sRGB; what was given stays as it was.

    Takes a path, a file's bytes, a PIL image, or an array `[H, W]` or `[H, W, 1|3|4]` (uint8,
    uint16, bool, or floats in [0, 1]). EXIF orientation and colour profile are applied, more than 8
    bits are read by the range that they fill, transparency lies on white, an animation gives its
    first frame. The size is read from the header before anything is decoded.
    Raises `UnreadableImage` (missing, empty, truncated, no picture) and `OversizedImage` (more than
    `max_pixels`).
    """
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "The picture", max_pixels)
    data, name = _read_bytes(source)
    return _decode(_open(data, name, max_pixels), name, max_pixels, data)


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


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """The picture in a file, of which only the header has been read."""
    stream = io.BytesIO(data)
    try:
        if _is_heic(data):
            return _heic_reader(name)(stream)
        with _quiet_about_size():
            return Image.open(stream, formats=_formats())
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        raise OversizedImage(_too_big(name, _header_size(stream), max_pixels)) from error
    except BROKEN as error:
        raise UnreadableImage(
            f"{name} is not a picture that can be read. Use a JPEG, PNG or WebP file."
        ) from error


def _is_heic(data: bytes) -> bool:
    """By the brands in the first box: its length, "ftyp", the main brand, a version, the others."""
    length = int.from_bytes(data[:4], "big")
    box = data[8 : min(length, 200)]
    return data[4:8] == b"ftyp" and any(
        box[i : i + 4] in HEIC_BRANDS for i in range(0, len(box), 4)
    )


def _heic_reader(name: str) -> Callable[[io.BytesIO], Image.Image]:
    """Raises UnreadableImage where the package for it is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise UnreadableImage(
            f'{name} is an HEIC picture: run `pip install "essence-transfer[heif]"` to read those, '
            "or save it as JPEG."
        ) from error
    return HeifImageFile


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in RUNS_PROGRAMS]


def _decode(
    image: Image.Image, name: str, max_pixels: int, data: bytes | None = None
) -> Image.Image:
    """`data`: the file's bytes, where the picture was opened from them."""
    if image.width * image.height > max_pixels:
        raise OversizedImage(_too_big(name, image.size, max_pixels))
    try:
        is_deep = data is not None and has_hidden_depth(image)
        with _quiet_about_size():
            image.load()  # the first frame of an animation
        if is_deep:
            spread(image, _open(data, name, max_pixels))
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
    profile = image.info.get("icc_profile")
    colours, alpha = _separate_alpha(image)
    colours = to_srgb(colours, profile)
    if alpha is None:
        return colours
    return Image.composite(colours, Image.new("RGB", image.size, PAPER), alpha)


def _separate_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours of a picture, 8 bits a channel, and its transparency if it has any."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(to_8_bits(np.asarray(image))), None
    is_grey = image.mode in ("L", "LA", "La")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode not in ("RGBA", "LA", "PA", "RGBa") and "transparency" not in image.info:
        return image, None
    image = image.convert("RGBA")
    colours, alpha = image.convert("RGB"), image.getchannel("A")
    if alpha.getextrema()[1] == 0:
        alpha = None  # nothing would be left to see: an unused channel rather than a wish
    return (colours.getchannel("R") if is_grey else colours), alpha


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] in (3, 4)):
        raise UnreadableImage(
            f"An array of shape {array.shape} is no picture: give [H, W] or [H, W, 1|3|4]."
        )
    if array.dtype == np.uint16:
        array = to_8_bits(array)
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
