"""Score matching and Langevin dynamics, where every expectation can be worked out.

Gauss and Hermite's three nodes have weights 2/3, 1/6, 1/6. Four copies of the middle one and one of each other are six
examples, as likely: the plain mean over them, which is what a loss takes, is exact for polynomials up to degree five.
"""
import itertools
import math

import numpy as np

from .. import forward, gaussian, loss, score
from ..tensor import autodiff, ops
from .domains import Batches, Ladder, Layers, Number, Points, Schedule, Times, Unit, Variance
from .law import LawBroken, law
from .reverse import chain_moments

SIX = np.array([0, 0, 0, 0, math.sqrt(3), -math.sqrt(3)])
SIGNS = np.array(list(itertools.product([1.0, -1.0], repeat=2)))


def normal(count):
    """(6^count, count): rows whose plain mean is the expectation over N(0, I) of a polynomial of degree <= 5."""
    return np.array(list(itertools.product(SIX, repeat=count)))


def smooth(layers):
    """The field x -> tanh(x A + b) C, and its divergence and ½ ‖·‖² by hand: tr = Σ_k (1 - h_k²) (C A)_kk."""
    A, b, C = layers

    def hidden(x):
        return ops.tanh(ops.linear(x, A, b))

    def trace(x):
        h = hidden(x)
        return ops.sum((1 - h * h) * ops.sum(A * C.T, axis=0), axis=1)

    return lambda x: ops.matmul(hidden(x), C), hidden, trace


# Derivatives of a vector field


@law("calculus; score SDE (39)-(40)", of=[score.divergence, score.quadratic_form])
def divergence_is_the_trace_of_the_jacobian(x: Points, v: Points, layers: Layers):
    """tr ∂f/∂x and vᵀ (∂f/∂x) v by the tape are those by hand, each example's own, for points and for images."""
    f, hidden, trace = smooth(layers)
    A, _, C = layers
    (y, tr), (y_2, form) = score.divergence(f, x), score.quadratic_form(f, x, v)

    def of_images(z):
        return ops.reshape(f(ops.reshape(z, (-1, 2))), z.shape)

    z, tr_2 = score.divergence(of_images, x.reshape(4, 1, 2, 1))
    by_hand = np.sum((v @ A) * (1 - hidden(x) ** 2) * (v @ C.T), axis=1)
    left = (y, y_2, z.reshape(4, 2), tr, tr_2, form)
    return left, (f(x),) * 3 + (trace(x), trace(x), by_hand), (6.0,) * 5 + (200.0,)


@law("Hutchinson 1990; sliced score matching section 3", of=[score.quadratic_form, score.divergence, score.sliced])
def sliced_over_all_signs_is_implicit(x: Points, layers: Layers):
    """The mean over all sign vectors, for which E[v vᵀ] = I, of vᵀ ∇f v is the trace, and of `sliced` is `implicit`.

    Each example goes through the signs in an order of its own.
    """
    f, _, _ = smooth(layers)
    turns = [np.roll(SIGNS, k, axis=0) for k in range(4)]
    forms = np.mean([score.quadratic_form(f, x, v)[1] for v in turns], axis=0)
    losses = np.mean([score.sliced(f, x, v) for v in turns])
    return (forms, losses), (score.divergence(f, x)[1], score.implicit(f, x)), (6.0, 15.0)


@law("Hyvärinen theorem 1; NCSN (1), (3)", of=[score.implicit, score.sliced, score.divergence])
def training_goes_through_the_derivatives(x: Points, layers: Layers):
    """Value and gradients of `implicit`, and of `sliced` over all signs, are those of the trace written by hand."""

    def by_hand(layers):
        f, _, trace = smooth(layers)
        s = f(x)
        return ops.mean(trace(x) + 0.5 * ops.sum(s * s, axis=1))

    def all_signs(layers):
        return sum(score.sliced(smooth(layers)[0], x, np.tile(v, (4, 1))) for v in SIGNS) * 0.25

    def implicit(layers):
        return score.implicit(smooth(layers)[0], x)

    hand, ours, signs = (autodiff.value_and_grad(g)(list(layers)) for g in (by_hand, implicit, all_signs))

    def flat(found):
        return np.concatenate([np.ravel(part) for part in (found[0], *found[1])])

    return (flat(ours), flat(signs)), (flat(hand), flat(hand)), (50.0, 50.0)


# What the losses have in common


def linear_and_square(A, b, c):
    """A field that is no gradient: s(x) = x A + b + c x²."""
    return lambda x: ops.matmul(x, A) + b + c * (x * x)


