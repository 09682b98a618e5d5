"""A strict double of CuPy: NumPy's arithmetic behind CuPy's refusals, for machines without a GPU.

Put it where the module `cupy` would go. Code that runs on it gets NumPy's numbers and makes none of these
mistakes.

refused as CuPy refuses : host arrays and lists among the operands; np.asarray(device array); object, string
                          and long double arrays; names and keywords that CuPy lacks; xp.prod(shape tuple)
copied from CuPy        : 0-d results stay on the device; np.f(device array) comes here; `device @ box` does
                          not ask the box; a Generator without normal, permutation, shuffle and choice
stricter than CuPy      : host and list indices (CuPy uploads them unasked); indices out of range (it wraps
                          them); several values for one place (it keeps any); reductions of host arrays (they
                          stay on the host); global random state; `empty` holds NaN or 77; seeds give numbers
                          that are not NumPy's
counted in `count`      : "sync", the host waits for the device; "d2h", those waits that bring values to the
                          host; "h2d", values go up; "f64", results in double precision
                          `with forbid("sync", "h2d"):` raises instead, as capturing a CUDA graph would
not modelled            : kernels, streams, asynchronous errors, cuBLAS and TF32 rounding, memory, speed

Real CuPy, where it can be imported (no GPU needed), supplies names and signatures; elsewhere a short list.
"""

import contextlib
import functools
import inspect
import math
import sys
from collections import Counter

import numpy as np

try:
    import cupy as _cupy
except ImportError:
    _cupy = None

count = Counter()
_forbidden = set()

_SCALARS = (bool, int, float, complex, np.bool_, np.number)
_DTYPES = "?bhilqBHILQefdFD"
_FROM_NOTHING = set(
    """zeros ones full eye identity tri arange linspace logspace indices tril_indices triu_indices
    broadcast_shapes can_cast isscalar issubdtype promote_types result_type""".split()
)
_WAITING = set("argwhere compress extract flatnonzero nonzero unique".split())
_YES_OR_NO = {"allclose", "array_equal", "array_equiv"}
_MISSING = set(
    """block bmat datetime64 einsum_path errstate frompyfunc geomspace histogram_bin_edges insert ma matrix
    matvec memmap nanpercentile nanquantile ndenumerate nditer object_ spacing str_ timedelta64 unstack vecdot
    vecmat""".split()
)
_KEYWORDS_MISSING = {"copyto": set(), "einsum": {"out", "order", "casting"}}  # elsewhere: initial and where


def _note(*kinds):
    for kind in kinds:
        count[kind] += 1
        if kind in _forbidden:
            raise RuntimeError(f"{kind} in a place that must not touch the host")


@contextlib.contextmanager
def forbid(*kinds):
    """Here, whatever would be counted as one of `kinds` raises RuntimeError."""
    _forbidden.update(kinds)
    try:
        yield
    finally:
        _forbidden.difference_update(kinds)


def _any_device(x):
    return type(x) is ndarray or isinstance(x, (tuple, list)) and any(map(_any_device, x))


def _host(x):
    """x with the NumPy array of each device array in it; host arrays are refused."""
    if type(x) is ndarray:
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}: put it on the device first")
    return type(x)(map(_host, x)) if type(x) in (tuple, list) else x


def _device(x):
    """x with each NumPy array and NumPy scalar in it on the device."""
    if isinstance(x, (np.ndarray, np.generic)):
        if x.dtype.char not in _DTYPES:
            raise TypeError(f"Unsupported dtype {x.dtype}")
        if x.dtype == np.float64:
            _note("f64")
        array = object.__new__(ndarray)
        array._host = np.asarray(x)
        return array
    if hasattr(x, "_fields"):
        return type(x)(*map(_device, x))
    return type(x)(map(_device, x)) if type(x) in (tuple, list) else x


def _operand(x):
    if type(x) is not ndarray and not isinstance(x, _SCALARS):
        raise TypeError(f"Unsupported type {type(x)}")
    return _host(x)


def _index(index, waits=True):
    for part in index if type(index) is tuple else (index,):
        if isinstance(part, (list, np.ndarray)):
            raise TypeError("an index on the host: CuPy would upload it without a word")
        if waits and type(part) is ndarray and part.dtype == bool:
            _note("sync")
    return _host(index)


def _check_distinct(choose, shape):
    """Raise if `choose` picks an element of an array of this shape twice."""
    places = choose(np.arange(np.prod(shape, dtype=int)).reshape(shape))
    if np.unique(places).size < np.size(places):
        raise ValueError("several values for one place: CuPy would keep any of them")


