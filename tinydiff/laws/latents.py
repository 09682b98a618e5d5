"""The variational autoencoder, and the diffusion of its codes.

With a linear decoder all of a VAE is known: the evidence ln N(x; 0, W Wᵀ + s² I), the posterior, and the bound, a
polynomial of degree two in ε whose mean the nodes of `matching.normal` give exactly, through the code itself.
"""
import math

import numpy as np

from .. import elbo, forward, gaussian, latent, loss, oracle, sampler, vae
from .. import schedule as schedules
from ..tensor import autodiff, ops
from .domains import (
    Batches,
    Flag,
    Kind,
    Loadings,
    Number,
    Points,
    Schedule,
    ShortSchedule,
    Time,
    Times,
    Triple,
    Unit,
    Variance,
)
from .law import LawBroken, law
from .matching import normal

NODES = normal(2)
ROWS = np.ones((len(NODES), 1))

# The posterior


@law("Kingma & Welling (10), appendix B", of=[vae.kl, gaussian.kl])
def the_kl_is_the_gaussians(mu: Points, log_var: Points):
    """KL(N(μ, σ²) || N(0, I)) is -½ Σ (1 + ln σ² - μ² - σ²), and E_q[ln q - ln p] by quadrature, for each example."""
    by_paper = -0.5 * (1 + log_var - mu**2 - np.exp(log_var)).sum(1)
    z = mu + np.exp(log_var / 2) * NODES[:, None]
    excess = gaussian.log_density(z, mu, np.exp(log_var)) - gaussian.log_density(z, 0.0, 1.0)
    ours, size = vae.kl(mu, log_var), (10 + mu**2 + np.exp(log_var)).sum(1)
    return (ours, ours), (by_paper, excess.sum(-1).mean(0)), (size, size)


@law("Kingma & Welling (10): Σ over latent coordinates", of=[vae.kl])
def the_kl_is_summed_over_coordinates(mu: Points, log_var: Points, copies: Batches):
    """As many copies of a code, whatever its shape, cost as many times its KL; a sure one, σ² → 0, ½ ln 1/σ² each."""
    alike = [np.tile(a[:, None, :, None], (1, copies, 1, 3)) for a in (mu, log_var)]
    sure = vae.kl(0 * mu, 0 * mu - 40.0)
    size = (10 + mu**2 + np.exp(log_var)).sum(1)
    left = vae.kl(*alike), sure
    return left, (3 * copies * vae.kl(mu, log_var), np.full(4, 2 * 0.5 * (40 - 1))), (3 * copies * size, 40.0)


@law("Kingma & Welling section 2.4", of=[vae.reparameterise])
def the_reparameterised_gradient_is_the_closed_form(mu: Points, log_var: Points, a: Number, b: Number, c: Number):
    """∇ E[a z + b z² + c z⁴] by the tape, at the nodes of ε, is that of the moments of N(μ, σ²) by hand."""
    params, var = {"mu": mu, "log_var": log_var}, np.exp(log_var)

    def mean(params):
        z = vae.reparameterise(*(ops.reshape(params[name], (1, 4, 2)) for name in ("mu", "log_var")), NODES[:, None])
        return ops.sum(ops.mean(a * z + b * z**2 + c * z**4, axis=0))

    value, grads = autodiff.value_and_grad(mean)(params)
    fourth = mu**4 + 6 * mu**2 * var + 3 * var**2
    by_hand = (
        (a * mu + b * (mu**2 + var) + c * fourth).sum(),
        a + 2 * b * mu + c * (4 * mu**3 + 12 * mu * var),
        b * var + c * (6 * mu**2 + 6 * var) * var,
    )
    size = 50 * (1 + abs(mu) + np.sqrt(var)) ** 4
    return (value, grads["mu"], grads["log_var"]), by_hand, (size.sum(), size, size)


# The bound of a linear-Gaussian model: x = W z + noise of variance s², z ~ N(0, I)


def expected_bound(x, W, mu, log_var, noise_var):
    """E over ε of the bound, for one x, and the sum of the magnitudes in it."""
    bound = vae.bound(ROWS * x, lambda z: z @ W.T, ROWS * mu, ROWS * log_var, NODES, noise_var)
    reach = abs(x) + abs(W) @ (abs(mu) + 2 * np.exp(log_var / 2))
    return bound.mean(), 10 + (reach**2).sum() / noise_var + abs(np.log(noise_var)) + (mu**2 + np.exp(log_var)).sum()


def evidence(x, W, noise_var):
    """ln N(x; 0, W Wᵀ + s² I)."""
    cov = W @ W.T + noise_var * np.eye(3)
    return -0.5 * (3 * math.log(2 * math.pi) + np.linalg.slogdet(cov)[1] + x @ np.linalg.solve(cov, x))


