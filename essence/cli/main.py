"""`python -m essence COMMAND ...`, or `essence COMMAND ...` where it is installed.

Results go to stdout, progress and notes to stderr. The exit code is 0; 2, with one line, for a
person's mistake; 3 where some of several files could not be used; above 128 for a signal.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TextIO

from ..errors import UserError
from ..runtime.ending import end_process
from ..runtime.signals import stop_at_once, stop_on_signals
from . import (
    align,
    apply,
    convert,
    demo,
    doctor,
    evaluate,
    extract,
    fetch,
    grid,
    imagine,
    invert,
    train,
)
from .files import LeftOut
from .progress import print_note

# Each module has `add_arguments(parser)` and `run(arguments)`, which returns what it found as a
# flat dict; its docstring is the command's help.
COMMANDS: dict[str, ModuleType] = {
    "align": align,
    "invert": invert,
    "extract": extract,
    "apply": apply,
    "grid": grid,
    "imagine": imagine,
    "fetch": fetch,
    "convert": convert,
    "doctor": doctor,
}
# Results that go there would be mixed with the words about them.
STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
# These find nothing but hand all their words, --help among them, to a program of its own.
PROGRAMS: dict[str, ModuleType] = {"train": train, "evaluate": evaluate, "demo": demo}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        arguments = make_parser().parse_args(argv)
        result, left_out = arguments.run(arguments), arguments.left_out.names
        result |= {"left_out": left_out} if left_out else {}
        taken = str(getattr(arguments, "out", "")) in STDOUT
        print_result(result, arguments.json, sys.stderr if taken else sys.stdout)
        sys.stdout.flush()
        return 3 if left_out else 0
    except UserError as error:
        print_note(" ".join(str(error).split()))
        return 2
    except BrokenPipeError:
        # Nobody reads on, as with `| head`: the rest goes nowhere, without complaint.
        discard_output()
        return 141  # as the shell names SIGPIPE
    except OSError as error:
        if error.filename is None:  # what cannot be written is the result: a full disk, mostly
            discard_output()
        print_note(f"{error.filename or 'the output'}: {error.strerror or error}")
        return 2
    except KeyboardInterrupt as stop:
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


def discard_output() -> None:
    """Send what is still to be printed nowhere: the interpreter would try it again at its end."""
    with suppress(OSError):  # no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_and_exit() -> NoReturn:
    """Run one command as a process of its own."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names that its encoding has no letters for
    stop_on_signals()
    code = main()
    stop_at_once()
    # Else half a million imported objects would be looked through on the way out, for a second.
    gc.freeze()
    end_process(code)


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
        command.set_defaults(run=module.run, left_out=LeftOut())
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
        command.set_defaults(run=module.run, left_out=LeftOut(), json=False)
    return parser


def print_result(result: dict, as_json: bool, stream: TextIO) -> None:
    if as_json:
        print(json.dumps(result), file=stream)
        return
    width = max(map(len, result), default=0)
    for key, value in result.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        print(f"{key:{width}}  {', '.join(map(in_words, values))}", file=stream)


def in_words(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
