"""Where arrays live: a Device creates, moves and seeds; everything else follows its arguments."""
import importlib

import numpy as np

from . import autodiff, tree


class Device:
    """An array library and the memory behind it.

    name : "cpu" or "gpu".
    xp   : the module that makes its arrays, numpy or cupy.
    """

    def __init__(self, name, xp):
        self.name, self.xp = name, xp
        autodiff.register(xp)

    def put(self, x):
        """An array, or a tree of them, on this device. Floats keep their precision."""
        return tree.map(self.xp.asarray, x)

    def get(self, x):
        """The same, as NumPy arrays: the only way back to the host."""
        return tree.map(lambda leaf: leaf.get() if hasattr(leaf, "get") else np.asarray(leaf), x)

    def rng(self, *seed):
        """A generator for the numbers `seed`, e.g. rng(seed, step): a step's noise depends on its number alone."""
        return self.xp.random.default_rng([int(s) for s in seed])

    def __repr__(self):
        return f"Device({self.name!r})"


def device(name=None):
    """The device called "cpu" or "gpu"; None takes a usable GPU if there is one and the CPU if not.

    Raises ValueError for another name, and for "gpu" where no GPU can be used.
    """
    if name not in ("cpu", "gpu", None):
        raise ValueError(f"device must be cpu or gpu, got {name!r}")
    if name == "cpu":
        return Device("cpu", np)
    try:
        cupy = importlib.import_module("cupy")
        x = cupy.random.default_rng(0).standard_normal((2, 2), "f4")  # an import proves no GPU: use it once,
        float((x @ x).sum())  # with the libraries that training needs
        return Device("gpu", cupy)
    except Exception as problem:  # a missing module, driver or device, each with its own exception
        if name is None:
            return Device("cpu", np)
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise ValueError(f"no usable GPU ({reason}); install tinydiff[cuda12] or [cuda13], or use cpu") from None
