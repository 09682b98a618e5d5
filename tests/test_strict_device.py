"""The strict double refuses what CuPy refuses, accepts what it accepts, and counts traffic with the host."""
import copy
import importlib.util
import inspect
import math
import sys

import numpy as np
import pytest
import strict_device as xp

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)


def device(host=HOST):
    return xp.asarray(host)


def assign(target, index, new):
    target[index] = new


# Every one of these runs on NumPy: it would pass unseen until somebody has a GPU.
REFUSED = {
    "host on the right": lambda m, x: x + HOST,
    "host on the left": lambda m, x: HOST + x,
    "host 0-d": lambda m, x: x * np.array(2.0),
    "host in place": lambda m, x: x.__iadd__(HOST),
    "host matmul": lambda m, x: x @ HOST.T,
    "host matmul, left": lambda m, x: HOST.T @ x,
    "host compared": lambda m, x: x < HOST,
    "list operand": lambda m, x: x + [1.0, 2.0, 3.0],
    "host ufunc": lambda m, x: m.exp(HOST),
    "host and device ufunc": lambda m, x: m.maximum(x, HOST),
    "host out": lambda m, x: m.add(x, x, out=np.empty_like(HOST)),
    "device into host out": lambda m, x: np.add(x, x, out=np.empty_like(HOST)),
    "host in where": lambda m, x: m.where(x > 0, HOST, 0.0),
    "host in concatenate": lambda m, x: m.concatenate([x, HOST]),
    "host in stack through numpy": lambda m, x: np.stack([HOST, x]),
    "host in einsum": lambda m, x: m.einsum("ij,ij->i", x, HOST),
    "host in take": lambda m, x: m.take(HOST, m.asarray([0])),
    "host reduction": lambda m, x: m.sum(HOST),
    "host reshape": lambda m, x: m.reshape(HOST, (3, 2)),
    "host zeros_like": lambda m, x: m.zeros_like(HOST),
    "host assigned": lambda m, x: assign(x, slice(None), HOST),
    "list assigned": lambda m, x: assign(x, 0, [1.0, 2.0, 3.0]),
    "prod of a shape": lambda m, x: m.prod(x.shape),
    "max of a list": lambda m, x: m.max([1, 2]),
    "np.asarray": lambda m, x: np.asarray(x),
    "np.array of a list": lambda m, x: np.array([x, x]),
    "assigned into host": lambda m, x: assign(np.zeros((2, 3)), slice(None), x),
    "host indexed by device": lambda m, x: HOST[m.asarray([0, 1])],
    "range of a device number": lambda m, x: range(m.asarray(3)),
    "slice to a device number": lambda m, x: x[: m.asarray(1)],
    "host index": lambda m, x: x[np.array([0, 1])],
    "list index": lambda m, x: x[[0, 1]],
    "host index beside a slice": lambda m, x: x[:, np.array([0])],
    "host mask": lambda m, x: x[HOST > 2],
    "host index in take": lambda m, x: m.take(x, np.array([0])),
    "list index in take": lambda m, x: x.take([0, 1], axis=1),
    "host index in a write": lambda m, x: assign(x, np.array([0]), 1.0),
    "host index in add.at": lambda m, x: m.add.at(x, np.array([0]), 1.0),
    "host index in put_along_axis": lambda m, x: m.put_along_axis(x, np.array([[0], [1]]), 1.0, 1),
    "duplicates written": lambda m, x: assign(x, m.asarray([0, 0]), x),
    "duplicates written, one negative": lambda m, x: assign(x, m.asarray([1, -1]), x),
    "duplicates put": lambda m, x: m.put_along_axis(x, m.asarray([[0, 0]] * 2), x[:, :2], 1),
    "add.at through numpy": lambda m, x: np.add.at(x, m.asarray([0]), 1.0),
    "object array": lambda m, x: m.asarray([None]),
    "ragged array": lambda m, x: m.asarray(np.array([[1], [1, 2]], dtype=object)),
    "strings": lambda m, x: m.asarray(["a"]),
    "long double": lambda m, x: x.astype(np.longdouble),
    "frompyfunc": lambda m, x: m.frompyfunc(math.erfc, 1, 1),
    "object ufunc": lambda m, x: np.frompyfunc(math.erfc, 1, 1)(x),
    "errstate": lambda m, x: m.errstate(all="ignore"),
    "block": lambda m, x: m.block([[x]]),
    "insert": lambda m, x: np.insert(x, 0, 1.0),
    "sum from an initial value": lambda m, x: x.sum(initial=1.0),
    "max where": lambda m, x: m.max(x, where=x > 0, initial=0.0),
    "einsum out": lambda m, x: m.einsum("ij->i", x, out=m.zeros(2, "f4")),
    "ufunc order": lambda m, x: m.add(x, x, order="C"),
    "normal": lambda m, x: m.random.default_rng(0).normal(size=3),
    "permutation": lambda m, x: m.random.default_rng(0).permutation(3),
    "shuffle": lambda m, x: m.random.default_rng(0).shuffle(x),
    "choice": lambda m, x: m.random.default_rng(0).choice(3),
    "global random state": lambda m, x: m.random.standard_normal(3),
    "device shape": lambda m, x: x.reshape(m.asarray(6), 1),
}

