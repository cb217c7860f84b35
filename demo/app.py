"""The page put together from its panels."""

from __future__ import annotations

import gradio as gr

from essence import Studio, StudioPool

from . import api, settings, spaces
from .events import NOW, Page
from .panels import (
    compare,
    crop,
    grid,
    imagine,
    learning,
    models,
    rivals,
    sources,
    targets,
    words,
)
from .panels.components import html
from .rendering import render
from .session import Run, Session
from .uploads import Strays
from .visitors import Visitors
from .waiting_list import WaitingList

# Seconds: uploaded files leave the disk after at most an hour.
CLEAN_EVERY, KEEP_FOR = 600, 3600
MAX_WAITING = 20  # visitors
# Seconds between two looks of Gradio's queue for new events; its own thousandth takes a tenth of a
# slow processor.
QUEUE_PAUSE = 0.02


def build(studio: Studio | StudioPool) -> gr.Blocks:
    """The page for a studio, or for several to choose from."""
    pool = studio if isinstance(studio, StudioPool) else StudioPool.around(studio)
    with gr.Blocks(
        title="Essence",
        delete_cache=(CLEAN_EVERY, KEEP_FOR),
        analytics_enabled=False,
        fill_width=True,
    ) as blocks:
        api.add_endpoints(pool)  # first, so that they get their names
        # The session is deep-copied for each visitor.
        session = gr.State(Session(run=Run(lent=spaces.on_zero_gpu())))
        browser = gr.BrowserState({}, **settings.STORAGE)
        visitors, waiting = Visitors(), WaitingList()

        html(render("intro.html"))
        model_line = models.build(pool)
        with gr.Row(elem_classes=["es-panels"]):
            faces_fit, essences_fit = models.usable_examples(pool, pool.first)
            source_parts = sources.build(faces_fit)
            target_parts = targets.build(essences_fit, faces_fit)
        learn_parts = learning.build()
        grid_parts = grid.build(pool, visitors)
        rival_parts = rivals.build()
        crop_editor = crop.build()
        html(render("privacy.html"))

        view = [source_parts["cards"], target_parts["cards"], grid_parts["grid"]]
        page = Page(blocks, pool, session, view)
        # The state is set once, so that it is dropped after the tab is closed.
        blocks.load(visitors.welcome, session, session, **NOW)
        blocks.unload(waiting.on_unload)
        models.connect(page, model_line, source_parts, target_parts)
        sources.connect(page, source_parts)
        targets.connect(page, target_parts)
        words.connect(page, target_parts)
        imagine.connect(page, source_parts)
        crop.connect(page, crop_editor, source_parts, target_parts)
        learning.connect(page, learn_parts, waiting)
        grid.connect(page, grid_parts)
        compare.connect(page, grid_parts)
        rivals.connect(page, rival_parts)
        settings.connect(page, browser, {**learn_parts, "refine": source_parts["refine"]})
    blocks.temp_file_sets.append(Strays(blocks.GRADIO_CACHE))
    blocks.queue(default_concurrency_limit=4, max_size=MAX_WAITING)
    blocks._queue.sleep_when_free = QUEUE_PAUSE
    return blocks
