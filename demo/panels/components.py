"""Parts that several panels have."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from essence import bundled

from ..events import Components
from ..rendering import render
from .cards import examples_html

# Until the settings are restored: what is typed before would be overwritten.
UNRESTORED = {"interactive": False}
EXAMPLES_JS = "essence.clicks(element, trigger, ['pick'])"
CARDS_JS = """
essence.clicks(element, trigger, ['remove', 'face', 'choice', 'move', 'crop', 'undo']);
essence.newest(element, watch, props);
essence.names(element, trigger, 'rename');
essence.undo(element, watch);"""


def html(value: str = "", js: str | None = None, **options: Any) -> gr.HTML:
    """HTML; `js` runs once with `element`, `trigger`, `props`, `watch` and `server`."""
    return gr.HTML(value, js_on_load=js, apply_default_css=False, **options)


def heading(number: int, title: str, text: str) -> None:
    html(render("heading.html", number=number, title=title, text=text))


def picture_inputs(
    kind: str, label: str, file_types: list[str], with_examples: bool = True
) -> Components:
    """Upload, examples and camera of the "sources" or "targets"."""
    upload = gr.File(
        label=label,
        file_count="multiple",
        file_types=file_types,
        height=64,
        show_label=False,
        elem_id=f"{kind}-upload",
        elem_classes=["es-drop"],
    )
    paths = bundled(kind)
    with gr.Accordion("Examples", open=True, visible=with_examples and bool(paths)) as box:
        pictures = examples_html(paths, map(Image.open, paths))
        examples = html(pictures, EXAMPLES_JS, elem_id=f"{kind}-examples")
    with gr.Accordion("Camera", open=False):
        camera = gr.Image(
            sources=["webcam"], type="pil", show_label=False, height=240, elem_id=f"{kind}-camera"
        )
    return {"upload": upload, "examples_box": box, "examples": examples, "camera": camera}


def aligned_box() -> gr.Checkbox:
    return gr.Checkbox(
        label="Already aligned",
        info="Skip the search for a face: take the centred square as it is.",
    )
