"""Exact denoisers: E[ε | x_t] for data whose every noised version is known.

They have a network's signature, so each sampler is tested against known answers before a network is trained, and a
reader can watch a perfect model at work. If the data are a mixture of Gaussians, so is every q(x_t):

    q(x_t) = Σ_k w_k N(x_t; √ᾱ_t m_k, ᾱ_t v_k + 1-ᾱ_t),     E[ε | x_t] = -√(1-ᾱ_t) ∇ ln q(x_t)

One Gaussian is a mixture of one; a finite set of points is a mixture whose variances are 0. All of them are
`noised_score`, which knows no schedule: data scaled by a, noise of variance b². They work on the host: NumPy's arrays.
"""
import math

import numpy as np

from . import forward, gaussian
from .tensor import ops


def noised_score(x, signal, noise_var, weights, means, variances):
    """∇ ln p(x) of x = a x_0 + b ε, for data Σ_k w_k N(m_k, v_k I).

        ∇ ln p = -Σ_k r_k(x) (x - a m_k) / (a² v_k + b²),   r_k the posterior weights

    Source : Bishop 2006, PRML, eqs. (9.13) and (2.115).
    x      : (B, D) float64, or boxed: it can be differentiated. signal, noise_var: a and b², one or (B,).
    weights: (K,), positive, sum 1; means (K, D); variances (K,), >= 0.
    """
    weights, means, variances = _checked(weights, means, variances)
    offsets, var = _components(x, signal, noise_var, means, variances)
    r = ops.softmax(_log_joint(weights, offsets, var))
    return -ops.sum(ops.reshape(r / var, (*r.shape, 1)) * offsets, axis=1)


def noised_log_density(x, signal, noise_var, weights, means, variances):
    """ln p(x), in nats, of x = a x_0 + b ε, for data Σ_k w_k N(m_k, v_k I).

    Source : Bishop 2006, PRML, eqs. (2.115), (2.188).
    x      : (B, D); signal, noise_var: a and b², one or (B,). Returns (B,) float64.
    """
    weights, means, variances = _checked(weights, means, variances)
    offsets, var = _components(np.asarray(x, np.float64), signal, noise_var, means, variances)
    return _log_sum_exp(_log_joint(weights, offsets, var))[:, 0]


def mixture(schedule, weights, means, variances):
    """ε_fn for data Σ_k w_k N(m_k, v_k I).

        E[ε | x_t] = √(1-ᾱ_t) Σ_k r_k(x_t) (x_t - √ᾱ_t m_k) / (ᾱ_t v_k + 1-ᾱ_t),   r_k the posterior weights

    Source : Bishop 2006, PRML, eqs. (9.13) and (2.115); Song et al. 2021, arXiv:2011.13456, section 3.3.
    weights: (K,), positive, sum 1; means (K, D); variances (K,), >= 0.
    Returns: eps_fn(x_t (B, D), t) -> (B, D) in x_t's precision, t an int or (B,) ints in 1..T.
    """
    data = _checked(weights, means, variances)

    def eps_fn(x_t, t):
        alpha_bar = schedule.at(t)
        score = noised_score(x_t.astype(np.float64), np.sqrt(alpha_bar), 1 - alpha_bar, *data)
        return forward.eps_from_score(schedule, t, score).astype(x_t.dtype)

    return eps_fn


def gaussian_data(schedule, mu, var):
    """ε_fn for data N(mu, var I): E[ε | x_t] = √(1-ᾱ_t) (x_t - √ᾱ_t μ) / (ᾱ_t σ² + 1-ᾱ_t).

    Source : Bishop 2006, PRML, eq. (2.116): linear regression of ε on x_t.
    mu     : (D,) or one number; var: one number, or (D,), >= 0.
    Returns: eps_fn(x_t (B, D), t) -> (B, D).
    """

    def eps_fn(x_t, t):
        alpha_bar = np.reshape(schedule.at(t), (-1, 1))
        mean, total = gaussian.affine(mu, var, np.sqrt(alpha_bar), 0, 1 - alpha_bar)
        return np.asarray(-np.sqrt(1 - alpha_bar) * gaussian.score(x_t, mean, total), dtype=x_t.dtype)

    return eps_fn


