"""What the visitor is told. Only here do users' errors become messages of the page; the session
stays usable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import gradio as gr

from essence import UserError

MESSAGE_SECONDS = 12
SKIP = gr.skip()


def warn(message: str, title: str = "Please note") -> None:
    gr.Warning(escape(message, quote=False), duration=MESSAGE_SECONDS, title=title)


def inform(message: str) -> None:
    gr.Info(escape(message, quote=False))


@contextmanager
def errors_told(name: str = "") -> Iterator[None]:
    """Turn a UserError into a message, which begins with `name`; whatever else was asked for goes
    on.
    """
    try:
        yield
    except UserError as error:
        message = str(error)
        warn(f"{name}: {message}" if name and name not in message else message, "That did not work")


def plural(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)
