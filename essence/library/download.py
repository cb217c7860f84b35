"""Public model files, when a person asks for them: download or import, check, put in place. Never
half a file, never an unknown one.

Bytes go to a file beside the place where they belong, which is renamed when they have been checked:
by sha256 where the manifest knows it, else by size and by whether the tensors load strictly; then
the hash that was seen is recorded, and said to be no more than that.
"""

from __future__ import annotations

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadFile, UserError
from ..values import now
from . import checkpoints
from .manifest import ModelSpec, ModelFile, sha256, verified_path

Progress = Callable[[str, int, int], None]  # file name, bytes so far, bytes in all (0: not known)

BLOCK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring nothing; an attempt that brings something starts the count anew
PAUSE = 1.0  # seconds before trying again, doubled each time
ROOM = 1 << 28  # bytes of disk to leave free


@dataclass(frozen=True)
class Fetched:
    """What was done about one file."""

    path: Path
    sha256: str
    how: str  # "here already", "sha256", "structure"
    source: str = ""

    def __str__(self) -> str:
        if self.how == "here already":
            return f"{self.path.name} is here already."
        if self.how == "sha256":
            return f"{self.path.name}: sha256 as the manifest says, from {self.source}."
        return (
            f"{self.path.name}: no hash is published for it. Its tensors are those of the network that it should hold, "
            f"and nothing more is known. Seen and recorded: sha256 {self.sha256}, from {self.source}."
        )


class _Failed(Exception):
    """This source did not give the file; the next one may."""


def download_files(entry: ModelSpec, only: str = "", progress: Progress | None = None) -> list[Fetched]:
    """Download what the set lacks, all of it or one part. Raises UserError, with what to do by
    hand, for what could not be had.
    """
    found, problems = [], []
    for part, kinds in _files(entry, only):
        try:
            found.append(_already(part) or _download(part, kinds, entry.name, progress))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(" ".join(problems))
    return found


def import_files(entry: ModelSpec, given: Path, only: str = "") -> list[Fetched]:
    """Import files that a person has: `given` is a file, or a folder with files named as in the
    manifest. Raises UserError.
    """
    files = _files(entry, only)
    if given.is_dir():
        wanted = [(given / part.path.name, part, kinds) for part, kinds in files]
        wanted = [item for item in wanted if item[0].is_file()]
    elif given.is_file():
        wanted = [(given, *_meant(entry, files, given))]
    else:
        raise UserError(f"There is no file or folder {given}.")
    if not wanted:
        names = ", ".join(part.path.name for part, _ in files)
        raise UserError(f"The folder {given} holds none of the files of '{entry.name}': {names}.")
    return [_import(path, part, kinds) for path, part, kinds in wanted]


def _files(entry: ModelSpec, only: str) -> list[tuple[ModelFile, list[str]]]:
    """Each file once, with the parts that lie in it."""
    if only and only not in entry.components:
        raise UserError(f"'{entry.name}' has no part '{only}'. It has: {', '.join(entry.components)}.")
    kinds: dict[ModelFile, list[str]] = {}
    for name, part in entry.components.items():
        kinds.setdefault(part, []).append(name)
    return [(part, names) for part, names in kinds.items() if not only or only in names]


def _meant(
    entry: ModelSpec, files: list[tuple[ModelFile, list[str]]], given: Path
) -> tuple[ModelFile, list[str]]:
    """Which file of the set a person's file is: by name, by size, or because there is only one."""
    named = [item for item in files if item[0].path.name == given.name]
    sized = [item for item in files if item[0].size and item[0].size == given.stat().st_size]
    fitting = named or sized or files
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(f"{kinds[0]} ({part.path.name})" for part, kinds in files)
    raise UserError(f"Which part of '{entry.name}' is {given.name}? Name it with --part: {names}.")


def _already(part: ModelFile) -> Fetched | None:
    if not part.present:
        return None
    return Fetched(verified_path(part), part.sha256, "here already")


def _import(given: Path, part: ModelFile, kinds: list[str]) -> Fetched:
    if part.present and given.resolve() == part.path.resolve():
        return Fetched(verified_path(part), part.sha256, "here already")
    beside = _beside(part.path)
    beside.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(given, beside)
        return _accept(beside, part, kinds, f"the file {given}")
    except _Failed as failed:
        raise UserError(
            f"{given} was not taken in: {failed} To use it as it is: --model {given}."
        ) from None
    finally:
        _discard(beside)


