"""The arguments that several commands share, and what they stand for: models, and sources from
photographs or from files of latents.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from pathlib import Path

import torch
from PIL import Image

from ..errors import UserError
from ..library.latent_files import read_latents, read_one, split_choice
from ..methods.refine import INVERTERS, RefineOptions
from ..pictures.align import Square
from ..pictures.loading import load_image
from ..runtime import hardware
from ..runtime.device_queue import in_background
from ..runtime.folders import bundled
from ..runtime.memory import release_memory
from ..runtime.progress import ProgressBar
from ..studio import LARGEST_CROP, Studio, last
from ..values import Source, Target
from .files import expand, picture_suffixes
from .progress import print_note, with_progress

DEFAULT_SOURCES = 4  # how many bundled or random faces serve where none are given
MAX_STEPS = 100_000  # hours on any device, for nothing that a thousand would not show
MAX_STRENGTH = 100  # 1 is the whole essence; nothing is left of a face long before
AUTO = "auto"  # as a strength: the one that suits
LATENTS = (".npy", ".npz", ".pt", ".pth")
# How an argument that names a picture or a file is declared.
PICTURE = {"type": Path, "metavar": "PICTURE"}
FILE = {"type": Path, "metavar": "FILE"}


# -- arguments


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        help="model set, folder or checkpoint (default: ffhq with a GPU and its files, else mini)",
    )
    parser.add_argument("--device", help="cpu, cuda or mps (default: cuda where there is one)")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refine",
        type=at_least(0, MAX_STEPS),
        default=RefineOptions().steps,
        metavar="STEPS",
        help="refinement steps (default %(default)s)",
    )
    parser.add_argument(
        "--inverter",
        choices=INVERTERS,
        default=RefineOptions().inverter,
        help="what refinement begins with: the e4e encoder, or CLIP and the mapper "
        "(default %(default)s)",
    )
    add_aligned_argument(parser)


def add_aligned_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--aligned", action="store_true", help="the pictures are aligned already")


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """For `add_argument(type=...)`: a whole number within bounds."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {value}")
        return value

    return whole_number


def strength_value(text: str) -> float:
    """For `add_argument(type=...)`: a number that leaves something of a picture."""
    value = float(text)
    if not abs(value) <= MAX_STRENGTH:
        raise argparse.ArgumentTypeError(
            f"must be between {-MAX_STRENGTH} and {MAX_STRENGTH}, not {text}"
        )
    return value


def strength_or_auto(text: str) -> float | str:
    """For `add_argument(type=...)`: a strength, or "auto"."""
    return text if text == AUTO else strength_value(text)


# -- what they stand for


def open_studio(arguments: argparse.Namespace, pictures_alone: bool = False) -> Studio:
    """`pictures_alone`: nothing will be compared with a target or be learned."""
    # CLIP's inversion needs the mapper and what it maps.
    few = pictures_alone and arguments.inverter == "e4e"
    device = hardware.device(arguments.device)
    return Studio(arguments.model, device, ProgressBar(), pictures_alone=few)


def load_source(studio: Studio, path: Path, arguments: argparse.Namespace) -> Source:
    """A photograph, or latents: a file with those of one picture, FILE#3 for the fourth of many,
    or FILE#NAME. Raises UserError.
    """
    if not holds_latents(path):
        return invert_photographs(studio, {0: path}, arguments, among=1)[0]
    return studio.from_latents(*read_one(path))


def load_sources(studio: Studio, arguments: argparse.Namespace) -> list[Source]:
    """All of --sources, in their order, files of latents with everything in them. Those of several
    that cannot be used are left out. Where none are given, a few bundled faces, or random pictures
    of a model that makes no faces. Raises UserError where none can be used.
    """
    if not arguments.sources and not studio.models.has_faces:
        return [studio.random_source(seed) for seed in range(DEFAULT_SOURCES)]
    paths = bundled("sources")[:DEFAULT_SOURCES]
    if arguments.sources:
        paths = expand(arguments.sources, {*picture_suffixes(), *LATENTS})
    stored: dict[int, dict[str, torch.Tensor]] = {}
    for i, path in enumerate(paths):
        if holds_latents(path):
            with arguments.left_out.unless_usable(path, len(paths)):
                stored[i] = read_latents(path)
    photographs = {i: path for i, path in enumerate(paths) if not holds_latents(path)}
    inverted = invert_photographs(studio, photographs, arguments, len(paths))
    sources: list[Source] = []
    for i, path in enumerate(paths):
        sources += [inverted[i]] if i in inverted else []
        with arguments.left_out.unless_usable(path, len(paths)):
            sources += [studio.from_latents(w, name) for name, w in stored.get(i, {}).items()]
    if not sources:
        raise UserError(f"None of the {len(paths)} sources can be used.")
    return sources


def holds_latents(path: Path) -> bool:
    """Whether it names a file of latents, or FILE#NAME, and not a picture."""
    return split_choice(path)[0].suffix.lower() in LATENTS


def invert_photographs(
    studio: Studio, paths: Mapping[int, Path], arguments: argparse.Namespace, among: int
) -> dict[int, Source]:
    """Photographs by number, all together, which is quicker. Those that cannot be used are left
    out before the work begins; `among` how many files they are.
    """
    if not paths:
        return {}
    cut = cut_photographs(studio, paths, arguments, among)
    if not cut:
        return {}
    names = [paths[i].stem for i in cut]
    crops, squares = zip(*cut.values(), strict=True)
    what = (
        f"inverting {paths[min(cut)].name}" if len(cut) == 1 else f"inverting {len(cut)} pictures"
    )
    options = RefineOptions(steps=arguments.refine, inverter=arguments.inverter)
    found = last(with_progress(studio.invert(crops, names, options), what)).result
    return {
        i: dataclasses.replace(source, square=square)
        for i, source, square in zip(cut, found, squares, strict=True)
    }


def cut_photographs(
    studio: Studio, paths: Mapping[int, Path], arguments: argparse.Namespace, among: int
) -> dict[int, tuple[Image.Image, Square]]:
    """The face of each photograph, and where it is. Faces are found while the models load, if they
    still have to; whole photographs are kept no longer than that.
    """
    models = in_background(lambda: studio.models)
    whole: dict[int, tuple[Image.Image, Square]] = {}
    cut: dict[int, tuple[Image.Image, Square]] = {}

    def located(path: Path) -> tuple[Image.Image, Square]:
        picture = load_image(path)
        square = studio.locate(picture, arguments.aligned).pick(0)
        note_turn(path, square.turn)
        return picture, square  # no other name holds it

    try:
        for i, path in paths.items():
            with arguments.left_out.unless_usable(path, among):
                whole[i] = located(path)
            if models.done() or i == max(paths):
                ready = {i: (studio.cut(*pair, LARGEST_CROP), pair[1]) for i, pair in whole.items()}
                cut, whole = cut | ready, {}
    finally:
        wait([models])
    release_memory()
    return cut


def words_target(
    studio: Studio, text: str, neutral: str | None = None, name: str | None = None
) -> Target:
    """Words as a target, and a note where some of them are beyond the image-text encoder."""
    unknown = studio.unknown_words(f"{text} {neutral or ''}")
    if unknown:
        print_note(
            f"The image-text encoder of '{studio.name}' never learned {', '.join(unknown)}. What "
            f"it knows: {', '.join(studio.phrases)}. `--model ffhq` knows nearly every word."
        )
    return studio.text_target(text, neutral or "", name or "")


def note_turn(path: Path, turn: int) -> None:
    """Tells of a picture that came on its side or head."""
    if turn:
        print_note(f"{path} was turned by {turn}°, so that its face stands upright.")
