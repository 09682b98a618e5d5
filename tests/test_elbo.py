"""The bound beside its laws: the decoder against sixty digits, and every array library at hand."""
from decimal import Decimal, localcontext

import numpy as np
import pytest

from tinydiff import elbo, gaussian, schedule
from tinydiff.tensor import autodiff

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534")


def erfc(x):
    """Sixty digits: Taylor's series of erf to x = 5, a continued fraction beyond."""
    if x < 0:
        return 2 - erfc(-x)
    if x < 5:
        term, total = x, x
        for n in range(1, 400):
            term *= -x * x / n
            total += term / (2 * n + 1)
        return 1 - 2 * total / PI.sqrt()
    tail = Decimal(1)
    for k in range(800, 0, -1):
        tail = 1 + k / (2 * x * x) / tail
    return (-x * x).exp() / (x * PI.sqrt() * tail)


def exact_log_mass(level, mu, std, bins=256):
    """ln of the mass of N(mu, std²) on the bin of that level, with sixty digits from the same two doubles."""
    with localcontext() as context:
        context.prec, context.Emin = 100, -(10**9)
        mu, std, step = Decimal(mu), Decimal(std), Decimal(1) / (bins - 1)
        centre = 2 * level * step - 1
        low, high = ((centre + side * step - mu) / (std * Decimal(2).sqrt()) for side in (-1, 1))
        if low + high < 0:
            low, high, level = -high, -low, bins - 1 - level
        near = Decimal(2) if level == 0 else erfc(low)
        return float(((near - (0 if level == bins - 1 else erfc(high))) / 2).ln())


@pytest.mark.parametrize("std", [2.0**-2, 2.0**-5, 2.0**-7, 2.0**-10])  # their squares are doubles
@pytest.mark.parametrize("mu", [-2.5, -1.0, 0.3, 0.98, 1.5])
def test_the_decoder_to_sixty_digits(mu, std):
    """Bins near, far and at both ends; the edges are rounded by 2e-16, which moves ln P by z/std as much."""
    levels = np.array([0, 1, 64, 127, 128, 165, 250, 254, 255])
    x0 = levels * (2 / 255) - 1
    got = elbo.decoder_log_prob(x0, mu, std**2)
    exact = np.array([exact_log_mass(int(level), mu, std) for level in levels])
    room = 1e-14 * (1 + abs(exact)) + 4e-16 * (1 + abs(x0 - mu) / std) / std
    assert (abs(got - exact) <= room).all()


def test_a_mean_far_away_is_far_from_impossible():
    """150 standard deviations off, where erfc itself is 0: ln P is -11,000 and not -∞."""
    got = elbo.decoder_log_prob(np.zeros(1) + 2 * 127 / 255 - 1, 1.5, 1e-4)
    assert got.item() == pytest.approx(exact_log_mass(127, 1.5, 0.01), rel=1e-12) and -12_000 < got.item() < -11_000


def test_the_bound_and_its_losses_on_every_backend(backend):
    """Terms, estimate, averages, rate-distortion, and the hybrid loss's gradient are those of NumPy, and stay there."""
    chain, rng, t = schedule.linear(50), np.random.default_rng(0), np.array([1, 1, 2, 3, 50, 7])
    x0, eps = rng.integers(0, 256, (6, 4, 4, 1)) * (2 / 255) - 1, rng.standard_normal((6, 4, 4, 1))

    class Noise:
        def standard_normal(self, shape, dtype):
            return put(eps.astype(dtype))

    def answers():
        data, model = put(x0.astype(np.float32)), elbo.reverse_fn(lambda x, t: (0.9 * x, 0.5), chain)
        noise = put(eps.astype(np.float32))
        prior = elbo.prior_kl(chain, data)
        seen = list(elbo.terms(model, chain, data, [5, t], Noise()))
        nats, error, _ = elbo.averages(chain, seen)
        guess = [put(np.full((1, 1), number, np.float32)) for number in (0.9, 0.5)]

        def loss(guess):
            return elbo.l_hybrid(lambda x, t: (x * guess[0], x * guess[1]), chain, data, t, noise, lam=0.1)

        value, grad = autodiff.value_and_grad(loss)(guess)
        curve = elbo.rate_distortion(prior, nats, error, (4, 4, 1))
        return prior, elbo.estimate(chain, data, seen), *curve, value, *grad

    put = backend.put
    got = [backend.get(answer) for answer in answers()]
    put = np.asarray
    for ours, numpys in zip(got, answers(), strict=True):
        assert ours.dtype == numpys.dtype
        np.testing.assert_allclose(ours, numpys, rtol=1e-5)


def test_a_density_where_there_are_no_bins():
    """Points of the plane: the decoder refuses them, and a density takes its place."""
    chain, x0 = schedule.linear(50), np.array([[0.1, -0.7]])
    model = elbo.reverse_fn(lambda x, t: (0.9 * x, 1.0), chain)
    with pytest.raises(ValueError, match="give a density"):
        list(elbo.terms(model, chain, x0, [1], np.random.default_rng(0)))
    [(_, nats, _)] = elbo.terms(model, chain, x0, [1], np.random.default_rng(0), gaussian.log_density)
    assert nats.shape == (1,) and np.isfinite(nats).all()