def posterior(x, W, noise_var):
    """Mean and precision of p(z | x)."""
    precision = np.eye(2) + W.T @ W / noise_var
    return np.linalg.solve(precision, W.T @ x / noise_var), precision


def turned(angles):
    """A rotation of space: its columns are orthogonal."""
    Q = np.eye(3)
    for angle, (i, j) in zip(angles, [(0, 1), (1, 2), (0, 2)], strict=True):
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
        Q = Q @ turn
    return Q


@law("Kingma & Welling (2)-(3), (10)", of=[vae.bound], kind="<=")
def the_bound_is_below_the_evidence(x: Triple, W: Loadings, q: Points, noise_var: Variance):
    """E[bound] <= ln p(x), whatever q."""
    bound, size = expected_bound(x, W, q[0], q[1], noise_var)
    return bound, evidence(x, W, noise_var), size


@law("Kingma & Welling (1)", of=[vae.bound, vae.kl, vae.reparameterise])
def the_gap_is_the_kl_to_the_posterior(x: Triple, W: Loadings, q: Points, noise_var: Variance):
    """ln p(x) - E[bound] = KL(q || p(z | x)), the posterior's covariance being full."""
    mu, log_var = q[:2]
    bound, size = expected_bound(x, W, mu, log_var, noise_var)
    mean, precision = posterior(x, W, noise_var)
    off, det = mu - mean, np.linalg.slogdet(precision)[1]
    gap = 0.5 * (np.diag(precision) @ np.exp(log_var) - 2 + off @ precision @ off - det - log_var.sum())
    return evidence(x, W, noise_var) - bound, gap, size


@law("Kingma & Welling (1), (10)", of=[vae.bound])
def orthogonal_columns_close_the_gap(x: Triple, turns: Triple, stretch: Triple, noise_var: Variance):
    """If the columns of W are orthogonal, p(z | x) has independent coordinates, and as q meets the evidence."""
    W = turned(turns)[:, :2] * stretch[:2]
    mean, precision = posterior(x, W, noise_var)
    bound, size = expected_bound(x, W, mean, -np.log(np.diag(precision)), noise_var)
    return bound, evidence(x, W, noise_var), size


@law("Kingma & Welling (1); Hadamard's inequality", of=[vae.negative_bound, vae.bound])
def the_best_independent_posterior(x: Triple, W: Loadings, noise_var: Variance):
    """With P the posterior's precision, the best q is N(its mean, 1/P_ii); it misses ½ [Σ ln P_ii - ln det P] nats.

    There the gradient with respect to μ and ln σ² is zero.
    """
    mean, precision = posterior(x, W, noise_var)
    variances = np.diag(precision)

    def cost(q):
        mu, log_var = (ROWS * ops.reshape(q[name], (1, 2)) for name in ("mu", "log_var"))
        return vae.negative_bound(ROWS * x, lambda z: ops.matmul(z, W.T), mu, log_var, NODES, noise_var)

    value, grads = autodiff.value_and_grad(cost)({"mu": mean, "log_var": -np.log(variances)})
    _, size = expected_bound(x, W, mean, -np.log(variances), noise_var)
    gap = 0.5 * (np.log(variances).sum() - np.linalg.slogdet(precision)[1])
    left = value + evidence(x, W, noise_var), grads["mu"], grads["log_var"]
    return left, (gap, np.zeros(2), np.zeros(2)), (size, size, size)


def gradients(x, W, mu, log_var, noise_var, beta=1.0):
    """-E[bound], and its gradients with respect to W, μ and ln σ²."""

    def cost(p):
        mu, log_var = (ROWS * ops.reshape(p[name], (1, 2)) for name in ("mu", "log_var"))
        return vae.negative_bound(
            ROWS * x, lambda z: ops.matmul(z, ops.transpose(p["W"])), mu, log_var, NODES, noise_var, beta
        )

    value, grads = autodiff.value_and_grad(cost)({"W": W, "mu": mu, "log_var": log_var})
    return value, grads["W"], grads["mu"], grads["log_var"]


