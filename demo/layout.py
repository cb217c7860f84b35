"""The page's parts. What they do when somebody touches them is in wiring.py."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from PIL import Image

from essence import Essence, Studio, StudioPool, bundled

from . import board, choosing, learning, programs, settings, space, views, wiring
from .line import Line
from .session import Session, Visitors
from .shelves import ESSENCES
from .uploads import Strays

CLEAN_EVERY, KEEP_FOR = 600, 3600  # seconds: uploaded files leave the disk after at most an hour
WAITING = 20  # visitors waiting at most
LOOK_AGAIN = 2  # seconds between two looks at the place in the line
# seconds between two looks of Gradio's queue for new events; its own thousandth takes a tenth of a
# slow processor
PAUSE = 0.02
UNRESTORED = {
    "interactive": False
}  # until the settings are restored: what is typed before would be overwritten
BARE = {"show_label": False, "container": False}  # the label is for screen readers
PICTURES = [".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif"]

MODELS_JS = (
    "essence.clicks(element, trigger, ['use']); essence.waits(element, trigger, watch, 'wait')"
)
SHELF_JS = """essence.clicks(element, trigger, ['remove', 'face', 'move', 'crop', 'undo']);
essence.names(element, trigger, 'rename');
essence.undo(element, watch);"""
EXAMPLES_JS = "essence.clicks(element, trigger, ['pick'])"
BOARD_JS = """essence.clicks(element, trigger, ['look', 'save', 'grid', 'cells', 'band', 'mixing', 'figures']);
essence.sliders(element, trigger, watch, server, 'strength', 'rest', 'strips');
essence.together(element);"""
COMPARE_JS = (
    "essence.compare(element, watch); essence.clicks(element, trigger, ['picture', 'sweep']);"
)
CROP_JS = "essence.crop(element, trigger, watch, 'nudge')"

INTRO = """<header class="intro"><h1>Essence</h1>
<p>What makes a face itself, carried over to others. Add sources and a target, learn the target's essence, and choose how much of it
each source takes.</p></header>"""
PRIVACY = """<p class="privacy">Pictures stay in this session, and leave the server within an hour after you do. Of recent inversions the
server remembers the latents, without pictures or names. Nothing is sent anywhere else.</p>"""


def build(studio: Studio | StudioPool) -> gr.Blocks:
    studios = studio if isinstance(studio, StudioPool) else StudioPool.around(studio)
    with gr.Blocks(
        title="Essence",
        delete_cache=(CLEAN_EVERY, KEEP_FOR),
        analytics_enabled=False,
        fill_width=True,
    ) as page:
        programs.wire(studios)  # first, so that the endpoints get their names
        session = gr.State(Session(lent=space.on_zero_gpu()))  # deep-copied for each visitor
        browser = gr.BrowserState({}, **settings.STORAGE)
        gr.HTML(INTRO, apply_default_css=False)
        models = html(choosing.sets(studios, Session()), MODELS_JS, elem_id="models")
        with gr.Row(elem_classes=["es-panels"]):
            faces, essences = choosing.shown(studios, studios.first)
            sources = source_panel(faces)
            targets = target_panel(essences)
        learn = learn_panel()
        visitors = Visitors()
        grid = grid_panel(wiring.redrawing(studios, visitors))
        crop = html(js=CROP_JS, elem_id="crop")
        gr.HTML(PRIVACY, apply_default_css=False)

        line = Line()
        view = [sources["shelf"], targets["shelf"], grid["board"]]
        wiring.wire_page(page, session, line, visitors)
        chosen = {"models": models, "faces": sources["box"], "essences": targets["ready_box"]}
        wiring.wire_models(studios, page, session, view, chosen, sources["refine"])
        wiring.wire_sources(studios, session, view, sources)
        wiring.wire_targets(studios, session, view, targets)
        wiring.wire_crop(studios, session, view, crop, sources, targets)
        wiring.wire_learning(studios, session, line, view, learn)
        wiring.wire_grid(studios, session, grid)
        wiring.wire_settings(page, browser, {**learn, "refine": sources["refine"]})
    page.temp_file_sets.append(Strays(page.GRADIO_CACHE))
    page.queue(default_concurrency_limit=4, max_size=WAITING)
    page._queue.sleep_when_free = PAUSE
    return page


def html(value: str = "", js: str | None = None, **options: object) -> gr.HTML:
    return gr.HTML(value, js_on_load=js, apply_default_css=False, **options)


def heading(number: int, title: str, text: str) -> None:
    html(f'<div class="heading"><span>{number}</span><h2>{title}</h2><p>{text}</p></div>')


def picture_inputs(
    kind: str, label: str, types: list[str], with_examples: bool = True
) -> dict[str, gr.components.Component]:
    upload = gr.File(
        label=label,
        file_count="multiple",
        file_types=types,
        height=64,
        show_label=False,
        elem_id=f"{kind}-upload",
        elem_classes=["es-drop"],
    )
    paths = bundled(kind)
    with gr.Accordion("Examples", open=True, visible=with_examples and bool(paths)) as box:
        examples = html(
            views.examples(paths, map(Image.open, paths)), EXAMPLES_JS, elem_id=f"{kind}-examples"
        )
    with gr.Accordion("Camera", open=False):
        camera = gr.Image(
            sources=["webcam"], type="pil", show_label=False, height=240, elem_id=f"{kind}-camera"
        )
    return {"upload": upload, "box": box, "examples": examples, "camera": camera}


def aligned_box() -> gr.Checkbox:
    return gr.Checkbox(
        label="Already aligned",
        info="Skip the search for a face: take the centred square as it is.",
    )


def source_panel(faces: bool) -> dict[str, gr.components.Component]:
    low, high, default = settings.NUMBERS["refine"]
    with gr.Column(elem_classes=["es-card"], min_width=320):
        heading(1, "Sources", "the faces to change")
        shelf = html(views.sources(Session()), SHELF_JS, elem_id="sources")
        parts = picture_inputs("sources", "Drop, paste or choose photographs", PICTURES, faces)
        with gr.Accordion("Options", open=False):
            aligned = aligned_box()
            refine = gr.Slider(
                low,
                high,
                default,
                step=1,
                label="Refinement steps",
                elem_id="refine-steps",
                **UNRESTORED,
                info="Bring the model's picture closer to the photograph; 0 turns it off.",
            )
        with gr.Row(elem_classes=["es-buttons"]):
            random = gr.Button("Random face", size="sm", elem_id="random-face")
            clear = gr.Button("Clear", size="sm", elem_id="clear-sources")
    return {
        "shelf": shelf,
        "aligned": aligned,
        "refine": refine,
        "random": random,
        "clear": clear,
        **parts,
    }


def target_panel(with_essences: bool) -> dict[str, gr.components.Component]:
    essences = bundled("essences")
    with gr.Column(elem_classes=["es-card"], min_width=320):
        heading(2, "Targets", "whose essence to learn")
        shelf = html(views.targets(Session()), SHELF_JS, elem_id="targets")
        parts = picture_inputs(
            "targets",
            "Drop, paste or choose pictures, paintings, essence files",
            [*PICTURES, *ESSENCES],
        )
        with gr.Accordion("Ready-made essences", open=False, visible=with_essences) as ready_box:
            thumbnails = (Essence.load(path).thumbnail for path in essences)
            ready = html(
                views.examples(essences, thumbnails), EXAMPLES_JS, elem_id="essences-examples"
            )
        with gr.Accordion("Options", open=False):
            aligned = aligned_box()
        with gr.Row(elem_classes=["es-buttons"]):
            clear = gr.Button("Clear", size="sm", elem_id="clear-targets")
    return {
        "shelf": shelf,
        "aligned": aligned,
        "ready": ready,
        "ready_box": ready_box,
        "clear": clear,
        **parts,
    }


def learn_panel() -> dict[str, gr.components.Component]:
    presets = [(learning.WORDS.get(name, name), name) for name in learning.CHOICES]
    with gr.Column(elem_classes=["es-card"]):
        heading(3, "Learn", "one direction that makes every source more like the target")
        with gr.Row(elem_classes=["es-learn"]):
            learn = gr.Button("Learn the essence", variant="primary", elem_id="learn", scale=2)
            stop = gr.Button("Stop", variant="stop", elem_id="stop", visible=False, scale=2)
            preset = gr.Radio(
                presets,
                value=learning.DEFAULT,
                label="How long to learn",
                elem_id="preset",
                scale=4,
                **BARE,
                **UNRESTORED,
            )
        mode = gr.Radio(
            learning.MODES,
            value=learning.NEW,
            label="What to learn",
            elem_id="mode",
            visible=False,
            **BARE,
        )
        progress = html(elem_id="progress")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            with gr.Row(elem_classes=["es-settings"]):
                low, high, default = settings.NUMBERS["steps"]
                steps = gr.Slider(
                    low,
                    high,
                    default,
                    step=1,
                    label="Steps",
                    elem_id="steps",
                    **UNRESTORED,
                    info="More is slower and goes further.",
                )
                low, high, default = settings.NUMBERS["consistency"]
                consistency = gr.Slider(
                    low,
                    high,
                    default,
                    step=0.05,
                    label="Consistency",
                    elem_id="consistency",
                    **UNRESTORED,
                    info="λ: how alike the changes must be.",
                )
                seed = gr.Number(
                    settings.NUMBERS["seed"][2],
                    precision=0,
                    minimum=0,
                    label="Seed",
                    elem_id="seed",
                    **UNRESTORED,
                    info="The same seed, the same essence.",
                )
            with gr.Row(elem_classes=["es-buttons"]):
                link = gr.Button("Copy a link to these settings", size="sm", elem_id="link")
        timer = gr.Timer(LOOK_AGAIN, active=False)
    return {
        "learn": learn,
        "stop": stop,
        "mode": mode,
        "progress": progress,
        "preset": preset,
        "steps": steps,
        "consistency": consistency,
        "seed": seed,
        "link": link,
        "timer": timer,
    }


def grid_panel(redraw: Callable) -> dict[str, gr.components.Component]:
    with gr.Column(elem_classes=["es-card"]):
        heading(4, "Blend", "drag the strengths; click a picture to look closely")
        grid = html(board.board(Session()), BOARD_JS, elem_id="board", server_functions=[redraw])
        compare = html("", COMPARE_JS, elem_id="compare")
        strip = html("", "essence.strip(element, watch)", elem_id="strip")
        strips = html("", "essence.arriving(element, watch)", elem_id="strips")
        outbox = html("", "essence.outbox(element, watch)", elem_id="outbox")
    return {"board": grid, "compare": compare, "strip": strip, "strips": strips, "outbox": outbox}
