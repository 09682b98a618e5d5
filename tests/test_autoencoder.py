"""The convolutional autoencoder: shapes, gradients, every array library, and a bound that falls."""
import numpy as np
import pytest

from tinydiff import gaussian, latent, optim, vae
from tinydiff.nn import autoencoder
from tinydiff.tensor import autodiff, ops, tree

TINY = {"size": 8, "widths": (8, 16), "groups": 4, "latent": 2}


def an_autoencoder(seed=0, dtype=np.float32, **fields):
    """A config and parameters with noise added: layers that start at zero would hide what stands before them."""
    config, rng = autoencoder.Config(**{**TINY, **fields}), np.random.default_rng(seed)
    params = autoencoder.init(rng, config)
    return config, tree.map(lambda p: (p + 0.1 * rng.standard_normal(p.shape)).astype(dtype), params)


def some(shape, seed=2, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def images(config, n=3, **how):
    return some((n, config.size, config.size, config.channels), **how)


def cost(params, x, eps, config, noise_var=0.1, beta=1.0):
    """What a VAE learns by, from its parameters."""
    mu, log_var = autoencoder.encode(params, x, config)
    return vae.negative_bound(x, lambda z: autoencoder.decode(params, z, config), mu, log_var, eps, noise_var, beta)


@pytest.mark.parametrize(
    "fields, shape",
    [
        ({"size": 28, "widths": (8, 16), "latent": 4}, (7, 7, 4)),
        ({"size": 28, "patch": 4, "widths": (8,), "blocks": 2}, (7, 7, 2)),
        ({"size": 24, "widths": (8, 8, 16)}, (3, 3, 2)),
        ({"size": 6, "patch": 1, "widths": (8, 8), "channels": 3, "latent": 5}, (3, 3, 5)),
        ({"size": 2, "widths": (8,)}, (1, 1, 2)),
    ],
    ids=str,
)
def test_a_code_has_its_shape_and_an_image_comes_back(fields, shape):
    config, params = an_autoencoder(**fields)
    x = images(config)
    mu, log_var = autoencoder.encode(params, x, config)
    back = autoencoder.decode(params, vae.reparameterise(mu, log_var, some(mu.shape)), config)
    assert config.shape == shape and mu.shape == log_var.shape == (3, *shape) and back.shape == x.shape
    assert mu.dtype == log_var.dtype == back.dtype == np.float32
    assert all(np.isfinite(a).all() and np.ptp(a) > 0 for a in (mu, log_var, back))


@pytest.mark.parametrize(
    "fields", [{"size": 27}, {"size": 10}, {"size": 0}, {"size": 12, "patch": 5}, {"widths": (9, 16)}], ids=str
)
def test_bad_configs_are_refused_in_one_line(fields):
    with pytest.raises(ValueError) as refusal:
        autoencoder.Config(**{**TINY, **fields})
    assert "\n" not in str(refusal.value) and "got" in str(refusal.value)


def test_blocks_start_as_the_identity():
    p, x = autoencoder.block_init(np.random.default_rng(0), 8), some((2, 3, 3, 8))
    assert np.array_equal(autoencoder.block(p, x, 4), x)


def test_the_decoder_mirrors_the_encoder():
    """Its widths are the encoder's the other way round: few channels where there are many positions."""
    config = autoencoder.Config(widths=(8, 16, 24), size=24)
    params = autoencoder.init(np.random.default_rng(0), config)
    widths = {name: [level["blocks"][0]["conv"]["w"].shape[-1] for level in p["levels"]] for name, p in params.items()}
    assert widths == {"encoder": [8, 16, 24], "decoder": [24, 16, 8]}


def test_a_codes_pixel_sees_its_part_of_the_picture():
    """An image moved by as much as one pixel of the code moves its code by one, away from the edges."""
    config, params = an_autoencoder(size=64, widths=(8,), patch=2)
    x = np.zeros((1, 64, 64, 1), np.float32)
    x[:, 28:36, 20:28] = images(config, 1)[:, :8, :8]
    (mu, _), (moved, _) = (autoencoder.encode(params, a, config) for a in (x, np.roll(x, 2, axis=2)))
    assert np.abs(mu[:, 8:24, 8:20] - moved[:, 8:24, 9:21]).max() < 1e-5 < np.ptp(mu[:, 8:24, 8:20])


@pytest.mark.parametrize("fields", [{}, {"size": 6, "patch": 1, "widths": (8, 8), "channels": 2}], ids=str)
def test_gradient_by_differences(fields):
    """Along a random direction in all parameters at once, in float64; step 1e-6, so the error is about 1e-9."""
    config, params = an_autoencoder(dtype=np.float64, **fields)
    x, eps = images(config, 2, dtype=np.float64), some((2, *config.shape), 3, np.float64)
    rng, step = np.random.default_rng(4), 1e-6
    direction = tree.map(lambda p: rng.standard_normal(p.shape), params)
    _, grads = autodiff.value_and_grad(cost)(params, x, eps, config)
    slope = sum(float((g * d).sum()) for g, d in zip(tree.leaves(grads), tree.leaves(direction), strict=True))

    def at(s):
        return float(cost(tree.map(lambda p, d: p + s * d, params, direction), x, eps, config))

    assert slope == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-6)
    assert all(np.abs(g).max() > 0 for g in tree.leaves(grads))


