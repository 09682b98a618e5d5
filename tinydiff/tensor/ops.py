"""The table of derivatives: each primitive, and beside it its vector-Jacobian product.

A vjp takes the gradient g of the loss with respect to the answer and returns that with respect to one argument.
They are written with these same primitives, so they can be differentiated again. Arrays may be NumPy's or CuPy's:
a primitive follows its arguments. float32 stays float32, for Python's own numbers carry no precision.

Law: every entry is checked against finite differences by tests/test_tensor.py.
"""
import functools
import math

import numpy as np

from . import fast
from .autodiff import Tensor, defvjp, defvjp_argnums, primitive, value, xp_of


def _shape(x):
    return getattr(x, "shape", ())


def unbroadcast(g, shape):
    """The sum of g over the axes that broadcasting added or stretched: the vjp of broadcasting."""
    if _shape(g) == shape:
        return g
    extra = len(_shape(g)) - len(shape)
    stretched = tuple(i + extra for i, n in enumerate(shape) if n == 1 and _shape(g)[i + extra] != 1)
    return reshape(sum(g, axis=(*range(extra), *stretched)), shape)


# Arithmetic, with broadcasting


@primitive
def add(x, y):
    return x + y


@primitive
def subtract(x, y):
    return x - y


@primitive
def multiply(x, y):
    return x * y


@primitive
def divide(x, y):
    return x / y


@primitive
def negative(x):
    return -x


@primitive
def power(x, p):
    """x**p for a plain number p."""
    return x**p


# What a vjp mentions is kept until the way back. Where that is a shape alone, it is a shape that is mentioned.


def _back_to(shape, f=lambda g: g):
    return lambda g: unbroadcast(f(g), shape)


defvjp(add, lambda ans, x, y: _back_to(_shape(x)), lambda ans, x, y: _back_to(_shape(y)))
defvjp(subtract, lambda ans, x, y: _back_to(_shape(x)), lambda ans, x, y: _back_to(_shape(y), negative))
defvjp(
    multiply,
    lambda ans, x, y: _back_to(_shape(x), lambda g: g * y),
    lambda ans, x, y: _back_to(_shape(y), lambda g: g * x),
)
defvjp(
    divide,
    lambda ans, x, y: _back_to(_shape(x), lambda g: g / y),
    lambda ans, x, y: _back_to(_shape(y), lambda g: -g * ans / y),
)
defvjp(negative, lambda ans, x: lambda g: -g)
defvjp(power, lambda ans, x, p: lambda g: g * (p * x ** (p - 1)))


# Functions of one variable


@primitive
def exp(x):
    return xp_of(x).exp(x)


@primitive
def log(x):
    return xp_of(x).log(x)


@primitive
def sqrt(x):
    return xp_of(x).sqrt(x)


@primitive
def tanh(x):
    return xp_of(x).tanh(x)


@primitive
def sin(x):
    return xp_of(x).sin(x)


@primitive
def cos(x):
    return xp_of(x).cos(x)


@primitive
def sigmoid(x):
    """1 / (1 + e^-x), through tanh: it cannot overflow."""
    return 0.5 * xp_of(x).tanh(0.5 * x) + 0.5


@primitive
def silu(x):
    """x σ(x)."""
    return x * (0.5 * xp_of(x).tanh(0.5 * x) + 0.5)


@primitive
def erfc(x):
    """1 - erf(x), to the last digit of double precision: NumPy has none, so Python's own over the array."""
    if xp_of(x) is np:
        return np.asarray(_erfc(x), dtype=np.result_type(x))
    return _device_erfc(x)


_erfc = np.frompyfunc(math.erfc, 1, 1)


def _device_erfc(x):
    from cupyx.scipy.special import erfc as device_erfc

    return device_erfc(x)


defvjp(exp, lambda ans, x: lambda g: g * ans)
defvjp(log, lambda ans, x: lambda g: g / x)
defvjp(sqrt, lambda ans, x: lambda g: 0.5 * g / ans)
defvjp(tanh, lambda ans, x: lambda g: g * (1 - ans * ans))
defvjp(sin, lambda ans, x: lambda g: g * cos(x))
defvjp(cos, lambda ans, x: lambda g: -g * sin(x))
defvjp(sigmoid, lambda ans, x: lambda g: g * (ans * (1 - ans)))
defvjp(erfc, lambda ans, x: lambda g: g * (-2 / math.sqrt(math.pi)) * exp(-x * x))


def _silu_vjp(ans, x):
    """d(x σ)/dx = σ + x σ (1-σ)."""

    def vjp(g):
        s = sigmoid(x)
        return g * (s + ans * (1 - s))

    return vjp


defvjp(silu, _silu_vjp)


