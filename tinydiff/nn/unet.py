"""The U-Net: down to coarse, up to fine, with every stage on the way down handed across to the way up.

    image -> conv -> [blocks, halve] ... -> block, attention, block -> ... [blocks, double] -> norm, silu, conv -> image

Source : Ronneberger et al. 2015, arXiv:1505.04597, in the form of Ho et al. 2020, arXiv:2006.11239, appendix B: group
norm and silu before each convolution, the time added inside every block, self-attention at the coarse resolutions.
"""
import dataclasses

from ..tensor import ops
from ..tensor.conv import conv2d, depth_to_space, space_to_depth
from . import attention
from .embed import time_embedding, time_init
from .layers import conv, conv_init, doubled_conv, linear, linear_init, norm, norm_init


@dataclasses.dataclass(frozen=True)
class Config:
    """A U-Net, from a few numbers.

    size, channels : of the images, (size, size, channels); size a multiple of patch.
    patch     : side of the squares of pixels that are folded into channels before anything else (1: none).
    widths    : channels at each resolution, finest first; each halves the one before (an odd size rounds up).
    blocks    : residual blocks at each resolution on the way down; one more on the way up.
    attention : resolutions whose blocks are followed by self-attention (the middle always has it).
    groups    : of the group norms; divides every width. embed: width of the time embedding.
    classes   : how many labels it knows, 0 for none. context: width of the vectors that it looks at by cross-attention,
                wherever it has self-attention, 0 for none.
    """

    size: int = 28
    channels: int = 1
    patch: int = 1
    widths: tuple = (32, 64, 64)
    blocks: int = 1
    attention: tuple = ()
    groups: int = 8
    embed: int = 128
    classes: int = 0
    context: int = 0

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "attention", tuple(self.attention))
        if self.size < 1 or self.size % self.patch:
            raise ValueError(f"image size must be a multiple of patch {self.patch}, got {self.size}; crop or pad")
        if any(width % self.groups or width % 2 for width in self.widths):
            raise ValueError(f"groups {self.groups} must divide every width, got {self.widths}")

    @property
    def sizes(self):
        """The resolution of each level."""
        size, sizes = self.size // self.patch, []
        for _ in self.widths:
            sizes.append(size)
            size = (size + 1) // 2
        return sizes


# Blocks


def block_init(rng, n, m, embed):
    """A residual block from n to m channels; its last convolution starts at zero, so it starts as its shortcut."""
    p = {
        "norm1": norm_init(n),
        "conv1": conv_init(rng, 3, n, m),
        "time": linear_init(rng, embed, m),
        "norm2": norm_init(m),
        "conv2": conv_init(rng, 3, m, m, zero=True),
    }
    return p if n == m else {**p, "shortcut": conv_init(rng, 1, n, m)}


def block(p, x, e, groups):
    """shortcut(x) + conv(silu(norm(conv(silu(norm(x))) + linear(e)))): x (B, H, W, n), e (B, embed)."""
    h = conv2d(norm(p["norm1"], x, groups, silu=True), p["conv1"]["w"])
    shift = linear(p["time"], e) + p["conv1"]["b"]  # for the norm to add: it need not touch every pixel for that
    h = conv(p["conv2"], norm(p["norm2"], h, groups, silu=True, shift=shift))
    return h + (conv(p["shortcut"], x) if "shortcut" in p else x)


def stage_init(rng, n, m, embed, attend, context=0):
    """A block, and if `attend` self-attention, and cross-attention if there is a context."""
    p = {"block": block_init(rng, n, m, embed)}
    if attend:
        p["attention"] = attention.init(rng, m)
    return {**p, "cross": attention.cross_init(rng, m, context)} if attend and context else p


def stage(p, x, e, groups, context=None, mask=None):
    """A block, and attention where it has one."""
    h = block(p["block"], x, e, groups)
    if "attention" in p:
        h = attention.self_attention(p["attention"], h, groups)
    return attention.cross_attention(p["cross"], h, context, mask, groups) if "cross" in p else h


# The network


def init(rng, config):
    """The parameters of `apply`."""
    channels, embed, context = config.channels * config.patch**2, config.embed, config.context
    n, last = config.widths[0], len(config.widths) - 1
    params = {"time": time_init(rng, n, embed, config.classes)}
    params |= {"in": conv_init(rng, 3, channels, n), "down": [], "up": []}
    skips = [n]
    for i, (m, size) in enumerate(zip(config.widths, config.sizes, strict=True)):
        level = {"stages": []}
        for _ in range(config.blocks):
            level["stages"].append(stage_init(rng, n, m, embed, size in config.attention, context))
            n = m
            skips.append(n)
        if i < last:
            level["halve"] = conv_init(rng, 3, n, n)
            skips.append(n)
        params["down"].append(level)
    params["middle"] = {
        "first": stage_init(rng, n, n, embed, True, context),
        "second": stage_init(rng, n, n, embed, False),
    }
    for i, (m, size) in reversed(list(enumerate(zip(config.widths, config.sizes, strict=True)))):
        level = {"stages": []}
        for _ in range(config.blocks + 1):
            level["stages"].append(stage_init(rng, n + skips.pop(), m, embed, size in config.attention, context))
            n = m
        if i:
            level["double"] = conv_init(rng, 3, n, n)
        params["up"].append(level)
    params["out"] = {"norm": norm_init(n), "conv": conv_init(rng, 3, n, channels, zero=True)}
    return params


def apply(params, x, t, config, label=None, context=None, mask=None):
    """(B, size, size, channels), (B,) or a number -> (B, size, size, channels).

    label: (B,) ints, None for no label; context: (B, L, config.context), mask: see `attention.cross_attention`.
    """
    groups = config.groups
    e = time_embedding(params["time"], t, x, label)
    h = conv(params["in"], space_to_depth(x, config.patch))
    skips = [h]
    for level in params["down"]:
        for p in level["stages"]:
            h = stage(p, h, e, groups, context, mask)
            skips.append(h)
        if "halve" in level:
            h = conv(level["halve"], h, stride=2)
            skips.append(h)
    h = stage(params["middle"]["first"], h, e, groups, context, mask)
    h = stage(params["middle"]["second"], h, e, groups)
    for level in params["up"]:
        for p in level["stages"]:
            h = stage(p, ops.concatenate([h, skips.pop()]), e, groups, context, mask)
        if "double" in level:
            h = doubled_conv(level["double"], h, *skips[-1].shape[1:3])
    h = conv(params["out"]["conv"], norm(params["out"]["norm"], h, groups, silu=True))
    return depth_to_space(h, config.patch)
