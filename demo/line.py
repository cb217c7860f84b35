"""Who waits to learn: learnings take turns, and a visitor is told how many are before."""

from __future__ import annotations

import threading

from .session import Session


class Line:
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
        """It is the visitor's turn. Whoever else is in line still has them before."""
        with self._lock:
            self._begun.add(visitor)

    def end(self, visitor: str) -> None:
        """What began is over. Who stopped it and has joined again keeps the new place."""
        with self._lock:
            if visitor in self._begun:
                self._begun.discard(visitor)
                self._waiting.pop(visitor, None)

    def leave(self, visitor: str) -> None:
        with self._lock:
            self._waiting.pop(visitor, None)
            self._begun.discard(visitor)

    def ahead(self, visitor: str) -> int | None:
        """How many are before the visitor; None: the visitor waits for nothing, or not any more."""
        with self._lock:
            waits = visitor in self._waiting and visitor not in self._begun
            return list(self._waiting).index(visitor) if waits else None

    def gone(self, visitor: str) -> None:
        """The page was closed: what is learned for it ends at the next step."""
        with self._lock:
            session = self._waiting.pop(visitor, None)
            self._begun.discard(visitor)
        if session is not None:
            session.learning = None
