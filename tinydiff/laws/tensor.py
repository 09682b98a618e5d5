"""The tensor layer: the fast primitives equal the plain ones, and derivatives are adjoints."""
import math

import numpy as np

from ..tensor import autodiff, conv, fast, ops, winograd
from .domains import Flag, Images, Kernel, Number, Points, Seen, Stride
from .law import law


@law("definition; Lavin & Gray section 4", of=[fast.conv2d, winograd.conv2d])
def fast_convolution_is_the_plain_one(x: Images, w: Kernel, stride: Stride, b: Number):
    """Cache-sized pieces, mixed rows or not, give the numbers of the whole product."""
    bias = np.linspace(-b, b, w.shape[3])
    return fast.conv2d(x, w, bias, stride), conv.plain_conv2d(x, w, bias, stride), 80.0


@law(
    "definition; Lavin & Gray section 4",
    of=[fast.conv2d_dx, fast.conv2d_dw, fast.conv2d_gradients, winograd.gradients],
)
def fast_gradients_are_the_plain_ones(x: Images, w: Kernel, stride: Stride):
    """So do the products that its derivatives are."""
    g = np.cos(conv.plain_conv2d(x, w, None, stride))
    k = w.shape[0]
    apart = (fast.conv2d_dx(g, w, x.shape, stride), fast.conv2d_dw(x, g, k, stride))
    plain = (conv.plain_conv2d_dx(g, w, x.shape, stride), conv.plain_conv2d_dw(x, g, k, stride))
    return apart + fast.conv2d_gradients(g, x, w, stride), plain + plain, (90.0, 400.0) * 2


@law(
    "definition; Lavin & Gray section 4",
    of=[conv.doubled_conv2d, fast.doubled_conv2d, fast.doubled_conv2d_gradients, conv.upsample],
)
def a_double_need_not_be_made(x: Images, w: Kernel, b: Number):
    """conv(upsample(x)) and both its gradients, from x itself; the gradient of upsampling adds the four copies."""
    w = np.broadcast_to(w, (3, 3, *w.shape[2:])) + np.arange(9.0).reshape(3, 3, 1, 1)
    bias, double = np.linspace(-b, b, w.shape[3]), conv.upsample(x)
    y = conv.plain_conv2d(double, w, bias)
    g = np.cos(y)
    dx = 4 * conv.average_pool(conv.plain_conv2d_dx(g, w, double.shape))
    found = fast.doubled_conv2d(x, w, bias), *fast.doubled_conv2d_gradients(g, x, w)
    return found, (y, dx, conv.plain_conv2d_dw(double, g, 3)), (800.0, 3600.0, 1600.0)


@law("Vaswani et al. (1); LDM section 3.3", of=[ops.attention])
def attention_looks_at_a_set(q: Points, k: Points, v: Points, seen: Seen):
    """Σ_j w_j v_j over the keys that are seen, in any order, w ∝ e^(q·k/√d); nothing seen, nothing found."""
    mask = np.arange(4) < seen
    order, hidden = [2, 0, 3, 1], np.where(mask, 0.0, 1e3)[:, None]
    found = ops.attention(q[None], k[None], v[None], mask[None])[0]
    shuffled = ops.attention(q[None], k[None, order], v[None, order], mask[None, order])[0]
    elsewhere = ops.attention(q[None], (k + hidden)[None], (v - hidden)[None], mask[None])[0]
    whole = ops.attention(q[None], k[None, :seen], v[None, :seen])[0] if seen else np.zeros_like(q)
    w = np.exp(q @ k.T / math.sqrt(2)) * mask
    by_hand = (w / np.maximum(w.sum(1, keepdims=True), 1e-300)) @ v
    return (found, shuffled, elsewhere, whole), (by_hand,) * 4, (3.0,) * 4


@law("linear algebra", of=[conv.conv2d, conv.conv2d_dx, conv.conv2d_dw])
def gradients_of_a_convolution_are_adjoints(x: Images, w: Kernel, stride: Stride):
    """⟨x * w, g⟩ = ⟨x, dx⟩ = ⟨w, dw⟩."""
    y = conv.conv2d(x, w, None, stride)
    g = np.cos(y)
    product = np.sum(y * g)
    by_image = np.sum(x * conv.conv2d_dx(g, w, x.shape, stride))
    return (product, product), (by_image, np.sum(w * conv.conv2d_dw(x, g, w.shape[0], stride))), (9e3, 9e3)


@law("Wu & He (1)-(2), (6)-(7)", of=[ops.group_norm, fast.group_norm], tol=1e-8)
def fast_group_norm_is_the_plain_one(x: Images, silu: Flag, gamma: Number, offset: Number):
    """Values and all four gradients, with and without silu, wherever the mean lies."""
    shift = np.outer(np.arange(1.0, 1 + len(x)), [offset, 2, -1, gamma])
    tree = {"x": 3 * x + 100 * offset, "gamma": gamma + np.arange(4.0), "beta": np.linspace(-1, 1, 4), "shift": shift}
    if x[0].size < 16:
        tree["x"] = np.concatenate([tree["x"]] * 4 + [tree["x"] + 1], axis=1)
    weights = np.cos(np.arange(tree["x"].size, dtype=float)).reshape(tree["x"].shape)

    def by(norm):
        def weighed(p):
            return ops.sum(weights * norm(p["x"], p["gamma"], p["beta"], 2, silu, shift=p["shift"]))

        y, grads = autodiff.value_and_grad(weighed)(tree)
        return y, *(grads[name] for name in tree)

    size = 1e3 * (1 + abs(gamma))
    return by(ops.group_norm), by(ops.plain_group_norm), (size,) * 5
