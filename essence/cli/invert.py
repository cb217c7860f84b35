"""Find the generator's version of a photograph."""

from __future__ import annotations

import argparse

import numpy as np

from ..pictures.saving import write_picture
from ..pictures.tensors import resize
from .inputs import (
    FILE,
    PICTURE,
    add_model_arguments,
    add_source_arguments,
    load_source,
    open_studio,
)
from .outputs import PICTURES, check_output, write_latents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--image", required=True, **PICTURE)
    parser.add_argument("--out", required=True, help="picture of the inversion", **FILE)
    parser.add_argument("--latents", help="write w+ [L, D] here, .npy", **FILE)
    add_source_arguments(parser)


def run(arguments: argparse.Namespace) -> dict:
    latents = arguments.latents
    check_output(arguments.out, PICTURES)
    if latents:
        check_output(latents, (".npy",), "--latents")
    studio = open_studio(arguments, pictures_alone=True)
    source = load_source(studio, arguments.image, arguments)
    write_picture(source.picture, arguments.out)
    if latents:
        write_latents(source.w, latents)
    distance = None
    if studio.models.has_faces:
        crop, inversion = (
            np.asarray(resize(picture, studio.models.size))[None]
            for picture in (source.crop, source.inversion)
        )
        distance = round(studio.identity_distances(crop, inversion)[0], 4)
    return {
        "out": str(arguments.out),
        "descriptor_distance": distance,
        "latents": str(latents) if latents else None,
    }
