"""Gaussians, schedules, and the forward process."""
import math
from fractions import Fraction

import numpy as np

from .. import forward, gaussian, schedule
from ..schedule import verdict
from .domains import Earlier, Number, Points, Schedule, Steps, Time, Times, Unit, Variance
from .law import LawBroken, law

# Gaussians


@law("Bishop (1.110)", of=[gaussian.entropy, gaussian.cross_entropy, gaussian.log_density])
def entropy_is_the_mean_surprise(mu: Number, var: Variance, mu_2: Number, var_2: Variance):
    """-E[ln N] by quadrature (exact here: the integrand is a polynomial) is the (cross) entropy."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    x = mu + math.sqrt(var) * nodes
    weights = weights / weights.sum()
    left = (
        -(weights @ gaussian.log_density(x, mu, var)),
        -(weights @ gaussian.log_density(x, mu_2, var_2)),
    )
    size = 1 + (var + (mu - mu_2) ** 2) / var_2
    return left, (gaussian.entropy(var), gaussian.cross_entropy(mu, var, mu_2, var_2)), (3.0, size + 3)


@law("DDPM (5), its terms", of=[gaussian.kl, gaussian.cross_entropy, gaussian.entropy])
def kl_is_cross_entropy_less_entropy(mu: Number, var: Variance, mu_2: Number, var_2: Variance):
    """KL(p || q) = H(p, q) - H(p)."""
    cross, own = gaussian.cross_entropy(mu, var, mu_2, var_2), gaussian.entropy(var)
    return gaussian.kl(mu, var, mu_2, var_2), cross - own, 4 + abs(cross)


@law("NCSN section 2", of=[gaussian.score, gaussian.log_density])
def score_is_the_slope_of_the_log_density(x: Number, mu: Number, var: Variance):
    """∇ ln N by a central difference, which is exact for a parabola."""
    rise = gaussian.log_density(x + 1, mu, var) - gaussian.log_density(x - 1, mu, var)
    return rise / 2, gaussian.score(x, mu, var), 10 + 40 / var


@law("Bishop (2.115)", of=[gaussian.affine], exact=True)
def affine_maps_compose(
    mu: Number, var: Variance, a: Number, b: Number, q: Variance, c: Number, d: Number, r: Variance
):
    """Two affine maps with noise are one; a point goes to a point; nothing is added unless asked for."""
    two = gaussian.affine(*gaussian.affine(mu, var, a, b, q), c, d, r)
    one = gaussian.affine(mu, var, c * a, c * b + d, c * c * q + r)
    left = (*two, *gaussian.affine(mu, 0, a, b), *gaussian.affine(mu, var, a))
    size = 1 + abs(c * a * mu) + abs(c * b) + abs(d), 1 + c * c * (a * a * var + q) + r
    return left, (*one, a * mu + b, 0, a * mu, a * a * var), (*size, 10, 1, 9, 1 + a * a * var)


@law("Bishop (2.116)", of=[gaussian.condition, gaussian.affine, gaussian.log_density])
def condition_is_bayes_rule(mu: Number, var: Variance, a: Number, q: Variance, x: Number, y: Number):
    """p(x) p(y|x) = p(y) p(x|y), in logarithms."""
    log = gaussian.log_density
    terms = log(x, mu, var), log(y, a * x, q), log(y, *gaussian.affine(mu, var, a, 0, q))
    mean, left_over = gaussian.condition(mu, var, a, y, q)
    return terms[0] + terms[1], terms[2] + log(x, mean, left_over), 1 + sum(map(abs, terms))


@law("Bishop (2.81)", of=[gaussian.condition_joint])
def conditioning_a_joint_gaussian(mu: Number, var: Variance, a: Number, q: Variance, y: Number):
    """A joint covariance conditioned is Bayes' rule for its linear model."""
    cov = np.array([[var, a * var], [a * var, a * a * var + q]])
    mean, left_over = gaussian.condition_joint(np.array([mu, a * mu]), cov, [1], np.array([y]))
    by_rule = gaussian.condition(mu, var, a, y, q)
    return (mean[0], left_over[0, 0]), by_rule, (1 + abs(mu) + abs(y), var)


