"""Continuous time: the processes, their two ways back, likelihood, and the order of each solver."""
import itertools
import math

import numpy as np

from .. import forward, gaussian, oracle, sampler, score, sde, solver
from .. import schedule as schedules
from .domains import Batches, GentleSchedule, Mixture, Number, Points, Process, Schedule, ShortSchedule, Unit, Variance
from .law import law
from .reverse import chain_moments


def inner(process, u):
    """A time well inside the process, for u in [0, 1]: differences on both sides stay within."""
    return (0.05 + 0.9 * u) * process.end


def legendre(low, high, n=80):
    """Nodes and weights of ∫_low^high."""
    x, w = np.polynomial.legendre.leggauss(n)
    return (low + high) / 2 + (high - low) / 2 * x, (high - low) / 2 * w


def scores(process, mixture):
    """The exact score_fn(x, u) of one-dimensional mixture data."""
    return lambda x, u: oracle.noised_score(x, process.signal(u), process.noise(u) ** 2, *mixture)


def eps_of(process, mixture):
    """The exact ε̂(x, u) of the same data."""
    return lambda x, u: -process.noise(u) * scores(process, mixture)(x, u)


# The processes


@law(
    "Song et al. (29)",
    of=[
        sde.VP.signal, sde.VP.drift, sde.VP.beta, sde.VP.total, sde.VE.signal, sde.VE.drift, sde.EDM.signal,
        sde.EDM.drift,
    ],
)  # fmt: skip
def the_mean_follows_the_drift(process: Process, u: Unit):
    """ln a(u) = ∫ f: the mean shrinks as the drift says."""
    end = inner(process, u)
    at, weights = legendre(0.0, end)
    return float(process.signal(end)), math.exp(weights @ process.drift(at))


@law(
    "Song et al. (29)",
    of=[
        sde.VP.noise, sde.VP.diffusion_sq, sde.SubVP.noise, sde.SubVP.diffusion_sq, sde.VE.noise, sde.VE.diffusion_sq,
        sde.VE.sigma, sde.EDM.noise, sde.EDM.diffusion_sq,
    ],
    tol=1e-10,
)  # fmt: skip
def the_variance_follows_the_diffusion(process: Process, u: Unit):
    """b²(u) = ∫ g²(s) a²(u)/a²(s) ds: what was added at s has shrunk since."""
    end = inner(process, u)
    at, weights = legendre(0.0, end)
    left = weights @ (process.diffusion_sq(at) * (process.signal(end) / process.signal(at)) ** 2)
    return left, float(process.noise(end)) ** 2


@law("Song et al. (12), (29), appendix C", of=[sde.VP, sde.SubVP, sde.VE, sde.EDM])
def variances_as_published(u: Unit, beta_min: Variance, sigma_min: Unit):
    """VP's a² + b² = 1; sub-VP's b is VP's b²; VE adds σ²(u) - σ²(0), σ rising in equal ratios; EDM's b is u."""
    vp, sub = sde.VP(beta_min, beta_min + 5), sde.SubVP(beta_min, beta_min + 5)
    low = 0.01 + sigma_min
    ve = sde.VE(low, 50 * low)
    left = (vp.signal(u) ** 2 + vp.noise(u) ** 2, sub.noise(u), ve.noise(u) ** 2, ve.sigma(1 - u) * ve.sigma(u))
    left += (sub.signal(u), sde.EDM().noise(u))
    right = (1.0, vp.noise(u) ** 2, ve.sigma(u) ** 2 - low**2, ve.sigma(0.0) * ve.sigma(1.0), vp.signal(u), u)
    return tuple(map(float, left)), tuple(map(float, right)), (1.0, 1.0, (50 * low) ** 2, (50 * low) ** 2, 1.0, 1.0)


