"""The networks: shapes and sizes, the time, gradients, every array library, and parity with PyTorch."""
import itertools
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from tinydiff.nn import captioned, classifier, embed, layers, mlp, text, unet
from tinydiff.tensor import autodiff, ops, tree
from tinydiff.tensor.device import Device

TINY = {"widths": (8, 16), "groups": 4, "embed": 16}


def noisy(params, seed=1, dtype=None):
    """The parameters with noise added: layers that start at zero would hide what stands before them."""
    rng = np.random.default_rng(seed)
    return tree.map(lambda p: (p + 0.1 * rng.standard_normal(p.shape)).astype(dtype or p.dtype), params)


def a_unet(seed=0, dtype=None, **fields):
    config = unet.Config(**{**TINY, **fields})
    return config, noisy(unet.init(np.random.default_rng(seed), config), dtype=dtype)


def images(config, n=3, seed=2, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, config.size, config.size, config.channels)).astype(dtype)


# The time


def test_sines_first_then_cosines_over_half_dim():
    t = np.array([1, 7])
    table = embed.sinusoidal(t, 6, np.zeros((2, 1)))
    frequencies = [10_000 ** (-i / 3) for i in range(3)]
    for row, time in zip(table, t, strict=True):
        wanted = [math.sin(w * time) for w in frequencies] + [math.cos(w * time) for w in frequencies]
        assert np.allclose(row, wanted, rtol=1e-14, atol=1e-15)


def test_dim_two_is_well_defined():
    """Dividing by dim/2 - 1 would divide by zero here."""
    assert np.isfinite(embed.sinusoidal(5, 2, np.zeros((3, 1)))).all()


def test_real_times_lie_between_whole_ones():
    like = np.zeros((3, 1))
    a, b, c = embed.sinusoidal(np.array([3.0, 3.001, 4.0]), 8, like)
    assert 0 < np.abs(b - a).max() < 0.01 * np.abs(c - a).max() * 2


@pytest.mark.parametrize("module", [mlp, unet])
def test_time_reaches_the_output(module):
    config = mlp.Config(width=8, depth=2, embed=8) if module is mlp else unet.Config(size=8, **TINY)
    params = noisy(module.init(np.random.default_rng(0), config))
    x = np.ones((2, 2), np.float32) if module is mlp else images(config, 2)
    early, late = module.apply(params, x, 1, config), module.apply(params, x, 500, config)
    assert np.abs(early - late).max() > 1e-3
    both = module.apply(params, x, np.array([1, 500]), config)
    assert np.allclose(both[0], early[0], atol=1e-5) and np.allclose(both[1], late[1], atol=1e-5)


# Shapes


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 28, "widths": (8, 8, 8)},
        {"size": 28, "patch": 2},
        {"size": 30, "widths": (8, 8, 16)},
        {"size": 2, "widths": (8,)},
        {"size": 6, "widths": (8, 8, 8, 8)},
        {"size": 12, "channels": 3, "blocks": 2, "attention": (12, 6)},
    ],
    ids=str,
)
def test_any_even_size(fields):
    config, params = a_unet(**fields)
    x = images(config)
    y = unet.apply(params, x, np.array([1, 10, 100]), config)
    assert y.shape == x.shape and y.dtype == np.float32 and np.isfinite(y).all()


BAD = [{"size": 27, "patch": 2}, {"size": 0}, {"size": 10, "patch": 4}, {"widths": (9, 16)}]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_bad_configs_are_refused_in_one_line(fields):
    with pytest.raises(ValueError) as refusal:
        unet.Config(**{**TINY, **fields})
    assert "\n" not in str(refusal.value) and "got" in str(refusal.value)


def test_networks_start_at_zero():
    """The last convolution is zero, so the first guess is, whatever the image."""
    config = unet.Config(size=8, **TINY)
    params = unet.init(np.random.default_rng(0), config)
    assert not unet.apply(params, images(config), 5, config).any()
    assert not mlp.apply(mlp.init(np.random.default_rng(0), mlp.Config()), np.ones((4, 2), np.float32), 5).any()


