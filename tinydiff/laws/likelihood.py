"""The likelihood bound: its terms, its bins, its estimates, and the losses that follow it.

For data N(μ, s²) and a network that is exact for some Gaussian every L_{t-1} is a polynomial of x_0 and ε, of degree
2, so three Gauss-Hermite nodes for each give expectations with nothing drawn.
"""
import itertools
import math

import numpy as np

from .. import elbo, forward, gaussian, loss, oracle, sampler
from .. import schedule as schedules
from ..tensor import autodiff
from .denoising import Dealt
from .domains import (
    Chain,
    Costs,
    Flag,
    Later,
    Levels,
    Number,
    Points,
    Schedule,
    ShortSchedule,
    Spread,
    Times,
    Unit,
    Variance,
)
from .law import LawBroken, law


class _Given:
    """A generator whose every draw is this array: the nodes of a quadrature."""

    def __init__(self, eps):
        self.eps = eps

    def standard_normal(self, shape, dtype=float):
        return self.eps.astype(dtype)


def nodes(mu, var, n=3):
    """x_0 ~ N(mu, var) and ε ~ N(0, 1) as n² points (n², 1) each, and their weights: exact to degree 2n - 1."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    w = w / w.sum()
    return mu + math.sqrt(var) * np.repeat(x, n)[:, None], np.tile(x, n)[:, None], np.repeat(w, n) * np.tile(w, n)


def gaussian_model(schedule, mu, var, v=1.0):
    """The exact model of data N(mu, var), with the variance β^v β̃^(1-v)."""
    eps_fn = oracle.gaussian_data(schedule, mu, var)
    return elbo.reverse_fn(lambda x_t, t: (eps_fn(x_t, t), v), schedule)


def expected_terms(schedule, model, mu, var):
    """E[L_T], and for t = 1..T the expectations of L of t and of the square error, for data N(mu, var)."""
    x0, eps, w = nodes(mu, var)
    t, tiled = np.repeat(np.arange(1, schedule.T + 1), len(w)), (schedule.T, 1)
    rng = _Given(np.tile(eps, tiled))
    [(_, nats, error)] = elbo.terms(model, schedule, np.tile(x0, tiled), [t], rng, gaussian.log_density)
    return w @ elbo.prior_kl(schedule, x0), nats.reshape(schedule.T, -1) @ w, error.reshape(schedule.T, -1) @ w


def expected_bound(schedule, model, mu, var):
    """E of the whole bound, for data N(mu, var), one time after the other."""
    x0, eps, w = nodes(mu, var)
    seen = elbo.terms(model, schedule, x0, range(schedule.T, 0, -1), _Given(eps), gaussian.log_density)
    return w @ elbo.estimate(schedule, x0, seen)


# Its terms


@law("DDPM (5), L_T", of=[elbo.prior_kl, gaussian.kl])
def prior_term_keeps_its_digits(schedule: Schedule, x0: Points):
    """L_T = ½ Σ [ᾱ x_0² - ᾱ - ln(1-ᾱ)], to the last digits however small ᾱ_T is."""
    ab, x0 = float(schedule.alpha_bar[-1]), np.append(x0, [[0.0, 0.0]], axis=0)
    beyond = sum(ab**k / k for k in range(2, 20)) if ab < 0.1 else -ab - math.log1p(-ab)
    by_series = (ab * x0**2 + beyond).sum(1) / 2
    return elbo.prior_kl(schedule, x0), by_series, (ab * (x0**2 + ab + 1e-3)).sum(1)


@law(
    "DDPM (5), (7), (13) with a density",
    of=[elbo.terms, elbo.prior_kl, elbo.reverse_kl, elbo.reconstruction, elbo.reverse_fn],
)
def the_bound_term_by_term(schedule: ShortSchedule, mu: Number, var: Variance, v: Unit):
    """For data N(μ, s²) and their exact denoiser each term, and each error of x̂_0, is its closed form.

    E‖x_0 - x̂_0‖² = Var(x_0 | x_t), by Bayes' rule; μ̃ errs by that times the square of x_0's factor in it.
    """
    prior, nats, error = expected_terms(schedule, gaussian_model(schedule, mu, var, v), mu, var)
    s, t = schedule.alpha_bar[:-1], schedule.alpha_bar[1:]
    _, left_over = gaussian.condition(mu, var, np.sqrt(t), 0.0, 1 - t)
    beta, tilde = 1 - t / s, (1 - t / s) * (1 - s) / (1 - t)
    sigma_sq = np.append(beta[0], beta[1:] ** v * tilde[1:] ** (1 - v))
    kl = tilde[1:] / sigma_sq[1:] - 1 - np.log(tilde[1:] / sigma_sq[1:])
    kl = (kl + s[1:] * (beta / (1 - t))[1:] ** 2 * left_over[1:] / sigma_sq[1:]) / 2
    by_hand = np.append((np.log(2 * np.pi * beta[0]) + left_over[0] / beta[0]) / 2, kl)
    noise = (t[-1] * (mu**2 + var) - t[-1] - np.log1p(-t[-1])) / 2
    size = (1 + abs(by_hand)) * (1 + 10 / np.sqrt(sigma_sq))
    return (prior, nats, error), (noise, by_hand, left_over), (1 + noise, size, 20 / t)


@law(
    "DDPM (8), (12)",
    of=[elbo.reverse_kl, elbo.eps_weight, elbo.variance_cost, elbo.reconstruction, gaussian.log_density],
)
def a_step_costs_the_error_of_its_noise(
    chain: Chain, t: Later, x0: Points, eps: Points, eps_hat: Points, var: Variance, var_1: Variance
):
    """L_{t-1} = λ_t ‖ε - ε̂‖² + 2 variance costs, whatever ε̂ and σ²; L_0 with a density likewise."""
    miss, ones = ((eps - eps_hat) ** 2).sum(1), np.ones(4)
    x_t, x_1 = (forward.q_sample(chain, x0, i, eps) for i in (t, 1))
    left = (
        elbo.reverse_kl(chain, x0, x_t, t, eps_hat, var * np.ones((4, 1))),
        elbo.reconstruction(chain, x0, x_1, eps_hat, np.full((4, 1), var_1), gaussian.log_density),
    )
    by_noise = elbo.eps_weight(chain, t, var) * miss + 2 * elbo.variance_cost(chain, t, var)
    last = elbo.eps_weight(chain, 1, var_1) * miss + ones * math.log(2 * math.pi * var_1)
    return left, (by_noise, last), (20 * (1 + by_noise) / var, 20 * (1 + abs(last)) / var_1)


@law("DDPM (8), its C", of=[elbo.variance_cost])
def only_the_posterior_variance_is_free(chain: Chain, t: Later, v: Unit, off: Unit):
    """σ² = β̃ costs nothing; e^{±d} times it, more; and twice the cost is r - 1 - ln r, r = β̃/σ²."""
    tilde = chain.beta[t] * (1 - chain.alpha_bar[t - 1]) / (1 - chain.alpha_bar[t])
    r = math.exp(3 * (v - off))
    costs = elbo.variance_cost(chain, t, tilde / r), elbo.variance_cost(chain, t, tilde)
    return costs, (np.full(4, (r - 1 - math.log(r)) / 2), np.zeros(4)), (r + 1, 1e-3)


@law("IEEE 754", of=[elbo.terms])
def terms_of_single_precision(schedule: ShortSchedule, x0: Points, eps: Points, mu: Number, var: Variance):
    """A float32 model is asked in float32, and what it says is judged in float64, nothing more rounded away."""
    eps_fn, asked = oracle.gaussian_data(schedule, mu, var), []

    def predict(x_t, t):
        asked.append((x_t, eps_fn(x_t, t)))
        return asked[-1][1], 0.5

    model, data = elbo.reverse_fn(predict, schedule), x0.astype(np.float32)
    seen = list(elbo.terms(model, schedule, data, range(schedule.T, 0, -1), _Given(eps), gaussian.log_density))
    right = []
    for (t, nats, error), arrays in zip(seen, list(asked), strict=True):
        kinds = [a.dtype for a in (*arrays, nats, error)]
        if kinds != [np.float32, np.float32, np.float64, np.float64]:
            raise LawBroken(f"a float32 model was asked, answered, and was judged in {kinds}")
        clean, x_t, eps_hat = (a.astype(np.float64) for a in (data, *arrays))
        sigma_sq = model(x_t, t)[1]
        cost = elbo.reverse_kl(schedule, clean, x_t, t, eps_hat, sigma_sq) if t > 1 else elbo.reconstruction(
            schedule, clean, x_t, eps_hat, sigma_sq, gaussian.log_density
        )  # fmt: skip
        right.append(cost)
    left, right = np.array([nats for _, nats, _ in seen]), np.array(right)
    return left, right, 1 + abs(right)


# The whole bound


@law("DDPM (3), (5)", of=[elbo.terms, elbo.prior_kl, gaussian.entropy], kind="<=")
def the_bound_is_no_less_than_the_entropy(
    schedule: ShortSchedule, mu: Number, var: Variance, mu_2: Number, var_2: Variance, v: Unit
):
    """E[bound] >= H(x_0): no code for the data, the best model's or another's, is shorter than their entropy."""
    models = gaussian_model(schedule, mu, var, v), gaussian_model(schedule, mu_2, var_2, v)
    priors, nats, _ = zip(*(expected_terms(schedule, model, mu, var) for model in models), strict=True)
    right, wrong = (prior + cost.sum() for prior, cost in zip(priors, nats, strict=True))
    return (gaussian.entropy(var),) * 2, (right, wrong), (1 + abs(right), 1 + abs(wrong))


@law("DDPM (23)-(26)", of=[elbo.estimate, elbo.terms, elbo.prior_kl, gaussian.entropy])
def the_bound_is_what_the_reverse_steps_miss(
    chain: ShortSchedule, mu: Number, var: Variance, mu_2: Number, var_2: Variance, v: Unit
):
    """E[bound] = KL(q(x_T) || N(0, I)) + Σ E KL(q(x_{t-1} | x_t) || p(x_{t-1} | x_t)) + H(x_0).

    For Gaussian data the true q(x_{t-1} | x_t), without x_0, is a Gaussian too; the model here is that of other data.
    """
    model, eps_fn = gaussian_model(chain, mu_2, var_2, v), oracle.gaussian_data(chain, mu_2, var_2)
    steps, sizes = [], []
    for t in range(1, chain.T + 1):
        ab_s, ab_t = chain.pair(t)
        of_s = gaussian.affine(mu, var, math.sqrt(ab_s), 0, 1 - ab_s)
        x_t, _, w = nodes(*gaussian.affine(mu, var, math.sqrt(ab_t), 0, 1 - ab_t))
        sigma_sq = sampler.reverse_var(ab_s, ab_t, v) if t > 1 else chain.beta[1]
        truth = gaussian.condition(*of_s, math.sqrt(ab_t / ab_s), x_t, chain.beta[t])
        guess = sampler.ddpm_step(chain, x_t, t, t - 1, eps_fn(x_t, t))
        steps.append(w @ gaussian.kl(*truth, guess, sigma_sq)[:, 0])
        sizes.append((1 + steps[-1]) * (1 + 10 / math.sqrt(sigma_sq)))
    ab = chain.alpha_bar[-1]
    end = gaussian.kl(*gaussian.affine(mu, var, math.sqrt(ab), 0, 1 - ab), 0.0, 1.0)
    whole = expected_bound(chain, model, mu, var)
    return whole, end + sum(steps) + gaussian.entropy(var), 10 + sum(sizes)


def gap(schedule, mu, var, v):
    """E[bound] - KL(q(x_T) || N(0, I)) - H(x_0), for the exact denoiser of data N(mu, var)."""
    prior, nats, _ = expected_terms(schedule, gaussian_model(schedule, mu, var, v), mu, var)
    ab = schedule.alpha_bar[-1]
    end = gaussian.kl(*gaussian.affine(mu, var, math.sqrt(ab), 0, 1 - ab), 0.0, 1.0)
    return prior + nats.sum() - end - gaussian.entropy(var)


@law("DDPM (26), many steps", of=[elbo.terms, elbo.reverse_kl, elbo.prior_kl, schedules.linear], kind=1, tol=0.05)
def the_gap_closes_as_steps_get_finer(mu: Unit, n=200):
    """With σ² = β and β ∝ 1/T, the bound falls to the prior's KL plus the entropy at rate 1/T (data N(μ, 0.2)).

    The exact denoiser has the mean of q(x_{t-1} | x_t), so a step misses KL = ½ [r - 1 - ln r] ≈ ¼ (r-1)², with r the
    true variance over β. With V_t = ᾱ_t s² + 1-ᾱ_t that is r = V_{t-1}/V_t = 1 + β ᾱ_{t-1} (s²-1)/V_t: the sum of T
    terms in β² falls like 1/T, and is nothing at all for s² = 1.
    """
    return gap(schedules.linear(n), mu, 0.2, 1.0), 0.0


@law("DDPM (26), many steps", of=[elbo.terms, elbo.reverse_kl, elbo.variance_cost], kind=1, tol=0.05)
def the_posterior_variance_leaves_a_gap(mu: Unit, n=200):
    """With σ² = β̃ (σ_1² = β_1) the gap does not close: it tends to γ/2, γ = 0.577... of Euler, at rate 1/T.

    Now r = (V_{t-1}/V_t) (1-ᾱ_t)/(1-ᾱ_{t-1}), which near the data is t/(t-1) at every T, so that steps t = 2, 3, ...
    miss Σ ½ [1/(t-1) - ln t/(t-1)] = γ/2 nats a coordinate, the same for all data: why the bound likes σ² = β. What is
    left is c ln(T)/T + O(1/T), c ∝ 1/2 - 1/s² with equal betas; so s² = 2 here.
    """
    return gap(schedules.constant(n), mu, 2.0, 0.0), np.euler_gamma / 2


# Its bins


def bin_edges(bins):
    centres = 2 * np.arange(bins) / (bins - 1) - 1
    return np.append(-np.inf, centres[:-1] + 1 / (bins - 1)), np.append(centres[1:] - 1 / (bins - 1), np.inf)


@law("DDPM (13)", of=[elbo.decoder_log_prob], tol=1e-11)
def the_bins_share_all_the_mass(mu: Number, var: Spread, bins: Levels):
    """Σ over the bins of the decoder's probabilities is 1, for any mean and variance."""
    centres = np.linspace(-1, 1, bins)
    return np.exp(elbo.decoder_log_prob(centres, mu, var, bins)).sum(), 1.0


