"""The targets: pictures whose essence is to be learned, and essence files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import gradio as gr
from PIL import Image

from essence import Essence, Studio, bundled, load_image

from ..events import ADD, EVERY, NOW, Components, Page, bind
from ..messages import SKIP, errors_told, inform
from ..session import Session, TargetItem, nearest_strength
from . import words
from .cards import examples_html, targets_html
from .components import CARDS_JS, EXAMPLES_JS, aligned_box, heading, html, picture_inputs
from .items import (
    File,
    Shown,
    check_room,
    connect_cards,
    connect_inputs,
    cut_faces,
    example,
    show,
    tell_faces,
    title_of,
)
from .sources import PICTURE_TYPES

ESSENCE_TYPES = (".safetensors", ".npy", ".npz", ".pt", ".pth")


# ---- components and events


def build(with_essences: bool, with_notions: bool) -> Components:
    """`with_essences`, `with_notions`: the bundled ones suit the page's first model set."""
    paths = bundled("essences")
    with gr.Column(elem_classes=["es-card"], min_width=320):
        heading(2, "Targets", "whose essence to learn")
        cards = html(targets_html(Session()), CARDS_JS, elem_id="targets")
        label = "Drop, paste or choose pictures, paintings, essence files"
        inputs = picture_inputs("targets", label, [*PICTURE_TYPES, *ESSENCE_TYPES])
        inputs |= words.build(with_notions)
        with gr.Accordion("Ready-made essences", open=False, visible=with_essences) as box:
            pictures = examples_html(paths, (Essence.load(path).thumbnail for path in paths))
            essences = html(pictures, EXAMPLES_JS, elem_id="essences-examples")
        with gr.Accordion("Options", open=False):
            aligned = aligned_box()
        with gr.Row(elem_classes=["es-buttons"]):
            clear = gr.Button("Clear", size="sm", elem_id="clear-targets")
    own = {"cards": cards, "aligned": aligned, "essences": essences, "essences_box": box}
    return {**own, "clear": clear, **inputs}


def connect(page: Page, parts: Components) -> None:
    pool, session, view = page.pool, page.session, page.view
    connect_inputs(page, "targets", add_targets, parts, [parts["aligned"]])
    connect_cards(page, "targets", parts)
    picked = bind(pool, add_targets, False, id=lambda name: example("essences", str(name)))
    parts["essences"].pick(picked, session, view, **EVERY, **ADD)
    face = bind(pool, choose_target_face, id=str, index=int)
    parts["cards"].face(face, session, view, **NOW)
    choice = bind(pool, choose_answer, id=str, index=int)
    parts["cards"].choice(choice, session, view, **NOW)


# ---- handlers


def add_targets(
    studio: Studio, session: Session, files: Sequence[File] | None, aligned: bool
) -> Iterator[Shown]:
    """Crop each picture, or take it as it is where it shows no face; essence files are loaded."""
    for file in files or ():
        name = title_of(file)
        yield SKIP, targets_html(session, pending=name), SKIP
        with errors_told(name):
            check_room(session.items.targets, "targets")
            is_picture = isinstance(file, Image.Image)
            if not is_picture and Path(file).suffix.lower() in ESSENCE_TYPES:
                essence = studio.load_essence(file)
                strength = nearest_strength(essence.strength)
                item = TargetItem(essence.name, essence=essence, strength=strength)
                item.by_hand = strength != 1.0  # somebody chose it
            else:
                cropped = cut_faces(studio, load_image(file), aligned)
                item = TargetItem(name, cropped.faces, photo=cropped.photo, found=cropped.found)
                tell_faces(item)
                if not item.found:
                    inform(
                        f"{name}: no face found, so the picture is taken as it is. Drawings and "
                        "paintings work too."
                    )
            session.items.targets[item.id] = item
    yield show(studio, session)


def choose_answer(studio: Studio, session: Session, id: str, index: int) -> Shown:
    """Take what came of another start."""
    item = session.items.targets.get(id)
    if item is not None and 0 <= index < len(item.choices):
        choices, (essence, _) = item.choices, item.choices[index]
        item.take(essence)
        item.choices = choices
        if item.gain is not None:
            item.gain = item.gain[0], 1 - essence.provenance["losses"]["transfer"]
    return show(studio, session)


def choose_target_face(studio: Studio, session: Session, id: str, index: int) -> Shown:
    """Take another face of the picture; an essence of the first one would be somebody else's."""
    item = session.items.targets.get(id)
    if item is not None and 0 <= index < len(item.faces) and index != item.chosen:
        item.choose(index)
        item.take(None)
    return show(studio, session)
