"""Blend several sources with several essences."""

from __future__ import annotations

import argparse

from PIL import Image

from ..errors import UserError
from ..pictures.grids import grid as picture_grid
from ..pictures.metadata import xmp_packet
from ..pictures.saving import write_picture
from .inputs import (
    FILE,
    PICTURE,
    add_model_arguments,
    add_source_arguments,
    load_sources,
    open_studio,
    strength_value,
)
from .looks import add_look_arguments, check_look, check_photographs, edited_picture
from .outputs import PICTURES, check_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--sources", nargs="+", help="default: bundled faces", **PICTURE)
    parser.add_argument("--essences", nargs="+", required=True, **FILE)
    parser.add_argument(
        "--strength", nargs="+", type=strength_value, help="one number, or one for each essence"
    )
    parser.add_argument("--out", required=True, **FILE)
    add_look_arguments(parser, limit=512)
    add_source_arguments(parser)


def run(arguments: argparse.Namespace) -> dict:
    # Before the work, not after it.
    check_output(arguments.out, PICTURES)
    check_look(arguments)
    studio = open_studio(arguments, pictures_alone=True)
    essences = [studio.load_essence(path) for path in arguments.essences]
    strengths = arguments.strength or [essence.strength for essence in essences]
    if len(strengths) == 1:
        strengths = strengths * len(essences)
    if len(strengths) != len(essences):
        raise UserError(
            f"--strength takes one number, or one for each of the {len(essences)} essences; "
            f"got {len(strengths)}."
        )
    sources = load_sources(studio, arguments)
    check_photographs(studio, sources, arguments)
    rows: list[list[Image.Image | None]] = [[None]]
    photographs = False
    for essence, strength in zip(essences, strengths, strict=True):
        made = [edited_picture(studio, s, essence, strength, arguments) for s in sources]
        photographs = photographs or any(is_photograph for _, is_photograph in made)
        rows.append([essence.thumbnail, *(picture for picture, _ in made)])
    use_model = arguments.look == "model"
    rows[0] += [source.picture if use_model else source.crop for source in sources]
    side = max(picture.width for picture in rows[-1][1:])
    xmp = xmp_packet([essence.name for essence in essences], strengths, photographs)
    write_picture(picture_grid(rows, cell=side), arguments.out, xmp)
    return {"out": str(arguments.out), "rows": len(essences), "columns": len(sources)}
