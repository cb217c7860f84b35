"""The command that starts the page."""

from __future__ import annotations

import argparse
import errno
import gc
import socket
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NoReturn

from essence import ProgressBar, UserError, stop_on_signals

from . import spaces, uploads
from .app import build
from .proxies import LOOPBACK, bypass_proxies
from .theme import LAUNCH


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until it is stopped; `arguments` are the command line's words."""
    options = parse(arguments)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # Gradio prints what few encodings have
    bypass_proxies(options.host or LOOPBACK[0])
    try:
        if options.port is not None:
            check_address(options.host or "127.0.0.1", options.port)
        pool = spaces.open_pool(options.model, ProgressBar() if sys.stderr.isatty() else None)
    except UserError as error:
        refuse(error)
    pool.of().load().add_done_callback(report_loading)  # the page need not wait for it
    stop_on_signals()  # of containers and terminals too: uploads are deleted
    if not LAUNCH["mcp_server"]:
        print("The page offers no MCP tools: they take the extra [mcp] (pip install '.[mcp]').")
    try:
        build(pool).launch(
            server_name=options.host,
            server_port=options.port,
            root_path=options.root_path,
            share=options.share,
            **LAUNCH,
        )
    except KeyboardInterrupt:
        pass  # Gradio answers one of them; this one came before or after
    except OSError as error:
        refuse(f"The page cannot be started, try another --port ({error}).")
    finally:
        uploads.delete_own_folder()  # now: work under way may keep the process for a while


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        refuse(message)


def refuse(why: object) -> NoReturn:
    """One line, and the exit code of the command line's mistakes."""
    print(f"essence: {why}", file=sys.stderr)
    raise SystemExit(2)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description="The page: python app.py.")
    parser.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="model set of weights/manifest.toml, a folder or a checkpoint (default: "
        "ffhq where there is a GPU and its files, else mini)",
    )
    parser.add_argument("--host", help="address to listen on; 0.0.0.0 for the whole network")
    parser.add_argument("--port", type=port_number, help="port to listen on")
    parser.add_argument(
        "--root-path",
        type=root_path,
        metavar="PATH",
        help="where a reverse proxy shows the page, such as /essence",
    )
    parser.add_argument("--share", action="store_true", help="make a public link")
    return parser.parse_args(arguments)


def port_number(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"must be between 1 and 65535, not {port}")
    return port


def root_path(text: str) -> str:
    if not text.startswith(("/", "http://", "https://")):
        raise argparse.ArgumentTypeError(f"must be a path such as /essence or a URL, not '{text}'")
    return text.rstrip("/")


def check_address(host: str, port: int) -> None:
    """Raise UserError where nothing can listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family)
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        no_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        reason = error.strerror.partition(" (")[0]
        raise UserError(
            f"Nothing can listen on port {port} of {host} ({reason}): "
            f"name another one with --{'host' if no_host else 'port'}."
        ) from None


def report_loading(loading: Future) -> None:
    """Errors of loading, on the console too; visitors read them in the page. Without one, what the
    first words need is imported, for which nobody waits.
    """
    error = loading.exception()
    if error is None:
        loading.result().clip.prepare_texts()
    # What is here stays: to look through it would make all visitors wait for half a second now and
    # then.
    gc.freeze()
    if isinstance(error, UserError):
        print(f"essence: {error}", file=sys.stderr, flush=True)
    elif error is not None:
        traceback.print_exception(error)
