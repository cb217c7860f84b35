"""The grid, the mixture and the large view, as HTML made of values. All text is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from .session import MIX, Cell, Session, SourceItem, TargetItem
from .views import CELL_SIDE, STRONGEST, WEAKEST, data_url, icon_button, next_serial, picture

STEP = 0.05  # of a strength slider
REST, REST_MIXED = 1.0, 0.5  # where a double click sends a slider
BANDS = {
    "coarse": ("structure", "pose, shape of the head, hair"),
    "middle": ("features", "eyes, nose, mouth, beard"),
    "fine": ("colour", "skin, hair and light"),
}
EXPLANATION = (
    "Identity is the distance between the face descriptors of a source before and after: 0 is no change, below 0.6 is usually taken for "
    "the same person. Likeness is CLIP's cosine to the target: higher is more alike."
)


def board(session: Session) -> str:
    columns, rows = session.ready(), session.rows()
    if not columns or not rows:
        missing = " and ".join(
            ["a source"] * (not columns) + ["a learned or loaded essence"] * (not rows)
        )
        return f'<p class="hint">The grid appears here once there is {missing}.</p>'
    lines = mixture(session, columns) if session.mixing else grid(session, rows, columns)
    mode = "mix" if session.mixing else "grid"
    foot = f'<p class="explain">{EXPLANATION}</p>' if session.measuring else ""
    values = (
        f'data-mode="{mode}" data-serial="{next_serial()}" data-visitor="{session.word}"'
        + " data-slow" * session.slow
    )
    return f"""{switches(session)}<div class="board" {values} style="--columns:{len(columns)}">
      {lines}</div>{foot}<div class="actions"><button class="download" data-event="grid">Download the grid</button>
      <button class="download" data-event="cells">All pictures (ZIP)</button></div>"""


def switches(session: Session) -> str:
    def choice(mixing: bool, text: str, title: str) -> str:
        pressed = str(session.mixing == mixing).lower()
        return f'<button data-event="mixing" data-mixing="{int(mixing)}" aria-pressed="{pressed}" title="{title}">{text}</button>'

    measuring = str(session.measuring).lower()
    preparing = '<span class="preparing" role="status"></span>' * session.slow
    hint = "Identity kept, and likeness to the target"
    return f"""<div class="switches"><div class="segments" role="group" aria-label="How to blend">
      {choice(False, "Grid", "Each essence on each source")}{choice(True, "Mix", "All essences together on each source")}</div>{preparing}
      <button class="toggle" data-event="figures" aria-pressed="{measuring}" title="{hint}">Figures</button>
      </div>"""


def grid(session: Session, rows: Sequence[TargetItem], columns: Sequence[SourceItem]) -> str:
    shared = rows[0].strength if len({target.strength for target in rows}) == 1 else REST
    side = f"<b>All essences</b>{slider('all', shared, 'Strength of all', REST)}"
    return heads(side, columns) + "".join(row(session, target, columns) for target in rows)


def heads(side: str, columns: Sequence[SourceItem]) -> str:
    pictures = "".join(
        f'<figure class="head">{picture(s.source.inversion, s.name, CELL_SIDE)}<figcaption>{escape(s.name)}</figcaption></figure>'
        for s in columns
    )
    return f'<div class="line first"><div class="side">{side}</div><div class="cells">{pictures}</div></div>'


def row(session: Session, target: TargetItem, columns: Sequence[SourceItem]) -> str:
    return f"""<div class="line" data-row="{target.id}"><div class="side">{controls(target, target.strength, REST)}</div>
      <div class="cells">{"".join(cell(session, target, source) for source in columns)}</div></div>"""


def mixture(session: Session, columns: Sequence[SourceItem]) -> str:
    save = icon_button("save", MIX, "↓", "Download the mixture as an essence")
    parts = "".join(
        f'<div class="part side">{controls(target, target.share, REST_MIXED)}</div>'
        for target in session.learned()
    )
    cells = "".join(cell(session, session.mix, source) for source in columns)
    side = f'<div class="name"><b>Mixture</b>{save}</div>'
    return f"""{heads(side, columns)}<div class="line mixed" data-row="{MIX}"><div class="parts">{parts}</div>
      <div class="cells">{cells}</div></div>"""


def controls(target: TargetItem, value: float, rest: float) -> str:
    """Thumbnail, name, strength and layers of an essence."""
    name = escape(target.name)
    save = icon_button("save", target.id, "↓", f"Download the essence of {target.name}")
    return f"""{picture(target.picture, target.name)}<div class="name"><b title="{name}">{name}</b>{save}</div>
      {slider(target.id, value, f"Strength of {target.name}", rest)}{bands(target)}"""


def bands(target: TargetItem) -> str:
    buttons = "".join(
        f'<button data-event="band" data-id="{target.id}" data-band="{band}" aria-pressed="{str(band in target.bands).lower()}"'
        f' title="{word}: {what}">{word}</button>'
        for band, (word, what) in BANDS.items()
    )
    return f'<div class="bands" role="group" aria-label="What {escape(target.name)} may change">{buttons}</div>'


def cell(session: Session, target: TargetItem, source: SourceItem) -> str:
    known = session.cells.get((target.id, source.id))
    alt = f"{escape(source.name)} with {escape(target.name)}"
    image = f'<img src="{known.url}" alt="{alt}">' if known else '<span class="blank busy"></span>'
    strip = f' data-strip="{known.strip}"' if known and session.slow and not session.mixing else ""
    values = f'data-event="look" data-id="{target.id}" data-source="{source.id}"{strip}'
    button = f'<button class="cell" {values} title="Look closely">{image}</button>'
    return f'<div class="place">{button}{figures(known) if session.measuring else ""}</div>'


def figures(known: Cell | None) -> str:
    if known is None or known.figures is None:
        return '<span class="figures" data-lacking>…</span>'
    identity, likeness = known.figures
    kept = (
        ""
        if math.isnan(identity)
        else f'<span title="distance to the source itself">identity {identity:.2f}</span>'
    )  # no faces here
    more = (
        ""
        if likeness is None
        else f'<span title="likeness to the target">likeness {likeness:.2f}</span>'
    )
    return f'<span class="figures">{kept}{more}</span>'


def slider(id: str, value: float, label: str, rest: float) -> str:
    label, limits = escape(label), f'min="{WEAKEST}" max="{STRONGEST}" step="{STEP}"'
    return f"""<div class="strength"><input type="range" {limits} value="{value:g}" data-strength="{id}" data-rest="{rest:g}"
      aria-label="{label}" title="Double click: {rest:g}">
      <input type="number" {limits} value="{value:.2f}" aria-label="{label}, typed"></div>"""


def strips(strengths: Sequence[float], frames: Mapping[str, Sequence[str]]) -> str:
    """Strips for the grid's cells, by name, as data for the page's script."""
    data = {"strengths": list(strengths), "frames": dict(frames)}
    return f'<i hidden data-serial="{next_serial()}" data-strips="{escape(json.dumps(data))}"></i>'


# ---- the large view


def compare(source: SourceItem, target: TargetItem, edited: np.ndarray) -> str:
    """A large before and after; the page's script moves the border between them, and scrubs the
    strip once it is there.
    """
    before, after = data_url(source.source.inversion), data_url(edited)
    limits = f'min="{WEAKEST}" max="{STRONGEST}" step="{STEP}" value="{target.strength:g}"'
    return f"""<dialog class="compare" data-serial="{next_serial()}" aria-label="Before and after">
      <header><b>{escape(source.name)} · {escape(target.name)}</b><button class="icon" data-close aria-label="Close">×</button></header>
      <div class="stack"><img class="after" src="{after}" alt="after"><img class="after next" src="{after}" alt="" hidden>
        <img class="before" src="{before}" alt="before" data-model="{before}" data-picture="{data_url(source.source.crop)}">
        <i class="border"></i><input type="range" min="0" max="100" value="50" aria-label="Before and after"></div>
      <div class="ends"><span>before</span><label><input type="checkbox" data-swap> show the original picture</label>
        <span>after</span></div>
      <div class="strength own"><span>Strength</span><input type="range" {limits} data-own disabled aria-label="Strength here">
        <output>{target.strength:.2f}</output></div>
      <p class="readout" aria-live="polite">Measuring …</p>
      <footer><button class="download" data-event="picture" data-strength="{target.strength:g}">Download the picture</button>
        <button class="download" data-event="sweep">All strengths (animation)</button></footer>
    </dialog>"""


def details(
    strengths: Sequence[float], pictures: np.ndarray, figures: Sequence[tuple[float, float | None]]
) -> str:
    """The strip, as data for the page's script: strengths, pictures, what to read at each."""
    strip = {
        "strengths": list(strengths),
        "frames": [data_url(pixels) for pixels in pictures],
        "identity": [None if math.isnan(a) else round(a, 3) for a, _ in figures],
        "likeness": [b if b is None else round(b, 3) for _, b in figures],
    }
    return f'<i hidden data-serial="{next_serial()}" data-strip="{escape(json.dumps(strip))}"></i>'
