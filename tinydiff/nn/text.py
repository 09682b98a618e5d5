"""A small transformer that reads words: token numbers in, one vector a word out, for cross-attention to look at.

    tokens -> rows of a table + rows for the places -> [attention, two linear layers] ... -> norm

Source : Vaswani et al. 2017, arXiv:1706.03762, section 3 (the encoder), with the norms before each part (Xiong et al.
2020, arXiv:2002.04745) and one head.
"""
import dataclasses

import numpy as np

from ..tensor import ops
from ..tensor.autodiff import xp_of
from .layers import linear, linear_init, norm, norm_init


@dataclasses.dataclass(frozen=True)
class Config:
    """vocabulary: how many tokens, 0 among them for padding; length: of a sentence; width, depth: of the encoder."""

    vocabulary: int
    length: int = 16
    width: int = 64
    depth: int = 2


def init(rng, config):
    """The parameters of `apply`."""
    n = config.width

    def table(rows):
        return rng.standard_normal((rows, n)).astype(np.float32) * np.float32(0.5)

    blocks = [
        {
            "norm1": norm_init(n), "qkv": linear_init(rng, n, 3 * n), "out": linear_init(rng, n, n),
            "norm2": norm_init(n), "in": linear_init(rng, n, 4 * n), "back": linear_init(rng, 4 * n, n),
        }
        for _ in range(config.depth)
    ]  # fmt: skip
    return {"words": table(config.vocabulary), "places": table(config.length), "blocks": blocks, "norm": norm_init(n)}


def apply(params, ids, mask):
    """(B, L) token numbers, (B, L) mask -> (B, L, width). Raises ValueError for a number that is no token."""
    ids, words = np.asarray(ids), params["words"]
    if ids.size and not 0 <= ids.min() <= ids.max() < words.shape[0]:
        raise ValueError(f"tokens must be in 0..{words.shape[0] - 1}, got {ids.min()}..{ids.max()}")
    if ids.shape[1] > params["places"].shape[0]:
        raise ValueError(f"a sentence has at most {params['places'].shape[0]} words, got {ids.shape[1]}")
    h = ops.take(words, xp_of(words).asarray(ids)) + params["places"][: ids.shape[1]]
    for p in params["blocks"]:
        qkv, c = linear(p["qkv"], _each(p["norm1"], h)), h.shape[2]
        q, k, v = (qkv[:, :, i * c : (i + 1) * c] for i in range(3))
        h = h + linear(p["out"], ops.attention(q, k, v, mask))
        h = h + linear(p["back"], ops.silu(linear(p["in"], _each(p["norm2"], h))))
    return _each(params["norm"], h)


def _each(p, h):
    """Layer norm: each word's vector by itself."""
    b, length, c = h.shape
    return ops.reshape(norm(p, ops.reshape(h, (b * length, c)), 1), (b, length, c))