@law("Vincent section 4.2; Hyvärinen theorem 1", of=[score.denoising, score.implicit, score.from_eps])
def denoising_and_implicit_differ_by_a_constant(
    mu: Number, var: Variance, noise_var: Variance, a: Number, b: Number, c: Number, d: Number
):
    """Over N(μ, σ₀²) noised by σ, J_DSM - J_ISM = D/2σ² and J_DSM - J_ESM = D/2 [1/σ² - 1/(σ₀²+σ²)], whatever s is.

    By quadrature, exact for a field of degree two.
    """
    sigma, total = math.sqrt(noise_var), var + noise_var
    field = linear_and_square(np.array([[a, b], [c, d]]), b, 0.3 * d)
    nodes = normal(4)
    dsm = score.denoising(field, mu + math.sqrt(var) * nodes[:, :2], sigma, nodes[:, 2:])
    noised = mu + math.sqrt(total) * normal(2)
    ism = score.implicit(field, noised)
    esm = np.mean(np.sum((field(noised) - gaussian.score(noised, mu, total)) ** 2, axis=1)) / 2
    size = 1 / noise_var + np.mean(np.sum(field(noised) ** 2, axis=1)) + 20
    return (dsm - ism, dsm - esm), (1 / noise_var, 1 / noise_var - 1 / total), (size, size)


@law("Hyvärinen theorem 1", of=[score.implicit, score.denoising, score.from_eps])
def the_true_score_is_the_minimum(mu: Number, var: Variance, noise_var: Variance, a: Number, b: Number, c: Number):
    """For s(x) = x W + b on N(μ, v I), dJ/dW = I + E xᵀ s and dJ/db = E s, both 0 at the Gaussian's own score."""
    total, nodes = var + noise_var, normal(4)
    x, x0 = mu + math.sqrt(total) * normal(2), mu + math.sqrt(var) * nodes[:, :2]

    def gradients(W, b):
        def model(p):
            return lambda x: ops.linear(x, p["W"], p["b"])

        params = {"W": W, "b": b}
        by_implicit = autodiff.grad(lambda p: score.implicit(model(p), x))(params)
        sigma, eps = math.sqrt(noise_var), nodes[:, 2:]
        by_denoising = autodiff.grad(lambda p: score.denoising(model(p), x0, sigma, eps))(params)
        return by_implicit["W"], by_implicit["b"], by_denoising["W"], by_denoising["b"]

    W, bias = np.array([[a, b], [-b, c]]), np.array([c, a])
    s = x @ W + bias
    by_hand = np.eye(2) + x.T @ s / len(x), s.mean(0)
    own = gradients(-np.eye(2) / total, np.full(2, mu / total))
    size = 100 + 10 / noise_var
    zeros = np.zeros((2, 2)), np.zeros(2)
    return gradients(W, bias) + own, by_hand * 2 + zeros * 2, (size,) * 8


# Noise levels


@law("NCSN (5)-(6)", of=[score.ncsn_loss, score.denoising, score.from_eps, score.to_eps])
def ncsn_weighs_each_level_by_its_variance(sigma: Variance, x0: Points, eps: Points, layers: Layers):
    """One level: `ncsn_loss` is σ² times `denoising`. Four: the mean of the four. ε̂ and s say the same."""
    f, _, _ = smooth(layers)
    levels = sigma * np.array([1.0, 0.5, 2.0, 4.0])

    def conditional(x, sigma):
        return f(x) / forward.coef(sigma, x) + 0.1 * forward.coef(sigma, x)

    def weighed(k):
        own = score.denoising(lambda x: conditional(x, levels[k]), x0[k : k + 1], levels[k], eps[k : k + 1])
        return levels[k] ** 2 * own

    left = score.ncsn_loss(conditional, x0, levels, eps), score.to_eps(score.from_eps(eps, levels), levels)
    return left, (np.mean([weighed(k) for k in range(4)]), eps), (200 * (1 + sigma) ** 4, 3.0)


@law("DDPM section 3.2; NCSN (6)", of=[score.ncsn_loss, score.from_eps, loss.l_simple, forward.q_sample])
def the_simple_loss_is_denoising_score_matching(schedule: Schedule, t: Times, x0: Points, eps: Points, w: Number):
    """With σ² = (1-ᾱ)/ᾱ and x = x_t/√ᾱ, L_simple of ε̂ is NCSN's loss of s = -ε̂/σ, times 2/D: DDPM is an NCSN."""
    ab = schedule.alpha_bar[t]

    def eps_hat(x_t, t):
        return w * x_t + 0.1

    def score_fn(x, sigma):
        return score.from_eps(eps_hat(np.sqrt(ab)[:, None] * x, t), sigma)

    ours = score.ncsn_loss(score_fn, x0, np.sqrt((1 - ab) / ab), eps)
    return ours, loss.l_simple(eps_hat, schedule, x0, t, eps), 500.0


