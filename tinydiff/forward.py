"""The forward process q: noise in one jump, turned round by Bayes, and the four ways to say what was added.

    q(x_t | x_0) = N(x_t; √ᾱ_t x_0, (1-ᾱ_t) I),     x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε

Two floors. The scalar formulas below know numbers only: they run on floats, on arrays and on Fractions alike, and on
Fractions the laws hold with no tolerance at all. The functions on data gather those scalars for each example (`coef`)
and never mix precision.
"""
import math
from fractions import Fraction

import numpy as np

from .tensor.autodiff import xp_of

# Scalars: s < t, with ᾱ_s and ᾱ_t


def root(x):
    """√x; of a Fraction, its exact root.

    Source : arithmetic. Raises ValueError for a Fraction whose root is irrational.
    """
    if isinstance(x, Fraction):
        top, bottom = math.isqrt(x.numerator), math.isqrt(x.denominator)
        if (top * top, bottom * bottom) != (x.numerator, x.denominator):
            raise ValueError(f"{x} has no rational root")
        return Fraction(top, bottom)
    return np.sqrt(x)


def step_var(alpha_bar_s, alpha_bar_t):
    """Variance of q(x_t | x_s): 1-α_{t|s} with α_{t|s} = ᾱ_t/ᾱ_s; for s = t-1 it is β_t.

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (2); for s < t-1, Kingma et al. 2021, arXiv:2107.00630, eq. (22).
    """
    return 1 - alpha_bar_t / alpha_bar_s


def posterior_var(alpha_bar_s, alpha_bar_t):
    """β̃ = (1-α_{t|s}) (1-ᾱ_s) / (1-ᾱ_t), the variance of q(x_s | x_t, x_0); 0 at s = 0.

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (7).
    """
    return step_var(alpha_bar_s, alpha_bar_t) * (1 - alpha_bar_s) / (1 - alpha_bar_t)