@law("DDPM (13)", of=[elbo.decoder_log_prob], tol=1e-12)
def a_bin_has_the_mass_of_its_density(mu: Number, var: Spread, beyond: Unit, bins: Levels, single: Flag):
    """The decoder's ln of a mass is that of the density integrated over the bin, in the farthest tail too.

    With m the bin's nearest point to μ, the density there is taken out of the integral; what is left falls from 1 to
    e^-40 within a length that is known, and 60 Gauss-Legendre nodes on each side of m integrate it to rounding.
    """
    u, w = np.polynomial.legendre.leggauss(60)
    u, w = (u + 1) / 2, w / 2
    low, high = bin_edges(bins)
    mu = np.array([[mu], [1 + 40 * beyond * math.sqrt(var)]])
    m = np.clip(mu, low, high)
    off = abs(m - mu)
    reach = 80 * var / (off + np.sqrt(off**2 + 80 * var))

    def one_side(length):
        x = length[..., None] * u
        return length * (np.exp(-(2 * off[..., None] + x) * x / (2 * var)) @ w)

    mass = one_side(np.minimum(reach, high - m)) + one_side(np.minimum(reach, m - low))
    centres = np.tile(np.linspace(-1, 1, bins), (2, 1))
    got = elbo.decoder_log_prob(centres.astype(np.float32) if single else centres, mu, var, bins)
    expected = gaussian.log_density(m, mu, var) + np.log(mass)
    return got, expected, 1 + abs(expected) + 1e-3 * (off / var + 1 / math.sqrt(var)) + bins * math.sqrt(var)


