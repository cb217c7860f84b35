"""Many files at once: folders and patterns of names, and files among them that cannot be used."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from PIL import Image

from ..errors import UserError
from .progress import print_note

HEIC = (".heic", ".heif")  # pictures too, whether they can be read or not


def expand(paths: Sequence[Path], suffixes: Collection[str]) -> list[Path]:
    """The files that are meant: of a folder those with one of the suffixes, of a pattern such as
    `faces/*.jpg` (no shell may have seen it) what it matches. Raises UserError for nothing.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = files_in(path, suffixes)
        elif not path.exists() and glob.has_magic(str(path)):
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)), key=natural)
            each = (files_in(path, suffixes) if path.is_dir() else [path] for path in matches)
            files = list(chain.from_iterable(each))
        else:
            files = [path]
        if not files:
            raise UserError(f"There is no file to be used in {path}.")
        found += files
    return found


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Those with one of the suffixes, as a person would sort them."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    visible = (path for path in files if not path.name.startswith(".") and path.is_file())
    return sorted(visible, key=natural)


def picture_suffixes() -> set[str]:
    """Of every format that Pillow reads."""
    extensions = Image.registered_extensions()
    return {suffix for suffix, kind in extensions.items() if kind in Image.OPEN} | set(HEIC)


def natural(path: Path) -> list[tuple[int, str]]:
    """Sorts face-2 before face-10."""
    parts = re.findall(r"\d+|\D+", str(path).casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


class LeftOut:
    """Files among several that could not be used, while the others were; `names` of them."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def unless_usable(self, path: Path, among: int) -> Iterator[None]:
        """Around work on one of `among` files: what is wrong with it is told, and the work goes on
        without it. An error of a single file is raised.
        """
        try:
            yield
        except UserError as error:
            if among == 1:
                raise
            print_note(f"{path} is left out: {' '.join(str(error).split())}")
            self.names.append(str(path))
