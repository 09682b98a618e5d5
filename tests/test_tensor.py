"""Every derivative against central differences, on each array library at hand; the tape; the fast paths."""
import gc
import inspect
import sys
import tracemalloc
import weakref
import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest
import strict_device
from autograd.core import primitive_vjps
from autograd.extend import defvjp, primitive
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydiff.tensor import autodiff, conv, fast, ops, tree
from tinydiff.tensor import device as devices
from tinydiff.tensor.autodiff import grad, value_and_grad

# The checker

# A central difference of step h errs by h² f'''/6 + 1e-16 |f| / h: 1e-10 of a value of order one at h = 1e-5.
# 1e-6 leaves room for curvature and for sums of many terms; a wrong formula's error is of order one.
STEP, TOLERANCE, DIRECTIONS = 1e-5, 1e-6, 2


def check_grad(f, args, seed=0):
    """Assert that the gradient of Σ c f(*args), c random, is right along random directions for each argument.

    The error is relative to the larger of the difference quotient and the sum of the magnitudes that the
    gradient adds up along the direction: blind neither to small gradients nor to cancellation.
    """
    rng = np.random.default_rng(seed)
    c = rng.standard_normal(np.shape(f(*args)))
    gradients = grad(lambda xs: ops.sum(f(*xs) * c))(list(args))
    for i, (x, g) in enumerate(zip(args, gradients, strict=True)):
        assert g.shape == x.shape, f"argument {i}: a gradient of shape {g.shape} for an array of {x.shape}"
        for _ in range(DIRECTIONS):
            d = rng.standard_normal(x.shape)
            up, down = (f(*args[:i], x + h * d, *args[i + 1 :]) for h in (STEP, -STEP))
            slope = np.sum((up - down) * c) / (2 * STEP)
            error, scale = abs(np.sum(g * d) - slope), max(np.abs(g * d).sum(), abs(slope))
            assert error <= TOLERANCE * scale, f"argument {i}: relative error {error / scale:.1e}"


# The cases


class Case(NamedTuple):
    """f(*arrays, **rest), to be differentiated by each array; through `call` if f takes them otherwise."""

    f: Any
    label: str
    shapes: tuple
    rest: dict
    call: Any = None
    positive: bool = False
    once: bool = False  # its derivative is not made of primitives

    @property
    def name(self):
        return f"{module_of(self.f).__name__.split('.')[-1]}.{self.f.__name__} {self.label}".strip()

    def arrays(self, dtype=np.float64):
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        drawn = [rng.standard_normal(shape) for shape in self.shapes]
        return [(np.abs(x) + 0.5 if self.positive else x).astype(dtype) for x in drawn]

    def on(self, put):
        """The function of the arrays alone; `put` takes the integer arrays among the rest to the device."""
        rest = {k: put(v) if isinstance(v, np.ndarray) else v for k, v in self.rest.items()}
        return lambda *xs: (self.call or self.f)(*xs, **rest)


def module_of(f):
    return sys.modules[getattr(f, "fun", f).__module__]


def case(f, label, *shapes, call=None, positive=False, once=False, **rest):
    return Case(f, label, shapes, rest, call, positive, once)


def join(axis):
    return lambda *xs: ops.concatenate(xs, axis=axis)


def norm(f, groups, silu):
    return lambda x, gamma, beta, shift=None: f(x, gamma, beta, groups, silu, shift=shift)


def norm_as_a_primitive(x, gamma, beta, shift):
    return fast._group_norm(x, gamma, beta, shift, 2, True, 1e-5, {})


PAIRS = {
    "same": [(3, 4), (3, 4)],
    "row": [(3, 4), (4,)],
    "column": [(3, 1), (3, 4)],
    "both stretched": [(2, 1, 3), (4, 1)],
    "0-d": [(), (2, 3)],
    "0-d second": [(2, 3), ()],
    "one element": [(1, 1), (2, 3)],
}
AXES = {
    "all": {},
    "axis": {"axis": 1},
    "negative axis": {"axis": -1, "keepdims": True},
    "two axes": {"axis": (0, 2)},
    "two axes kept": {"axis": (-3, 1), "keepdims": True},
}
SLICES = {
    "integer": 1,
    "slice": slice(1, 3),
    "backwards": slice(None, None, -2),
    "several": (slice(None), 2, slice(0, 1)),
    "ellipsis": (..., 1),
    "new axis": (None, slice(1, 2)),
}
SIZES = {"": (2, 6, 4, 3), "odd": (1, 5, 7, 2), "one pixel": (2, 1, 1, 3), "one row": (1, 1, 4, 2)}
INDICES = np.array([[2, 0, 2], [1, 1, 2]])

