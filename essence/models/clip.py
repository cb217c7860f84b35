"""CLIP (Radford et al. 2021) through open_clip, or our own small one: pictures and texts to
unit-norm embeddings, differentiable in the pictures.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ..errors import BadFile
from ..pictures.tensors import resample
from ..runtime.device_queue import in_background
from . import small_clip, vit, vocabulary

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TAUGHT = "essence-mini"  # name of the encoders that our recipe makes: they know its captions alone


def import_open_clip() -> None:
    """Import open_clip, which takes seconds the first time.

    In a thread of its own: something in there keeps the caller's frames, and all that they hold,
    for good.
    """

    def run() -> None:
        collecting = gc.isenabled()
        gc.disable()  # half a million objects come, and none of them is garbage
        try:
            importlib.import_module("open_clip")
        finally:
            if collecting:
                gc.enable()

    in_background(run).result()


class Tokenizer:
    """open_clip's; with the first text, which few need, it is imported. Texts to tokens [B, T]."""

    def __init__(self, length: int):
        self._length = length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self._tokenizer(list(texts))

    @cached_property
    def _tokenizer(self) -> Callable[[list[str]], Tensor]:
        import_open_clip()
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=self._length)


class ImageText(nn.Module):
    """An open_clip model, or one with its names, and one preprocessing for photographs and
    renders: resample to its side, then CLIP's mean and deviation.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        name: str,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ):
        super().__init__()
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.fused = vit.FrozenViT(model.visual)
        size = model.visual.image_size
        self.size = size[0] if isinstance(size, (tuple, list)) else size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def from_config(
        cls, config: Mapping, state: Mapping[str, Tensor], name: str = "bundled"
    ) -> ImageText:
        """A frozen model from open_clip's own constructor arguments and a state dict, strictly
        loaded. Raises BadFile where the two do not fit.
        """
        try:
            known = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
            model = _model_class(config)(**{key: config[key] for key in known if key in config})
            model.load_state_dict(dict(state))
        except (RuntimeError, TypeError, KeyError) as error:
            raise BadFile(
                f"The image-text model {name} does not fit its own description: {error}"
            ) from None
        tokenizer = Tokenizer(model.context_length)
        mean, std = config.get("mean", CLIP_MEAN), config.get("std", CLIP_STD)
        model = cls(model, tokenizer, name, mean, std)
        model.config = dict(config)  # to save it with
        return model.eval().requires_grad_(False)

    def fold_norms(self) -> None:
        """Take the batch norms of a frozen ModifiedResNet into the convolutions before them: the
        same numbers in fewer passes.
        """
        if type(self.model.visual).__name__ != "ModifiedResNet":  # open_clip's or ours
            return
        for module in self.model.visual.modules():
            for (name, conv), (behind, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(conv, norm))
                    setattr(module, behind, nn.Identity())

    def encode(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1], any side, to embeddings [B, E] as the network gives
        them, not normalised.
        """
        images = resample(images, self.size, "antialias")
        if images.is_cuda and vit.supports(self.model.visual):
            return self.fused(images, (self.mean, self.std)).float()
        return self.encode_raw(((images + 1) / 2 - self.mean) / self.std)

    def encode_raw(self, images: Tensor) -> Tensor:
        """The network alone: pictures [B, 3, S, S] of its own side, preprocessed by the caller."""
        if images.is_cuda and vit.supports(self.model.visual):
            return self.fused(images).float()
        return self.model.encode_image(images).float()

    def encode_whole(self, picture: Tensor) -> Tensor:
        """One picture [1, 3, H, W] in [-1, 1] to its embedding [1, E] through CLIP's own
        preprocessing, which the released code applies to the target alone: bicubic to the
        network's side along the shorter edge, centre square, 8 bits, mean and deviation.
        """
        h, w = picture.shape[2:]
        scale = self.size / min(h, w)
        shape = (round(h * scale), round(w * scale))
        x = F.interpolate(picture, size=shape, mode="bicubic", antialias=True, align_corners=False)
        top, left = (shape[0] - self.size) // 2, (shape[1] - self.size) // 2
        x = x[:, :, top : top + self.size, left : left + self.size]
        x = ((x + 1) * 127.5).round().clamp(0, 255) / 255
        return self.encode_raw((x - self.mean) / self.std)

    def embed_images(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1], any side, to embeddings [B, E] of unit norm."""
        return F.normalize(self.encode(images), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to embeddings [B, E] of unit norm."""
        tokens = self.tokenizer(list(texts)).to(self.mean.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

    @property
    def phrases(self) -> tuple[str, ...]:
        """The notions that its captions taught it; none where nobody has counted them."""
        return vocabulary.taught_phrases() if self.name == TAUGHT else ()

    def unknown_words(self, text: str) -> list[str]:
        """What a text says that its captions never did; nothing where nobody has counted them."""
        return vocabulary.untaught_words(text) if self.name == TAUGHT else []

    def prepare_texts(self) -> None:
        """Import now what the first text would wait for."""
        self.tokenizer([""])


def _model_class(config: Mapping) -> type[nn.Module]:
    """What open_clip's constructor arguments are for."""
    if small_clip.supports(config):
        return small_clip.SmallCLIP
    import_open_clip()
    from open_clip.model import CLIP

    return CLIP