@law(
    "Song et al. appendices C and H.1, σ_max 50: its released code; Karras et al. table 1",
    of=[sde.VP, sde.SubVP, sde.VE, sde.EDM, solver.edm_sigmas, solver.predictor_corrector, sde.VP.total],
)
def numbers_as_published(x: Points, u: Unit):
    """β 0.1 .. 20; σ 0.01 .. 50 and 80; time from 0 to 1; ρ = 7; one correction at a signal-to-noise ratio of 0.16."""
    ends = [(p.total(1.0), p.beta(0.0), p.beta(1.0), p.end, p.prior_std) for p in (sde.VP(), sde.SubVP())]
    ve, edm, n = sde.VE(), sde.EDM(), 2 + round(20 * u)
    roots = np.array(solver.edm_sigmas(0.002, edm.end, n)) ** (1 / 7)
    given, usual = (
        last(solver.predictor_corrector(sde.VP(), lambda x, u: -x, x, (1.0, 0.9), np.random.default_rng(7), **how))
        for how in ({"snr": 0.16, "corrections": 1}, {})
    )
    sigmas = np.array([ve.sigma(0.0), ve.sigma(1.0), ve.end, edm.end, edm.prior_std])
    right = np.array([[10.05, 0.1, 20.0, 1.0, 1.0]] * 2), np.array([0.01, 50.0, 1.0, 80.0, 80.0])
    fall = np.full(n, (0.002 ** (1 / 7) - 80 ** (1 / 7)) / n)
    return (np.array(ends), sigmas, np.diff(roots), usual), (*right, fall, given), (20.0, 80.0, 10.0, 10.0)


@law(
    "VDM (2)",
    of=[sde.ratio, sde.VP.time_of, sde.SubVP.time_of, sde.VE.time_of, sde.EDM.time_of],
    tol=1e-9,
)
def time_of_inverts_the_ratio(process: Process, u: Unit):
    """The time at which b/a is what it is at u is u."""
    at = inner(process, u)
    return float(process.time_of(sde.ratio(process, at))), at, process.end


@law("definition", of=[schedules.Schedule.time_of, sde.Chain.time_of, sde.Chain.end, sde.Chain.signal, sde.Chain.noise])
def a_schedule_knows_when(gentle: GentleSchedule, u: Unit):
    """ᾱ(t) -> t -> ᾱ(t), for real t, whether asked for by ᾱ or by √((1-ᾱ)/ᾱ)."""
    chain, t = sde.Chain(gentle), u * gentle.T
    left = (float(gentle.time_of(gentle.alpha_bar_at(t))), float(chain.time_of(sde.ratio(chain, t))))
    left += (float(chain.signal(t)) ** 2 + float(chain.noise(t)) ** 2, float(gentle.time_of(gentle.alpha_bar[-1])))
    return left, (t, t, 1.0, chain.end), (gentle.T,) * 4


@law("Song et al. (10)-(11)", of=[sde.discretise, sde.VP.signal], kind=1, tol=0.05)
def ddpm_becomes_vp(u: Unit, n=2000):
    """ln ᾱ of the chain of N steps tends to that of VP, at every time, at rate 1/N."""
    process, i = sde.VP(), n // 100 * (10 + round(90 * u))
    chain = sde.discretise(process, n)
    return math.log(chain.alpha_bar[i]), 2 * math.log(process.signal(i / n))


@law("Song et al. (10), appendix B", of=[sde.discretise, sde.VP.beta])
def step_i_ends_at_its_time(beta_min: Variance, u: Unit):
    """N steps, whose β_i N are β(1/N), β(2/N) .. β(1)."""
    process, N = sde.VP(beta_min, beta_min + 5), 10 + round(20 * u)
    chain = sde.discretise(process, N)
    i = np.arange(1, N + 1)
    return (chain.T, N * chain.beta[1:]), (N, beta_min + 5 * i / N)


@law("Song et al. (8)-(9)", of=[score.noise_levels, sde.VE.sigma])
def ncsn_becomes_ve(sigma_min: Variance, u: Unit):
    """The rungs of NCSN's ladder, largest first, are VE's σ at even times; steps between rungs add up to b²."""
    L = 2 + round(20 * u)
    process = sde.VE(sigma_min, 30 * sigma_min)
    times = np.linspace(1, 0, L)
    ladder = score.noise_levels(process.sigma_max, process.sigma_min, L)
    added = np.sum(ladder[:-1] ** 2 - ladder[1:] ** 2)
    return (np.asarray(ladder), added), (process.sigma(times), float(process.noise(1.0)) ** 2)


# Noise and its score


@law("Song et al. (29), (7)", of=[sde.q_sample, sde.loss, sde.score_from_eps])
def the_weighted_score_loss_is_the_noise_loss(process: Process, u: Unit, x0: Points, eps: Points, off: Points):
    """½ E b² ‖s + ε/b‖², worked out from the score that the guess stands for, at a time for each example."""
    times = inner(process, u * np.array([0.1, 0.4, 0.7, 1.0]))
    a, b = process.signal(times)[:, None], process.noise(times)[:, None]

    def eps_fn(x, t):
        return (x - a * x0) / b + off

    s = sde.score_from_eps(process, eps_fn)(a * x0 + b * eps, times)
    by_score = 0.5 * np.mean(np.sum(b**2 * (s + eps / b) ** 2, axis=1))
    return sde.loss(eps_fn, process, x0, times, eps), by_score, 100 + 100 * (a / b).max()