@law("NCSN section 4.1", of=[score.noise_levels])
def noise_levels_fall_by_one_ratio(ladder: Ladder):
    """L levels, from σ_1 to σ_L, σ_{i+1}/σ_i = (σ_L/σ_1)^{1/(L-1)}."""
    first, last, L = ladder
    ratio = (last / first) ** (1 / max(L - 1, 1))
    return score.noise_levels(*ladder), first * ratio ** np.arange(L)


# Langevin dynamics


@law("NCSN (4); score SDE algorithms 4-5", of=[score.langevin_step])
def two_conventions_are_one_step(e: Variance, x: Points, s: Points, z: Points):
    """The step a = 2e is x + e s + √(2e) z, one e for all or one for each example."""
    each = e * np.array([1.0, 0.5, 2.0, 4.0])
    left = score.langevin_step(x, s, 2 * e, z), score.langevin_step(x, s, 2 * each, z)
    e, each = np.float64(e), each[:, None]
    return left, (x + e * s + np.sqrt(2 * e) * z, x + each * s + np.sqrt(2 * each) * z), (75.0, 75.0)


@law("NCSN (4), on a Gaussian", of=[score.langevin_step])
def langevin_settles_a_little_wide(mu: Number, var: Variance, u: Unit):
    """N(μ, v / (1 - a/4v)) stays itself under a step of size a < 4v, whose score is that of N(μ, v)."""
    a = (0.05 + 3.5 * u) * var
    settled = var / (1 - a / (4 * var))

    def step(x, z):
        x = np.full((1, 1), x)
        return score.langevin_step(x, gaussian.score(x, mu, var), a, np.full((1, 1), z)).item()

    slope, spread = step(mu + 1, 0.0) - step(mu, 0.0), step(mu, 1.0) - step(mu, 0.0)
    mean, after = gaussian.affine(mu, settled, slope, step(0.0, 0.0), spread**2)
    return (mean, after), (mu, settled), (1 + 10 * abs(mu), 10 * settled)


@law("NCSN Algorithm 1", of=[score.annealed_langevin, score.langevin_step, score.noise_levels], tol=1e-10)
def annealed_langevin_on_a_gaussian(mu: Number, var: Variance, ladder: Ladder, steps: Batches, u: Unit):
    """Mean and variance after every level and after the last, denoising jump are those of the linear recursion."""
    levels, share = score.noise_levels(*ladder), 0.05 + u
    step = None if u < 0.1 else share * ladder[1] ** 2

    def score_fn(x, sigma):
        return gaussian.score(x, mu, var + sigma**2)

    def sampler(upto):
        def sample(score_fn, x, rng):
            chain = score.annealed_langevin(score_fn, x, levels, rng, steps, step)
            return itertools.islice(chain, upto)

        return sample

    moments, mean, variance = [], 0.0, 1.0
    for sigma in levels:
        a = (0.2 if step is None else share) * sigma**2
        for _ in range(steps):
            mean, variance = gaussian.affine(mean - mu, variance, 1 - a / (2 * (var + sigma**2)), mu, a)
        moments.append((mean, variance))
    shrink = var / (var + ladder[1] ** 2)
    moments.append((mu + shrink * (mean - mu), shrink**2 * variance))
    draws = len(levels) * steps
    ends = [steps * (i + 1) for i in range(len(levels))] + [draws + 1]
    got = tuple(chain_moments(sampler(end), score_fn, draws) for end in ends)
    size = [(3 + abs(mu), 1 + variance) for _, variance in moments]
    return got, tuple(moments), tuple(size)


@law("IEEE 754", of=[score.implicit, score.sliced, score.ncsn_loss, score.annealed_langevin], tol=1e-5)
def scores_in_single_precision_stay_single(x: Points, v: Points, layers: Layers, sigma: Variance):
    """Float32 in, float32 out, whatever σ is, and float64's answer."""

    def answers(number):
        f, _, _ = smooth([number(part) for part in layers])
        data, noise, levels = number(x), number(v), sigma * np.array([1.0, 0.5, 2.0, 4.0])
        yield score.implicit(f, data)
        yield score.sliced(f, data, noise)
        yield score.denoising(f, data, sigma, noise)
        yield score.ncsn_loss(lambda x, sigma: f(x), data, levels, noise)
        yield score.langevin_step(data, f(data), levels, noise)

    def chain(number):
        f, _, _ = smooth([number(part) for part in layers])
        return score.annealed_langevin(lambda x, sigma: f(x), number(x), [2.0, 1.0], np.random.default_rng(0), 1)

    single, double = tuple(answers(np.float32)), tuple(answers(np.float64))
    kept = {answer.dtype for answer in (*single, *chain(np.float32))}
    if kept != {np.dtype(np.float32)}:
        raise LawBroken(f"float32 became {kept}")
    size = 30 * (1 + sigma + 1 / sigma) ** 2
    return single, double, (size,) * len(single)