NUMPY_REFUSES_TOO = {
    "hash": lambda m, x: {x: 1},
    "index out of range": lambda m, x: x[m.asarray([2])],
    "take out of range": lambda m, x: m.take(x, m.asarray([3]), axis=1),
    "math of an array": lambda m, x: math.sqrt(x),
    "truth of an array": lambda m, x: bool(x > 0),
}


@pytest.mark.parametrize("name", [*REFUSED, *NUMPY_REFUSES_TOO])
def test_refuses(name):
    x = device()
    with pytest.raises((TypeError, ValueError, IndexError, AttributeError)):
        {**REFUSED, **NUMPY_REFUSES_TOO}[name](xp, x)
    assert np.array_equal(x.get(), HOST)  # refused before anything was written


NEEDS_SIGNATURES = {
    "full_like on a device": lambda m, x: m.full_like(x, 1.0, device="cpu"),
    "clip by min and max": lambda m, x: m.clip(x, min=0.0, max=1.0),
    "as_strided writeable": lambda m, x: m.lib.stride_tricks.as_strided(x, (2,), (4,), writeable=False),
    "var correction": lambda m, x: m.var(x, correction=1),
}


@pytest.mark.parametrize("name", NEEDS_SIGNATURES)
def test_refuses_by_signature(name):
    pytest.importorskip("cupy", reason="needs CuPy for its signatures; no GPU")
    with pytest.raises(TypeError):
        NEEDS_SIGNATURES[name](xp, device())


@pytest.mark.parametrize("name", [*REFUSED, *NEEDS_SIGNATURES])
def test_what_is_refused_runs_on_numpy(name):
    {**REFUSED, **NEEDS_SIGNATURES}[name](np, HOST.copy())


def add_at(m, x):
    out = m.zeros_like(x)
    m.add.at(out, m.asarray([0, 0]), x)
    return out


def in_place(m, x):
    y = x.copy()
    same = y
    y += 1
    y *= x
    y /= 2
    return y if y is same else None


def written(m, x, index, new):
    y = x.copy()
    y[index] = new
    return y


