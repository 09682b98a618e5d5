"""A small network for points in the plane."""
import dataclasses

from ..tensor import ops
from .embed import time_embedding, time_init
from .layers import linear, linear_init


@dataclasses.dataclass(frozen=True)
class Config:
    """dim: coordinates of a point; width, depth: of the hidden layers; embed: sines and cosines of the time."""

    dim: int = 2
    width: int = 128
    depth: int = 3
    embed: int = 64


def init(rng, config):
    """The parameters of `apply`; the last layer starts at zero."""
    widths = [config.dim, *(config.width,) * config.depth]
    blocks = [
        {"linear": linear_init(rng, n, m), "time": linear_init(rng, config.width, m)}
        for n, m in zip(widths, widths[1:], strict=False)
    ]
    return {
        "time": time_init(rng, config.embed, config.width),
        "blocks": blocks,
        "out": linear_init(rng, config.width, config.dim, zero=True),
    }


def apply(params, x, t, config=None):
    """(B, dim), (B,) -> (B, dim): each block is silu(linear(h) + linear(time)), added to h once their widths agree."""
    e, h = time_embedding(params["time"], t, x), x
    for p in params["blocks"]:
        y = ops.silu(linear(p["linear"], h) + linear(p["time"], e))
        h = h + y if h.shape == y.shape else y
    return linear(params["out"], h)
