"""Commands about models rather than pictures: fetch, convert, doctor; and train and evaluate, whose
words are passed on untouched.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import torch
from tqdm import tqdm

from .. import ops
from ..errors import BadFile, UserError
from ..library import checkpoints, download, loading, manifest
from ..runtime import hardware

# command -> what -> the module whose main(arguments) does it
PASSED_ON = {
    "train": {"generator": "generator", "teeth": "teeth", "inverter": "inverter", "clip": "clip"},
    "evaluate": {"models": "report", "essences": "evaluate"},
}
BYTES_FROM = 1 << 20  # what has more steps than this is counted in bytes


class Bar:
    """A progress bar on stderr for anything that tells (what, done, total); a new one for each
    `what`, gone when it is done.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.desc != what:
            scaled = (
                {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
                if total > BYTES_FROM
                else {}
            )
            self._bar = tqdm(
                total=total or None, desc=what, initial=done, file=sys.stderr, leave=False, **scaled
            )
        self._bar.update(done - self._bar.n)
        if done >= total > 0:
            self._bar.close()
            self._bar = None


# -- commands: each returns what it found, a flat dict -------------------------------------------------------------------


def run_fetch(a: argparse.Namespace) -> dict:
    sets = manifest.model_sets()
    if a.name not in sets:
        raise UserError(f"There is no model set '{a.name}' to fetch. There are: {', '.join(sets)}.")
    entry = sets[a.name]
    found = (
        download.import_files(entry, a.given, a.part)
        if a.given
        else download.download_files(entry, a.part, Bar())
    )
    for file in found:
        print(f"essence: {file}", file=sys.stderr)
    for licence in dict.fromkeys(
        f"{part.licence}. {part.means}" for part in entry.components.values() if part.licence
    ):
        print(f"essence: licence: {licence}", file=sys.stderr)
    missing = list(manifest.model_sets()[a.name].missing)
    return {
        "files": [str(file.path) for file in found],
        "checked": [file.how for file in found],
        "missing": missing or None,
    }


def run_convert(a: argparse.Namespace) -> dict:
    """One file for the generator; a second one beside it for the inverter, where there is one."""
    if a.out.suffix != ".safetensors":
        raise UserError(f"OUT is a file named .safetensors, not '{a.out.name}'.")
    written = {}
    try:
        generator = checkpoints.load_generator(a.checkpoint)
    except BadFile:
        if not checkpoints.holds_inverter(a.checkpoint):
            raise
        generator = None
    if generator is not None:
        checkpoints.save_generator(generator, a.out, a.half)
        written["generator"] = str(a.out)
    if checkpoints.holds_inverter(a.checkpoint):
        path = a.out if generator is None else a.out.with_stem(f"{a.out.stem}-inverter")
        checkpoints.save_inverter(checkpoints.load_inverter(a.checkpoint), path, a.half)
        written["inverter"] = str(path)
    return {**written, "precision": "float16" if a.half else "float32"}


def run_doctor(a: argparse.Namespace) -> dict:
    device = a.device or hardware.device()
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device_name(device),
    }
    found["precision"] = "bfloat16" if ops.bfloat16_pays(device) else "float32"
    found["ops"] = ops.backend()
    for package in (
        "torch",
        "gradio",
        "open_clip_torch",
        "face_recognition_models",
        "pillow",
        "numpy",
    ):
        found[package] = _version(package)
    found["dlib"] = _version("dlib-bin") or _version("dlib")
    found["default model"] = loading.default_model()
    sets = manifest.model_sets()
    if a.model and a.model not in sets:
        sets[a.model] = manifest.find_model_set(a.model)
    for name, entry in sets.items():
        for part, value in entry.components.items():
            found[f"{name}.{part}"] = _presence(value, name)
    return found


def _presence(part: manifest.ModelFile, name: str) -> str:
    if part.present:
        known = (
            "sha256 in the manifest"
            if part.sha256
            else "sha256 as seen when fetched"
            if manifest.recorded_sha256(part)
            else "sha256 unknown"
        )
        return f"present, {part.file}, {part.path.stat().st_size / 1e6:.1f} MB, {known}"
    first = part.sources[0].address if part.sources else "nowhere known"
    return f"not here; `python -m essence fetch {name}` would get it from {first}"


def _device_name(device: str) -> str:
    return (
        f"cuda ({torch.cuda.get_device_name()})"
        if device.startswith("cuda") and torch.cuda.is_available()
        else device
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def pass_on(command: str, words: Sequence[str]) -> int:
    """`train generator ARGS` to `essence.train.generator.main(ARGS)`, and so on; --help of the
    recipe too.
    """
    known = PASSED_ON[command]
    usage = f"python -m essence {command} {'|'.join(known)} ..."
    if words and words[0] in ("-h", "--help"):
        print(
            f"usage: {usage}\n\n`{usage.split(' ...')[0].replace('|', ' --help, ')} --help` list their own options."
        )
        return 0
    if not words or words[0] not in known:
        raise UserError(
            f"{command} what? Say one of {', '.join(known)}, not '{words[0] if words else ''}': {usage}"
        )
    return (
        importlib.import_module(f"{__package__}.train.{known[words[0]]}").main(list(words[1:])) or 0
    )


# -- the words -----------------------------------------------------------------------------------------------------------


def add_commands(
    commands: argparse._SubParsersAction, command: Callable[..., argparse.ArgumentParser]
) -> None:
    c = command(
        commands,
        "fetch",
        run_fetch,
        "download or import the files of a public model set",
        models=False,
    )
    c.add_argument("name", metavar="NAME", help="model set of weights/manifest.toml")
    c.add_argument(
        "--from",
        dest="given",
        type=Path,
        metavar="PATH",
        help="a file, or a folder of files, that you have already",
    )
    c.add_argument(
        "--part",
        default="",
        choices=("", *manifest.COMPONENTS),
        metavar="PART",
        help="only one of " + ", ".join(manifest.COMPONENTS),
    )

    c = command(
        commands,
        "convert",
        run_convert,
        "turn a public checkpoint (.pt, .pkl) into safetensors",
        models=False,
    )
    c.add_argument("checkpoint", type=Path, metavar="IN")
    c.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="the generator, .safetensors; an inverter goes into OUT-inverter.safetensors",
    )
    c.add_argument(
        "--half",
        action="store_true",
        help="store in 16 bits what bears it: half the size, differences of about a level",
    )

    command(commands, "doctor", run_doctor, "versions, device, models")
    for name, known in PASSED_ON.items():
        commands.add_parser(
            name, help=f"{name} {', '.join(known)}: see `python -m essence {name} --help`"
        )
