"""Exact denoisers, and the losses that a network learns one by."""
import math
from statistics import NormalDist

import numpy as np

from .. import forward, gaussian, loss, oracle
from .. import schedule as schedules
from ..tensor import autodiff, ops
from .domains import (
    Batches,
    Costs,
    Earlier,
    GentleSchedule,
    Kind,
    Mixture,
    Number,
    Points,
    Schedule,
    Time,
    Times,
    Unit,
    Variance,
)
from .law import law

# Exact denoisers


@law("Bishop (2.116)", of=[oracle.gaussian_data, oracle.mixture])
def one_gaussian_is_a_mixture_of_one(schedule: Schedule, t: Times, x_t: Points, mu: Number, var: Variance):
    """The Gaussian denoiser is the mixture's with K = 1, and Bayes' rule for x_0."""
    eps = oracle.gaussian_data(schedule, mu, var)(x_t, t)
    mixed = oracle.mixture(schedule, [1.0], [[mu, mu]], [var])(x_t, t)
    ab = schedule.alpha_bar[t][:, None]
    x0_hat, _ = gaussian.condition(mu, var, np.sqrt(ab), x_t, 1 - ab)
    size = 10 / np.sqrt(1 - ab)
    return (eps, eps), (mixed, forward.eps_from_x0(schedule, x_t, t, x0_hat)), (size, size)


@law("Song et al. section 3.3", of=[oracle.mixture, oracle.mixture_log_density], kind=2, tol=0.1)
def the_denoiser_is_the_score(gentle: GentleSchedule, x: Number, mixture: Mixture, n=50):
    """-E[ε | x_t]/√(1-ᾱ_t) is the slope of ln q(x_t), by central differences of step 1/n, at nine places."""
    t, at = gentle.T, x + np.linspace(-2, 2, 9)[:, None]
    up, down = (oracle.mixture_log_density(gentle, at + h, t, *mixture) for h in (1 / n, -1 / n))
    slope = forward.score_from_eps(gentle, t, oracle.mixture(gentle, *mixture)(at, t))
    return (up - down) * n / 2, slope[:, 0]


@law("Karras et al. (57)", of=[oracle.finite])
def finite_data_are_remembered(schedule: Schedule, t: Times, x_t: Points, points: Points):
    """E[x_0 | x_t] is the mean of the points, weighed by N(x_t; √ᾱ_t x_k, 1-ᾱ_t)."""
    ab = schedule.alpha_bar[t][:, None, None]
    log = gaussian.log_density(x_t[:, None], np.sqrt(ab) * points, 1 - ab).sum(-1)
    w = np.exp(log - log.max(1, keepdims=True))
    by_bayes = (w / w.sum(1, keepdims=True)) @ points
    x0_hat = forward.x0_from_eps(schedule, x_t, t, oracle.finite(schedule, points)(x_t, t))
    return x0_hat, by_bayes, 6 / ab[:, 0] / (1 - ab[:, 0])


@law("Bishop (2.115)", of=[oracle.mixture_log_density], tol=1e-11)
def mixture_density_integrates_to_one(schedule: Schedule, t: Time, mixture: Mixture):
    """∫ q(x_t) dx = 1, by a sum on a fine grid (spectrally exact for a smooth density that vanishes at its ends)."""
    x = np.linspace(-24, 24, 12_001)
    density = np.exp(oracle.mixture_log_density(schedule, x[:, None], t, *mixture))
    return density.sum() * (x[1] - x[0]), 1.0


@law("Bayes", of=[oracle.mixture_reverse, oracle.mixture_log_density])
def reverse_step_is_bayes(schedule: Schedule, t: Time, s: Earlier, mixture: Mixture, x_s: Number, x_t: Number):
    """q(x_s | x_t) q(x_t) = q(x_t | x_s) q(x_s), in logarithms."""
    weights, means, variances = mixture
    w, mean, var = oracle.mixture_reverse(schedule, x_t, t, s, weights, means[:, 0], variances)
    ab_s, ab_t = schedule.pair(t, s)
    parts = np.log(w) + gaussian.log_density(x_s, mean, var)
    reverse = parts.max() + math.log(np.exp(parts - parts.max()).sum())
    log_q = [oracle.mixture_log_density(schedule, np.array([[x]]), i, *mixture)[0] for x, i in ((x_t, t), (x_s, s))]
    step = gaussian.log_density(x_t, math.sqrt(ab_t / ab_s) * x_s, forward.step_var(ab_s, ab_t))
    return reverse + log_q[0], step + log_q[1], 10 + abs(reverse) + abs(step) + abs(log_q[0]) + abs(log_q[1])


