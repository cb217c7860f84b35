"""The cards of sources and targets, and the pictures of the examples, as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from ..rendering import numbered, render
from ..session import Session


@numbered
def sources_html(session: Session, pending: str = "") -> str:
    """`pending`: the name of a picture that is still being read."""
    items = list(session.items.sources.values())
    removed = _removed(session, "sources")
    return render("sources.html", items=items, pending=pending, removed=removed)


@numbered
def targets_html(session: Session, pending: str = "") -> str:
    """`pending`: the name of a picture that is still being read."""
    items = list(session.items.targets.values())
    removed = _removed(session, "targets")
    return render("targets.html", items=items, pending=pending, removed=removed)


def _removed(session: Session, kind: str) -> str:
    """What can be brought back: a name, or how many."""
    names = [item.name for was, _, item in session.items.removed if was == kind]
    return names[0] if len(names) == 1 else str(len(names) or "")


def examples_html(paths: Iterable[Path], images: Iterable[Image.Image | None]) -> str:
    """A button for each bundled file."""
    return render("examples.html", examples=list(zip(paths, images, strict=True)))
