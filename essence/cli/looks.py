"""The arguments that decide how results look, and edited pictures by them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from PIL import Image

from ..errors import UserError
from ..methods.photograph import LOOKS, PhotographEdit
from ..pictures.loading import load_image
from ..pictures.regions import REGIONS, drawn_mask
from ..studio import Studio
from ..values import Essence, Source
from .inputs import PICTURE, at_least


def add_look_arguments(parser: argparse.ArgumentParser, limit: int | None = None) -> None:
    """`limit`: the largest side of a result where --size says nothing."""
    parser.add_argument(
        "--look",
        choices=LOOKS,
        help="photograph: the change, in the photograph's own detail (default for photographs); "
        "model: the generator's picture (default for latents)",
    )
    parser.add_argument(
        "--size",
        type=at_least(16),
        default=limit,
        help="largest side of a photograph's result in pixels "
        f"(default: {limit or 'as large as it is cut out'})",
    )
    parser.add_argument(
        "--where",
        metavar="PARTS",
        help=f"change only these parts of a photograph, of {','.join(REGIONS)}",
    )
    parser.add_argument(
        "--mask",
        help="change a photograph where this picture of its aligned square is white",
        **PICTURE,
    )


def check_look(arguments: argparse.Namespace) -> None:
    """Raise UserError for words that do not go together, before the work."""
    region_names(arguments.where)
    limited = arguments.where or arguments.mask
    if arguments.look == "model" and limited:
        raise UserError("--where and --mask belong to --look photograph.")
    if arguments.look == "model" and getattr(arguments, "whole", False):
        raise UserError("--whole belongs to --look photograph.")
    if limited or getattr(arguments, "whole", False):
        arguments.look = "photograph"


def check_photographs(
    studio: Studio, sources: Sequence[Source], arguments: argparse.Namespace
) -> None:
    """Raise UserError where photographs are asked for and sources have none."""
    bare = [source.name for source in sources if not source.has_photograph]
    if arguments.look == "photograph" and bare:
        raise UserError(
            f"'{bare[0]}' is made of latents, without a photograph to change: use --look model, "
            "without --whole, --where and --mask."
        )
    if arguments.where and not studio.has_faces:
        raise UserError(f"--where: the models of '{studio.name}' make no faces; use --mask.")


def region_names(words: str | None) -> list[str]:
    """ "hair,skin" as names. Raises UserError for a part that is not known."""
    names = [word.strip() for word in (words or "").split(",") if word.strip()]
    for name in names:
        if name not in REGIONS:
            raise UserError(f"--where: there is no part '{name}'. There are: {', '.join(REGIONS)}.")
    return names


def edited_picture(
    studio: Studio,
    source: Source,
    essence: Essence,
    strength: float,
    arguments: argparse.Namespace,
) -> tuple[Image.Image, bool]:
    """The source with the essence, in the look asked for; and whether it is a photograph."""
    if arguments.look == "model" or not source.has_photograph:
        pictures = studio.blend([source], [essence], [strength], fine=True)
        return Image.fromarray(pictures[0, 0]), False
    # Found at full strength on either side and scaled.
    (change,) = studio.changes([source], essence, 1.0 if strength >= 0 else -1.0)
    where = studio.mask(source, region_names(arguments.where))
    if arguments.mask:
        drawn = drawn_mask(load_image(arguments.mask), source.inversion.width)
        where = drawn if where is None else where * drawn
    edit = PhotographEdit(source, change, abs(strength), where)
    return studio.photographs([edit], arguments.size)[0], True
