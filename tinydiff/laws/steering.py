"""Guidance and editing, against densities and chains that are known exactly."""
import math
from collections import Counter
from itertools import pairwise

import numpy as np

from .. import editing, forward, gaussian, guidance, loss, oracle, sampler, sde
from .. import schedule as schedules
from ..tensor import autodiff, ops
from .continuous import eps_of, inner
from .domains import (
    Chain,
    Factor,
    Flag,
    GentleSchedule,
    Kind,
    Label,
    Mixture,
    Number,
    Pictures,
    Points,
    Process,
    Schedule,
    ShortSchedule,
    Skips,
    Time,
    Times,
    Unit,
    Variance,
)
from .law import LawBroken, law
from .reverse import _Impulse, propagate

# Guidance: exact classifiers


def component(mixture, y):
    """The data of label y alone, as a mixture of one."""
    _, means, variances = mixture
    return [1.0], means[y : y + 1], variances[y : y + 1]


def logits_of(process, mixture):
    """The exact noise-conditional classifier of one-dimensional mixture data: ln w_k N(x; component k noised to u)."""
    weights, means, variances = mixture

    def logits_fn(x, u):
        a, b = (np.reshape(f(u), (-1, 1)) for f in (process.signal, process.noise))
        return np.log(weights) + gaussian.log_density(x, a * means[:, 0], a * a * variances + b * b)

    return logits_fn


def posterior_grad(process, mixture, y):
    return guidance.log_prob_grad(logits_of(process, mixture), y)


@law("Dhariwal & Nichol (14)", of=[guidance.classifier, guidance.log_prob_grad], kind=2, tol=0.1)
def the_guided_score_is_that_of_the_tilted_density(
    gentle: GentleSchedule, mixture: Mixture, y: Label, more: Unit, x: Number, n=50
):
    """-ε̂/√(1-ᾱ_t) is the slope of ln p_t(x) + scale ln p_t(y|x), by central differences of step 1/n."""
    t, at, scale = gentle.T, x + np.linspace(-2, 2, 9)[:, None], 1.5 + more

    def log_tilted(x):
        log_p, log_p_y = (oracle.mixture_log_density(gentle, x, t, *m) for m in (mixture, component(mixture, y)))
        return log_p + scale * (log_p_y - log_p)

    chain = sde.Chain(gentle)
    guided = guidance.classifier(oracle.mixture(gentle, *mixture), chain, posterior_grad(chain, mixture, y), scale)
    slope = forward.score_from_eps(gentle, t, guided(at, t))[:, 0]
    return (log_tilted(at + 1 / n) - log_tilted(at - 1 / n)) * n / 2, slope


@law("Bayes", of=[guidance.classifier, guidance.log_prob_grad])
def a_scale_of_one_is_the_condition(schedule: Schedule, t: Times, x: Points, mixture: Mixture, y: Label):
    """Of exact scores, scale = 1 (as it is unless given) makes the ε̂ of that component of the data alone."""
    x, chain = x[:, :1], sde.Chain(schedule)
    guided = guidance.classifier(oracle.mixture(schedule, *mixture), chain, posterior_grad(chain, mixture, y))
    right = oracle.mixture(schedule, *component(mixture, y))(x, t)
    return guided(x, t), right, 100.0


@law("Bayes; Song et al. section 5", of=[guidance.classifier])
def a_scale_of_one_is_the_condition_in_any_process(
    process: Process, u: Unit, x: Points, mixture: Mixture, y: Label
):
    """The same in continuous time, whatever the process."""
    x, u = x[:, :1], inner(process, u)
    guided = guidance.classifier(eps_of(process, mixture), process, posterior_grad(process, mixture, y), 1.0)
    return guided(x, u), eps_of(process, component(mixture, y))(x, u), 100.0


@law("softmax", of=[guidance.log_prob_grad])
def each_example_gets_its_own_gradient(x: Points, W: Points, t: Unit, y: Label, far: Flag):
    """Logits x W t have the gradient (e_y - softmax) (W t)ᵀ, also where the label is beyond belief."""
    W, labels = W.T[:, :3] * t * (300 if far else 1), np.array([y, 0, 1, 2])
    logits = x @ W
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    grads = [guidance.log_prob_grad(lambda x, t: ops.matmul(x, W), labels)(x, t)]
    grads.append(guidance.log_prob_grad(lambda x, t: ops.matmul(x, W), y)(x, t))
    right = tuple((np.eye(3)[of] - p) @ W.T for of in (labels, [y] * 4))
    size = (1 + abs(logits).max()) * abs(W).sum()
    return tuple(grads), right, (size, size)


