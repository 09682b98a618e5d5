"""The noise schedule: how much noise each step adds, and how much signal is left after t of them.

    q(x_t | x_{t-1}) = N(x_t; √(1-β_t) x_{t-1}, β_t I),     α_t = 1-β_t,     ᾱ_t = α_1 α_2 ⋯ α_t

Tables have T+1 entries, indexed by t itself: β_0 = 0 and ᾱ_0 = 1, so that t = 0 is the clean data and no formula needs
a case for it. They are float64 and stay so; `forward.coef` casts, once, where they meet the data.

β rises with t (1e-4 to 0.02 in DDPM) and falls only along the reverse path.
"""
import math

import numpy as np

from . import gaussian


class Schedule:
    """A schedule, from its betas.

        α = 1-β,  ᾱ = Π α,  SNR = ᾱ / (1-ᾱ)

    Source : Ho et al. 2020, arXiv:2006.11239, section 2; SNR: Kingma et al. 2021, arXiv:2107.00630, eq. (2).
    betas  : β_1 .. β_T, each in (0, 1): numbers, or Fractions, which stay exact.
    Raises : ValueError for no betas, or one outside (0, 1).
    """

    def __init__(self, betas, name="custom", interpolate=None):
        betas = np.asarray(betas)
        if betas.ndim != 1 or not len(betas):
            raise ValueError(f"a schedule needs a list of at least one beta, got shape {betas.shape}; T must be >= 1")
        if betas.dtype != object:
            betas = betas.astype(np.float64)
        wrong = [t for t, beta in enumerate(betas, 1) if not 0 < beta < 1]
        if wrong:
            t = wrong[0]
            raise ValueError(f"beta must lie in (0, 1), got beta_{t} = {betas[t - 1]:.4g}; take more steps")
        self.name, self.T = name, len(betas)
        self.beta = np.concatenate([betas[:1] * 0, betas])
        self.alpha = 1 - self.beta
        self.alpha_bar = np.cumprod(self.alpha)
        if self.alpha_bar[1] == 1 or self.alpha_bar[-1] == 0:
            raise ValueError("betas so small or so many that alpha_bar rounds to 1 or to 0; take others or fewer steps")
        self._interpolate = interpolate or (lambda n, f: self.alpha[n + 1] ** f)

    @property
    def snr(self):
        """SNR_t = ᾱ_t / (1-ᾱ_t): infinite at t = 0."""
        return np.divide(self.alpha_bar, 1 - self.alpha_bar, out=np.full(self.T + 1, np.inf), where=self.alpha_bar < 1)

    @property
    def signal_scale(self):
        """√ᾱ_t."""
        return np.sqrt(self.alpha_bar)

    @property
    def noise_scale(self):
        """√(1-ᾱ_t)."""
        return np.sqrt(1 - self.alpha_bar)

    def at(self, t, lowest=1):
        """ᾱ_t for t, an int or (B,) ints in lowest..T. Raises ValueError for any other t."""
        t = np.asarray(t)
        if t.dtype.kind not in "iu":
            raise ValueError(f"t must be a whole number, got {t.dtype}; alpha_bar_at takes real t")
        outside = t[(t < lowest) | (t > self.T)]
        if outside.size:
            clean = "; t = 0 is the clean data" if outside[0] == 0 else ""
            raise ValueError(f"t must be in {lowest}..{self.T}, got {outside[0]}{clean}")
        return self.alpha_bar[t]

    def first(self, t):
        """The schedule of the first t steps: the same tables, up to t.

        Source : definition; q(x_1..x_t | x_0) knows nothing of what comes after.
        Raises : ValueError for t outside 1..T.
        """
        self.at(t)
        return Schedule(self.beta[1 : t + 1], self.name, self._interpolate)

    def pair(self, t, s=None):
        """(ᾱ_s, ᾱ_t) of a reverse step from t to s, s = t-1 unless given. Raises ValueError unless 0 <= s < t <= T."""
        s = np.asarray(t) - 1 if s is None else s
        if np.any(np.asarray(s) >= t):
            raise ValueError(f"a reverse step goes from t to a smaller s, got t = {t}, s = {s}")
        return self.at(s, lowest=0), self.at(t)

    def alpha_bar_at(self, t):
        """ᾱ(t) for real t in [0, T], the table's value at whole t.

        Between n and n+1 it is ᾱ_n times the closed form's own ratio, so the table and the curve cannot part. A
        schedule that has no closed form spreads each step's noise evenly over it: ᾱ(n+f) = ᾱ_n α_{n+1}^f.
        Source : the closed forms of `linear`, `cosine` and `constant`.
        Raises : ValueError outside [0, T].
        """
        t = np.asarray(t, dtype=np.float64)
        if not np.all((t >= 0) & (t <= self.T)):
            raise ValueError(f"t must be in [0, {self.T}], got {t.min():.4g}..{t.max():.4g}")
        n = np.minimum(np.floor(t).astype(int), self.T - 1)
        return self.alpha_bar[n] * np.vectorize(self._interpolate, otypes=[float])(n, t - n)

    def time_of(self, alpha_bar):
        """The real t in [0, T] at which ᾱ(t) = alpha_bar: the inverse of `alpha_bar_at`, by bisection.

        Source : definition; discrete and continuous models are matched by ᾱ.
        Raises : ValueError for an alpha_bar outside [ᾱ_T, 1].
        """
        alpha_bar = np.asarray(alpha_bar, dtype=np.float64)
        if not np.all((alpha_bar >= self.alpha_bar[-1] * (1 - 1e-12)) & (alpha_bar <= 1)):  # it may have been rounded
            reached = f"[{self.alpha_bar[-1]:.4g}, 1]"
            raise ValueError(f"alpha_bar must be in {reached}, got {alpha_bar.min():.4g}..{alpha_bar.max():.4g}")
        return np.vectorize(self._time_of, otypes=[float])(alpha_bar)

    def _time_of(self, alpha_bar):
        n = min(int(np.searchsorted(-self.alpha_bar, -alpha_bar)), self.T) - 1  # ᾱ_n > alpha_bar >= ᾱ_{n+1}
        if n < 0:
            return 0.0
        low, high, share = 0.0, 1.0, alpha_bar / self.alpha_bar[n]
        for _ in range(54):  # to the last digit
            middle = (low + high) / 2
            low, high = (middle, high) if self._interpolate(n, middle) > share else (low, middle)
        return n + high

    def __repr__(self):
        return f"<{self.name} schedule, T = {self.T}, alpha_bar_T = {float(self.alpha_bar[-1]):.3g}>"


