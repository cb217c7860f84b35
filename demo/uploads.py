"""Where uploaded pictures lie while the page reads them, and that none stays."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

OWN_NAME = re.compile(r"essence-[0-9a-f]{16}")

# The folder of this process and the lock that says that it lives; none where somebody chose one.
_own: dict[Path, BaseFileLock] = {}


def use_own_folder() -> None:
    """Unless somebody chose a folder: one for this process alone, gone at its end; those of pages
    that were killed go now. To be called before gradio is imported.
    """
    if os.environ.get("GRADIO_TEMP_DIR"):
        return
    everybodys = Path(tempfile.gettempdir())
    for folder in everybodys.glob("essence-*"):
        if OWN_NAME.fullmatch(folder.name) and is_mine(folder):
            delete_abandoned(folder)
    folder = everybodys / f"essence-{secrets.token_hex(8)}"
    _own[folder] = lock_of(folder)
    _own[folder].acquire()  # before there is a folder that somebody might take for abandoned
    folder.mkdir(0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(delete_own_folder)


def delete_own_folder() -> None:
    """Nothing that was uploaded stays."""
    while _own:
        delete(*_own.popitem())


def is_mine(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()


def lock_of(folder: Path) -> BaseFileLock:
    """Held as long as the process lives that the folder belongs to; the system lets go of it,
    however that process ends.
    """
    return FileLock(folder.with_name(f"{folder.name}.lock"), thread_local=False)


def delete_abandoned(folder: Path) -> None:
    lock = lock_of(folder)
    try:
        lock.acquire(blocking=False)
    except (Timeout, OSError):
        return
    delete(folder, lock)


def delete(folder: Path, lock: BaseFileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


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