@law("Kingma & Welling (8), (10)", of=[vae.negative_bound, vae.bound, vae.reparameterise])
def the_vae_learns_by_the_closed_form(x: Triple, W: Loadings, q: Points, noise_var: Variance, beta: Variance):
    """-E[bound] is (‖x - Wμ‖² + tr W Σ Wᵀ)/2s² + ½ · 3 ln 2πs² + β KL, and its gradients by the tape are those by hand.

    ∂W = ((Wμ - x) μᵀ + W Σ)/s²,  ∂μ = Wᵀ(Wμ - x)/s² + βμ,  ∂ ln σ²_i = ½ [σ_i² ‖W_i‖²/s² + β (σ_i² - 1)]
    """
    mu, log_var = q[:2]
    var, off = np.exp(log_var), W @ mu - x
    squares = (W**2).sum(0)
    kl = 0.5 * (mu**2 + var - 1 - log_var).sum()
    by_hand = (
        (off @ off + squares @ var) / (2 * noise_var) + 1.5 * math.log(2 * math.pi * noise_var) + beta * kl,
        (np.outer(off, mu) + W * var) / noise_var,
        W.T @ off / noise_var + beta * mu,
        0.5 * (var * squares / noise_var + beta * (var - 1)),
    )
    _, size = expected_bound(x, W, mu, log_var, noise_var)
    size = 5 * (1 + beta) * size
    return gradients(x, W, mu, log_var, noise_var, beta), by_hand, (size,) * 4


@law("Higgins et al. section 2", of=[vae.negative_bound, vae.bound])
def beta_is_a_noise_variance(x: Triple, W: Loadings, q: Points, noise_var: Variance, beta: Variance):
    """The gradient with weight β and variance s² is β times that with weight 1 and variance β s²."""
    _, *weighed = gradients(x, W, q[0], q[1], noise_var, beta)
    _, *plain = gradients(x, W, q[0], q[1], beta * noise_var)
    _, size = expected_bound(x, W, q[0], q[1], noise_var)
    return tuple(weighed), tuple(beta * grad for grad in plain), (5 * (1 + beta) * size,) * 3


@law("Kingma & Welling (10); DDPM (5)", of=[vae.bound, elbo.prior_kl, elbo.reconstruction])
def a_diffusion_of_one_step_is_a_vae(u: Unit, x0: Points, eps: Points, w: Number, var_1: Variance):
    """With T = 1 DDPM's bound is that of a VAE whose encoder, N(√ᾱ x_0, 1-ᾱ), is not learned."""
    chain = schedules.Schedule([0.1 + 0.8 * u])
    ab = chain.alpha_bar[1]

    def decode(z):
        return forward.x0_from_eps(chain, z, 1, w * z + 0.1)

    x_1 = forward.q_sample(chain, x0, 1, eps)
    log_var = np.full_like(x0, math.log1p(-ab))
    last = elbo.reconstruction(chain, x0, x_1, w * x_1 + 0.1, var_1, gaussian.log_density)
    size = 10 + 500 * (1 + w * w) / ab / var_1
    return vae.bound(x0, decode, math.sqrt(ab) * x0, log_var, eps, var_1), -elbo.prior_kl(chain, x0) - last, size


# Latents


@law("LDM appendix G", of=[latent.latent_scale, latent.encode])
def scaled_latents_have_unit_variance(mu: Points, log_var: Points, eps: Points, a: Variance, b: Number):
    """Draws times their scale have a variance of 1 over all components together; a z + b has the scale of z over a."""
    mu = mu + 10 * np.arange(4)[:, None]

    def encoder(x):
        return x, log_var

    z = mu + np.exp(log_var / 2) * eps
    scale = latent.latent_scale(latent.encode(encoder, 1.0, mu, eps))
    scaled = latent.encode(encoder, scale, mu, eps)
    mean = math.fsum(scaled.ravel()) / 8
    left = math.fsum((scaled.ravel() - mean) ** 2) / 8, scaled, latent.encode(encoder, scale, mu)
    left = (*left, latent.latent_scale(a * z + b))
    return left, (1.0, z * scale, mu * scale, scale / a), (1 + mean**2, 1 + abs(z) * scale, 10.0, 10 * scale / a)


@law("LDM section 3.1 and appendix G", of=[latent.encode, latent.decode])
def a_point_comes_back_through_its_latent(schedule: ShortSchedule, x0: Number, x_T: Number, a: Variance, s: Variance):
    """x -> a x + 1 -> times s, and all the way back: what one point's latent diffusion returns is decoded to the point.

    Without the diffusion, decoding what was encoded gives it back too.
    """
    x = np.full((1, 1), x0)

    def decoder(z):
        return (z - 1) / a

    z = latent.encode(lambda x: (a * x + 1, None), s, x)
    *_, sample = sampler.sample_ddim(oracle.finite(schedule, z), schedule, np.full((1, 1), x_T))
    size = 10 * (1 + a + 1 / s) / a / schedule.signal_scale[-1]
    return (latent.decode(decoder, s, sample), latent.decode(decoder, s, z)), (x, x), (size, size)


