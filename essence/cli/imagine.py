"""Make faces from words."""

from __future__ import annotations

import argparse
import math

import torch
from PIL import Image

from ..methods.imagine import ImagineOptions
from ..pictures.grids import grid
from ..pictures.metadata import xmp_packet
from ..pictures.saving import write_picture
from ..studio import last
from .inputs import FILE, MAX_STEPS, add_model_arguments, at_least, open_studio, words_target
from .outputs import PICTURES, check_output, write_latents
from .progress import with_progress

MOST = 64  # faces on a sheet
MAX_SEED = 2**63 - 1  # of torch's generators


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = ImagineOptions()
    add_model_arguments(parser)
    parser.add_argument("--text", required=True, help='"a smiling woman with red hair"')
    parser.add_argument(
        "--from", dest="neutral", metavar="TEXT", help="what it is compared with (default: anybody)"
    )
    parser.add_argument("--count", type=at_least(1, MOST), default=default.count)
    parser.add_argument("--seed", type=at_least(0, MAX_SEED), default=default.seed)
    parser.add_argument(
        "--steps",
        type=at_least(0, MAX_STEPS),
        default=default.steps,
        help="of refinement (default %(default)s)",
    )
    parser.add_argument(
        "--out", required=True, help="the face; several as one sheet of pictures", **FILE
    )
    parser.add_argument("--latents", help="write their w+ [N, L, D] here, .npy", **FILE)


def run(arguments: argparse.Namespace) -> dict:
    # Before the work, not after it.
    check_output(arguments.out, PICTURES)
    if arguments.latents:
        check_output(arguments.latents, (".npy",), "--latents")
    studio = open_studio(arguments)
    target = words_target(studio, arguments.text, arguments.neutral)
    options = ImagineOptions(count=arguments.count, seed=arguments.seed, steps=arguments.steps)
    faces = last(with_progress(studio.imagine(target, options), "imagining")).result
    columns = math.ceil(math.sqrt(len(faces)))
    pictures: list[Image.Image | None] = [face.picture for face in faces]
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    sheet = faces[0].picture if len(faces) == 1 else grid(rows, studio.models.finest)
    write_picture(sheet, arguments.out, xmp_packet([], []))
    if arguments.latents:
        write_latents(torch.stack([face.w for face in faces]), arguments.latents)
    return {
        "out": str(arguments.out),
        "faces": len(faces),
        "latents": str(arguments.latents) if arguments.latents else None,
    }