@law("Sohl-Dickstein et al. section 2.2", of=[oracle.mixture_reverse], kind=1.5, tol=0.1)
def small_reverse_steps_are_gaussian(x_t: Unit, n=400):
    """The skewness of the true q(x_s | x_t) falls like β^1.5 as β = 1/n: the first premise of diffusion models."""
    schedule = schedules.Schedule([0.5, 1 / n])
    w, mean, var = oracle.mixture_reverse(schedule, 0.2 + 0.2 * x_t, 2, 1, [0.3, 0.7], [-1.0, 0.8], [0.1, 0.3])
    off = mean - w @ mean
    second, third = w @ (off**2 + var), w @ (off**3 + 3 * off * var)
    return third / second**1.5, 0.0


# Losses


def only_at(x_t, t, guess):
    """A network that guesses this at x_t and t, and something else anywhere else."""
    return lambda x, time: guess + (x - x_t) + np.reshape(time - t, (-1, 1))


@law("DDPM section 3.2; Salimans & Ho section 4", of=[loss.target, loss.eps_fn])
def a_perfect_guess_is_the_noise(schedule: Schedule, t: Times, x0: Points, eps: Points, kind: Kind):
    """A network that guesses its target exactly, whichever it is, where it is asked, gives ε̂ = ε."""
    x_t = forward.q_sample(schedule, x0, t, eps)
    right = only_at(x_t, t, loss.target(schedule, x0, t, eps, kind))
    noise = schedule.noise_scale[t][:, None]
    slope = noise / schedule.beta[t][:, None] if kind == "mu" else 1 / noise  # of ε̂ in the guess, at most
    return loss.eps_fn(right, schedule, kind)(x_t, t), eps, 10 * (1 / noise + slope)


@law("min-SNR section 3.4", of=[loss.weight, loss.target])
def weights_translate_between_targets(
    schedule: Schedule, t: Times, x0: Points, eps: Points, off: Points, gamma: Variance
):
    """One wrong x̂_0 costs the same min-SNR loss said as x_0, as ε, as v and as μ̃; γ is 5 unless given."""
    x_t = forward.q_sample(schedule, x0, t, eps)
    x0_hat = x0 + off
    eps_hat = forward.eps_from_x0(schedule, x_t, t, x0_hat)
    costs = []
    for kind in loss.TARGETS:
        guess = loss.target(schedule, x0_hat, t, eps_hat, kind)
        error = guess - loss.target(schedule, x0, t, eps, kind)
        costs.append(loss.weight(schedule, t, kind, "min_snr", gamma)[:, None] * error**2)
    snr = schedule.snr[t][:, None]
    cost = np.minimum(snr, gamma) * off**2
    scale = gamma * (off**2 + 1 / schedule.alpha_bar[t][:, None] / (1 - schedule.alpha_bar[t][:, None]))
    of_x0, _ = forward.posterior_mean_coefs(*schedule.pair(t))  # times x_0 is what an error must be seen against in μ̃
    scales = [scale + gamma * 10 * abs(off) / of_x0[:, None] * (kind == "mu") for kind in loss.TARGETS]
    usual = loss.weight(schedule, t, "x0", "min_snr")[:, None]
    return (*costs, usual), (cost,) * 4 + (np.minimum(snr, 5),), (*scales, 5.0)


@law("DDPM (14)", of=[loss.l_simple])
def gradient_of_a_linear_model(schedule: Schedule, t: Times, x0: Points, eps: Points, w: Number, b: Number):
    """For f(x, t) = x W + t, the gradient of L_simple is 2 x_tᵀ (x_t W + t - ε) / (B D)."""
    W = np.array([[w, b], [-b, w]])
    x_t = forward.q_sample(schedule, x0, t, eps)

    def l_simple(W):
        return loss.l_simple(lambda x, t: ops.matmul(x, W) + t[:, None], schedule, x0, t, eps)

    value, grad = autodiff.value_and_grad(l_simple)(W)
    error = x_t @ W + t[:, None] - eps
    size = 1000 + t.max() ** 2
    return (grad, value), (2 * x_t.T @ error / error.size, np.mean(error**2)), (size, size)