# Products


@primitive
def matmul(x, y):
    """x @ y for stacks of matrices, (..., n, k) @ (..., k, m)."""
    return xp_of(x, y).matmul(x, y)


def swap(x):
    """The transpose of the last two axes."""
    axes = list(range(x.ndim))
    return transpose(x, (*axes[:-2], axes[-1], axes[-2]))


defvjp(
    matmul,
    lambda ans, x, y: _back_to(_shape(x), lambda g: matmul(g, swap(y))),
    lambda ans, x, y: _back_to(_shape(y), lambda g: matmul(swap(x), g)),
)


@primitive
def linear(x, w, b):
    """x w + b over the last axis: x (..., n), w (n, m), b (m,)."""
    y = xp_of(x).matmul(x.reshape(-1, x.shape[-1]), w)
    y += b
    return y.reshape(*x.shape[:-1], w.shape[1])


def _rows(x):
    return reshape(x, (-1, x.shape[-1]))


def _linear_dx(ans, x, w, b):
    shape = x.shape
    return lambda g: reshape(matmul(_rows(g), swap(w)), shape)


defvjp(
    linear,
    _linear_dx,
    lambda ans, x, w, b: lambda g: matmul(swap(_rows(x)), _rows(g)),
    lambda ans, x, w, b: lambda g: sum(_rows(g), axis=0),
)


# Reductions


def _axes(axis, ndim):
    axis = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(i % ndim for i in axis)


def _keep(x, axis):
    """The shape of a reduction of x with keepdims."""
    axes = _axes(axis, x.ndim)
    return tuple(1 if i in axes else n for i, n in enumerate(x.shape))


@primitive
def sum(x, axis=None, keepdims=False):
    return xp_of(x).sum(x, axis=axis, keepdims=keepdims)


@primitive
def max(x, axis=None, keepdims=False):
    return xp_of(x).max(x, axis=axis, keepdims=keepdims)


def _sum_vjp(ans, x, axis=None, keepdims=False):
    shape, kept = x.shape, _keep(x, axis)
    return lambda g: broadcast_to(reshape(g, kept), shape)


defvjp(sum, _sum_vjp)


def _max_vjp(ans, x, axis=None, keepdims=False):
    """The gradient goes to the largest entry; equal ones share it."""
    shape = _keep(x, axis)
    hits = xp_of(x).asarray(value(x) == value(ans).reshape(shape), dtype=x.dtype)
    share = hits / sum(hits, axis=axis, keepdims=True)
    return lambda g: reshape(g, shape) * share


defvjp(max, _max_vjp)


def mean(x, axis=None, keepdims=False):
    n = math.prod(x.shape[i] for i in _axes(axis, x.ndim))
    return sum(x, axis=axis, keepdims=keepdims) * (1 / n)


# Shape


def per_example(x):
    """The sum over each example's coordinates: (B, ...) -> (B,)."""
    return sum(x, axis=tuple(range(1, x.ndim)))


@primitive
def reshape(x, shape):
    return xp_of(x).reshape(x, shape)


@primitive
def transpose(x, axes=None):
    return xp_of(x).transpose(x, axes)


def _inverse(axes):
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


@primitive
def broadcast_to(x, shape):
    return xp_of(x).broadcast_to(x, shape)


@primitive
def getitem(x, index):
    """x[index] for integers and slices; `take` gathers by an array of indices."""
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, list) or _shape(part) != ():
            raise ValueError("an index must be made of integers and slices, got an array; use take(x, indices, axis)")
    return x[index]


@primitive
def _put(g, index, shape):
    """Zeros of `shape` with g at `index`: the vjp of getitem."""
    out = xp_of(g).zeros(shape, g.dtype)
    out[index] = g
    return out


@primitive
def take(x, indices, axis=0):
    return xp_of(x).take(x, indices, axis=axis)


@primitive
def _scatter(g, indices, axis, shape):
    """Zeros of `shape` with g added at `indices` along `axis`: the vjp of take."""
    xp, axis = xp_of(g), axis % len(shape)
    out = xp.zeros(shape, g.dtype)
    xp.add.at(out, (slice(None),) * axis + (indices,), g)
    return out


@primitive
def _concatenate(axis, *xs):
    return xp_of(*xs).concatenate(xs, axis=axis)


def concatenate(xs, axis=-1):
    return _concatenate(axis, *xs)


def _concatenate_vjp(argnums, ans, args, kwargs):
    axis, xs = args[0] % ans.ndim, args[1:]
    ends = [0]
    for x in xs:
        ends.append(ends[-1] + x.shape[axis])
    before = (slice(None),) * axis
    return lambda g: [getitem(g, (*before, slice(ends[i - 1], ends[i]))) for i in argnums]


