"""Score matching: learn the slope of the log-density, then walk uphill in noise.

    s(x) = ∇_x ln p(x)

has no normalising constant, so a network may be any vector field; and it is enough to sample by. The difficulty is to
compare a network with a score that nobody knows. There are three ways round it, all the same up to a constant:

    implicit  : E [tr ∇s + ½ ‖s‖²]             integrate by parts: only the network is left
    sliced    : E [vᵀ ∇s v + ½ ‖s‖²]           the trace by one random direction
    denoising : ½ E ‖s(x_0 + σε) + ε/σ‖²       noise the data; the score of the noise is known

A score network is any `score_fn(x)`, or `score_fn(x, sigma)` with σ a number or (B,) numbers. Losses are means over
examples of sums over coordinates, and noise comes as a value, so that they can be differentiated and repeated.
"""
import math

import numpy as np

from .forward import coef
from .tensor import ops
from .tensor.autodiff import vjp, xp_of

# Derivatives of a vector field


def quadratic_form(f, x, v):
    """f(x), and vᵀ (∂f/∂x) v for each example: one backward pass.

    Where E[v vᵀ] = I its mean is the trace: for v of random signs or normal (signs vary less).
    Source : Hutchinson 1990, Commun. Stat. Simul. Comput. 19; Song et al. 2021, arXiv:2011.13456, eq. (40).
    f      : (B, ...) -> (B, ...), each example by itself; x, v: (B, ...).
    Returns: (B, ...), (B,).
    """
    y, v_jacobian = vjp(f, x, v)
    return y, ops.per_example(v_jacobian * v)


def divergence(f, x):
    """f(x), and tr ∂f/∂x for each example: exact, with one backward pass for each coordinate.

    Source : Song et al. 2021, arXiv:2011.13456, eq. (39), ∇·f.
    f, x   : as for `quadratic_form`. Returns: (B, ...), (B,).
    """
    trace, size = 0.0, math.prod(x.shape[1:])
    for i in range(size):
        unit = xp_of(x).zeros((len(x), size), x.dtype)
        unit[:, i] = 1
        y, entry = quadratic_form(f, x, unit.reshape(x.shape))
        trace = trace + entry
    return y, trace


# Losses


def implicit(score_fn, x):
    """E [tr ∇s(x) + ½ ‖s(x)‖²], which is ½ E ‖s - ∇ ln p‖² less a constant.

    Source : Hyvärinen 2005, JMLR 6, theorem 1; Song & Ermon 2019, arXiv:1907.05600, eq. (1).
    x      : (B, ...) ~ p.
    """
    s, trace = divergence(score_fn, x)
    return ops.mean(trace + 0.5 * ops.per_example(s * s))


def sliced(score_fn, x, v):
    """E [vᵀ ∇s(x) v + ½ ‖s(x)‖²], E[v vᵀ] = I: `implicit` with one backward pass, whatever the dimension.

    With ½ (vᵀs)² in the second place it is the plain form: of the same mean, and more variance.
    Source : Song et al. 2019, arXiv:1905.07088, section 3 (variance reduction); Song & Ermon 2019, arXiv:1907.05600,
             eq. (3).
    x, v   : (B, ...), v of random signs or normal.
    """
    s, form = quadratic_form(score_fn, x, v)
    return ops.mean(form + 0.5 * ops.per_example(s * s))


def from_eps(eps, sigma):
    """The score of x_0 + σε: -ε/σ. Of ε itself given x_0, of its best guess ε̂ given x_0 + σε alone.

    Source : Vincent 2011, Neural Computation 23, section 4.2; Song & Ermon 2019, arXiv:1907.05600, section 4.2.
    eps    : (B, ...); sigma: a number or (B,), > 0. For a schedule's x_t: `forward.score_from_eps`.
    """
    return -eps / coef(sigma, eps)


def to_eps(score, sigma):
    """ε̂ = -σ s: see `from_eps`.

    Source : Song & Ermon 2019, arXiv:1907.05600, section 4.2, solved for the noise.
    """
    return -coef(sigma, score) * score


def denoising(score_fn, x0, sigma, eps):
    """½ E ‖s(x_0 + σε) + ε/σ‖²: the score of the *noised* data, with no derivative of s.

    It is `implicit` at x_0 + σε plus D/2σ², D coordinates.
    Source : Vincent 2011, Neural Computation 23, section 4.2 (J_DSM); Song & Ermon 2019, arXiv:1907.05600, eq. (2).
    x0, eps: (B, ...), eps ~ N(0, I); sigma: a number or (B,).
    """
    error = score_fn(x0 + coef(sigma, x0) * eps) - from_eps(eps, sigma)
    return 0.5 * ops.mean(ops.per_example(error * error))


