"""Evaluate models, essences, looks, words, instant essences, the paper: see `python -m essence
evaluate --help`.
"""

from __future__ import annotations

import argparse

from .recipes import run_recipe

RECIPES = {
    "models": "evaluate.report",
    "essences": "evaluate.essences",
    "looks": "evaluate.looks",
    "words": "evaluate.words",
    "instant": "evaluate.instant",
    "paper": "evaluate.paper.command",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> dict:
    return run_recipe("evaluate", RECIPES, arguments.words)