def finite(schedule, points):
    """ε_fn for data that are these points, each as likely: the denoiser that an endless training run ends at.

        E[x_0 | x_t] = Σ_k r_k(x_t) x_k,   r_k ∝ exp(-‖x_t - √ᾱ_t x_k‖² / 2(1-ᾱ_t))

    Source : Karras et al. 2022, arXiv:2206.00364, appendix B.3, eq. (57).
    points : (K, D). Returns eps_fn(x_t (B, D), t) -> (B, D).
    """
    points = np.asarray(points, dtype=np.float64)
    k = len(points)
    return mixture(schedule, np.full(k, 1 / k), points, np.zeros(k))


def mixture_log_density(schedule, x_t, t, weights, means, variances):
    """ln q(x_t), in nats, of data Σ_k w_k N(m_k, v_k I) noised to t.

    Source : Bishop 2006, PRML, eqs. (2.115), (2.188).
    Returns: (B,) float64; t may be 0 where every variance is positive.
    """
    alpha_bar = schedule.at(t, lowest=0)
    return noised_log_density(x_t, np.sqrt(alpha_bar), 1 - alpha_bar, weights, means, variances)


def mixture_reverse(schedule, x_t, t, s, weights, means, variances):
    """The true reverse step q(x_s | x_t) of one-dimensional mixture data: itself a mixture, not a Gaussian.

        q(x_s | x_t) = Σ_k r_k(x_t) N(x_s; Bayes(√ᾱ_s m_k, ᾱ_s v_k + 1-ᾱ_s; x_t = √α_{t|s} x_s + noise))

    It is why small steps matter: only as β -> 0 does it become the Gaussian that p_θ assumes.
    Source : Bishop 2006, PRML, eqs. (2.116), (9.13); the claim: Sohl-Dickstein et al. 2015, arXiv:1503.03585, sec. 2.2.
    x_t    : one number. Returns weights, means, variances, each (K,).
    """
    weights, means, variances = _checked(weights, np.reshape(means, (-1, 1)), variances)
    ab_s, ab_t = schedule.pair(t, s)
    x = np.reshape(np.float64(x_t), (1, 1))
    r = ops.softmax(_log_joint(weights, *_components(x, math.sqrt(ab_t), 1 - ab_t, means, variances)))[0]
    prior = gaussian.affine(means[:, 0], variances, math.sqrt(ab_s), 0, 1 - ab_s)
    mean, var_s = gaussian.condition(*prior, math.sqrt(ab_t / ab_s), x_t, forward.step_var(ab_s, ab_t))
    return r, mean, var_s


def _checked(weights, means, variances):
    weights, means, variances = (np.asarray(a, dtype=np.float64) for a in (weights, means, variances))
    if means.ndim != 2 or weights.shape != (len(means),) or variances.shape != (len(means),):
        raise ValueError(
            f"a mixture needs weights (K,), means (K, D), variances (K,), got {weights.shape}, {means.shape}, "
            f"{variances.shape}"
        )
    if np.any(weights <= 0) or abs(weights.sum() - 1) > 1e-9 or np.any(variances < 0):
        raise ValueError("a mixture needs positive weights that sum to 1 and variances >= 0")
    return weights, means, variances


def _components(x, signal, noise_var, means, variances):
    """x minus each component's mean (B, K, D), and each component's variance (B or 1, K)."""
    if x.shape[1:] != means.shape[1:]:
        raise ValueError(f"x must be of the mixture's {means.shape[1]} dimensions, got shape {x.shape}")
    a, b_sq = np.reshape(signal, (-1, 1)), np.reshape(noise_var, (-1, 1))
    return ops.reshape(x, (x.shape[0], 1, x.shape[1])) - a[..., None] * means, a * a * variances + b_sq


def _log_joint(weights, offsets, var):
    """ln w_k N(x; component k), (B, K)."""
    return np.log(weights) + ops.sum(gaussian.log_density(offsets, 0.0, var[..., None]), axis=-1)


def _log_sum_exp(a):
    top = a.max(axis=1, keepdims=True)
    return top + np.log(np.exp(a - top).sum(axis=1, keepdims=True))
