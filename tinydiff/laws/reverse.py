"""The samplers, against data whose exact denoiser is known.

A sampler of Gaussian data is linear: what it returns is its answer to x_T plus its answers to each step's noise. So
means and variances are propagated exactly, through the code itself, with nothing drawn.
"""
import math

import numpy as np

from .. import forward, gaussian, oracle, sampler
from .. import schedule as schedules
from .domains import Earlier, Number, Points, SampledAs, Schedule, ShortSchedule, Skips, Time, Times, Unit, Variance
from .law import LawBroken, law

# Single steps


@law("DDIM (12) and lemma 1", of=[sampler.ddim_step, sampler.ddim_sigma])
def ddim_keeps_every_marginal(schedule: Schedule, t: Time, s: Earlier, eta: Unit, x0: Number):
    """For every η, x_t ~ q(x_t | x_0) goes to x_s ~ q(x_s | x_0): mean and variance, through the step itself."""
    ab_s, ab_t = schedule.pair(t, s)

    def step(eps, noise):
        x_t = forward.q_sample(schedule, np.full((1, 1), x0), t, eps)
        return sampler.ddim_step(schedule, x_t, t, s, np.full((1, 1), eps), eta, np.full((1, 1), noise)).item()

    mean = step(0.0, 0.0)
    var = (step(1.0, 0.0) - mean) ** 2 + (step(0.0, 1.0) - mean) ** 2
    size = 1 + 3 / math.sqrt(ab_t)
    return (mean, var), (math.sqrt(ab_s) * x0, 1 - ab_s), (size, size**2)


@law("DDIM (16), η = 1", of=[sampler.ddim_step, sampler.ddpm_step, sampler.ddim_sigma, sampler.reverse_var])
def eta_one_is_the_posterior_sampler(schedule: Schedule, t: Time, s: Earlier, x_t: Points, eps: Points, noise: Points):
    """DDIM with η = 1 is DDPM with variance β̃, for any s < t."""
    ddim = sampler.ddim_step(schedule, x_t, t, s, eps, 1.0, noise)
    return ddim, sampler.ddpm_step(schedule, x_t, t, s, eps, 0.0, noise), 20 / schedule.signal_scale[t]


@law("DDIM (13)-(14)", of=[sampler.ddim_step, sampler.ddim_invert_step])
def eta_zero_is_eulers_step(schedule: Schedule, t: Time, s: Earlier, x: Points, eps: Points):
    """With x̄ = x/√ᾱ and σ̄ = √(1/ᾱ - 1), both directions are Euler's step of dx̄ = ε̂ dσ̄."""
    ab_s, ab_t = schedule.pair(t, s)
    rise = math.sqrt(1 / ab_s - 1) - math.sqrt(1 / ab_t - 1)
    down = sampler.ddim_step(schedule, x, t, s, eps) / math.sqrt(ab_s)
    up = sampler.ddim_invert_step(schedule, x, s, t, eps) / math.sqrt(ab_t)
    size = 10 / math.sqrt(ab_t)
    return (down, up), (x / math.sqrt(ab_t) + rise * eps, x / math.sqrt(ab_s) - rise * eps), (size, size)


@law("DDPM (11)", of=[sampler.ddpm_step, sampler.reverse_var])
def ddpm_mean_as_published(schedule: Schedule, t: Times, x_t: Points, eps: Points, noise: Points):
    """One step back is (x_t - β/√(1-ᾱ) ε̂)/√α + √β z, v being 1 unless given."""
    beta, ab = schedule.beta[t][:, None], schedule.alpha_bar[t][:, None]
    by_paper = (x_t - beta / np.sqrt(1 - ab) * eps) / np.sqrt(1 - beta) + np.sqrt(beta) * noise
    got = sampler.ddpm_step(schedule, x_t, t, t - 1, eps, noise=noise)
    return got, by_paper, 10 / np.sqrt(ab * (1 - ab))


