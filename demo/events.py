"""How the page's events reach the handlers, and how they are queued.

Handlers are plain functions or generators (studio, session, *values) -> what the page shows, which
run without a server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import isgeneratorfunction
from typing import Any

import gradio as gr

from essence import StudioPool

Components = dict[str, Any]  # a panel's, by name

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
NOW = {"queue": False, **QUIET}  # past Gradio's queue
EVERY = {"trigger_mode": "multiple"}  # also while an earlier one is under way
# Long work has a queue of its own, so that a visitor who learns does not keep another from adding a
# picture: the studio lets them take turns after each step.
LEARN = {"concurrency_id": "gpu", "concurrency_limit": 1, **QUIET}
ADD = {"concurrency_id": "faces", "concurrency_limit": 1, **QUIET}


@dataclass(frozen=True)
class Page:
    """What panels need to connect their events."""

    blocks: gr.Blocks
    pool: StudioPool
    session: gr.State
    view: list[gr.HTML]  # sources, targets and grid: what `items.view` gives


def bind(pool: StudioPool, handler: Callable, *more: object, **fields: Callable) -> Callable:
    """A handler (studio, session, *fields, *values, *more) as what Gradio calls with (session,
    *values): with the studio that the session works with, and `fields` of the event's data, each
    through the type or function given for it.
    """

    def arguments(state: Any, event: gr.EventData | None, values: tuple) -> tuple:
        data = (convert(getattr(event, name, None)) for name, convert in fields.items())
        return pool.of(state.run.model), state, *data, *values, *more

    def call(state: Any, *values: Any) -> Any:
        return handler(*arguments(state, None, values))

    def stream(state: Any, *values: Any) -> Any:
        yield from handler(*arguments(state, None, values))

    def call_with_data(state: Any, event: gr.EventData, *values: Any) -> Any:
        return handler(*arguments(state, event, values))

    def stream_with_data(state: Any, event: gr.EventData, *values: Any) -> Any:
        yield from handler(*arguments(state, event, values))

    streams = isgeneratorfunction(handler)
    if fields:
        return stream_with_data if streams else call_with_data
    return stream if streams else call
