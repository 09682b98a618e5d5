"""Adam, the moving average of the weights, clipping, and the learning rate over a run: pure functions of trees.

A vector is a tree too, of one leaf: the training loop packs its parameters into one, and a step costs a few calls.
"""
import math

import numpy as np

from .tensor import tree
from .tensor.autodiff import xp_of

SLICE = 32_000  # numbers: what a step makes of so many stays in the cache


def adam_init(params):
    """The state of `adam`: both moments zero, no step taken."""

    def zeros(p):
        return xp_of(p).zeros_like(p)

    return {"m": tree.map(zeros, params), "v": tree.map(zeros, params), "step": 0}


def adam(params, grads, state, lr, betas=(0.9, 0.999), eps=1e-8):
    """One step of Adam: (params, state).

        m ← b₁ m + (1-b₁) g,   v ← b₂ v + (1-b₂) g²,   θ ← θ - lr · m̂ / (√v̂ + ε),   m̂ = m/(1-b₁ᵏ), v̂ = v/(1-b₂ᵏ)

    Source : Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1 (k counts steps from 1; the hats undo the bias to zero).
    """
    b1, b2, step = *betas, state["step"] + 1
    m = tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["m"], grads)
    v = tree.map(lambda v, g: b2 * v + (1 - b2) * (g * g), state["v"], grads)
    rate, root = lr / (1 - b1**step), math.sqrt(1 - b2**step)

    def move(p, m, v):
        return p - rate * m / (xp_of(v).sqrt(v) / root + eps)

    return tree.map(move, params, m, v), {"m": m, "v": v, "step": step}


def ema(average, params, step, decay):
    """The moving average of the weights after step number `step` (from 0): d · average + (1-d) · params.

    d = min(decay, (1+step)/(10+step)): a short memory at first, so that the starting weights are soon forgotten.
    """
    d = min(decay, (1 + step) / (10 + step))
    return tree.map(lambda a, p: d * a + (1 - d) * p, average, params)


def by_slices(f, *vectors):
    """f(*vectors): vectors, made number by number of vectors, a slice of them at a time; on a GPU all at once."""
    if xp_of(vectors[0]) is not np:
        return f(*vectors)
    size, made = len(vectors[0]), None
    for i in range(0, size, SLICE):
        some = f(*[vector[i : i + SLICE] for vector in vectors])
        made = made or [np.empty(size, part.dtype) for part in some]
        for whole, part in zip(made, some, strict=True):
            whole[i : i + SLICE] = part
    return made


def global_norm(grads):
    """√Σ g² over every number of the tree."""
    return math.sqrt(sum(float(g.reshape(-1) @ g.reshape(-1)) for g in tree.leaves(grads)))


def clip(grads, norm, longest):
    """The gradients shortened to length `longest` if their `norm` is more.

    Source : Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1.
    """
    if norm <= longest:
        return grads
    return tree.map(lambda g: g * (longest / norm), grads)


def learning_rate(lr, step, warmup, progress):
    """lr · min(1, (step+1)/warmup) · ½(1 + cos π progress): up over `warmup` steps, down to 0 as progress goes to 1.

    Source : Loshchilov & Hutter 2017, arXiv:1608.03983, eq. (5), one cycle.
    """
    return lr * min(1.0, (step + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
