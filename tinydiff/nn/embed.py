"""How a network is told the time."""
import math

import numpy as np

from ..tensor import ops
from ..tensor.autodiff import xp_of
from .layers import linear, linear_init


def sinusoidal(t, dim, like):
    """sin ‖ cos of t at dim/2 frequencies, from 1 down to (nearly) 1/10,000.

        [sin(ω_i t)..., cos(ω_i t)...],   ω_i = 10000^(-i / (dim/2)),  i = 0 .. dim/2 - 1

    Source : Vaswani et al. 2017, arXiv:1706.03762, section 3.5, with the sines first and the cosines after them;
             dividing by dim/2 (and not dim/2 - 1, as the code of DDPM does) leaves dim = 2 well defined.
    t      : a number or (B,), whole or real. Returns (B, dim), of the dtype and device of `like` (B, ...).
    """
    half = dim // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / half)
    angles = np.broadcast_to(np.asarray(t, np.float64), like.shape[:1])[:, None] * frequencies
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return xp_of(like).asarray(table.astype(like.dtype))


def time_init(rng, dim, width, classes=0):
    """Two linear layers above `dim` sines and cosines; and a row for each label, if there are any."""
    p = {"in": linear_init(rng, dim, width), "out": linear_init(rng, width, width)}
    return {**p, "label": label_init(rng, classes, width)} if classes else p


def time_embedding(p, t, like, label=None):
    """silu(linear(silu(linear(sinusoidal(t)))) + the label's row): (B, width), for every block to map and add.

    Source : Ho et al. 2020, arXiv:2006.11239, appendix B; the label: Nichol & Dhariwal 2021, arXiv:2102.09672,
             section 6 (added to the time embedding).
    label  : (B,) ints or None; a network that knows labels takes None for "no label".
    """
    h = sinusoidal(t, p["in"]["w"].shape[0], like)
    h = linear(p["out"], ops.silu(linear(p["in"], h)))
    return ops.silu(h + label_row(p["label"], label, like) if "label" in p else h)


def label_init(rng, classes, width):
    """A row a class, and one for "no label", the last."""
    return rng.standard_normal((classes + 1, width)).astype(np.float32)


def label_row(table, label, like):
    """The rows of (B,) labels; of None, the last row for all. Raises ValueError for a label out of range."""
    none = table.shape[0] - 1
    label = np.full(like.shape[0], none) if label is None else np.broadcast_to(label, like.shape[:1])
    if label.size and not 0 <= label.min() <= label.max() <= none:
        raise ValueError(f"label must be in 0..{none - 1} (or {none} for none), got {label.min()}..{label.max()}")
    return ops.take(table, xp_of(like).asarray(label))