@law("Improved DDPM (15)", of=[sampler.reverse_var])
def variances_interpolate_in_logarithms(schedule: Schedule, t: Time, s: Earlier, v: Unit):
    """v and 1-v multiply to β β̃; the ends are β and β̃."""
    pair = schedule.pair(t, s)
    beta, beta_tilde = forward.step_var(*pair), forward.posterior_var(*pair)
    both = sampler.reverse_var(*pair, v) * sampler.reverse_var(*pair, 1 - v)
    left = (both, *(sampler.reverse_var(*pair, *end) for end in ((0.0,), (1.0,), ())))
    return left, (beta * beta_tilde, beta_tilde, beta, beta)


@law("DDPM section 3.2", of=[sampler.reverse_var], kind="<=", tol=1e-12)
def variances_lie_between_the_bounds(schedule: Schedule, t: Time, s: Earlier, v: Unit):
    """β̃ <= β^v β̃^(1-v) <= β."""
    pair = schedule.pair(t, s)
    between = sampler.reverse_var(*pair, v)
    return (forward.posterior_var(*pair), between), (between, forward.step_var(*pair)), (1.0, 1.0)


@law(
    "IEEE 754",
    of=[forward.q_sample, forward.q_step, forward.coef, sampler.sample_ddpm, sampler.sample_ddim, oracle.mixture],
    tol=1e-5,
)
def single_precision_stays_single(schedule: ShortSchedule, t: Times, x: Points, eps: Points):
    """Float32 data stay float32 through every step, and the answer is float64's."""

    def answers(x, eps):
        yield forward.q_sample(schedule, x, t, eps)
        yield forward.q_step(schedule, x, t, eps)
        yield sampler.ddpm_step(schedule, x, t, t - 1, eps, 0.5, eps)
        yield sampler.ddim_step(schedule, x, t, t - 1, eps, 0.5, eps)
        yield oracle.gaussian_data(schedule, 0.5, 0.2)(x, t)
        yield oracle.finite(schedule, [[0, 1], [1, 0]])(x, t)

    def chains(x):
        eps_fn, rng = oracle.gaussian_data(schedule, 0.5, 0.2), np.random.default_rng(0)
        yield sampler.sample_ddpm(eps_fn, schedule, x, rng)
        yield sampler.sample_ddim(eps_fn, schedule, x, rng, eta=1)

    single, double = tuple(answers(np.float32(x), np.float32(eps))), tuple(answers(x, eps))
    kept = [answer.dtype for answer in (*single, *(next(chain) for chain in chains(np.float32(x))))]
    if set(kept) != {np.dtype(np.float32)}:
        raise LawBroken(f"float32 became {kept}")
    scale = 10 / schedule.signal_scale[-1] / (1 - schedule.alpha_bar[1])
    return single, double, (scale,) * len(single)


# Fewer steps


@law("DDIM appendix C.1", of=[sampler.ddpm_step, sampler.ddim_step, forward.q_posterior])
def a_shorter_chain_is_a_schedule(
    schedule: Schedule, t: Time, s: Earlier, eta: Unit, x: Points, eps: Points, z: Points
):
    """A step from t to s is a one-step-back of the schedule whose ᾱ are (1, ᾱ_s, ᾱ_t)."""
    ab_s, ab_t = schedule.pair(t, s)
    T = 2 if s else 1
    short = schedules.Schedule([0.5] * T)
    short.alpha_bar[1:] = (ab_s, ab_t)[-T:]  # not by way of its betas: 1 - ᾱ_t/ᾱ_s may round to 1
    left = (sampler.ddpm_step(schedule, x, t, s, eps, eta, z), sampler.ddim_step(schedule, x, t, s, eps, eta, z))
    right = (sampler.ddpm_step(short, x, T, T - 1, eps, eta, z), sampler.ddim_step(short, x, T, T - 1, eps, eta, z))
    size = 20 / math.sqrt(ab_t)
    return left, right, (size, size)