@law("DDPM (14)", of=[loss.l_simple, loss.weight])
def simple_weight_is_one(schedule: Schedule, t: Times, x0: Points, eps: Points, kind: Kind):
    """A network that guesses 0 pays its target's mean square."""
    value = loss.l_simple(lambda x, t: 0 * x, schedule, x0, t, eps, kind)
    return value, np.mean(loss.target(schedule, x0, t, eps, kind) ** 2), 18.0


@law("Ho et al., released sampler", of=[loss.clip_x0, loss.eps_fn])
def clipping_keeps_one_guess(schedule: Schedule, t: Times, x_t: Points, eps: Points):
    """After the clip x̂_0 lies in [-1, 1], ε̂ belongs to it, and what lay inside is not touched."""
    before = forward.x0_from_eps(schedule, x_t, t, eps)
    clipped = loss.eps_fn(only_at(x_t, t, eps), schedule, clip=True)(x_t, t)
    after = forward.x0_from_eps(schedule, x_t, t, clipped)
    size = 6 / np.sqrt(schedule.alpha_bar[t] * (1 - schedule.alpha_bar[t]))[:, None]
    return after, np.minimum(np.maximum(before, -1), 1), size


@law("VDM appendix I", of=[loss.draw_times, loss.even_uniforms], tol=0.0)
def every_time_is_as_likely(batches: Batches, T: Batches, seed: Batches):
    """A batch of k T times holds each of 1..T exactly k times."""
    times = loss.draw_times(np.random.default_rng(seed), batches * T, T)
    return np.bincount(times, minlength=T + 1), np.array([0] + [batches] * T)


class Dealt:
    """A generator that draws this permutation, and the same number of [0, 1) for each."""

    def __init__(self, order, u=0.5):
        self.order, self.u = np.array(order), u

    def permutation(self, n):
        return self.order

    def random(self, n):
        return np.full(n, self.u)


@law("VDM appendix I", of=[loss.draw_likely_times], tol=0.0)
def times_cover_their_probabilities(costs: Costs, seed: Batches):
    """n draws hold t just n p_t times, where these are whole numbers; where p_t = 0, t never comes."""
    counts = np.concatenate([[0], np.floor(5 * costs[0]).astype(int), [1]])
    p, n = counts / counts.sum(), counts.sum()
    draws = loss.draw_likely_times(np.random.default_rng(seed), n, p)
    first = loss.draw_likely_times(Dealt([0], 0), 1, p)[0]
    return (np.bincount(draws, minlength=len(counts)), first), (counts, np.flatnonzero(counts)[0])


@law("Karras et al. table 1", of=[loss.log_normal_noise], tol=0.0)
def drawn_noise_is_log_normal(schedule: Schedule, mean: Number, std: Variance, u: Unit):
    """The time drawn for u is the first as noisy as σ = exp(mean + std Φ⁻¹(u)), and T where none is."""
    p, u = loss.log_normal_noise(schedule, mean, std), 0.001 + 0.997 * u
    sigma = math.exp(mean + std * NormalDist().inv_cdf(u))
    noisy = schedule.noise_scale[1:] / schedule.signal_scale[1:] >= sigma
    wanted = 1 + noisy.argmax() if noisy.any() else schedule.T
    return (loss.draw_likely_times(Dealt([0], u), 1, p)[0], p[0], len(p)), (wanted, 0.0, schedule.T + 1)


@law("Karras et al. table 1", of=[loss.log_normal_noise])
def noise_is_log_normal(schedule: Schedule, mean: Number, std: Variance):
    """Noise up to σ_t comes as often as a normal number is up to ln σ_t, and up to σ_T always."""
    below = np.cumsum(loss.log_normal_noise(schedule, mean, std))
    z = [(0.5 * math.log((1 - ab) / ab) - mean) / std for ab in schedule.alpha_bar[1:-1]]
    return below, np.array([0.0, *(math.erfc(-x / math.sqrt(2)) / 2 for x in z), 1.0]), 1.0
