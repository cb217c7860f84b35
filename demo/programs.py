"""The page's endpoints for programs: plain functions of values. Pictures and essences travel as
base64 text, so that no call can name a file of the server; nothing is kept between calls. `model`:
a model set of the page by name, its first one without."""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from math import isfinite
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from essence import Essence, RefineOptions, Source, Studio, StudioPool, UserError, load_image

from .keeping import encoded, essence_bytes
from .learning import CHOICES, DEFAULT, options_of
from .session import MAX_ITEMS

LONGEST = 28_000_000  # characters of one picture or essence: 20 MB
GPU = {"concurrency_id": "gpu", "concurrency_limit": 1}

Latents = list[list[float]]  # [L, D]


def wire(studios: StudioPool) -> None:
    """Make the endpoints, inside a `gr.Blocks`."""
    for make in (align, invert, learn, blend):
        gr.api(shown(make(studios)), api_name=make.__name__, **(GPU if make is learn else {}))


def shown(function: Callable) -> Callable:
    """A person's error, as the client library shows it; no traceback."""

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with told():
            return function(*args, **kwargs)

    @wraps(function)
    def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with told():
            yield from function(*args, **kwargs)

    return stream if isgeneratorfunction(function) else plain


# ---- the endpoints


def align(studios: StudioPool) -> Callable:
    def align(picture: str, face: int = 0, aligned: bool = False, model: str = "") -> dict:
        """The aligned square of a picture's `face`-th largest face.

        picture: a JPEG, PNG or WebP file as base64; aligned: take the centred square; model: here
        and elsewhere a model set by name, "" for the page's first. Returns {"picture": PNG as
        base64}.
        """
        square = studio_of(studios, model).crop(
            read_picture(picture), int(number(face, "face")), bool(aligned)
        )
        return {"picture": text(encoded(square, "PNG"))}

    return align


def invert(studios: StudioPool) -> Callable:
    def invert(picture: str, steps: int = RefineOptions().steps, model: str = "") -> dict:
        """The latents of an aligned picture (see /align), after `steps` (0 ... 100) steps of
        refinement.

        Returns {"latents": [layers][width], "picture": what the model makes of them, PNG as
        base64}.
        """
        options = RefineOptions(steps=min(int(number(steps, "steps")), 100))
        (source,) = studio_of(studios, model).sources([read_picture(picture)], True, options)
        return {"latents": source.w.tolist(), "picture": text(encoded(source.inversion, "PNG"))}

    return invert


def learn(studios: StudioPool) -> Callable:
    def learn(
        target: str,
        latents: list[list[list[float]]],
        preset: str = DEFAULT,
        steps: int = 0,
        seed: int = 0,
        model: str = "",
    ) -> Iterator[dict]:
        """Learn the essence of an aligned target on sources' latents [sources][layers][width]; a
        stream, one value a step.

        preset: quick, balanced, thorough, paper or released; steps: 0 for the preset's. Each value
        is {"step", "total", "losses"}; the last one has "essence", a safetensors file as base64,
        too.
        """
        if preset not in CHOICES:
            raise UserError(f"There is no preset '{preset}'. There are: {', '.join(CHOICES)}.")
        preset_options = CHOICES[preset]
        count = min(int(number(steps, "steps")), 1000) or preset_options.steps
        options = options_of(preset, count, number(seed, "seed"), 0.5)
        studio = studio_of(studios, model)
        sources = read_sources(studio, latents)
        for step in studio.extract(
            studio.target(read_picture(target), aligned=True), sources, options
        ):
            values = {"step": step.index, "total": step.total, "losses": dict(step.losses)}
            yield (
                values
                if step.index < step.total
                else {**values, "essence": text(essence_bytes(step.result))}
            )

    return learn


def blend(studios: StudioPool) -> Callable:
    def blend(
        latents: list[list[list[float]]],
        essences: list[str],
        strengths: list[float],
        model: str = "",
    ) -> list:
        """Every essence (a row) at its strength on every source's latents (a column): rows of PNG
        pictures as base64.
        """
        if len(essences) != len(strengths):
            raise UserError(
                f"Give one strength for each essence: there are {len(essences)} essences and {len(strengths)} strengths."
            )
        if len(essences) > MAX_ITEMS:
            raise UserError(f"At most {MAX_ITEMS} essences in one call, not {len(essences)}.")
        studio = studio_of(studios, model)
        sources = read_sources(studio, latents)
        values = [float(number(strength, "A strength")) for strength in strengths]
        rows = studio.blend(
            sources, [read_essence(studio, essence) for essence in essences], values
        )
        return [[text(encoded(Image.fromarray(pixels), "PNG")) for pixels in row] for row in rows]

    return blend


# ---- values in and out


def studio_of(studios: StudioPool, model: object) -> Studio:
    if not isinstance(model, str):
        raise UserError(f"model must be a model set's name, not {str(model)[:40]!r}.")
    return studios.of(model)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def read(value: object, what: str) -> bytes:
    """Bytes of base64 text, with or without a "data:" head."""
    if not isinstance(value, str):
        raise UserError(f"{what} must be a file as base64 text, not a {type(value).__name__}.")
    if len(value) > LONGEST:
        raise UserError(
            f"{what} is too large: {len(value)} characters of base64, the limit is {LONGEST}."
        )
    try:
        return base64.b64decode(
            value.partition(",")[2] if value.startswith("data:") else value, validate=True
        )
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{what} is no base64 text ({error}).") from None


def number(value: object, what: str) -> float:
    if not isinstance(value, (int, float)) or not isfinite(value):
        raise UserError(f"{what} must be a number, not {str(value)[:40]!r}.")
    return value


def read_picture(value: object) -> Image.Image:
    return load_image(read(value, "The picture"))


def read_essence(studio: Studio, value: object) -> Essence:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "essence.safetensors"
        path.write_bytes(read(value, "The essence"))
        return studio.load_essence(path)


def read_sources(studio: Studio, latents: object) -> list[Source]:
    if not isinstance(latents, list) or not 1 <= len(latents) <= MAX_ITEMS:
        raise UserError(
            f"Give the latents of 1 to {MAX_ITEMS} sources, as lists [sources][layers][width]."
        )
    try:
        tables = [torch.tensor(table, dtype=torch.float32) for table in latents]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The latents are no table of numbers [sources][layers][width] ({error})."
        ) from None
    if not all(torch.isfinite(table).all() for table in tables):
        raise UserError("The latents hold numbers that are not finite.")
    return [studio.from_latents(table) for table in tables]
