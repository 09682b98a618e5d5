"""The Gaussian: N(x; mu, var), variable first, then mean, then variance.

All of diffusion's algebra is in here: scaling and adding noise (`affine`), turning that round by Bayes' rule
(`condition`), and measuring how far apart two of them are (`kl`). Components are independent, so `var` is a variance
for each coordinate (or one for all) and sums over coordinates run over the last axis unless said otherwise.
Nats throughout: logarithms are natural.
"""
import math

import numpy as np

from .tensor import ops


def log_density(x, mu, var):
    """ln N(x; mu, var), one value a coordinate: -½ [ln 2πσ² + (x-μ)²/σ²].

    Source : Bishop 2006, PRML, eq. (1.46).
    """
    return -0.5 * (math.log(2 * math.pi) + ops.log(var) + (x - mu) ** 2 / var)


def score(x, mu, var):
    """∇_x ln N(x; mu, var) = -(x-μ)/σ².

    Source : Song & Ermon 2019, arXiv:1907.05600, section 2 (the score) of Bishop 2006, eq. (1.46).
    """
    return -(x - mu) / var


def affine(mu, var, a, b=0, noise_var=0):
    """Mean and variance of a x + b + noise, x ~ N(mu, var), noise ~ N(0, noise_var): (a μ + b, a² σ² + noise_var).

    Source : Bishop 2006, eq. (2.115), in one dimension. A forward step is affine(mu, var, √(1-β), 0, β).
    """
    return a * mu + b, a * a * var + noise_var


def condition(mu, var, a, y, noise_var):
    """Mean and variance of x given y = a x + noise, for x ~ N(mu, var) and noise ~ N(0, noise_var).

        mean = (noise_var μ + a σ² y) / (a² σ² + noise_var),   variance = σ² noise_var / (a² σ² + noise_var)

    Source : Bishop 2006, eqs. (2.116)-(2.117), in one dimension: Bayes' rule for a Gaussian.
    """
    total = a * a * var + noise_var
    return (noise_var * mu + a * var * y) / total, var * noise_var / total


def condition_joint(mu, cov, known, values):
    """Mean (m,) and covariance (m, m) of the other coordinates, given that coordinates `known` have `values`.

        μ_a + Σ_ab Σ_bb⁻¹ (x_b - μ_b),   Σ_aa - Σ_ab Σ_bb⁻¹ Σ_ba

    Source : Bishop 2006, eqs. (2.81)-(2.82).
    mu     : (n,); cov (n, n); known: list of indices, values to match.
    """
    known = list(known)
    free = [i for i in range(len(mu)) if i not in known]
    gain = np.linalg.solve(cov[np.ix_(known, known)], cov[np.ix_(known, free)]).T
    return mu[free] + gain @ (values - mu[known]), cov[np.ix_(free, free)] - gain @ cov[np.ix_(known, free)]


def entropy(var):
    """H[N(mu, var)] = ½ ln(2πe σ²), in nats a coordinate.

    Source : Bishop 2006, eq. (1.110).
    """
    return 0.5 * (math.log(2 * math.pi * math.e) + ops.log(var))


def cross_entropy(mu_1, var_1, mu_2, var_2):
    """-E_1[ln N_2] = ½ [ln 2πσ₂² + (σ₁² + (μ₁-μ₂)²)/σ₂²], in nats a coordinate.

    Source : Bishop 2006, eq. (1.46), its expectation.
    """
    return 0.5 * (math.log(2 * math.pi) + ops.log(var_2) + (var_1 + (mu_1 - mu_2) ** 2) / var_2)


def kl(mu_1, var_1, mu_2, var_2):
    """KL(N_1 || N_2) = ½ [σ₁²/σ₂² - 1 - ln σ₁²/σ₂² + (μ₁-μ₂)²/σ₂²], in nats a coordinate.

    Source : Kingma & Welling 2013, arXiv:1312.6114, appendix B (there N_2 = N(0, 1)).
    """
    ratio = var_1 / var_2
    return 0.5 * (ratio - 1 - ops.log(ratio) + (mu_1 - mu_2) ** 2 / var_2)


# Information, of outcomes that have probabilities


def information(p):
    """-ln p, the information (surprise) of an outcome of probability p, in nats; / ln 2 for bits.

    Source : Shannon 1948, section 6; Bishop 2006, eq. (1.92).
    """
    return -ops.log(p)


def mean_information(p, q):
    """-Σ_k p_k ln q_k: what outcomes drawn from p cost in a code made for q, in nats, over the last axis.

    It is the cross-entropy H(p, q); the entropy H(p) where q = p; their difference is KL(p || q) >= 0.
    Source : Bishop 2006, eqs. (1.98), (1.113).
    p, q   : probabilities; an outcome with p = 0 costs nothing, so q must be positive only where p is.
    """
    return ops.sum(p * information(q + (p == 0)), axis=-1)