@law("DDPM (15), Salimans & Ho section 4, t real", of=[forward.eps_from_x0, forward.eps_from_v, forward.x0_from_eps])
def the_conversions_hold_between_the_steps(gentle: GentleSchedule, u: Unit, x0: Points, eps: Points):
    """At real t too, x_0 and v give back the ε that x_t was made with, and ε the x_0."""
    path, t = sde.Chain(gentle), 0.5 + u * (gentle.T - 0.5)
    x_t = sde.q_sample(path, x0, t, eps)
    v = path.signal(t) * eps - path.noise(t) * x0
    left = (forward.eps_from_x0(gentle, x_t, t, x0), forward.eps_from_v(gentle, x_t, t, v))
    return (*left, forward.x0_from_eps(gentle, x_t, t, eps)), (eps, eps, x0), (50.0,) * 3


@law("Karras et al. appendix B", of=[sde.match, sde.q_sample, sde.Chain])
def a_matched_model_is_exact(process: Process, schedule: Schedule, u: Unit, x: Points, mu: Number, var: Variance):
    """A perfect DDPM denoiser, lent to another process, is that process's perfect denoiser."""
    mixture, chain = ([0.3, 0.7], [[mu, 0.0], [0.5, 1.0]], [var, 0.3]), sde.Chain(schedule)
    low = sde.ratio(chain, 1)
    high = min(sde.ratio(chain, schedule.T), sde.ratio(process, process.end))
    at = process.time_of(low * (high / low) ** u) if low < high else process.time_of(low)
    eps_hat = sde.match(eps_of(chain, mixture), chain, process)(x, at)
    size = 10 / sde.ratio(process, at) / process.signal(at) + 10
    return eps_hat, eps_of(process, mixture)(x, at), size


@law(
    "Song et al. (6), Fokker-Planck",
    of=[sde.reverse_drift, oracle.noised_score, oracle.noised_log_density],
    kind=2,
    tol=0.1,
)
def the_reverse_sde_keeps_every_marginal(process: Process, u: Unit, x: Number, mixture: Mixture, n=100):
    """∂ ln p/∂u = -div f̄ - f̄·s - ½ g² (div s + ‖s‖²), f̄ the reverse drift: so a mixture's density moves."""
    return _density_moves(process, u, x, mixture, n, sde.reverse_drift, 0.5)


@law("Song et al. (13), continuity", of=[sde.probability_flow, oracle.noised_log_density], kind=2, tol=0.1)
def the_flow_keeps_every_marginal(process: Process, u: Unit, x: Number, mixture: Mixture, n=100):
    """∂ ln p/∂u = -div v - v·s for the ODE's velocity v: the same density without any noise."""
    return _density_moves(process, u, x, mixture, n, sde.probability_flow, 0.0)


def _density_moves(process, u, x, mixture, n, way, noise_share):
    """∂ ln p/∂ ln σ at nine places, σ = b/a, by central differences of step 1/n and by the equation of motion.

    In ln σ, because that is where every process looks alike; du/d ln σ comes from the same differences.
    """
    sigma = sde.ratio(process, inner(process, 0.2 + 0.6 * u))
    at, early, late = (float(process.time_of(sigma * math.exp(h))) for h in (0.0, -1 / n, 1 / n))
    places = (x + np.linspace(-2, 2, 9))[:, None]
    log_p = [
        oracle.noised_log_density(places, process.signal(t), process.noise(t) ** 2, *mixture) for t in (early, late)
    ]
    score_fn = scores(process, mixture)
    v, div_v = score.divergence(lambda y: way(process, score_fn)(y, at), places)
    s, div_s = score.divergence(lambda y: score_fn(y, at), places)
    g_sq = float(process.diffusion_sq(at))
    rate = -div_v - np.sum(v * s, 1) - noise_share * g_sq * (div_s + np.sum(s * s, 1))
    return (log_p[1] - log_p[0]) * n / 2, rate * (late - early) * n / 2


