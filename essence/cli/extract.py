"""Learn the essence of a target."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..methods import METHODS, PRESETS, method_of
from ..methods.encode import essence_encoder_of
from ..methods.map import mapper_of
from ..methods.optimize_options import STARTS, OptimizeOptions
from ..models.model_set import ModelSet
from ..pictures.loading import load_image
from ..runtime.files import is_stream
from ..studio import Studio
from ..values import Essence, Pictures, Step, Target
from .files import expand, picture_suffixes
from .inputs import (
    FILE,
    MAX_STEPS,
    PICTURE,
    add_model_arguments,
    add_source_arguments,
    at_least,
    load_sources,
    note_turn,
    open_studio,
    words_target,
)
from .outputs import (
    ESSENCE,
    PICTURES,
    check_output,
    check_suffix,
    output_for_each,
    save_or_keep,
)
from .progress import print_note, with_progress

DEFAULT_PRESET = "essence"
MAX_SEED = 2**63 - 1  # of torch's generators
# Arguments that are fields of a method's options; a method need not have all of them.
OPTIONS = (
    "steps",
    "seed",
    "lambda_consistency",
    "lambda_identity",
    "target_share",
    "start",
    "starts",
    "space",
    "loss_resolution",
)
MOST_STARTS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = OptimizeOptions()
    add_model_arguments(parser)
    targets = parser.add_mutually_exclusive_group(required=True)
    targets.add_argument(
        "--target",
        nargs="+",
        help="a picture; for several, or a folder, OUT is a folder or gets their names",
        **PICTURE,
    )
    targets.add_argument("--text", help='a target in words: "an old man with a beard"')
    parser.add_argument(
        "--from",
        dest="neutral",
        metavar="TEXT",
        help='what --text is compared with: "a man" (default: anybody)',
    )
    parser.add_argument(
        "--sources",
        nargs="+",
        help="photographs, or files of latents, or folders of them (default: bundled faces)",
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
    parser.add_argument("--steps", type=at_least(1, MAX_STEPS), help=f"default {default.steps}")
    parser.add_argument("--seed", type=at_least(0, MAX_SEED), help=f"default {default.seed}")
    parser.add_argument(
        "--lambda-consistency", type=float, help=f"default {default.lambda_consistency}"
    )
    parser.add_argument(
        "--lambda-identity",
        type=float,
        metavar="WEIGHT",
        help="how much people should stay themselves, as a face network sees it "
        f"(default {default.lambda_identity})",
    )
    parser.add_argument(
        "--target-share",
        type=float,
        metavar="SHARE",
        help="of the target's own latent, that is added to what is learned (default: as suits the "
        "image-text encoder)",
    )
    parser.add_argument("--start", choices=STARTS, help=f"default {default.start}")
    parser.add_argument(
        "--starts",
        type=at_least(1, MOST_STARTS),
        metavar="K",
        help="learn from so many starts at once (the instant essence, zero, random ones) and keep "
        f"the best (default {default.starts})",
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
    options = chosen_options(arguments)
    if arguments.neutral and arguments.text is None:
        raise UserError("--from belongs to --text: what the words are compared with.")
    paths = expand(arguments.target or [], picture_suffixes()) or [arguments.text]
    outputs = [arguments.out]
    if arguments.target and (paths != arguments.target or len(paths) > 1):
        outputs = output_for_each(arguments.out, [path.stem for path in paths])
    for out in outputs:
        check_output(out, method_suffixes(options))
    if arguments.name and len(paths) > 1:
        raise UserError(f"--name is for one target, and there are {len(paths)}.")
    studio = open_studio(arguments)
    check_components(studio.models, options)
    start = Essence.load(arguments.previous) if arguments.previous else None
    if arguments.text is None:
        targets = load_targets(studio, paths, arguments)
    else:
        targets = {0: words_target(studio, arguments.text, arguments.neutral, arguments.name)}
    sources = load_sources(studio, arguments)
    found, stopped = [], False
    for i, target in targets.items():
        if not stopped:
            with arguments.left_out.unless_usable(paths[i], len(paths)):
                steps = studio.extract(target, sources, options, start)
                result, stopped = learn(steps, outputs[i])
                before, after = studio.cosines(target, sources, result.pop("result"))
                found.append({**result, "cosine_before": before, "cosine_after": after})
        else:
            print_note(f"{paths[i]} was not begun.")
            arguments.left_out.names.append(str(paths[i]))
    if not found:
        raise UserError(f"None of the {len(paths)} targets can be used.")
    one_or_more = (
        found[0] if len(paths) == 1 else {k: [each[k] for each in found] for k in found[0]}
    )
    common = {"sources": len(sources), "device": studio.device, "model": studio.models.id}
    return {**one_or_more, **common}


def load_targets(
    studio: Studio, paths: Sequence[Path], arguments: argparse.Namespace
) -> dict[int, Target]:
    """By number; those of several that cannot be used are left out."""
    studio.load()  # faces are found meanwhile
    targets: dict[int, Target] = {}
    for i, path in enumerate(paths):
        with arguments.left_out.unless_usable(path, len(paths)):
            name = arguments.name or path.stem
            target = studio.target(load_image(path), name, aligned=arguments.aligned)
            if not target.face_found and not arguments.aligned and studio.has_faces:
                print_note(
                    f"No face found in {path}: the picture is taken as it is, as a centred square."
                )
            note_turn(path, target.turn)
            targets[i] = target
    return targets


def learn(steps: Iterator[Step], out: Path) -> tuple[dict, bool]:
    """Learn, and save what is best; what is known of it, and whether somebody stopped it."""
    began = time.perf_counter()
    step, losses, stopped = None, [], False
    with closing(steps):
        try:
            for step in with_progress(steps, "learning"):
                if step.index == 1:
                    check_kind(out, step.result)
                losses += [step.losses["total"]] if "total" in step.losses else []
        except KeyboardInterrupt:
            if step is None:
                raise
            stopped = True
            print_note(
                f"Stopped at step {step.index} of {step.total}; the best essence so far is kept."
            )
    seconds = time.perf_counter() - began
    save_or_keep(step.result, out)
    known = {
        "out": str(out),
        "result": step.result,
        "steps": step.index,
        "loss_first": losses[0] if losses else None,
        "loss_best": min(losses, default=None),
        "seconds": round(seconds, 2),
    }
    return known, stopped


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


def check_components(models: ModelSet, options: Any) -> None:
    """Raise UserError, which says how to get it, for what the options need and the models lack."""
    needed = {method_of(options)[1].needs, getattr(options, "start", "")}
    if "mapper" in needed:
        mapper_of(models)
    if needed & {"essence", "encoder"}:
        essence_encoder_of(models)


def method_suffixes(options: Any) -> Sequence[str]:
    """Of the files that the options' method gives, as far as that is known beforehand."""
    _, method = method_of(options)
    if method.result is None:
        return (ESSENCE, *PICTURES)
    return (ESSENCE,) if method.result is Essence else PICTURES


def check_kind(out: Path, result: Essence | Pictures) -> None:
    """Which of the two a method gives, its first step tells: raise UserError before the others."""
    if not is_stream(out):
        check_suffix(out, (ESSENCE,) if isinstance(result, Essence) else PICTURES)
