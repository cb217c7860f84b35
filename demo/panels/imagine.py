"""Sources from a sentence: faces that the generator makes up, to choose from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import gradio as gr

from essence import ImagineOptions, Studio

from ..events import EVERY, NOW, QUIET, Components, Page, bind
from ..messages import errors_told
from ..rendering import render
from ..session import Session, SourceItem
from .components import html
from .items import LONGEST_NAME, Shown, check_room, show
from .words import sentence, sentence_field, tell_unknown

SEEDS = 2**31
# A queue of its own: a visitor who learns, or adds pictures, does not keep another from it.
ALONE = {"concurrency_id": "imagine", "concurrency_limit": 1}


# ---- components and events


def build() -> Components:
    with gr.Row(elem_classes=["es-words"]):
        label, example = "… or describe a face", "a smiling woman with red lips"
        text = sentence_field(label, example, "face-words", min_width=160)
        button = gr.Button("Imagine", size="sm", elem_id="imagine", scale=0, min_width=84)
    sheet = html("", "essence.clicks(element, trigger, ['pick'])", elem_id="imagined")
    return {"face_words": text, "imagine": button, "imagined": sheet}


def connect(page: Page, parts: Components) -> None:
    pool, session, text, sheet = page.pool, page.session, parts["face_words"], parts["imagined"]
    imagined = bind(pool, imagine_faces)
    gr.on([text.submit, parts["imagine"].click], imagined, [session, text], sheet, **ALONE, **QUIET)
    sheet.pick(bind(pool, take_face, index=int), session, page.view, **EVERY, **NOW)


# ---- handlers


def imagine_faces(studio: Studio, session: Session, text: str) -> Iterator[str]:
    """Faces that a sentence describes, as they come about; another seed each time."""
    text, seed = sentence(text), random.randrange(SEEDS)
    session.view.imagined, session.view.imagined_seed = (), seed
    with errors_told():
        target = studio.text_target(text)
        tell_unknown(studio, text)
        yield sheet_html(session, text, 0.0)
        with closing(studio.imagine(target, ImagineOptions(seed=seed))) as steps:
            for step in steps:
                if session.view.imagined_seed != seed:
                    return  # asked for again, or by other models
                session.view.imagined = step.result
                if step.preview is not None:
                    yield sheet_html(session, text, step.fraction)
        return
    yield ""


def take_face(studio: Studio, session: Session, index: int) -> Shown:
    """One of the faces as a source."""
    faces = session.view.imagined
    if 0 <= index < len(faces):
        with errors_told():
            check_room(session.items.sources, "sources")
            source, seed = faces[index], session.view.imagined_seed
            said = source.name.rpartition(" ")[0][: LONGEST_NAME - 2]
            name = f"{said} {index + 1}"
            item = SourceItem(name, (source.crop,), source=source, progress=1.0, seed=seed)
            session.items.sources[item.id] = item
    return show(studio, session)


def sheet_html(session: Session, text: str, done: float) -> str:
    view = session.view
    count = len(view.imagined) or ImagineOptions().count
    return render(
        "imagined.html",
        faces=view.imagined,
        blanks=count - len(view.imagined),
        seed=view.imagined_seed,
        text=text,
        done=done,
    )
