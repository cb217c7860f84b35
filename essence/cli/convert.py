"""Turn a public checkpoint (.pt, .pkl) into safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..library.conversion import convert_checkpoint
from .outputs import ESSENCE, check_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="IN")
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="the generator, .safetensors; an inverter goes into OUT-inverter.safetensors",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="store in 16 bits what bears it: half the size, differences of about a level",
    )


def run(arguments: argparse.Namespace) -> dict:
    check_output(arguments.out, (ESSENCE,), "OUT")
    written = convert_checkpoint(arguments.checkpoint, arguments.out, arguments.half)
    precision = "float16" if arguments.half else "float32"
    return {**{kind: str(path) for kind, path in written.items()}, "precision": precision}
