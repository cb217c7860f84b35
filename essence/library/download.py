"""Public model files, when a person asks for them: downloaded or imported, checked, put in place.
Never half a file, never an unknown one.

Bytes go to a file beside the place where they belong, which is renamed when they have been checked:
by sha256 where the manifest knows it, else by size and by whether the tensors load strictly; then
the hash that was seen is recorded, and said to be no more than that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadFile, UserError
from ..runtime.files import timestamp
from .components import COMPONENTS
from .http_download import DownloadFailed, discard, download_url
from .manifest import ModelSpec
from .model_files import Mirror, ModelFile, Progress, sha256


@dataclass(frozen=True)
class DownloadResult:
    """What was done about one file."""

    path: Path
    sha256: str
    # "here already", "sha256", "structure"
    how: str
    source: str = ""

    def __str__(self) -> str:
        if self.how == "here already":
            return f"{self.path.name} is here already."
        if self.how == "sha256":
            return f"{self.path.name}: sha256 as the manifest says, from {self.source}."
        return (
            f"{self.path.name}: no hash is published for it. Its tensors are those of the network "
            "that it should hold, and nothing more is known. "
            f"Seen and recorded: sha256 {self.sha256}, from {self.source}."
        )


def download_files(
    spec: ModelSpec, only: str = "", progress: Progress | None = None
) -> list[DownloadResult]:
    """Download what the set lacks, all of it or one kind. Raises UserError, with what to do by
    hand, for what could not be had.
    """
    results, problems = [], []
    for file, kinds in _selected_files(spec, only).items():
        try:
            results.append(_already_here(file) or _download(file, kinds, spec.name, progress))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(" ".join(problems))
    return results


def import_files(spec: ModelSpec, given: Path, only: str = "") -> list[DownloadResult]:
    """Import files that a person has: `given` is a file, or a folder with files named as in the
    manifest. Raises UserError.
    """
    files = _selected_files(spec, only)
    if given.is_dir():
        named = [(given / file.path.name, file) for file in files]
        wanted = [(path, file) for path, file in named if path.is_file()]
    elif given.is_file():
        wanted = [(given, _file_meant(spec, files, given))]
    else:
        raise UserError(f"There is no file or folder {given}.")
    if not wanted:
        names = ", ".join(file.path.name for file in files)
        raise UserError(f"The folder {given} holds none of the files of '{spec.name}': {names}.")
    return [_import(path, file, files[file]) for path, file in wanted]


def _selected_files(spec: ModelSpec, only: str) -> dict[ModelFile, list[str]]:
    """Each file once, with the kinds of component that lie in it."""
    if only and only not in spec.components:
        raise UserError(
            f"'{spec.name}' has no part '{only}'. It has: {', '.join(spec.components)}."
        )
    return {file: kinds for file, kinds in spec.unique_files.items() if not only or only in kinds}


def _file_meant(spec: ModelSpec, files: dict[ModelFile, list[str]], given: Path) -> ModelFile:
    """Which file of the set a person's file is: by name, by size, or because there is only one."""
    same_name = [file for file in files if file.path.name == given.name]
    same_size = [file for file in files if file.size and file.size == given.stat().st_size]
    candidates = same_name or same_size or list(files)
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(f"{kinds[0]} ({file.path.name})" for file, kinds in files.items())
    raise UserError(f"Which part of '{spec.name}' is {given.name}? Name it with --part: {names}.")


def _already_here(file: ModelFile) -> DownloadResult | None:
    if not file.present:
        return None
    return DownloadResult(file.verified_path(), file.sha256, "here already")


def _import(given: Path, file: ModelFile, kinds: list[str]) -> DownloadResult:
    if file.present and given.resolve() == file.path.resolve():
        return DownloadResult(file.verified_path(), file.sha256, "here already")
    unfinished = _unfinished_path(file.path)
    try:
        shutil.copyfile(given, unfinished)
        return _accept(unfinished, file, kinds, f"the file {given}")
    except DownloadFailed as failed:
        raise UserError(
            f"{given} was not taken in: {failed} To use it as it is: --model {given}."
        ) from None
    finally:
        discard(unfinished)


def _download(
    file: ModelFile, kinds: list[str], name: str, progress: Progress | None
) -> DownloadResult:
    """From the first source that gives the right file. Raises UserError."""
    unfinished, problems = _unfinished_path(file.path), []
    for mirror in file.sources:
        try:
            return _download_from(mirror, unfinished, file, kinds, progress)
        except DownloadFailed as failed:
            problems.append(f"{mirror.address}: {failed}")
    raise UserError(_by_hand(file, kinds[0], name, problems))


def _download_from(
    mirror: Mirror, unfinished: Path, file: ModelFile, kinds: list[str], progress: Progress | None
) -> DownloadResult:
    address, headers = mirror.address, _hub_headers() if mirror.hub else {}

    def download() -> bool:
        return download_url(address, unfinished, file.size, file.path.name, progress, headers)

    resumed = download()
    try:
        return _accept(unfinished, file, kinds, address)
    except DownloadFailed:
        if not resumed:
            raise
    # The half that lay here may have been the bad one.
    download()
    return _accept(unfinished, file, kinds, address)


def _hub_headers() -> dict[str, str]:
    """With the token of `hf auth login`, which files behind a licence's form need, if there is
    one.
    """
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers(library_name="essence")


def _by_hand(file: ModelFile, kind: str, name: str, problems: Iterable[str]) -> str:
    if not file.sources:
        return (
            f"{file.path.name} has no source: it comes with the repository; "
            f"restore weights/{file.file} from there."
        )
    given = file.sources[0].file or file.path.name
    return (
        f"{file.path.name} could not be had ({'; '.join(problems)}). "
        f"By hand: download {file.sources[0].address} on any machine, "
        f"then run `python -m essence fetch {name} --part {kind} --from {given}`."
    )


def _accept(unfinished: Path, file: ModelFile, kinds: list[str], source: str) -> DownloadResult:
    """Check a whole file and put it in its place; remove it if it is not what it should be."""
    seen = sha256(unfinished)
    try:
        _check(unfinished, seen, file, kinds)
    except DownloadFailed:
        discard(unfinished)
        raise
    path, how = file.path, "sha256" if file.sha256 else "structure"
    if how == "structure":
        size = unfinished.stat().st_size
        record = {
            "sha256": seen,
            "size": size,
            "source": source,
            "checked": how,
            "date": timestamp(),
        }
        file.record_path.write_text(json.dumps(record, indent=1) + "\n")
    unfinished.replace(path)
    discard(unfinished)
    return DownloadResult(path, seen, how, source)


def _check(path: Path, seen: str, file: ModelFile, kinds: list[str]) -> None:
    """Raise DownloadFailed for a file that is not the one of the manifest."""
    size = path.stat().st_size
    if file.size and size != file.size:
        raise DownloadFailed(f"it has {size} bytes, not {file.size}.")
    if file.sha256:
        if seen != file.sha256:
            raise DownloadFailed(
                f"its sha256 is {seen}, not {file.sha256}: "
                "another file under the same name, or a damaged one."
            )
        return
    for kind in kinds:
        try:
            COMPONENTS[kind].load(path, file)
        except BadFile as error:
            raise DownloadFailed(f"it is not the {kind} that it should be: {error}") from None


def _unfinished_path(path: Path) -> Path:
    """Beside the file's place. The suffix stays last: the checkpoint loaders go by it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.stem}.part{path.suffix}")
