"""Image-text models in and out: open_clip's networks in our safetensors, and its own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile, UserError
from ..models.clip import ImageText
from .checkpoints import halved
from .safe_files import read_safetensors, write_safetensors
from .state_dicts import network_state

# An image-text model's token table; of which rows it is, where not all are kept; of how many.
TOKENS, TOKEN_ROWS = "token_embedding.weight", "token_rows"
VOCABULARY = 49_408


def load_clip(path: str | Path, architecture: str = "") -> ImageText:
    """Our safetensors: weights, and open_clip's constructor arguments in the header; or open_clip's
    own file of a public `architecture`. Frozen, on the CPU. Raises BadFile, UserError.
    """
    path = Path(path)
    tensors, header = read_safetensors(path)
    state = network_state(tensors, "", path.name)
    if architecture and "config" not in header:
        return ImageText.from_config(_public_config(architecture), state, architecture)
    if "embed_dim" not in header.get("config", {}):
        raise BadFile(f"{path.name} is no image-text model: its header has no open_clip config.")
    if TOKEN_ROWS in state:
        state = with_all_tokens(state, header["config"], path.name)
    return ImageText.from_config(header["config"], state, header.get("name", path.stem))


def with_all_tokens(state: Mapping[str, Tensor], config: Mapping, name: str) -> dict[str, Tensor]:
    """The tokens that were not kept are zero. Raises BadFile."""
    state = dict(state)
    rows, kept = state.pop(TOKEN_ROWS), state.get(TOKENS)
    count = config.get("text_cfg", {}).get("vocab_size", VOCABULARY)
    fit = kept is not None and kept.ndim == 2 and rows.shape == kept.shape[:1] and len(rows)
    if not fit or rows.dtype != torch.int64 or not 0 <= rows.min() <= rows.max() < count:
        raise BadFile(f"The tokens in {name} do not fit its vocabulary: the file is damaged.")
    state[TOKENS] = kept.new_zeros(count, kept.shape[1]).index_copy(0, rows, kept)
    return state


def save_clip(
    config: Mapping,
    state: Mapping[str, Tensor],
    path: str | Path,
    half: bool = True,
    name: str = "bundled",
    words: Sequence[str] = (),
) -> None:
    """`config`: open_clip's constructor arguments (embed_dim, vision_cfg, text_cfg, quick_gelu),
    and optionally mean and std. `words`: of the tokens only those that these are made of are kept,
    for a model that has learned nothing else; it reads all others as nothing.
    """
    if words:
        from open_clip.tokenizer import SimpleTokenizer

        rows = SimpleTokenizer()(list(words)).unique()
        state = {**state, TOKENS: state[TOKENS][rows], TOKEN_ROWS: rows}
    write_safetensors(
        path,
        halved(state, half, ("running_", "logit_scale")),
        {"kind": "clip", "name": name, "config": dict(config)},
    )


def _public_config(architecture: str) -> Mapping:
    """open_clip's constructor arguments for "ViT-B-32-quickgelu/openai" or "ViT-B-32-quickgelu"."""
    import open_clip

    name = architecture.split("/")[0]
    config = open_clip.get_model_config(name)
    if config is None:
        raise UserError(
            f"open_clip knows no model {name}. "
            f"It knows {', '.join(open_clip.list_models()[:12])}, ..."
        )
    return config
