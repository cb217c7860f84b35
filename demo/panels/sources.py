"""The sources: photographs or random faces, inverted."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count

import gradio as gr
import numpy as np

from essence import RefineOptions, Studio, load_image

from ..events import ADD, EVERY, Components, Page, bind
from ..messages import SKIP, errors_told
from ..session import Session, SourceItem
from ..settings import limits
from . import imagine
from .cards import sources_html
from .components import CARDS_JS, UNRESTORED, aligned_box, heading, html, picture_inputs
from .items import (
    File,
    Shown,
    check_room,
    connect_cards,
    connect_inputs,
    cut_faces,
    show,
    tell_faces,
    title_of,
)

PICTURE_TYPES = [
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"),
]


# ---- components and events


def build(with_examples: bool) -> Components:
    low, high, default = limits()["refine"]
    with gr.Column(elem_classes=["es-card"], min_width=320):
        heading(1, "Sources", "the faces to change")
        cards = html(sources_html(Session()), CARDS_JS, elem_id="sources")
        label = "Drop, paste or choose photographs"
        inputs = picture_inputs("sources", label, PICTURE_TYPES, with_examples)
        inputs |= imagine.build()
        with gr.Accordion("Options", open=False):
            aligned = aligned_box()
            refine = gr.Slider(
                low,
                high,
                default,
                step=1,
                label="Refinement steps",
                elem_id="refine-steps",
                info="Bring the model's picture closer to the photograph; 0 turns it off.",
                **UNRESTORED,
            )
        with gr.Row(elem_classes=["es-buttons"]):
            random_button = gr.Button("Random face", size="sm", elem_id="random-face")
            clear = gr.Button("Clear", size="sm", elem_id="clear-sources")
    own = {"cards": cards, "aligned": aligned, "refine": refine}
    return {**own, "random": random_button, "clear": clear, **inputs}


def connect(page: Page, parts: Components) -> None:
    pool, session, view = page.pool, page.session, page.view
    connect_inputs(page, "sources", add_sources, parts, [parts["aligned"], parts["refine"]])
    connect_cards(page, "sources", parts)
    parts["random"].click(bind(pool, add_random_face), session, view, **EVERY, **ADD)
    face = bind(pool, choose_source_face, id=str, index=int)
    parts["cards"].face(face, [session, parts["refine"]], view, **EVERY, **ADD)


# ---- handlers


def add_sources(
    studio: Studio, session: Session, files: Sequence[File] | None, aligned: bool, steps: float
) -> Iterator[Shown]:
    """Crop each picture, then invert all of them together; the visitor is told which cannot be
    read, the others are kept.
    """
    added: list[SourceItem] = []
    try:
        for file in files or ():
            name = title_of(file)
            yield sources_html(session, pending=name), SKIP, SKIP
            with errors_told(name):
                check_room(session.items.sources, "sources")
                cropped = cut_faces(studio, load_image(file), aligned, True, SourceItem.largest)
                item = SourceItem(name, cropped.faces, photo=cropped.photo)
                tell_faces(item)
                session.items.sources[item.id] = item
                added.append(item)
        with errors_told():
            yield from invert_sources(studio, session, added, steps)
    finally:
        drop_without_source(session, added)
    yield show(studio, session)


def add_random_face(studio: Studio, session: Session) -> Shown:
    with errors_told():
        sources = session.items.sources
        check_room(sources, "sources")
        seed = random.randrange(imagine.SEEDS)
        source = studio.random_source(seed)
        taken = {item.name for item in sources.values()}
        name = next(name for number in count(1) if (name := f"random {number}") not in taken)
        item = SourceItem(name, (source.crop,), source=source, progress=1.0, seed=seed)
        sources[item.id] = item
    return show(studio, session)


def invert_sources(
    studio: Studio, session: Session, items: Sequence[SourceItem], steps: float
) -> Iterator[Shown]:
    """Find the latents of sources, showing how the model's pictures of them come closer. Another
    crop ends it for its source.
    """
    if not items:
        return
    pictures, names = [item.picture for item in items], [item.name for item in items]
    for item in items:
        item.progress = 0.0
    try:
        with closing(studio.invert(pictures, names, RefineOptions(steps=int(steps)))) as inversion:
            for step in inversion:
                in_use = False
                for item, picture, source in zip(items, pictures, step.result, strict=True):
                    if item.id in session.items.sources and item.picture is picture:
                        # On ZeroGPU the source comes back from another process, with a copy of the
                        # picture.
                        item.source = dataclasses.replace(source, crop=picture)
                        item.progress = step.fraction
                        in_use = True
                if not in_use:
                    return
                if step.preview is not None:
                    yield sources_html(session), SKIP, SKIP
        measure_inversions(studio, session, items)
    finally:
        drop_without_source(session, items)


def measure_inversions(studio: Studio, session: Session, items: Sequence[SourceItem]) -> None:
    """How near the model's face is to each photograph's; not worth borrowing a GPU for."""
    items = [item for item in items if item.source is not None and not item.stale]
    if session.run.lent or not studio.has_faces or not items:
        return
    size = studio.models.size
    crops = np.stack([np.asarray(item.source.crop.resize((size, size))) for item in items])
    inversions = np.stack([np.asarray(item.source.inversion) for item in items])
    for item, distance in zip(items, studio.identity_distances(crops, inversions), strict=True):
        item.distance = distance


def drop_without_source(session: Session, items: Sequence[SourceItem]) -> None:
    """What was not inverted cannot stay."""
    for item in items:
        if item.source is None:
            session.items.sources.pop(item.id, None)


def invert_stale(studio: Studio, session: Session, steps: float) -> Iterator[Shown]:
    """Invert every source whose crop has changed."""
    with errors_told():
        stale = [item for item in list(session.items.sources.values()) if item.stale]
        yield from invert_sources(studio, session, stale, steps)
    yield show(studio, session)


def choose_source_face(
    studio: Studio, session: Session, id: str, index: int, steps: float
) -> Iterator[Shown]:
    """Take another face of the picture."""
    item = session.items.sources.get(id)
    if item is not None and 0 <= index < len(item.faces) and index != item.chosen:
        item.choose(index)
    yield from invert_stale(studio, session, steps)