CASES = [
    *(case(f, label, *pair) for f in (ops.add, ops.subtract, ops.multiply) for label, pair in PAIRS.items()),
    *(case(ops.divide, label, *pair, positive=True) for label, pair in PAIRS.items()),
    *(case(ops.power, str(p), (3, 4), p=p, positive=True) for p in (2, 3, 1, -1, 0.5, -1.5)),
    case(ops.power, "negative base", (3, 4), p=3),
    *(case(f, "", (3, 4)) for f in (ops.negative, ops.exp, ops.tanh, ops.sin, ops.cos)),
    *(case(f, "", (3, 4)) for f in (ops.sigmoid, ops.silu, ops.erfc)),
    *(case(f, "", (3, 4), positive=True) for f in (ops.log, ops.sqrt)),
    *(case(f, "0-d", ()) for f in (ops.exp, ops.silu, ops.erfc)),
    case(ops.matmul, "", (2, 3), (3, 4)),
    case(ops.matmul, "square", (3, 3), (3, 3)),
    case(ops.matmul, "stacks", (2, 3, 4), (2, 4, 5)),
    case(ops.matmul, "stack and matrix", (2, 3, 4), (4, 5)),
    case(ops.matmul, "matrix and stack", (3, 4), (2, 4, 5)),
    case(ops.matmul, "stretched stacks", (2, 1, 3, 4), (5, 4, 2)),
    case(ops.linear, "", (3, 4), (4, 5), (5,)),
    case(ops.linear, "square", (4, 4), (4, 4), (4,)),
    case(ops.linear, "stack", (2, 3, 4), (4, 5), (5,)),
    case(ops.linear, "vector", (4,), (4, 5), (5,)),
    *(case(f, k, (2, 3, 4), **rest) for f in (ops.sum, ops.mean, ops.max) for k, rest in AXES.items()),
    case(ops.per_example, "", (2, 3, 4)),
    case(ops.per_example, "points", (3, 2)),
    case(ops.reshape, "", (2, 6), shape=(3, 4)),
    case(ops.reshape, "inferred", (2, 6), shape=(4, -1)),
    case(ops.reshape, "to 0-d", (1, 1), shape=()),
    case(ops.transpose, "", (2, 3, 4)),
    case(ops.transpose, "cyclic", (2, 3, 4), axes=(1, 2, 0)),
    case(ops.transpose, "cyclic, equal sizes", (3, 3, 3), axes=(1, 2, 0)),
    case(ops.transpose, "negative axes", (3, 3, 3), axes=(0, -1, 1)),
    case(ops.swap, "", (2, 3, 4)),
    case(ops.broadcast_to, "new axis", (3, 1), shape=(2, 3, 4)),
    case(ops.broadcast_to, "0-d", (), shape=(2, 3)),
    case(ops.unbroadcast, "", (2, 3, 4), shape=(3, 1)),
    *(case(ops.getitem, label, (3, 4, 2), index=index) for label, index in SLICES.items()),
    case(ops._put, "", (2, 4), index=(slice(1, 3), slice(None, None, -1)), shape=(3, 4)),
    case(ops.take, "rows, repeated", (3, 4), indices=INDICES),
    case(ops.take, "columns, repeated", (2, 3), indices=INDICES, axis=1),
    case(ops.take, "negative axis", (2, 3, 2), indices=np.array([2, 2, 0, -1]), axis=-2),
    case(ops._scatter, "", (2, 3, 4), indices=INDICES, axis=0, shape=(3, 4)),
    case(ops._scatter, "columns", (5, 2, 3), indices=INDICES, axis=-1, shape=(5, 3)),
    case(ops.concatenate, "rows", (1, 3), (2, 3), (1, 3), call=join(0)),
    case(ops.concatenate, "last", (2, 1), (2, 3), call=join(-1)),
    case(ops._concatenate, "", (2, 1, 2), (2, 3, 2), call=lambda *xs: ops._concatenate(1, *xs)),
    case(ops.softmax, "", (3, 4)),
    case(ops.softmax, "axis", (3, 4, 2), axis=1),
    case(ops.log_softmax, "", (3, 4)),
    case(ops.log_softmax, "axis", (3, 4, 2), axis=1),
    case(ops.attention, "", (2, 3, 4), (2, 5, 4), (2, 5, 6)),
    *(
        case(f, f"{n} groups{', silu' * silu}", (2, 3, 2, 4), (4,), (4,), call=norm(f, n, silu), once=once)
        for f, once in ((ops.plain_group_norm, False), (ops.group_norm, True), (fast.group_norm, True))
        for n in (1, 2, 4)
        for silu in (False, True)
    ),
    *(
        case(f, f"shift{', silu' * silu}", (2, 3, 2, 4), (4,), (4,), (2, 4), call=norm(f, 2, silu), once=once)
        for f, once in ((ops.plain_group_norm, False), (ops.group_norm, True), (fast.group_norm, True))
        for silu in (False, True)
    ),
    case(fast._group_norm, "", (2, 3, 2, 4), (4,), (4,), (2, 4), call=norm_as_a_primitive, once=True),
    case(ops.group_norm, "no positions", (3, 6), (6,), (6,), call=norm(ops.group_norm, 2, True), once=True),
    case(ops.group_norm, "1-d", (2, 5, 4), (4,), (4,), call=norm(ops.group_norm, 2, True), once=True),
    *(
        case(conv.conv2d, f"{k}x{k} stride {s} {label}", x, (k, k, x[3], 2), (2,), stride=s)
        for k in (1, 3)
        for s in (1, 2)
        for label, x in SIZES.items()
    ),
    case(conv.conv2d, "four channels and more", (2, 9, 6, 5), (3, 3, 5, 4), (4,)),
    case(conv.conv2d, "many channels, one pixel", (3, 1, 1, 4), (3, 3, 4, 4), (4,)),
    case(conv.conv2d, "5x5", (1, 6, 5, 2), (5, 5, 2, 3), (3,)),
    case(conv.conv2d, "stride 3", (1, 7, 5, 2), (3, 3, 2, 3), (3,), stride=3),
    case(conv.conv2d, "no bias", (2, 4, 5, 3), (3, 3, 3, 2)),
    *(
        case(conv.doubled_conv2d, label, x, (3, 3, x[3], o), (o,))
        for label, x, o in (
            ("", (2, 3, 4, 5), 4),
            ("odd", (1, 5, 3, 4), 2),
            ("one pixel", (2, 1, 1, 3), 4),
            ("one row", (1, 1, 4, 2), 3),
        )
    ),
    case(conv.doubled_conv2d, "no bias", (2, 4, 5, 3), (3, 3, 3, 2)),
    *(
        case(conv.conv2d_dx, f"{k}x{k} stride {s}", (2, g, g, 2), (k, k, 3, 2), shape=(2, 5, 5, 3), stride=s)
        for k in (1, 3)
        for s, g in ((1, 5), (2, 3))
    ),
    *(
        case(conv.conv2d_dw, f"{k}x{k} stride {s}", (2, 5, 5, 3), (2, g, g, 2), k=k, stride=s)
        for k in (1, 3)
        for s, g in ((1, 5), (2, 3))
    ),
    case(conv.pixel_sum, "", (2, 3, 4, 5)),
    *(case(f, "", (2, 4, 6, 3)) for f in (conv.upsample, conv.average_pool, conv.space_to_depth)),
    case(conv.depth_to_space, "", (2, 2, 3, 12)),
    case(conv.space_to_depth, "by 3", (1, 3, 6, 2), k=3),
    case(conv.crop, "", (1, 4, 6, 2), h=3, w=5),
    case(conv.crop, "nothing", (1, 4, 6, 2), h=4, w=6),
]