@law("DDPM (13), Bishop (1.98)", of=[gaussian.information, gaussian.mean_information], kind="<=", tol=1e-10)
def bins_carry_information(mu: Number, var: Spread, mu_2: Number, bins: Levels):
    """0 <= H(p) <= ln bins, and H(p) <= H(p, q), for the decoder's bins p and q; the mean is over -ln p."""
    centres = np.linspace(-1, 1, bins)
    p, q = (np.exp(elbo.decoder_log_prob(centres, m, var + 0.01, bins)) for m in (mu, mu_2 / 3))
    own, other = gaussian.mean_information(p, p), gaussian.mean_information(p, q)
    return (0.0, own, own), (own, math.log(bins), other), (1.0, 1.0, 1.0)


@law("Bishop (1.92), (1.98)", of=[gaussian.information, gaussian.mean_information])
def information_of_even_odds(bins: Levels, a: Unit):
    """log₂ n bits for one of n equal outcomes, drawn or given; an outcome that never comes costs nothing."""
    even = np.full(bins, 1 / bins)
    never, odds = np.append(even, 0.0), np.array([(1 + a) / 3, (2 - a) / 3])
    left = gaussian.information(even[0]), gaussian.mean_information(even, even), gaussian.mean_information(never, never)
    by_hand = -math.fsum(p * math.log(p) for p in odds)
    return (*left, gaussian.mean_information(odds, odds)), (math.log(bins),) * 3 + (by_hand,)


