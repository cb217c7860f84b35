"""Train the bundled models, each or all: see `essence train --help`."""

from __future__ import annotations

import argparse

from .recipes import run_recipe

RECIPES = {
    "generator": "train.generator",
    "teeth": "train.mouth_colour",
    "finer": "train.finer",
    "inverter": "train.inverter",
    "clip": "train.clip",
    "texts": "train.texts",
    "mapper": "train.mapper",
    "essence": "train.essence",
    "judge": "train.judge",
    "all": "evaluate.everything",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> dict:
    return run_recipe("train", RECIPES, arguments.words)
