"""One source and one target by several methods, side by side, and what the figures below a picture
mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np

from essence import METHODS, PRESETS, Pictures, Source, Studio, adjusted, instant_methods

from ..blending import embedded_target
from ..events import LEARN, NOW, Components, Page, bind
from ..messages import SKIP, errors_told
from ..rendering import data_url, note, render
from ..session import Session, TargetItem
from .components import html

STEPS = 40  # of what is learned for the comparison alone
OURS = "ours"
# Baselines, by preset, as the page calls them.
BASELINES = {"blend": "StyleGAN blend", "clip-blend": "CLIP blend"}


@dataclass(frozen=True)
class Entry:
    """One method's picture of the source."""

    title: str
    picture: np.ndarray  # uint8 [H, W, 3]
    identity: float  # distance to the source itself; not a number where there are no faces
    likeness: float  # to the target


# ---- components and events


def build() -> Components:
    card = gr.Column(elem_classes=["es-card"])
    with card, gr.Accordion("Compare methods", open=False, elem_id="rivals") as box:
        with gr.Row(elem_classes=["es-settings"]):
            source = gr.Dropdown([], label="Source", elem_id="rivals-source")
            target = gr.Dropdown([], label="Target", elem_id="rivals-target")
            button = gr.Button("Compare", size="sm", elem_id="rivals-run")
        shown = html(elem_id="rivals-shown")
        html(render("figures-explained.html"))
    return {"box": box, "source": source, "target": target, "run": button, "shown": shown}


def connect(page: Page, parts: Components) -> None:
    pool, session, choices = page.pool, page.session, [parts["source"], parts["target"]]
    parts["box"].expand(bind(pool, offer), [session, *choices], choices, **NOW)
    values = [session, *choices]
    parts["run"].click(bind(pool, compare_methods), values, parts["shown"], **LEARN)


# ---- handlers


def offer(
    studio: Studio, session: Session, source_id: str | None, target_id: str | None
) -> tuple[Any, Any]:
    """What there is to choose from; a choice that is still there stays."""
    sources = [(item.name, item.id) for item in session.items.ready()]
    targets = [(item.name, item.id) for item in pictured(session)]

    def update(choices: list[tuple[str, str]], chosen: str | None) -> Any:
        known = [id for _, id in choices]
        value = chosen if chosen in known else next(iter(known), None)
        return gr.update(choices=choices, value=value)

    return update(sources, source_id), update(targets, target_id)


def pictured(session: Session) -> list[TargetItem]:
    """Targets that have a picture to compare with."""
    return [item for item in list(session.items.targets.values()) if item.picture is not None]


def compare_methods(
    studio: Studio, session: Session, source_id: str | None, target_id: str | None
) -> Iterator[Any]:
    """The source towards the target by every method, each shown as soon as it is there."""
    item = next((each for each in session.items.ready() if each.id == source_id), None)
    target = next((each for each in pictured(session) if each.id == target_id), None)
    if item is None or target is None:
        yield note("Add a source and a target first, and choose one of each.")
        return
    with errors_told():
        entries = [unedited(studio, item.source, target)]
        for title, options in rivals(studio):
            result = target.essence if title == OURS and target.learned else None
            # A direction is learned on all sources, the others' pictures are of this one.
            learned_on = session.items.ready() if title == OURS else [item]
            sources = [each.source for each in learned_on]
            if result is None:
                aim = embedded_target(studio, target)
                with closing(studio.extract(aim, sources, options)) as steps:
                    for step in steps:
                        result = step.result
                        if step.index % 5 == 1:
                            doing = f"{title}: step {step.index} of {step.total}"
                            yield shown(entries, target, doing)
            if isinstance(result, Pictures):
                picture = result.images[0]
            else:
                picture = studio.blend([item.source], [result], [1.0])[0, 0]
            entries.append(entry(studio, item.source, target, title, picture))
            yield shown(entries, target, "")
        return
    yield SKIP


def rivals(studio: Studio) -> list[tuple[str, Any]]:
    """Titles and options: ours, the instant methods that the models bear, two baselines."""
    found = [(OURS, adjusted(PRESETS["essence"], steps=STEPS))]
    found += [(name, METHODS[name].options) for name in instant_methods(studio.models)]
    for preset, title in BASELINES.items():
        options = PRESETS[preset]
        found.append((title, adjusted(options, steps=min(STEPS, options.steps))))
    return found


def unedited(studio: Studio, source: Source, target: TargetItem) -> Entry:
    return entry(studio, source, target, "unedited", np.asarray(source.inversion))


def entry(
    studio: Studio, source: Source, target: TargetItem, title: str, picture: np.ndarray
) -> Entry:
    """A picture with its figures; both of the model's pictures, whatever the grid shows."""
    before = np.asarray(source.inversion)[None]
    identity = studio.identity_distances(before, picture[None])[0]
    likeness = studio.similarity(embedded_target(studio, target), picture[None])[0]
    return Entry(title, picture, identity, likeness)


def shown(entries: Sequence[Entry], target: TargetItem, doing: str) -> str:
    cells = [
        {
            "title": each.title,
            "url": data_url(each.picture),
            "identity": "" if math.isnan(each.identity) else f"{each.identity:.2f}",
            "likeness": f"{each.likeness:.2f}",
        }
        for each in entries
    ]
    return render("rivals.html", target=target, cells=cells, doing=doing)
