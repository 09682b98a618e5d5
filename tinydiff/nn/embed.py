"""How a network is told the time."""
import math

import numpy as np

from ..tensor import ops
from ..tensor.autodiff import xp_of
from .layers import linear, linear_init


def sinusoidal(t, dim, like):
    """sin ‖ cos of t at dim/2 frequencies, from 1 down to (nearly) 1/10,000.

        [sin(ω_i t)..., cos(ω_i t)...],   ω_i = 10000^(-i / (dim/2)),  i = 0 .. dim/2 - 1

    Source : Vaswani et al. 2017, arXiv:1706.03762, section 3.5, with the sines first and the cosines after them;
             dividing by dim/2 (and not dim/2 - 1, as the code of DDPM does) leaves dim = 2 well defined.
    t      : a number or (B,), whole or real. Returns (B, dim), of the dtype and device of `like` (B, ...).
    """
    half = dim // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / half)
    angles = np.broadcast_to(np.asarray(t, np.float64), like.shape[:1])[:, None] * frequencies
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return xp_of(like).asarray(table.astype(like.dtype))


def time_init(rng, dim, width):
    """Two linear layers above `dim` sines and cosines."""
    return {"in": linear_init(rng, dim, width), "out": linear_init(rng, width, width)}


def time_embedding(p, t, like):
    """silu(linear(silu(linear(sinusoidal(t))))): (B, width), for every block to map and add.

    Source : Ho et al. 2020, arXiv:2006.11239, appendix B.
    """
    h = sinusoidal(t, p["in"]["w"].shape[0], like)
    return ops.silu(linear(p["out"], ops.silu(linear(p["in"], h))))