@law("cross-entropy", of=[guidance.classifier_loss])
def gradient_of_a_linear_classifier(schedule: Schedule, t: Times, x0: Points, eps: Points, W: Points, y: Label):
    """For the logits x_t W, the gradient of -E ln p(y | x_t) is x_tᵀ (softmax - e_y) / B."""
    W, labels = W.T[:, :3], np.array([y, 0, 1, 2])
    x_t = np.sqrt(schedule.alpha_bar[t])[:, None] * x0 + np.sqrt(1 - schedule.alpha_bar[t])[:, None] * eps
    p = np.exp(x_t @ W)
    p /= p.sum(1, keepdims=True)

    def cost(W):
        return guidance.classifier_loss(lambda x, t: ops.matmul(x, W), schedule, x0, t, eps, labels)

    value, grad = autodiff.value_and_grad(cost)(W)
    return (value, grad), (-np.mean(np.log(p[np.arange(4), labels])), x_t.T @ (p - np.eye(3)[labels]) / 4), (50.0, 50.0)


@law(
    "Ho & Salimans (6)",
    of=[guidance.classifier, guidance.mean_shift, guidance.classifier_free, guidance.classifier_free_at_once],
    tol=0.0,
)
def no_weight_no_guidance(schedule: Schedule, t: Time, x: Points, cond: Points, uncond: Points):
    """scale = 0 is the unconditional ε̂ bit for bit, w = 0 the conditional, w = -1 the unconditional."""

    def labelled(x, t, label):
        return np.where(label[:, None] == 1, cond[: len(x)], uncond[: len(x)]) if len(x) == 4 else both

    both, label = np.concatenate([cond, uncond]), np.ones(4, int)
    chain = sde.Chain(schedule)
    left = [guidance.classifier(lambda x, t: uncond, chain, lambda x, t: cond, 0.0)(x, t)]
    left.append(guidance.mean_shift(lambda x, t: uncond, schedule, lambda x, t: cond, 0.0)(x, t))
    for w in (0.0, -1.0):
        left.append(guidance.classifier_free(lambda x, t: cond, lambda x, t: uncond, w)(x, t))
        left.append(guidance.classifier_free_at_once(labelled, label, 0, w)(x, t))
    return tuple(left), (uncond, uncond, cond, cond, uncond, uncond)


@law("Ho & Salimans section 3.2", of=[guidance.classifier_free, guidance.classifier])
def classifier_free_is_the_classifier_of_the_two(
    schedule: Schedule, t: Times, x: Points, mixture: Mixture, y: Label, w: Number
):
    """Of exact scores, weight w is classifier guidance of scale 1 + w."""
    x, chain = x[:, :1], sde.Chain(schedule)
    eps_fn, cond = (oracle.mixture(schedule, *m) for m in (mixture, component(mixture, y)))
    by_classifier = guidance.classifier(eps_fn, chain, posterior_grad(chain, mixture, y), 1 + w)
    return guidance.classifier_free(cond, eps_fn, w)(x, t), by_classifier(x, t), 400.0


@law("Ho & Salimans (6)", of=[guidance.classifier_free_at_once, guidance.classifier_free, guidance.classifier])
def one_call_is_two(schedule: Schedule, t: Times, x: Points, label: Points, null: Points, w: Points):
    """One call on a doubled batch is two calls, for t, w and null of each example or of all, and for trees of labels.

    So is a weight for each example the same as that example alone.
    """

    def network(x, t, label):
        return np.sin(x + label["shift"]) * (1 + np.reshape(t, (-1, 1))) + label["part"][0]

    def tree(shift):
        return {"shift": shift, "part": [np.broadcast_to(shift.mean(1, keepdims=True), (len(shift), 1))]}

    def two(x, t, label, null, w):
        return guidance.classifier_free(lambda x, t: network(x, t, label), lambda x, t: network(x, t, null), w)(x, t)

    def one(x, t, label, null, w):
        return guidance.classifier_free_at_once(network, label, null, w)(x, t)

    weights, t_all = w[:, 0], int(t[0])
    left = [one(x, t, tree(label), tree(null), weights)]
    left.append(one(x, t_all, tree(label), tree(null[:1]), float(weights[0])))
    left.append(guidance.classifier(lambda x, t: x, sde.Chain(schedule), lambda x, t: label, weights)(x, t))
    each = [slice(i, i + 1) for i in range(4)]
    right = [np.concatenate([two(x[i], t[i], tree(label[i]), tree(null[i]), weights[i].item()) for i in each])]
    right.append(two(x, t_all, tree(label), tree(null[[0] * 4]), float(weights[0])))
    right.append(x - (weights * schedule.noise_scale[t])[:, None] * label)
    return tuple(left), tuple(right), (100.0, 100.0, 20.0)


