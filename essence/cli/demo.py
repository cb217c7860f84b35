"""Start the page: see `python -m essence demo --help`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from ..errors import UserError

PACKAGE = __package__.rpartition(".")[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> dict:
    """The page lies in the package where it is installed, beside it in a checkout. Raises
    UserError where gradio is missing.
    """
    installed = importlib.util.find_spec(f"{PACKAGE}.demo") is not None
    try:
        demo = importlib.import_module(f"{PACKAGE}.demo" if installed else "demo")
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("The page needs gradio: run `pip install gradio`.") from None
    demo.main(arguments.words)
    return {}