# Schedules


@law("DDPM (4)", of=[schedule.Schedule], exact=True, tol=1e-11)
def one_jump_is_many_steps(schedule: Schedule, t: Time):
    """Composing t single steps gives the closed form q(x_t | x_0)."""
    signal_sq, var = 1, 0
    for i in range(1, t + 1):
        signal_sq, var = schedule.alpha[i] * signal_sq, schedule.alpha[i] * var + schedule.beta[i]
    return (signal_sq, var), (schedule.alpha_bar[t], 1 - schedule.alpha_bar[t])


@law("DDPM (4), rounding", of=[schedule.Schedule], tol=1e-11)
def tables_lose_nothing(schedule: Schedule, t: Time):
    """1-ᾱ_t of the float64 table agrees with the same betas multiplied as exact fractions."""
    exact = 1 - math.prod(1 - Fraction(float(beta)) for beta in schedule.beta[1 : t + 1])
    return 1 - float(schedule.alpha_bar[t]), float(exact)


@law("definition", of=[schedule.Schedule.first])
def a_beginning_of_a_schedule_is_a_schedule(schedule: Schedule, t: Time, f: Unit):
    """The first t steps have the same β and ᾱ, between whole times too."""
    first, u = schedule.first(t), f * t
    return (first.T, first.beta, first.alpha_bar_at(u)), (t, schedule.beta[: t + 1], schedule.alpha_bar_at(u))


@law("VDM (2)", of=[schedule.Schedule.snr, schedule.Schedule.signal_scale, schedule.Schedule.noise_scale])
def snr_is_signal_over_noise(schedule: Schedule, t: Time):
    """SNR (1-ᾱ) = ᾱ, infinite at 0, and the scales are its square roots."""
    signal, noise = schedule.signal_scale[t], schedule.noise_scale[t]
    return (schedule.snr[t] * noise**2, signal**2 + noise**2, 1 / schedule.snr[0]), (signal**2, 1.0, 0.0)


@law("DDPM section 2", of=[gaussian.kl, forward.q_marginal, schedule.Schedule], kind="<=", tol=1e-14)
def noise_never_recedes(schedule: Schedule, t: Time, mu: Number, var: Variance):
    """KL(q_t || N(0, I)) never rises along the chain (Gaussian data)."""

    def to_noise(t):
        ab = schedule.alpha_bar[t]
        return gaussian.kl(*gaussian.affine(mu, var, math.sqrt(ab), 0, 1 - ab), 0.0, 1.0)

    return to_noise(t), to_noise(t - 1), 20.0


@law("DDPM section 4, L_T", of=[verdict, gaussian.kl], tol=0.051)
def verdict_counts_the_bits(schedule: Schedule):
    """To two digits, KL(q(x_T | x_0) || N(0, I)) is -½ log₂(1-ᾱ_T) at x_0 = 1; below 1/1000 of a bit it says noise."""
    _, counted, said = verdict(schedule)
    bits = -math.log1p(-float(schedule.alpha_bar[-1])) / 2 / math.log(2)
    left = float(counted.split(" = ")[1].split()[0]), ["noise.", "nearly", "NOT"].index(said.split()[1])
    return left, (bits, (bits > 1e-3) + (bits > 1e-2)), (bits + 1e-13, 1)


@law("DDPM section 4", of=[schedule.linear, schedule.quadratic, schedule.constant, schedule.named], kind=1, tol=0.1)
def total_noise_does_not_depend_on_T(n=1000):
    """ln ᾱ_T tends to -1000 × the mean β at rate 1/T, in every family: more steps are finer steps."""
    mean = {"linear": (1e-4 + 0.02) / 2, "quadratic": (1e-4 + (1e-4 * 0.02) ** 0.5 + 0.02) / 3, "constant": 0.01}
    left = tuple(math.log(schedule.named(family, n).alpha_bar[-1]) for family in mean)
    return left, tuple(-1000 * mean[family] for family in mean)


