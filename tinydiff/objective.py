"""What a run learns from, and by: its batches, and its loss.

The losses of diffusions and of VAEs are means over coordinates too, so that learning rate and clipping mean the same
for points and for pictures.
"""
import math

import numpy as np

from . import guidance, loss, model, score, sde, vae
from .model import BATCH, NOISE
from .nn import autoencoder
from .tensor import autodiff, tree

DROPPED = 0.1  # share of labels or captions hidden, so that the network learns to do without (Ho & Salimans)


def step_fn(config):
    """(params, batch) -> (loss, gradients) for a batch of `batches`: the loss of the run's kind.

    Raises KeyError, TypeError or ValueError for a Config that describes no run.
    """
    chosen = LOSSES.get(config.kind, _continuous)(config)
    return autodiff.value_and_grad(lambda params, batch: chosen(params, **batch))


def _ddpm(config):
    path, _ = model.process(config)

    def l_simple(params, x0, t, eps, given=None):
        guess = model.predictor(config, params, given)
        return loss.l_simple(guess, path.schedule, x0, t, eps, config.target, config.weighting)

    return l_simple


def _ncsn(config):
    per_coordinate = 2 / math.prod(config.z_shape)
    model.process(config)

    def ncsn(params, x0, t, eps, given=None):
        guess = model.eps_fn(config, params, given=given)
        return per_coordinate * score.ncsn_loss(lambda x, s: score.from_eps(guess(x, s), s), x0, t, eps)

    return ncsn


def _continuous(config):
    (path, _), per_coordinate = model.process(config), 2 / math.prod(config.z_shape)

    def continuous(params, x0, t, eps, given=None):
        return per_coordinate * sde.loss(model.eps_fn(config, params, given=given), path, x0, t, eps)

    return continuous


def _vae(config):
    noise_var, beta = config.process["noise_var"], config.process["beta"]
    _, shape = model.network(config)
    per_coordinate = 2 * noise_var / math.prod(config.shape)  # so that a mean square error counts as one

    def negative_bound(params, x0, eps):
        mu, log_var = autoencoder.encode(params, x0, shape)
        decode = model.decoder(config, params)
        return per_coordinate * vae.negative_bound(x0, decode, mu, log_var, eps, noise_var, beta)

    return negative_bound


def _classifier(config):
    chain = config.chain

    def classifier_loss(params, x0, t, eps, given):
        return guidance.classifier_loss(model.predictor(config, params), chain, x0, t, eps, given)

    return classifier_loss


LOSSES = {"ddpm": _ddpm, "ncsn": _ncsn, "vae": _vae, "classifier": _classifier}


def times(config):
    """(rng, n) -> (n,) times to train at: whole ones, rungs of the ladder, or real ones.

    Each is as likely as the others, unless the Config says how noise is spread. A VAE has none.
    """
    if config.kind == "vae":
        return None
    if config.kind in ("ddpm", "classifier"):
        if config.ln_sigma is None:
            return lambda rng, n: loss.draw_times(rng, n, config.T)
        p = loss.log_normal_noise(config.chain, *config.ln_sigma)
        return lambda rng, n: loss.draw_likely_times(rng, n, p)
    if config.kind == "ncsn":
        rungs = model.ladder(config)
        return lambda rng, n: rungs[loss.draw_times(rng, n, len(rungs)) - 1]
    path, low = model.process(config)
    return lambda rng, n: low + (path.end - low) * loss.even_uniforms(rng, n)


def batches(config, x, device, asked=None):
    """step -> batch: its examples, times and noise depend on (seed, step) alone, and not on the device.

    Drawn on the host: a generator on a GPU is slow to make, and would draw other numbers. Times stay there, and what
    the examples are said to show (`asked`, see `model.asked_for`), of which one in ten is hidden from a diffusion.
    """
    seed, size = config.settings["seed"], config.settings["batch"]
    given, hides = model.condition(config, asked), config.kind != "classifier"
    draw_times = times(config)

    def batch(step):
        rng = np.random.default_rng([seed, BATCH, step])
        rows = rng.integers(0, len(x), size)
        eps = np.random.default_rng([seed, NOISE, step]).standard_normal((size, *config.z_shape), "f4")
        drawn = {"x0": device.put(x[rows]), "eps": device.put(eps)}
        if draw_times:
            drawn["t"] = draw_times(rng, size)
        if given is None:
            return drawn
        hidden = rng.random(size) < (DROPPED if hides else 0)

        def some(of_all, none):
            return np.where(hidden.reshape(-1, *(1,) * (of_all.ndim - 1)), none, of_all[rows])

        return {**drawn, "given": tree.map(some, given, model.nothing(config))}

    return batch