defvjp(reshape, lambda ans, x, shape: functools.partial(reshape, shape=x.shape))
defvjp(
    transpose,
    lambda ans, x, axes=None: functools.partial(transpose, axes=axes and _inverse(_axes(axes, x.ndim))),
)
defvjp(broadcast_to, lambda ans, x, shape: _back_to(x.shape))
defvjp(getitem, lambda ans, x, index: functools.partial(_put, index=index, shape=x.shape))
defvjp(_put, lambda ans, g, index, shape: lambda h: getitem(h, index))
defvjp(take, lambda ans, x, indices, axis=0: functools.partial(_scatter, indices=indices, axis=axis, shape=x.shape))
defvjp(_scatter, lambda ans, g, indices, axis, shape: lambda h: take(h, indices, axis))
defvjp_argnums(_concatenate, _concatenate_vjp)


# Blocks of networks


@primitive
def softmax(x, axis=-1):
    """e^x / Σ e^x along an axis, shifted by the largest x so that it cannot overflow."""
    y = xp_of(x).exp(x - x.max(axis=axis, keepdims=True))
    return y / y.sum(axis=axis, keepdims=True)


defvjp(softmax, lambda ans, x, axis=-1: lambda g: ans * (g - sum(g * ans, axis=axis, keepdims=True)))


@primitive
def log_softmax(x, axis=-1):
    """ln softmax(x), which neither overflows nor meets ln 0: x - m - ln Σ e^(x-m), m the largest x."""
    y = x - x.max(axis=axis, keepdims=True)
    return y - xp_of(x).log(xp_of(x).exp(y).sum(axis=axis, keepdims=True))


defvjp(log_softmax, lambda ans, x, axis=-1: lambda g: g - exp(ans) * sum(g, axis=axis, keepdims=True))


def attention(q, k, v, mask=None):
    """softmax(q kᵀ / √d) v: queries (B, L, d), keys (B, M, d), values (B, M, e) -> (B, L, e).

    mask: (B, M), 1 for keys to look at and 0 for padding; where there is none to look at, the answer is 0.
    Source : Vaswani et al. 2017, arXiv:1706.03762, eq. (1) and section 3.2.3 (the mask).
    """
    scores = matmul(q, swap(k)) * q.shape[-1] ** -0.5
    if mask is None:
        return matmul(softmax(scores), v)
    seen = xp_of(k).asarray(mask, dtype=value(k).dtype)[:, None, :]
    return matmul(softmax(scores + (seen - 1) * 1e9) * seen, v)  # e^-1e9 is 0, but not beside itself alone


def group_norm(x, gamma, beta, groups, silu=False, eps=1e-5, shift=None):
    """γ (x - mean) / √(var + ε) + β, mean and variance over positions and the channels of a group; then silu, if asked.

    Source : Wu & He 2018, arXiv:1803.08494, eqs. (1)-(2), (6)-(7).
    x      : (B, ..., C), channels last; gamma, beta: (C,); groups divides C.
    shift  : (B, C), what to add to x first at every position, or None.
    """
    norm = fast.group_norm if xp_of(x) is np else plain_group_norm
    return norm(x, gamma, beta, groups, silu, eps, shift)


def plain_group_norm(x, gamma, beta, groups, with_silu=False, eps=1e-5, shift=None):
    """The same, as the formula reads: the oracle of the fast one, and what runs on a GPU."""
    if shift is not None:
        x = x + reshape(shift, (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]))
    y = reshape(x, (x.shape[0], -1, groups, x.shape[-1] // groups))
    y = y - mean(y, axis=(1, 3), keepdims=True)
    y = y / sqrt(mean(y * y, axis=(1, 3), keepdims=True) + eps)
    y = reshape(y, x.shape) * gamma + beta
    return silu(y) if with_silu else y


# The operators


def _swapped(f):
    return lambda x, y: f(y, x)


for _name, _f in {"add": add, "sub": subtract, "mul": multiply, "truediv": divide, "matmul": matmul}.items():
    setattr(Tensor, f"__{_name}__", _f)
    setattr(Tensor, f"__r{_name}__", _swapped(_f))
Tensor.__pow__, Tensor.__neg__, Tensor.__getitem__ = power, negative, getitem
Tensor.T = property(transpose)
Tensor.reshape = lambda x, *shape: reshape(x, shape[0] if isinstance(shape[0], tuple) else shape)
Tensor.transpose = lambda x, *axes: transpose(x, axes or None)
Tensor.sum, Tensor.mean, Tensor.max = sum, mean, max

primitives = sorted(
    name for name, f in vars().copy().items() if getattr(f, "_is_autograd_primitive", False) and name[0] != "_"
)