@law("Bishop (2.188)", of=[oracle.noised_log_density, oracle.noised_score])
def no_place_is_too_far_for_a_density(mixture: Mixture, x: Number, signal: Variance, noise_var: Variance, far: Unit):
    """ln p and its slope keep all their digits where p is below the smallest number, beside places where it is not."""
    weights, means, variances = mixture
    places, var = np.array([[x], [60.0 + 3e3 * far], [-1e4]]), signal**2 * variances + noise_var
    joint = np.log(weights) + gaussian.log_density(places, signal * means[:, 0], var)
    log_p = np.logaddexp.reduce(joint, axis=1)
    slopes = gaussian.score(places, signal * means[:, 0], var)
    slope = np.sum(np.exp(joint - log_p[:, None]) * slopes, axis=1, keepdims=True)
    found = [f(places, signal, noise_var, *mixture) for f in (oracle.noised_log_density, oracle.noised_score)]
    size = 10 + abs(joint).max(axis=1)
    return tuple(found), (log_p, slope), (size, (size + abs(slopes).max(axis=1))[:, None])


@law("Efron (1.4)", of=[sde.denoise])
def the_last_jump_is_the_posterior_mean(process: Process, u: Unit, x: Points, mu: Number, var: Variance):
    """For Gaussian data x̂_0 is Bayes' rule."""
    at = inner(process, u)
    a, b = float(process.signal(at)), float(process.noise(at))
    x0_hat = sde.denoise(process, eps_of(process, ([1.0], [[mu, mu]], [var])), x, at)
    return x0_hat, gaussian.condition(mu, var, a, x, b * b)[0], 6 + 10 / a


# Likelihood


def flow_of(process, mixture):
    """The exact probability flow of mixture data."""
    return sde.probability_flow(process, scores(process, mixture))


@law("Song et al. (39)", of=[sde.log_likelihood, sde.with_divergence, solver.rk4], kind=4, tol=0.35)
def the_flow_knows_the_density(x: Number, n=24):
    """ln p of a mixture in the plane, by RK4 and the exact divergence, errs like n^-4 (VP, β 0.1 .. 8, from u = 0)."""
    process, mixture = sde.VP(0.1, 8.0), ([0.4, 0.6], [[-0.6, 0.2], [0.5, -0.3]], [0.5, 0.8])
    places = np.array([[x / 3, 0.3], [-0.5, x / 6], [0.2, 0.9]])

    def log_p(y, u):
        return oracle.noised_log_density(y, process.signal(u), process.noise(u) ** 2, *mixture)

    times = solver.uniform(0.0, 1.0, n)
    walk = sde.log_likelihood(flow_of(process, mixture), places, times, solver.rk4, lambda y: log_p(y, 1.0))
    *_, (_, found) = walk
    return found, log_p(places, 0.0)


@law("Song et al. (40)", of=[sde.with_divergence, score.quadratic_form, score.divergence])
def all_signs_together_are_exact(process: Process, u: Unit, x: Points, mu: Number, var: Variance):
    """Hutchinson's estimate, averaged over every vector of signs, is the exact divergence."""
    flow, at = flow_of(process, ([0.3, 0.7], [[mu, 0.0], [0.5, 1.0]], [var, 0.3])), inner(process, u)
    y = np.concatenate([x, x[:, :1]], axis=1)
    signs = [np.broadcast_to([i, j], x.shape) for i in (-1.0, 1.0) for j in (-1.0, 1.0)]
    estimates = [sde.with_divergence(flow, (2,), sign)(y, at) for sign in signs]
    exact = sde.with_divergence(flow, (2,))(y, at)
    return np.mean(estimates, axis=0), exact, 1 + 10 * float(np.abs(exact).max())


@law("Song et al. section 3.1", of=[sde.standard, sde.VE.prior_std, sde.EDM.prior_std, sde.EDM.end])
def the_prior_is_a_gaussian(process: Process, x: Points):
    """ln N(x; 0, std²) is that of each coordinate, added; std is 1, or b(1) where the signal stays."""
    std = 1.0 if process.signal(process.end) < 1 else float(process.noise(process.end))
    by_hand = [-np.sum(x**2, axis=1) / (2 * s**2) - 2 * math.log(s) - math.log(2 * math.pi) for s in (std, 1.0)]
    chain = sde.Chain(schedules.constant(20))
    return (sde.standard(process)(x), sde.standard(chain)(x)), tuple(by_hand), (30 + 4 * abs(math.log(std)), 30.0)


