"""The simple loss: what the network is asked to guess, when, and how the guesses are weighed.

A network may guess the noise ε, the clean data x_0, v between them, or the posterior mean μ̃; x_t being known, each
gives the others (forward.py), so the choice is one of weighting: a squared error in ε is SNR_t times that in x_0, one
in v is SNR_t + 1 times it, one in μ̃ the square of x_0's factor in it.
"""
import math
from statistics import NormalDist

import numpy as np

from . import forward
from .tensor import ops

TARGETS = ("eps", "x0", "v", "mu")


def target(schedule, x0, t, eps, kind="eps"):
    """What the network is to guess from x_t: ε, x_0, v = √ᾱ_t ε - √(1-ᾱ_t) x_0, or μ̃, q(x_{t-1} | x_t, x_0)'s mean.

    Source : Ho et al. 2020, arXiv:2006.11239, section 3.2; Salimans & Ho 2022, arXiv:2202.00512, section 4 (v).
    Raises : ValueError for another kind.
    """
    if kind == "v":
        alpha_bar = schedule.at(t)
        return forward.coef(np.sqrt(alpha_bar), x0) * eps - forward.coef(np.sqrt(1 - alpha_bar), x0) * x0
    if kind == "mu":
        return forward.q_posterior(schedule, x0, forward.q_sample(schedule, x0, t, eps), t)[0]
    if kind not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {kind!r}")
    return eps if kind == "eps" else x0


def eps_fn(predict, schedule, kind="eps", clip=False):
    """The noise estimate ε̂(x_t, t) of a network that guesses `kind`: what every sampler takes.

    Source : the conversions of forward.py; clip: Ho et al. 2020's released sampler, which keeps x̂_0 in [-1, 1].
    clip   : clip x̂_0 to [-1, 1] and derive ε̂ again from it, so that the two stay one guess (see `clip_x0`).
    """

    def eps_hat(x_t, t):
        guess = predict(x_t, t)
        if kind == "v":
            return forward.eps_from_v(schedule, x_t, t, guess)
        if kind == "mu":
            pair = schedule.alpha_bar_at(np.asarray(t) - 1), schedule.alpha_bar_at(t)
            of_x0, of_xt = (forward.coef(c, x_t) for c in forward.posterior_mean_coefs(*pair))
            guess = (guess - of_xt * x_t) / of_x0
        return guess if kind == "eps" else forward.eps_from_x0(schedule, x_t, t, guess)

    if kind not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {kind!r}")
    return clip_x0(eps_hat, schedule) if clip else eps_hat


def clip_x0(eps_fn, schedule, bound=1.0):
    """ε̂ whose x̂_0 lies in [-bound, bound]: x̂_0 is clipped and ε̂ derived again from it.

    Source : Ho et al. 2020, arXiv:2006.11239, released sampler (there without the second half, which DDIM needs).
    """

    def clipped(x_t, t):
        x0_hat = forward.x0_from_eps(schedule, x_t, t, eps_fn(x_t, t))
        return forward.eps_from_x0(schedule, x_t, t, x0_hat.clip(-bound, bound))

    return clipped


def weight(schedule, t, kind="eps", weighting="simple", gamma=5.0):
    """The factor of example t's squared error, for a network that guesses `kind`.

        simple  : 1
        min_snr : min(SNR, γ) in terms of x_0, so / SNR for ε, / (SNR + 1) for v, / (x_0's factor in μ̃)² for μ̃

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (14); Hang et al. 2023, arXiv:2303.09556, section 3.4.
    Returns: float64, of t's shape.
    Raises : ValueError for an unknown weighting or target.
    """
    if kind not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {kind!r}")
    alpha_bar = schedule.at(t)
    if weighting == "simple":
        return np.ones_like(alpha_bar)
    if weighting != "min_snr":
        raise ValueError(f"weighting must be simple or min_snr, got {weighting!r}")
    snr = alpha_bar / (1 - alpha_bar)
    of_x0, _ = forward.posterior_mean_coefs(*schedule.pair(t))
    return np.minimum(snr, gamma) / {"eps": snr, "x0": 1.0, "v": snr + 1, "mu": of_x0**2}[kind]


def l_simple(predict, schedule, x0, t, eps, kind="eps", weighting="simple"):
    """L_simple = E w_t ‖target - f(√ᾱ_t x_0 + √(1-ᾱ_t) ε, t)‖², the mean over examples and coordinates.

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (14).
    predict: f(x_t, t), a network with its parameters; t: (B,) ints in 1..T; x0, eps: (B, ...).
    The noise comes as a value, so the loss is a function that can be differentiated, checked and repeated.
    """
    error = target(schedule, x0, t, eps, kind) - predict(forward.q_sample(schedule, x0, t, eps), t)
    return ops.mean(forward.coef(weight(schedule, t, kind, weighting), x0) * (error * error))


def even_uniforms(rng, batch):
    """(batch,) numbers, each uniform in [0, 1), one from each of `batch` equal parts of it, in random order.

    Each alone is as random as ever, so a loss has the same mean as with independent ones, and less variance: a batch
    always has some of the easy and some of the hard times.
    Source : Kingma et al. 2021, arXiv:2107.00630, appendix I.1 (low-discrepancy sampler; theirs has one random offset).
    rng    : a NumPy generator. Returns float64.
    """
    return (rng.permutation(batch) + rng.random(batch)) / batch


def draw_times(rng, batch, T):
    """(batch,) times in 1..T, each as likely as every other, spread evenly (`even_uniforms`).

    Source : Ho et al. 2020, arXiv:2006.11239, Algorithm 1 (t uniform).
    Returns: int64.
    """
    return np.minimum(np.floor(even_uniforms(rng, batch) * T).astype(np.int64) + 1, T)


def draw_likely_times(rng, batch, p):
    """(batch,) times, each t with probability p_t, one from each of `batch` equal parts of p's mass, in random order.

    Source : Kingma et al. 2021, arXiv:2107.00630, appendix I.1 (low-discrepancy sampler), through the inverse of Σ p.
    p      : (T+1,), p_0 = 0; rng: a NumPy generator. Returns int64.
    """
    u = even_uniforms(rng, batch)
    return np.minimum(np.searchsorted(np.cumsum(p), u, side="right"), len(p) - 1)


def log_normal_noise(schedule, mean, std):
    """p_t, (T+1,), by which t is the first as noisy as a σ drawn from ln σ ~ N(mean, std²), σ_t = √(1-ᾱ_t) / √ᾱ_t.

        p_t = Φ((ln σ_t - mean) / std) - Φ((ln σ_{t-1} - mean) / std),     p_T takes what is left

    L_simple at such times is L_simple weighted by T p_t: the network learns most where noise is near e^mean.
    Source : Karras et al. 2022, arXiv:2206.00364, table 1 (noise distribution; there σ is real, mean -1.2, std 1.2).
    Raises : ValueError unless mean is finite and std more than 0.
    """
    if not (0 < std < math.inf and math.isfinite(mean)):
        raise ValueError(f"ln sigma wants a finite mean and a std more than 0, got {mean} and {std}")
    ln_sigma = -0.5 * np.log(schedule.snr[1:-1])
    below = [NormalDist(mean, std).cdf(level) for level in ln_sigma]
    return np.diff(below, prepend=[0, 0], append=1)
