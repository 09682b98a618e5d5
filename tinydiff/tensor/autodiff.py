"""The tape: autograd's, taught about our arrays and about trees of parameters.

HIPS autograd records what a function does to *boxed* arrays and plays the record backwards. We keep its tape
(`primitive`, `defvjp`) and bring our own boxes, our own derivative table (ops.py) and our own backward pass, which
differs from autograd's in two ways: it has one root for each leaf of a parameter tree, so that its cost is linear
in their number, and it knows no array library, so that CuPy arrays pass as NumPy's do.
"""
import numpy as np
from autograd.core import VJPNode, toposort
from autograd.extend import defvjp, defvjp_argnums, primitive
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import getval, isbox, new_box, trace_stack

from . import tree as trees

__all__ = [
    "Tensor", "defvjp", "defvjp_argnums", "grad", "isbox", "primitive", "register", "value", "value_and_grad", "vjp",
    "xp_of",
]  # fmt: skip


class Tensor(ArrayBox):
    """A boxed array: what a differentiated function gets to see. ops.py hangs the operators on it."""

    __slots__ = []
    __array_ufunc__ = None  # NumPy and CuPy then leave `array + tensor` to Tensor.__radd__


_modules = {}


def register(module):
    """Teach the tape the arrays of `module` (NumPy, CuPy, or a stand-in with CuPy's manners)."""
    _modules[module.ndarray] = module
    Tensor.register(module.ndarray)


register(np)
for _scalar in (float, np.float64, np.float32):  # NumPy's full reductions give scalars, not 0-d arrays
    Tensor.register(_scalar)


def xp_of(*arrays):
    """The library of the first device array among the arguments (boxed or not); NumPy if there is none."""
    for x in arrays:
        kind = type(x)
        if kind is not np.ndarray:  # the usual case first: this is asked at every primitive
            module = _modules.get(kind if kind is not Tensor else type(value(x)), np)
            if module is not np:
                return module
    return np


def value(x):
    """The array inside however many boxes."""
    while isbox(x):
        x = getval(x)
    return x


def value_and_grad(f):
    """(f(tree, ...), the tree of ∂f/∂leaf), for an f that returns one number.

    The gradients are themselves differentiable wherever the primitives' derivatives are made of primitives.
    A leaf that f does not use gets zeros. Raises ValueError if f returns anything but a scalar.
    """

    def run(tree, *args, **kwargs):
        y, pull_back = _record(f, tree, *args, **kwargs)
        if getattr(y, "shape", ()) != ():
            raise ValueError(f"a loss must be one number, got shape {y.shape}; take its mean or sum")
        return y, pull_back(xp_of(y).ones_like(value(y)))

    return run


def vjp(f, tree, v):
    """(f(tree), vᵀ ∂f/∂leaf for each leaf), for an f that returns an array and a v of its shape: one backward pass.

    Differentiable again, as `value_and_grad` is.
    """
    y, pull_back = _record(f, tree)
    if y.shape != v.shape:
        raise ValueError(f"v must be of f's shape {y.shape}, got {v.shape}")
    return y, pull_back(v)


def _record(f, tree, *args, **kwargs):
    """f(tree, ...), and the function that takes a gradient with respect to it to those with respect to the leaves."""
    roots = trees.map(lambda leaf: VJPNode.new_root(), tree)
    with trace_stack.new_trace() as trace:
        end = f(trees.map(lambda leaf, root: new_box(leaf, trace, root), tree, roots), *args, **kwargs)
    on_tape = isbox(end) and end._trace == trace

    def pull_back(g):
        found = _backward(end._node, g) if on_tape else {}

        def gradient(leaf, root):
            return found[root] if root in found else xp_of(leaf).zeros_like(value(leaf))

        return trees.map(gradient, tree, roots)

    return end._value if on_tape else end, pull_back  # getval would take off the boxes of outer tapes too


def grad(f):
    """The tree of ∂f/∂leaf alone: see `value_and_grad`."""
    with_value = value_and_grad(f)
    return lambda tree, *args, **kwargs: with_value(tree, *args, **kwargs)[1]


def _backward(end, g):
    """{root: gradient}: every node's gradient is summed over its children, then handed to its parents."""
    gradients, roots = {end: g}, {}
    for node in toposort(end):
        g = gradients.pop(node)
        if not node.parents:
            roots[node] = g
        for parent, contribution in zip(node.parents, node.vjp(g), strict=True):
            gradients[parent] = gradients[parent] + contribution if parent in gradients else contribution
        node.vjp = None  # visited once: let go of the arrays that it kept
    return roots
