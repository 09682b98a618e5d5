"""From noise to data: DDPM's ancestral sampler, DDIM, and DDIM run backwards.

A sampler takes any `eps_fn(x_t, t) -> ε̂` (a network, an exact denoiser, a guided one), starts from x_T ~ N(0, I) and
is a generator: it yields x_s after each step, so `*_, x0 = sample_ddim(...)` keeps the last, a film all of them.
A step goes from t to any s < t; the schedule at the visited times is all that it needs.
"""
import numpy as np

from . import forward
from .forward import coef

# Times


def timesteps(T, steps=None):
    """The times that a sampler visits: [T, ..., 0], `steps` steps, as even as whole numbers allow.

    Source : Song, Meng & Ermon 2020, arXiv:2010.02502, section 4.2 and appendix D.2 (the linear sub-sequence τ).
    steps  : a number of steps, 1..T (T unless given), or the times themselves, rising, within 1..T, T among them.
    Raises : ValueError for anything else.
    """
    if steps is None:
        steps = T
    if isinstance(steps, (int, np.integer)):
        if not 1 <= steps <= T:
            raise ValueError(f"steps must be in 1..{T} (the schedule's T), got {steps}")
        return [int(t) for t in np.round(np.linspace(T, 0, steps + 1))]
    times = [int(t) for t in steps]
    if not times or times != sorted(set(times)) or times[0] < 1 or times[-1] != T:
        raise ValueError(f"the times of a sampler must rise within 1..{T} and end at {T}, got {times[:8]}")
    return [*reversed(times), 0]


# DDPM


def reverse_var(alpha_bar_s, alpha_bar_t, v=1.0):
    """Variance of a reverse step between the bounds: β^v β̃^(1-v), i.e. exp(v ln β + (1-v) ln β̃).

    v = 1 is β = 1-α_{t|s}, right for data N(0, I); v = 0 is β̃, right for a single point. At s = 0, β̃ = 0 and so is
    the variance for every v < 1.
    Source : Ho et al. 2020, arXiv:2006.11239, section 3.2; Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (15).
    """
    beta, beta_tilde = forward.step_var(alpha_bar_s, alpha_bar_t), forward.posterior_var(alpha_bar_s, alpha_bar_t)
    return beta**v * beta_tilde ** (1 - v)


def ddpm_step(schedule, x_t, t, s, eps_hat, v=1.0, noise=None):
    """x_s = μ̃(x_t, x̂_0) + σ z, x̂_0 from ε̂: one ancestral step from t to s < t.

    Source : Ho et al. 2020, arXiv:2006.11239, Algorithm 2 and eq. (11), there with s = t-1; σ²: `reverse_var`.
    x_t, eps_hat, noise: (B, ...); noise None returns the mean.
    t, s   : int or (B,) ints, 0 <= s < t <= T.
    """
    x0_hat = forward.x0_from_eps(schedule, x_t, t, eps_hat)
    mean, _ = forward.q_posterior(schedule, x0_hat, x_t, t, s)
    if noise is None:
        return mean
    return mean + coef(np.sqrt(reverse_var(*schedule.pair(t, s), v)), x_t) * noise


def sample_ddpm(eps_fn, schedule, x_T, rng, steps=None, v=1.0, final_noise=False):
    """Ancestral sampling: yields x_s for each visited time s, x_0 last.

    Source : Ho et al. 2020, arXiv:2006.11239, Algorithm 2: the last step returns its mean (z = 0 at t = 1).
    x_T    : (B, ...) ~ N(0, I); rng: a generator of x_T's device; steps: see `timesteps`.
    v      : 1 for σ² = β, 0 for β̃, or between (`reverse_var`).
    final_noise: draw x_0 ~ p(x_0 | x_1) instead: what the laws about the whole chain are about.
    """
    times = timesteps(schedule.T, steps)
    x = x_T
    for t, s in zip(times, times[1:], strict=False):
        noise = rng.standard_normal(x.shape, dtype=x.dtype) if s > 0 or final_noise else None
        x = ddpm_step(schedule, x, t, s, eps_fn(x, t), v, noise)
        yield x


# DDIM


