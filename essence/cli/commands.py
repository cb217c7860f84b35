"""The command line: `python -m essence
align|invert|extract|apply|grid|fetch|convert|doctor|train|evaluate`. Results on stdout, progress on
stderr.

Exit code 0; 2 and one line for a person's mistake.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from ..library.safe_files import read_latents, write_bytes
from ..methods.optimize import PRESETS, OptimizeOptions
from ..methods.refine import RefineOptions
from ..pictures import align
from ..pictures.loading import load_image
from ..studio import Studio, bundled, last
from ..values import Essence, Source, Step
from . import model_commands

DEFAULT = PRESETS["essence"]
DEFAULT_SOURCES = 4
LATENTS = (".npy", ".pt", ".pth")


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] in model_commands.PASSED_ON:
            return model_commands.pass_on(argv[0], argv[1:])
        arguments = _parser().parse_args(argv)
        _report(arguments, arguments.run(arguments))
        sys.stdout.flush()
        return 0
    except UserError as error:
        print(f"essence: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what is still to be written goes nowhere, without complaint
        return 141  # as the shell names SIGPIPE
    except OSError as error:
        print(f"essence: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


# -- commands: each returns what it found, a flat dict -------------------------------------------------------------------


def run_align(a: argparse.Namespace) -> dict:
    picture = load_image(a.image)
    crops = (
        align.align_all(picture, a.size)
        if a.all
        else [align.align(picture, a.size, a.face, a.aligned)]
    )
    paths = (
        [a.out]
        if len(crops) == 1
        else [a.out.with_stem(f"{a.out.stem}-{i}") for i in range(len(crops))]
    )
    for crop, path in zip(crops, paths, strict=True):
        _save(crop, path)
    return {"faces": len(crops), "out": [str(path) for path in paths]}


def run_invert(a: argparse.Namespace) -> dict:
    studio = _studio(a)
    source = _source(studio, a, a.image)
    _save(source.inversion, a.out)
    if a.latents:
        _save_latents(source.w, a.latents)
    distance = studio.identity_distances(
        *(_pixels(picture, studio.models.size) for picture in (source.crop, source.inversion))
    )[0]
    distance = round(distance, 4) if studio.models.has_faces else None
    return {
        "out": str(a.out),
        "descriptor_distance": distance,
        "latents": str(a.latents) if a.latents else None,
    }


def run_extract(a: argparse.Namespace) -> dict:
    options, studio = _options(a), _studio(a)
    picture, start = (
        load_image(a.target),
        Essence.load(a.previous) if a.previous else None,
    )  # before the work, not after it
    sources = _sources(studio, a)
    target, found = studio.crop_target(picture, aligned=a.aligned)
    if not found and not a.aligned:
        _say(f"No face found in {a.target}: the picture is taken as it is, as a centred square.")
    began, first = time.perf_counter(), None
    step = None
    try:
        for step in _shown(
            studio.extract(target, sources, options, start, a.name or a.target.stem), "learning"
        ):
            first = first or step
    except KeyboardInterrupt:
        if step is None:
            raise
        _say(f"Stopped at step {step.index} of {step.total}; the best essence so far is kept.")
    seconds = time.perf_counter() - began
    essence = step.result
    essence.save(a.out)
    before, after = studio.cosines(target, sources, essence)
    return {
        "out": str(a.out),
        "sources": len(sources),
        "steps": step.index,
        "loss_first": first.losses["total"],
        "loss_best": essence.provenance["losses"]["total"],
        "cosine_before": before,
        "cosine_after": after,
        "seconds": round(seconds, 2),
        "device": studio.device,
        "model": studio.models.id,
    }


def run_apply(a: argparse.Namespace) -> dict:
    studio, essence = _studio(a), Essence.load(a.essence)
    essence.check(studio.models.latent_shape, studio.models.id)  # before the work, not after it
    strength = essence.strength if a.strength is None else a.strength
    cell = studio.blend([_source(studio, a, a.source)], [essence], [strength])[0, 0]
    _save(Image.fromarray(cell), a.out)
    return {"out": str(a.out), "strength": strength}


def run_grid(a: argparse.Namespace) -> dict:
    studio, essences = _studio(a), [Essence.load(path) for path in a.essences]
    for essence in essences:
        essence.check(studio.models.latent_shape, studio.models.id)
    strengths = a.strength or [essence.strength for essence in essences]
    if len(strengths) == 1:
        strengths = strengths * len(essences)
    if len(strengths) != len(essences):
        raise UserError(
            f"--strength takes one number, or one for each of the {len(essences)} essences; got {len(strengths)}."
        )
    sources = _sources(studio, a)
    _save(studio.grid(sources, essences, strengths), a.out)
    return {"out": str(a.out), "rows": len(essences), "columns": len(sources)}


# -- their parts ---------------------------------------------------------------------------------------------------------


def _studio(a: argparse.Namespace) -> Studio:
    if a.device and a.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch sees no CUDA device here; leave --device away to use the CPU."
        )
    return Studio(a.model, a.device, model_commands.Bar())


def _options(a: argparse.Namespace) -> OptimizeOptions:
    """The preset, with every option that was given on the command line in its place."""
    given = {
        field.name: getattr(a, field.name, None) for field in dataclasses.fields(OptimizeOptions)
    }
    return dataclasses.replace(
        PRESETS[a.preset], **{name: value for name, value in given.items() if value is not None}
    )


def _source(studio: Studio, a: argparse.Namespace, path: Path) -> Source:
    """A photograph, or latents: a .npy or .pt file with those of one picture, or FILE#3 for the
    fourth of many.
    """
    found = _latents(path)
    if found is None:
        return _inverted(studio, a, [path])[0]
    if len(found) > 1:
        raise UserError(
            f"{path} holds the latents of {len(found)} pictures: name one as {path}#0 ... {path}#{len(found) - 1}."
        )
    return studio.from_latents(*found[0])


def _sources(studio: Studio, a: argparse.Namespace) -> list[Source]:
    """All of --sources, files of latents with everything in them; a few bundled faces, or made-up
    pictures, where none are given.
    """
    if not a.sources and not studio.models.has_faces:
        return [studio.random_source(seed) for seed in range(DEFAULT_SOURCES)]
    paths = a.sources or bundled("sources")[:DEFAULT_SOURCES]
    stored = [_latents(path) for path in paths]
    pictures = iter(
        _inverted(
            studio, a, [path for path, found in zip(paths, stored, strict=True) if found is None]
        )
    )
    sources = []
    for found in stored:
        sources += (
            [next(pictures)]
            if found is None
            else [studio.from_latents(w, name) for w, name in found]
        )
    return sources


def _latents(path: Path) -> list[tuple[torch.Tensor, str]] | None:
    """What a file of latents holds, with names; FILE#3: the fourth of it alone; None for a
    picture.
    """
    file, _, number = (str(path), "", "") if path.exists() else str(path).partition("#")
    if Path(file).suffix.lower() not in LATENTS:
        return None
    found = read_latents(file)
    if number and not (number.isdigit() and int(number) < len(found)):
        raise UserError(
            f"{file} holds the latents of {len(found)} pictures: name one as {file}#0 ... {file}#{len(found) - 1}."
        )
    chosen = [int(number)] if number else range(len(found))
    return [
        (found[i], f"{Path(file).stem}-{i}" if len(found) > 1 else Path(file).stem) for i in chosen
    ]


def _inverted(studio: Studio, a: argparse.Namespace, paths: Sequence[Path]) -> Sequence[Source]:
    """All photographs at once; one that cannot be read is told before the work begins."""
    if not paths:
        return []
    crops = studio.crops([load_image(path) for path in paths], aligned=a.aligned)
    what = f"inverting {paths[0].name}" if len(paths) == 1 else f"inverting {len(paths)} pictures"
    return last(
        _shown(
            studio.invert_all(crops, [path.stem for path in paths], RefineOptions(steps=a.refine)),
            what,
        )
    ).result


def _shown(steps: Iterator[Step], what: str) -> Iterator[Step]:
    bar = None
    for step in steps:
        bar = bar or tqdm(total=step.total, desc=what, file=sys.stderr, leave=False)
        bar.update(step.index - bar.n)
        bar.set_postfix(loss=f"{step.losses['total']:.3f}")
        yield step
    if bar is not None:
        bar.close()


def _save(picture: Image.Image, path: Path) -> None:
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in ("PNG", "JPEG", "WEBP"):
        raise UserError(f"A picture is written as .png, .jpg or .webp, not '{path.name}'.")
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({} if kind == "PNG" else {"quality": 95}))
    write_bytes(path, buffer.getvalue())


def _save_latents(w: torch.Tensor, path: Path) -> None:
    if path.suffix.lower() != ".npy":
        raise UserError(f"Latents are written as .npy, not '{path.name}'.")
    buffer = io.BytesIO()
    np.save(buffer, w.numpy())
    write_bytes(path, buffer.getvalue())


def _pixels(picture: Image.Image, size: int) -> np.ndarray:
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))[None]


def _say(text: str) -> None:
    print(f"essence: {text}", file=sys.stderr)


def _report(a: argparse.Namespace, found: dict) -> None:
    if a.json:
        print(json.dumps(found))
        return
    width = max(map(len, found))
    for key, value in found.items():
        if value is not None:
            text = (
                f"{value:.4f}"
                if isinstance(value, float)
                else ", ".join(map(str, value))
                if isinstance(value, list)
                else value
            )
            print(f"{key:{width}}  {text}")


# -- the words -----------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        """One line, like every other mistake."""
        print(f"essence: {message} (see `{self.prog} --help`)", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m essence", description="Transfer the essence of one face to another."
    )
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=_Parser)
    image, path = {"type": Path, "metavar": "PICTURE"}, {"type": Path, "metavar": "FILE"}

    c = _command(
        commands,
        "align",
        run_align,
        "cut a face out of a photograph in the alignment of FFHQ",
        models=False,
    )
    c.add_argument("--image", required=True, **image)
    c.add_argument("--out", required=True, **path)
    c.add_argument(
        "--size", type=_at_least(16), default=256, help="side in pixels (default %(default)s)"
    )
    c.add_argument("--face", type=_at_least(0), default=0, help="which face, 0 the largest")
    c.add_argument("--all", action="store_true", help="every face; OUT gets numbers")
    _aligned(c)

    c = _command(commands, "invert", run_invert, "find the generator's version of a photograph")
    c.add_argument("--image", required=True, **image)
    c.add_argument("--out", required=True, help="picture of the inversion", **path)
    c.add_argument("--latents", help="write w+ [L, D] here, .npy", **path)
    _source_options(c)

    c = _command(commands, "extract", run_extract, "learn the essence of a target")
    c.add_argument("--target", required=True, **image)
    c.add_argument(
        "--sources",
        nargs="+",
        help="photographs, or latents .npy or .pt (default: bundled faces)",
        **image,
    )
    c.add_argument("--out", required=True, help="the essence, .safetensors", **path)
    c.add_argument("--name", help="of the essence (default: the target's file name)")
    c.add_argument("--continue", dest="previous", help="an essence to go on from", **path)
    c.add_argument("--preset", choices=PRESETS, default="essence", help="default %(default)s")
    c.add_argument("--steps", type=_at_least(1), help=f"default {DEFAULT.steps}")
    c.add_argument("--seed", type=int, help=f"default {DEFAULT.seed}")
    c.add_argument("--lambda-consistency", type=float, help=f"default {DEFAULT.lambda_consistency}")
    c.add_argument("--space", choices=("auto", "axes", "w+"), help=f"default {DEFAULT.space}")
    c.add_argument(
        "--loss-resolution",
        type=_at_least(0),
        metavar="SIDE",
        help="side of the pictures that the loss sees, 0 for the full one (default: as the sources allow)",
    )
    _source_options(c)

    c = _command(commands, "apply", run_apply, "give an essence to a source")
    c.add_argument("--source", required=True, **image)
    c.add_argument("--essence", required=True, **path)
    c.add_argument("--strength", type=float, help="default: the essence's own")
    c.add_argument("--out", required=True, **path)
    _source_options(c)

    c = _command(commands, "grid", run_grid, "blend several sources with several essences")
    c.add_argument("--sources", nargs="+", help="default: bundled faces", **image)
    c.add_argument("--essences", nargs="+", required=True, **path)
    c.add_argument("--strength", nargs="+", type=float, help="one number, or one for each essence")
    c.add_argument("--out", required=True, **path)
    _source_options(c)

    model_commands.add_commands(commands, _command)
    return parser


def _command(commands, name: str, run, help: str, models: bool = True) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    if models:
        command.add_argument(
            "--model",
            help="model set, folder or checkpoint (default: ffhq with a GPU and its files, else mini)",
        )
        command.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    command.set_defaults(run=run)
    return command


def _source_options(command: argparse.ArgumentParser) -> None:
    default = RefineOptions().steps
    command.add_argument(
        "--refine",
        type=_at_least(0),
        default=default,
        metavar="STEPS",
        help="refinement steps (default %(default)s)",
    )
    _aligned(command)


def _aligned(command: argparse.ArgumentParser) -> None:
    command.add_argument("--aligned", action="store_true", help="the pictures are aligned already")


def _at_least(least: int):
    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        return value

    return whole_number