@law("DDPM section 4", of=[schedule.linear, schedule.quadratic, schedule.constant, schedule.named])
def betas_as_published():
    """At T = 1000 the ends of each family are the published ones, and β (or √β) rises in equal steps."""
    linear, quad, flat = (schedule.named(name, 1000).beta[1:] for name in ("linear", "quadratic", "constant"))
    ends = (linear[0], linear[-1], quad[0], quad[-1], flat[0], flat[-1])
    middle = (linear[499] + linear[500], math.sqrt(quad[499]) + math.sqrt(quad[500]))
    return ends + middle, (1e-4, 0.02, 1e-4, 0.02, 0.01, 0.01, 0.0201, 0.01 + math.sqrt(0.02))


@law("definition", of=[schedule.Schedule.alpha_bar_at])
def the_curve_passes_through_the_table(schedule: Schedule, t: Times):
    """ᾱ(t) at whole t is ᾱ_t, for every schedule."""
    return schedule.alpha_bar_at(t), schedule.alpha_bar[t]


@law("Improved DDPM (17)", of=[schedule.cosine, schedule.named, schedule.Schedule.alpha_bar_at], tol=1e-11)
def cosine_betas_give_back_the_cosine(T: Steps, u: Unit):
    """Products of 1-β are f(t)/f(0) up to T-1, and in between; the last step's β is 0.999, its ᾱ geometric."""
    cosine = schedule.named("cosine", T)

    def f(t):
        return (1 + math.cos((t / T + 0.008) / 1.008 * math.pi)) / 2

    sides = [(cosine.alpha_bar_at(t), f(t) / f(0)) for t in (T - 1, u * (T - 1))]
    sides.append((cosine.alpha_bar_at(T - 1 + u), f(T - 1) / f(0) * 0.001**u))
    return tuple(map(tuple, zip(*sides, strict=True)))


@law("DDPM section 4, t real", of=[schedule.linear, schedule.Schedule.alpha_bar_at], tol=1e-11)
def linear_betas_between_the_steps(T: Steps, u: Unit):
    """ᾱ(t+1) = (1-β(t+1)) ᾱ(t) with β linear in real t: what makes the closed form a Gamma function."""
    linear = schedule.linear(T)
    t = u * (T - 1)
    beta = linear.beta[1] + (linear.beta[T] - linear.beta[1]) * t / (T - 1)
    return float(linear.alpha_bar_at(t + 1)), float((1 - beta) * linear.alpha_bar_at(t))


@law("DDPM section 4, t real", of=[schedule.linear, schedule.Schedule.alpha_bar_at], tol=1e-9)
def linear_betas_are_a_gamma_function(T: Steps, u: Unit):
    """ᾱ(t) = b^t Γ(z)/Γ(z-t), z = (1-β_1)/b + 1, b the step of β; at t = T it is the table's."""
    linear = schedule.linear(T)
    b = (linear.beta[T] - linear.beta[1]) / (T - 1)
    t, z = u * T, (1 - linear.beta[1]) / b + 1
    gamma = math.exp(t * math.log(b) + math.lgamma(z) - math.lgamma(z - t))
    return (float(linear.alpha_bar_at(t)), float(linear.alpha_bar_at(T))), (gamma, linear.alpha_bar[T])