def test_on_every_backend(backend):
    """The bound and its gradients, a latent's scale, and the latent's loss."""
    config, params = an_autoencoder()
    x, eps = images(config), some((3, *config.shape), 3)

    def answers(put):
        moved, x_, eps_ = tree.map(put, params), put(x), put(eps)
        value, grads = autodiff.value_and_grad(cost)(moved, x_, eps_, config)
        z = latent.encode(lambda x: autoencoder.encode(moved, x, config), 2.0, x_, eps_)
        back = latent.decode(lambda z: autoencoder.decode(moved, z, config), 2.0, z)
        return (float(value), latent.latent_scale(z)), (z, back, ops.mean(back), *tree.leaves(grads))

    (numbers, arrays), (wanted, wanted_arrays) = answers(backend.put), answers(np.asarray)
    assert numbers == pytest.approx(wanted, rel=1e-5)
    for a, w in zip(arrays, wanted_arrays, strict=True):
        assert a.dtype == np.float32 and np.allclose(backend.get(a), w, rtol=1e-3, atol=1e-4 * np.abs(w).max())


def blobs(rng, n, size):
    """Pictures of one round spot each: where and how wide it is are all that there is to know."""
    grid, (x, y, width) = np.arange(size), rng.uniform([[3], [3], [1]], [[size - 4], [size - 4], [3]], (3, n))
    across = np.exp(-(((grid - x[:, None]) / width[:, None]) ** 2))
    down = np.exp(-(((grid - y[:, None]) / width[:, None]) ** 2))
    return (2 * down[:, :, None] * across[:, None] - 1)[..., None].astype(np.float32)


def test_training_lowers_the_bound():
    """After 150 steps new pictures cost 100 nats less than under the best single picture, which needs no code."""
    config, rng = autoencoder.Config(size=16, widths=(8, 16), groups=4, latent=4), np.random.default_rng(0)
    params, noise_var = autoencoder.init(rng, config), 0.02
    state, step = optim.adam_init(params), autodiff.value_and_grad(cost)
    for k in range(150):
        _, grads = step(params, blobs(rng, 32, 16), some((32, *config.shape), [6, k]), config, noise_var)
        params, state = optim.adam(params, grads, state, optim.learning_rate(0.01, k, 10, k / 150))
    fresh, eps = blobs(rng, 256, 16), some((256, *config.shape), 5)
    without = -gaussian.log_density(fresh, fresh.mean(0), noise_var).sum(axis=(1, 2, 3)).mean()
    assert cost(params, fresh, eps, config, noise_var) < without - 100
    mu, log_var = autoencoder.encode(params, fresh, config)
    back = autoencoder.decode(params, vae.reparameterise(mu, log_var, eps), config)
    assert np.mean((back - fresh) ** 2) < 0.5 * np.mean((fresh - fresh.mean(0)) ** 2)