def _function(name, numpy_function, model):
    """CuPy's `name`, computed by NumPy's; refuses what CuPy's own (`model`, if known) refuses."""
    signature = inspect.signature(model) if inspect.isfunction(model) else None
    missing = _KEYWORDS_MISSING.get(name, {"initial", "where"})

    @functools.wraps(numpy_function)
    def call(*args, **kwargs):
        if signature:
            signature.bind(*args, **kwargs)
        if missing & set(kwargs):
            raise TypeError(f"cupy.{name} takes no {missing & set(kwargs)}")
        given = [*args, *kwargs.values()]
        if name not in _FROM_NOTHING and not _any_device(given):
            raise TypeError(f"cupy.{name} needs a device array, got {[type(x).__name__ for x in given]}")
        if name in _WAITING or (name == "where" and len(given) == 1):
            _note("sync")
        result = numpy_function(*_host(args), **{key: _host(x) for key, x in kwargs.items()})
        return _device(np.bool_(result) if name in _YES_OR_NO else result)

    return call


class _Ufunc:
    def __init__(self, ufunc):
        self._ufunc, self.nin, self.__name__ = ufunc, ufunc.nin, ufunc.__name__

    def __call__(self, *args, **kwargs):
        if unknown := set(kwargs) - {"out", "where", "dtype", "casting"}:
            raise TypeError(f"cupy.{self.__name__} takes no {unknown}")
        return _device(self._ufunc(*map(_operand, args), **{key: _host(x) for key, x in kwargs.items()}))

    def at(self, a, indices, values):
        self._ufunc.at(a._host, _index(indices), _operand(values))


class _Namespace:
    """A module of CuPy's: the double's `own` names, then NumPy's, as far as CuPy has them."""

    def __init__(self, numpy_module, model, own):
        self._numpy, self._model, self._own = numpy_module, model, own

    def __getattr__(self, name):
        if name[0] == "_" or name in _MISSING or (self._model and not hasattr(self._model, name)):
            raise AttributeError(f"cupy has no {name!r}")
        value = self._own[name] if name in self._own else self._wrapped(name)
        setattr(self, name, value)
        return value

    def _wrapped(self, name):
        value, model = getattr(self._numpy, name), getattr(self._model, name, None)
        if inspect.ismodule(value):
            return _Namespace(value, model, {})
        if isinstance(value, np.ufunc):
            return _Ufunc(value)
        return _function(name, value, model) if callable(value) and not isinstance(value, type) else value


class ndarray:
    __slots__ = ("_host",)
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, shape, dtype=float):
        self._host = empty(shape, dtype)._host

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        operands = (*inputs, *kwargs.get("out", ()))
        mine = getattr(_root, ufunc.__name__, None)
        known = all(isinstance(x, (*_SCALARS, ndarray, np.ndarray)) for x in operands)
        return mine(*inputs, **kwargs) if known and mine and method == "__call__" else NotImplemented

    def __array_function__(self, function, types, args, kwargs):
        path = [*function.__module__.split(".")[1:], function.__name__]
        mine = functools.reduce(lambda module, name: getattr(module, name, None), path, _root)
        return mine(*args, **kwargs) if mine and set(types) <= {ndarray, np.ndarray} else NotImplemented

    def __getitem__(self, index):
        return _device(self._host[_index(index)])

    def __setitem__(self, index, value):
        value = _operand(value)
        index = _index(index, waits=np.size(value) > 1)
        if np.size(value) > 1:
            _check_distinct(lambda places: places[index], self.shape)
        self._host[index] = value

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def get(self):
        _note("sync", "d2h")
        return self._host.copy()

    def item(self):
        return self.get().item()

    def clip(self, min=None, max=None):
        return _device(self._host.clip(_host(min), _host(max)))

    def fill(self, value):
        self._host.fill(_operand(value))


def _defers_to(other):
    if hasattr(other, "__array_ufunc__"):
        return other.__array_ufunc__ is None
    return getattr(other, "__array_priority__", 0) > ndarray.__array_priority__


def _operator(ufunc, swap=False):
    def operate(self, other):
        return NotImplemented if _defers_to(other) else ufunc(*((other, self) if swap else (self, other)))

    return operate


def _in_place(ufunc):
    def operate(self, other):
        ufunc(self, other, out=self)
        return self

    return operate