def _beside(path: Path) -> Path:
    """The suffix stays last: the checkpoint loaders go by it."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def _note(beside: Path) -> Path:
    return beside.with_name(beside.name + ".json")


# -- one file from several sources ---------------------------------------------------------------------------------------


def _download(part: ModelFile, kinds: list[str], name: str, progress: Progress | None) -> Fetched:
    beside, problems = _beside(part.path), []
    beside.parent.mkdir(parents=True, exist_ok=True)
    for mirror in part.sources:
        try:
            return _from(mirror.address, beside, part, kinds, progress)
        except _Failed as failed:
            problems.append(f"{mirror.address}: {failed}")
    raise UserError(_by_hand(part, kinds[0], name, problems))


def _from(
    address: str, beside: Path, part: ModelFile, kinds: list[str], progress: Progress | None
) -> Fetched:
    resumed = _known(beside).get("address") == address and _length(beside) > 0
    _obtain(address, beside, part, progress)
    try:
        return _accept(beside, part, kinds, address)
    except _Failed:
        if not resumed:
            raise
    # The half that lay here may have been the bad one.
    _obtain(address, beside, part, progress)
    return _accept(beside, part, kinds, address)


def _by_hand(part: ModelFile, kind: str, name: str, problems: Iterable[str]) -> str:
    if not part.sources:
        return f"{part.path.name} has no source: it comes with the repository; restore weights/{part.file} from there."
    command = f"python -m essence fetch {name} --part {kind} --from {part.sources[0].file or part.path.name}"
    return (
        f"{part.path.name} could not be had ({'; '.join(problems)}). By hand: download {part.sources[0].address} "
        f"on any machine, then run `{command}`."
    )


def _accept(beside: Path, part: ModelFile, kinds: list[str], source: str) -> Fetched:
    """Check a whole file and put it in its place; remove it if it is not what it should be."""
    seen = sha256(beside)
    try:
        _check(beside, seen, part, kinds)
    except _Failed:
        _discard(beside)
        raise
    path, how = part.path, "sha256" if part.sha256 else "structure"
    if not part.sha256:
        record = {
            "sha256": seen,
            "size": beside.stat().st_size,
            "source": source,
            "checked": how,
            "date": now(),
        }
        part.record.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(path)
    _discard(beside)
    return Fetched(path, seen, how, source)


def _check(path: Path, seen: str, part: ModelFile, kinds: list[str]) -> None:
    size = path.stat().st_size
    if part.size and size != part.size:
        raise _Failed(f"it has {size} bytes, not {part.size}.")
    if part.sha256:
        if seen != part.sha256:
            raise _Failed(
                f"its sha256 is {seen}, not {part.sha256}: another file under the same name, or a damaged one."
            )
        return
    load = {
        "generator": checkpoints.load_generator,
        "inverter": checkpoints.load_inverter,
        "latents": checkpoints.load_latents,
    }
    try:
        for kind in kinds:
            checkpoints.load_clip(path, part.open_clip) if kind == "clip" else load[kind](path)
    except BadFile as error:
        raise _Failed(f"it is not the {kind} that it should be: {error}") from None


def _discard(beside: Path) -> None:
    beside.unlink(missing_ok=True)
    _note(beside).unlink(missing_ok=True)


# -- one file from one source --------------------------------------------------------------------------------------------


def _obtain(address: str, beside: Path, part: ModelFile, progress: Progress | None) -> None:
    """The whole body of `address` in `beside`, going on from what is there of the same file. Raises
    _Failed.
    """
    if _known(beside).get("address") != address:
        _discard(beside)
    idle = 0
    while True:
        before = _length(beside)
        try:
            if _attempt(address, beside, part, progress):
                return
            problem = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429) and error.code < 500:
                raise _Failed(f"it answers {error.code} {error.reason}.") from None
            problem = f"it answers {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if _disk_full(error):
                raise
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        idle = 0 if _length(beside) > before else idle + 1
        if idle >= ATTEMPTS or (idle and before == 0 and _offline(problem)):
            raise _Failed(f"{problem}.")
        time.sleep(PAUSE * 2 ** max(idle - 1, 0))


def _offline(problem: str) -> bool:
    """Nobody there at all: trying again at once does not help."""
    return any(
        words in problem
        for words in (
            "Name or service not known",
            "name resolution",
            "getaddrinfo",
            "refused",
            "unreachable",
        )
    )


def _disk_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (
        28,
        122,
        13,
        30,
    )  # no space, quota, no permission, read-only


def _attempt(address: str, beside: Path, part: ModelFile, progress: Progress | None) -> bool:
    """One request. True when the file is whole, False when the connection ended early."""
    have, etag = _length(beside), _known(beside).get("etag", "")
    request = urllib.request.Request(
        address, headers={"User-Agent": "essence", "Accept-Encoding": "identity"}
    )
    if have:
        request.add_header("Range", f"bytes={have}-")
        if etag:  # the server sends everything when its file has changed since
            request.add_header("If-Range", etag)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            have, total = _start(response, have, part)
            _room(beside, total - have)
            _note(beside).write_text(
                json.dumps({"address": address, "etag": _strong(response.headers.get("ETag", ""))})
            )
            return _receive(response, beside, have, total, part.path.name, progress)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        _discard(beside)  # what is here is longer than the file there
        return False


def _start(response: http.client.HTTPResponse, have: int, part: ModelFile) -> tuple[int, int]:
    """(byte that the body begins with, bytes of the whole file or 0). Raises _Failed where it
    cannot be the file.
    """
    if (response.headers.get("Content-Type") or "").startswith("text/html"):
        raise _Failed("it answers with a web page, not with the file.")
    if response.status == 206:
        first, _, rest = (
            (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")
        )
        whole = rest.partition("/")[2]
        if not first.isdigit() or int(first) != have:
            raise _Failed("it sends another part of the file than it was asked for.")
        total = int(whole) if whole.isdigit() else 0
    else:
        have, total = 0, int(response.headers.get("Content-Length") or 0)
    if part.size and total and total != part.size:
        raise _Failed(f"it has {total} bytes, not {part.size}: another file under the same name.")
    return have, total


def _receive(
    response: http.client.HTTPResponse,
    beside: Path,
    have: int,
    total: int,
    name: str,
    progress: Progress | None,
) -> bool:
    with open(beside, "r+b" if have else "wb") as file:
        file.seek(have)
        while block := response.read(BLOCK):
            file.write(block)
            have += len(block)
            if progress is not None:
                progress(name, have, total)
    return have == total or total == 0


def _strong(etag: str) -> str:
    return "" if etag.startswith("W/") else etag


def _room(beside: Path, wanted: int) -> None:
    free = shutil.disk_usage(beside.parent).free
    if wanted > free - ROOM:
        raise UserError(
            f"{beside.parent} has {free / 1e9:.1f} GB free; {wanted / 1e9:.1f} GB are still to come. Make room first."
        )


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _known(beside: Path) -> dict:
    try:
        return dict(json.loads(_note(beside).read_text()))
    except (OSError, ValueError, TypeError):
        return {}
