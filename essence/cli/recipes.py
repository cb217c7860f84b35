"""`train` and `evaluate` hand their words to a recipe, which has options of its own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from ..errors import UserError

PACKAGE = __package__.rpartition(".")[0]
CHECKOUT_ONLY = f"{PACKAGE}.train.data"  # label files and probes, which are not installed


def run_recipe(command: str, recipes: Mapping[str, str], words: list[str]) -> dict:
    """`train generator ARGS` to `main(ARGS)` of the module that `recipes` names; a recipe's --help
    too. Raises UserError.
    """
    usage = f"python -m essence {command} {'|'.join(recipes)} ..."
    if words and words[0] in ("-h", "--help"):
        each = ", ".join(f"{recipe} --help" for recipe in recipes)
        print(f"usage: {usage}\n\n`python -m essence {command} {each}` list their own options.")
        return {}
    recipe = words[0] if words else ""
    if recipe not in recipes:
        raise UserError(f"{command} what? Say one of {', '.join(recipes)}, not '{recipe}': {usage}")
    try:
        importlib.import_module(f"{PACKAGE}.{recipes[recipe]}").main(words[1:])
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(CHECKOUT_ONLY):
            raise
        raise UserError(
            f"`{command} {recipe}` needs label files that are not installed: "
            "run it in a checkout of the repository."
        ) from None
    return {}
