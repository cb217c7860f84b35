"""Which session is whose, where Gradio does not say it."""

from __future__ import annotations

import secrets
from weakref import WeakValueDictionary

from .session import Session


class Visitors:
    """Sessions by a word that only their own page knows, as long as Gradio keeps them."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Session] = WeakValueDictionary()

    def welcome(self, session: Session) -> Session:
        session.run.word = secrets.token_urlsafe(16)
        self._known[session.run.word] = session
        return session

    def find(self, word: object) -> Session | None:
        return self._known.get(word) if isinstance(word, str) else None
