"""Files that are written whole or not at all, and what may be written where."""

from __future__ import annotations

import datetime
import errno
import os
import re
import stat
import tempfile
import time
from pathlib import Path

# An unfinished file is the output's name, eight characters of `tempfile`, and this.
UNFINISHED = ".essence.part"
STRAY = re.compile(r".+\.[a-z0-9_]{8}" + re.escape(UNFINISHED))
STRAY_AFTER = 3600  # seconds; no file takes as long to write
LONGEST_NAME = 50  # characters of the output's name in that of the unfinished file
# What a folder answers where nothing can be made, or a file that is mounted by itself.
IN_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)
OPEN_FILE = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/(self|\d+)/fd/\d+")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write beside `path` and rename, so that a full disk or a stop never leaves half a file.

    Links are followed and stay. Devices and pipes are written into; so is a file in whose folder
    nothing else can be made.
    """
    if is_stream(path):
        _write_into(Path(path), data)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    try:
        _replace(path, data)
    except OSError as error:
        if error.errno not in IN_PLACE or not path.is_file():
            raise
        _write_into(path, data)


def is_stream(path: str | Path) -> bool:
    """Whether `path` is a device, a pipe or a socket, or names one of this process's open files
    (/dev/stdout): nothing that may be replaced.
    """
    path = Path(path)
    special = path.exists() and not path.is_file() and not path.is_dir()
    return special or OPEN_FILE.fullmatch(str(path)) is not None


def _write_into(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes) -> None:
    handle, beside = tempfile.mkstemp(
        dir=path.parent, prefix=f"{path.name[:LONGEST_NAME]}.", suffix=UNFINISHED
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(beside, _permissions(path))  # mkstemp makes files for the owner alone
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def _permissions(path: Path) -> int:
    """Those of the file at `path`; of a new one where there is none."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)  # the only way to ask for it is to set it
    os.umask(mask)
    return 0o666 & ~mask


def _sweep(folder: Path) -> None:
    """Delete the unfinished files of writers that were killed."""
    now = time.time()
    for path in folder.glob(f"*{UNFINISHED}"):
        try:
            if STRAY.fullmatch(path.name) and now - path.lstat().st_mtime > STRAY_AFTER:
                path.unlink()
        except OSError:  # somebody else's, or gone already
            continue


def timestamp() -> str:
    """Now, in UTC, as headers have it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