def linear(T, beta_1=1e-4, beta_T=0.02):
    """β from beta_1 to beta_T in equal steps, times 1000/T: the same total noise at every T.

        β_t = (1000/T) [β_1 + (β_T - β_1) (t-1)/(T-1)]

    With b > 0 the step of β and z = (1-β_{n+1})/b + 1, ᾱ_n = b^n Γ(z_0) / Γ(z_0 - n) is a closed form for real t too.
    Source : Ho et al. 2020, arXiv:2006.11239, section 4 (T = 1000).
    Raises : ValueError for T < 1, or where the scaled β leave (0, 1): T <= 20 with the default betas.
    """
    betas = _whole(T) and _rising(beta_1, beta_T, T) * (1000 / T)
    b = (betas[-1] - betas[0]) / max(T - 1, 1)

    def interpolate(n, f):
        if b <= 0:
            return (1 - betas[n]) ** f
        return math.exp(f * math.log(b) + _log_gamma_ratio((1 - betas[n]) / b + 1, f))

    return Schedule(betas, "linear", interpolate)


def _rising(first, last, T):
    """T even steps that end at `last` exactly; one step is the last."""
    return np.linspace(last, first, T)[::-1]


def _log_gamma_ratio(z, f):
    """ln Γ(z) - ln Γ(z-f), 0 <= f <= 1: for large z by Stirling's series, whose difference does not cancel."""
    if z < 100:
        return math.lgamma(z) - math.lgamma(z - f)
    y = z - f
    tail = (1 / z - 1 / y) / 12 - (z**-3 - y**-3) / 360
    return f * math.log(z) - (y - 0.5) * math.log1p(-f / z) - f + tail


