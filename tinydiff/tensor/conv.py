"""Convolution as one matrix product, and the ways to change an image's size. Images are (B, H, W, C).

A convolution gathers the k x k neighbourhood of each pixel into a row and multiplies by the kernels laid out as a
matrix. It is linear in the image and in the kernel, so its derivatives are two more products, and theirs are again
among the three: no formula below is longer than a line.

Law: the fast versions in fast.py equal these (laws/tensor.py); gradients by tests/test_tensor.py.
"""
import numpy as np

from . import fast, winograd
from .autodiff import defvjp, defvjp_argnums, isbox, primitive, xp_of
from .ops import broadcast_to, getitem, matmul, mean, reshape, transpose


def patches(x, k, stride=1):
    """Each pixel's k x k neighbourhood, zeros beyond the edge: (B, ⌈H/stride⌉, ⌈W/stride⌉, k k C)."""
    xp, (_, h, w, _), p = xp_of(x), x.shape, k // 2
    x = xp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    return xp.concatenate([x[:, i : i + h : stride, j : j + w : stride] for i in range(k) for j in range(k)], -1)


def plain_conv2d(x, w, b=None, stride=1):
    k, _, c, out = w.shape
    columns = patches(x, k, stride)
    y = xp_of(x).matmul(columns.reshape(-1, k * k * c), w.reshape(k * k * c, out))
    y = y.reshape(*columns.shape[:3], out)
    return y if b is None else y + b


def plain_conv2d_dw(x, g, k, stride=1):
    columns = patches(x, k, stride)
    columns, g = columns.reshape(-1, columns.shape[-1]), g.reshape(-1, g.shape[-1])
    return xp_of(x).matmul(columns.T, g).reshape(k, k, x.shape[-1], -1)


def plain_conv2d_dx(g, w, shape, stride=1):
    """A convolution too: of g, spread out by the stride, with the kernel turned half round."""
    if stride > 1:
        spread = xp_of(g).zeros((*shape[:3], g.shape[-1]), g.dtype)
        spread[:, ::stride, ::stride] = g
        g = spread
    return plain_conv2d(g, winograd.turn(w))


@primitive
def conv2d(x, w, b=None, stride=1):
    """y[i, j] = Σ_{u,v} x[s i + u - p, s j + v - p] w[u, v] + b,  p = ⌊k/2⌋, zeros beyond the edge.

    What is called convolution in networks (a correlation: the kernel is not turned round).
    x: (B, H, W, C); w: (k, k, C, O), k odd; b: (O,) or None; stride s.
    Returns (B, ⌈H/s⌉, ⌈W/s⌉, O).
    """
    return (fast.conv2d if xp_of(x) is np else plain_conv2d)(x, w, b, stride)


@primitive
def conv2d_dx(g, w, shape, stride=1):
    """Gradient with respect to the image, of `shape`."""
    return (fast.conv2d_dx if xp_of(g) is np else plain_conv2d_dx)(g, w, shape, stride)


@primitive
def conv2d_dw(x, g, k, stride=1):
    """Gradient with respect to the k x k kernel."""
    return (fast.conv2d_dw if xp_of(x) is np else plain_conv2d_dw)(x, g, k, stride)


def _conv2d_vjp(argnums, ans, args, kwargs):
    def gradients(x, w, b=None, stride=1):
        def vjp(g):
            if xp_of(g) is np and {0, 1} <= set(argnums) and not any(map(isbox, (g, x, w))):
                dx, dw = fast.conv2d_gradients(g, x, w, stride)
            else:
                dx = conv2d_dx(g, w, x.shape, stride) if 0 in argnums else None
                dw = conv2d_dw(x, g, w.shape[0], stride) if 1 in argnums else None
            return [(dx, dw)[i] if i < 2 else pixel_sum(g) for i in argnums]

        return vjp

    return gradients(*args, **kwargs)


def pixel_sum(g):
    """The sum over examples and positions, (..., C) -> (C,), as a product with ones: a sum over short rows is slow."""
    rows = reshape(g, (-1, g.shape[-1]))
    return reshape(matmul(xp_of(g).ones((1, rows.shape[0]), g.dtype), rows), (-1,))


defvjp_argnums(conv2d, _conv2d_vjp)
defvjp(
    conv2d_dx,
    lambda ans, g, w, shape, stride=1: lambda h: conv2d(h, w, None, stride),
    lambda ans, g, w, shape, stride=1: lambda h: conv2d_dw(h, g, w.shape[0], stride),
)
defvjp(
    conv2d_dw,
    lambda ans, x, g, k, stride=1: lambda h: conv2d_dx(g, h, x.shape, stride),
    lambda ans, x, g, k, stride=1: lambda h: conv2d(x, h, None, stride),
)


def upsample(x):
    """Nearest neighbour: every pixel becomes a 2 x 2 block."""
    b, h, w, c = x.shape
    blocks = broadcast_to(reshape(x, (b, h, 1, w, 1, c)), (b, h, 2, w, 2, c))
    return reshape(blocks, (b, 2 * h, 2 * w, c))


@primitive
def doubled_conv2d(x, w, b=None):
    """conv2d(upsample(x), w, b) for a 3 x 3 kernel: on a CPU the image is not made four times as large for it."""
    return fast.doubled_conv2d(x, w, b) if xp_of(x) is np else plain_conv2d(upsample(x), w, b)


def _doubled_conv2d_vjp(argnums, ans, args, kwargs):
    def gradients(x, w, b=None):
        def vjp(g):
            if xp_of(g) is np and not any(map(isbox, (g, x, w))):
                dx, dw = fast.doubled_conv2d_gradients(g, x, w)
            else:
                double = upsample(x)
                dx = 4 * average_pool(conv2d_dx(g, w, double.shape))
                dw = conv2d_dw(double, g, w.shape[0])
            return [(dx, dw)[i] if i < 2 else pixel_sum(g) for i in argnums]

        return vjp

    return gradients(*args, **kwargs)


defvjp_argnums(doubled_conv2d, _doubled_conv2d_vjp)


def average_pool(x):
    """Every 2 x 2 block becomes its mean; H and W even."""
    b, h, w, c = x.shape
    return mean(reshape(x, (b, h // 2, 2, w // 2, 2, c)), axis=(2, 4))


def space_to_depth(x, k=2):
    """Every k x k block becomes one pixel of k k C channels: (B, H, W, C) -> (B, H/k, W/k, k k C)."""
    b, h, w, c = x.shape
    x = transpose(reshape(x, (b, h // k, k, w // k, k, c)), (0, 1, 3, 2, 4, 5))
    return reshape(x, (b, h // k, w // k, k * k * c))


def depth_to_space(x, k=2):
    """The inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = transpose(reshape(x, (b, h, w, k, k, c // (k * k))), (0, 1, 3, 2, 4, 5))
    return reshape(x, (b, h * k, w * k, c // (k * k)))


def crop(x, h, w):
    """The upper left h x w of an image: an odd size upsampled is one row and column too many."""
    return x if x.shape[1:3] == (h, w) else getitem(x, (slice(None), slice(h), slice(w)))