def test_attention_stands_where_it_was_asked_for():
    config = unet.Config(size=16, widths=(8, 8), attention=(8,), groups=4, embed=16)
    params = unet.init(np.random.default_rng(0), config)
    assert "attention" not in params["down"][0]["stages"][0] and "attention" in params["down"][1]["stages"][0]
    assert "attention" in params["middle"]["first"] and "attention" not in params["up"][1]["stages"][0]


# Derivatives


@pytest.mark.parametrize("fields", [{"size": 6, "attention": (3,)}, {"size": 8, "patch": 2}], ids=str)
def test_unet_gradient_by_differences(fields):
    """Along a random direction in all parameters at once, in float64; step 1e-6, so the error is about 1e-9."""
    config, params = a_unet(dtype=np.float64, **fields)
    x, rng = images(config, 2, dtype=np.float64), np.random.default_rng(4)
    c = rng.standard_normal(x.shape)

    def loss(params):
        return ops.sum(unet.apply(params, x, np.array([3, 300]), config) * c)

    direction = tree.map(lambda p: rng.standard_normal(p.shape), params)
    _, grads = autodiff.value_and_grad(loss)(params)
    slope = sum(float((g * d).sum()) for g, d in zip(tree.leaves(grads), tree.leaves(direction), strict=True))
    step = 1e-6

    def at(s):
        return float(loss(tree.map(lambda p, d: p + s * d, params, direction)))

    assert slope == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-6)


def test_mlp_differentiates_twice():
    """The divergence of an MLP's output, differentiated by its parameters: what score matching asks for."""
    config = mlp.Config(width=6, depth=2, embed=4)
    params = noisy(mlp.init(np.random.default_rng(0), config), dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((3, 2))

    def divergence(params):
        total = 0.0
        for i in range(2):
            e = np.eye(2)[i]
            slopes = autodiff.grad(lambda x, e=e: ops.sum(mlp.apply(params, x, 7) * e))(x)
            total = total + ops.sum(slopes * e)
        return total

    rng, step = np.random.default_rng(2), 1e-5
    direction = tree.map(lambda p: rng.standard_normal(p.shape), params)
    _, grads = autodiff.value_and_grad(divergence)(params)
    slope = sum(float((g * d).sum()) for g, d in zip(tree.leaves(grads), tree.leaves(direction), strict=True))
    up, down = (float(divergence(tree.map(lambda p, d, s=s: p + s * d, params, direction))) for s in (step, -step))
    assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6)


# Labels and context


@pytest.mark.parametrize("module", [mlp, unet])
def test_label_reaches_the_output_and_none_is_the_last(module):
    fields = {"width": 8, "depth": 2, "embed": 8} if module is mlp else {"size": 8, **TINY}
    config = module.Config(classes=3, **fields)
    params = noisy(module.init(np.random.default_rng(0), config))
    x = np.ones((2, 2), np.float32) if module is mlp else images(config, 2)
    answers = [module.apply(params, x, 5, config, label) for label in (0, 1, 2, 3, None, np.array([0, 2]))]
    for i, j in ((0, 1), (1, 2), (0, 2), (2, 3)):
        assert np.abs(answers[i] - answers[j]).max() > 1e-3
    assert np.array_equal(answers[3], answers[4])
    assert np.allclose(answers[5][0], answers[0][0], atol=1e-5) and np.allclose(answers[5][1], answers[2][1], atol=1e-5)
    for wrong in (-1, 4, np.array([0, 9])):
        with pytest.raises(ValueError, match="label must be in 0..2"):
            module.apply(params, x, 5, config, wrong)


def test_attention_does_not_see_what_is_masked():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, n, 4)) for n in (3, 5, 5))
    mask = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    found = ops.attention(q, k, v, mask)
    assert np.allclose(found[0], ops.attention(q[:1], k[:1, :3], v[:1, :3])[0], rtol=1e-12)
    assert np.allclose(found[1], v[1, 0], rtol=1e-12)  # one key to look at: its value, whatever was asked
    assert not ops.attention(q, k, v, np.zeros((2, 5))).any()