@law("DDPM (3), (13)", of=[elbo.estimate, elbo.terms, elbo.reconstruction, elbo.bits_per_dim], kind="<=")
def even_pixels_cost_all_their_bits(chain: ShortSchedule, mu: Number, var: Variance, bins: Levels):
    """E[bound] >= log₂ bins, 8 bits for 8-bit data, if every level is as likely, whatever the model."""
    z, w = np.polynomial.hermite_e.hermegauss(40)
    x0 = np.repeat(np.linspace(-1, 1, bins), 40)[:, None]

    def decoder(*args):
        return elbo.decoder_log_prob(*args, bins)

    times, rng = range(chain.T, 0, -1), _Given(np.tile(z, bins)[:, None])
    seen = elbo.terms(gaussian_model(chain, mu, var), chain, x0, times, rng, decoder)
    nats = (elbo.estimate(chain, x0, seen).reshape(bins, 40) @ w).mean() / w.sum()
    return math.log2(bins), elbo.bits_per_dim(nats, (1,)), 1.0


@law("Theis et al. section 3.1", of=[elbo.bits_per_dim])
def bits_of_a_mass_and_of_its_density(u: Unit, bins: Levels):
    """n halvings are n bits; a mass spread evenly over a bin has a density of as many, `unit` the bin's width."""
    p, width = 0.01 + 0.9 * u, 2 / (bins - 1)
    shape, nats = (7, 3, 2), 42 * 5 * math.log(2)
    density = -math.log(p / width)
    left = elbo.bits_per_dim(nats, shape), elbo.bits_per_dim(density, (1,), width)
    return left, (5.0, elbo.bits_per_dim(-math.log(p), (1,))), (5.0, 10.0)


