"""Parameter trees: nested dicts and lists whose leaves are arrays.

A network's parameters are `{"down": [{"conv": {"w": ..., "b": ...}}, ...]}`; a leaf's name is its path,
`down.0.conv.w`, in a checkpoint as in a traceback.
"""
import math

import numpy as np


def flatten(tree, prefix=""):
    """{path: leaf}, in the order in which the tree was built.

    Raises ValueError for what `unflatten` could not give back: an empty branch, a key of digits or with a dot.
    """
    if isinstance(tree, dict):
        children = tree.items()
        if any(not key or "." in key or key.isdigit() for key in tree):
            raise ValueError(f"keys of a tree must be words without dots, got {list(tree)}")
    elif isinstance(tree, (list, tuple)):
        children = enumerate(tree)
    else:
        return {prefix: tree}
    if not tree:
        raise ValueError(f"a branch of a tree must hold something, got {tree} at {prefix!r}")
    flat = {}
    for key, child in children:
        flat.update(flatten(child, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def unflatten(flat):
    """The inverse of `flatten`: keys that are all digits make a list."""
    if list(flat) == [""]:
        return flat[""]
    groups = {}
    for path, leaf in flat.items():
        head, _, rest = path.partition(".")
        groups.setdefault(head, {})[rest] = leaf
    children = {head: unflatten(group) for head, group in groups.items()}
    if children and all(key.isdigit() for key in children):
        return [children[key] for key in sorted(children, key=int)]
    return children


def map(f, tree, *others):
    """The tree of f(leaf, *leaves of the other trees); all share one structure."""
    if isinstance(tree, dict):
        return {key: map(f, child, *(other[key] for other in others)) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [map(f, *children) for children in zip(tree, *others, strict=True)]
    return f(tree, *others)


def pack(tree):
    """Every number of the tree in one vector, in the order of `flatten`: what a step of Adam works on.

    Of a tree that `unpack` made, it is the vector that the leaves are views of.
    """
    flat = leaves(tree)
    if _packed(flat):
        return flat[0].base
    return np.concatenate([leaf.reshape(-1) for leaf in flat])  # CuPy's arrays take this call too


def _packed(flat):
    base = flat[0].base if type(flat[0]) is np.ndarray else None
    if type(base) is not np.ndarray or base.ndim != 1 or base.size != sum(leaf.size for leaf in flat):
        return False
    place = base.ctypes.data
    for leaf in flat:
        if leaf.base is not base or leaf.ctypes.data != place or not leaf.flags.c_contiguous:
            return False
        place += leaf.nbytes
    return True


def unpack(vector, like):
    """The inverse of `pack`: the tree that has the structure of `like`, whose leaves are views of the vector."""
    start = 0

    def view(leaf):
        nonlocal start
        start += leaf.size
        return vector[start - leaf.size : start].reshape(leaf.shape)

    return map(view, like)


def leaves(tree):
    """The leaves, in the order of `flatten`."""
    return list(flatten(tree).values())


def count(tree):
    """How many numbers the tree holds."""
    return sum(math.prod(leaf.shape) for leaf in leaves(tree))
