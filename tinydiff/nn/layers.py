"""The layers that networks are made of: each a function that makes its parameters, and one that applies them.

Weights start uniform in ±1/√n, n the number of inputs that a unit sums (what PyTorch's layers do), or at zero where a
block should begin as the identity. Parameters are made on the host, in float32; a Device moves them.
"""
import math

import numpy as np

from ..tensor import conv as convolution
from ..tensor import ops


def _uniform(rng, shape, fan_in, zero):
    if zero:
        return np.zeros(shape, np.float32)
    bound = 1 / math.sqrt(fan_in)
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def linear_init(rng, n, m, zero=False):
    """w (n, m), b (m,)."""
    return {"w": _uniform(rng, (n, m), n, zero), "b": _uniform(rng, (m,), n, zero)}


def linear(p, x):
    """x w + b over the last axis."""
    return ops.linear(x, p["w"], p["b"])


def conv_init(rng, k, n, m, zero=False):
    """w (k, k, n, m), b (m,)."""
    return {"w": _uniform(rng, (k, k, n, m), k * k * n, zero), "b": _uniform(rng, (m,), k * k * n, zero)}


def conv(p, x, stride=1):
    """A k x k convolution, zeros beyond the edge."""
    return convolution.conv2d(x, p["w"], p["b"], stride)


def doubled_conv(p, x, h, w):
    """A 3 x 3 convolution of x doubled; of its upper left h x w, where an odd size was halved."""
    if (h, w) == (2 * x.shape[1], 2 * x.shape[2]):
        return convolution.doubled_conv2d(x, p["w"], p["b"])
    return conv(p, convolution.crop(convolution.upsample(x), h, w))


def norm_init(n):
    """γ = 1, β = 0, (n,) each."""
    return {"gamma": np.ones(n, np.float32), "beta": np.zeros(n, np.float32)}


def norm(p, x, groups, silu=False, shift=None):
    """Group norm, with a shift (B, C) before it and silu behind it if asked."""
    return ops.group_norm(x, p["gamma"], p["beta"], groups, silu, shift=shift)
