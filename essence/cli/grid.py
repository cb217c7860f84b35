"""Blend several sources with several essences."""

from __future__ import annotations

import argparse

from ..errors import UserError
from ..pictures.saving import write_picture
from .inputs import (
    FILE,
    PICTURE,
    add_model_arguments,
    add_source_arguments,
    load_sources,
    open_studio,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--sources", nargs="+", help="default: bundled faces", **PICTURE)
    parser.add_argument("--essences", nargs="+", required=True, **FILE)
    parser.add_argument(
        "--strength", nargs="+", type=float, help="one number, or one for each essence"
    )
    parser.add_argument("--out", required=True, **FILE)
    add_source_arguments(parser)


def run(arguments: argparse.Namespace) -> dict:
    studio = open_studio(arguments)
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
    write_picture(studio.grid(sources, essences, strengths), arguments.out)
    return {"out": str(arguments.out), "rows": len(essences), "columns": len(sources)}
