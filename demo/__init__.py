"""The page. `build(studio)` makes it, `LAUNCH` holds what `launch` has to know about it."""

from __future__ import annotations

import os

from .uploads import use_own_folder

os.environ.setdefault(
    "GRADIO_ANALYTICS_ENABLED", "False"
)  # before gradio is imported, which would call home
use_own_folder()

from . import space  # noqa: E402
from .layout import build  # noqa: E402
from .theme import LAUNCH  # noqa: E402

__all__ = ["LAUNCH", "build", "space"]
