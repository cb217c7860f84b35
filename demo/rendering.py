"""HTML from templates, with pictures inside it. Names come from files and visitors: the templates
escape everything that is text.
"""

from __future__ import annotations

import base64
import io
import json
import textwrap
import time
from collections.abc import Callable, Mapping
from functools import wraps
from itertools import count
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

CARD_SIDE = 160  # pixels of a picture on a card, so that it is sharp on a dense screen
CELL_SIDE = 256  # pixels of a cell of the grid at most
SMALLEST_SIDE = 32  # pixels
JPEG_QUALITY = 90

_serial = count(time.time_ns() // 10**6)  # goes on rising if the server starts again


def next_serial() -> int:
    """Differs each time, so that the page notices the same thing asked for twice."""
    return next(_serial)


def numbered(html: Callable[..., str]) -> Callable[..., str]:
    """HTML that says how new it is: the page drops an answer that a newer one has overtaken (see
    `newest` in assets/page.js).
    """

    @wraps(html)
    def with_number(*arguments: Any, **options: Any) -> str:
        number = next_serial()  # before anything is read that may change meanwhile
        return f'<i hidden data-number="{number}"></i>{html(*arguments, **options)}'

    return with_number


def data_url(image: Image.Image | np.ndarray, side: int | None = None) -> str:
    """A picture, or pixels uint8 [H, W, 3], as a JPEG inside the page, at most `side` pixels wide:
    no file of it lies on the disk.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if side is not None and image.width > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def small_data_url(picture: Image.Image, max_length: int) -> str:
    """As `data_url` of a cell, made smaller until it has at most so many characters (or is
    tiny).
    """
    side = CELL_SIDE
    while len(url := data_url(picture, side)) > max_length and side > SMALLEST_SIDE:
        side //= 2
    return url


def type_size(text: str) -> float:
    """Of words that fill a square: percent of its side."""
    longest = max(map(len, text.split()), default=1)
    return round(min(22.0, 76 / max(len(text), 1) ** 0.5, 125 / longest), 1)


def words_picture(text: str, side: int) -> Image.Image:
    """The words of a target where a picture of it would be, black on white."""
    size = type_size(text) / 100 * side
    font = ImageFont.load_default(size)
    wide = int(0.9 * side / max(font.getlength("n"), 1))
    picture = Image.new("RGB", (side, side), "white")
    lines = "\n".join(textwrap.wrap(text, wide))
    middle = {"anchor": "mm", "align": "center", "font": font}
    ImageDraw.Draw(picture).multiline_text((side / 2, side / 2), lines, "black", **middle)
    return picture


def render(template: str, **values: Any) -> str:
    """A template of demo/templates, filled in."""
    return TEMPLATES.get_template(template).render(values).strip()


def note(text: str) -> str:
    return render("note.html", text=text)


def data_element(name: str, data: Mapping[str, Any]) -> str:
    """An invisible element that carries data for the page's script, as JSON in `data-NAME`."""
    return render("data.html", name=name, json=json.dumps(data))


def download_link(name: str, data: bytes, media_type: str) -> str:
    """An invisible link with the file's bytes in it; the page's script follows it once."""
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return render("download.html", name=name, url=url)


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
TEMPLATES.globals |= {
    "serial": next_serial,
    "CARD_SIDE": CARD_SIDE,
    "CELL_SIDE": CELL_SIDE,
}
TEMPLATES.filters |= {"data_url": data_url, "type_size": type_size}