def a_reader(dtype=None):
    """A U-Net that looks at words, its weights, and a sentence for each of three images."""
    rng = np.random.default_rng(3)
    words = text.Config(vocabulary=20, length=6, width=8, depth=2)
    config, params = a_unet(size=6, attention=(3,), context=8, dtype=dtype)
    params = {"unet": params, "text": noisy(text.init(rng, words), dtype=dtype)}
    ids, mask = rng.integers(1, 20, (3, 6)), (np.arange(6) < np.array([2, 4, 6])[:, None]).astype(dtype or "f4")

    def apply(params, x, ids=ids, mask=mask):
        return unet.apply(params["unet"], x, 7, config, None, text.apply(params["text"], ids, mask), mask)

    return config, params, apply, ids


def test_every_word_counts_and_padding_does_not():
    config, params, apply, ids = a_reader()
    x = images(config)
    y = apply(params, x)
    for place in range(6):
        other = ids.copy()
        other[:, place] = other[:, place] % 19 + 1
        moved = np.abs(apply(params, x, other) - y).max((1, 2, 3))
        within = place < np.array([2, 4, 6])
        assert (moved[within] > 1e-5).all() and (moved[~within] == 0).all()
    swapped = ids[:, [1, 0, 2, 3, 4, 5]]
    assert np.abs(apply(params, x, swapped) - y).max() > 1e-4  # and their order


def a_captioned(dtype=None):
    """A captioned U-Net, its weights, and captions of two, four and five words, all in one table of five."""
    words = {"vocabulary": 20, "length": 6, "width": 8, "depth": 1}
    config = captioned.Config(text=words, unet={"size": 6, "attention": (3,), **TINY})
    rng = np.random.default_rng(3)
    params = noisy(captioned.init(rng, config), dtype=dtype)
    ids, mask = rng.integers(1, 20, (3, 5)), np.arange(5) < np.array([2, 4, 5])[:, None]
    return config, params, {"ids": ids * mask, "mask": mask}


def test_a_caption_reaches_the_output_and_its_padding_does_not():
    config, params, caption = a_captioned()
    x, t = images(config.unet), np.array([1, 30, 900])

    def apply(**changes):
        return captioned.apply(params, x, t, config, {**caption, **changes})

    y = apply()
    assert y.shape == x.shape and y.dtype == np.float32
    for place in range(5):
        other = caption["ids"].copy()
        other[:, place] = other[:, place] % 19 + 1
        moved, within = np.abs(apply(ids=other) - y).max(axis=(1, 2, 3)), caption["mask"][:, place]
        assert (moved[within] > 1e-5).all() and (moved[~within] == 0).all()
    longer = {name: np.pad(rows, [(0, 0), (0, 1)]) for name, rows in caption.items()}
    assert np.allclose(captioned.apply(params, x, t, config, longer), y, atol=1e-6)
    alone = captioned.apply(params, x[:1], 1, config, {name: rows[:1, :2] for name, rows in caption.items()})
    assert np.allclose(alone, y[:1], atol=1e-5)


def test_no_caption_is_one_of_no_words():
    """Of any length, whatever stands behind its mask; and it is another thing than every caption."""
    config, params, caption = a_captioned()
    x = images(config.unet)
    unsaid = captioned.apply(params, x, 7, config)
    silent = {"ids": caption["ids"], "mask": np.zeros((3, 5), bool)}
    assert np.array_equal(captioned.apply(params, x, 7, config, silent), unsaid)
    said = captioned.apply(params, x, 7, config, caption)
    assert (np.abs(said - unsaid).max(axis=(1, 2, 3)) > 1e-3).all()


def test_the_context_of_a_captioned_network_is_as_wide_as_its_text():
    config, params, _ = a_captioned()
    assert config.unet.context == config.text.width == 8
    assert params["unet"]["middle"]["first"]["cross"] and "cross" in params["unet"]["down"][1]["stages"][0]


def slope_along(loss, params, seed=5, step=1e-5):
    """(the gradient, by differences) of a loss of float64 parameters, along a random direction through all of them.

    And every parameter has a part in it.
    """
    rng = np.random.default_rng(seed)
    _, grads = autodiff.value_and_grad(loss)(params)
    for name, g in tree.flatten(grads).items():
        assert np.abs(g).max() > 0, name
    direction = tree.map(lambda p: rng.standard_normal(p.shape), params)
    slope = sum(float((g * d).sum()) for g, d in zip(tree.leaves(grads), tree.leaves(direction), strict=True))
    up, down = (float(loss(tree.map(lambda p, d, s=s: p + s * d, params, direction))) for s in (step, -step))
    return slope, (up - down) / (2 * step)