def posterior_mean_coefs(alpha_bar_s, alpha_bar_t):
    """The factors of x_0 and x_t in μ̃: √ᾱ_s (1-α_{t|s}) / (1-ᾱ_t) and √α_{t|s} (1-ᾱ_s) / (1-ᾱ_t).

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (7).
    """
    of_x0 = root(alpha_bar_s) * step_var(alpha_bar_s, alpha_bar_t) / (1 - alpha_bar_t)
    of_xt = root(alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    return of_x0, of_xt


# The door between the floors


def coef(numbers, like):
    """Float64 numbers, one or one an example, as an array that multiplies `like` (B, ...): its dtype, its device.

    The only place where the schedule's float64 meets the data: rounded once, after the whole formula.
    Source : IEEE 754, rounding to nearest.
    """
    numbers = np.asarray(numbers, dtype=np.float64)
    shaped = numbers.reshape(-1, *(1,) * (like.ndim - 1)) if numbers.ndim else numbers
    return xp_of(like).asarray(shaped.astype(like.dtype))


# The process


def q_step(schedule, x, t, noise):
    """x_t from x_{t-1}: √(1-β_t) x_{t-1} + √β_t z.

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (2).
    x, noise: (B, ...); t: int or (B,) ints in 1..T.
    """
    schedule.at(t)
    beta = schedule.beta[t]
    return coef(np.sqrt(1 - beta), x) * x + coef(np.sqrt(beta), x) * noise


def q_marginal(schedule, x0, t):
    """Mean and variance of q(x_t | x_0): √ᾱ_t x_0 and 1-ᾱ_t.

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (4).
    x0     : (B, ...), data units, [-1, 1]; t: int or (B,) ints in 0..T.
    Returns: mean (B, ...); var, broadcastable to it.
    """
    alpha_bar = schedule.at(t, lowest=0)
    return coef(np.sqrt(alpha_bar), x0) * x0, coef(1 - alpha_bar, x0)


def q_sample(schedule, x0, t, eps):
    """x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε.

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (4).
    x0, eps: (B, ...); t: int or (B,) ints in 0..T.
    """
    alpha_bar = schedule.at(t, lowest=0)
    return coef(np.sqrt(alpha_bar), x0) * x0 + coef(np.sqrt(1 - alpha_bar), x0) * eps


def q_posterior(schedule, x0, x_t, t, s=None):
    """Mean and variance of q(x_s | x_t, x_0), s < t; s = t-1 unless given.

        μ̃ = [√ᾱ_s (1-α_{t|s}) x_0 + √α_{t|s} (1-ᾱ_s) x_t] / (1-ᾱ_t),   α_{t|s} = ᾱ_t/ᾱ_s
        β̃ = (1-α_{t|s}) (1-ᾱ_s) / (1-ᾱ_t)

    Source : Ho et al. 2020, arXiv:2006.11239, eqs. (6)-(7), there with s = t-1.
    x0, x_t: (B, ...), data units, [-1, 1] for x0.
    t, s   : int or (B,) ints, 0 <= s < t <= T.
    Returns: mean (B, ...); var, broadcastable to it; var = 0 at s = 0.
    Raises : ValueError unless 0 <= s < t <= T.
    """
    pair = schedule.pair(t, s)
    of_x0, of_xt = posterior_mean_coefs(*pair)
    return coef(of_x0, x_t) * x0 + coef(of_xt, x_t) * x_t, coef(posterior_var(*pair), x_t)


# ε, x_0, v and the score all say the same thing


def _scales(schedule, t, like):
    """√ᾱ_t and √(1-ᾱ_t), t whole or real: continuous time asks a model between its steps."""
    alpha_bar = schedule.at(t) if np.asarray(t).dtype.kind in "iu" else schedule.alpha_bar_at(t)
    return coef(np.sqrt(alpha_bar), like), coef(np.sqrt(1 - alpha_bar), like)


def x0_from_eps(schedule, x_t, t, eps):
    """x_0 = (x_t - √(1-ᾱ_t) ε) / √ᾱ_t.

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (15).
    """
    a, b = _scales(schedule, t, x_t)
    return (x_t - b * eps) / a


def eps_from_x0(schedule, x_t, t, x0):
    """ε = (x_t - √ᾱ_t x_0) / √(1-ᾱ_t).

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (15), solved for ε.
    """
    a, b = _scales(schedule, t, x_t)
    return (x_t - a * x0) / b


def v_from_eps(schedule, x_t, t, eps):
    """v = √ᾱ_t ε - √(1-ᾱ_t) x_0, from x_t and ε: (ε - √(1-ᾱ_t) x_t) / √ᾱ_t.

    Source : Salimans & Ho 2022, arXiv:2202.00512, section 4 (v-prediction).
    """
    a, b = _scales(schedule, t, x_t)
    return (eps - b * x_t) / a


def eps_from_v(schedule, x_t, t, v):
    """ε = √ᾱ_t v + √(1-ᾱ_t) x_t.

    Source : Salimans & Ho 2022, arXiv:2202.00512, appendix D (the rotation by φ_t).
    """
    a, b = _scales(schedule, t, x_t)
    return a * v + b * x_t


def score_from_eps(schedule, t, eps):
    """∇ ln q(x_t) = -ε / √(1-ᾱ_t), for ε the expectation of the noise given x_t.

    Source : Song et al. 2021, arXiv:2011.13456, section 3.3, eq. (7); Dhariwal & Nichol 2021, arXiv:2105.05233,
             eq. (11).
    """
    return -eps / _scales(schedule, t, eps)[1]


def eps_from_score(schedule, t, score):
    """ε = -√(1-ᾱ_t) ∇ ln q(x_t).

    Source : Dhariwal & Nichol 2021, arXiv:2105.05233, eq. (11), solved for ε.
    """
    return -_scales(schedule, t, score)[1] * score
