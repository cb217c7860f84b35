"""A model set that is loaded on first use."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from ..errors import UserError
from ..models.model_set import ModelSet
from ..pictures import faces
from ..runtime import hardware
from ..runtime.device_queue import in_background
from ..runtime.memory import is_exhausted
from . import loading, manifest


class LazyModelSet:
    """Models by name, loaded once when they are needed. Safe to share between threads."""

    def __init__(
        self,
        model: str | None,
        device: str | None,
        progress: loading.Progress | None,
        lent: bool = False,
        pictures_alone: bool = False,
    ):
        """`model`: a model set by name or path, None for the default. `progress(what, done,
        total)` is called during long work while loading. A device that is `lent` need not be here
        now. `pictures_alone`: as in `loading.load_model_set`.
        """
        self._pictures_alone = pictures_alone
        self.model = model or loading.default_model()
        self.device = device if lent and device else hardware.device(device)
        self._models: ModelSet | None = None
        self._progress = progress
        # (what, done, total) of long work while the models load
        self.loading: tuple[str, int, int] | None = None
        self._loading_lock = threading.Lock()

    @property
    def name(self) -> str:
        """Of the model set; nothing is loaded for it."""
        return self._models.name if self._models else manifest.find_model_set(self.model).name

    @property
    def has_faces(self) -> bool:
        """Whether the models make faces; nothing is loaded for it."""
        if self._models is not None:
            return self._models.has_faces
        return manifest.find_model_set(self.model).aligned == "face"

    @property
    def models(self) -> ModelSet:
        with self._loading_lock:
            models = self._models
            if models is None:
                # On a CPU in a thread that ends, so that OpenMP's pool for it ends too
                # (see `DeviceQueue`).
                on_cpu = self.device == "cpu"
                models = in_background(self._load).result() if on_cpu else self._load()
                self._models = models
            return models

    def load(self) -> Future[ModelSet]:
        """Start loading the models, if they are not in memory, and what finds faces; `loading`
        says how far that is.
        """

        def load() -> ModelSet:
            if self.models.has_faces:
                faces.prepare()
            return self.models

        return in_background(load)

    @property
    def loaded(self) -> bool:
        """Whether the models are in memory."""
        return self._models is not None

    def _load(self) -> ModelSet:
        def tell(what: str, done: int, total: int) -> None:
            self.loading = what, done, total
            if self._progress is not None:
                self._progress(what, done, total)

        try:
            return loading.load_model_set(
                self.model, self.device, progress=tell, pictures_alone=self._pictures_alone
            )
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            raise UserError(
                f"The models of '{self.model}' do not fit into the memory of {self.device} "
                "beside what is there."
            ) from error
        finally:
            self.loading = None

    def forget(self) -> None:
        """Free the models' memory as soon as no work under way holds them; the next use loads them
        again.
        """
        self._models = None