@law("LDM (2)", of=[latent.l_latent, latent.encode])
def the_latent_loss_of_a_linear_model(
    schedule: Schedule, t: Time, x: Points, eps: Points, log_var: Points, a: Number, s: Variance, w: Number
):
    """For E(x) ~ N(a x, σ²) and f(z) = w z, E over E(x) of L_LDM is E[(ε - w z̄_t)² + w² ᾱ s² σ²], z̄_t from s a x.

    Its gradient is -2 E[z̄_t (ε - w z̄_t)] + 2 w ᾱ s² E[σ²].
    """
    rows, var = len(NODES), np.exp(log_var)

    def cost(w):
        def tiled(array):
            return np.tile(array, (rows, 1))

        return latent.l_latent(
            lambda z, t: w * z, schedule, lambda x: (a * x, tiled(log_var)), s, tiled(x), np.full(4 * rows, t),
            tiled(eps), np.repeat(NODES, 4, axis=0),
        )  # fmt: skip

    value, grad = autodiff.value_and_grad(cost)(np.float64(w))
    ab = schedule.alpha_bar[t]
    z_t = math.sqrt(ab) * s * a * x + math.sqrt(1 - ab) * eps
    miss, spread = eps - w * z_t, ab * s * s * var
    by_hand = np.mean(miss**2 + w * w * spread), 2 * np.mean(w * spread - z_t * miss)
    size = 10 * np.mean((3 + 3 * (abs(z_t) + 2 * np.sqrt(spread))) ** 2)
    return (value, grad), by_hand, (size, size)


@law("LDM (1)-(2)", of=[latent.l_latent, latent.encode, latent.decode], tol=0.0)
def the_identity_autoencoder_is_the_diffusion_of_pixels(
    schedule: ShortSchedule, t: Times, x: Points, eps: Points, w: Number, kind: Kind, seed: Batches, single: Flag,
    drawn: Flag,
):  # fmt: skip
    """With E(x) = x and scale 1: loss, gradient, and samples of DDPM and DDIM are those of pixels, to the last bit.

    Samples are drawn with the exact denoiser of the latents. The identity has no noise: no ε is given, or σ is 0.
    """
    x, eps, w = (np.asarray(a, np.float32 if single else np.float64) for a in (x, eps, w))
    z_eps, loss_of = (eps[::-1], (kind, "min_snr")) if drawn else (None, (kind,))

    def identity(x):
        return x, np.full_like(x, -np.inf)

    def predict(w):
        return lambda x_t, t: w * x_t + w * w

    def of_pixels(w):
        return loss.l_simple(predict(w), schedule, x, t, eps, *loss_of)

    def of_latents(w):
        return latent.l_latent(predict(w), schedule, identity, 1.0, x, t, eps, z_eps, *loss_of)

    def samples(points):
        eps_fn = oracle.finite(schedule, points)
        for sample in (sampler.sample_ddpm, sampler.sample_ddim):
            *_, x0 = sample(eps_fn, schedule, eps, np.random.default_rng(seed))
            yield x0

    decoded = [latent.decode(lambda z: z, 1.0, z) for z in samples(latent.encode(identity, 1.0, x, z_eps))]
    left, right = autodiff.value_and_grad(of_latents)(w), autodiff.value_and_grad(of_pixels)(w)
    if {np.result_type(a) for a in (*left, *decoded)} != {w.dtype}:
        raise LawBroken(f"{w.dtype} became {[np.result_type(a) for a in (*left, *decoded)]}")
    return (*left, *decoded), (*right, *samples(x))


@law("IEEE 754", of=[vae.kl, vae.bound, vae.negative_bound, vae.reparameterise, latent.encode, latent.decode], tol=1e-5)
def codes_in_single_precision_stay_single(x: Points, mu: Points, log_var: Points, eps: Points, noise_var: Variance):
    """Float32 in, float32 out, whatever the decoder's variance and the scale, and float64's answer."""

    def answers(number):
        x_, mu_, log_var_, eps_ = (number(a) for a in (x, mu, log_var, eps))
        scale = latent.latent_scale(x_ + number([[0], [9], [18], [27]]))
        yield vae.reparameterise(mu_, log_var_, eps_)
        yield vae.kl(mu_, log_var_)
        yield vae.bound(x_, lambda z: z + x_, mu_, log_var_, eps_, noise_var, 0.1)
        yield vae.negative_bound(x_, lambda z: z + x_, mu_, log_var_, eps_, noise_var * np.arange(1, 5))
        yield latent.encode(lambda x: (x, log_var_), scale, mu_, eps_)
        yield latent.decode(lambda z: z, scale, x_)

    single, double = tuple(answers(np.float32)), tuple(answers(np.float64))
    if {answer.dtype for answer in single} != {np.dtype(np.float32)}:
        raise LawBroken(f"float32 became {[answer.dtype for answer in single]}")
    size = 500 * (1 + 1 / noise_var)
    return single, double, (20.0, 100.0, size, size, 20.0, 100.0)
