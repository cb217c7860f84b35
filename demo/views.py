"""What the page shows, as HTML made of values. Names come from files and visitors: everything that
is text is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from .session import Session, SourceItem, TargetItem

WEAKEST, STRONGEST = -1.5, 2.0  # of a strength slider
SHELF_SIDE = 160  # pixels of a picture on a shelf, so that it is sharp on a dense screen
CELL_SIDE = 256  # pixels of a cell at most
QUALITY = 90
CURVES = ("total", "transfer", "consistency")
CHART = (320, 120)  # width, height
CROP_SIGN = (
    '<svg viewBox="0 0 16 16" width="14" height="14" fill="none" stroke="currentColor" stroke-width="1.5" aria-hidden="true">'
    '<path d="M4 1v11h11M1 4h11v11"/></svg>'
)

_serial = count()


def next_serial() -> int:
    """Differs each time, so that the page notices the same thing asked for twice."""
    return next(_serial)


def nearest_strength(value: float) -> float:
    """What a slider can show; 1 for what is no number."""
    return min(max(value, WEAKEST), STRONGEST) if value == value else 1.0


def data_url(image: Image.Image | np.ndarray, side: int | None = None) -> str:
    """A picture, or pixels [H, W, 3], as a JPEG inside the page: no file of it lies on the disk."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if side is not None and image.width > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def small_url(pixels: np.ndarray, most: int) -> str:
    """As `data_url` of a cell, made smaller until it has at most so many characters (or is
    tiny).
    """
    side = CELL_SIDE
    while len(url := data_url(pixels, side)) > most and side > 32:
        side //= 2
    return url


def picture(image: Image.Image | np.ndarray | None, alt: str, side: int | None = SHELF_SIDE) -> str:
    if image is None:
        return f'<span class="blank" role="img" aria-label="{escape(alt)}">{escape(alt[:2])}</span>'
    return f'<img src="{data_url(image, side)}" alt="{escape(alt)}">'


def icon_button(event: str, id: str, sign: str, label: str, **values: object) -> str:
    label = escape(label)
    more = "".join(f' data-{key}="{value}"' for key, value in values.items())
    return f'<button class="icon" data-event="{event}" data-id="{id}"{more} title="{label}" aria-label="{label}">{sign}</button>'


# ---- sources and targets


def sources(session: Session, pending: str = "") -> str:
    """`pending`: the name of a picture that is still being read."""
    cards = [source_card(item) for item in list(session.sources.values())] + pending_card(
        pending, 2
    )
    hint = "No source yet. Add photographs, try an example, or start with a random face."
    return shelf(cards, hint, "pairs", undo_note(session, "sources"))


def targets(session: Session, pending: str = "") -> str:
    cards = [target_card(item) for item in list(session.targets.values())] + pending_card(
        pending, 1
    )
    hint = "No target yet. Add the picture whose essence you want: a face, a painting, a drawing."
    return shelf(cards, hint, "singles", undo_note(session, "targets"))


def shelf(cards: Sequence[str], hint: str, kind: str, undo: str) -> str:
    body = (
        f'<div class="shelf {kind}">{"".join(cards)}</div>'
        if cards
        else f'<p class="hint">{hint}</p>'
    )
    return body + undo


def undo_note(session: Session, kind: str) -> str:
    gone = [item for was, _, item in session.removed if was == kind]
    if not gone:
        return ""
    what = escape(gone[0].name) if len(gone) == 1 else str(len(gone))
    return f'<p class="undo" role="status">Removed {what}. <button class="text" data-event="undo">Undo</button></p>'


def source_card(item: SourceItem) -> str:
    inversion = item.source.inversion if item.source else None
    model = (
        picture(inversion, "as the model sees it")
        if inversion
        else '<span class="blank busy"></span>'
    )
    note = "" if item.source and item.progress >= 1 else f"refining {item.progress:.0%}"
    return card(
        item,
        f"""<div class="pair">
        <figure>{picture(item.picture, item.name)}<figcaption>picture</figcaption></figure>
        <figure>{model}<figcaption>{note or "model"}</figcaption></figure>
    </div>{face_choice(item)}""",
    )


def target_card(item: TargetItem) -> str:
    note = "essence ready" if item.essence else "not learned yet"
    if not item.found:
        note += ", taken as it is"
    state = "ready" if item.essence else "new"
    figure = f'<figure>{picture(item.picture, item.name)}<figcaption class="{state}">{note}</figcaption></figure>'
    return card(item, figure + face_choice(item))


