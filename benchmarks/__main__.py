"""`python -m benchmarks`: a table of medians, with the hardware named."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from essence import ops
from essence.runtime import hardware

from .cases import (
    Row,
    Setting,
    bundled_rows,
    render_rows,
    step_rows,
    together_rows,
    unmeasured_rows,
)
from .compiled import compiled_rows

KINDS = {
    "steps": step_rows,
    "render": render_rows,
    "bundled": bundled_rows,
    "together": together_rows,
    "compiled": compiled_rows,
}
ASKED = {"compiled"}  # minutes: only where they are asked for
CPUINFO = Path("/proc/cpuinfo")


def main(arguments: Sequence[str] | None = None) -> None:
    a = make_parser().parse_args(arguments)
    hardware.limit_threads()
    setting = Setting(a.size, a.sources, a.repeats, a.device, a.clock, a.tiny)
    columns = [field.name for field in dataclasses.fields(Row)]

    def print_row(cells: Sequence[str]) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)

    print(f"{machine_description(a.device)} Ratios of {a.clock} time.", flush=True)
    print_row(columns)
    print_row(["---"] * len(columns))
    for kind in a.only or (name for name in KINDS if name not in ASKED):
        for row in KINDS[kind](setting):
            print_row(dataclasses.astuple(row))
    if setting.device != "cuda":
        for row in unmeasured_rows():
            print_row(dataclasses.astuple(row))


def machine_description(device: str) -> str:
    """What the figures were measured on, in one line."""
    said = [f"torch {torch.__version__}"]
    if device == "cuda":
        said += [torch.cuda.get_device_name(), ops.backend()]
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    names = [text.split(":")[1].strip() for text in lines if text.startswith("model name")]
    said.append(names[0] if names else platform.processor() or platform.machine())
    said.append(f"{torch.get_num_threads()} threads")
    if hasattr(os, "getloadavg"):
        load, count = os.getloadavg()[0], hardware.cpu_count()
        said.append(f"load {load:.1f} on {count} processors as it began")
    return "; ".join(said) + "."


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=1024,
        help="side of the random generator's pictures, default %(default)s",
    )
    parser.add_argument("--sources", type=int, default=4, help="default %(default)s")
    parser.add_argument(
        "--repeats", type=int, default=3, help="steps that are timed; default %(default)s"
    )
    parser.add_argument(
        "--only", choices=KINDS, action="append", help="only these; may be given several times"
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "processor"),
        default="wall",
        help="what ratios compare; processor time where others are busy on the machine",
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="networks of a few channels: tries the benchmarks, measures nothing",
    )
    return parser


if __name__ == "__main__":
    main()
