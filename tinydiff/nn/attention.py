"""Attention: the pixels of an image look at one another, or at a context of whatever origin."""
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


def cross_init(rng, n, context):
    """A norm, queries from the image, keys and values from a context of width `context`; the output starts at zero."""
    return {
        "norm": norm_init(n),
        "q": linear_init(rng, n, n),
        "kv": linear_init(rng, context, 2 * n),
        "out": linear_init(rng, n, n, zero=True),
    }


def cross_attention(p, x, context, mask, groups):
    """x + out(softmax(Q Kᵀ/√d) V), Q from the normed pixels, K and V from the context: (B, H, W, C) -> the same.

    Source : Rombach et al. 2022, arXiv:2112.10752, section 3.3.
    context: (B, L, D), of text, sound or anything; mask: (B, L), 0 where it is padding, or None.
    """
    b, h, w, c = x.shape
    q, kv = linear(p["q"], ops.reshape(norm(p["norm"], x, groups), (b, h * w, c))), linear(p["kv"], context)
    found = ops.attention(q, kv[:, :, :c], kv[:, :, c:], mask)
    return x + ops.reshape(linear(p["out"], found), (b, h, w, c))
