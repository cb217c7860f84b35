"""Give an essence to a source."""

from __future__ import annotations

import argparse

from PIL import Image

from ..pictures.saving import write_picture
from .inputs import (
    FILE,
    PICTURE,
    add_model_arguments,
    add_source_arguments,
    load_source,
    open_studio,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--source", required=True, **PICTURE)
    parser.add_argument("--essence", required=True, **FILE)
    parser.add_argument("--strength", type=float, help="default: the essence's own")
    parser.add_argument("--out", required=True, **FILE)
    add_source_arguments(parser)


def run(arguments: argparse.Namespace) -> dict:
    studio = open_studio(arguments)
    essence = studio.load_essence(arguments.essence)  # before the work, not after it
    strength = essence.strength if arguments.strength is None else arguments.strength
    source = load_source(studio, arguments.source, arguments)
    picture = studio.blend([source], [essence], [strength])[0, 0]
    write_picture(Image.fromarray(picture), arguments.out)
    return {"out": str(arguments.out), "strength": strength}
