"""The page: python app.py. Also the entry point of a Space."""

from __future__ import annotations

import gc

from essence.__main__ import prepare_process

if __name__ == "__main__":
    prepare_process()

gc.disable()  # half a million objects are imported, and none of them is garbage
from demo import main  # noqa: E402

gc.enable()

if __name__ == "__main__":
    from essence.runtime.ending import end_process

    try:
        main()
    except SystemExit as error:
        end_process(error.code or 0)
    end_process(0)