# Variances


@law("Improved DDPM (15)", of=[elbo.model_var, elbo.reverse_fn])
def learned_variance_between_its_ends(chain: Chain, t: Later, v: Points, x: Points, var_1: Variance):
    """v = 1 is β, 0 is β̃, v the sampler's β^v β̃^(1-v); at t = 1 it is σ_1², β_1 unless given; ε̂ passes untouched."""
    beta, tilde = chain.beta[t][:, None], forward.posterior_var(*chain.pair(t))[:, None]
    eps_hat, var = elbo.reverse_fn(lambda x_t, t: (x_t, v), chain)(x, t)
    last = np.append(t[:3], 1)
    left = (
        var, elbo.model_var(chain, t, 0 * v + 1), elbo.model_var(chain, t, 0 * v), eps_hat,
        elbo.model_var(chain, 1, v), elbo.model_var(chain, last, v, var_1)[3],
        elbo.reverse_fn(lambda x_t, t: (x_t, 0.25), chain)(x, t)[1],
    )  # fmt: skip
    interpolated = sampler.reverse_var(*(ab[:, None] for ab in chain.pair(t)), v)
    full = np.ones((4, 2))
    right = interpolated, full * beta, full * tilde, x, full * chain.beta[1], full[3] * var_1
    return left, (*right, full * beta**0.25 * tilde**0.75)


