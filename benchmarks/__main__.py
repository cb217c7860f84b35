"""`python -m benchmarks`: a table of medians, with the hardware named."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from essence import ops
from essence.runtime import hardware

from .cases import Row, Setting, bundled, render, steps, unmeasured

KINDS = {"steps": steps, "render": render, "bundled": bundled}
CPUINFO = Path("/proc/cpuinfo")


def main(arguments: Sequence[str] | None = None) -> None:
    a = _parser().parse_args(arguments)
    hardware.limit_threads()
    setting = Setting(a.size, a.sources, a.repeats, a.device, a.clock, a.tiny)
    print(f"{machine_in_words(a.device)} Ratios of {a.clock} time.", flush=True)
    print(line([field.name for field in dataclasses.fields(Row)]))
    print(line(["---"] * len(dataclasses.fields(Row))), flush=True)
    for row in rows(setting, a.only or list(KINDS)):
        print(line(dataclasses.astuple(row)), flush=True)


def rows(setting: Setting, kinds: Sequence[str]) -> Iterator[Row]:
    for kind in kinds:
        yield from KINDS[kind](setting)
    if setting.device != "cuda":
        yield from unmeasured()


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine_in_words(device: str) -> str:
    """What the figures were measured on, in one line."""
    said = [f"torch {torch.__version__}"]
    if device == "cuda":
        said += [torch.cuda.get_device_name(), ops.backend()]
    names = (
        [
            text.split(":")[1].strip()
            for text in CPUINFO.read_text().splitlines()
            if text.startswith("model name")
        ]
        if CPUINFO.is_file()
        else []
    )
    said += [
        names[0] if names else platform.processor() or platform.machine(),
        f"{torch.get_num_threads()} threads",
    ]
    if hasattr(os, "getloadavg"):
        said.append(
            f"load {os.getloadavg()[0]:.1f} on {hardware.cpu_count()} processors as it began"
        )
    return "; ".join(said) + "."


def _parser() -> argparse.ArgumentParser:
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