def test_gradients_of_a_captioned_network():
    config, params, caption = a_captioned(np.float64)
    x = images(config.unet, dtype=np.float64)
    slope, wanted = slope_along(lambda p: ops.mean(captioned.apply(p, x, 7, config, caption) ** 2), params)
    assert slope == pytest.approx(wanted, rel=1e-6)


def test_a_captioned_network_on_every_backend(backend):
    config, params, caption = a_captioned()
    x = images(config.unet)

    def step(params, x):
        return ops.mean(captioned.apply(params, x, 7, config, caption) ** 2)

    wanted, wanted_grads = autodiff.value_and_grad(step)(params, x)
    there, image = tree.map(backend.put, params), backend.put(x)
    value, grads = autodiff.value_and_grad(step)(there, image)
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    for (name, g), w in zip(tree.flatten(grads).items(), tree.leaves(wanted_grads), strict=True):
        assert g.dtype == np.float32 and np.allclose(backend.get(g), w, rtol=1e-3, atol=1e-6), name
    unsaid = captioned.apply(there, image, 7, config)
    assert np.allclose(backend.get(unsaid), captioned.apply(params, x, 7, config), atol=1e-5)


# A classifier that is told the time


def a_classifier(dtype=None, **fields):
    config = classifier.Config(size=6, classes=3, widths=(8, 8), groups=4, **{"embed": 8, **fields})
    return config, noisy(classifier.init(np.random.default_rng(0), config), dtype=dtype)


def test_time_reaches_the_logits_of_each_picture():
    config, params = a_classifier()
    x = images(config, 2)
    early, late = (classifier.apply(params, x, t, config) for t in (1, 500))
    assert early.shape == (2, 3) and early.dtype == np.float32
    assert (np.abs(early - late).max(axis=1) > 1e-3).all()
    both = classifier.apply(params, x, np.array([1, 500]), config)
    assert np.allclose(both[0], early[0], atol=1e-6) and np.allclose(both[1], late[1], atol=1e-6)


def test_a_classifier_of_clean_pictures_knows_no_time():
    config, params = a_classifier(embed=0)
    assert set(params) == {"blocks", "out"} and set(params["blocks"][0]) == {"conv", "norm"}
    x = images(config, 2)
    assert np.array_equal(classifier.apply(params, x, 500, config), classifier.apply(params, x, None, config))


def test_gradients_of_a_classifier_that_is_told_the_time():
    """By all parameters and, as guidance takes it, by the picture."""
    config, params = a_classifier(np.float64)
    x, t = images(config, dtype=np.float64), np.array([1, 40, 700])
    slope, wanted = slope_along(lambda p: ops.mean(classifier.apply(p, x, t, config) ** 2), params)
    assert slope == pytest.approx(wanted, rel=1e-6)
    slope, wanted = slope_along(lambda p: ops.mean(classifier.apply(params, p["x"], t, config) ** 2), {"x": x})
    assert slope == pytest.approx(wanted, rel=1e-6)


def test_a_classifier_that_is_told_the_time_on_every_backend(backend):
    config, params = a_classifier()
    x, t = images(config), np.array([1, 40, 700])
    got = classifier.apply(tree.map(backend.put, params), backend.put(x), t, config)
    assert np.allclose(backend.get(got), classifier.apply(params, x, t, config), atol=1e-5)


def test_gradients_of_a_reader():
    """Along a random direction through every parameter, words and images alike, to 1e-6 of central differences."""
    config, params, apply, _ = a_reader(np.float64)
    x = images(config, dtype=np.float64)
    slope, wanted = slope_along(lambda p: ops.mean(apply(p, x) ** 2), params)
    assert slope == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("ids, says", [([[20]], "tokens must be in 0..19"), ([[1] * 7], "at most 6 words, got 7")])
def test_what_is_no_sentence_is_refused(ids, says):
    _, params, _, _ = a_reader()
    with pytest.raises(ValueError, match=says):
        text.apply(params["text"], np.array(ids), np.ones(np.shape(ids), "f4"))