def ncsn_loss(score_fn, x0, sigma, eps):
    """½ E σ² ‖s(x_0 + σε, σ) + ε/σ‖² = ½ E ‖ε - ε̂‖²: `denoising` at many noise levels, so weighed that each counts.

    Source : Song & Ermon 2019, arXiv:1907.05600, eqs. (5)-(6) with λ(σ) = σ².
    sigma  : (B,), drawn from the ladder (`noise_levels`); x0, eps: (B, ...), eps ~ N(0, I).
    """
    error = eps - to_eps(score_fn(x0 + coef(sigma, x0) * eps, sigma), sigma)
    return 0.5 * ops.mean(ops.per_example(error * error))


# Sampling


def noise_levels(sigma_1, sigma_L, L):
    """σ_1 > ... > σ_L, each the same share of the one before.

    Source : Song & Ermon 2019, arXiv:1907.05600, section 4.1 (theirs, section 5: 1 to 0.01 in 10).
    Returns: (L,) float64. One level is allowed where the ends agree.
    Raises : ValueError for no levels, or ends that do not fall to a positive number.
    """
    if isinstance(L, bool) or not isinstance(L, (int, np.integer)) or L < 1:
        raise ValueError(f"the number of noise levels must be a whole number, at least 1, got {L!r}")
    if not (0 < sigma_L < sigma_1 < math.inf if L > 1 else 0 < sigma_L == sigma_1 < math.inf):
        wanted = "sigma_1 > sigma_L > 0" if L > 1 else "sigma_1 = sigma_L > 0 for a single one"
        raise ValueError(f"noise levels go from large to small: {wanted}, got {sigma_1:.4g} and {sigma_L:.4g}")
    return np.geomspace(sigma_1, sigma_L, L)


def langevin_step(x, score, step, noise):
    """x + ½a s + √a z: after many small steps, a draw from the density whose score is s.

    Others write x + e s + √(2e) z, which is this with a = 2e. On N(μ, v) it settles at the variance v / (1 - a/4v), a
    little wide, and flies off where a >= 4v.
    Source : Song & Ermon 2019, arXiv:1907.05600, eq. (4); with e: Song et al. 2021, arXiv:2011.13456, eq. (2).
    x, score, noise: (B, ...); step: a, a number or (B,).
    """
    step = np.asarray(step, dtype=np.float64)
    return x + coef(step / 2, x) * score + coef(np.sqrt(step), x) * noise


def annealed_langevin(score_fn, x, levels, rng, steps_per_level=100, step=None):
    """Langevin steps at each noise level in turn, large to small: yields x after each, and the denoised x last.

        a_i = ε σ_i² / σ_L²,     last: x + σ_L² s(x, σ_L), the best guess of what is under the noise that is left

    The large levels bridge the valleys between modes; the small ones draw detail.
    Source : Song & Ermon 2019, arXiv:1907.05600, Algorithm 1; the last: Song & Ermon 2020, arXiv:2006.09011,
             Algorithm 1, and Jolicoeur-Martineau et al. 2020, arXiv:2009.05475.
    x      : (B, ...), spread at least as wide as σ_1; levels: falling (`noise_levels`); rng: of x's device.
    step   : ε, in (0, 4 σ_L²); σ_L²/5 unless given: the paper's 2e-5 at its σ_L = 0.01.
    Raises : ValueError for levels that rise, another step, or no steps.
    """
    levels = np.asarray(levels, dtype=np.float64)
    if levels.ndim != 1 or not len(levels) or levels[-1] <= 0 or np.any(np.diff(levels) >= 0):
        raise ValueError(f"noise levels must fall and stay positive, got {levels}; take noise_levels(large, small, L)")
    var = levels[-1] ** 2
    step = var / 5 if step is None else step
    if not 0 < step < 4 * var:
        raise ValueError(f"step must be in (0, 4 sigma_L^2 = {4 * var:.4g}), got {step:.4g}; a larger one diverges")
    if steps_per_level < 1:
        raise ValueError(f"steps_per_level must be at least 1, got {steps_per_level}")
    for sigma in levels.tolist():
        for _ in range(steps_per_level):
            noise = rng.standard_normal(x.shape, dtype=x.dtype)
            x = langevin_step(x, score_fn(x, sigma), step * sigma**2 / var, noise)
            yield x
    yield x + coef(sigma**2, x) * score_fn(x, sigma)
