"""Numerical ways along the flow and the reverse SDE: each is a generator over `times`, and yields x after each step.

    for x in heun(velocity, x, times): ...          times rise (encoding) or fall (sampling)

Euler's, Heun's and the classical Runge-Kutta method know only dx/du = v(x, u). Euler-Maruyama and the
predictor-corrector walk the reverse SDE. DPM-Solver++ solves the linear part of the flow exactly.

A model of ε says nothing where there is no noise: keep its times above 0, and let `sde.denoise` make the last jump.
"""
import math
from itertools import pairwise

import numpy as np

from . import score, sde
from .forward import coef
from .tensor import ops

# Times


def uniform(start, stop, n):
    """n even steps: n+1 times.

    Source : arithmetic. Raises ValueError unless n >= 1 and the ends differ.
    """
    _steps(n)
    if start == stop:
        raise ValueError(f"a path needs two ends, got {start} twice")
    return [float(u) for u in np.linspace(start, stop, n + 1)]


def edm_sigmas(sigma_min, sigma_max, n, rho=7.0):
    """σ_max = σ_0 > ... > σ_n = σ_min, even in σ^(1/ρ): steps grow with σ.

        σ_i = (σ_max^(1/ρ) + i/n (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ

    Source : Karras et al. 2022, arXiv:2206.00364, eq. (5), whose N is this n+1; `sde.denoise` is its step to σ_N = 0.
    Raises : ValueError unless 0 < sigma_min < sigma_max, n >= 1, ρ > 0.
    """
    _steps(n)
    if not (0 < sigma_min < sigma_max < math.inf and 0 < rho < math.inf):
        raise ValueError(f"need 0 < sigma_min < sigma_max and rho > 0, got {sigma_min}, {sigma_max}, {rho}")
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n + 1)
    return [sigma_max, *(float(r**rho) for r in roots[1:-1]), sigma_min]


def uniform_in_lambda(process, start, stop, n):
    """Times from start to stop, even in λ = ln(a/b), half the log signal-to-noise ratio.

    Source : Lu et al. 2022, arXiv:2206.00927 (λ_t) and its released code, "logSNR", for small images; for large ones
             that advises steps even in u.
    Raises : ValueError where λ is infinite: at an end without noise, u = 0.
    """
    if not (sde.ratio(process, start) > 0 and sde.ratio(process, stop) > 0):
        raise ValueError(f"both ends need noise, got u = {start} and {stop}; stop above 0, sde.denoise does the rest")
    first, last = (math.log(sde.ratio(process, u)) for u in (start, stop))
    inner = [float(process.time_of(math.exp(s))) for s in uniform(first, last, n)[1:-1]]
    return [start, *inner, stop]


def _steps(n):
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"steps must be a whole number, at least 1, got {n!r}")


def _pairs(times, falling=False):
    """(u, w) of each step, as Python's floats: NumPy's would turn single precision into double."""
    times = [float(u) for u in times]
    if falling and any(u <= w for u, w in pairwise(times)):
        raise ValueError(f"the reverse SDE goes from noise to data: times must fall, got {times[:4]} ...")
    return pairwise(times)


# The flow


def euler(velocity, x, times):
    """x + h v(x, u): order 1.

    Source : Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, section II.1.
    """
    for u, w in _pairs(times):
        x = x + (w - u) * velocity(x, u)
        yield x


def heun(velocity, x, times):
    """Euler's step, then again with the mean of the slopes at its two ends: order 2, two evaluations a step.

    Source : Karras et al. 2022, arXiv:2206.00364, Algorithm 1; on sde.EDM over `edm_sigmas` it is that algorithm.
    """
    for u, w in _pairs(times):
        slope = velocity(x, u)
        guess = x + (w - u) * slope
        x = x + (w - u) / 2 * (slope + velocity(guess, w))
        yield x


def rk4(velocity, x, times):
    """The classical Runge-Kutta method: order 4, four evaluations a step.

    Source : Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, table II.1.2.
    """
    for u, w in _pairs(times):
        h, middle = w - u, (u + w) / 2
        k1 = velocity(x, u)
        k2 = velocity(x + h / 2 * k1, middle)
        k3 = velocity(x + h / 2 * k2, middle)
        k4 = velocity(x + h * k3, w)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        yield x


def dpmpp_2m(process, eps_fn, x, times):
    """DPM-Solver++(2M): x̂_0 is extrapolated from the last two guesses; all else is solved exactly. Order 2 in λ.

        h = λ_w - λ_u,   r = (previous h)/h,   D = x̂_0 + (x̂_0 - previous x̂_0)/(2r)
        x_w = (b_w/b_u) x_u - a_w (e^-h - 1) D

    One evaluation a step; the first step has no previous guess and is DDIM's.
    Source : Lu et al. 2022, arXiv:2211.01095, Algorithm 2.
    """
    before, h_before = None, None
    for u, w in _pairs(times):
        h = math.log(sde.ratio(process, u) / sde.ratio(process, w))
        x0_hat = sde.denoise(process, eps_fn, x, u)
        D = x0_hat if before is None else x0_hat + coef(h / (2 * h_before), x) * (x0_hat - before)
        x = coef(process.noise(w) / process.noise(u), x) * x - coef(process.signal(w) * math.expm1(-h), x) * D
        before, h_before = x0_hat, h
        yield x


# The reverse SDE


def euler_maruyama(process, score_fn, x, times, rng):
    """x + h [f x - g² s] + g √|h| z, times falling, h < 0: order 1 in distribution.

    Source : Song et al. 2021, arXiv:2011.13456, section 4.1 and eq. (6); Kloeden & Platen 1992, section 10.2.
    """
    drift = sde.reverse_drift(process, score_fn)
    for u, w in _pairs(times, falling=True):
        noise = rng.standard_normal(x.shape, dtype=x.dtype)
        x = x + (w - u) * drift(x, u) + coef(np.sqrt(process.diffusion_sq(u) * (u - w)), x) * noise
        yield x


def predictor_corrector(process, score_fn, x, times, rng, snr=0.16, corrections=1):
    """A step of Euler-Maruyama, then `corrections` steps of Langevin dynamics at the new time, which mend its error.

        x + e s + √(2e) z,   e = 2 (snr ‖z‖/‖s‖)², the norms' means over the batch

    Source : Song et al. 2021, arXiv:2011.13456, Algorithm 1; the corrector: its Algorithm 4, for VP too: Algorithm 5
             has e times α_i, a chain's, which is 1 for short steps.
    snr    : size of a corrector's step; 0.16 is the paper's for VE images (appendix H.1).
    """
    if not (snr > 0 and corrections >= 0):
        raise ValueError(f"snr must be above 0 and corrections at least 0, got {snr} and {corrections}")
    for u, w in _pairs(times, falling=True):
        (x,) = euler_maruyama(process, score_fn, x, (u, w), rng)
        for _ in range(corrections):
            s, noise = score_fn(x, w), rng.standard_normal(x.shape, dtype=x.dtype)
            if not _mean_norm(s) > 0:
                raise ValueError("the corrector's step is measured by the score, which is 0 or not finite: train first")
            e = 2 * (snr * _mean_norm(noise) / _mean_norm(s)) ** 2
            x = score.langevin_step(x, s, 2 * e, noise)
        yield x


def _mean_norm(x):
    return float((ops.per_example(x * x) ** 0.5).mean())
