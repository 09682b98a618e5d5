"""The likelihood: what a diffusion model's loss is a bound on, term by term, in nats and in bits.

    -ln p(x_0) <= L_T + Σ_{t=2..T} L_{t-1} + L_0                                                      DDPM (5)
    L_T     = KL(q(x_T | x_0) || N(0, I))                  what x_T still says of x_0
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))   what a reverse step says too little
    L_0     = -ln p(x_0 | x_1)                             the last step, to the 256 levels of a pixel

Every term is in nats for each example, summed over its coordinates. It needs the variance of each reverse step, so here
a model is a `reverse_fn(x_t, t) -> (ε̂, σ²)`. The step from t costs "L of t" below: L_{t-1} for t >= 2, L_0 for t = 1.
"""
import math

import numpy as np

from . import forward, gaussian, loss
from .forward import coef
from .tensor import ops
from .tensor.autodiff import value, xp_of

# The terms


def prior_kl(schedule, x0):
    """L_T = KL(q(x_T | x_0) || N(0, I)): (B,) nats.

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (5).
    """
    mean, var = forward.q_marginal(schedule, x0.astype(np.float64), schedule.T)
    return ops.per_example(gaussian.kl(mean, var, 0.0, 1.0))


def reverse_kl(schedule, x0, x_t, t, eps_hat, var):
    """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || N(μ(x_t, ε̂), σ²)), t >= 2: (B,) nats.

    μ is q's own mean with x̂_0 in the place of x_0.
    Source : Ho et al. 2020, arXiv:2006.11239, eqs. (5), (8).
    x0, x_t, eps_hat: (B, ...); var: σ², broadcastable to them; t: int or (B,) ints in 2..T.
    """
    schedule.at(t, lowest=2)
    mean, beta_tilde = forward.q_posterior(schedule, x0, x_t, t)
    mean_hat, _ = forward.q_posterior(schedule, forward.x0_from_eps(schedule, x_t, t, eps_hat), x_t, t)
    return ops.per_example(gaussian.kl(mean, beta_tilde, mean_hat, var))


def eps_weight(schedule, t, var):
    """λ_t = β² / (2σ² α (1-ᾱ)): L_{t-1} is λ_t ‖ε - ε̂‖², and a `variance_cost` for each coordinate.

    At t = 1 likewise: L_0 with a density is λ_1 ‖ε - ε̂‖² and ½ ln 2πσ² for each coordinate.
    Source : Ho et al. 2020, arXiv:2006.11239, eq. (12).
    t      : int or (B,) ints in 1..T; var: σ², numbers of t's shape. Returns float64 of t's shape.
    """
    alpha_bar = schedule.at(t)
    return schedule.beta[t] ** 2 / (2 * var * schedule.alpha[t] * (1 - alpha_bar))


def variance_cost(schedule, t, var):
    """½ [β̃/σ² - 1 - ln β̃/σ²]: nats a coordinate that L_{t-1} pays, t >= 2, for a σ² that is not β̃.

    Source : Ho et al. 2020, arXiv:2006.11239, the C of eq. (8).
    """
    schedule.at(t, lowest=2)
    return gaussian.kl(0.0, forward.posterior_var(*schedule.pair(t)), 0.0, var)


def decoder_log_prob(x0, mu, var, bins=256):
    """ln of the mass that N(μ, σ²) puts on the bin of x_0, a coordinate; the two end bins are open to infinity.

        ln ∫_{δ₋(x)}^{δ₊(x)} N(x'; μ, σ²) dx',   δ±(x) = x ± 1/(bins-1), but δ₋(-1) = -∞, δ₊(1) = ∞

    However far off μ is, the answer is finite and right to about 1e-14 of itself; an edge rounded by 1e-16 moves it
    besides, and of a bin narrower than σ, 1e-15 σ (bins-1) may be lost.
    Source : Ho et al. 2020, arXiv:2006.11239, eq. (13).
    x0     : (B, ...), the bins' centres -1, -1 + 2/(bins-1), ..., 1; mu, var: broadcastable to it.
    Returns: float64, x0's shape. Raises ValueError for x0 off the centres.
    """
    xp = xp_of(x0, mu)
    x0, mu, var = (xp.asarray(a, dtype=np.float64) for a in (x0, mu, var))
    level = xp.rint((x0 + 1) * (bins - 1) / 2)
    centre = level * (2 / (bins - 1)) - 1
    if float(abs(centre - x0).max()) * (bins - 1) > 1e-3 or float(abs(x0).max()) > 1.001:
        raise ValueError(f"x0 must be k * 2/{bins - 1} - 1 for k in 0..{bins - 1}; for other data give a density")
    width = xp.sqrt(2 * var)
    low = xp.where(level == 0, -np.inf, (centre - 1 / (bins - 1) - mu) / width)
    high = xp.where(level == bins - 1, np.inf, (centre + 1 / (bins - 1) - mu) / width)
    above = low + high >= 0  # by symmetry, a bin below μ is one above it
    return _log_mass(xp.where(above, low, -high), xp.where(above, high, -low))