@law("DDIM appendix D.2", of=[sampler.timesteps], tol=0.5001)
def visited_times_are_even(T: Skips, steps: Skips):
    """From T to 0 in `steps` falling steps, each time next to the even one, lengths within 1."""
    steps = min(T, steps)
    times = np.array(sampler.timesteps(T, steps))
    lengths = -np.diff(times)
    even = bool(lengths.min() >= 1 and lengths.max() - lengths.min() <= 1)
    return (times, int(even)), (np.linspace(T, 0, steps + 1), 1), (1, 1)


@law("DDIM section 4.2", of=[sampler.timesteps], tol=0.0)
def given_times_are_visited(T: Skips, stride: Skips):
    """Times that are given, rising from 1 to T, are visited falling from T, and 0 after them."""
    falling = sorted({1, *range(T, 0, -stride)}, reverse=True)
    return np.array(sampler.timesteps(T, falling[::-1])), np.array([*falling, 0])


# Whole chains


class _Impulse:
    """A generator whose k-th draw is 1 for example k and 0 for the others: it reads off a chain's responses."""

    def __init__(self):
        self.k = 0

    def standard_normal(self, shape, dtype=float):
        self.k += 1
        noise = np.zeros(shape, dtype)
        noise[self.k] = 1
        return noise


def chain_moments(sample, eps_fn, draws):
    """Mean and variance of what a linear sampler returns from x_T ~ N(0, 1), exactly.

    Example 0 has x_T = 0 and no noise: the mean. Example k hears the k-th draw alone; the last one hears x_T alone.
    """
    x_T = np.zeros((draws + 2, 1))
    x_T[-1] = 1.0
    *_, x0 = sample(eps_fn, x_T, _Impulse())
    responses = x0[1:] - x0[0]
    return x0[0].item(), (responses**2).sum().item()


@law("DDPM section 3.2", of=[sampler.sample_ddpm, sampler.ddpm_step], tol=1e-11)
def beta_is_right_for_white_noise(schedule: Schedule):
    """If the data are N(0, I), the chain with σ² = β returns N(0, I) exactly, its last noise drawn."""

    def sample(eps_fn, x_T, rng):
        return sampler.sample_ddpm(eps_fn, schedule, x_T, rng, v=1.0, final_noise=True)

    return chain_moments(sample, oracle.gaussian_data(schedule, 0.0, 1.0), schedule.T), (0.0, 1.0), (1.0, 1.0)


@law("DDPM section 3.2", of=[sampler.sample_ddpm, sampler.sample_ddim])
def beta_tilde_is_right_for_a_point(schedule: ShortSchedule, x0: Number):
    """If the data are one point, the chains with σ² = β̃ (and DDIM) return it exactly, from any x_T."""

    def ddpm(eps_fn, x_T, rng):
        return sampler.sample_ddpm(eps_fn, schedule, x_T, rng, v=0.0, final_noise=True)

    def ddim(eps_fn, x_T, rng):
        return sampler.sample_ddim(eps_fn, schedule, x_T)

    eps_fn = oracle.finite(schedule, [[x0]])
    moments = [chain_moments(sample, eps_fn, schedule.T) for sample in (ddpm, ddim)]
    scale = 10 / schedule.signal_scale[-1]
    return tuple(moments), ((x0, 0.0), (x0, 0.0)), ((scale, scale),) * 2


@law("DDPM Algorithm 2", of=[sampler.sample_ddpm])
def no_noise_on_the_last_step(schedule: ShortSchedule, mu: Number, var: Variance):
    """Without `final_noise`, Var x_0 is smaller by just the last step's σ² = β_1."""

    def sample(**how):
        return lambda eps_fn, x_T, rng: sampler.sample_ddpm(eps_fn, schedule, x_T, rng, **how)

    eps_fn = oracle.gaussian_data(schedule, mu, var)
    (mean, drawn), (mean_2, not_drawn) = (
        chain_moments(sample(**how), eps_fn, schedule.T) for how in ({"final_noise": True}, {})
    )
    return (drawn - not_drawn, mean), (schedule.beta[1], mean_2), (1 + drawn, 1 + abs(mean))


