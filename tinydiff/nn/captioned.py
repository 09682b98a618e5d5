"""A U-Net that has read the caption: words through a transformer, and the picture looks at them by cross-attention."""
import dataclasses

import numpy as np

from . import text, unet


@dataclasses.dataclass(frozen=True)
class Config:
    """Of both: the fields of text.Config, and those of unet.Config (its context is the text's width)."""

    text: dict
    unet: dict

    def __post_init__(self):
        words = text.Config(**self.text)
        object.__setattr__(self, "text", words)
        object.__setattr__(self, "unet", unet.Config(**{**self.unet, "context": words.width}))


def init(rng, config):
    """The parameters of `apply`."""
    return {"text": text.init(rng, config.text), "unet": unet.init(rng, config.unet)}


def apply(params, x, t, config, caption=None):
    """(B, size, size, channels), (B,) or a number -> (B, size, size, channels).

    Source : Rombach et al. 2022, arXiv:2112.10752, eq. (3): ε_θ(z_t, t, τ_θ(y)), both learnt together.
    caption: {"ids": (B, L) token numbers, "mask": (B, L), 0 for padding}; None says nothing, as a mask of zeros does.
    """
    if caption is None:
        caption = {"ids": np.zeros((len(x), 1), np.int64), "mask": np.zeros((len(x), 1), bool)}
    context = text.apply(params["text"], caption["ids"], caption["mask"])
    return unet.apply(params["unet"], x, t, config.unet, context=context, mask=caption["mask"])