def _log_mass(a, b):
    """ln ½[erfc(a) - erfc(b)], |a| <= b <= ∞. Where a >= 0, e^{-a²} is taken out, and nothing under- or overflows."""
    xp = xp_of(a)
    near, far = _erfcx(abs(a)), _erfcx(b)
    straddling = xp.log1p(-0.5 * (xp.exp(-a * a) * near + xp.exp(-b * b) * far))
    rest = xp.where(a < 0, 1.0, near - xp.exp(-(b - a) * (b + a)) * far)
    return xp.where(a < 0, straddling, xp.log(0.5 * rest) - a * a)


def _erfcx(x):
    """e^{x²} erfc(x), x >= 0: from erfc itself to x = 10, then 1/(x√π) [1 - 1/2x² (1 - 3/2x² (1 - 5/2x² (...)))]."""
    xp = xp_of(x)
    small, large, series = xp.minimum(x, 10.0), xp.maximum(x, 10.0), 1.0
    for k in range(23, 0, -2):
        series = 1 - k / (2 * large * large) * series
    return xp.where(x < 10, xp.exp(small * small) * ops.erfc(small), series / (large * math.sqrt(math.pi)))


def reconstruction(schedule, x0, x_1, eps_hat, var, decoder=decoder_log_prob):
    """L_0 = -ln p(x_0 | x_1), p of mean x̂_0 and variance σ_1²: (B,) nats.

    Source : Ho et al. 2020, arXiv:2006.11239, eqs. (5), (13).
    var    : σ_1² > 0. decoder: `decoder_log_prob`, or `gaussian.log_density` for data that have a density.
    """
    return -ops.per_example(decoder(x0, forward.x0_from_eps(schedule, x_1, 1, eps_hat), var))


# The variance of a reverse step


def model_var(schedule, t, v, var_1=None):
    """σ² = exp(v ln β + (1-v) ln β̃); at t = 1, where β̃ = 0, it is σ_1² whatever v says.

    Source : Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (15), for t >= 2.
    v      : (B, ...), a network's or a constant; t: int or (B,) ints. var_1: σ_1², β_1 unless given.
    """
    var_1 = schedule.beta[1] if var_1 is None else var_1
    bounds = schedule.beta[t], forward.posterior_var(*schedule.pair(t))
    log_beta, log_tilde = np.log(np.where(np.equal(t, 1), var_1, bounds))
    return ops.exp(coef(log_beta - log_tilde, v) * v + coef(log_tilde, v))


def reverse_fn(predict, schedule, var_1=None):
    """The model (x_t, t) -> (ε̂, σ²) of a `predict(x_t, t) -> (ε̂, v)`; v is a number, or one a coordinate.

    A network that guesses ε alone has σ² = β by `lambda x_t, t: (eps_fn(x_t, t), 1.0)`, and β̃ by 0.0.
    Source : `model_var`.
    """

    def reverse(x_t, t):
        eps_hat, v = predict(x_t, t)
        xp = xp_of(x_t)
        return eps_hat, model_var(schedule, t, xp.broadcast_to(xp.asarray(v, dtype=np.float64), x_t.shape), var_1)

    return reverse


# The whole bound


def terms(reverse_fn, schedule, x0, times, rng, decoder=decoder_log_prob):
    """For each t of `times`, yield (t, L of t, mean square error of x̂_0), the last two (B,) float64.

    One call of the model for each t, and no more than a batch in memory.
    Source : Ho et al. 2020, arXiv:2006.11239, eq. (5); the error of x̂_0: section 4.3.
    times  : an int, or (B,) ints, one an example, each time: range(T, 0, -1) for the whole sum, or drawn
             by `loss.draw_likely_times`.
    rng    : a generator of x0's device, for the noise. decoder: see `reconstruction`.
    """
    for t in times:
        x_t = forward.q_sample(schedule, x0, t, rng.standard_normal(x0.shape, dtype=x0.dtype))
        eps_hat, var = reverse_fn(x_t, t)
        x_t, eps_hat = x_t.astype(np.float64), eps_hat.astype(np.float64)
        error = forward.x0_from_eps(schedule, x_t, t, eps_hat) - x0
        nats = _step_cost(schedule, x0, x_t, np.broadcast_to(t, len(x0)), eps_hat, var, decoder)
        yield t, nats, ops.per_example(error * error) / math.prod(x0.shape[1:])


def _step_cost(schedule, x0, x_t, t, eps_hat, var, decoder):
    """L of each example's own t."""
    xp = xp_of(x0)
    nats, arrays = xp.zeros(len(x0)), (x0, x_t, eps_hat, xp.broadcast_to(var, x0.shape))
    for last in (True, False):
        rows = np.flatnonzero((t == 1) == last)
        if rows.size:
            at = xp.asarray(rows)
            clean, noisy, guess, variance = (a[at] for a in arrays)
            if last:
                nats[at] = reconstruction(schedule, clean, noisy, guess, variance, decoder)
            else:
                nats[at] = reverse_kl(schedule, clean, noisy, t[rows], guess, variance)
    return nats


