"""Self-attention over the pixels of an image."""
from ..tensor import ops
from .layers import linear, linear_init, norm, norm_init


def init(rng, n):
    """A norm, queries, keys and values in one linear layer, and an output layer that starts at zero."""
    return {"norm": norm_init(n), "qkv": linear_init(rng, n, 3 * n), "out": linear_init(rng, n, n, zero=True)}


def self_attention(p, x, groups):
    """x + out(attention(q, k, v)) with q, k, v from the normed pixels: (B, H, W, C) -> the same. One head.

    Source : Ho et al. 2020, arXiv:2006.11239, appendix B (self-attention at 16 x 16).
    """
    b, h, w, c = x.shape
    qkv = linear(p["qkv"], ops.reshape(norm(p["norm"], x, groups), (b, h * w, c)))
    q, k, v = (qkv[:, :, i * c : (i + 1) * c] for i in range(3))
    return x + ops.reshape(linear(p["out"], ops.attention(q, k, v)), (b, h, w, c))