# Solvers: orders as slopes, on Gaussian data, whose flow is known: (x - a μ)/√(a² v + b²) never changes


MU, VAR = 0.5, 0.2
DATA = [1.0], [[MU]], [VAR]


def carried(process, x, start, stop):
    """Where the exact flow of N(μ, v) takes x."""

    def mean_and_std(u):
        a, b_sq = process.signal(u), process.noise(u) ** 2
        return a * MU, np.sqrt(a * a * VAR + b_sq)

    (m, s), (m_stop, s_stop) = mean_and_std(start), mean_and_std(stop)
    return m_stop + s_stop * (x - m) / s


def last(walk):
    *_, x = walk
    return x


def path_error(solve, x, n):
    process, start = sde.VP(), np.array([[x], [1.3]])
    return last(solve(flow_of(process, DATA), start, solver.uniform(1.0, 1e-3, n))), carried(process, start, 1.0, 1e-3)


@law("Hairer et al. section II.1", of=[solver.euler, solver.uniform], kind=1, tol=0.1)
def euler_is_of_order_one(x: Number, n=200):
    """VP, u from 1 to 1e-3 in n even steps."""
    return path_error(solver.euler, x, n)


@law("Karras et al. Algorithm 1", of=[solver.heun, solver.uniform], kind=2, tol=0.15)
def heun_is_of_order_two(x: Number, n=100):
    """VP, u from 1 to 1e-3 in n even steps."""
    return path_error(solver.heun, x, n)


@law("Hairer et al. table II.1.2", of=[solver.rk4, solver.uniform], kind=4, tol=0.3)
def rk4_is_of_order_four(x: Number, n=40):
    """VP, u from 1 to 1e-3 in n even steps."""
    return path_error(solver.rk4, x, n)


@law("DPM-Solver++ Algorithm 2", of=[solver.dpmpp_2m, solver.uniform_in_lambda], kind=2, tol=0.15)
def dpmpp_2m_is_of_order_two(x: Number, n=50):
    """VP, u from 1 to 1e-3 in n steps even in λ."""
    process, start = sde.VP(), np.array([[x], [1.3]])
    times = solver.uniform_in_lambda(process, 1.0, 1e-3, n)
    return last(solver.dpmpp_2m(process, eps_of(process, DATA), start, times)), carried(process, start, 1.0, 1e-3)


@law("DPM-Solver++ Algorithm 2", of=[solver.dpmpp_2m, sde.ratio])
def dpmpp_2m_looks_half_a_step_ahead(process: Process, u: Unit, w: Unit, x: Points, c: Number, d: Number):
    """Where x̂_0 = c + d λ, it is held at its value in the middle of each step in λ, however unequal the steps.

    The first step knows one value, that of its beginning. With D held, x - a D shrinks as b does.
    """
    times = [inner(process, place) for place in (1.0, 0.8 - 0.1 * u, 0.5 - 0.2 * w, 0.25, 0.1)]
    lambdas = [-math.log(sde.ratio(process, t)) for t in times]

    def eps_fn(x, t):
        return (x - process.signal(t) * (c - d * math.log(sde.ratio(process, t)))) / process.noise(t)

    middles = [lambdas[0], *((early + late) / 2 for early, late in itertools.pairwise(lambdas[1:]))]
    by_hand = [x]
    for (t, s), middle in zip(itertools.pairwise(times), middles, strict=True):
        D, shrink = c + d * middle, process.noise(s) / process.noise(t)
        by_hand.append(process.signal(s) * D + shrink * (by_hand[-1] - process.signal(t) * D))
    size = 100 + 10 / process.signal(times[0])
    return np.array(list(solver.dpmpp_2m(process, eps_fn, x, times))), np.array(by_hand[1:]), size


@law("Karras et al. (5) and Algorithm 1", of=[solver.heun, solver.edm_sigmas, sde.EDM], kind=2, tol=0.15)
def edm_is_of_order_two(x: Number, n=30):
    """EDM's σ from 80 to 0.002, ρ = 7, with Heun's method."""
    process, start = sde.EDM(80.0), 80 * np.array([[x], [1.3]])
    sigmas = solver.edm_sigmas(0.002, 80.0, n)
    return last(solver.heun(flow_of(process, DATA), start, sigmas)), carried(process, start, 80.0, 0.002)


