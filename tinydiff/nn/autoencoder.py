"""A small convolutional autoencoder: from an image to the mean and the log-variance of a code, and back.

    image -> fold -> conv -> [block, halve] ... -> block -> norm, silu, conv -> μ ‖ ln σ²
    image <- unfold <- conv, silu, norm <- block <- [double, block] ... <- conv <- z

Pixels are folded into channels before anything heavy happens, so a step costs little. Positions stay positions: the
code is a small image of `latent` channels, each pixel of which looks at its part of the picture and around it. There
is no time in here, and so the blocks are plainer than those of the U-Net: one convolution, added to its input.
"""
import dataclasses

from ..tensor.conv import depth_to_space, space_to_depth, upsample
from .layers import conv, conv_init, norm, norm_init


@dataclasses.dataclass(frozen=True)
class Config:
    """An autoencoder, from a few numbers.

    size, channels : of the images, (size, size, channels); size a multiple of patch · 2^(levels - 1).
    latent    : channels of the code.
    patch     : side of the squares of pixels that are folded into channels before anything else (1: none).
    widths    : channels at each resolution, finest first; each halves the one before, the last is the code's.
    blocks    : residual blocks at each resolution.
    groups    : of the group norms; divides every width.
    """

    size: int = 28
    channels: int = 1
    latent: int = 4
    patch: int = 2
    widths: tuple = (32, 64)
    blocks: int = 1
    groups: int = 8

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.size < 1 or self.size % self.shrinks:
            wanted = f"a multiple of {self.shrinks} (patch {self.patch}, {len(self.widths)} widths)"
            raise ValueError(f"image size must be {wanted}, got {self.size}; crop or pad, or take fewer widths")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"groups {self.groups} must divide every width, got {self.widths}")

    @property
    def shrinks(self):
        """How many pixels a side become one of the code."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def shape(self):
        """Of one code: (height, width, latent)."""
        return (self.size // self.shrinks,) * 2 + (self.latent,)


def block_init(rng, n):
    """A norm and a convolution that starts at zero: the block starts as the identity."""
    return {"norm": norm_init(n), "conv": conv_init(rng, 3, n, n, zero=True)}


def block(p, x, groups):
    """x + conv(silu(norm(x))): (B, H, W, n) -> the same."""
    return x + conv(p["conv"], norm(p["norm"], x, groups, silu=True))


def half_init(rng, n, widths, blocks, resample, m):
    """One of the two halves: from n channels through those of `widths` to m, a `resample` layer between two widths."""
    p = {"in": conv_init(rng, 3, n, widths[0]), "levels": []}
    for width, after in zip(widths, [*widths[1:], None], strict=True):
        level = {"blocks": [block_init(rng, width) for _ in range(blocks)]}
        p["levels"].append({**level, resample: conv_init(rng, 3, width, after)} if after else level)
    return {**p, "out": {"norm": norm_init(widths[-1]), "conv": conv_init(rng, 3, widths[-1], m)}}


def half(p, h, groups):
    """What `half_init` made, applied: (B, H, W, n) -> (B, H', W', m)."""
    h = conv(p["in"], h)
    for level in p["levels"]:
        for q in level["blocks"]:
            h = block(q, h, groups)
        if "halve" in level:
            h = conv(level["halve"], h, stride=2)
        if "double" in level:
            h = upsample(conv(level["double"], h))
    return conv(p["out"]["conv"], norm(p["out"]["norm"], h, groups, silu=True))


def init(rng, config):
    """The parameters of `encode` and `decode`."""
    pixels = config.channels * config.patch**2
    return {
        "encoder": half_init(rng, pixels, config.widths, config.blocks, "halve", 2 * config.latent),
        "decoder": half_init(rng, config.latent, config.widths[::-1], config.blocks, "double", pixels),
    }


def encode(params, x, config):
    """(B, size, size, channels) -> μ, ln σ² of the code, each (B, *config.shape)."""
    h = half(params["encoder"], space_to_depth(x, config.patch), config.groups)
    return h[..., : config.latent], h[..., config.latent :]


def decode(params, z, config):
    """(B, *config.shape) -> (B, size, size, channels)."""
    return depth_to_space(half(params["decoder"], z, config.groups), config.patch)
