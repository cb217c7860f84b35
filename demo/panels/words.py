"""Targets in words: the field, and the notions that the bundled image-text encoder was taught."""

from __future__ import annotations

from typing import Any

import gradio as gr

from essence import Studio, notions, similar_notions, with_notion

from ..blending import embedded_target
from ..events import ADD, EVERY, NOW, Components, Page, bind
from ..messages import SKIP, errors_told, warn
from ..rendering import render
from ..session import Session, TargetItem
from .components import html
from .items import LONGEST_NAME, check_room, show

LONGEST_TEXT = 200  # characters


# ---- components and events


def sentence_field(label: str, placeholder: str, elem_id: str, **settings: Any) -> gr.Textbox:
    return gr.Textbox(
        label=label,
        placeholder=placeholder,
        max_length=LONGEST_TEXT,
        max_lines=1,
        elem_id=elem_id,
        **settings,
    )


def sentence(text: str | None) -> str:
    """What somebody typed, on one line and not too long."""
    return " ".join((text or "").split())[:LONGEST_TEXT]


def build(with_notions: bool) -> Components:
    """`with_notions`: the page's first model set makes faces, which the notions are of."""
    with gr.Row(elem_classes=["es-words"]):
        label, example = "… or describe a target", "an old man with grey hair"
        text = sentence_field(label, example, "words", scale=3, min_width=160)
        neutral = sentence_field("compared with", "anybody", "neutral", scale=2, min_width=90)
        add = gr.Button("Add", size="sm", elem_id="add-words", scale=0, min_width=64)
    with gr.Accordion("Words to choose from", open=False, visible=with_notions) as box:
        chips = render("notions.html", groups=notions())
        picked = html(chips, "essence.clicks(element, trigger, ['pick'])", elem_id="notions")
    fields = {"words": text, "neutral": neutral, "add_words": add}
    return {**fields, "notions": picked, "notions_box": box}


def connect(page: Page, parts: Components) -> None:
    pool, session, text, neutral = page.pool, page.session, parts["words"], parts["neutral"]
    gr.on(
        [text.submit, neutral.submit, parts["add_words"].click],
        bind(pool, add_words),
        [session, text, neutral],
        [text, *page.view],
        **EVERY,
        **ADD,
    )
    parts["notions"].pick(bind(pool, say_too, id=str), [session, text], text, **EVERY, **NOW)


# ---- handlers


def add_words(studio: Studio, session: Session, text: str, neutral: str) -> tuple[Any, ...]:
    """A target from a sentence; with a `neutral` one, what it says more than that."""
    text, neutral = sentence(text), sentence(neutral)
    with errors_told():
        check_room(session.items.targets, "targets")
        item = TargetItem(text[:LONGEST_NAME], words=text, neutral=neutral)
        embedded_target(studio, item)  # or it says nothing
        tell_unknown(studio, f"{text}, {neutral}")
        session.items.targets[item.id] = item
        return "", *show(studio, session)
    return SKIP, SKIP, SKIP, SKIP


def say_too(studio: Studio, session: Session, id: str, text: str) -> str:
    """The sentence in the field, with a notion more."""
    return with_notion((text or "")[:LONGEST_TEXT], id)


def tell_unknown(studio: Studio, text: str) -> None:
    """Which of the words the encoder never learned, and what comes near them."""
    unknown = studio.unknown_words(text)
    if not unknown:
        return
    named = []
    for words in unknown:
        near = ", ".join(similar_notions(words))
        named.append(f"\u201c{words}\u201d" + (f" (near it: {near})" if near else ""))
    warn(
        f"The small image-text encoder never learned {' and '.join(named)}, and passes over it. "
        "What it knows is listed below the targets. The public models know nearly every word: "
        "python -m essence fetch ffhq, then --model ffhq.",
        "Beyond these words",
    )
