"""The page: python app.py. Also the entry point of a Space."""

from __future__ import annotations

import argparse
import gc
import sys
import traceback
from concurrent.futures import Future

gc.disable()  # half a million objects are imported, and none of them is garbage
from demo import LAUNCH, build, space  # noqa: E402
from essence import UserError  # noqa: E402
from essence.cli.progress import ProgressBar as Bar  # noqa: E402

gc.enable()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="model set of weights/manifest.toml, a folder or a checkpoint (default: "
        "ffhq where there is a GPU and its files, else mini)",
    )
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for the whole network")
    parser.add_argument("--port", type=int, help="port to listen on")
    parser.add_argument("--share", action="store_true", help="make a public link")
    return parser.parse_args()


def told(loading: Future) -> None:
    """On the console too; visitors read it in the page."""
    # what is here stays: to look through it would make all visitors wait for half a second now and
    # then
    gc.freeze()
    error = loading.exception()
    if isinstance(error, UserError):
        print(f"essence: {error}", file=sys.stderr, flush=True)
    elif error is not None:
        traceback.print_exception(error)


def main() -> None:
    arguments = parse()
    try:
        studios = space.studios(arguments.model, Bar() if sys.stderr.isatty() else None)
    except UserError as error:
        sys.exit(f"essence: {error}")
    studios.of().load().add_done_callback(told)  # the page need not wait for it
    build(studios).launch(
        server_name=arguments.host, server_port=arguments.port, share=arguments.share, **LAUNCH
    )


if __name__ == "__main__":
    main()
