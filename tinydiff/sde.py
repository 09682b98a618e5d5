"""Continuous time: the forward process as a stochastic differential equation, and its two ways back.

    dx = f(u) x du + g(u) dw,     x_u = a(u) x_0 + b(u) ε,     a' = f a,     (b²)' = 2 f b² + g²

A process is a and b, with the f and g that they come from. All that it can ask of a model is the score ∇ ln p_u(x), and
two processes ask the same question whenever their b/a agree: they show the same picture at another brightness. So
`match` lets any process run on a network that was trained for another, a DDPM's included (`Chain`).

Time u is real and rises from data to noise, 0 to 1 but for EDM and Chain. Numbers that depend on u alone are float64.
"""
import dataclasses
import math

import numpy as np

from . import gaussian, score
from .forward import coef
from .schedule import Schedule
from .tensor import ops

# Processes: a, b, f, g², and where b/a has a given value


@dataclasses.dataclass(frozen=True)
class VP:
    """Variance preserving: DDPM's chain, its steps made infinitely many. β(u) = β_min + u (β_max - β_min).

        a² = e^-B,   b² = 1 - e^-B,   B(u) = ∫ β,   f = -β/2,   g² = β

    Source : Song et al. 2021, arXiv:2011.13456, eqs. (11) and (29), β as in its appendix C.
    It ends at a² = e^-10.05, 7 % above the chain of 1000 steps with β_1 .. β_T = 1e-4 .. 0.02: close, not equal.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    end = 1.0
    prior_std = 1.0

    def __post_init__(self):
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(f"need 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}; usual: 0.1, 20")

    def beta(self, u):
        return self.beta_min + u * (self.beta_max - self.beta_min)

    def total(self, u):
        """B(u) = ∫_0^u β."""
        return u * (self.beta_min + u * (self.beta_max - self.beta_min) / 2)

    def signal(self, u):
        return np.exp(-self.total(u) / 2)

    def noise(self, u):
        return np.sqrt(-np.expm1(-self.total(u)))

    def drift(self, u):
        return -self.beta(u) / 2

    def diffusion_sq(self, u):
        return self.beta(u)

    def time_of(self, ratio):
        return self._time_of_total(np.log1p(np.square(ratio)))

    def _time_of_total(self, total):
        rise = self.beta_max - self.beta_min
        return 2 * total / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * rise * total))


@dataclasses.dataclass(frozen=True)
class SubVP(VP):
    """Of the same a as VP, but never more variance: b = 1 - e^-B, the square of VP's; g² = β (1 - e^-2B).

    Source : Song et al. 2021, arXiv:2011.13456, eqs. (12) and (29).
    """

    def noise(self, u):
        return -np.expm1(-self.total(u))

    def diffusion_sq(self, u):
        return -self.beta(u) * np.expm1(-2 * self.total(u))

    def time_of(self, ratio):
        return self._time_of_total(2 * np.arcsinh(np.asarray(ratio) / 2))


@dataclasses.dataclass(frozen=True)
class VE:
    """Variance exploding: NCSN's ladder, its rungs made infinitely many. σ(u) = σ_min (σ_max/σ_min)^u.

        a = 1,   b² = σ²(u) - σ²(0),   f = 0,   g² = dσ²/du = 2 σ² ln(σ_max/σ_min)

    Source : Song et al. 2021, arXiv:2011.13456, eqs. (9), (29), (30). Its (31) has b² = σ²(u): there σ(0) = 0, and σ
             jumps to σ_min at once, which no f and g can do.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    end = 1.0

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def prior_std(self):
        return float(self.noise(self.end))

    @property
    def _log_range(self):
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, u):
        return self.sigma_min * np.exp(self._log_range * u)

    def signal(self, u):
        return np.ones_like(u, dtype=np.float64)

    def noise(self, u):
        return self.sigma_min * np.sqrt(np.expm1(2 * self._log_range * u))

    def drift(self, u):
        return np.zeros_like(u, dtype=np.float64)

    def diffusion_sq(self, u):
        return 2 * self._log_range * self.sigma(u) ** 2

    def time_of(self, ratio):
        return np.log1p(np.square(ratio / self.sigma_min)) / (2 * self._log_range)


