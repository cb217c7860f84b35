"""Where uploaded pictures lie while the page reads them, and that none stays."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path


def use_own_folder() -> None:
    """Unless somebody chose a folder: one for this process alone, gone at its end. To be called
    before gradio is imported.
    """
    if not os.environ.get("GRADIO_TEMP_DIR"):
        folder = os.environ["GRADIO_TEMP_DIR"] = os.path.join(
            tempfile.gettempdir(), f"essence-{secrets.token_hex(8)}"
        )
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


class Strays:
    """What Gradio leaves in the folder and forgets: uploads broken off or refused for their name,
    and an empty file for each good one. Looks like one of `Blocks.temp_file_sets`, whose files are
    deleted by age and when the page is closed."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __iter__(self) -> Iterator[str]:
        return (
            str(path)
            for path in self.folder.glob("tmp*")
            if path.is_file() and not path.is_symlink()
        )

    def __isub__(self, deleted: Collection[str]) -> Strays:
        return self
