"""A small network for points in the plane."""
import dataclasses

from ..tensor import ops
from .embed import time_embedding, time_init
from .layers import linear, linear_init


@dataclasses.dataclass(frozen=True)
class Config:
    """dim: coordinates of a point; width, depth: of the hidden layers; embed: sines and cosines of the time.

    octaves: of each coordinate also sin and cos of 2, 4, 8, ... times it: fine detail is slow to learn without.
    classes: how many labels it knows, 0 for none.
    """

    dim: int = 2
    width: int = 128
    depth: int = 3
    embed: int = 64
    octaves: int = 5
    classes: int = 0


def init(rng, config):
    """The parameters of `apply`; the last layer starts at zero."""
    widths = [config.dim * (1 + 2 * config.octaves), *(config.width,) * config.depth]
    blocks = [
        {"linear": linear_init(rng, n, m), "time": linear_init(rng, config.width, m)}
        for n, m in zip(widths, widths[1:], strict=False)
    ]
    return {
        "time": time_init(rng, config.embed, config.width, config.classes),
        "blocks": blocks,
        "out": linear_init(rng, config.width, config.dim, zero=True),
    }


def waves(x, octaves):
    """x ‖ sin(2^k x) ‖ cos(2^k x), k = 1 .. octaves: (B, dim) -> (B, dim (1 + 2 octaves)).

    Source : Tancik et al. 2020, arXiv:2006.10739, section 6 (positional encoding of coordinates).
    """
    angles = [x * 2.0**k for k in range(1, octaves + 1)]
    return ops.concatenate([x, *map(ops.sin, angles), *map(ops.cos, angles)])


def apply(params, x, t, config=None, label=None):
    """(B, dim), (B,) -> (B, dim): each block is silu(linear(h) + linear(time)), added to h once their widths agree."""
    octaves = (params["blocks"][0]["linear"]["w"].shape[0] // x.shape[1] - 1) // 2
    e, h = time_embedding(params["time"], t, x, label), waves(x, octaves)
    for p in params["blocks"]:
        y = ops.silu(linear(p["linear"], h) + linear(p["time"], e))
        h = h + y if h.shape == y.shape else y
    return linear(params["out"], h)
