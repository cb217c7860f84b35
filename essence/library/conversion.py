"""Public checkpoints turned into safetensors."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .components import COMPONENTS
from .model_files import ModelFile


def convert_checkpoint(checkpoint: Path, out: Path, half: bool = False) -> dict[str, Path]:
    """Write each component inside a public checkpoint to a file of its own: kind -> path.

    The first one, usually the generator, becomes `out`; others lie beside it, as OUT-inverter for
    instance. `half`: 16 bits where the numbers bear it. Raises UserError.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"OUT is a file named .safetensors, not '{out.name}'.")
    file = ModelFile(str(checkpoint))
    found = [kind for kind, c in COMPONENTS.items() if c.found_in and c.found_in(checkpoint)]
    written: dict[str, Path] = {}
    # Without any, the generator's loader says what is wrong with the file.
    for kind in found or ["generator"]:
        path = out.with_stem(f"{out.stem}-{kind}") if written else out
        COMPONENTS[kind].save(COMPONENTS[kind].load(checkpoint, file), path, half)
        written[kind] = path
    return written