def ddim_sigma(alpha_bar_s, alpha_bar_t, eta):
    """σ = η √((1-ᾱ_s)/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_s): η = 0 is DDIM, η = 1 makes σ² = β̃.

    Source : Song, Meng & Ermon 2020, arXiv:2010.02502, eq. (16); its α is this ᾱ.
    """
    return eta * np.sqrt(forward.posterior_var(alpha_bar_s, alpha_bar_t))


def ddim_step(schedule, x_t, t, s, eps_hat, eta=0.0, noise=None):
    """x_s = √ᾱ_s x̂_0 + √(1-ᾱ_s-σ²) ε̂ + σ z: one step of the family that keeps every q(x_s | x_0).

    Source : Song, Meng & Ermon 2020, arXiv:2010.02502, eq. (12).
    x_t, eps_hat, noise: (B, ...); noise None leaves σ z out. t, s: int or (B,) ints, 0 <= s < t <= T.
    Raises : ValueError for η outside [0, 1]: beyond 1, nothing promises that 1-ᾱ_s-σ² stays positive.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}; 0 is DDIM, 1 adds the noise of DDPM")
    ab_s, ab_t = schedule.pair(t, s)
    sigma = ddim_sigma(ab_s, ab_t, eta)
    # 1-ᾱ_s-σ² with 1-ᾱ_s taken out, so that rounding cannot make it negative
    direction = np.sqrt((1 - ab_s) * (1 - eta**2 * forward.step_var(ab_s, ab_t) / (1 - ab_t)))
    x0_hat = forward.x0_from_eps(schedule, x_t, t, eps_hat)
    x_s = coef(np.sqrt(ab_s), x_t) * x0_hat + coef(direction, x_t) * eps_hat
    return x_s if noise is None else x_s + coef(sigma, x_t) * noise


def sample_ddim(eps_fn, schedule, x_T, rng=None, steps=None, eta=0.0):
    """DDIM: yields x_s for each visited time s, x_0 last. With η = 0 nothing is drawn: x_T decides the sample.

    Source : Song, Meng & Ermon 2020, arXiv:2010.02502, eq. (12) over a sub-sequence (section 4.2).
    x_T    : (B, ...) ~ N(0, I); rng: needed where η > 0; steps: see `timesteps`.
    """
    if eta > 0 and rng is None:
        raise ValueError("eta > 0 draws noise: give an rng")
    times = timesteps(schedule.T, steps)
    x = x_T
    for t, s in zip(times, times[1:], strict=False):
        noise = rng.standard_normal(x.shape, dtype=x.dtype) if eta > 0 and s > 0 else None
        x = ddim_step(schedule, x, t, s, eps_fn(x, t), eta, noise)
        yield x


def ddim_invert_step(schedule, x_s, s, t, eps_hat):
    """x_t from x_s, s < t: √ᾱ_t x̂_0 + √(1-ᾱ_t) ε̂, the DDIM step the other way, ε̂ still guessed at x_s.

    Source : Song, Meng & Ermon 2020, arXiv:2010.02502, eq. (14), Euler's step of its ODE in the encoding direction.
    """
    ab_s, ab_t = schedule.pair(t, s)
    x0_hat = (x_s - coef(np.sqrt(1 - ab_s), x_s) * eps_hat) / coef(np.sqrt(ab_s), x_s)
    return coef(np.sqrt(ab_t), x_s) * x0_hat + coef(np.sqrt(1 - ab_t), x_s) * eps_hat


def invert_ddim(eps_fn, schedule, x0, steps=None):
    """DDIM inversion: yields x_t for each visited time, x_T last, which `sample_ddim` takes back to nearly x_0.

    As an ODE it is exact; each finite step errs at second order, so the round trip errs at first order in 1/steps.
    The clean data have no noise level that a network has seen, so the first guess is made as at t = 1.
    Source : Song, Meng & Ermon 2020, arXiv:2010.02502, section 5.4 (reconstruction from latents).
    """
    times = timesteps(schedule.T, steps)[::-1]
    x = x0
    for s, t in zip(times, times[1:], strict=False):
        x = ddim_invert_step(schedule, x, s, t, eps_fn(x, max(s, 1)))
        yield x