def hybrid(schedule, x0, t, eps, guesses, lam):
    """(L_hybrid, its gradient) with a network that guesses {"eps": ..., "v": ...} as they stand."""

    def cost(guesses):
        return elbo.l_hybrid(lambda x_t, t: (guesses["eps"], guesses["v"]), schedule, x0, t, eps, lam)

    return autodiff.value_and_grad(cost)(guesses)


@law("Improved DDPM (16)", of=[elbo.l_hybrid, elbo.l_vlb, elbo.model_var, elbo.reverse_kl])
def the_mean_learns_from_one_loss_the_variance_from_the_other(
    schedule: Chain, t: Times, x0: Points, eps: Points, eps_hat: Points, v: Points, lam: Unit
):
    """The value is L_simple + λ T E[L_{t-1}]; ∂/∂ε̂ is L_simple's alone, ∂/∂v λ times that of the bound.

        ∂KL/∂v = ½ ln(β/β̃) [1 - (β̃ + (μ̃-μ)²)/σ²] a coordinate, nothing at t = 1

    E is over examples and coordinates, in bits, as in the released code, where λ T = 1 at T = 1000.
    """
    value, grad = hybrid(schedule, x0, t, eps, {"eps": eps_hat, "v": v}, lam)
    s, ab, beta = (a[:, None] for a in (schedule.alpha_bar[t - 1], schedule.alpha_bar[t], schedule.beta[t]))
    later = t[:, None] > 1
    ratio = np.where(later, (1 - s) / (1 - ab), 1.0)
    sigma_sq = beta * ratio ** (1 - v)
    miss = (beta / np.sqrt((1 - beta) * (1 - ab)) * (eps - eps_hat)) ** 2
    share = (beta * ratio + miss) / sigma_sq
    bits = schedule.T * later / math.log(2)
    kl = bits * (share - 1 - v * np.log(ratio)) / 2
    by_hand = (
        np.mean((eps - eps_hat) ** 2) + lam * kl.mean(),
        2 * (eps_hat - eps) / 8,
        lam * bits * -np.log(ratio) * (1 - share) / 2 / 8,
    )
    size = schedule.T * (1 + share) * (1 + abs(np.log(ratio))) * (1 + 1 / np.sqrt(sigma_sq))
    return (value, grad["eps"], grad["v"]), by_hand, (40 + size.mean(), 5.0, size)


# Estimates


def table_of(costs):
    """What `terms` might have yielded: each of (k, T) costs for its int t, k examples at a time."""
    return [(t, cost, cost + 1) for t, cost in enumerate(costs.T, 1)]


@law("Improved DDPM (18)", of=[elbo.estimate, elbo.importance])
def drawn_times_are_unbiased(costs: Costs, x0: Number):
    """Σ_t p_t (L_T + L_t/p_t), the mean over every time that might be drawn, is the whole bound; all t at once too."""
    chain, data = schedules.Schedule([0.3] * 5), np.full((10, 1), x0)
    seen, whole = table_of(costs), elbo.prior_kl(chain, data) + costs.sum(1)
    p = elbo.importance(chain, seen)
    mean = sum(p[t] * elbo.estimate(chain, data, [one], p) for t, one in enumerate(seen, 1))
    return (mean, elbo.estimate(chain, data, seen)), (whole, whole), (20.0, 20.0)


@law("Improved DDPM (18)", of=[elbo.importance, elbo.averages])
def dear_times_are_drawn_more_often(costs: Costs, few: Flag):
    """p_t ∝ √E[L_t²], a thousandth of it uniform; all of it while some t was seen less than ten times; p_0 = 0."""
    chain, seen = schedules.Schedule([0.3] * 5), table_of(costs)
    if few:
        seen[2] = (3, *(a[:9] for a in seen[2][1:]))
    p = elbo.importance(chain, seen)
    size = np.ones(5) if few else np.linalg.norm(costs, axis=0)
    return (p[1:], p[0], p.sum()), (0.999 * size / size.sum() + 0.001 / 5, 0.0, 1.0)