def cases(choose=lambda case: True):
    chosen = [case for case in CASES if choose(case)]
    return pytest.mark.parametrize("case", chosen, ids=[case.name for case in chosen])


@pytest.fixture(scope="module")
def double():
    """The strict double, for the tests that need no other backend."""
    autodiff.register(strict_device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_device_erfc", strict_device.erfc)
        yield strict_device


UNDER_A_PRIMITIVE = {conv.patches, conv.plain_conv2d, conv.plain_conv2d_dw, conv.plain_conv2d_dx}


def test_every_public_function_and_every_primitive_has_a_case():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for module in (ops, conv, fast):
        for name, f in vars(module).items():
            public = inspect.isfunction(f) and name[0] != "_" and f.__module__ == module.__name__
            has_derivative = f in primitive_vjps if getattr(f, "_is_autograd_primitive", False) else False
            if (public and f not in UNDER_A_PRIMITIVE and module is not fast) or has_derivative:
                assert any(case.f is f for case in CASES), f"{module.__name__}.{name} has no case"


@cases()
def test_gradient(case):
    check_grad(case.on(np.asarray), case.arrays())


@cases(lambda case: not case.once)
def test_second_derivative(case):
    """Each gradient, as a function of all the arguments, has the right gradient itself."""
    f, args = case.on(np.asarray), case.arrays()
    c = np.random.default_rng(3).standard_normal(np.shape(f(*args)))
    for i in range(len(args)):
        check_grad(lambda *xs, i=i: grad(lambda xs: ops.sum(f(*xs) * c))(list(xs))[i], args)


@cases(lambda case: case.once)
def test_no_second_derivative_is_an_error_and_not_a_number(case):
    f, args = case.on(np.asarray), case.arrays()
    with pytest.raises((NotImplementedError, TypeError)):
        grad(lambda xs: ops.sum(grad(lambda xs: ops.sum(f(*xs)))(xs)[0] ** 2))(args)


def value_and_gradients(f, args, c):
    y = f(*args)
    return y, grad(lambda xs: ops.sum(f(*xs) * c))(list(args))


def weights(case, dtype):
    shape = np.shape(case.on(np.asarray)(*case.arrays()))
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


@cases(lambda case: module_of(case.f) is not fast)  # for NumPy alone; ops.group_norm chooses
def test_every_library_gives_the_same_numbers(case, backend):
    """To 1e-12 of the largest: the fast versions and a GPU may add in another order."""
    args, c = case.arrays(), weights(case, np.float64)
    y, gradients = value_and_gradients(case.on(np.asarray), args, c)
    there = [backend.put(x) for x in args]
    got, got_gradients = value_and_gradients(case.on(backend.put), there, backend.put(c))
    for mine, theirs in zip([got, *got_gradients], [y, *gradients], strict=True):
        assert autodiff.xp_of(mine) is backend.xp
        mine = backend.get(mine)
        assert mine.shape == np.shape(theirs) and mine.dtype == np.float64
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * max(1, np.abs(theirs).max()))


