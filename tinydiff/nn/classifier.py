"""A small convolutional network that says what an image shows.

    image -> [halving conv, norm, silu] ... -> mean over the positions that are left -> logits
"""
import dataclasses

from ..tensor import ops
from .layers import conv, conv_init, linear, linear_init, norm, norm_init


@dataclasses.dataclass(frozen=True)
class Config:
    """A classifier, from a few numbers.

    size, channels : of the images, (size, size, channels); size even.
    classes   : how many logits.
    widths    : channels behind each convolution; each halves the resolution (an odd one rounds up).
    groups    : of the group norms; divides every width.
    """

    size: int = 28
    channels: int = 1
    classes: int = 10
    widths: tuple = (16, 32, 64, 128)
    groups: int = 8

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
        blocks.append({"conv": conv_init(rng, 3, n, m), "norm": norm_init(m)})
        n = m
    return {"blocks": blocks, "out": linear_init(rng, n, config.classes)}


def features(params, x, config):
    """(B, size, size, channels) -> (B, widths[-1]): what the logits are a linear function of."""
    for p in params["blocks"]:
        x = norm(p["norm"], conv(p["conv"], x, stride=2), config.groups, silu=True)
    return ops.mean(x, axis=(1, 2))


def logits(params, f):
    """Features (B, F) -> (B, classes)."""
    return linear(params["out"], f)


def apply(params, x, config):
    """(B, size, size, channels) -> logits (B, classes); their softmax is the probability of each class."""
    return logits(params, features(params, x, config))