def pending_card(name: str, pictures: int) -> list[str]:
    if not name:
        return []
    blank = '<figure><span class="blank busy"></span><figcaption>looking for a face</figcaption></figure>'
    model = blank.replace("looking for a face", "model")
    body = f'<div class="pair">{blank}{model}</div>' if pictures > 1 else blank
    return [f'<article class="pending"><header><b>{escape(name)}</b></header>{body}</article>']


def card(item: SourceItem | TargetItem, body: str) -> str:
    name, remove = escape(item.name), icon_button("remove", item.id, "×", f"Remove {item.name}")
    tools = icon_button("move", item.id, "‹", f"Move {item.name} to the left", by=-1)
    tools += icon_button("move", item.id, "›", f"Move {item.name} to the right", by=1)
    tools += (
        icon_button("crop", item.id, CROP_SIGN, f"Correct the crop of {item.name}")
        if item.photo
        else ""
    )
    return f"""<article class="item" data-item="{item.id}"><header>
      <b contenteditable="plaintext-only" spellcheck="false" role="textbox" data-name="{item.id}" data-was="{name}"
        title="{name}: click to rename" aria-label="Name of {name}">{name}</b>{remove}</header>
      {body}<div class="tools">{tools}</div></article>"""


def face_choice(item: SourceItem | TargetItem) -> str:
    """The faces of a picture that shows several, to choose from."""
    if len(item.faces) < 2:
        return ""
    faces = "".join(
        f'<button data-event="face" data-id="{item.id}" data-index="{i}" aria-pressed="{str(i == item.chosen).lower()}"'
        f' title="Take this face">{picture(face, f"face {i + 1}", 48)}</button>'
        for i, face in enumerate(item.faces)
    )
    return f'<div class="faces" role="group" aria-label="Which face">{faces}</div>'


def examples(paths: Iterable[Path], images: Iterable[Image.Image | None]) -> str:
    buttons = "".join(
        f'<button data-event="pick" data-id="{escape(path.name)}" title="Add {escape(path.name.split(".")[0])}">'
        f"{picture(image, path.name.split('.')[0], 96)}</button>"
        for path, image in zip(paths, images, strict=True)
    )
    return f'<div class="examples">{buttons}</div>' if buttons else ""


# ---- learning


def learning(
    target: TargetItem,
    title: str,
    step: int,
    total: int,
    left: float | None,
    previews: Sequence[np.ndarray],
    history: Sequence[dict[str, float]],
) -> str:
    pictures = "".join(
        f"<figure>{picture(image, f'source {i + 1}', None)}</figure>"
        for i, image in enumerate(previews)
    )
    return f"""<section class="learning">
      <div class="status"><b>{escape(title)}</b><span>step {step} of {total}</span><span>{remaining(left)}</span>
        <progress max="1" value="{step / total:.4f}">{step / total:.0%}</progress><span class="percent">{step / total:.0%}</span></div>
      <div class="progress-body">
        <div class="previews"><figure class="target">{picture(target.picture, target.name, None)}<figcaption>target</figcaption></figure>
          <span class="arrow" aria-hidden="true">→</span>{pictures}</div>
        {chart(history)}
      </div></section>"""


def remaining(seconds: float | None) -> str:
    return "" if seconds is None else f"about {max(round(seconds), 0)} s left"


def chart(history: Sequence[dict[str, float]]) -> str:
    """The losses as curves on a common scale from zero; the first steps may leave it at the top."""
    if not history:
        return ""
    values = np.array([[losses.get(name, 0.0) for name in CURVES] for losses in history])
    top = max(values.max(), 1e-6)
    width, height = CHART
    x = np.linspace(0, width, len(values)) if len(values) > 1 else np.array([0.0])
    y = height - 4 - (height - 8) * values / top
    lines = "".join(
        f'<polyline class="{name}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y[:, i], strict=True))}"/>'
        for i, name in enumerate(CURVES)
    )
    legend = "".join(
        f'<li class="{name}"><span>{name}</span><b>{values[-1, i]:.3f}</b></li>'
        for i, name in enumerate(CURVES)
    )
    return f"""<div class="chart"><svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img"
        aria-label="losses">{lines}</svg><ul>{legend}</ul></div>"""


def note(text: str) -> str:
    return f'<p class="hint" role="status">{escape(text)}</p>'


def download(name: str, data: bytes, kind: str) -> str:
    """An invisible link; the page's script follows it once."""
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return f'<a href="{url}" download="{escape(name)}" data-serial="{next_serial()}">{escape(name)}</a>'
