"""CLIP with a ResNet for pictures, as our recipe makes it, in torch alone: open_clip takes seconds
to import, and such a model needs nothing of it.

Names of weights, numbers and constructor arguments are those of open_clip's `CLIP`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4  # a bottleneck gives so many times as many channels as it works with
STRIDE = 32  # of the whole ResNet
TEMPERATURE = 0.07  # of CLIP's loss, where learning begins
VISION, TEXT = (
    {"image_size", "layers", "width", "head_width"},
    {"context_length", "vocab_size", "width", "heads", "layers"},
)


def supports(config: Mapping[str, Any]) -> bool:
    """Whether `SmallCLIP` is what these arguments of open_clip's `CLIP` describe."""
    vision, text = config.get("vision_cfg"), config.get("text_cfg")
    return (
        isinstance(vision, Mapping)
        and isinstance(text, Mapping)
        and set(vision) == VISION
        and set(text) == TEXT
        and isinstance(vision["layers"], list)
        and not config.get("quick_gelu")
    )


class SmallCLIP(nn.Module):
    """Pictures and tokens to embeddings [B, E]. Takes the arguments that `supports` accepts."""

    def __init__(self, embed_dim: int, vision_cfg: Mapping, text_cfg: Mapping, quick_gelu=False):
        super().__init__()
        self.visual = ModifiedResNet(embed_dim, **vision_cfg)
        width, length = text_cfg["width"], text_cfg["context_length"]
        self.context_length, self.vocab_size = length, text_cfg["vocab_size"]
        self.transformer = Transformer(width, text_cfg["heads"], text_cfg["layers"])
        self.token_embedding = nn.Embedding(self.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width) * 0.01)
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))
        later = torch.full((length, length), -torch.inf).triu(1)  # no token sees those behind it
        self.register_buffer("attn_mask", later, persistent=False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, S, S], preprocessed."""
        return self.visual(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T]; the last one of a text has the highest number."""
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x, self.attn_mask))
        return x[torch.arange(len(x), device=x.device), tokens.argmax(-1)] @ self.text_projection


# ---- pictures


class ModifiedResNet(nn.Module):
    """CLIP's ResNet: three convolutions before the blocks, averages instead of strides, and one
    attention over what is left of the picture at the end. [B, 3, S, S] to [B, E].
    """

    def __init__(
        self, embed_dim: int, image_size: int, layers: Sequence[int], width: int, head_width: int
    ):
        super().__init__()
        self.image_size, self.output_dim = image_size, embed_dim
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        before = width
        for i, count in enumerate(layers):
            inner = width << i
            blocks = [Bottleneck(before, inner, halve=i > 0)]
            before = inner * EXPANSION
            blocks += [Bottleneck(before, inner, halve=False) for _ in range(1, count)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.stages = [f"layer{i + 1}" for i in range(len(layers))]
        heads = width * STRIDE // head_width
        self.attnpool = AttentionPool(image_size // STRIDE, before, heads, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x)), inplace=True), 2)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.attnpool(x)


class Bottleneck(nn.Module):
    """Residual block: [B, before, H, W] to [B, 4 inner, H, W], or half the sides."""

    def __init__(self, before: int, inner: int, halve: bool):
        super().__init__()
        after = inner * EXPANSION
        self.conv1 = nn.Conv2d(before, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.avgpool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.conv3 = nn.Conv2d(inner, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample = None
        if halve or before != after:
            pool = nn.AvgPool2d(2 if halve else 1)
            conv, norm = nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)
            self.downsample = nn.Sequential(OrderedDict([("-1", pool), ("0", conv), ("1", norm)]))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(self.avgpool(y)))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class AttentionPool(nn.Module):
    """A map [B, C, S, S] to [B, E]: what its mean finds among mean and places."""

    def __init__(self, side: int, width: int, heads: int, embed_dim: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, width) * width**-0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x])
        x = x + self.positional_embedding[:, None].to(x.dtype)
        given = (self.q_proj, self.k_proj, self.v_proj)
        found, _ = F.multi_head_attention_forward(
            *(x, x, x),
            embed_dim_to_check=x.shape[-1],
            num_heads=self.heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([each.bias for each in given]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            training=self.training,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )
        return found[0]


# ---- texts


class LayerNorm(nn.LayerNorm):
    """In the type of its input, under autocast too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


class Transformer(nn.Module):
    """[B, T, D] to [B, T, D]."""

    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.resblocks = nn.ModuleList(TextBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class TextBlock(nn.Module):
    """Attention and a perceptron, each behind a norm and added to what came in."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = LayerNorm(width)
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(
            OrderedDict([("c_fc", wide), ("gelu", nn.GELU()), ("c_proj", narrow)])
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=mask.to(seen.dtype))[0]
        return x + self.mlp(self.ln_2(x))