def quadratic(T, beta_1=1e-4, beta_T=0.02):
    """√β from √beta_1 to √beta_T in equal steps, β then times 1000/T.

    Source : Ho et al. 2020, arXiv:2006.11239, appendix B (among the schedules it tried), "quad" in its released code.
    Raises : ValueError for T < 1, or where the scaled β leave (0, 1).
    """
    return Schedule(_whole(T) and _rising(beta_1**0.5, beta_T**0.5, T) ** 2 * (1000 / T), "quadratic")


def constant(T, beta=None):
    """One β for all t; unless given, 10/T: about the same total noise as `linear`.  ᾱ(t) = (1-β)^t.

    Source : Ho et al. 2020, arXiv:2006.11239, appendix B (among the schedules it tried).
    Raises : ValueError for T < 1, or β outside (0, 1): T <= 10 with the default.
    """
    beta = _whole(T) and (10 / T if beta is None else beta)
    return Schedule(np.full(T, float(beta)), "constant", lambda n, f: (1 - beta) ** f)


def cosine(T, s=0.008):
    """ᾱ(t) = f(t)/f(0), f(t) = cos²(π/2 · (t/T + s)/(1+s)); β_t = 1 - ᾱ(t)/ᾱ(t-1), clipped at 0.999.

    The clip is the paper's: f(T) = 0, and a β of 1 would leave no signal to divide by. Within a clipped step ᾱ falls
    geometrically.
    Source : Nichol & Dhariwal 2021, arXiv:2102.09672, eq. (17).
    Raises : ValueError for T < 1.
    """

    def f(t):
        return math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2

    betas = [min(1 - f(t) / f(t - 1), 0.999) for t in range(1, _whole(T) + 1)]

    def interpolate(n, fraction):
        return f(n + fraction) / f(n) if betas[n] < 0.999 else (1 - 0.999) ** fraction

    return Schedule(betas, "cosine", interpolate)


SCHEDULES = {"linear": linear, "cosine": cosine, "quadratic": quadratic, "constant": constant}


def named(name, T):
    """The schedule called `name`, with T steps.

    Source : SCHEDULES, each with its own.
    Raises : ValueError for an unknown name, or what the schedule itself refuses.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](T)


def _whole(T):
    if isinstance(T, bool) or not isinstance(T, (int, np.integer)) or T < 1:
        raise ValueError(f"T must be a whole number of steps, at least 1, got {T!r}")
    return int(T)


def verdict(schedule):
    """Has the chain reached noise? ᾱ_T, KL(q(x_T|x_0) || N(0, I)) at x_0 = 1, and what to change if not.

        KL = ½ [(1-ᾱ) - 1 - ln(1-ᾱ) + ᾱ x_0²],   in bits

    Source : Ho et al. 2020, arXiv:2006.11239, section 4 (L_T ≈ 1e-5 bits a dimension).
    Returns: a list of plain lines.
    """
    left = float(schedule.alpha_bar[-1])
    bits = float(gaussian.kl(math.sqrt(left), 1 - left, 0.0, 1.0)) / math.log(2)
    lines = [f"alpha_bar_T = {left:.3g}: {math.sqrt(left):.1%} of x_0 is left at t = T"]
    lines.append(f"KL(q(x_T | x_0) || N(0, I)) = {bits:.2g} bits a dimension, at x_0 = 1")
    if bits > 0.01:
        lines.append("verdict: NOT noise yet. Samples start from N(0, I), which x_T never was: add steps or raise beta")
    elif bits > 1e-3:
        lines.append("verdict: nearly noise; a few more steps or a little more beta would finish it")
    else:
        lines.append("verdict: noise. Sampling may start from N(0, I)")
    return lines
