"""The optimiser, written out plainly: Adam, the average of the weights, clipping, the learning rate."""
import math

import numpy as np
import pytest

from tinydiff import optim
from tinydiff.tensor import tree


def some(rng, dtype=np.float64):
    """A small tree."""
    return {"w": rng.standard_normal((3, 2)).astype(dtype), "blocks": [{"b": rng.standard_normal(4).astype(dtype)}]}


def adam_by_the_book(theta, gradients, lr, b1=0.9, b2=0.999, eps=1e-8):
    """Kingma & Ba 2015, Algorithm 1, line by line, on one vector."""
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    for g in gradients:
        t = t + 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        theta = theta - lr * m_hat / (np.sqrt(v_hat) + eps)
    return theta, m, v


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])  # at 1e-9, eps matters as much as the gradient
def test_adam_is_algorithm_1(scale):
    rng = np.random.default_rng(0)
    params, gradients = some(rng), [tree.map(lambda g: scale * g, some(rng)) for _ in range(12)]
    moved, state = params, optim.adam_init(params)
    for g in gradients:
        moved, state = optim.adam(moved, g, state, 0.01)
    wanted = adam_by_the_book(tree.pack(params), [tree.pack(g) for g in gradients], 0.01)
    for got, right in zip((moved, state["m"], state["v"]), wanted, strict=True):
        np.testing.assert_allclose(tree.pack(got), right, rtol=1e-13, atol=0)
    assert state["step"] == 12


def test_the_first_step_is_lr_long_whatever_the_gradient():
    params = {"w": np.zeros(3)}
    moved, _ = optim.adam(params, {"w": np.array([1e-3, -5.0, 1e6])}, optim.adam_init(params), 0.1)
    np.testing.assert_allclose(moved["w"], [-0.1, 0.1, -0.1], rtol=2e-5)


def test_adam_is_pytorchs():
    torch = pytest.importorskip("torch", reason="needs PyTorch, to compare with")
    rng = np.random.default_rng(1)
    start = rng.standard_normal(50)
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimiser = torch.optim.Adam([theirs], lr=0.003)
    ours, state = start, optim.adam_init(start)
    for _ in range(30):
        g = rng.standard_normal(50)
        theirs.grad = torch.tensor(g)
        optimiser.step()
        ours, state = optim.adam(ours, g, state, 0.003)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-12)


def test_a_step_leaves_its_arguments_alone_and_float32_as_it_is():
    rng = np.random.default_rng(2)
    params, g = some(rng, np.float32), some(rng, np.float32)
    state = optim.adam_init(params)
    before = [leaf.copy() for leaf in tree.leaves([params, g, state["m"], state["v"]])]
    moved, after = optim.adam(params, optim.clip(g, 9.0, 1.0), state, 1e-3)
    average = optim.ema(params, moved, 3, 0.999)
    assert {leaf.dtype for leaf in tree.leaves([moved, after["m"], after["v"], average])} == {np.dtype(np.float32)}
    for old, new in zip(before, tree.leaves([params, g, state["m"], state["v"]]), strict=True):
        assert np.array_equal(old, new)
    assert state["step"] == 0


def test_on_one_vector_and_on_a_tree_it_is_the_same_step():
    rng = np.random.default_rng(3)
    params, g = some(rng), some(rng)
    moved, _ = optim.adam(params, g, optim.adam_init(params), 0.01)
    packed, _ = optim.adam(tree.pack(params), tree.pack(g), optim.adam_init(tree.pack(params)), 0.01)
    assert np.array_equal(tree.pack(moved), packed)


@pytest.mark.parametrize("size", [1, optim.SLICE - 1, optim.SLICE, 2 * optim.SLICE + 7])
def test_slice_by_slice_it_is_the_same_step(size):
    rng = np.random.default_rng(5)
    p, g, m, v = np.abs(rng.standard_normal((4, size), "f4"))

    def step(p, g, m, v):
        moved, state = optim.adam(p, g, {"m": m, "v": v, "step": 3}, 0.01)
        return moved, state["m"], state["v"]

    for got, wanted in zip(optim.by_slices(step, p, g, m, v), step(p, g, m, v), strict=True):
        assert got.dtype == np.float32 and np.array_equal(got, wanted)


def test_the_average_against_a_loop_by_hand():
    rng = np.random.default_rng(4)
    weights = rng.standard_normal((200, 3))
    by_hand, got = [0.5, -1.0, 2.0], np.array([0.5, -1.0, 2.0])
    for step, w in enumerate(weights):
        d = (1 + step) / (10 + step)
        if d > 0.9:
            d = 0.9
        by_hand = [d * a + (1 - d) * b for a, b in zip(by_hand, w.tolist(), strict=True)]
        got = optim.ema(got, w, step, decay=0.9)
    np.testing.assert_allclose(got, by_hand, rtol=1e-12)


def test_the_average_of_constant_weights_forgets_where_it_started():
    average = np.array(1000.0)
    for step in range(300):
        average = optim.ema(average, np.array(1.0), step, decay=0.999)
    assert abs(average - 1) < 1e-9  # the product of (1+k)/(10+k) falls like k^-9


def test_the_norm_is_that_of_all_numbers_together():
    assert optim.global_norm({"a": np.array([[3.0]]), "b": [np.array([4.0, 12.0])]}) == 13


def test_clipping_shortens_and_never_turns():
    g = {"a": np.array([3.0, 0.0]), "b": np.array([4.0])}
    assert optim.clip(g, 5.0, 5.0) is g and optim.clip(g, 5.0, 6.0) is g
    short = optim.clip(g, 5.0, 0.5)
    assert optim.global_norm(short) == pytest.approx(0.5, rel=1e-15)
    np.testing.assert_allclose(tree.pack(short), tree.pack(g) / 10, rtol=1e-15)


@pytest.mark.parametrize(
    "step, progress, share",
    [(0, 0.0, 0.01), (49, 0.0, 0.5), (99, 0.0, 1.0), (5000, 0.0, 1.0)]  # up
    + [(5000, 1 / 3, 0.75), (5000, 0.5, 0.5), (5000, 2 / 3, 0.25), (5000, 1.0, 0.0), (5000, 1.2, 0.0)]  # down
    + [(49, 0.5, 0.25)],  # both: a run that is shorter than its warm-up
)
def test_the_learning_rate(step, progress, share):
    assert optim.learning_rate(0.2, step, 100, progress) == pytest.approx(0.2 * share, rel=1e-12, abs=1e-17)


def test_without_a_warm_up_the_first_rate_is_the_peak():
    assert optim.learning_rate(0.2, 0, 0, 0.0) == 0.2
    rates = [optim.learning_rate(1.0, step, 10, step / 100) for step in range(101)]
    assert max(rates) == rates[9] and rates[100] < 1e-15
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert math.fsum(rates) > 40