@law("DDIM (16), η = 1", of=[sampler.sample_ddim, sampler.sample_ddpm])
def eta_one_is_the_posterior_chain(schedule: ShortSchedule, x_T: Points, skip: Unit, seed: Skips):
    """With the same draws, DDIM's whole chain with η = 1 is DDPM's with β̃, over any number of steps."""
    eps_fn, steps = oracle.gaussian_data(schedule, 0.5, 0.2), 1 + int(skip * (schedule.T - 1))
    *_, ddim = sampler.sample_ddim(eps_fn, schedule, x_T, np.random.default_rng(seed), steps, eta=1.0)
    *_, ddpm = sampler.sample_ddpm(eps_fn, schedule, x_T, np.random.default_rng(seed), steps, v=0.0)
    return ddim, ddpm, 20.0


def propagate(schedule, step, mu, var):
    """Mean and variance at t = 0 of a chain of one-dimensional Gaussian data, one call of `step` for all t at once.

    step(x_t, t, s, eps_hat, noise): a sampler's step on (T, 1) arrays, row t being the step from t.
    """
    t = np.arange(1, schedule.T + 1)
    eps_fn, zero = oracle.gaussian_data(schedule, mu, var), np.zeros((schedule.T, 1))
    offset = step(zero, t, t - 1, eps_fn(zero, t), zero)
    slope = step(zero + 1, t, t - 1, eps_fn(zero + 1, t), zero) - offset
    spread = step(zero, t, t - 1, eps_fn(zero, t), zero + 1) - offset
    mean, variance = 0.0, 1.0
    for a, b, c in zip(slope[::-1, 0], offset[::-1, 0], spread[::-1, 0], strict=True):
        mean, variance = gaussian.affine(mean, variance, a, b, c * c)
    return mean, variance


@law("DDPM (11), DDIM (12)", of=[sampler.ddpm_step, sampler.ddim_step], kind=1, tol=0.15)
def samplers_approach_the_data(sampled: SampledAs, n=1600):
    """With the exact denoiser and β ∝ 1/T, mean and variance reach the data's at rate 1/T (ancestral and DDIM)."""
    schedule, (kind, value) = schedules.linear(n), sampled
    mu, var = 0.5, 0.2

    def step(x_t, t, s, eps_hat, noise):
        take = sampler.ddpm_step if kind == "ddpm" else sampler.ddim_step
        return take(schedule, x_t, t, s, eps_hat, value, noise)

    return propagate(schedule, step, mu, var)[1], var


@law("DDIM (14), for one point", of=[sampler.invert_ddim])
def inversion_of_a_point_keeps_its_noise(schedule: ShortSchedule, x0: Number, x: Number):
    """If the data are one point, each guess is made where x is: x_1's noise is the noise of every x_t after it."""
    eps_fn, start = oracle.finite(schedule, [[x0]]), np.full((1, 1), x)
    visited = np.concatenate(list(sampler.invert_ddim(eps_fn, schedule, start)))
    x_1 = sampler.ddim_invert_step(schedule, start, 0, 1, eps_fn(start, 1))
    eps = forward.eps_from_x0(schedule, x_1, 1, x0)
    expected = forward.q_sample(schedule, np.full_like(visited, x0), np.arange(1, schedule.T + 1), eps)
    return visited, expected, 12 / schedule.noise_scale[1]


@law("DDIM section 5.4", of=[sampler.invert_ddim, sampler.sample_ddim, sampler.ddim_invert_step], kind=1, tol=0.15)
def inversion_comes_back(x0: Unit, n=100):
    """x_0 -> x_T -> x_0 errs like 1/steps (Gaussian data, a schedule of 3,200)."""
    schedule = schedules.linear(3200)
    eps_fn = oracle.gaussian_data(schedule, 0.5, 0.2)
    start = np.full((1, 1), 1 + x0)
    *_, x_T = sampler.invert_ddim(eps_fn, schedule, start, steps=n)
    *_, back = sampler.sample_ddim(eps_fn, schedule, x_T, steps=n)
    return back.item(), start.item()