def _furnish():
    """Give ndarray its attributes, methods and operators.

    Operators go through NumPy's ufuncs, which ask the other operand; @ does not, as in CuPy.
    """
    for name in "shape ndim size dtype nbytes strides flags itemsize".split():
        setattr(ndarray, name, property(lambda self, name=name: getattr(self._host, name)))
    for name in "T mT real imag".split():
        setattr(ndarray, name, property(lambda self, name=name: _device(getattr(self._host, name))))
    for f in (bool, int, float, complex, repr, str):
        setattr(ndarray, f"__{f.__name__}__", lambda self, f=f: f(self.get()))
    for name in "astype copy flatten reshape transpose view".split():
        setattr(ndarray, name, lambda self, *a, name=name, **k: _device(getattr(self._host, name)(*a, **k)))
    for name in """all any argmax argmin argsort conj cumprod cumsum diagonal dot max mean min prod ravel
                   repeat round squeeze std sum swapaxes take trace var""".split():
        setattr(ndarray, name, lambda self, *a, name=name, **k: getattr(_root, name)(self, *a, **k))
    for name in "add:add sub:subtract mul:multiply truediv:true_divide floordiv:floor_divide mod:remainder \
                 pow:power and:bitwise_and or:bitwise_or xor:bitwise_xor".split():
        name, _, ufunc = name.partition(":")
        setattr(ndarray, f"__{name}__", _operator(getattr(np, ufunc)))
        setattr(ndarray, f"__r{name}__", _operator(getattr(np, ufunc), swap=True))
        setattr(ndarray, f"__i{name}__", _in_place(getattr(_root, ufunc)))
    ndarray.__matmul__, ndarray.__rmatmul__ = _operator(_root.matmul), _operator(_root.matmul, swap=True)
    for name in "lt:less le:less_equal gt:greater ge:greater_equal eq:equal ne:not_equal".split():
        setattr(ndarray, f"__{name[:2]}__", _operator(getattr(np, name[3:])))
    ndarray.__neg__, ndarray.__abs__ = lambda self: _root.negative(self), lambda self: _root.absolute(self)
    ndarray.__invert__ = lambda self: _root.invert(self)


def array(obj, dtype=None, copy=True, order="K", ndmin=0):
    if not _any_device(obj):
        _note("h2d")
        return _device(np.array(obj, dtype, order=order, ndmin=ndmin))
    return _device(np.array(_host(obj), dtype, order=order, ndmin=ndmin))


def asarray(a, dtype=None, order="K"):
    return a if type(a) is ndarray and dtype in (None, a.dtype) else array(a, dtype, order=order)


def asnumpy(a):
    return a.get() if type(a) is ndarray else np.asarray(a)


def empty(shape, dtype=float, order="C"):
    return _device(np.full(shape, np.nan if np.dtype(dtype).kind in "fc" else 77, dtype, order))


def empty_like(prototype, dtype=None):
    return empty(prototype.shape, dtype or prototype.dtype)


def take(a, indices, axis=None, out=None):
    return _root._wrapped("take")(a, _device(_index(indices)), axis, out)


def put_along_axis(arr, indices, values, axis):
    indices, values = _operand(indices), _operand(values)
    if np.size(values) > 1:
        _check_distinct(lambda places: np.take_along_axis(places, indices, axis), arr.shape)
    np.put_along_axis(arr._host, indices, values, axis)


def erfc(a):
    """In place of cupyx.scipy.special.erfc."""
    return _device(np.vectorize(math.erfc, otypes=[a.dtype])(a._host))


def get_array_module(*args):
    return sys.modules[__name__] if _any_device(args) else np


def is_available():
    return True


class Generator:
    def __init__(self, seed=None):
        self._numbers = np.random.Generator(np.random.SFC64(seed))

    def random(self, size=None, dtype=float, out=None):
        return _device(np.asarray(self._numbers.random(size, dtype, _host(out))))

    def standard_normal(self, size=None, dtype=float, out=None):
        return _device(np.asarray(self._numbers.standard_normal(size, dtype, _host(out))))

    def uniform(self, low=0.0, high=1.0, size=None, dtype=float):
        return _device(np.asarray(self._numbers.uniform(low, high, size), dtype))

    def integers(self, low, high=None, size=None, dtype=np.int64, endpoint=False):
        return _device(np.asarray(self._numbers.integers(low, high, size, dtype, endpoint)))


class random:
    Generator = default_rng = Generator


_root = _Namespace(np, _cupy, {name: x for name, x in globals().items() if name[0] != "_"})
_furnish()


def __getattr__(name):
    return getattr(_root, name)
