"""CLIP's vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) with frozen weights, in few
kernels: for a GPU, where a step waits for them.

The same numbers as open_clip's module. Under autocast the weights are cast once and kept, and the
sum of the residuals stays in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import WeightCache, add_norm

QUICK = 1.702  # quick GELU: x sigmoid(1.702 x)


class FrozenViT:
    """Callable: pictures [B, 3, S, S] to embeddings [B, E]. `visual` is an open_clip
    VisionTransformer that `supports` takes.
    """

    def __init__(self, visual: nn.Module):
        self.visual, self.cache = visual, WeightCache()

    def __call__(self, images: Tensor, normal: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """`normal`: mean and deviation of pictures in [0, 1], [3, 1, 1] each, where `images` are in
        [-1, 1]; None: they are preprocessed.
        """
        visual, kind = self.visual, images.device.type
        on = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if on else images.dtype
        with torch.autocast(kind, enabled=False):
            patches = F.linear(self.patches(images.to(dtype)), *self.embedding(dtype, normal))
            place = visual.positional_embedding
            first = (visual.class_embedding + place[0]).expand(len(images), 1, -1)
            x, branch = norm(torch.cat([first, patches + place[1:]], 1), visual.ln_pre), None
            for i, block in enumerate(visual.transformer.resblocks):
                query, out, wide, narrow = self.cast(i, dtype)
                x, seen = add_norm(x, branch, block.ln_1, dtype)
                x, seen = add_norm(x, self.attention(seen, query, out, block), block.ln_2, dtype)
                hidden = F.linear(seen, *wide)
                branch = F.linear(F.silu(hidden) if is_quick(block) else F.gelu(hidden), *narrow)
            return norm(x[:, 0] + branch[:, 0], visual.ln_post) @ visual.proj

    def patches(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] to squares in rows, [B, (S / P)^2, 3 P P]."""
        count, side = images.shape[0], self.visual.conv1.kernel_size[0]
        across = images.shape[-1] // side
        squares = images.view(count, 3, across, side, across, side).permute(0, 2, 4, 1, 3, 5)
        return squares.reshape(count, across * across, -1)

    def attention(
        self, x: Tensor, query: tuple[Tensor, Tensor], out: tuple[Tensor, Tensor], block: nn.Module
    ) -> Tensor:
        """Of all tokens [B, T, D] to each other."""
        heads = block.attn.num_heads
        joint = F.linear(x, *query).view(*x.shape[:2], 3, heads, -1)
        q, k, v = (each.transpose(1, 2) for each in joint.unbind(2))
        found = F.scaled_dot_product_attention(q, k, v)
        return F.linear(found.transpose(1, 2).reshape(x.shape), *out)

    def embedding(
        self, dtype: torch.dtype, normal: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the patches' embedding in `dtype`, preprocessing included."""
        weight = self.visual.conv1.weight
        if normal is None:
            return self.cache(f"raw {dtype}", lambda w: (w.flatten(1).to(dtype), None), weight)

        def compute(weight: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
            # ((x + 1) / 2 - mean) / std = x / (2 std) + (1 / 2 - mean) / std
            bias = (weight * ((0.5 - mean) / std)).sum((1, 2, 3))
            return (weight / (2 * std)).flatten(1).to(dtype), bias.to(dtype)

        return self.cache(f"pictures {dtype}", compute, weight, *normal)

    def cast(self, which: int, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weights and biases of a block's four products in `dtype`.

        Quick GELU is silu(1.702 x) / 1.702: the factors go into the weights around it.
        """
        block = self.visual.transformer.resblocks[which]
        attn, mlp, factor = block.attn, block.mlp, QUICK if is_quick(block) else 1.0
        layers = (
            (attn.in_proj_weight, attn.in_proj_bias),
            (attn.out_proj.weight, attn.out_proj.bias),
            (mlp.c_fc.weight, mlp.c_fc.bias),
            (mlp.c_proj.weight, mlp.c_proj.bias),
        )
        factors = ((1.0, 1.0), (1.0, 1.0), (factor, factor), (1 / factor, 1.0))

        def compute(*_: Tensor) -> tuple[tuple[Tensor, ...], ...]:
            return tuple(
                tuple((each * factor).to(dtype) for each, factor in zip(*pair, strict=True))
                for pair in zip(layers, factors, strict=True)
            )

        return self.cache(f"{which} {dtype}", compute, *(each for pair in layers for each in pair))


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def is_quick(block: nn.Module) -> bool:
    return type(block.mlp.gelu).__name__ == "QuickGELU"


def supports(visual: nn.Module) -> bool:
    """Whether this is one of OpenAI's plain vision transformers, and its weights are frozen."""
    if type(visual).__name__ != "VisionTransformer" or visual.training:
        return False
    from open_clip.transformer import ResidualAttentionBlock

    return (
        all(
            type(block) is ResidualAttentionBlock
            and isinstance(block.ls_1, nn.Identity)
            and isinstance(block.ls_2, nn.Identity)
            and type(block.mlp.gelu).__name__ in ("QuickGELU", "GELU")
            for block in visual.transformer.resblocks
        )
        and isinstance(visual.ln_pre, nn.LayerNorm)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and visual.proj is not None
        and not visual.output_tokens
        and not any(weight.requires_grad for weight in visual.parameters())
    )
