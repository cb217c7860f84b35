"""The page. `build(studio)` makes it, `LAUNCH` is what Gradio's `launch` has to know about it, and
`main` is the command.
"""

from __future__ import annotations

import os

from .proxies import LOOPBACK, bypass_proxies
from .uploads import use_own_folder

# Before gradio is imported, which would call home, would share one folder for all, and would ask a
# proxy for this computer's own address.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
bypass_proxies(*LOOPBACK)
use_own_folder()

from .app import build  # noqa: E402
from .command import main  # noqa: E402
from .theme import LAUNCH  # noqa: E402

__all__ = ["LAUNCH", "build", "main"]
