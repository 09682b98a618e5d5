"""A small convolutional network that says what an image shows, at whatever noise if it is told the time.

    image -> [halving conv, norm, silu] ... -> mean over the positions that are left -> logits
"""
import dataclasses

from ..tensor import ops
from .embed import time_embedding, time_init
from .layers import conv, conv_init, linear, linear_init, norm, norm_init


@dataclasses.dataclass(frozen=True)
class Config:
    """A classifier, from a few numbers.

    size, channels : of the images, (size, size, channels); size even.
    classes   : how many logits.
    widths    : channels behind each convolution; each halves the resolution (an odd one rounds up).
    groups    : of the group norms; divides every width.
    embed     : width of the time embedding, added behind each convolution; 0 for clean images only.
    """

    size: int = 28
    channels: int = 1
    classes: int = 10
    widths: tuple = (16, 32, 64, 128)
    groups: int = 8
    embed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.size % 2 or self.size < 2:
            raise ValueError(f"image size must be even, got {self.size}; crop or pad")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"groups {self.groups} must divide every width, got {self.widths}")


def init(rng, config):
    """The parameters of `apply`."""
    n, blocks = config.channels, []
    for m in config.widths:
        block = {"conv": conv_init(rng, 3, n, m), "norm": norm_init(m)}
        blocks.append({**block, "time": linear_init(rng, config.embed, m)} if config.embed else block)
        n = m
    params = {"blocks": blocks, "out": linear_init(rng, n, config.classes)}
    return {**params, "time": time_init(rng, config.widths[0], config.embed)} if config.embed else params


def features(params, x, config, t=None):
    """(B, size, size, channels) -> (B, widths[-1]): what the logits are a linear function of."""
    e = time_embedding(params["time"], t, x) if config.embed else None
    for p in params["blocks"]:
        shift = linear(p["time"], e) if config.embed else None
        x = norm(p["norm"], conv(p["conv"], x, stride=2), config.groups, silu=True, shift=shift)
    return ops.mean(x, axis=(1, 2))


def logits(params, f):
    """Features (B, F) -> (B, classes)."""
    return linear(params["out"], f)


def apply(params, x, t, config):
    """(B, size, size, channels), t (B,) or a number, None without `embed` -> logits (B, classes).

    Their softmax is the probability of each class.
    """
    return logits(params, features(params, x, config, t))
