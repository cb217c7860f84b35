"""The page's parts, and which handler each of them calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gradio as gr
from PIL import Image

from essence import PRESETS, Essence, OptimizeOptions, RefineOptions, Studio, bundled

from . import handlers, views
from .session import Session

CLEAN_EVERY, KEEP_FOR = 600, 3600  # seconds: uploaded files leave the disk after at most an hour
LINE = 20  # visitors waiting at most
PICTURES = [".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif"]
ESSENCES = [".safetensors", ".npy", ".pt", ".pth"]

# Long work has a line of its own, so that a visitor who learns does not keep another from adding a picture: the studio lets
# them take turns after each step.
LEARN = {"concurrency_id": "gpu", "concurrency_limit": 1}
ADD = {"concurrency_id": "faces", "concurrency_limit": 1}
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
NOW = {"queue": False, **QUIET}

SHELF_JS = "essence.clicks(element, trigger, ['remove', 'face'])"
EXAMPLES_JS = "essence.clicks(element, trigger, ['pick'])"
BOARD_JS = "essence.clicks(element, trigger, ['look', 'save', 'grid']); essence.sliders(element, trigger, watch, 'strength')"
COMPARE_JS = "essence.compare(element, watch)"
OUTBOX_JS = "essence.outbox(element, watch)"

INTRO = """<header class="intro"><h1>Essence</h1>
<p>What makes a face itself, carried over to others. Add sources and a target, learn the target's essence, and choose how much of it
each source takes.</p></header>"""
PRIVACY = '<p class="privacy">Pictures stay in this session. Nothing is kept after you leave, and nothing is sent anywhere else.</p>'


def build(studio: Studio) -> gr.Blocks:
    with gr.Blocks(title="Essence", delete_cache=(CLEAN_EVERY, KEEP_FOR), analytics_enabled=False, fill_width=True) as page:
        session = gr.State(Session())  # deep-copied for each visitor
        gr.HTML(INTRO, apply_default_css=False)
        with gr.Row(elem_classes=["es-panels"]):
            sources = source_panel()
            targets = target_panel()
        learning = learn_panel()
        grid = grid_panel()
        gr.HTML(PRIVACY, apply_default_css=False)

        view = [sources["shelf"], targets["shelf"], grid["board"]]
        page.load(lambda state: state, session, session, **NOW)  # set once, so that it is dropped after the tab is closed
        wire_sources(studio, session, view, sources)
        wire_targets(studio, session, view, targets)
        wire_learning(studio, session, view, learning)
        wire_grid(studio, session, grid)
    return page.queue(default_concurrency_limit=4, max_size=LINE)


# ---- the parts

def html(value: str = "", js: str | None = None, **options: object) -> gr.HTML:
    return gr.HTML(value, js_on_load=js, apply_default_css=False, **options)


def heading(number: int, title: str, text: str) -> None:
    html(f'<div class="heading"><span>{number}</span><h2>{title}</h2><p>{text}</p></div>')


def picture_inputs(kind: str, label: str) -> dict[str, gr.components.Component]:
    upload = gr.File(label=label, file_count="multiple", file_types=PICTURES, height=64, show_label=False,
                     elem_id=f"{kind}-upload", elem_classes=["es-drop"])  # fmt: skip
    paths = bundled(kind)
    with gr.Accordion("Examples", open=True, visible=bool(paths)):
        examples = html(views.examples(paths, map(Image.open, paths)), EXAMPLES_JS, elem_id=f"{kind}-examples")
    with gr.Accordion("Camera", open=False):
        camera = gr.Image(sources=["webcam"], type="pil", show_label=False, height=240, elem_id=f"{kind}-camera")
    return {"upload": upload, "examples": examples, "camera": camera}


def source_panel() -> dict[str, gr.components.Component]:
    with gr.Column(elem_classes=["es-card"], min_width=320):
        heading(1, "Sources", "the faces to change")
        shelf = html(views.sources(Session()), SHELF_JS, elem_id="sources")
        parts = picture_inputs("sources", "Drop, paste or choose photographs")
        with gr.Accordion("Options", open=False):
            aligned = gr.Checkbox(label="Already aligned", info="Skip the search for a face: take the centred square as it is.")
            steps = gr.Slider(0, 100, RefineOptions().steps, step=1, label="Refinement steps", elem_id="refine-steps",
                              info="Bring the model's picture closer to the photograph; 0 turns it off.")  # fmt: skip
        with gr.Row(elem_classes=["es-buttons"]):
            random = gr.Button("Random face", size="sm", elem_id="random-face")
            clear = gr.Button("Clear", size="sm", elem_id="clear-sources")
    return {"shelf": shelf, "aligned": aligned, "steps": steps, "random": random, "clear": clear, **parts}


def target_panel() -> dict[str, gr.components.Component]:
    essences = bundled("essences")
    with gr.Column(elem_classes=["es-card"], min_width=320):
        heading(2, "Targets", "whose essence to learn")
        shelf = html(views.targets(Session()), SHELF_JS, elem_id="targets")
        parts = picture_inputs("targets", "Drop, paste or choose pictures, also paintings")
        with gr.Accordion("Ready-made essences", open=False, visible=bool(essences)):
            thumbnails = (Essence.load(path).thumbnail for path in essences)
            ready = html(views.examples(essences, thumbnails), EXAMPLES_JS, elem_id="essences-examples")
        with gr.Accordion("Options", open=False):
            aligned = gr.Checkbox(label="Already aligned", info="Skip the search for a face: take the centred square as it is.")
        with gr.Row(elem_classes=["es-buttons"]):
            load = gr.UploadButton("Load essence files", size="sm", file_count="multiple", file_types=ESSENCES, elem_id="load-essences")
            clear = gr.Button("Clear", size="sm", elem_id="clear-targets")
    return {"shelf": shelf, "aligned": aligned, "ready": ready, "load": load, "clear": clear, **parts}


def learn_panel() -> dict[str, gr.components.Component]:
    defaults = OptimizeOptions()
    with gr.Column(elem_classes=["es-card"]):
        heading(3, "Learn", "one direction that makes every source more like the target")
        with gr.Row(elem_classes=["es-learn"]):
            learn = gr.Button("Learn the essence", variant="primary", elem_id="learn", scale=2)
            stop = gr.Button("Stop", variant="stop", elem_id="stop", visible=False, scale=2)
            mode = gr.Radio(handlers.MODES, value=handlers.NEW, show_label=False, elem_id="mode", container=False, scale=3)
        progress = html(elem_id="progress")
        with gr.Accordion("Settings", open=False, elem_id="settings"), gr.Row(elem_classes=["es-settings"]):
            preset = gr.Dropdown(list(PRESETS), value="essence", label="Preset", info="The last two follow the publication and are slow.")
            steps = gr.Slider(4, 1000, defaults.steps, step=1, label="Steps", elem_id="steps", info="More is slower and goes further.")
            consistency = gr.Slider(0, 2, defaults.lambda_consistency, step=0.05, label="Consistency",
                                    info="λ: how much every source must change alike.")  # fmt: skip
            seed = gr.Number(defaults.seed, precision=0, minimum=0, label="Seed", info="The same seed, the same essence.")
    return {"learn": learn, "stop": stop, "mode": mode, "progress": progress, "preset": preset, "steps": steps,
            "consistency": consistency, "seed": seed}  # fmt: skip


def grid_panel() -> dict[str, gr.components.Component]:
    with gr.Column(elem_classes=["es-card"]):
        heading(4, "Blend", "drag the strengths; click a picture to look closely")
        board = html(views.board(Session()), BOARD_JS, elem_id="board")
        compare = html("", COMPARE_JS, elem_id="compare")
        outbox = html("", OUTBOX_JS, elem_id="outbox")
    return {"board": board, "compare": compare, "outbox": outbox}


# ---- the wires

def wire_pictures(kind: str, add: Callable, session: gr.State, view: list, parts: dict, inputs: list) -> None:
    """Files, the camera and the examples all go the same way."""
    def picked(state: Session, event: gr.EventData, *values: object):
        yield from add(state, handlers.example(kind, str(event.id)), *values)

    def taken(state: Session, image: Image.Image | None, *values: object):
        yield from add(state, [image] if image is not None else [], *values)

    def emptied(fill: Callable) -> Callable:
        """Empties the control at the first frame, so that the next picture can come while this one is worked on."""
        def run(state: Session, *values: object):
            for number, frame in enumerate(fill(state, *values)):
                yield gr.skip() if number else None, *frame

        return run

    inputs = [parts[name] for name in inputs]
    options = {"trigger_mode": "multiple", **ADD, **QUIET}
    upload, camera = parts["upload"], parts["camera"]
    upload.upload(emptied(add), [session, upload, *inputs], [upload, *view], **options)
    camera.input(emptied(taken), [session, camera, *inputs], [camera, *view], **options)
    parts["examples"].pick(picked, [session, *inputs], view, **options)


def wire_sources(studio: Studio, session: gr.State, view: list, parts: dict) -> None:
    def removed(state: Session, event: gr.EventData):
        return handlers.remove(studio, state, str(event.id))

    def face(state: Session, event: gr.EventData, steps: float):
        yield from handlers.choose_source_face(studio, state, str(event.id), int(event.index), int(steps))

    wire_pictures("sources", partial(handlers.add_sources, studio), session, view, parts, ["aligned", "steps"])
    parts["random"].click(partial(handlers.random_face, studio), session, view, trigger_mode="multiple", **ADD, **QUIET)
    parts["shelf"].remove(removed, session, view, **NOW)
    parts["shelf"].face(face, [session, parts["steps"]], view, **ADD, **QUIET)
    parts["clear"].click(partial(handlers.clear, studio, kind="sources"), session, view, **NOW)


def wire_targets(studio: Studio, session: gr.State, view: list, parts: dict) -> None:
    def removed(state: Session, event: gr.EventData):
        return handlers.remove(studio, state, str(event.id))

    def face(state: Session, event: gr.EventData):
        return handlers.choose_target_face(studio, state, str(event.id), int(event.index))

    def ready(state: Session, event: gr.EventData):
        return handlers.load_essences(studio, state, handlers.example("essences", str(event.id)))

    wire_pictures("targets", partial(handlers.add_targets, studio), session, view, parts, ["aligned"])
    parts["load"].upload(partial(handlers.load_essences, studio), [session, parts["load"]], view, trigger_mode="multiple", **ADD, **QUIET)
    parts["ready"].pick(ready, session, view, **NOW)
    parts["shelf"].remove(removed, session, view, **NOW)
    parts["shelf"].face(face, session, view, **NOW)
    parts["clear"].click(partial(handlers.clear, studio, kind="targets"), session, view, **NOW)


def wire_learning(studio: Studio, session: gr.State, view: list, parts: dict) -> None:
    def idle():
        return gr.update(visible=True), gr.update(visible=False)

    def busy():
        return gr.update(visible=False), gr.update(visible=True), views.note("Starting, as soon as it is this page's turn.")

    buttons = [parts["learn"], parts["stop"]]
    inputs = [session, *(parts[name] for name in ("mode", "preset", "steps", "seed", "consistency"))]
    outputs = [parts["progress"], *view]
    parts["learn"].click(busy, None, [*buttons, parts["progress"]], **NOW)
    learning = parts["learn"].click(partial(handlers.learn, studio), inputs, outputs, **LEARN, **QUIET)
    learning.then(idle, None, buttons, **NOW)
    parts["stop"].click(partial(handlers.stopped, studio), session, outputs, cancels=[learning], **NOW).then(idle, None, buttons, **NOW)
    parts["preset"].input(handlers.preset_values, parts["preset"], [parts["steps"], parts["consistency"]], **NOW)


def wire_grid(studio: Studio, session: gr.State, parts: dict) -> None:
    def moved(state: Session, event: gr.EventData):
        return handlers.set_strengths(studio, state, dict(event.strengths))

    def look(state: Session, event: gr.EventData):
        return handlers.look(studio, state, str(event.id), str(event.source))

    def save(state: Session, event: gr.EventData):
        return handlers.download_essence(state, str(event.id))

    parts["board"].strength(moved, session, parts["board"], trigger_mode="always_last", **NOW)
    parts["board"].look(look, session, parts["compare"], **NOW)
    parts["board"].save(save, session, parts["outbox"], **NOW)
    parts["board"].grid(partial(handlers.download_grid, studio), session, parts["outbox"], **NOW)
