"""ArcFace (Deng et al. 2019, arXiv 1801.07698) on the IR-SE50 network that StyleGAN papers measure
identity with, `model_ir_se50.pth`. Nobody bundles it: it serves where somebody brings the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..pictures.tensors import resample
from .e4e import ResidualUnit

SIDE = 112
# What the network sees of a picture in FFHQ alignment, as papers cut it: rows 35 to 223 and columns
# 32 to 220 of 256.
TOP, LEFT, CUT = 35 / 256, 32 / 256, 188 / 256


class ArcFace(nn.Module):
    """Aligned pictures [B, 3, S, S] in [-1, 1] to unit embeddings [B, E]; two of one person have a
    high cosine.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], dim: int = 512):
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.PReLU(widths[0]),
        )
        units, in_ch = [], widths[0]
        for width, depth in zip(widths, depths, strict=True):
            for i in range(depth):
                units.append(ResidualUnit(in_ch, width, stride=2 if i == 0 else 1))
                in_ch = width
        self.body = nn.Sequential(*units)
        side = SIDE // 2 ** len(widths)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(in_ch),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(in_ch * side * side, dim),
            nn.BatchNorm1d(dim),
        )

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> ArcFace:
        """A network of the widths and depths that its tensors have. Raises KeyError for another
        network's tensors.
        """
        outs = []
        while (weight := state.get(f"body.{len(outs)}.res_layer.1.weight")) is not None:
            outs.append(len(weight))
        widths = list(dict.fromkeys(outs))
        dim = len(state["output_layer.3.weight"])
        return cls(widths, [outs.count(width) for width in widths], dim)

    def forward(self, images: Tensor) -> Tensor:
        top, left, cut = (round(share * images.shape[-1]) for share in (TOP, LEFT, CUT))
        faces = resample(images[..., top : top + cut, left : left + cut], SIDE, "antialias")
        return F.normalize(self.output_layer(self.body(self.input_layer(faces))), dim=1)