@law("VDM appendix I; DDPM (5)", of=[loss.draw_likely_times, elbo.estimate])
def stratified_estimates_are_unbiased(costs: Costs, x0: Number):
    """Each example's estimate, averaged over all 120 ways to deal the five times to five examples, is its bound."""
    chain, data, costs = schedules.Schedule([0.3] * 5), np.full((5, 1), x0), costs[:5]
    p, rows = np.append(0.0, np.full(5, 0.2)), np.arange(5)
    estimates = []
    for order in itertools.permutations(range(5)):
        t = loss.draw_likely_times(Dealt(order), 5, p)
        nats = costs[rows, t - 1]
        estimates.append(elbo.estimate(chain, data, [(t, nats, nats)]))
    return np.mean(estimates, axis=0), elbo.prior_kl(chain, data) + costs.sum(1), 20.0


@law("arithmetic", of=[elbo.averages, elbo.terms])
def one_time_an_example_or_one_for_all(schedule: ShortSchedule, x0: Points, eps: Points, mu: Number, var: Variance):
    """Terms of times drawn for each example are those of the same times asked one by one; their means by t likewise.

    The error of x̂_0 is a mean over coordinates.
    """
    model, T = gaussian_model(schedule, mu, var, 0.5), schedule.T
    drawn = 1 + np.arange(4) % T

    def ask(times):
        return list(elbo.terms(model, schedule, x0, times, _Given(eps), gaussian.log_density))

    [(_, nats, error)], by_t = ask([drawn]), ask(range(1, T + 1))
    one_by_one = np.array([by_t[t - 1][1][i] for i, t in enumerate(drawn)])
    means, errors, counts = elbo.averages(schedule, [(drawn, nats, error)])
    rows = [[i for i in range(4) if drawn[i] == t] for t in range(1, T + 1)]
    if not np.array_equal(np.isnan(means[1:]), [not row for row in rows]):
        raise LawBroken(f"means {means} of the times {drawn}")
    expected = np.array([0.0] + [np.mean(nats[row]) for row in rows if row])
    of_errors = np.array([0.0] + [np.mean(error[row]) for row in rows if row])
    x_t = forward.q_sample(schedule, x0, drawn, eps)
    miss = forward.x0_from_eps(schedule, x_t, drawn, model(x_t, drawn)[0]) - x0
    left = nats, means[~np.isnan(means)], errors[~np.isnan(errors)], counts[1:], error
    right = one_by_one, expected, of_errors, np.array([len(row) for row in rows]), (miss**2).mean(1)
    return left, right, (1 + abs(nats), 1 + abs(expected), 1 + of_errors, 1.0, 1 + error)


# Progressive coding


@law("DDPM section 4.3", of=[elbo.rate_distortion, elbo.averages])
def the_rate_counts_what_was_received(costs: Costs, prior: Variance):
    """x_T costs L_T, each step after it its own bits, the whole image the bound; a level off by one is an RMSE of 1."""
    chain, wrong = schedules.Schedule([0.3] * 5), np.full(10, (2 / 255) ** 2)
    nats, error, _ = elbo.averages(chain, [(t, cost, wrong) for t, cost, _ in table_of(costs)])
    rate, distortion = elbo.rate_distortion(np.full(3, prior), nats, error, (2,))
    bits = costs.mean(0) / (2 * math.log(2))
    left = rate[5], rate[:5] - rate[1:], rate[0], distortion
    right = prior / (2 * math.log(2)), bits, prior / (2 * math.log(2)) + bits.sum(), np.append(0.0, np.ones(5))
    return left, right, (5.0, 20.0, 20.0, 1.0)


@law("Cover & Thomas, theorem 10.3.2", of=[elbo.rate_distortion, elbo.terms], kind="<=")
def no_code_beats_the_rate_distortion_bound(schedule: ShortSchedule, mu: Number, var: Variance, v: Unit):
    """For data N(μ, s²) the rate is at least Shannon's ½ log₂(s²/D), D the square error; what is received tells x_t."""
    prior, nats, error = expected_terms(schedule, gaussian_model(schedule, mu, var, v), mu, var)
    by_t = (np.append(0.0, nats), np.append(0.0, error))
    rate, distortion = elbo.rate_distortion(np.full(1, prior), *by_t, (1,))
    shannon = np.log2(var / (distortion[1:] / 127.5) ** 2) / 2
    return shannon, rate[1:], 10.0