@law("DDPM section 4, t real", of=[schedule.constant, schedule.linear, schedule.Schedule.alpha_bar_at])
def constant_beta_is_geometric(T: Steps, u: Unit):
    """ᾱ(t) = (1-β)^t for real t, whether the schedule is called constant or linear with equal ends."""
    chains = schedule.constant(T), schedule.constant(T, 0.3), schedule.linear(T, 0.01, 0.01)
    left = tuple(float(chain.alpha_bar_at(u * chain.T)) for chain in chains)
    return left, tuple((1 - beta) ** (u * t) for beta, t in ((10 / T, T), (0.3, T), (10 / T, T)))


# The forward process


@law("DDPM (4)", of=[forward.q_sample, forward.q_marginal, forward.q_step, schedule.Schedule.at])
def a_jump_has_the_marginal(schedule: Schedule, t: Time, x0: Points, eps: Points):
    """q_sample's mean and spread are those of q_marginal, at t and at 0; one step is a jump of one."""
    for_eps = forward.q_sample(schedule, x0, t, eps)
    mean, var = forward.q_marginal(schedule, x0, t)
    clean, (same, nothing) = forward.q_sample(schedule, x0, 0, eps), forward.q_marginal(schedule, x0, 0)
    one = forward.q_step(schedule, x0, 1, eps)
    left, right = (for_eps, clean, same, nothing, one), (mean + np.sqrt(var) * eps, x0, x0, np.zeros(()))
    return left, (*right, forward.q_sample(schedule, x0, 1, eps)), (6.0,) * 5


@law("DDPM (2) and (4)", of=[forward.q_step, forward.q_marginal])
def steps_compose_to_the_jump(schedule: Schedule, t: Time, x0: Points):
    """q_step, t times over: its mean and (response by response) its variance are the marginal's."""
    mean, responses = x0, np.zeros((t, 1))
    for i in range(1, t + 1):
        mean = forward.q_step(schedule, mean, i, 0 * x0)
        responses = forward.q_step(schedule, responses, i, np.eye(t)[:, i - 1 : i])
    expected, var = forward.q_marginal(schedule, x0, t)
    return (mean, (responses**2).sum()), (expected, float(var)), (3.0, 1.0)


@law("DDPM (6)-(7)", of=[forward.q_posterior, schedule.Schedule.pair])
def posterior_is_bayes_over_the_whole_chain(schedule: Schedule, t: Time, s: Earlier, x0: Number, x_t: Number):
    """Conditioning the joint Gaussian of (x_1 .. x_t) given x_0 on x_t gives q_posterior, at every s < t."""
    from_noise = np.zeros((t, t))  # x_i = √ᾱ_i x_0 + Σ_j from_noise[i, j] z_j
    for i in range(t):
        beta = schedule.beta[i + 1]
        from_noise[i] = math.sqrt(1 - beta) * from_noise[i - 1] if i else 0.0
        from_noise[i, i] = math.sqrt(beta)
    mu = np.sqrt(schedule.alpha_bar[1 : t + 1]) * x0
    mean, cov = gaussian.condition_joint(mu, from_noise @ from_noise.T, [t - 1], np.array([x_t]))
    by_bayes = (mean[s - 1], cov[s - 1, s - 1]) if s else (x0, 0.0)
    one = np.ones((1, 1))
    got, var = forward.q_posterior(schedule, x0 * one, x_t * one, t, s)
    size = 6 + 6 * math.sqrt(schedule.alpha_bar[s] / schedule.alpha_bar[t])
    return (got.item(), var.item()), by_bayes, (size, 1.0)


