"""Learn the essence of a target."""

from __future__ import annotations

import argparse
import dataclasses
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..methods import METHODS, PRESETS, method_of
from ..methods.optimize import OptimizeOptions
from ..pictures.loading import load_image
from ..pictures.saving import FORMATS
from ..values import Essence, Pictures
from .inputs import (
    FILE,
    PICTURE,
    add_model_arguments,
    add_source_arguments,
    at_least,
    load_sources,
    open_studio,
)
from .progress import print_note, with_progress

DEFAULT_PRESET = "essence"
# Arguments that are fields of a method's options; a method need not have all of them.
OPTIONS = ("steps", "seed", "lambda_consistency", "space", "loss_resolution")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = OptimizeOptions()
    add_model_arguments(parser)
    parser.add_argument("--target", required=True, **PICTURE)
    parser.add_argument(
        "--sources",
        nargs="+",
        help="photographs, or latents .npy or .pt (default: bundled faces)",
        **PICTURE,
    )
    parser.add_argument(
        "--out",
        required=True,
        help="the essence, .safetensors; a picture from a method that gives pictures",
        **FILE,
    )
    parser.add_argument("--name", help="of the essence (default: the target's file name)")
    parser.add_argument("--continue", dest="previous", help="an essence to go on from", **FILE)
    parser.add_argument("--preset", choices=PRESETS, help=f"default {DEFAULT_PRESET}")
    titles = "; ".join(f"{name}: {method.title}" for name, method in METHODS.items())
    parser.add_argument(
        "--method",
        choices=METHODS,
        help=f"default: the preset's; {titles.replace('%', '%%')}",
    )
    parser.add_argument("--steps", type=at_least(1), help=f"default {default.steps}")
    parser.add_argument("--seed", type=int, help=f"default {default.seed}")
    parser.add_argument(
        "--lambda-consistency", type=float, help=f"default {default.lambda_consistency}"
    )
    parser.add_argument("--space", choices=("auto", "axes", "w+"), help=f"default {default.space}")
    parser.add_argument(
        "--loss-resolution",
        type=at_least(0),
        metavar="SIDE",
        help="side of the pictures that the loss sees, 0 for the full one "
        "(default: as the sources allow)",
    )
    add_source_arguments(parser)


def run(arguments: argparse.Namespace) -> dict:
    # Whatever may be wrong with the arguments shows before the work, not after it.
    options, studio = chosen_options(arguments), open_studio(arguments)
    picture = load_image(arguments.target)
    start = Essence.load(arguments.previous) if arguments.previous else None
    sources = load_sources(studio, arguments)
    name = arguments.name or arguments.target.stem
    target = studio.target(picture, name, aligned=arguments.aligned)
    if not target.face_found and not arguments.aligned and studio.has_faces:
        print_note(
            f"No face found in {arguments.target}: "
            "the picture is taken as it is, as a centred square."
        )
    began = time.perf_counter()
    step, losses = None, []
    with closing(studio.extract(target, sources, options, start)) as steps:
        try:
            for step in with_progress(steps, "learning"):
                if step.index == 1:
                    check_suffix(arguments.out, step.result)
                losses += [step.losses["total"]] if "total" in step.losses else []
        except KeyboardInterrupt:
            if step is None:
                raise
            print_note(
                f"Stopped at step {step.index} of {step.total}; the best essence so far is kept."
            )
    seconds = time.perf_counter() - began
    step.result.save(arguments.out)
    before, after = studio.cosines(target, sources, step.result)
    return {
        "out": str(arguments.out),
        "sources": len(sources),
        "steps": step.index,
        "loss_first": losses[0] if losses else None,
        "loss_best": min(losses, default=None),
        "cosine_before": before,
        "cosine_after": after,
        "seconds": round(seconds, 2),
        "device": studio.device,
        "model": studio.models.id,
    }


def chosen_options(arguments: argparse.Namespace) -> Any:
    """The preset's options, or the method's, with everything that was given on the command line
    in its place. Raises UserError for what the method has no option for.
    """
    if arguments.preset is None and arguments.method is not None:
        options = METHODS[arguments.method].options
    else:
        options = PRESETS[arguments.preset or DEFAULT_PRESET]
    method, _ = method_of(options)
    if arguments.method not in (None, method):
        raise UserError(
            f"The preset '{arguments.preset}' belongs to the method '{method}', "
            f"not to '{arguments.method}': name one of the two."
        )
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    fields = {field.name for field in dataclasses.fields(options)}
    unknown = [name for name in given if name not in fields]
    if unknown:
        flags = [f"--{name.replace('_', '-')}" for name in OPTIONS if name in fields]
        raise UserError(
            f"The method '{method}' has no --{unknown[0].replace('_', '-')}; "
            f"it takes {', '.join(flags) or 'no options'}."
        )
    return dataclasses.replace(options, **given)


def check_suffix(out: Path, result: Essence | Pictures) -> None:
    """Which of the two a method gives, its first step tells: raise UserError before the others."""
    is_picture = out.suffix.lower() in FORMATS
    if isinstance(result, Pictures) and not is_picture:
        raise UserError(
            "This method gives pictures, no direction: "
            f"OUT is a .png, .jpg or .webp, not '{out.name}'."
        )
    if isinstance(result, Essence) and is_picture:
        raise UserError(f"An essence is written as .safetensors, not '{out.name}'.")