@law("Ho & Salimans (6); DDPM (15)", of=[guidance.classifier_free, loss.eps_fn])
def any_guess_may_be_guided(
    schedule: Schedule, t: Times, x: Points, cond: Points, uncond: Points, w: Number, kind: Kind
):
    """The weights sum to 1: guiding x̂_0, v or μ̃ guides the ε̂ that is made from them."""

    networks = [lambda x, t: cond, lambda x, t: uncond]
    before = loss.eps_fn(guidance.classifier_free(*networks, w), schedule, kind)
    after = guidance.classifier_free(*(loss.eps_fn(network, schedule, kind) for network in networks), w)
    noise = schedule.noise_scale[t][:, None]
    slope = noise / schedule.beta[t][:, None] if kind == "mu" else 1 / noise
    return before(x, t), after(x, t), 50 * (1 / noise + slope)


# Guidance: a step's mean


@law("Dhariwal & Nichol Algorithm 1", of=[guidance.mean_shift])
def the_mean_moves_by_the_variance_times_the_gradient(
    schedule: Schedule, skip: Unit, which: Unit, v: Unit, scale: Number, x: Points, eps: Points, at_mean: Flag
):
    """μ moves by scale σ² g, with g at (μ, s) or at (x_t, t), for steps of any length and σ² between β̃ and β.

    Unless told otherwise: single steps, β, and the gradient at μ.
    """
    steps = 1 + int(skip * (schedule.T - 1))
    times = sampler.timesteps(schedule.T, steps)
    i = int(which * (steps - 1))
    t, s = times[i], times[i + 1]

    def gradient(x, t):
        return np.cos(x) + 0.01 * t

    guided = guidance.mean_shift(lambda x, t: eps, schedule, gradient, scale, steps, v, at_mean)
    mean, moved = (sampler.ddpm_step(schedule, x, t, s, eps_hat) for eps_hat in (eps, guided(x, t)))
    g = gradient(mean, max(s, 1)) if at_mean else gradient(x, t)
    right = mean + scale * sampler.reverse_var(*schedule.pair(t, s), v) * g
    usual, said = (guidance.mean_shift(lambda x, t: eps, schedule, gradient, *how) for how in ((), (1, None, 1, True)))
    return (moved, usual(x, t)), (right, said(x, t)), (50 / schedule.signal_scale[t], 10.0)


def two_gaussians(schedule):
    """ε̂ of N(0.5, 0.8) and of its part N(0, 0.2), and ∇ ln of the share of that part: all linear in x."""
    uncond, cond = (oracle.gaussian_data(schedule, *moments) for moments in ((0.5, 0.8), (0.0, 0.2)))
    return uncond, cond, lambda x, t: forward.score_from_eps(schedule, t, cond(x, t) - uncond(x, t))


@law(
    "Dhariwal & Nichol Algorithms 1-2",
    of=[guidance.mean_shift, guidance.classifier, sampler.sample_ddpm, sampler.sample_ddim],
    kind=1,
    tol=0.15,
)
def guided_samples_follow_the_condition(one: Flag, at_mean: Flag, n=1600):
    """With scale = 1, either algorithm samples p(x|y): mean and variance, at rate 1/T."""
    schedule = schedules.linear(n)
    uncond, _, gradient = two_gaussians(schedule)
    by_mean = guidance.mean_shift(uncond, schedule, gradient, at_mean=at_mean)
    by_score = guidance.classifier(uncond, sde.Chain(schedule), gradient)

    def step(x_t, t, s, eps_hat, noise):
        if one:
            return sampler.ddpm_step(schedule, x_t, t, s, by_mean(x_t, t), noise=noise)
        return sampler.ddim_step(schedule, x_t, t, s, by_score(x_t, t), noise=noise)

    return propagate(schedule, step, 0.0, 0.2), (0.0, 0.2), (1.0, 1.0)