@law("DDPM (7)", of=[forward.posterior_mean_coefs, forward.posterior_var, forward.step_var], exact=True)
def posterior_is_bayes_for_one_pair(schedule: Schedule, t: Time, s: Earlier, x0: Number, x_t: Number):
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0), with not a digit lost."""
    ab_s, ab_t = schedule.alpha_bar[s], schedule.alpha_bar[t]
    signal, step = forward.root(ab_s), forward.root(ab_t / ab_s)
    bayes = gaussian.condition(signal * x0, 1 - ab_s, step, x_t, forward.step_var(ab_s, ab_t))
    of_x0, of_xt = forward.posterior_mean_coefs(ab_s, ab_t)
    return (of_x0 * x0 + of_xt * x_t, forward.posterior_var(ab_s, ab_t)), bayes, (1 + abs(x0) + abs(x_t), 1)


@law("DDPM (2)", of=[forward.step_var, schedule.Schedule.pair], exact=True)
def step_variance_is_beta(schedule: Schedule, t: Time):
    """1-α_{t|s} is β_t at s = t-1, which is where a step goes unless told, and 1-ᾱ_t at s = 0."""
    left = (forward.step_var(*schedule.pair(t)), forward.step_var(*schedule.pair(t, 0)))
    return left, (schedule.beta[t], 1 - schedule.alpha_bar[t]), (1, 1)


@law("arithmetic", of=[forward.root], exact=True)
def root_squares_back(u: Unit):
    """√(u²) = u."""
    return forward.root(u * u), u, 1


@law("DDPM (15); v: Salimans & Ho section 4", of=[forward.x0_from_eps, forward.eps_from_x0])
def eps_and_x0_round_trip(schedule: Schedule, t: Times, x_t: Points, eps: Points):
    """ε -> x_0 -> ε, and x_0 and ε mixed again are x_t."""
    x0 = forward.x0_from_eps(schedule, x_t, t, eps)
    again = forward.eps_from_x0(schedule, x_t, t, x0)
    size = 6 / np.sqrt(schedule.alpha_bar[t] * (1 - schedule.alpha_bar[t]))[:, None]
    return (again, forward.q_sample(schedule, x0, t, eps)), (eps, x_t), (size, size)


@law("Salimans & Ho, section 4", of=[forward.v_from_eps, forward.eps_from_v])
def v_is_a_rotation(schedule: Schedule, t: Times, x0: Points, eps: Points):
    """(x_t, v) is (x_0, ε) turned by an angle: norms agree, v = √ᾱ ε - √(1-ᾱ) x_0, and ε comes back."""
    x_t = forward.q_sample(schedule, x0, t, eps)
    v = forward.v_from_eps(schedule, x_t, t, eps)
    a, b = schedule.signal_scale[t][:, None], schedule.noise_scale[t][:, None]
    left = (x_t**2 + v**2, v, forward.eps_from_v(schedule, x_t, t, v))
    return left, (x0**2 + eps**2, a * eps - b * x0, eps), (40 / a**2, 12 / a, 12 / a)


@law("ADM (11)", of=[forward.score_from_eps, forward.eps_from_score])
def score_points_against_the_noise(schedule: Schedule, t: Times, x0: Points, eps: Points):
    """-ε/√(1-ᾱ) is the slope of ln q(x_t | x_0), and back."""
    x_t = forward.q_sample(schedule, x0, t, eps)
    mean, var = forward.q_marginal(schedule, x0, t)
    score = forward.score_from_eps(schedule, t, eps)
    scale = 12 / var
    return (score, forward.eps_from_score(schedule, t, score)), (gaussian.score(x_t, mean, var), eps), (scale, 6.0)


@law("IEEE 754", of=[forward.coef], tol=2**-24 * 1.001)
def one_rounding_at_the_door(schedule: Schedule, t: Times):
    """A table's entry reaches float32 data, of any shape, rounded once, and leaves it float32."""
    x, numbers = np.ones((4, 2, 3, 1), np.float32), 1 - schedule.alpha_bar[t]
    many, one = forward.coef(numbers, x), forward.coef(numbers[0], x)
    if many.shape != (4, 1, 1, 1) or one.shape != () or not (many * x).dtype == (one * x).dtype == np.float32:
        raise LawBroken(f"coef gave {many.shape} {many.dtype} and {one.shape} {one.dtype} for float32 data {x.shape}")
    return (many[:, 0, 0, 0].astype(np.float64), float(one)), (numbers, numbers[0])