def estimate(schedule, x0, seen, p=None):
    """L_T + the mean over `seen` of (L of t) / p_t: (B,) nats, whose expectation is the whole bound.

    With every t once and the uniform p it is the whole sum; with t ~ p, an unbiased estimate of it.
    Source : Ho et al. 2020, arXiv:2006.11239, eq. (5); Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (18).
    seen   : what `terms` yielded for x0; p: (T+1,), the probabilities that its times had, uniform unless given.
    """
    p = np.full(schedule.T + 1, 1 / schedule.T) if p is None else p
    weighed = [coef(1 / p[t], nats) * nats for t, nats, _ in seen]
    return prior_kl(schedule, x0) + sum(weighed) / len(weighed)


def averages(schedule, seen):
    """Means over examples of L of t and of the square error, and how many were seen, each (T+1,), by t.

    Source : arithmetic. seen: what `terms` yielded. Means are 0 at t = 0, where nothing is left to say, and NaN where
    no example had that t.
    """
    xp = xp_of(seen[0][1])
    sums = xp.zeros((3, schedule.T + 1))
    sums[2, 0] = 1
    for t, nats, error in seen:
        rows = xp.asarray(np.broadcast_to(t, len(nats)))
        xp.add.at(sums, (slice(None), rows), xp.stack([nats, error, xp.ones_like(nats)]))
    counts = xp.where(sums[2] > 0, sums[2], np.nan)
    return sums[0] / counts, sums[1] / counts, sums[2]


def bits_per_dim(nats, shape, unit=1.0):
    """nats / (D ln 2) - log₂ unit, D the number of coordinates of an example of that shape.

    Source : Theis et al. 2016, arXiv:1511.01844, section 3.1 (dequantised pixels: a density bounds a probability).
    unit   : 1 for probabilities. For -ln of a density: the length, in data units, of what counts as one; 2/255 for
             pixels scaled to [-1, 1], as wide as a bin of `decoder_log_prob`.
    """
    return nats / (math.prod(shape) * math.log(2)) - math.log2(unit)


def rate_distortion(prior, nats, error, shape):
    """Progressive coding: bits a coordinate received by the time that x_t is known, and the RMSE of x̂_0 from it.

        rate_t = L_T + Σ_{i > t} (L of i),     distortion_t = 127.5 √(mean square error at t), on the scale 0..255

    Source : Ho et al. 2020, arXiv:2006.11239, section 4.3.
    prior  : (B,), of `prior_kl`; nats, error: (T+1,), of `averages`; shape: of an example.
    Returns: rate and distortion, (T+1,) by t; at t = 0 the whole bound and 0.
    """
    costs = xp_of(nats).concatenate([nats[1:], prior.mean().reshape(1)])
    return bits_per_dim(costs[::-1].cumsum()[::-1], shape), 127.5 * error**0.5


# Which times to draw


def importance(schedule, seen, least=10):
    """p_t ∝ √E[L_t²], (T+1,): the times that an estimate of the bound should draw, from costs that were seen.

    Uniform until every t was seen `least` times; a thousandth stays uniform, so that no t is out of reach.
    Source : Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (18) (over the last 10 costs of each t, as its network is
             learning; ours stands still); the thousandth: its released code.
    seen   : what `terms` yielded, for 10 examples at every t, say.
    """
    uniform = np.append(0.0, np.full(schedule.T, 1 / schedule.T))
    squares, _, counts = averages(schedule, [(t, nats * nats, error) for t, nats, error in seen])
    if not bool((counts[1:] >= least).all()):
        return uniform
    size = np.sqrt(squares.tolist())
    return 0.999 * size / size.sum() + 0.001 * uniform


# Learning the variance


def l_vlb(schedule, x0, x_t, t, eps_hat, v):
    """T E_t[L_{t-1}], in bits a coordinate, of drawn t: the part of the bound that v moves, so t = 1 counts 0.

    Source : Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.1; bits, and λ T (there T/1000): its released code.
    """
    later = np.maximum(t, 2)
    nats = reverse_kl(schedule, x0, x_t, later, eps_hat, model_var(schedule, later, v))
    return bits_per_dim(ops.mean(coef(schedule.T * np.greater(t, 1), nats) * nats), x0.shape[1:])


def l_hybrid(predict, schedule, x0, t, eps, lam=1e-3):
    """L_simple + λ L_vlb, no gradient of L_vlb passing through the mean: ε̂ learns from the first, v from the second.

    Source : Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (16).
    predict: (x_t, t) -> (ε̂, v), each (B, ...), a network with its parameters; t: (B,) ints in 1..T, T >= 2.
    """
    x_t = forward.q_sample(schedule, x0, t, eps)
    eps_hat, v = predict(x_t, t)
    simple = loss.l_simple(lambda x_t, t: eps_hat, schedule, x0, t, eps)
    return simple + lam * l_vlb(schedule, x0, x_t, t, value(eps_hat), v)
