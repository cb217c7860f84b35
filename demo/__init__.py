"""The page. `build(studio)` makes it, `LAUNCH` is what Gradio's `launch` has to know about it, and
`main` is the command.
"""

from __future__ import annotations

import os

from .uploads import use_own_folder

# Both before gradio is imported, which would call home, and would share one folder for all.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
use_own_folder()

from .app import build, main  # noqa: E402
from .theme import LAUNCH  # noqa: E402

__all__ = ["LAUNCH", "build", "main"]
