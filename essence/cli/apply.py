"""Give an essence to a source."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from ..pictures.loading import load_image
from ..pictures.metadata import xmp_packet
from ..pictures.paste import paste_into
from ..pictures.saving import write_picture
from ..pictures.signing import credentials
from ..runtime.memory import release_memory
from .inputs import (
    AUTO,
    FILE,
    PICTURE,
    add_model_arguments,
    add_source_arguments,
    load_source,
    open_studio,
    strength_or_auto,
)
from .looks import add_look_arguments, check_look, check_photographs, edited_picture
from .outputs import PICTURES, check_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--source", required=True, **PICTURE)
    parser.add_argument("--essence", required=True, **FILE)
    parser.add_argument(
        "--strength",
        type=strength_or_auto,
        help="a number, or auto: as much as the face bears (default: the essence's own)",
    )
    parser.add_argument("--out", required=True, **FILE)
    parser.add_argument(
        "--whole",
        action="store_true",
        help="paste the changed face back into the whole photograph",
    )
    add_look_arguments(parser)
    add_source_arguments(parser)


def run(arguments: argparse.Namespace) -> dict:
    # Before the work, not after it.
    check_output(arguments.out, PICTURES)
    check_look(arguments)
    credentials()
    studio = open_studio(arguments, pictures_alone=arguments.strength != AUTO)
    essence = studio.load_essence(arguments.essence)
    strength = essence.strength if arguments.strength is None else arguments.strength
    source = load_source(studio, arguments.source, arguments)
    if strength == AUTO:
        strength = studio.auto_strength(source, essence)
    check_photographs(studio, [source], arguments)
    if arguments.whole:
        arguments.size = None
    picture, is_photograph = edited_picture(studio, source, essence, strength, arguments)
    exif = parent = None
    if is_photograph:
        parent = Path(arguments.source).read_bytes()
        with Image.open(arguments.source) as original:
            exif = original.getexif()
    if arguments.whole:
        del studio  # a large photograph needs the memory of the models
        release_memory()
        photograph = load_image(arguments.source)
        release_memory()  # what decoding took
        paste_into(photograph, source.square, source.crop, picture)
        picture = photograph
    xmp = xmp_packet([essence.name], [strength], is_photograph)
    write_picture(picture, arguments.out, xmp, exif, parent)
    look = "photograph" if is_photograph else "model"
    return {"out": str(arguments.out), "strength": strength, "look": look}
