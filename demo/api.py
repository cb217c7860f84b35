"""The page's endpoints for programs: plain functions of values. Pictures and essences travel as
base64 text, so that no call can name a file of the server; nothing is kept between calls. `model`:
a model set of the page by name, its first one without. With the extra `mcp` they are tools of the
Model Context Protocol too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from math import isfinite
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from essence import (
    Essence,
    ImagineOptions,
    Pictures,
    RefineOptions,
    Source,
    Studio,
    StudioPool,
    Target,
    UserError,
    encode_picture,
    load_image,
)

from .encoding import base64_text, read_base64
from .panels.downloads import saved_bytes
from .panels.imagine import ALONE
from .panels.words import LONGEST_TEXT
from .presets import DEFAULT, options_of, preset_values, presets
from .session import MAX_ITEMS

MAX_REFINE_STEPS, MAX_LEARN_STEPS = 100, 1000
ONE_AT_A_TIME = {"learn": {"concurrency_id": "gpu", "concurrency_limit": 1}, "imagine": ALONE}


def add_endpoints(pool: StudioPool) -> None:
    """Make the endpoints, inside a `gr.Blocks`."""
    for name, endpoint in endpoints(pool).items():
        gr.api(show_errors(endpoint), api_name=name, **ONE_AT_A_TIME.get(name, {}))


def show_errors(function: Callable) -> Callable:
    """A UserError as the client library shows it; no traceback."""

    @contextmanager
    def errors_shown() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with errors_shown():
            return function(*args, **kwargs)

    @wraps(function)
    def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with errors_shown():
            yield from function(*args, **kwargs)

    return stream if isgeneratorfunction(function) else call


# ---- the endpoints


def endpoints(pool: StudioPool) -> dict[str, Callable]:
    """By name. Their signatures and docstrings are what programs see."""

    def align(picture: str, face: int = 0, aligned: bool = False, model: str = "") -> dict:
        """The aligned square of a picture's `face`-th largest face.

        picture: a JPEG, PNG or WebP file as base64; aligned: take the centred square; model: here
        and elsewhere a model set by name, "" for the page's first. Returns {"picture": PNG as
        base64}.
        """
        studio, index = studio_of(pool, model), int(checked_number(face, "face"))
        return {"picture": png(studio.crop(read_picture(picture), index, bool(aligned)))}

    def invert(picture: str, steps: int = RefineOptions().steps, model: str = "") -> dict:
        """The latents of an aligned picture (see /align), after `steps` (0 ... 100) steps of
        refinement.

        Returns {"latents": [layers][width], "picture": what the model makes of them, PNG as
        base64}.
        """
        count = min(int(checked_number(steps, "steps")), MAX_REFINE_STEPS)
        studio, crop = studio_of(pool, model), read_picture(picture)
        (source,) = studio.sources([crop], aligned=True, refine=RefineOptions(steps=count))
        return {"latents": source.w.tolist(), "picture": png(source.picture)}

    def learn(
        target: str,
        latents: list[list[list[float]]],
        preset: str = DEFAULT,
        steps: int = 0,
        seed: int = 0,
        model: str = "",
        text: str = "",
        neutral: str = "",
    ) -> Iterator[dict]:
        """Learn the essence of an aligned target on sources' latents [sources][layers][width]; a
        stream, one value a step. Where `target` is "" it is what `text` says, more than `neutral`
        if that is given.

        preset: quick, balanced, thorough, paper or released; steps: 0 for the preset's. Each value
        is {"step", "total", "losses"}; the last one has "essence", a safetensors file as base64,
        too (or "pictures", one PNG for each source, where the method has no direction).
        """
        if preset not in presets():
            raise UserError(f"There is no preset '{preset}'. There are: {', '.join(presets())}.")
        default_steps, *weights = preset_values(preset)
        count = min(int(checked_number(steps, "steps")), MAX_LEARN_STEPS) or default_steps
        options = options_of(preset, count, checked_number(seed, "seed"), *weights)
        studio = studio_of(pool, model)
        sources = read_sources(studio, latents)
        embedded = read_target(studio, target, text, neutral)
        for step in studio.extract(embedded, sources, options):
            values = {"step": step.index, "total": step.total, "losses": dict(step.losses)}
            if step.index == step.total:
                if isinstance(step.result, Pictures):
                    values["pictures"] = pngs(step.result.images)
                else:
                    values["essence"] = base64_text(saved_bytes(step.result, ".safetensors"))
            yield values

    def instant(target: str = "", text: str = "", neutral: str = "", model: str = "") -> dict:
        """The essence of an aligned target, or of what `text` says (more than `neutral`), at once,
        without sources and without learning.

        Returns {"essence": a safetensors file as base64}.
        """
        studio = studio_of(pool, model)
        essence = studio.instant(read_target(studio, target, text, neutral))
        if essence is None:
            raise UserError(
                f"The model set '{studio.name}' has no method that answers at once: use /learn."
            )
        return {"essence": base64_text(saved_bytes(essence, ".safetensors"))}

    def imagine(
        text: str, neutral: str = "", count: int = 4, seed: int = 0, model: str = ""
    ) -> dict:
        """Faces (1 ... 12) that a sentence describes, the same for the same seed.

        Returns {"pictures": PNGs as base64, "latents": [faces][layers][width], for /blend and
        /learn}.
        """
        studio = studio_of(pool, model)
        count = min(int(checked_number(count, "count")), MAX_ITEMS)
        options = ImagineOptions(count=count, seed=int(checked_number(seed, "seed")))
        said = read_target(studio, "", text, neutral)
        *_, step = studio.imagine(said, options)
        return {
            "pictures": [png(face.picture) for face in step.result],
            "latents": [face.w.tolist() for face in step.result],
        }

    def strengths(
        latents: list[list[list[float]]], essence: str, target: str = "", model: str = ""
    ) -> list:
        """The strength that suits each source: nearly all of the likeness to the aligned target
        (without one, to what the essence remembers of it) while the source stays who it is.
        """
        studio = studio_of(pool, model)
        sources, direction = read_sources(studio, latents), read_essence(studio, essence)
        embedded = read_target(studio, target, "", "") if target else None
        return [studio.auto_strength(source, direction, embedded) for source in sources]

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
                f"Give one strength for each essence: there are {len(essences)} essences and "
                f"{len(strengths)} strengths."
            )
        if len(essences) > MAX_ITEMS:
            raise UserError(f"At most {MAX_ITEMS} essences in one call, not {len(essences)}.")
        studio = studio_of(pool, model)
        sources = read_sources(studio, latents)
        values = [float(checked_number(strength, "A strength")) for strength in strengths]
        directions = [read_essence(studio, essence) for essence in essences]
        return [pngs(row) for row in studio.blend(sources, directions, values, fine=True)]

    functions = (align, invert, learn, blend, instant, imagine, strengths)
    return {function.__name__: function for function in functions}


# ---- values in


def studio_of(pool: StudioPool, model: object) -> Studio:
    if not isinstance(model, str):
        raise UserError(f"model must be a model set's name, not {str(model)[:40]!r}.")
    return pool.of(model)


def checked_number(value: object, what: str) -> float:
    if not isinstance(value, (int, float)) or not isfinite(value):
        raise UserError(f"{what} must be a number, not {str(value)[:40]!r}.")
    return value


def read_picture(value: object) -> Image.Image:
    return load_image(read_base64(value, "The picture"))


def read_target(studio: Studio, picture: object, text: object, neutral: object) -> Target:
    """An aligned picture, or without one a sentence."""
    for words in (text, neutral):
        if not isinstance(words, str) or len(words) > LONGEST_TEXT:
            raise UserError(f"Words must be text of at most {LONGEST_TEXT} characters.")
    if picture:
        return studio.target(read_picture(picture), aligned=True)
    if not text.strip():
        raise UserError("Give a target: a picture as base64 text, or words as text.")
    return studio.text_target(text, neutral)


def read_essence(studio: Studio, value: object) -> Essence:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "essence.safetensors"
        path.write_bytes(read_base64(value, "The essence"))
        return studio.load_essence(path)


def read_sources(studio: Studio, latents: object) -> list[Source]:
    """Latents [sources][layers][width] as sources."""
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


# ---- values out


def png(picture: Image.Image) -> str:
    return base64_text(encode_picture(picture, "PNG"))


def pngs(pictures: Sequence[Any]) -> list[str]:
    """Of pixels uint8 [N, H, W, 3]."""
    return [png(Image.fromarray(pixels)) for pixels in pictures]