@cases(lambda case: module_of(case.f) is not fast)
def test_float32_stays_float32(case, backend):
    args = [backend.put(x) for x in case.arrays(np.float32)]
    y, gradients = value_and_gradients(case.on(backend.put), args, backend.put(weights(case, np.float32)))
    assert [x.dtype for x in (y, *gradients)] == [np.float32] * (1 + len(args))


@cases(lambda case: module_of(case.f) is not fast)
def test_nothing_passes_to_the_host_and_nothing_is_doubled(case, double):
    args, c = [double.asarray(x) for x in case.arrays(np.float32)], double.asarray(weights(case, np.float32))
    f = case.on(double.asarray)
    double.count.clear()
    with double.forbid("sync", "d2h", "h2d", "f64"):
        value_and_gradients(f, args, c)
    assert not +double.count


# Planted mistakes


def planted(f, *vjps):
    wrong = primitive(f)
    defvjp(wrong, *vjps)
    return wrong


def ones(*shape):
    return np.random.default_rng(2).standard_normal(shape)


PLANTED = {
    "twice too large, at 1e-8": (
        planted(lambda x: 1e-8 * x * x, lambda ans, x: lambda g: 4e-8 * x * g),
        [(3, 4)],
    ),
    "one part in 10⁵, at 1e-8": (
        planted(lambda x: 1e-8 * x * x, lambda ans, x: lambda g: 2.00002e-8 * x * g),
        [(3, 4)],
    ),
    "sign": (planted(np.cos, lambda ans, x: lambda g: g * ops.sin(x)), [(3, 4)]),
    "zero": (planted(np.sin, lambda ans, x: lambda g: 0 * g), [(3, 4)]),
    "one entry of many": (
        planted(lambda x: x * x, lambda ans, x: lambda g: 2 * x * g * (np.arange(12).reshape(3, 4) != 5)),
        [(3, 4)],
    ),
    "no unbroadcast": (
        planted(lambda x, y: x + y, lambda ans, x, y: lambda g: g, lambda ans, x, y: lambda g: g),
        [(3, 4), (4,)],
    ),
    "unbroadcast by mean": (
        planted(
            lambda x, y: x + y,
            lambda ans, x, y: lambda g: g,
            lambda ans, x, y: lambda g: ops.mean(g, axis=0),
        ),
        [(3, 4), (4,)],
    ),
    "weight not transposed": (
        planted(
            lambda x, w: x @ w,
            lambda ans, x, w: lambda g: ops.matmul(g, w),
            lambda ans, x, w: lambda g: ops.matmul(ops.swap(x), g),
        ),
        [(3, 3), (3, 3)],
    ),
    "kernel not turned": (
        planted(
            lambda x, w: conv.conv2d.fun(x, w),
            lambda ans, x, w: lambda g: conv.conv2d(g, ops.transpose(w, (0, 1, 3, 2))),
            lambda ans, x, w: lambda g: conv.conv2d_dw(x, g, 3),
        ),
        [(1, 4, 4, 2), (3, 3, 2, 2)],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_wrong_gradient_is_caught(name):
    f, shapes = PLANTED[name]
    with pytest.raises(AssertionError):
        check_grad(f, [ones(*shape) for shape in shapes])


def test_right_gradient_at_a_small_scale_passes():
    check_grad(planted(lambda x: 1e-8 * x * x, lambda ans, x: lambda g: 2e-8 * x * g), [ones(3, 4)])


@cases(lambda case: case.f in primitive_vjps and case.f is not ops._concatenate)
def test_each_entry_of_the_table_is_watched(case, monkeypatch):
    """Spoil any one entry of the table by a part in a thousand, and the case of that primitive fails."""
    right = primitive_vjps[case.f]

    def spoiled(which):
        def vjps(argnums, *args):
            vjp = right(argnums, *args)
            return lambda g: [v * 1.001 if n == which else v for n, v in zip(argnums, vjp(g), strict=True)]

        return vjps

    for which in range(len(case.shapes)):
        monkeypatch.setitem(primitive_vjps, case.f, spoiled(which))
        with pytest.raises(AssertionError, match=f"argument {which}"):
            check_grad(case.on(np.asarray), case.arrays())


# Operators


OPERATORS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / y,
    "@": lambda x, y: x @ y,
    "-x": lambda x, y: -x,
    "**": lambda x, y: x**3,
    "[]": lambda x, y: x[1:, None] * y[..., 0],
    "number left": lambda x, y: 2 / (1 + (3 - 0.5 * x) ** 2),
    "T": lambda x, y: x.T * y,
    "reshape": lambda x, y: x.reshape(-1, 1) + x.reshape((9, 1)) * y.reshape(1, 9),
    "transpose": lambda x, y: x.reshape(1, 3, 3).transpose(2, 0, 1) * y.transpose(),
    "reductions": lambda x, y: x.sum() * y.mean(axis=0, keepdims=True) + y.max(1),
    "len, shape, ndim, size": lambda x, y: x * (len(y) + y.shape[0] + y.ndim + y.size),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_a_tensor(name, backend):
    """Tensor with tensor, and with an array on either side."""
    f, x, y = OPERATORS[name], ones(3, 3) + 4, ones(3, 3) + 5
    check_grad(lambda x, y: f(x, y) + 0 * y[0, 0] + 0 * x[0, 0], [x, y])
    want = f(x, y)
    on = [backend.put(a) for a in (x, y)]
    for boxed in (f, lambda x, y: f(x, on[1]), lambda x, y: f(on[0], y)):
        got = []
        value_and_grad(lambda xs, boxed=boxed, got=got: got.append(boxed(*xs)) or ops.sum(xs[0]))(on)
        np.testing.assert_allclose(backend.get(autodiff.value(got[0])), want, rtol=1e-13)


def test_every_box_is_ours():
    """Also around the scalars that NumPy's full reductions give: autograd's own box brings its own table."""
    for dtype in (np.float32, np.float64):
        boxes = []
        grad(lambda x, boxes=boxes: boxes.append(ops.sum(x)) or boxes[0])(ones(3).astype(dtype))
        assert type(boxes[0]) is autodiff.Tensor and type(autodiff.value(boxes[0])) is dtype


def test_equal_maxima_share_the_gradient():
    x = np.array([[1.0, 3, 3], [2, 2, 2], [0, 1, 5]])
    g = grad(lambda x: ops.sum(ops.max(x, axis=1) * np.array([1.0, 3, 5])))(x)
    assert np.array_equal(g, [[0, 0.5, 0.5], [1, 1, 1], [0, 0, 5]])


@pytest.mark.parametrize("index", [[0, 0], np.array([0, 0]), (slice(None), np.array([1])), np.eye(3) > 0])
def test_indexing_by_an_array_is_refused(index):
    """Its gradient would keep one of the contributions to an element taken twice."""
    with pytest.raises(ValueError, match="take"):
        grad(lambda x: ops.sum(x[index]))(ones(3, 3))


# The tape


def test_gradients_have_the_shape_of_the_tree(backend):
    put = backend.put
    layers = [{"w": put(ones(3, 2)), "b": put(ones(2))}, {"w": put(ones(2, 1))}]
    params = {"layers": layers, "unused": put(ones(4))}

    def loss(p, x):
        h = ops.tanh(ops.linear(x, p["layers"][0]["w"], p["layers"][0]["b"]))
        return ops.sum(ops.matmul(h, p["layers"][1]["w"]) ** 2)

    value, grads = value_and_grad(loss)(params, put(ones(5, 3)))
    assert np.shape(value) == () and float(value) > 0
    assert list(grads) == ["layers", "unused"] and list(grads["layers"][0]) == ["w", "b"]
    assert [g.shape for g in tree.leaves(grads)] == [x.shape for x in tree.leaves(params)]
    assert all(type(g) is type(x) for g, x in zip(tree.leaves(grads), tree.leaves(params), strict=True))
    assert not backend.get(grads["unused"]).any()
    for g, step in zip(grad(loss)(params, put(ones(5, 3)))["layers"], grads["layers"], strict=True):
        assert all(np.array_equal(backend.get(g[k]), backend.get(step[k])) for k in step)


def test_a_leaf_used_several_times_gathers_its_gradients(backend):
    x = backend.put(ones(3))
    g = grad(lambda p: ops.sum(p["a"] * p["a"] + ops.sin(p["a"]) + p["a"]))({"a": x})["a"]
    np.testing.assert_allclose(backend.get(g), 2 * ones(3) + np.cos(ones(3)) + 1, rtol=1e-14)


def test_one_array_in_two_places_gets_a_gradient_for_each():
    x = ones(3)
    grads = grad(lambda p: ops.sum(p["a"] * 2 + p["b"] * 3))({"a": x, "b": x})
    assert (grads["a"] == 2).all() and (grads["b"] == 3).all()


@pytest.mark.parametrize("params", [ones(3), [ones(3)], {"a": ones(3)}], ids=["leaf", "list", "dict"])
def test_any_tree_will_do(params):
    value, grads = value_and_grad(lambda p: ops.sum(tree.leaves(p)[0] ** 2))(params)
    assert type(grads) is type(params)
    np.testing.assert_allclose(tree.leaves(grads)[0], 2 * ones(3))


def test_empty_branches_of_a_tree_survive():
    params = {"blocks": [], "head": {"w": ones(3), "extra": {}}}
    grads = grad(lambda p: ops.sum(p["head"]["w"]) + len(p["blocks"]) + len(p["head"]["extra"]))(params)
    assert grads["blocks"] == [] and grads["head"]["extra"] == {}


def test_a_loss_that_is_no_number_is_refused():
    for f in (lambda x: x * 2, lambda x: ones(3), lambda x: ops.sum(x, axis=0, keepdims=True)):
        with pytest.raises(ValueError, match="one number"):
            value_and_grad(f)(ones(3))


def test_a_constant_loss_has_zero_gradient(backend):
    value, g = value_and_grad(lambda x: 3.0)(backend.put(ones(3)))
    assert value == 3.0 and not backend.get(g).any()


def test_other_arguments_are_not_differentiated():
    value, g = value_and_grad(lambda x, y, power: ops.sum(x * y**power))(ones(3), ones(3), power=2)
    np.testing.assert_allclose(g, ones(3) ** 2)


def test_inputs_are_left_alone_and_gradients_repeat():
    params = [ones(4, 4), ones(4)]
    before = [x.copy() for x in params]
    f = grad(lambda p: ops.sum(ops.silu(ops.linear(p[0], p[0], p[1]))))
    first, again = f(params), f(params)
    assert all(np.array_equal(x, y) for x, y in zip(params + first, before + again, strict=True))


def calls_in(f):
    """How many Python and C functions f calls: a clock that every machine agrees on."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        f()
    finally:
        sys.setprofile(None)
    return calls


def test_cost_is_linear_in_the_number_of_leaves():
    """Each leaf added costs as many calls as the last; with autograd's own dict of parameters, more."""

    def cost(n):
        params = {f"p{i:03}": np.ones(2) for i in range(n)}

        def loss(p):
            total = ops.sum(p["p000"])
            for i in range(1, n):
                total = total + ops.sum(p[f"p{i:03}"])
            return total

        run = value_and_grad(loss)
        run(params)
        return calls_in(lambda: run(params))

    few, more, many = cost(100), cost(200), cost(400)
    assert abs((many - more) / (more - few) - 2) < 0.01


def test_memory_does_not_grow_over_a_thousand_steps():
    """And leaves no cycles behind: reference counts free the tape of a step as the step ends."""
    params, x = [ones(4, 4), ones(4)], ones(8, 4)
    step = value_and_grad(lambda p: ops.mean(ops.silu(ops.linear(x, p[0], p[1])) ** 2))
    step(params)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(1000):
            step(params)
        cycles, grown = gc.collect(), tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert cycles == 0
    assert grown < 50_000  # half are NumPy's own caches; one 8 x 4 array kept at each step would be 256,000


@pytest.mark.parametrize(
    "f",
    [
        lambda x, p: x + p,
        lambda x, p: x - p,
        lambda x, p: p - x,
        lambda x, p: ops.sum(x) + p,
        lambda x, p: x[:1] + p,
        lambda x, p: ops.take(x, [0]) + p,
        lambda x, p: ops.concatenate([x, p]),
        lambda x, p: x * 2.0 + p,
        lambda x, p: x / 2.0 + p,
        lambda x, p: 2.0 / (2.0 * x) + p,
        lambda x, p: ops.matmul(ops.broadcast_to(x, (3, 3)), np.eye(3)) + p,
        lambda x, p: ops.reshape(x * 2.0, (3, 1)) + p,
        lambda x, p: ops.linear(x, np.eye(3), np.ones(3)) + p,
        lambda x, p: ops.transpose(x * 2.0) + p,
    ],
)
def test_what_the_way_back_does_not_need_is_let_go(f):
    """A sum of two needs their shapes alone: an array that nothing else wants is freed while the tape is being made."""
    seen = []

    def loss(p):
        x = p + 1.0
        seen.append(weakref.ref(autodiff.value(x)))
        y = f(x, p)
        del x
        seen.append(seen[0]() is None)
        return ops.sum(y)

    grad(loss)(ones(3))
    assert seen[1]


# The definitions, as loops


@pytest.mark.parametrize(("k", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)])
def test_convolution_is_its_formula(k, stride):
    x, w, b, p = ones(2, 5, 6, 3), ones(k, k, 3, 2), ones(2), k // 2
    y = conv.conv2d(x, w, b, stride=stride)
    want = np.zeros((2, -(-5 // stride), -(-6 // stride), 2)) + b
    for i, j, u, v in np.ndindex(*want.shape[1:3], k, k):
        row, column = stride * i + u - p, stride * j + v - p
        if 0 <= row < 5 and 0 <= column < 6:
            want[:, i, j] += x[:, row, column] @ w[u, v]
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-12)


def test_resampling_is_its_definition():
    x = ones(2, 4, 6, 3)
    blocks = [x[:, u::2, v::2] for u in (0, 1) for v in (0, 1)]
    assert np.array_equal(conv.upsample(x), x.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_allclose(conv.average_pool(x), sum(blocks) / 4, rtol=1e-12)
    assert np.array_equal(conv.space_to_depth(x), np.concatenate(blocks, axis=-1))
    assert np.array_equal(conv.depth_to_space(conv.space_to_depth(x)), x)
    assert np.array_equal(conv.crop(x, 3, 5), x[:, :3, :5])


def test_attention_is_its_definition():
    q, k, v = ones(2, 3, 4), 2 * ones(2, 5, 4), ones(2, 5, 6)
    got = ops.attention(q, k, v)
    for b, i in np.ndindex(2, 3):
        score = np.exp([q[b, i] @ k[b, j] / 2 for j in range(5)])  # √d = 2
        np.testing.assert_allclose(got[b, i], score @ v[b] / score.sum(), rtol=1e-12)


@pytest.mark.parametrize("f", [ops.group_norm, ops.plain_group_norm])
def test_group_norm_is_its_definition(f):
    x, gamma, beta = 3 + 2 * ones(2, 3, 5, 6), ones(6), ones(6) + 1
    got, active = f(x, gamma, beta, 3), f(x, gamma, beta, 3, True)
    for b, group in np.ndindex(2, 3):
        c = slice(2 * group, 2 * group + 2)
        part = x[b, ..., c]
        want = gamma[c] * (part - part.mean()) / np.sqrt(part.var() + 1e-5) + beta[c]
        np.testing.assert_allclose(got[b, ..., c], want, rtol=0, atol=1e-12)
        np.testing.assert_allclose(active[b, ..., c], want / (1 + np.exp(-want)), rtol=0, atol=1e-12)


# The fast versions against the plain ones


# Each way through the code has its own hypothesis search: one over all of them would miss some.


@pytest.mark.parametrize("channels", [(1, 3), (4, 6), (7, 4)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 3])
@settings(max_examples=20)
@given(
    batch=st.integers(1, 7),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    at_once=st.integers(1, 8),
    bias=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_fast_convolution_equals_the_plain_one(k, stride, channels, batch, size, at_once, bias, dtype):
    rng, tolerance = np.random.default_rng(0), 1e-5 if dtype is np.float32 else 1e-13

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    x, w, b = draw(batch, *size, channels[0]), draw(k, k, *channels), draw(channels[1]) if bias else None
    g = draw(batch, *(-(-n // stride) for n in size), channels[1])
    plain = [
        conv.plain_conv2d(x, w, b, stride),
        conv.plain_conv2d_dx(g, w, x.shape, stride),
        conv.plain_conv2d_dw(x, g, k, stride),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "CHUNK", at_once * size[0] * size[1] * max(channels))
        y = fast.conv2d(x, w, b, stride)
        apart = [fast.conv2d_dx(g, w, x.shape, stride), fast.conv2d_dw(x, g, k, stride)]
        together = fast.conv2d_gradients(g, x, w, stride)
    for got, want in zip([y, *apart, *together], [*plain, *plain[1:]], strict=True):
        assert got.dtype == want.dtype == dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@settings(max_examples=20)
@given(
    batch=st.integers(1, 7),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    at_once=st.integers(1, 8),
    bias=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_a_double_need_not_be_made(batch, size, channels, at_once, bias, dtype):
    rng, tolerance = np.random.default_rng(0), 1e-5 if dtype is np.float32 else 1e-13

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    x, w, b = draw(batch, *size, channels[0]), draw(3, 3, *channels), draw(channels[1]) if bias else None
    double = conv.upsample(x)
    g = draw(*double.shape[:3], channels[1])
    sent_back = conv.plain_conv2d_dx(g, w, double.shape)
    plain = [
        conv.plain_conv2d(double, w, b),
        sum(sent_back[:, i::2, j::2] for i in (0, 1) for j in (0, 1)),
        conv.plain_conv2d_dw(double, g, 3),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "CHUNK", at_once * 4 * size[0] * size[1] * max(channels))
        found = [fast.doubled_conv2d(x, w, b), *fast.doubled_conv2d_gradients(g, x, w)]
    for got, want in zip(found, plain, strict=True):
        assert got.dtype == want.dtype == dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("silu", [False, True])
@given(
    batch=st.integers(1, 7),
    positions=st.sampled_from([(), (5,), (3, 4), (1, 1), (7, 2)]),
    channels=st.sampled_from([(1, 4), (2, 4), (4, 4), (3, 6)]),
    at_once=st.integers(1, 8),
)
def test_fast_group_norm_equals_the_plain_one(silu, batch, positions, channels, at_once):
    (groups, c), rng = channels, np.random.default_rng(0)
    args = [rng.standard_normal(shape) for shape in ((batch, *positions, c), c, c, (batch, c))]
    weight = rng.standard_normal(args[0].shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "CHUNK", at_once * args[0][0].size)
        (y, gradients), (plain, plain_gradients) = (
            value_and_gradients(norm(f, groups, silu), args, weight)
            for f in (fast.group_norm, ops.plain_group_norm)
        )
    for got, want in zip([y, *gradients], [plain, *plain_gradients], strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-11 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("mean, shift", [(1000, 0), (0, 1000), (1000, -1000), (6, 0), (6, -6)])
def test_group_norm_survives_a_large_mean(mean, shift):
    """Mean 1000 times the deviation, float32: E[x²] - mean² would have lost it; one image is easy, the other is not."""
    x, shifts = ones(2, 8, 8, 4).astype(np.float32), np.zeros((2, 4), np.float32)
    x[1] += mean
    shifts[1] = shift
    y = ops.group_norm(x, np.ones(4, np.float32), np.zeros(4, np.float32), 2, shift=shifts)
    want = ops.plain_group_norm(x.astype(float), np.ones(4), np.zeros(4), 2, shift=shifts.astype(float))
    size = max(abs(mean), abs(shift), 1)
    np.testing.assert_allclose(y, want, atol=2e-6 * size)  # a float32 near 1000 is itself rounded by 6e-5


def test_functions_do_not_overflow_or_lose_digits():
    x = np.array([-1e4, -50.0, 0.0, 50.0, 1e4])
    with np.errstate(all="raise", under="ignore"):
        assert np.array_equal(ops.sigmoid(x), [0, 0, 0.5, 1, 1])
        assert np.array_equal(ops.silu(x), [0, 0, 0, 50, 1e4])
        np.testing.assert_allclose(ops.softmax(x), [0, 0, 0, 0, 1])
        tails = [1.5374597944280349e-12, 5.3958656116079e-176]
        np.testing.assert_allclose(ops.erfc(np.array([5.0, 20.0])), tails, rtol=1e-13)


# Trees and devices


KEYS = st.text("abcxyz_09", min_size=1, max_size=4).filter(lambda key: not key.isdigit())
TREES = st.recursive(
    st.integers(1, 5).map(np.arange),
    lambda trees: st.lists(trees, min_size=1, max_size=12) | st.dictionaries(KEYS, trees, min_size=1),
    max_leaves=20,
)


def alike(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(alike, a, b))
    return np.array_equal(a, b)


@given(TREES)
def test_a_tree_survives_flattening(params):
    flat = tree.flatten(params)
    assert alike(tree.unflatten(flat), params)
    assert tree.count(params) == sum(x.size for x in flat.values())
    assert alike(tree.map(lambda x, y: x + y, params, params), tree.map(lambda x: 2 * x, params))


def test_paths_name_the_leaves():
    assert list(tree.flatten({"down": [{"w": 1}, {"w": 2, "b": 3}]})) == ["down.0.w", "down.1.w", "down.1.b"]


def test_a_device_takes_a_tree_there_and_back(backend):
    there = devices.Device("gpu", backend.xp)
    params = {"a": [ones(2, 3), np.arange(3)], "b": ones(2).astype(np.float32)}
    on = there.put(params)
    assert all(autodiff.xp_of(x) is backend.xp for x in tree.leaves(on))
    back = there.get(on)
    assert alike(back, params)
    assert [x.dtype for x in tree.leaves(back)] == [x.dtype for x in tree.leaves(params)]
    numbers = [there.get(there.rng(7, step).standard_normal((2, 2))) for step in (1, 1, 2)]
    assert np.array_equal(numbers[0], numbers[1]) and not np.array_equal(numbers[0], numbers[2])


def test_devices_by_name(monkeypatch):
    assert (devices.device("cpu").name, devices.device("cpu").xp) == ("cpu", np)
    with pytest.raises(ValueError, match="cpu or gpu"):
        devices.device("tpu")
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert devices.device().name == "cpu"
    with pytest.raises(ValueError, match="no usable GPU"):
        devices.device("gpu")
    monkeypatch.setitem(sys.modules, "cupy", strict_device)
    assert devices.device().name == devices.device("gpu").name == "gpu"