@law("Dhariwal & Nichol Algorithms 1-2", of=[guidance.mean_shift, guidance.classifier], kind=1, tol=0.15)
def the_algorithms_agree_to_first_order(mixture: Mixture, y: Label, v: Unit, two: Flag, at_mean: Flag, n=200):
    """The means of a step by Algorithm 1 and by Algorithm 2 differ by β times something that falls like 1/T."""
    schedule, x = schedules.linear(n), np.linspace(-2, 2, 9)[:, None]
    chain, t, s = sde.Chain(schedule), n // 2, n // 2 - (2 if two else 1)
    eps_fn, gradient = oracle.mixture(schedule, *mixture), posterior_grad(chain, mixture, y)
    guided = [guidance.classifier(eps_fn, chain, gradient, 2.0)]
    guided.append(guidance.mean_shift(eps_fn, schedule, gradient, 2.0, n // (t - s), v, at_mean))
    means = [sampler.ddpm_step(schedule, x, t, s, eps_hat(x, t)) / schedule.beta[t] for eps_hat in guided]
    return *means, 1.0


# Guidance: what other weights do not do


def flow_variance(schedule, w):
    """Of the samples of DDIM with weight w on two Gaussians about 0, of variances 0.8 and, with the label, 0.2."""
    uncond, cond = (oracle.gaussian_data(schedule, 0.0, var) for var in (0.8, 0.2))
    guided = guidance.classifier_free(cond, uncond, w)

    def step(x_t, t, s, eps_hat, noise):
        return sampler.ddim_step(schedule, x_t, t, s, guided(x_t, t), noise=noise)

    return propagate(schedule, step, 0.0, 0.2)[1]


@law("Bradley & Nakkiran section 3, for any variances", of=[guidance.classifier_free], kind=1, tol=0.15)
def the_guided_flow_narrows_geometrically(more: Unit, n=400):
    """Guided by w, data N(0, v) with part N(0, v_y) are sampled with the variance v_y (v_y/v)^w, as T grows."""
    w = 0.5 + 1.5 * more
    return flow_variance(schedules.linear(n), w), 0.2 * (0.2 / 0.8) ** w


@law("Bradley & Nakkiran section 3", of=[guidance.classifier_free], kind="<=", tol=0.0)
def guidance_does_not_sample_the_tilted_density(more: Unit):
    """p(x) p(y|x)^(1+w) has the variance 1/((1+w)/v_y - w/v): that of the samples is smaller by a third and more."""
    w = 0.5 + 1.5 * more
    return 1.33 * flow_variance(schedules.linear(400), w), 1 / ((1 + w) / 0.2 - w / 0.8)


# Editing: a film's moments


def film_moments(film, draws):
    """Mean and variance of each picture of a linear film: film(rng, n) runs n examples. (frames, pixels) each.

    Example 0 hears no noise, example k the k-th draw alone, at 1 in every pixel: for films whose pixels do not mix.
    """
    frames = np.array(list(film(_Impulse(), draws + 1)))
    responses = frames[:, 1:] - frames[:, :1]
    return frames[:, 0], (responses**2).sum(1), responses


def start_at(x_T_mean, x_T_std, n):
    """x_T of n examples of two pixels, the last of which hears x_T's own noise."""
    x_T = np.full((n, 2), 1.0) * x_T_mean
    x_T[-1] += x_T_std
    return x_T


def marginals(schedule, x0, times):
    """Means (frames, pixels) and variances of q(x_t | x_0) at each of the times."""
    ab = schedule.alpha_bar[times][:, None]
    return np.sqrt(ab) * x0, np.broadcast_to(1 - ab, (len(times), len(x0)))


def asked_of(eps_fn):
    """eps_fn, and the list of the times that it has been asked for."""
    asked = []

    def listening(x, t):
        asked.append(t)
        return eps_fn(x, t)

    return listening, asked


def times_of(schedule, strength, steps):
    """The times of an edit: from round(strength T), with its share of the steps."""
    t = round(strength * schedule.T)
    return sampler.timesteps(t, -(-steps * t // schedule.T)) if t else [0]


def share_of(schedule, skip):
    return 1 + int(skip * (schedule.T - 1))


@law("SDEdit section 3", of=[editing.sdedit, editing.blend])
def an_edit_comes_down_from_where_it_was_noised(chain: Chain, strength: Unit, skip: Unit, eta: Unit, x0: Number):
    """If the data are the input, each x_s is a draw of q(x_s | x_0), from t = strength T on; ε̂ is asked at those times.

    So strength = 0 returns its input and at 1 √ᾱ_T x_0 is left of it: the first of the film.
    """
    steps, points = share_of(chain, skip), np.array([x0, -1.0])
    eps_fn, asked = asked_of(oracle.finite(chain, [points]))
    eps_fn_2, asked_2 = asked_of(eps_fn)

    def edit(rng, n):
        return editing.sdedit(eps_fn, chain, np.tile(points, (n, 1)), strength, rng, steps, eta)

    times = times_of(chain, strength, steps)
    mean, var, _ = film_moments(edit, 2 * chain.T)
    ends, fractions = np.array([points + 1, points - 1]), [0.5, 0.5]  # what is between them is the data
    film = np.array(list(editing.blend(eps_fn_2, chain, ends, fractions, strength, np.random.default_rng(5), steps)))
    (eps,) = np.random.default_rng(5).standard_normal((1, 2))
    right_mean, right_var = marginals(chain, points, times)
    drawn = right_mean + np.sqrt(right_var) * eps
    size = 10 / chain.signal_scale[-1]
    left = (mean, var, film, np.array([0, *asked]), np.array([0, *asked_2]))
    right = (right_mean, right_var, np.stack([drawn, drawn], 1), np.array([0, *times[:-1] * 2]))
    return left, (*right, np.array([0, *times[:-1]])), (size, size**2, size, 1.0, 1.0)


@law("SDEdit section 3; DDIM (12)", of=[editing.sdedit], tol=0.0)
def a_whole_edit_is_a_sample(chain: Chain, x0: Points, eta: Unit, skip: Unit, seed: Skips):
    """At strength 1 it is the sampler from x_T = √ᾱ_T x_0 + √(1-ᾱ_T) ε; at 0 the input; bit for bit.

    Unless told otherwise all steps are taken, with η = 1.
    """
    eps_fn, steps = oracle.gaussian_data(chain, 0.5, 0.2), share_of(chain, skip)
    whole = list(editing.sdedit(eps_fn, chain, x0, 1.0, np.random.default_rng(seed), steps, eta))
    (nothing,) = editing.sdedit(eps_fn, chain, x0, 0.0, np.random.default_rng(seed))
    usual = list(editing.sdedit(eps_fn, chain, x0, 1.0, np.random.default_rng(seed)))

    def sampled(*how):
        rng = np.random.default_rng(seed)
        x_T = forward.q_sample(chain, x0, chain.T, rng.standard_normal(x0.shape))
        return np.array([x_T, *sampler.sample_ddim(eps_fn, chain, x_T, rng, *how)])

    return (np.array(whole), np.array(usual), nothing), (sampled(steps, eta), sampled(None, 1.0), x0)


# Editing: held on all the way


@law("RePaint (8)", of=[editing.inpaint, editing.renoise, editing.resampling_times])
def inpainting_keeps_every_marginal(
    schedule: ShortSchedule, eta: Unit, skip: Unit, x0: Number, known: Number, jump: Label, repeats: Label
):
    """If the data are a point, each x_s, on the way down or up, is a draw of q(x_s | x_0) where it is free.

    Where it is known it is one of q(x_s | known): noised to s, once.
    """
    steps = min(share_of(schedule, skip), 6)
    eps_fn, T = oracle.finite(schedule, [[x0, x0]]), schedule.T
    path = editing.resampling_times(sampler.timesteps(T, steps), jump + 1, repeats + 1)

    def film(rng, n):
        x_T = start_at(schedule.signal_scale[T] * x0, schedule.noise_scale[T], n)
        given, mask = np.array([[7.0, known]]), np.array([False, True])
        return editing.inpaint(eps_fn, schedule, given, mask, x_T, rng, steps, eta, jump + 1, repeats + 1)

    mean, var, _ = film_moments(film, 2 * len(path) + 1)
    right = marginals(schedule, np.array([x0, known]), path[1:])
    size = 10 / schedule.signal_scale[-1]
    return (mean, var), right, (size, size**2)


@law("RePaint (8); score_sde, read in its source", of=[editing.inpaint, editing.ilvr])
def what_is_put_back_is_noised_afresh(chain: Chain, known: Number, eta: Unit):
    """Known pixels at different times share no noise, and ILVR's pixels at factor 1 are known ones."""
    T, picture = chain.T, np.array([[[[known]]]])
    eps_fn = oracle.gaussian_data(chain, 0.5, 0.2)

    def inpaint(rng, n):
        return editing.inpaint(eps_fn, chain, picture, np.array([[[True]]]), np.zeros((n, 1, 1, 1)), rng, eta=eta)

    def ilvr(rng, n):
        return editing.ilvr(eps_fn, chain, picture, 1, np.zeros((n, 1, 1, 1)), rng, eta=eta)

    left, right = (), ()
    for film in (inpaint, ilvr):
        mean, _, responses = film_moments(film, 2 * T)
        responses = responses.reshape(T, -1)
        times = np.arange(T)[::-1]
        left += (mean.reshape(T, 1), responses @ responses.T)
        right += (marginals(chain, [known], times)[0], np.diag(1 - chain.alpha_bar[times]))
    return left, right, (10.0, 1.0) * 2


@law("RePaint Algorithm 1; ILVR Algorithm 1", of=[editing.inpaint, editing.ilvr, editing.low_pass])
def each_step_is_as_published(
    chain: Chain, x_T: Pictures, given: Pictures, mask: Pictures, factor: Factor, eta: Unit, usual: Flag, seed: Skips
):
    """x_s = mask x_s^known + (1-mask) x_s^unknown, and φ(y_s) + (I - φ)(x'_s), the step taken from the joined x_t.

    The known parts are noised to s, not t. Noise for the step is drawn first; η is 1 unless given.
    """
    eps_fn, mask, eta = oracle.gaussian_data(chain, 0.5, 0.2), mask > 0, 1.0 if usual else eta
    how = {} if usual else {"eta": eta}

    def flat(x, t):
        return eps_fn(x.reshape(len(x), -1), t).reshape(x.shape)

    def replay(join):
        rng, x = np.random.default_rng(seed), x_T
        for t in range(chain.T, 0, -1):
            z = rng.standard_normal(x.shape) if eta > 0 else None
            step = sampler.ddim_step(chain, x, t, t - 1, flat(x, t), eta, z)
            x = join(step, forward.q_sample(chain, given, t - 1, rng.standard_normal(x.shape)))
            yield x

    def low(x):
        return editing.low_pass(x, factor)

    films = [editing.inpaint(flat, chain, given, mask, x_T, np.random.default_rng(seed), **how)]
    films.append(editing.ilvr(flat, chain, given, factor, x_T, np.random.default_rng(seed), **how))
    replays = [replay(lambda free, known: mask * known + (1 - mask) * free)]
    replays.append(replay(lambda free, y: low(y) + free - low(free)))
    return tuple(np.array(list(f)) for f in films), tuple(np.array(list(f)) for f in replays), (100.0, 100.0)


@law("RePaint Algorithm 1, its last line", of=[editing.inpaint], tol=0.0)
def known_pixels_are_kept(chain: Chain, known: Points, mask: Points, x_T: Points, eta: Unit, again: Label):
    """x_0 has the known pixels to the last bit."""
    eps_fn, mask, rng = oracle.gaussian_data(chain, 0.5, 0.2), mask > 0, np.random.default_rng(0)
    *_, x_0 = editing.inpaint(eps_fn, chain, known, mask, x_T, rng, eta=eta, repeats=again + 1)
    return np.where(mask, x_0, 0), np.where(mask, known, 0)


class _Silence:
    """A generator that draws zeros: a linear film's mean."""

    def standard_normal(self, shape, dtype=float):
        return np.zeros(shape, dtype)


@law("RePaint section 4.2; Bishop (2.81)", of=[editing.inpaint], kind="<=", tol=0.0)
def walking_again_nears_the_condition(correlation: Unit, falls: Flag):
    """Of two correlated coordinates, one known: the mean of the other comes out a quarter too small, or worse.

    Walking each step four times leaves less than 0.7 of that error.
    """
    rho, schedule = (0.3 + 0.6 * correlation) * (-1 if falls else 1), schedules.linear(40)
    cov, known = np.array([[1, rho], [rho, 1]]), np.array([[0.0, 1.0]])

    def eps_fn(x, t):
        ab = schedule.alpha_bar[t]
        return math.sqrt(1 - ab) * np.linalg.solve(ab * cov + (1 - ab) * np.eye(2), x.T).T

    def mean(repeats):
        mask = np.array([False, True])
        *_, x_0 = editing.inpaint(eps_fn, schedule, known, mask, 0 * known, _Silence(), repeats=repeats)
        return x_0[0, 0]

    truth = gaussian.condition_joint(np.zeros(2), cov, [1], np.ones(1))[0][0]
    short = [(truth - mean(repeats)) / truth for repeats in (1, 4)]
    return (0.25, abs(short[1])), (short[0], 0.7 * short[0])


@law("ILVR Algorithm 1", of=[editing.ilvr, editing.low_pass])
def low_frequencies_are_the_references(
    chain: Chain, x_T: Pictures, reference: Pictures, factor: Factor, eta: Unit, skip: Unit
):
    """φ(x_0) = φ(reference), in any number of steps; one reference serves a whole batch."""

    def eps_fn(x, t):
        return np.sin(x) + t

    film = editing.ilvr(
        eps_fn, chain, reference[:1], factor, x_T, np.random.default_rng(0), share_of(chain, skip), eta
    )
    *_, x_0 = film
    low = editing.low_pass(reference[:1], factor)
    return editing.low_pass(x_0, factor), np.concatenate([low] * len(x_T)), 100 / chain.signal_scale[-1]


@law("ILVR section 3", of=[editing.low_pass])
def the_low_pass_is_a_projection(x: Pictures, factor: Factor):
    """Every pixel becomes its block's mean, and a second pass changes nothing."""
    low = editing.low_pass(x, factor)
    i, j = (np.arange(n) // factor * factor for n in x.shape[1:3])
    means = sum(x[:, i + a][:, :, j + b] for a in range(factor) for b in range(factor)) / factor**2
    return (low, editing.low_pass(low, factor)), (means, low), (10.0, 10.0)


@law("RePaint section 4.2", of=[editing.resampling_times], tol=0.0)
def every_stretch_is_walked_so_often(T: Skips, steps: Skips, jump: Skips, repeats: Factor):
    """Each step is taken `repeats` times, but for those of the last stretch; each leap goes back to where it began."""
    T = min(T, 60)
    steps, jump = min(steps, T), min(jump, 60)
    times = sampler.timesteps(T, steps)
    path = editing.resampling_times(times, jump, repeats)
    taken, expected = Counter(pairwise(path)), Counter()
    for first in range(0, steps, jump):
        stretch = times[first : first + jump + 1]
        expected.update({step: repeats if stretch[-1] else 1 for step in pairwise(stretch)})
        if stretch[-1] and repeats > 1:
            expected[stretch[-1], stretch[0]] += repeats - 1
    steps_taken = sorted(expected | taken)
    left = np.array([[*step, taken[step]] for step in steps_taken])
    right = np.array([[*step, expected[step]] for step in steps_taken])
    plain = editing.resampling_times(times)
    return (left, path[0], path[-1], np.array(plain)), (right, T, 0, np.array(times))


@law("DDPM (2), (4)", of=[editing.renoise])
def going_up_continues_the_noise(schedule: Schedule, t: Time, down: Unit, x0: Number):
    """From q(x_s | x_0) to q(x_t | x_0); from t-1 it is the forward step."""
    s = int(down * (t - 1))
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    mean, var = forward.q_marginal(schedule, x0 * one, s)
    mean_t = editing.renoise(schedule, mean, s, t, zero)
    slope, spread = editing.renoise(schedule, one, s, t, zero), editing.renoise(schedule, zero, s, t, one)
    step = editing.renoise(schedule, x0 * one, t - 1, t, one)
    right = forward.q_marginal(schedule, x0 * one, t)
    return (mean_t, (slope**2 * var + spread**2).item(), step), (
        right[0], float(right[1]), forward.q_step(schedule, x0 * one, t, one),
    ), (3.0, 1.0, 4.0)  # fmt: skip


# Between two pictures


def apart(a, b):
    """Two (4, 2) pictures that are neither zero nor opposite, whatever points they are made from."""
    return a + 4, b + [4.0, -4.0]


@law("Shoemake 1985; DDIM appendix D.5", of=[editing.slerp])
def slerp_turns_evenly(a: Points, b: Points, u: Unit, length: Variance):
    """Between vectors of one length it keeps that length and turns by uθ, from the one itself to the other."""
    a, b = apart(a, b)
    by_formula, unlike = editing.slerp(a, b, [u])[0], (np.linalg.norm(a), np.linalg.norm(b))
    theta = math.acos((a * b).sum() / unlike[0] / unlike[1])
    printed = (math.sin((1 - u) * theta) * a + math.sin(u * theta) * b) / math.sin(theta)
    x, y = length * a / unlike[0], length * b / unlike[1]
    towards = y - (x * y).sum() / length**2 * x
    towards *= length / np.linalg.norm(towards)
    turned = math.cos(u * theta) * x + math.sin(u * theta) * towards
    between = editing.slerp(x, y, [0.0, u, 1.0])
    same = editing.slerp(x, x, [u])[0]
    size = 10 / math.sin(theta) ** 2
    left = (between, by_formula, np.linalg.norm(between[1]), same)
    return left, (np.array([x, turned, y]), printed, length, x), (length * size, 30 * size, length * size, 10 * length)


@law("DDIM section 5.3", of=[editing.interpolate, editing.slerp])
def white_noise_is_interpolated_on_the_sphere(schedule: ShortSchedule, a: Points, b: Points, u: Unit, skip: Unit):
    """If the data are N(0, I), both ways only change the length: what comes out is `slerp` of the pictures."""
    eps_fn, steps = oracle.gaussian_data(schedule, 0.0, 1.0), share_of(schedule, skip)
    ends = np.array(apart(a, b)).reshape(2, -1)
    *_, x_T = sampler.invert_ddim(eps_fn, schedule, np.ones((1, 8)), steps)
    film = list(sampler.sample_ddim(eps_fn, schedule, x_T, steps=steps))
    fractions = [0.0, u, 1.0]
    got = np.array(list(editing.interpolate(eps_fn, schedule, ends, fractions, steps)))
    expected = np.array([x[:, :1] * editing.slerp(*ends, fractions) for x in film])
    return got, expected, 1e3


@law("DDIM section 5.4", of=[editing.interpolate], kind=1, tol=0.15)
def the_ends_of_a_walk_are_its_pictures(x0: Unit, n=100):
    """The ends miss their pictures by an error that falls like 1/steps."""
    schedule, ends = schedules.linear(3200), np.array([[1 + x0, -1.0], [0.0, 2 + x0]])
    *_, walked = editing.interpolate(oracle.gaussian_data(schedule, 0.5, 0.2), schedule, ends, [0, 1], n)
    return walked, ends


@law("DDPM section 4.3", of=[editing.blend, editing.sdedit])
def a_blend_with_itself_is_an_edit(
    schedule: Schedule, a: Points, b: Points, u: Unit, strength: Unit, skip: Unit, seed: Skips
):
    """u = 0 and 1 edit the one picture and the other, u between edits the mixture, all with one noise."""
    eps_fn, steps = oracle.gaussian_data(schedule, 0.5, 0.2), share_of(schedule, skip)
    ends, fractions, rng = np.array([a[0], b[0]]), [0.0, u, 1.0], np.random.default_rng(seed)
    film = editing.blend(eps_fn, schedule, ends, fractions, strength, rng, steps)

    def edit(w):
        mixed, rng = (1 - w) * ends[:1] + w * ends[1:], np.random.default_rng(seed)
        return np.array(list(editing.sdedit(eps_fn, schedule, mixed, strength, rng, steps, eta=0.0)))

    return np.array(list(film)), np.concatenate([edit(w) for w in fractions], axis=1), 50.0


@law(
    "IEEE 754",
    of=[guidance.classifier, guidance.mean_shift, guidance.classifier_free, editing.inpaint, editing.ilvr],
    tol=0.0,
)
def steering_stays_single(chain: Chain, x: Pictures, w: Number, factor: Factor):
    """Float32 data stay float32 through all of guidance and editing, weights of whatever precision."""
    x, w, seed = np.float32(x), np.float64(w), np.random.default_rng(0)

    def eps_fn(x, t):
        return 0.5 * x

    gradient = guidance.log_prob_grad(lambda x, t: ops.mean(ops.mean(x, axis=1), axis=1), 1)
    guided = [guidance.classifier(eps_fn, sde.Chain(chain), gradient, w), guidance.classifier_free(eps_fn, eps_fn, w)]
    guided.append(guidance.mean_shift(eps_fn, chain, gradient, w))
    guided.append(guidance.classifier_free_at_once(lambda x, t, y: x, np.zeros(len(x), int), 1, w))
    answers = [f(x, chain.T) for f in guided]
    for film in (
        editing.sdedit(eps_fn, chain, x, 0.5, seed),
        editing.inpaint(eps_fn, chain, x, x > 0, x, seed, repeats=2),
        editing.ilvr(eps_fn, chain, x, factor, x, seed),
        editing.interpolate(eps_fn, chain, x[:2] + 4, [0.2, w]),
        editing.blend(eps_fn, chain, x[:2], [0.2, w], 0.7, seed),
    ):
        answers += list(film)
    kept = {answer.dtype.name for answer in answers}
    if kept != {"float32"}:
        raise LawBroken(f"float32 became {kept}")
    return len(kept), 1
