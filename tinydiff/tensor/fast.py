"""The primitives that take a network's time, convolution and group norm, for NumPy on a CPU: the same numbers, sooner.

Both work through the batch a few images at a time, so that what they write is still in the cache when they read it
again; and both treat a row of pixels as one long vector, because NumPy's inner loop should not be one pixel short.
The 3 x 3 convolution of stride 1, which is most of a U-Net, has a room of its own: winograd.py.

Law: equal to conv.plain_* and ops.plain_group_norm (laws/tensor.py).
"""
import contextlib
import ctypes

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import winograd
from .autodiff import defvjp_argnums, isbox, primitive

CHUNK = 52_000  # numbers in a slice of the batch: 200 kB of float32, and what is made of them, stay in the cache


def keep_memory():
    """Ask the C library to keep freed memory for the next step rather than give it back: a tenth of a step's time.

    A step frees and takes the same arrays each time; given back, every page of them has to be cleared again. Linux
    (glibc) only; elsewhere nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def _slices(x, channels=0):
    """Slices of a batch of x (B, ..., C), or of an array alike with more channels: as few as may be, of one size.

    The buffers are of the first one's size, and a shorter last one would use them in part and wait for them whole.
    """
    an_example = x.size // len(x) // x.shape[-1] * max(x.shape[-1], channels)
    step = -(-len(x) // -(-len(x) // max(1, CHUNK // an_example)))
    return [slice(i, i + step) for i in range(0, len(x), step)]


# Convolution


class _Columns:
    """`conv.patches`, one slice of the batch at a time, into one buffer.

    The k neighbours along a row are k C numbers in a row already, so a column is k runs and not k k pieces.
    """

    def __init__(self, x, k, stride):
        (_, h, w, c), self.p = x.shape, k // 2
        self.slices, self.x = _slices(x), x
        n = self.slices[0].stop
        self.padded = np.zeros((n, h + 2 * self.p, w + 2 * self.p, c), x.dtype)
        s = self.padded.strides
        shape = (n, -(-h // stride), -(-w // stride), k, k * c)
        self.windows = as_strided(self.padded, shape, (s[0], stride * s[1], stride * s[2], s[1], s[3]))
        self.buffer = np.empty(shape, x.dtype)

    def __iter__(self):
        p, k = self.p, self.buffer.shape[3]
        for part in self.slices:
            x = self.x[part]
            self.padded[: len(x), p : p + x.shape[1], p : p + x.shape[2]] = x
            np.copyto(self.buffer[: len(x)], self.windows[: len(x)])
            yield part, self.buffer[: len(x)].reshape(-1, k * self.buffer.shape[4])


def _pixels(x, channels):
    """What `_Columns` would give for k = 1: the pixels as they lie."""
    for part in _slices(x, channels):
        yield part, x[part].reshape(-1, x.shape[3])


def conv2d(x, w, b=None, stride=1):
    k, _, _, o = w.shape
    if _suits_winograd(w, stride):
        return winograd.conv2d(x, w, b, _slices(x, o))
    if k == 1:
        x, stride = x[:, ::stride, ::stride], 1
    elif o < 4 <= x.shape[3] and stride == 1:  # the columns would be wider than what they are made for
        y = _scatter(x, winograd.turn(w), (*x.shape[:3], o), 1)
        return y if b is None else y + b
    out = np.empty((len(x), -(-x.shape[1] // stride), -(-x.shape[2] // stride), o), x.dtype)
    row = None if b is None else np.tile(b, out.shape[2])
    for part, columns in _pixels(x, o) if k == 1 else _Columns(x, k, stride):
        y = out[part]
        np.matmul(columns, w.reshape(-1, o), out=y.reshape(-1, o))
        if b is not None:
            y.reshape(len(y), y.shape[1], -1)[...] += row
    return out


def _suits_winograd(w, stride):
    """With very few channels the mixing of rows costs more than it saves."""
    return w.shape[0] == 3 and stride == 1 and min(w.shape[2:]) >= 4


def conv2d_gradients(g, x, w, stride=1):
    """(dx, dw) together: they share work where Winograd does it."""
    if _suits_winograd(w, stride):
        return winograd.gradients(g, x, w, _slices(x, w.shape[3]))
    return conv2d_dx(g, w, x.shape, stride), conv2d_dw(x, g, w.shape[0], stride)


def doubled_conv2d(x, w, b=None):
    """Of a 3 x 3 kernel, like its gradients."""
    return winograd.conv2d(x, w, b, _slices(x, 4 * w.shape[3]), doubled=True)


def doubled_conv2d_gradients(g, x, w):
    return winograd.gradients(g, x, w, _slices(x, 4 * w.shape[3]), doubled=True)


def conv2d_dw(x, g, k, stride=1):
    c, o = x.shape[-1], g.shape[-1]
    if k == 1:
        return np.matmul(x[:, ::stride, ::stride].reshape(-1, c).T, g.reshape(-1, o)).reshape(1, 1, c, o)
    if o < c and stride == 1:  # seen from the other side: narrower columns
        return winograd.turn(conv2d_dw(g, x, k))
    dw = np.zeros((k * k * c, o), x.dtype)
    for part, columns in _Columns(x, k, stride):
        dw += np.matmul(columns.T, g[part].reshape(-1, o))
    return dw.reshape(k, k, c, o)


def conv2d_dx(g, w, shape, stride=1):
    return conv2d(g, winograd.turn(w)) if stride == 1 else _scatter(g, w, shape, stride)


def _scatter(g, w, shape, stride):
    """conv2d_dx by what each pixel of g sends to its k x k neighbours."""
    k, _, c, o = w.shape
    p, (h, v) = k // 2, g.shape[1:3]
    dx, to_columns = np.empty(shape, g.dtype), w.reshape(-1, o).T
    for part in _slices(dx):
        d = np.matmul(g[part].reshape(-1, o), to_columns).reshape(-1, h, v, k, k, c)
        padded = np.zeros((len(d), shape[1] + 2 * p, shape[2] + 2 * p, c), g.dtype)
        for i in range(k):
            for j in range(k):
                padded[:, i : i + stride * h : stride, j : j + stride * v : stride] += d[:, :, :, i, j]
        dx[part] = padded[:, p : p + shape[1], p : p + shape[2]]
    return dx


# Group norm, with or without silu
#
# Of x and a shift that each image has for each channel: u = a x + b, where a = γ rstd, b = β + (shift - mean) a; and
# with h = u/2, t = 1 + tanh h:  y = silu u = h t,  dy/du = 1 - (2 - t)(1 - y)/2, twice which is kept for the way back.
# What counts is how often a pixel is touched, and how many calls that takes. So coefficients are worked out for the
# whole batch, as (B, C), from sums over positions, and only what is done to every pixel goes slice by slice.


def _rows(coefficient, width):
    """(B, C) -> (B, 1, width C): the coefficients of a row of pixels."""
    return np.repeat(coefficient[:, None], width, 1).reshape(len(coefficient), 1, -1)


class _Sums:
    """Sums over positions, (B, H, W C) -> (B, C), put together slice by slice: of y, and of x y."""

    def __init__(self, x, c):
        self.x, self.c, self.ones = x, c, np.ones((1, x.shape[1]), x.dtype)
        self.of_y, self.of_xy = np.empty((2, len(x), x.shape[2]), x.dtype)

    def add(self, part, y):
        np.matmul(self.ones, y, out=self.of_y[part, None])
        np.einsum("nij,nij->nj", self.x[part], y, out=self.of_xy[part])

    def found(self):
        return (rows.reshape(len(rows), -1, self.c).sum(1) for rows in (self.of_y, self.of_xy))


def _group_mean(sums, groups, n):
    """(B, C) sums over n positions each -> their group's mean, (B, C)."""
    c = sums.shape[1]
    means = sums.reshape(len(sums), groups, -1).sum(2) / sums.dtype.type(n * c // groups)
    return np.repeat(means, c // groups, 1)


def _moments(x, shift, groups, c):
    """(pixel sums, offset, variance) of x + shift (B, H, W C), each (B, C); x + offset has no mean."""
    n, found = x.shape[1] * x.shape[2] // c, _Sums(x, c)
    for part in _slices(x):
        found.add(part, x[part])
    sums, squares = found.found()
    squares += n * shift * shift
    mean, square = _group_mean(sums + n * shift, groups, n), _group_mean(squares + 2 * shift * sums, groups, n)
    offset, var = shift - mean, square - mean * mean
    if (_group_mean(squares, groups, n) > 32 * var).any():  # digits were lost: once more, about the mean
        y = x + _rows(offset, x.shape[2] // c)
        var = _group_mean(np.einsum("nij,nij->nj", y, y).reshape(len(x), -1, c).sum(1), groups, n)
    return sums, offset, var


def _as_rows(x):
    """(B, ..., C) -> (B, H, W C), whatever stands between."""
    return x.reshape(x.shape[0], x.shape[1] if x.ndim > 2 else 1, -1)


def group_norm(x, gamma, beta, groups, silu=False, eps=1e-5, shift=None):
    """ops.group_norm."""
    if shift is None:
        shift = np.zeros((x.shape[0], x.shape[-1]), x.dtype)
    kept = {} if any(map(isbox, (x, gamma, beta, shift))) else None
    return _group_norm(x, gamma, beta, shift, groups, silu, eps, kept)


@primitive
def _group_norm(x, gamma, beta, shift, groups, silu, eps, kept):
    """kept: a dict for what the way back can use, or None if there is none."""
    c, rows = x.shape[-1], _as_rows(x)
    width, out = rows.shape[2] // c, np.empty(rows.shape, x.dtype)
    sums, offset, var = _moments(rows, shift, groups, c)
    rstd = 1 / np.sqrt(var + x.dtype.type(eps))
    scale = x.dtype.type(0.5 if silu else 1)
    a = scale * gamma * rstd
    b = _rows(scale * beta + offset * a, width)
    a = _rows(a, width)
    slope = np.empty(rows.shape, x.dtype) if silu and kept is not None else None
    for part in _slices(rows):
        y = np.multiply(rows[part], a[part], out=out[part])
        y += b[part]
        if silu:
            t = np.tanh(y, out=None if slope is None else slope[part])
            t += 1
            y *= t
        if slope is not None:
            np.subtract(2, t, out=t)
            t *= 1 - y
            np.subtract(2, t, out=t)
    if kept is not None:
        kept.update(sums=sums, offset=offset, rstd=rstd, twice_slope=slope)
    return out.reshape(x.shape)


@primitive
def _group_norm_back(g, x, gamma, beta, shift, groups, silu, eps, kept):
    """The gradients with respect to x, γ, β and shift, in that order."""
    c, x, g = x.shape[-1], _as_rows(x), _as_rows(g)
    n, width, scale = x.shape[1] * x.shape[2] // c, x.shape[2] // c, x.dtype.type(0.5 if silu else 1)
    dx, du_sums = np.empty(x.shape, x.dtype), _Sums(x, c)
    for part in _slices(x):
        du = np.multiply(g[part], kept["twice_slope"][part] if silu else 1, out=dx[part])
        du_sums.add(part, du)
    sums, offset, rstd = kept["sums"], kept["offset"], kept["rstd"]
    dbeta, dgamma = (scale * total for total in du_sums.found())
    dgamma = rstd * (dgamma + offset * dbeta)
    a, b = gamma * rstd, -rstd * rstd * _group_mean(gamma * dgamma, groups, n)
    shared = offset * b - rstd * _group_mean(gamma * dbeta, groups, n)
    dshift = a * dbeta + b * sums + n * shared
    a, b, shared = _rows(scale * a, width), _rows(b, width), _rows(shared, width)
    for part in _slices(x):
        d = dx[part]
        d *= a[part]
        d += x[part] * b[part]
        d += shared[part]
    return dx, dgamma.sum(0), dbeta.sum(0), dshift


def _group_norm_vjp(argnums, ans, args, kwargs):
    def vjp(g):
        dx, *others = _group_norm_back(g, *args, **kwargs)
        gradients = [dx.reshape(args[0].shape), *others]
        return [gradients[i] for i in argnums]

    return vjp


defvjp_argnums(_group_norm, _group_norm_vjp)
