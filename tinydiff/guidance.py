"""Guidance: lean on the score, so that samples go where a label says.

    ∇ ln p_t(x|y) = ∇ ln p_t(x) + ∇ ln p_t(y|x)

is Bayes' rule, its constant gone. A classifier that has seen noise gives the last term, and so does a network that was
trained with labels and without: it is the difference of its two scores. Counted more than once, it sharpens.

At each t, `scale` times that term makes the score of p_t(x) p_t(y|x)^scale. For scale = 1 these are the noised versions
of p(x|y), which is what comes out. For another scale they are the noised versions of nothing, and what comes out is not
p(x) p(y|x)^scale (Bradley & Nakkiran 2024, arXiv:2408.09000).

All of it takes ε̂ and returns ε̂, so that every sampler and solver takes it unchanged.
"""
import numpy as np

from . import forward, sampler
from .forward import coef
from .tensor import autodiff, ops, tree

# With a classifier


def log_prob_grad(logits_fn, y):
    """∇_x ln softmax(logits)_y of a classifier: the function (x, t) -> (B, ...) that guidance asks.

    The sum over the examples is differentiated: none sees another, so each gets the gradient of its own.
    Source : Dhariwal & Nichol 2021, arXiv:2105.05233, section 4 (∇ log p_φ(y|x_t)); log-sum-exp: it cannot overflow.
    logits_fn: (x (B, ...), t) -> (B, K), trained on noised data; y: a label or (B,) labels in 0..K-1, on the host.
    Raises : ValueError for a label that the classifier has not got.
    """

    def log_prob(x, t):
        return ops.sum(_log_prob(logits_fn(x, t), y))

    return lambda x, t: autodiff.grad(log_prob)(x, t)


def classifier_loss(logits_fn, schedule, x0, t, eps, y):
    """-E ln p(y | x_t): what a classifier learns by that is to be asked of x_t, at every t.

    Source : Dhariwal & Nichol 2021, arXiv:2105.05233, section 4 (a classifier trained on noised images).
    logits_fn: see `log_prob_grad`. x0, eps: (B, ...); t: (B,) in 1..T; y: (B,) labels.
    """
    x_t = forward.q_sample(schedule, x0, t, eps)
    return -ops.mean(_log_prob(logits_fn(x_t, t), y))


def _log_prob(logits, y):
    """ln softmax(logits)_y: (B,). Raises ValueError for a label that there is no logit for."""
    y, classes = np.reshape(y, (-1, 1)), logits.shape[-1]
    if np.any((y < 0) | (y >= classes)):
        raise ValueError(f"labels must be in 0..{classes - 1}, got {y.min()}..{y.max()}")
    chosen = autodiff.xp_of(logits).asarray(y == np.arange(classes), dtype=logits.dtype)
    return ops.sum(chosen * ops.log_softmax(logits), axis=-1)


def classifier(eps_fn, process, log_prob_grad, scale=1.0):
    """ε̂ - scale √(1-ᾱ_t) ∇ ln p(y|x_t), with ε̂ unconditional; scale = 0 leaves it so, 1 is the exact condition.

    Source : Dhariwal & Nichol 2021, arXiv:2105.05233, eq. (14) and Algorithm 2; in any process, Song et al. 2021,
             arXiv:2011.13456, section 5.
    process: of sde.py, for its noise b(t): `sde.Chain(schedule)` is a DDPM, where b = √(1-ᾱ), t whole or real.
    log_prob_grad: (x_t, t) -> (B, ...); scale: a number, or one for each example (B,).
    """

    def guided(x_t, t):
        return eps_fn(x_t, t) - coef(scale * process.noise(t), x_t) * log_prob_grad(x_t, t)

    return guided


def mean_shift(eps_fn, schedule, log_prob_grad, scale=1.0, steps=None, v=1.0, at_mean=True):
    """`sample_ddpm`'s mean moved to μ + scale σ² ∇ ln p(y|x), σ² the variance of its step, said as a shift of ε̂.

        ε̂ - scale √α_{t|s} √(1-ᾱ_t) (σ²/β_{t|s}) ∇ ln p(y|x)

    As the derivation has it, the gradient is taken where the step arrives: at μ, and at time s (at 1 for s = 0, the
    least noise that a classifier has seen). The algorithm as printed, and its released code, take it at x_t and t: so
    does at_mean=False. The two, and `classifier`, differ by O(β²) in the mean of a step.
    Source : Dhariwal & Nichol 2021, arXiv:2105.05233, Algorithm 1 and section 4.1.
    steps, v: those given to `sample_ddpm`; scale: a number or (B,).
    Raises : ValueError for a t that those steps do not visit.
    """
    times = sampler.timesteps(schedule.T, steps)
    after = np.full(schedule.T + 1, -1)
    after[times[:-1]] = times[1:]

    def guided(x_t, t):
        alpha_bar_t, s = schedule.at(t), after[t]
        if np.any(s < 0):
            raise ValueError(f"t = {t} is not visited in {len(times) - 1} steps; give mean_shift the sampler's steps")
        alpha_bar_s, eps_hat = schedule.at(s, lowest=0), eps_fn(x_t, t)
        share = sampler.reverse_var(alpha_bar_s, alpha_bar_t, v) / forward.step_var(alpha_bar_s, alpha_bar_t)
        shift = scale * np.sqrt(alpha_bar_t / alpha_bar_s * (1 - alpha_bar_t)) * share
        place = (sampler.ddpm_step(schedule, x_t, t, s, eps_hat), np.maximum(s, 1)) if at_mean else (x_t, t)
        return eps_hat - coef(shift, x_t) * log_prob_grad(*place)

    return guided


# Without


def classifier_free(cond_fn, uncond_fn, w):
    """(1+w) ε̂(x_t|y) - w ε̂(x_t): w = 0 is the conditional ε̂, w = -1 the unconditional, exactly.

    It is `classifier` with scale = 1 + w, the classifier being p(x_t|y)/p(x_t). Many programs count from 1 instead:
    uncond + g (cond - uncond), g = 1 + w (Imagen's w, the guidance_scale of diffusers, 7.5 by custom).
    The weights sum to 1, so what is guided may as well be the x̂_0, v or μ̃ that ε̂ is made from.
    Source : Ho & Salimans 2022, arXiv:2207.12598, eq. (6).
    w      : a number, or one for each example (B,).
    """
    return lambda x_t, t: _lean(cond_fn(x_t, t), uncond_fn(x_t, t), w)


def classifier_free_at_once(labelled_fn, label, null, w):
    """`classifier_free` of one network that takes labels, asked once, on a doubled batch.

    Source : Ho & Salimans 2022, arXiv:2207.12598, Algorithm 2 and eq. (6), with null for its ∅.
    labelled_fn: (x, t, label) -> (B, ...). label: (B, ...), or a tree of such (a context and its mask); null: like it,
             or one example of it (1, ...), or one number for all.
    """

    def double(given, none):
        xp = autodiff.xp_of(given)
        return xp.concatenate([given, xp.broadcast_to(xp.asarray(none, dtype=given.dtype), given.shape)])

    labels = tree.map(double, label, null)

    def guided(x_t, t):
        times = np.concatenate([t, t]) if np.ndim(t) else t
        both = labelled_fn(ops.concatenate([x_t, x_t], axis=0), times, labels)
        return _lean(both[: len(x_t)], both[len(x_t) :], w)

    return guided


def _lean(cond, uncond, w):
    return coef(1 + w, cond) * cond - coef(w, cond) * uncond
