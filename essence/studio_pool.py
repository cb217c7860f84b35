"""Several model sets in one process: a studio for each, one turn on the device for all, and a few
of them in memory at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from .errors import UserError
from .library import loading, manifest
from .library.manifest import ModelSpec
from .runtime import hardware
from .runtime.device_queue import DeviceQueue
from .studio import Studio

# sets in memory beside the first one; the one that was asked for longest ago is forgotten, and
# loaded again when it is wanted
KEPT = 2


class StudioPool:
    """A studio by a set's name. Safe to share between threads; what a session chose, the session
    remembers.
    """

    def __init__(self, model: str | None = None, progress: loading.Progress | None = None):
        """`model`: the first set, by name or path, None for the default. It stays in memory once it
        is loaded. `progress`: as in `Studio`.
        Raises UserError."""
        self._given: ModelSpec | None = manifest.find_model_set(model or loading.default_model())
        if not loading.may_download(self._given):
            loading.require_files(self._given)
        self.first = self._given.name
        self._choosing, self._queue = (
            threading.Lock(),
            DeviceQueue(single_thread=hardware.device() == "cpu"),
        )
        self._progress = progress
        self._studios = {
            self.first: Studio(model, progress=progress, queue=self._queue)
        }  # in the order in which they were last asked for

    @classmethod
    def around(cls, studio: Studio) -> StudioPool:
        """A studio that is there already, and no other."""
        studios = cls.__new__(cls)
        studios._given, studios.first = None, studio.name
        studios._choosing = threading.Lock()
        studios._studios = {studio.name: studio}
        return studios

    def sets(self) -> Mapping[str, ModelSpec]:
        """What there is to choose from, the first one first; not all of it need be on this
        machine.
        """
        known = manifest.model_sets()
        if self._given is None:
            return {self.first: known.get(self.first) or ModelSpec(self.first, {})}
        return {
            self.first: self._given,
            **{name: entry for name, entry in known.items() if name != self.first},
        }

    def of(self, name: str = "") -> Studio:
        """The studio of a set by its name in `sets`, "" for the first. It loads on first use.
        Raises UserError where files are missing.
        """
        name = name or self.first
        with self._choosing:
            studio = self._studios.pop(name, None) or self._open(name)
            self._studios[name] = studio
            for other in [other for other in self._studios if other != self.first][:-KEPT]:
                self._studios[other].forget()
            return studio

    def _open(self, name: str) -> Studio:
        sets = self.sets()
        if name not in sets:
            raise UserError(f"There is no model set '{name}' here. There are: {', '.join(sets)}.")
        loading.require_files(sets[name])
        return Studio(name, progress=self._progress, queue=self._queue)