def round_trip(solve, x, n):
    """Data to noise and back on one grid: VP, u from 1e-3 to 1."""
    flow, start, up = flow_of(sde.VP(), DATA), np.array([[x], [1.3]]), solver.uniform(1e-3, 1.0, n)
    return last(solve(flow, last(solve(flow, start, up)), up[::-1])), start


@law("Song et al. section 4.3", of=[solver.euler, sde.probability_flow], kind=1, tol=0.1)
def eulers_flow_comes_back(x: Number, n=200):
    """There and back by Euler's method errs like 1/n: a step back makes the same error again."""
    return round_trip(solver.euler, x, n)


@law("Song et al. section 4.3", of=[solver.heun, sde.probability_flow], kind=3, tol=0.25)
def heuns_flow_comes_back(x: Number, n=50):
    """There and back by Heun's method errs like n^-3, an order better than it goes: h³ changes sign on the way back."""
    return round_trip(solver.heun, x, n)


@law("Karras et al. (5)", of=[solver.edm_sigmas])
def sigmas_are_even_in_their_root(low: Unit, rho: Variance, u: Unit):
    """σ^(1/ρ) falls in equal steps from σ_max to σ_min."""
    n = 1 + round(30 * u)
    sigmas = solver.edm_sigmas(0.01 + low, 2 + low, n, rho)
    return np.array(sigmas) ** (1 / rho), np.linspace((2 + low) ** (1 / rho), (0.01 + low) ** (1 / rho), n + 1)


@law("arithmetic", of=[solver.uniform, solver.uniform_in_lambda], tol=1e-9)
def times_are_even(process: Process, u: Unit, w: Unit):
    """n+1 times with the given ends, even in u; and in λ."""
    n, start, stop = 1 + round(20 * w), inner(process, 1.0), inner(process, 0.5 * u)
    times, lambdas = (
        np.array(solver.uniform(start, stop, n)),
        -np.log([sde.ratio(process, t) for t in solver.uniform_in_lambda(process, start, stop, n)]),
    )
    even = (np.linspace(start, stop, n + 1), np.linspace(lambdas[0], lambdas[-1], n + 1))
    ends = -math.log(sde.ratio(process, start)), -math.log(sde.ratio(process, stop))
    return (times, lambdas, lambdas[[0, -1]]), (*even, np.array(ends)), (process.end, 30.0, 30.0)


# Two houses, one wall


@law("DDIM (14), Karras et al. section 3", of=[solver.euler, sde.match, sampler.sample_ddim, sde.Chain.time_of])
def ddim_is_eulers_method(schedule: ShortSchedule, x: Points, mu: Number, var: Variance):
    """DDIM from T to 1 is Euler's method in EDM's coordinates x/√ᾱ, with the network matched by ᾱ."""
    chain, edm = sde.Chain(schedule), sde.EDM(1e6)
    eps_fn = oracle.gaussian_data(schedule, mu, var)

    def whole(x, t):
        return eps_fn(x, int(np.round(t)))

    sigmas = [float(sde.ratio(chain, t)) for t in range(schedule.T, 0, -1)]
    flow = sde.probability_flow(edm, sde.score_from_eps(edm, sde.match(whole, chain, edm)))
    start = x / schedule.signal_scale[-1]
    walked = last(solver.euler(flow, start, sigmas)) if schedule.T > 1 else start
    by_euler = sde.denoise(edm, sde.match(whole, chain, edm), walked, sigmas[-1])
    by_ddim = last(sampler.sample_ddim(eps_fn, schedule, x))
    return by_euler, by_ddim, 40 / schedule.signal_scale[-1]


@law("Song et al. (6), Kloeden & Platen section 10.2", of=[solver.euler_maruyama, sde.reverse_drift])
def a_noisy_step_is_eulers_step_and_noise(
    process: Process, u: Unit, x: Points, mu: Number, var: Variance, seed: Batches
):
    """Each step is Euler's on the reverse drift, plus g(u) √|h| z, all of it taken where the step begins."""
    times = [inner(process, place) for place in (0.9, 0.5 + 0.3 * u, 0.4)]
    score_fn = scores(process, ([1.0], [[mu, mu]], [var]))
    rng, by_hand = np.random.default_rng(seed), [x]
    for t, s in itertools.pairwise(times):
        mean = last(solver.euler(sde.reverse_drift(process, score_fn), by_hand[-1], (t, s)))
        by_hand.append(mean + math.sqrt(process.diffusion_sq(t)) * math.sqrt(t - s) * rng.standard_normal(x.shape))
    walked = list(solver.euler_maruyama(process, score_fn, x, times, np.random.default_rng(seed)))
    return np.array(walked), np.array(by_hand[1:]), 10 * float(np.abs(by_hand).max())


