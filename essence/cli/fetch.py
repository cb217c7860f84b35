"""Download or import the files of a public model set."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from ..library import download, manifest
from ..runtime.progress import ProgressBar
from .progress import print_note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="model set of weights/manifest.toml")
    parser.add_argument(
        "--from",
        dest="given",
        type=Path,
        metavar="PATH",
        help="a file, or a folder of files, that you have already",
    )
    parser.add_argument(
        "--part",
        default="",
        choices=("", *manifest.COMPONENTS),
        metavar="PART",
        help="only one of " + ", ".join(manifest.COMPONENTS),
    )


def run(arguments: argparse.Namespace) -> dict:
    name, part = arguments.name, arguments.part
    sets = manifest.model_sets()
    if name not in sets:
        raise UserError(f"There is no model set '{name}' to fetch. There are: {', '.join(sets)}.")
    if arguments.given:
        files = download.import_files(sets[name], arguments.given, part)
    else:
        files = download.download_files(sets[name], part, ProgressBar())
    for file in files:
        print_note(str(file))
    licensed = [file for file in sets[name].components.values() if file.licence]
    for licence in dict.fromkeys(f"{file.licence}. {file.means}" for file in licensed):
        print_note(f"licence: {licence}")
    return {
        "files": [str(file.path) for file in files],
        "checked": [file.how for file in files],
        "missing": list(manifest.model_sets()[name].missing) or None,
    }
