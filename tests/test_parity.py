"""The blocks of networks against PyTorch, values and gradients, in float32: the same definitions, to 1e-5."""
import numpy as np
import pytest

from tinydiff.tensor import conv, ops
from tinydiff.tensor.autodiff import grad

torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
functional = torch.nn.functional


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def torch_conv(stride):
    def conv2d(x, w, b):
        w = w.permute(3, 2, 0, 1)
        return nhwc(functional.conv2d(nchw(x), w, b, stride=stride, padding=w.shape[-1] // 2))

    return conv2d


def torch_norm(groups, silu):
    def norm(x, gamma, beta):
        y = functional.group_norm(nchw(x), groups, gamma, beta, eps=1e-5)
        return nhwc(functional.silu(y) if silu else y)

    return norm


def upsample(x):
    return nhwc(functional.interpolate(nchw(x), scale_factor=2, mode="nearest"))


def norm(groups, silu):
    return lambda x, gamma, beta: ops.group_norm(x, gamma, beta, groups, silu)


def unshuffle(x):
    """PyTorch's channels run (c, i, j), ours (i, j, c)."""
    b, h, w, c = x.shape
    y = nhwc(functional.pixel_unshuffle(nchw(x), 2)).reshape(b, h // 2, w // 2, c, 4)
    return y.transpose(3, 4).reshape(b, h // 2, w // 2, 4 * c)


IMAGE = (2, 9, 12, 6)
PAIRS = {
    **{
        f"conv {k}x{k}, stride {stride}, {size}": (
            lambda x, w, b, stride=stride: conv.conv2d(x, w, b, stride=stride),
            torch_conv(stride),
            [(2, *size, 6), (k, k, 6, 8), (8,)],
        )
        for k in (1, 3)
        for stride in (1, 2)
        for size in ((8, 8), (7, 10))
    },
    **{
        f"group norm, {groups} groups{', silu' * silu}": (
            norm(groups, silu),
            torch_norm(groups, silu),
            [IMAGE, (6,), (6,)],
        )
        for groups in (1, 3, 6)
        for silu in (False, True)
    },
    "attention": (
        ops.attention,
        functional.scaled_dot_product_attention,
        [(2, 20, 8), (2, 30, 8), (2, 30, 5)],
    ),
    "linear": (
        ops.linear,
        lambda x, w, b: functional.linear(x, w.T, b),
        [(2, 5, 7), (7, 3), (3,)],
    ),
    "matmul": (ops.matmul, torch.matmul, [(2, 5, 7), (7, 3)]),
    "softmax": (ops.softmax, lambda x: functional.softmax(x, dim=-1), [(5, 9)]),
    "silu": (ops.silu, functional.silu, [(5, 9)]),
    "sigmoid": (ops.sigmoid, torch.sigmoid, [(5, 9)]),
    "erfc": (ops.erfc, torch.erfc, [(5, 9)]),
    "upsample": (conv.upsample, upsample, [IMAGE]),
    "average pool": (
        conv.average_pool,
        lambda x: nhwc(functional.avg_pool2d(nchw(x), 2)),
        [(2, 8, 12, 6)],
    ),
    "space to depth": (conv.space_to_depth, unshuffle, [(2, 8, 12, 6)]),
}


def assert_close(got, want):
    assert got.shape == want.shape and got.dtype == want.dtype == np.float32
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_pytorch(name):
    ours, theirs, shapes = PAIRS[name]
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    leaves = [torch.tensor(x, requires_grad=True) for x in args]
    want = theirs(*leaves)
    assert_close(ours(*args), want.detach().numpy())
    c = rng.standard_normal(want.shape).astype(np.float32)
    (want * torch.tensor(c)).sum().backward()
    for got, leaf in zip(grad(lambda xs: ops.sum(ours(*xs) * c))(args), leaves, strict=True):
        assert_close(got, leaf.grad.numpy())
