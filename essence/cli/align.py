"""Cut a face out of a photograph in the alignment of FFHQ."""

from __future__ import annotations

import argparse

from ..pictures import align
from ..pictures.loading import load_image
from ..pictures.saving import write_picture
from .inputs import FILE, PICTURE, add_aligned_argument, at_least, note_turn
from .outputs import PICTURES, check_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", required=True, **PICTURE)
    parser.add_argument("--out", required=True, **FILE)
    parser.add_argument(
        "--size", type=at_least(16), default=256, help="side in pixels (default %(default)s)"
    )
    parser.add_argument("--face", type=at_least(0), default=0, help="which face, 0 the largest")
    parser.add_argument("--all", action="store_true", help="every face; OUT gets numbers")
    add_aligned_argument(parser)


def run(arguments: argparse.Namespace) -> dict:
    check_output(arguments.out, PICTURES)
    align.check_side(arguments.size)
    picture, out = load_image(arguments.image), arguments.out
    located = align.locate(picture, arguments.aligned and not arguments.all)
    squares = located.squares if arguments.all else [located.pick(arguments.face)]
    note_turn(arguments.image, squares[0].turn)
    crops = [align.cut(picture, square, arguments.size) for square in squares]
    paths = [out.with_stem(f"{out.stem}-{i}") for i in range(len(crops))]
    if len(crops) == 1:
        paths = [out]
    for crop, path in zip(crops, paths, strict=True):
        write_picture(crop, path)
    return {"faces": len(crops), "out": [str(path) for path in paths]}