ACCEPTED = {
    "arithmetic": lambda m, x: (2 * x - 1) / (x + 1) ** 2 + (-x) * abs(x - 3) % 2 // 1,
    "numpy scalars": lambda m, x: np.float32(2) * x + np.float32(1),
    "comparison": lambda m, x: (x > 1) & (x <= 4) | ~(x != 2),
    "matmul": lambda m, x: x @ x.T,
    "3-d matmul": lambda m, x: m.matmul(m.stack([x, x]), x.T),
    "matmul out": lambda m, x: m.matmul(x, x.T, out=m.zeros((2, 2), x.dtype)),
    "in place": in_place,
    "ufunc out": lambda m, x: m.exp(x, out=m.zeros_like(x)),
    "scalar ufunc": lambda m, x: m.sqrt(2.0),
    "where": lambda m, x: m.where(x > 2, x, 0.0),
    "np.f dispatches": lambda m, x: np.sum(np.exp(x), axis=0) + np.concatenate([x, x]).mean(),
    "np.linalg dispatches": lambda m, x: np.linalg.norm(x),
    "reductions": lambda m, x: x.sum() + x.mean(0, keepdims=True) + x.max(1)[:, None] + x.std() + x.var(0),
    "argmax": lambda m, x: x.argmax(axis=1),
    "cumsum": lambda m, x: m.cumsum(x, axis=1),
    "shapes": lambda m, x: x.reshape(3, -1).T.ravel()[None].transpose(1, 0).swapaxes(0, 1).squeeze(),
    "numpy integers as a shape": lambda m, x: x.reshape(np.int64(3), np.int64(2)),
    "pad": lambda m, x: m.pad(x, ((0, 0), (1, 1))),
    "sliding windows": lambda m, x: m.lib.stride_tricks.sliding_window_view(x, 2, axis=1),
    "as_strided": lambda m, x: m.lib.stride_tricks.as_strided(x, (2, 2), x.strides),
    "einsum": lambda m, x: m.einsum("ij,kj->ik", x, x),
    "tensordot": lambda m, x: m.tensordot(x, x, axes=([1], [1])),
    "broadcast_to": lambda m, x: m.broadcast_to(x[:1], (4, 3)),
    "repeat": lambda m, x: x.repeat(2, axis=0),
    "split": lambda m, x: m.split(x, 3, axis=1)[1],
    "slices": lambda m, x: x[..., ::-1][:, 1:],
    "device index": lambda m, x: x[m.asarray([1, 0, 1])],
    "device mask": lambda m, x: x[x > 2],
    "two device indices": lambda m, x: x[m.arange(2), m.asarray([2, 0])],
    "take": lambda m, x: m.take(x, m.asarray([[0, 2], [1, 1]]), axis=1),
    "take one": lambda m, x: x.take(1, axis=1),
    "take_along_axis": lambda m, x: m.take_along_axis(x, x.argmax(1)[:, None], 1),
    "write a slice": lambda m, x: written(m, x, (slice(None), 1), x[:, 0]),
    "write distinct": lambda m, x: written(m, x, m.asarray([1, 0]), x),
    "write one value twice": lambda m, x: written(m, x, m.asarray([0, 0]), 7.0),
    "write under a mask": lambda m, x: written(m, x, x > 2, 0.0),
    "add.at": add_at,
    "clip": lambda m, x: m.clip(x, 1, 3) + x.clip(0, 2),
    "astype": lambda m, x: x.astype(np.float64).astype("f2"),
    "makers": lambda m, x: m.full((3, 3), 2.0) + m.eye(3) + m.arange(3) * m.linspace(0, 1, 3),
    "a list of device numbers": lambda m, x: m.array([x.sum(), x.max()]),
    "0-d in arithmetic": lambda m, x: x / x.sum() + m.asarray(1.0, dtype=x.dtype),
    "argsort": lambda m, x: m.argsort(-x, axis=1),
    "allclose": lambda m, x: m.allclose(x, x + 1e-9),
    "eigh": lambda m, x: m.linalg.eigh(x @ x.T)[0],
    "deepcopy": lambda m, x: copy.deepcopy(x),
    "dtype": lambda m, x: m.zeros(2, m.result_type(x, m.float32)) + m.finfo(x.dtype).eps * m.pi,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts_and_agrees_with_numpy(name):
    want = ACCEPTED[name](np, HOST.copy())
    got = ACCEPTED[name](xp, device())
    assert type(got) is xp.ndarray  # 0-d results too
    assert got.dtype == np.asarray(want).dtype and got.shape == np.shape(want)
    assert np.array_equal(got.get(), want)


def counts(f):
    xp.count.clear()
    f()
    return {kind: n for kind, n in xp.count.items() if n}


COUNTED = {
    "nothing": (lambda x: (x + 1).sum() * x[0], {}),
    "upload": (lambda x: xp.asarray(HOST), {"h2d": 1}),
    "asarray of device": (lambda x: xp.asarray(x), {}),
    "get": (lambda x: x.get(), {"sync": 1, "d2h": 1}),
    "asnumpy": (lambda x: xp.asnumpy(x), {"sync": 1, "d2h": 1}),
    "float": (lambda x: float(x.sum()), {"sync": 1, "d2h": 1}),
    "item": (lambda x: x.max().item(), {"sync": 1, "d2h": 1}),
    "if": (lambda x: 1 if x.sum() > 0 else 0, {"sync": 1, "d2h": 1}),
    "np.float64": (lambda x: np.float64(x[0, 0]), {"sync": 1, "d2h": 1}),
    "math": (lambda x: math.sqrt(x.sum()), {"sync": 1, "d2h": 1}),
    "print": (lambda x: str(x), {"sync": 1, "d2h": 1}),
    "format": (lambda x: f"{x}", {"sync": 1, "d2h": 1}),
    "mask": (lambda x: x[x > 0], {"sync": 1}),
    "mask beside a slice": (lambda x: x[:, x[0] > 0], {"sync": 1}),
    "mask set to a number": (lambda x: assign(x, x > 0, 1.0), {}),
    "nonzero": (lambda x: xp.nonzero(x), {"sync": 1}),
    "one-argument where": (lambda x: xp.where(x > 0), {"sync": 1}),
    "three-argument where": (lambda x: xp.where(x > 0, x, 0), {}),
    "allclose": (lambda x: xp.allclose(x, x), {}),
    "if allclose": (lambda x: 1 if xp.allclose(x, x) else 0, {"sync": 1, "d2h": 1}),
    "double precision": (lambda x: x * np.float64(2), {"f64": 1}),
    "double precision by default": (lambda x: xp.zeros(3), {"f64": 1}),
    "python numbers": (lambda x: x * 2.0, {}),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts(name):
    action, want = COUNTED[name]
    x = device()
    assert counts(lambda: action(x)) == want


def test_forbid_raises_inside_and_not_after():
    x = device()
    with xp.forbid("sync", "h2d"):
        _ = x + 1
        for action in (lambda: float(x[0, 0]), lambda: x[x > 0], lambda: xp.asarray(HOST)):
            with pytest.raises(RuntimeError):
                action()
    assert float(x[0, 1]) == 1.0


def test_empty_is_poisoned():
    assert np.isnan(xp.empty((2, 2), "f4").get()).all()
    assert np.isnan(xp.empty_like(device()).get()).all()
    assert np.isnan(xp.ndarray((2,)).get()).all()
    assert (xp.empty(3, int).get() == 77).all()


def test_seeds_repeat_but_do_not_give_numpy_numbers():
    first, again = (xp.random.default_rng([1, 2]).standard_normal(3, np.float32).get() for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, np.random.default_rng([1, 2]).standard_normal(3, np.float32))
    rng = xp.random.default_rng(0)
    for drawn in (rng.random(), rng.random(2, np.float32), rng.uniform(0, 2, 3), rng.integers(0, 9, (2, 2))):
        assert type(drawn) is xp.ndarray
    buffer = xp.empty(4, np.float32)
    rng.standard_normal(out=buffer, dtype=np.float32)
    assert np.isfinite(buffer.get()).all()


class Box:
    """A tape's box: takes every array operation to itself."""

    __array_ufunc__ = None

    def __radd__(self, other):
        return "box"

    __rmatmul__ = __lt__ = __gt__ = __radd__


class NumpyBox:
    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return "box"


def test_operators_ask_the_other_operand():
    x = device()
    assert x + Box() == x @ Box() == (x > Box()) == "box"
    assert x + NumpyBox() == "box"
    with pytest.raises(TypeError):
        x @ NumpyBox()


def test_numpy_scalars_leave_the_operation_to_the_device():
    assert type(np.float32(2) - device()) is xp.ndarray
    assert xp.get_array_module(HOST, device()) is xp and xp.get_array_module(HOST) is np


def parameters(f):
    return set(inspect.signature(f).parameters)


def test_offers_nothing_that_cupy_lacks():
    cupy = pytest.importorskip("cupy", reason="needs CuPy for its names; no GPU")
    own = {name: f for name, f in vars(xp).items() if getattr(f, "__module__", "") == xp.__name__}
    for name in ("Generator", "erfc", "forbid", *(name for name in own if name[0] == "_")):
        del own[name]
    assert {"array", "empty", "put_along_axis", "random"} <= set(own)
    for name, f in own.items():
        assert hasattr(cupy, name)
        if inspect.isfunction(f):
            assert parameters(f) <= parameters(getattr(cupy, name)), name
    assert not [name for name in dir(xp.ndarray) if not hasattr(cupy.ndarray, name) and name[0] != "_"]
    special = [name for name in vars(np.ndarray) if hasattr(xp.ndarray, name)]
    assert not [name for name in special if not hasattr(cupy.ndarray, name)]
    for name in ("random", "standard_normal", "uniform", "integers"):
        assert parameters(getattr(xp.Generator, name)) <= parameters(getattr(cupy.random.Generator, name))


def test_the_short_list_of_missing_names_is_right():
    cupy = pytest.importorskip("cupy", reason="needs CuPy for its names; no GPU")
    assert not [name for name in xp._MISSING if hasattr(cupy, name)]


def test_works_where_cupy_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    spec = importlib.util.spec_from_file_location("strict_device_alone", xp.__file__)
    alone = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, alone)
    spec.loader.exec_module(alone)
    x = alone.asarray(HOST)
    assert alone._cupy is None and float((x @ x.T).sum()) == (HOST @ HOST.T).sum()
    for bug in (lambda: x + HOST, lambda: alone.block([[x]]), lambda: x.sum(initial=1.0), lambda: x[[0]]):
        with pytest.raises((TypeError, AttributeError)):
            bug()
