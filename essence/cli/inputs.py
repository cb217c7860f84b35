"""The arguments that several commands share, and what they stand for: models, and sources from
photographs or from files of latents.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..errors import UserError
from ..library.safe_files import read_latents
from ..methods.refine import RefineOptions
from ..pictures.loading import load_image
from ..runtime.folders import bundled
from ..runtime.progress import ProgressBar
from ..studio import LARGEST_CROP, Studio, last
from ..values import Source
from .progress import with_progress

DEFAULT_SOURCES = 4  # how many bundled or random faces serve where none are given
LATENTS = (".npy", ".pt", ".pth")
# How an argument that names a picture or a file is declared.
PICTURE = {"type": Path, "metavar": "PICTURE"}
FILE = {"type": Path, "metavar": "FILE"}


# -- arguments


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        help="model set, folder or checkpoint (default: ffhq with a GPU and its files, else mini)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refine",
        type=at_least(0),
        default=RefineOptions().steps,
        metavar="STEPS",
        help="refinement steps (default %(default)s)",
    )
    add_aligned_argument(parser)


def add_aligned_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--aligned", action="store_true", help="the pictures are aligned already")


def at_least(least: int) -> Callable[[str], int]:
    """For `add_argument(type=...)`: a whole number that is no smaller."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return whole_number


# -- what they stand for


def open_studio(arguments: argparse.Namespace) -> Studio:
    device = arguments.device
    if device and device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch sees no CUDA device here; leave --device away to use the CPU."
        )
    return Studio(arguments.model, device, ProgressBar())


def load_source(studio: Studio, path: Path, arguments: argparse.Namespace) -> Source:
    """A photograph, or latents: a file with those of one picture, or FILE#3 for the fourth of
    many. Raises UserError.
    """
    stored = read_named_latents(path)
    if stored is None:
        return invert_photographs(studio, [path], arguments)[0]
    if len(stored) > 1:
        raise UserError(_which_one(str(path), len(stored)))
    return studio.from_latents(*stored[0])


def load_sources(studio: Studio, arguments: argparse.Namespace) -> list[Source]:
    """All of --sources, in their order, files of latents with everything in them. Where none are
    given, a few bundled faces, or random pictures of a model that makes no faces.
    """
    if not arguments.sources and not studio.models.has_faces:
        return [studio.random_source(seed) for seed in range(DEFAULT_SOURCES)]
    paths = arguments.sources or bundled("sources")[:DEFAULT_SOURCES]
    stored = [read_named_latents(path) for path in paths]
    photographs = [path for path, found in zip(paths, stored, strict=True) if found is None]
    inverted = iter(invert_photographs(studio, photographs, arguments))
    sources: list[Source] = []
    for found in stored:
        if found is None:
            sources.append(next(inverted))
        else:
            sources += [studio.from_latents(w, name) for w, name in found]
    return sources


def read_named_latents(path: Path) -> list[tuple[torch.Tensor, str]] | None:
    """The latents in a file, each [L, D] and with a name; of FILE#3 only the fourth; None for a
    picture. Raises UserError.
    """
    file, _, number = (str(path), "", "") if path.exists() else str(path).partition("#")
    if Path(file).suffix.lower() not in LATENTS:
        return None
    found, stem = read_latents(file), Path(file).stem
    if number and not (number.isdigit() and int(number) < len(found)):
        raise UserError(_which_one(file, len(found)))
    chosen = [int(number)] if number else range(len(found))
    return [(found[i], f"{stem}-{i}" if len(found) > 1 else stem) for i in chosen]


def _which_one(file: str, count: int) -> str:
    return (
        f"{file} holds the latents of {count} pictures: "
        f"name one as {file}#0 ... {file}#{count - 1}."
    )


def invert_photographs(
    studio: Studio, paths: Sequence[Path], arguments: argparse.Namespace
) -> Sequence[Source]:
    """All together, which is quicker; one that cannot be read raises before the work begins."""
    if not paths:
        return []
    pictures = [load_image(path) for path in paths]
    squares = studio.squares(pictures, aligned=arguments.aligned)
    crops = [
        studio.cut(picture, square, LARGEST_CROP)
        for picture, square in zip(pictures, squares, strict=True)
    ]
    what = f"inverting {paths[0].name}" if len(paths) == 1 else f"inverting {len(paths)} pictures"
    options = RefineOptions(steps=arguments.refine)
    steps = studio.invert(crops, [path.stem for path in paths], options)
    found = last(with_progress(steps, what)).result
    return [
        dataclasses.replace(source, square=square)
        for source, square in zip(found, squares, strict=True)
    ]