def test_a_reader_on_every_backend(backend):
    config, params, apply, _ = a_reader()
    x = images(config)

    def step(params, x):
        return ops.mean(apply(params, x) ** 2)

    wanted, wanted_grads = autodiff.value_and_grad(step)(params, x)
    value, grads = autodiff.value_and_grad(step)(tree.map(backend.put, params), backend.put(x))
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    for (name, g), w in zip(tree.flatten(grads).items(), tree.leaves(wanted_grads), strict=True):
        assert g.dtype == np.float32 and np.allclose(backend.get(g), w, rtol=1e-3, atol=1e-6), name


# Array libraries


def test_unet_on_every_backend(backend):
    config, params = a_unet(size=6, attention=(3,))
    x, t = images(config), np.array([1, 20, 300])

    def step(params, x):
        y = unet.apply(params, x, t, config)
        return ops.mean(y * y)

    wanted, wanted_grads = autodiff.value_and_grad(step)(params, x)
    value, grads = autodiff.value_and_grad(step)(tree.map(backend.put, params), backend.put(x))
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    for (name, g), w in zip(tree.flatten(grads).items(), tree.leaves(wanted_grads), strict=True):
        assert g.dtype == np.float32 and np.allclose(backend.get(g), w, rtol=1e-3, atol=1e-6), name


# PyTorch


@pytest.mark.parametrize("module", [mlp, unet])
def test_the_same_network_in_pytorch(module):
    """Same weights, same examples: outputs to 1e-5, every gradient to 1e-4 of its largest entry, in float32."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install tinydiff[bench]")
    speed = runpy.run_path(str(Path(__file__).parents[1] / "demos" / "speed.py"))
    if module is mlp:
        config, x = mlp.Config(width=16, embed=8), np.random.default_rng(2).standard_normal((4, 2), "f4")
        params = noisy(mlp.init(np.random.default_rng(0), config))
    else:
        config, params = a_unet(size=14, widths=(8, 16, 16))
        x = images(config, 4)
    t, leaves = np.array([1, 30, 400, 999]), speed["torch_tree"](params)
    if module is mlp:
        theirs = speed["torch_mlp"](leaves, torch.tensor(x), t, config)
    else:
        theirs = speed["torch_unet"](leaves, torch.tensor(x).permute(0, 3, 1, 2), t, config).permute(0, 2, 3, 1)
    (theirs**2).mean().backward()

    _, grads = autodiff.value_and_grad(lambda p: ops.mean(module.apply(p, x, t, config) ** 2))(params)
    ours, wanted = module.apply(params, x, t, config), theirs.detach().numpy()
    assert np.abs(ours - wanted).max() <= 1e-5 * np.abs(wanted).max()
    wanted = tree.leaves(speed["numpy_tree"](tree.map(lambda p: p.grad.numpy(), leaves)))
    for (name, g), w in zip(tree.flatten(grads).items(), wanted, strict=True):
        assert np.abs(g - w).max() <= 1e-4 * np.abs(w).max() + 1e-9, name


def test_a_timed_step_is_the_same_on_every_library(backend):
    """demos/speed.py's own step, two of them: its weights stay on the device, and the losses are those of the CPU."""
    speed = runpy.run_path(str(Path(__file__).parents[1] / "demos" / "speed.py"))
    config = unet.Config(size=4, widths=(8,))
    params, batches = speed["problem"](unet, config, (4, 4, 1), 3)
    step = speed["our_loss"](unet.apply, config)
    _, (last, report) = itertools.islice(speed["our_steps"](step, params, batches, 3, Device("gpu", backend.xp)), 2)
    on_cpu = [report.loss for _, report in itertools.islice(speed["our_steps"](step, params, batches, 3), 2)]
    assert {type(leaf) for leaf in tree.leaves([last.params, last.average])} == {backend.xp.ndarray}
    assert report.loss == pytest.approx(on_cpu[1], rel=1e-5)


def test_layers_start_as_pytorchs_do():
    """Uniform in ±1/√n: the largest of 10⁵ weights is within 1e-3 of the bound (missed once in e^100)."""
    w = layers.linear_init(np.random.default_rng(0), 100, 1000)["w"]
    assert w.dtype == np.float32 and 0.0999 < np.abs(w).max() <= 0.1
