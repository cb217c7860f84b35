"""The files of model sets: where each lies, where it can be downloaded, and whether its bytes are
the right ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import BadFile
from ..runtime import folders

HUB = "https://huggingface.co"

# What is being done, how much of it is done, and of how much (0: not known).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Mirror:
    """One place to download a file from: a URL, or a file of a hub repository at a pinned
    revision ("main" where no pin is known).
    """

    url: str = ""
    hub: str = ""
    revision: str = "main"
    file: str = ""

    @property
    def address(self) -> str:
        endpoint = os.environ.get("HF_ENDPOINT", HUB)
        return self.url or f"{endpoint}/{self.hub}/resolve/{self.revision}/{self.file}"


@dataclass(frozen=True)
class ModelFile:
    """One file of a model set, as the manifest describes it."""

    # Relative to weights/, or absolute.
    file: str = ""
    # Empty where nobody has published one.
    sha256: str = ""
    # Bytes; 0 where not known.
    size: int = 0
    # "architecture/pretrained", open_clip's names for what the file holds.
    open_clip: str = ""
    # Tried in order.
    sources: tuple[Mirror, ...] = ()
    licence: str = ""
    # What the licence means, in plain words.
    means: str = ""

    @property
    def path(self) -> Path:
        """In weights/, else in the user's cache; where it would be put if it is in neither."""
        places = [folders.WEIGHTS / self.file, folders.cache_folder() / self.file]
        for place in places:
            if place.is_file():
                return place
        return places[0] if folders.is_writable(places[0]) else places[1]

    @property
    def present(self) -> bool:
        return bool(self.file) and self.path.is_file()

    @property
    def record_path(self) -> Path:
        """Beside the file: what was seen when a file without a published hash arrived."""
        return self.path.with_name(self.path.name + ".json")

    @property
    def recorded_sha256(self) -> str:
        """The hash seen when a file without a published one arrived; empty without a record."""
        try:
            return str(json.loads(self.record_path.read_text())["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def verified_path(self) -> Path:
        """The file's path, once its sha256 agrees with the manifest's or with the recorded one,
        where either is known. Raises BadFile.
        """
        expected = self.sha256 or self.recorded_sha256
        if expected and sha256(self.path) != expected:
            raise BadFile(
                f"{self.path.name} is not the file that the manifest names (its sha256 differs). "
                "Copy or download it again."
            )
        return self.path


def sha256(path: Path) -> str:
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed: int) -> str:
    """Once for each state of a file: a gigabyte takes seconds."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
