"""Files that are written whole or not at all."""

from __future__ import annotations

import datetime
import os
import tempfile
from pathlib import Path


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write beside `path` and rename, so that a full disk or a stop never leaves half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)  # the only way to ask for it is to set it
        os.umask(mask)
        os.chmod(beside, 0o666 & ~mask)  # mkstemp makes files for the owner alone
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def timestamp() -> str:
    """Now, in UTC, as headers have it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