@dataclasses.dataclass(frozen=True)
class EDM:
    """Time is the noise itself: a = 1, b = u, f = 0, g² = 2u, u from 0 to σ_max. Its flow is straight for one point.

    Source : Karras et al. 2022, arXiv:2206.00364, section 3 (σ(t) = t, s(t) = 1). DDIM is Euler's method here.
    """

    sigma_max: float = 80.0

    def __post_init__(self):
        if not 0 < self.sigma_max < math.inf:
            raise ValueError(f"sigma_max must be above 0, got {self.sigma_max}; 80 is usual")

    @property
    def end(self):
        return self.sigma_max

    @property
    def prior_std(self):
        return self.sigma_max

    def signal(self, u):
        return np.ones_like(u, dtype=np.float64)

    def noise(self, u):
        return np.asarray(u, dtype=np.float64)

    def drift(self, u):
        return np.zeros_like(u, dtype=np.float64)

    def diffusion_sq(self, u):
        return 2 * np.asarray(u, dtype=np.float64)

    def time_of(self, ratio):
        return np.asarray(ratio, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A DDPM schedule seen as a process, its time the real t in [0, T]: a² = ᾱ(t), b² = 1-ᾱ(t).

    It has no f and g: a chain of steps is not an SDE. Give its network to a process that is (`match`).
    Source : Ho et al. 2020, arXiv:2006.11239, eq. (4).
    """

    schedule: Schedule
    prior_std = 1.0

    @property
    def end(self):
        return float(self.schedule.T)

    def signal(self, t):
        return np.sqrt(self.schedule.alpha_bar_at(t))

    def noise(self, t):
        return np.sqrt(1 - self.schedule.alpha_bar_at(t))

    def time_of(self, ratio):
        return self.schedule.time_of(1 / (1 + np.square(ratio)))


PROCESSES = {"vp": VP, "subvp": SubVP, "ve": VE}


def ratio(process, u):
    """σ = b/a, the noise beside the signal: what a process and a model have to agree on. λ = -ln σ is half the log-SNR.

    Source : Kingma et al. 2021, arXiv:2107.00630, eq. (2): SNR = a²/b².
    """
    return process.noise(u) / process.signal(u)


def discretise(process, N):
    """The DDPM chain that VP becomes with N steps: β_i = β(i/N)/N.

    Source : Song et al. 2021, arXiv:2011.13456, eqs. (10)-(11) and appendix B: β̄_i = N β_i. NCSN's ladder is VE's σ(u).
    Raises : ValueError where a β leaves (0, 1): too few steps; for another process, which is no such chain.
    """
    if type(process) is not VP:
        raise ValueError(f"only VP is the limit of a DDPM chain, got {process}")
    return Schedule([process.beta(i / N) / N for i in range(1, N + 1)], f"VP in {N} steps")


# Noise, and how to learn its score


def q_sample(process, x0, u, eps):
    """x_u = a(u) x_0 + b(u) ε.

    Source : Song et al. 2021, arXiv:2011.13456, eq. (29).
    x0, eps: (B, ...); u: one number or (B,).
    """
    return coef(process.signal(u), x0) * x0 + coef(process.noise(u), x0) * eps


def score_from_eps(process, eps_fn):
    """score_fn(x, u) = -ε̂(x, u)/b(u), of a network that guesses the noise.

    Source : Song et al. 2021, arXiv:2011.13456, eq. (7) with (29): its minimiser is -E[ε | x_u]/b.
    """

    def score_fn(x, u):
        eps_hat = eps_fn(x, u)
        return -eps_hat / coef(process.noise(u), x)

    return score_fn


def loss(eps_fn, process, x0, u, eps):
    """½ E λ(u) ‖s(x_u, u) + ε/b‖² with λ = b²: ½ E ‖ε - ε̂‖² summed over coordinates, mean over examples.

    Source : Song et al. 2021, arXiv:2011.13456, eq. (7), λ as in its section 3.3; u is drawn evenly by the caller.
    """
    error = eps_fn(q_sample(process, x0, u, eps), u) - eps
    return 0.5 * ops.sum(error * error) / x0.shape[0]


def match(eps_fn, source, target):
    """ε̂ for process `target` from a network that was trained for process `source`.

        ε̂_target(x, u) = ε̂_source(x a_source(u')/a_target(u), u'),   b/a of the source at u' that of the target at u

    Source : x = a (x_0 + σ ε): Karras et al. 2022, arXiv:2206.00364, eq. (20) and appendix C.
    """

    def eps_hat(x, u):
        there = source.time_of(ratio(target, u))
        return eps_fn(coef(source.signal(there) / target.signal(u), x) * x, there)

    return eps_hat


# The two ways back


def reverse_drift(process, score_fn):
    """Anderson's reverse SDE: dx = [f x - g² ∇ ln p_u(x)] du + g dw̄, u falling: its drift(x, u).

    Source : Anderson 1982, Reverse-time diffusion equation models; Song et al. 2021, arXiv:2011.13456, eq. (6).
    """

    def drift(x, u):
        return coef(process.drift(u), x) * x - coef(process.diffusion_sq(u), x) * score_fn(x, u)

    return drift


def probability_flow(process, score_fn):
    """The ODE with the same marginals: dx/du = f x - ½ g² ∇ ln p_u(x): its velocity(x, u).

    Source : Song et al. 2021, arXiv:2011.13456, eq. (13).
    """

    def velocity(x, u):
        return coef(process.drift(u), x) * x - coef(process.diffusion_sq(u) / 2, x) * score_fn(x, u)

    return velocity


def denoise(process, eps_fn, x, u):
    """x̂_0 = (x - b ε̂)/a = E[x_0 | x_u]: the last jump, from the smallest u that a network has seen.

    Source : Efron 2011, Tweedie's formula and selection bias, eq. (1.4); DDIM's last step is this one.
    """
    return (x - coef(process.noise(u), x) * eps_fn(x, u)) / coef(process.signal(u), x)


# Likelihood


def with_divergence(velocity, shape, probes=None):
    """The flow of (x, ℓ): dx/du = v, dℓ/du = div v, packed as (B, D+1), so that every solver takes it.

    Source : Chen et al. 2018, arXiv:1806.07366, eq. (8); Song et al. 2021, arXiv:2011.13456, eqs. (38)-(40).
    shape  : of one example. probes: None for the exact divergence, D backward passes; or (B, *shape), E[v vᵀ] = I, one
             pass: Hutchinson's estimator. The probes stay as they are along the whole path: the flow is smooth.
    """

    def flow(y, u):
        x = y[:, :-1].reshape(-1, *shape)
        if probes is None:
            v, div = score.divergence(lambda x: velocity(x, u), x)
        else:
            v, div = score.quadratic_form(lambda x: velocity(x, u), x, probes)
        return ops.concatenate([v.reshape(len(y), -1), div.reshape(-1, 1)])

    return flow


def log_likelihood(velocity, x, times, solve, log_prior, probes=None):
    """ln p_0(x) = ln p_1(x_1) + ∫ div v du, by the flow that carries x to x_1: yields (x_u, ln p) after each step.

    The last is the answer, (B,) nats: before it, ln p is that of a flow which ended there, with the same `log_prior`.
    Source : Song et al. 2021, arXiv:2011.13456, eq. (39).
    x      : (B, ...), taken as a sample at times[0]; times rise. solve: of solver.py; probes: see `with_divergence`.
    log_prior: x -> (B,) nats, the density at the end; `standard` is the usual one.
    """
    flat = x.reshape(len(x), -1)
    start = ops.concatenate([flat, flat[:, :1] * 0])
    for y in solve(with_divergence(velocity, x.shape[1:], probes), start, times):
        x_u = y[:, :-1].reshape(x.shape)
        yield x_u, log_prior(x_u) + y[:, -1]


def standard(process):
    """ln N(x; 0, prior_std² I), (B,) nats: the density that sampling starts from.

    Source : Song et al. 2021, arXiv:2011.13456, section 3.1 (p_T), appendix B (VP, sub-VP: N(0, I)), section 2.1 (VE).
    """
    return lambda x: ops.per_example(gaussian.log_density(x, 0.0, process.prior_std**2))
