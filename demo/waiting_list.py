"""Who waits to learn: one visitor learns at a time, and the others are told how many are before
them.
"""

from __future__ import annotations

import threading

import gradio as gr

from .session import Session


class WaitingList:
    """In the order of arrival; the first one is learning. Visitors are known by their page's
    session hash.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Session] = {}
        self._begun: set[str] = set()
        self._lock = threading.Lock()

    def join(self, visitor: str, session: Session) -> None:
        with self._lock:
            self._waiting.setdefault(visitor, session)
            self._begun.discard(visitor)

    def begin(self, visitor: str) -> None:
        """The visitor's learning starts. Whoever else waits still has them before."""
        with self._lock:
            self._begun.add(visitor)

    def end(self, visitor: str) -> None:
        """What began is over. A visitor who stopped it and has joined again keeps the new place."""
        with self._lock:
            if visitor in self._begun:
                self._begun.discard(visitor)
                self._waiting.pop(visitor, None)

    def leave(self, visitor: str) -> Session | None:
        with self._lock:
            self._begun.discard(visitor)
            return self._waiting.pop(visitor, None)

    def ahead(self, visitor: str) -> int | None:
        """How many are before the visitor; None where the visitor does not wait, or not any
        more.
        """
        with self._lock:
            waits = visitor in self._waiting and visitor not in self._begun
            return list(self._waiting).index(visitor) if waits else None

    def close(self, visitor: str) -> None:
        """The page was closed: what is learned for it ends at the next step."""
        session = self.leave(visitor)
        if session is not None:
            session.run.learning = None

    def on_unload(self, request: gr.Request) -> None:
        self.close(request.session_hash)
