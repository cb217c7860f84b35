"""One file from one URL, resumed where a connection broke, in this run or in an earlier one.

An own piece, because no library here takes up what an earlier run left behind: pooch 1.9 always
begins at the first byte, huggingface_hub 2.4 does so for every new call (docs/LOG.md, 2026-11-26).
A public checkpoint has 1.2 GB.
"""

from __future__ import annotations

import errno
import http.client
import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from .model_files import Progress

BLOCK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring nothing; an attempt that brings something starts the count anew
PAUSE = 1.0  # seconds before trying again, doubled each time
FREE_SPACE = 1 << 28  # bytes of disk to leave free

UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED)
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class DownloadFailed(Exception):
    """This source did not give the file; another one may."""


def download_url(
    address: str,
    path: Path,
    size: int = 0,
    name: str = "",
    progress: Progress | None = None,
    headers: Mapping[str, str] | None = None,
) -> bool:
    """The whole body of `address` in `path`, continuing what is there of the same file; returns
    whether anything was.

    `size`: bytes that it must have, 0 where not known. `headers` go to `address` alone, not to
    where it redirects. A note beside `path` says what the unfinished file belongs to. Raises
    DownloadFailed, UserError when the disk is too full, OSError when it cannot be written.
    """
    if _read_note(path).get("address") != address:
        discard(path)
    resumed, idle = _length(path) > 0, 0
    while True:
        before = _length(path)
        try:
            if _request(address, path, size, name or path.name, progress, headers or {}):
                return resumed
            problem, unreachable = "the connection broke off", False
        except urllib.error.HTTPError as error:
            problem, unreachable = f"it answers {error.code} {error.reason}", False
            if error.code not in (408, 429) and error.code < 500:
                raise DownloadFailed(f"{problem}.") from None
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in CANNOT_WRITE:
                raise
            reason = getattr(error, "reason", error)
            problem = str(reason) or type(error).__name__
            unreachable = isinstance(reason, socket.gaierror) or (
                isinstance(reason, OSError) and reason.errno in UNREACHABLE
            )
        idle = 0 if _length(path) > before else idle + 1
        # Trying again at once does not help where nobody is there at all.
        if idle >= ATTEMPTS or (unreachable and idle and before == 0):
            raise DownloadFailed(f"{problem}.")
        time.sleep(PAUSE * 2 ** max(idle - 1, 0))


def discard(path: Path) -> None:
    """Remove an unfinished file and its note."""
    path.unlink(missing_ok=True)
    _note_path(path).unlink(missing_ok=True)


def check_free_space(folder: Path, needed: int) -> None:
    """Raise UserError if `needed` more bytes would fill the disk."""
    free = shutil.disk_usage(folder).free
    if needed > free - FREE_SPACE:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are still to come. "
            "Make room first."
        )


def _request(
    address: str,
    path: Path,
    size: int,
    name: str,
    progress: Progress | None,
    headers: Mapping[str, str],
) -> bool:
    """One request. True when the file is whole, False when the connection ended early."""
    have, etag = _length(path), _read_note(path).get("etag", "")
    request = urllib.request.Request(
        address, headers={"User-Agent": "essence", "Accept-Encoding": "identity"}
    )
    for key, value in headers.items():
        request.add_unredirected_header(key, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if etag:  # the server sends everything when its file has changed since
            request.add_header("If-Range", etag)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        discard(path)  # what is here is longer than the file there
        return False
    with response:
        have, total = _extent(response, have)
        if size and total and total != size:
            raise DownloadFailed(
                f"it has {total} bytes, not {size}: another file under the same name."
            )
        check_free_space(path.parent, total - have)
        etag = response.headers.get("ETag", "")
        strong = "" if etag.startswith("W/") else etag
        _note_path(path).write_text(json.dumps({"address": address, "etag": strong}))
        with open(path, "r+b" if have else "wb") as file:
            file.seek(have)
            while block := response.read(BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(name, have, total)
    return total in (0, have)


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """(the byte that the body begins with, bytes of the whole file or 0). Raises DownloadFailed
    where it cannot be the file.
    """
    if (response.headers.get("Content-Type") or "").startswith("text/html"):
        raise DownloadFailed("it answers with a web page, not with the file.")
    if response.status != 206:
        return 0, int(response.headers.get("Content-Length") or 0)
    content_range = (response.headers.get("Content-Range") or "").removeprefix("bytes ")
    first, _, rest = content_range.partition("-")
    whole = rest.partition("/")[2]
    if not first.isdigit() or int(first) != have:
        raise DownloadFailed("it sends another part of the file than it was asked for.")
    return have, int(whole) if whole.isdigit() else 0


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_note(path: Path) -> dict:
    try:
        return dict(json.loads(_note_path(path).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