@law("Song et al. section 4.1", of=[solver.euler_maruyama, sde.reverse_drift], kind=1, tol=0.15)
def euler_maruyama_is_of_order_one(n=100):
    """Mean and variance of the chain on Gaussian data, from the right ones at u = 1 to u = 1e-3, err like 1/n (VP)."""
    process = sde.VP()

    def std(u):
        return math.sqrt(process.signal(u) ** 2 * VAR + process.noise(u) ** 2)

    def sample(score_fn, x_T, rng):
        x_T = process.signal(1.0) * MU + std(1.0) * x_T
        return solver.euler_maruyama(process, score_fn, x_T, solver.uniform(1.0, 1e-3, n), rng)

    exact = process.signal(1e-3) * MU, std(1e-3) ** 2
    return chain_moments(sample, scores(process, DATA), n), exact


@law("Song et al. Algorithm 1", of=[solver.predictor_corrector, solver.euler_maruyama, score.langevin_step])
def a_corrector_is_a_langevin_step(process: Process, u: Unit, x: Points, mu: Number, var: Variance, snr: Unit):
    """Predict, then x + e s + √(2e) z with e = 2 (snr ‖z‖/‖s‖)²; without corrections only predict."""
    score_fn = scores(process, ([0.3, 0.7], [[mu, 0.0], [0.5, 1.0]], [var, 0.3]))
    times, snr = (inner(process, 0.5 + u / 2), inner(process, 0.4)), 0.05 + snr
    rng = np.random.default_rng(7)
    predicted = last(solver.euler_maruyama(process, score_fn, x, times, rng))
    s, z = score_fn(predicted, times[1]), rng.standard_normal(x.shape)
    e = 2 * (snr * np.mean(np.linalg.norm(z, axis=1)) / np.mean(np.linalg.norm(s, axis=1))) ** 2
    found = [
        last(solver.predictor_corrector(process, score_fn, x, times, np.random.default_rng(7), snr, k)) for k in (0, 1)
    ]
    size = 10 + float(np.abs(predicted).max()) + 5 * e * float(np.abs(s).max())
    return tuple(found), (predicted, predicted + e * s + math.sqrt(2 * e) * z), (size, size)


@law(
    "IEEE 754",
    of=[solver.heun, solver.euler_maruyama, solver.predictor_corrector, solver.dpmpp_2m, sde.q_sample, sde.match],
    tol=1e-4,
)
def continuous_time_stays_single(process: Process, x: Points, eps: Points):
    """Float32 data stay float32 along every path, and the answer is float64's."""
    at = [inner(process, u) for u in (0.9, 0.6, 0.4)]

    def eps_fn(x, u):
        return x * forward.coef(process.noise(u) / (process.signal(u) ** 2 + process.noise(u) ** 2), x)

    def answers(x, eps):
        flow = sde.probability_flow(process, sde.score_from_eps(process, eps_fn))
        yield sde.q_sample(process, x, at[0], eps)
        yield last(solver.heun(flow, x, at))
        yield last(solver.rk4(flow, x, at))
        yield last(solver.dpmpp_2m(process, eps_fn, x, at))
        yield sde.match(eps_fn, process, sde.EDM())(x, 1.0)

    single, double = tuple(answers(np.float32(x), np.float32(eps))), tuple(answers(x, eps))
    s, walkers = sde.score_from_eps(process, eps_fn), (solver.euler_maruyama, solver.predictor_corrector)
    walked = [last(walk(process, s, np.float32(x), at, np.random.default_rng(0))) for walk in walkers]
    grids = [solver.uniform(2, 1, 3), solver.uniform_in_lambda(process, at[0], at[2], 3), solver.edm_sigmas(1, 2, 3)]
    walked += [last(solver.euler(lambda x, u: -x, np.float32(x), grid)) for grid in grids]
    kinds = {answer.dtype for answer in (*single, *walked)}
    left = single + (np.array([k == np.float32 for k in kinds], float),)
    scale = 10.0 + max(float(np.abs(d).max()) for d in double)
    return left, double + (np.ones(len(kinds)),), (scale,) * 6
