"""`python -m essence COMMAND ...`, or `essence COMMAND ...` where it is installed.

Results go to stdout, progress and notes to stderr. The exit code is 0, or 2 with one line for a
person's mistake.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from ..errors import UserError
from . import align, apply, convert, demo, doctor, evaluate, extract, fetch, grid, invert, train
from .progress import print_note

# Each module has `add_arguments(parser)` and `run(arguments)`, which returns what it found as a
# flat dict; its docstring is the command's help.
COMMANDS: dict[str, ModuleType] = {
    "align": align,
    "invert": invert,
    "extract": extract,
    "apply": apply,
    "grid": grid,
    "fetch": fetch,
    "convert": convert,
    "doctor": doctor,
}
# These find nothing but hand all their words, --help among them, to a program of its own.
PROGRAMS: dict[str, ModuleType] = {"train": train, "evaluate": evaluate, "demo": demo}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        arguments = make_parser().parse_args(argv)
        print_result(arguments.run(arguments), getattr(arguments, "json", False))
        sys.stdout.flush()
        return 0
    except UserError as error:
        print_note(" ".join(str(error).split()))
        return 2
    except BrokenPipeError:
        # Nobody reads on, as with `| head`: the rest goes nowhere, without complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as the shell names SIGPIPE
    except OSError as error:
        print_note(f"{error.filename or 'a file'}: {error.strerror or error}")
        return 2
    except KeyboardInterrupt:
        return 130


def run_and_exit() -> NoReturn:
    """The console script."""
    code = main()
    # Else half a million imported objects would be looked through on the way out, for a second.
    gc.freeze()
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other mistake."""
        print_note(f"{message} (see `{self.prog} --help`)")
        raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    installed = Path(sys.argv[0]).stem == "essence"
    parser = Parser(
        prog="essence" if installed else "python -m essence",
        description="Transfer the essence of one face to another.",
    )
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=Parser)
    for name, module in COMMANDS.items():
        description = module.__doc__ or ""
        command = commands.add_parser(
            name, help=description[0].lower() + description[1:-1], description=description
        )
        command.add_argument(
            "--json", action="store_true", help="print the result as one line of JSON"
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    for name, module in PROGRAMS.items():
        description = module.__doc__ or ""
        # No word starts with NUL, so that none is taken for an option of this parser.
        command = commands.add_parser(
            name,
            help=description[0].lower() + description[1:-1],
            add_help=False,
            prefix_chars="\0",
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def print_result(result: dict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result), default=0)
    for key, value in result.items():
        if value is None:
            continue
        if isinstance(value, float):
            value = f"{value:.4f}"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{key:{width}}  {value}")
