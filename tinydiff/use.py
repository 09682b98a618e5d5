"""What one asks of a run: samples, edits, likelihoods, pictures.

Long work is cut into chunks of examples, spread over processes, and shows a progress bar; memory is that of a chunk.
"""
import dataclasses
import json
from collections import deque

import numpy as np

from . import editing, elbo, forward, gaussian, loss, model, plot, sde, workers
from .model import LIKELIHOOD, PICTURES, SAMPLES
from .nn import autoencoder
from .runs import codes
from .tensor import tree
from .tensor.device import device as device_called
from .workers import one_thread

# Samples


def draw(
    run, n, method=None, steps=None, eta=0.0, v=1.0, seed=0, device=None, n_workers=1, frames=0, chunk=None,
    asked=None, w=0.0, classifier=None,
):  # fmt: skip
    """n samples of a run, NumPy float32 (n, ...) in data units; with `frames`, that many x_s on the way, noise to x_0.

    method, steps, eta, v: see `model.walk`. asked: what each is to show (`model.asked_for`), else each thing in turn;
    w: how much to lean on it (`guidance.classifier_free`). classifier: a Run of one, to lead a run that takes no labels
    to those asked for, with scale 1 + w (`guidance.classifier`). A VAE's samples are decoded draws of p(z).
    Drawn `chunk` at a time (32 images or 4,000 points unless given) by `n_workers` processes, so memory does not grow
    with n; chunk k's noise depends on (seed, k) alone, so the samples do not depend on how they are spread.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    config, device = run.config, device or device_called("cpu")
    if config.kind == "classifier":
        raise ValueError(f"{run.folder} is a classifier and draws nothing; give it to --classifier of another run")
    chunk = chunk or (32 if config.images else 4000)
    params, frozen = device.put(run.state.average), run.frozen and device.put(run.frozen)
    understands = classifier.config if classifier else config
    asked = model.asked_for(understands, n) if asked is None else asked
    if asked is not None and len(asked) != n:
        raise ValueError(f"each of {n} samples must be asked for something, got {len(asked)} labels or captions")
    if w and asked is None:
        raise ValueError(f"guidance leans on labels or captions, this run knows none, got w = {w:g}; train mnist-class")
    given, show = model.condition(understands, asked), model.decoder(config, params, frozen)
    weights = classifier and device.put(classifier.state.average)

    def walk(part):
        if config.kind == "vae" and not classifier:
            return model.Walk(0, lambda z, rng: ())
        some = None if given is None else tree.map(lambda rows: rows[part], given)
        if classifier:
            eps_hat = model.classified(config, params, classifier.config, weights, some, 1 + w)
        else:
            eps_hat = model.guided(config, params, some, w)
        return model.walk(config, eps_hat, method, steps, eta, v)

    length = walk(slice(0, 0)).length
    kept = {round(i) for i in np.linspace(0, length, frames)} if frames else {length}

    def work(part, tick):
        rng = device.rng(seed, SAMPLES, part.start // chunk)
        z = device.put(rng.standard_normal((part.stop - part.start, *config.z_shape), "f4"))
        film = [device.get(show(z))] if 0 in kept else []
        for i, z_s in enumerate(walk(part).go(z, rng), 1):
            if i in kept:
                film.append(device.get(show(z_s)))
            tick()
        return film

    films = list(_over_chunks(work, n, chunk, length, "sampling", device, n_workers))
    whole = [np.concatenate(parts) for parts in zip(*films, strict=True)]
    return whole if frames else whole[-1]


def edit(run, how, pictures, n=8, amount=None, mask=None, steps=50, seed=0, device=None):
    """n edits of a run's kind of pictures, NumPy float32 (n, H, W, C), by the functions of `editing`.

    how: sdedit (amount: strength), inpaint (mask: True where known), ilvr (amount: factor), from one picture; between
    (by inversion) and blend (amount: strength), from two, n fractions of the way. pictures: (1 or 2, H, W, C).
    Raises ValueError for a run that is not a DDPM of pictures, or another number of pictures.
    """
    from tqdm import tqdm

    config, device = run.config, device or device_called("cpu")
    if config.kind != "ddpm" or not config.in_pixels:
        what = "of codes" if config.first_stage else f"of shape {config.shape}"
        raise ValueError(f"editing is for DDPM runs of pictures as they are; this one is {config.kind}, {what}")
    needed = 2 if how in ("between", "blend") else 1
    if len(pictures) != needed:
        raise ValueError(f"{how} takes {needed} picture{'s' if needed > 1 else ''}, got {len(pictures)}")
    chain, eps_hat = config.chain, model.eps_fn(config, device.put(run.state.average))
    steps, rng, x = min(steps, config.T), device.rng(seed, SAMPLES), device.put(pictures)
    z, fractions = rng.standard_normal((n, *config.shape), dtype="f4"), np.linspace(0, 1, n)
    walks = {
        "sdedit": lambda: editing.sdedit(eps_hat, chain, device.put(pictures.repeat(n, axis=0)), amount, rng, steps),
        "inpaint": lambda: editing.inpaint(eps_hat, chain, x, device.put(mask), z, rng, steps),
        "ilvr": lambda: editing.ilvr(eps_hat, chain, x, amount, z, rng, steps),
        "between": lambda: editing.interpolate(eps_hat, chain, x, fractions, steps),
        "blend": lambda: editing.blend(eps_hat, chain, x, fractions, amount, rng, steps),
    }
    with one_thread():
        (edited,) = deque(tqdm(walks[how](), disable=None, desc=how), maxlen=1)
    return device.get(edited)


def _over_chunks(work, n, chunk, steps, desc, device, n_workers):
    """Yield work(a slice of 0..n-1, tick) for each chunk; tick() marks one of its `steps` on a progress bar."""
    from tqdm import tqdm

    slices = [slice(i, min(i + chunk, n)) for i in range(0, n, chunk)]
    n_workers = min(n_workers, len(slices)) if device.name == "cpu" else 1
    with one_thread(), tqdm(total=len(slices) * steps, disable=None, desc=desc) as bar:
        tick = bar.update if n_workers == 1 else lambda: None
        for done in workers.spread(lambda part: work(part, tick), slices, n_workers):
            yield done
            bar.update(steps if n_workers > 1 else 0)


# Likelihood


@dataclasses.dataclass(frozen=True)
class Bound:
    """The variational bound of a DDPM run on some data: -ln p(x_0) <= L_T + Σ L_t, in nats.

    total: an estimate for each example, (n,), unbiased. prior: L_T of each. by_t, error: means over examples of L of t
    and of the mean square error of x̂_0, (T+1,) (`elbo.averages`).
    """

    total: np.ndarray
    prior: np.ndarray
    by_t: np.ndarray
    error: np.ndarray


def bound(run, x, times=20, v=1.0, seed=0, device=None, n_workers=1, chunk=None):
    """The Bound of a DDPM run on examples x: each at `times` times, drawn by how much they matter (`elbo.importance`).

    How much they matter is found first, with ten examples at every t. v: variance of the steps (`forward.reverse_var`),
    σ_1² = β_1. Pictures are decoded to their 256 levels; points have a density.
    Raises ValueError for a run of another process.
    """
    config, device = run.config, device or device_called("cpu")
    if config.first_stage:
        raise ValueError("the bound is of data as they are, this run is of their codes; take a run without")
    if config.kind != "ddpm":
        model.check_density(config)
        raise ValueError(f"the bound is of DDPM runs, this one is {config.kind}; try `tinydiff likelihood`")
    if not (0 <= v <= 1 and times >= 1):
        raise ValueError(f"v must be in [0, 1] and times at least 1, got {v} and {times}")
    chain, guess = config.chain, model.eps_fn(config, device.put(run.state.average))
    decoder = elbo.decoder_log_prob if config.images else gaussian.log_density
    reverse = elbo.reverse_fn(lambda x_t, t: (guess(x_t, t), v), chain)
    chunk = chunk or (50 if config.images else 4000)

    def seen(table, purpose, desc):
        """elbo.terms of every example, at the times in its column of the table."""

        def work(part, tick):
            rng, found = device.rng(seed, LIKELIHOOD, purpose, part.start), []
            for row in elbo.terms(reverse, chain, device.put(x[part]), table[:, part], rng, decoder):
                found.append((row[0], *map(device.get, row[1:])))
                tick()
            return found

        parts = _over_chunks(work, len(x), chunk, len(table), desc, device, n_workers)
        return [tuple(map(np.concatenate, zip(*rows, strict=True))) for rows in zip(*parts, strict=True)]

    rng = np.random.default_rng([seed, LIKELIHOOD])
    rows = -(-10 * config.T // len(x))
    first = loss.draw_times(rng, rows * len(x), config.T).reshape(rows, len(x))  # drawn together: none is left out
    pilot = seen(first, 1, "which times matter")
    p = elbo.importance(chain, pilot, least=1)
    found = seen(np.array([loss.draw_likely_times(rng, len(x), p) for _ in range(times)]), 2, "the bound")
    by_t, error, _ = elbo.averages(chain, pilot + found)
    return Bound(elbo.estimate(chain, x, found, p), elbo.prior_kl(chain, x), by_t, error)


def log_likelihood(run, x, steps=100, seed=0, device=None, n_workers=1, chunk=None):
    """ln p (n,), nats, of examples x, by the probability flow (`model.log_likelihood`): exact divergence for points,
    Hutchinson's estimate from one vector of signs for each picture.
    """
    config, device = run.config, device or device_called("cpu")
    params = device.put(run.state.average)
    chunk = chunk or (32 if config.images else 1000)

    def work(part, tick):
        some = device.put(x[part] if config.images else x[part].astype(np.float64))
        rng = np.random.default_rng([seed, LIKELIHOOD, part.start])
        probes = device.put(2 * rng.integers(0, 2, some.shape).astype(some.dtype) - 1) if config.images else None
        for _, latest in model.log_likelihood(config, params, some, steps, "rk4", probes):
            log_p = latest
            tick()
        return device.get(log_p)

    return np.concatenate(list(_over_chunks(work, len(x), chunk, steps, "along the flow", device, n_workers)))


# Pictures of a finished run


def pictures(run, x, asked=None, seed=0, device=None, n_workers=1):
    """Draw what there is to see of a run into its folder, beside its data x; returns the names of the files.

    A diffusion: the forward process, samples, the reverse process. A VAE: pictures and what comes back, samples.
    A classifier: how often it is right, over t, of what it was trained on. All: the loss.
    """
    drawing = {"vae": _of_a_vae, "classifier": _of_a_classifier}.get(run.config.kind, _of_a_diffusion)
    rng = np.random.default_rng([seed, PICTURES])
    names = drawing(run, x, asked, rng, {"seed": seed, "device": device, "n_workers": n_workers})
    with open(run.folder / "metrics.jsonl") as file:
        records = [json.loads(line) for line in file]
    if len(records) > 1:
        plot.loss_curve([r["step"] for r in records], [r["loss"] for r in records], run.folder / "loss.png")
        names.append("loss.png")
    return names


def _of_a_diffusion(run, x, asked, rng, how):
    folder, config, (path, _) = run.folder, run.config, model.process(run.config)
    shown = x[rng.permutation(len(x))[: 6 if config.images else 2000]]
    z = codes(config, run.frozen, shown) if config.first_stage else shown
    eps = rng.standard_normal(z.shape, "f4")
    times = [path.end * share for share in (0, 0.1, 0.25, 0.5, 1)]
    times = [round(t) for t in times] if config.kind == "ddpm" else times
    symbol, show = {"ddpm": "t", "ncsn": "σ"}.get(config.kind, "u"), model.decoder(config, None, run.frozen)
    noised = [show(sde.q_sample(path, z, t, eps) / float(np.hypot(path.signal(t), path.noise(t)))) for t in times]
    plot.forward_process(noised, [f"{symbol} = {t:g}" for t in times], folder / "forward.png")
    n = 64 if config.images else 2000
    method = "ddpm" if config.kind == "ddpm" and not config.images else None
    film = draw(run, n, method, frames=60, **how)
    if config.images:
        plot.image_grid(film[-1], folder / "samples.png")
    else:
        plot.scatter(film[-1], folder / "samples.png", data=shown)
    plot.reverse_gif(film, folder / "reverse.gif")
    return ["samples.png", "reverse.gif", "forward.png"]


def _of_a_vae(run, x, asked, rng, how):
    shown, coder, weights = x[np.resize(rng.permutation(len(x)), 32)], run.config.coder, run.state.average
    mu, _ = autoencoder.encode(weights, shown, coder)
    back = model.decoder(run.config, weights)(mu)
    pairs = np.stack([shown.reshape(4, 8, *shown.shape[1:]), back.reshape(4, 8, *shown.shape[1:])], 1)
    plot.image_grid(pairs.reshape(64, *shown.shape[1:]), run.folder / "there_and_back.png", columns=8)
    plot.image_grid(draw(run, 64, **how), run.folder / "samples.png")
    return ["there_and_back.png", "samples.png"]


def _of_a_classifier(run, x, asked, rng, how):
    config, rows = run.config, rng.permutation(len(x))[:1000]
    times = sorted({round(t) for t in np.linspace(1, config.T, 11)})
    right = accuracy(run, x[rows], np.asarray(asked)[rows], times, rng)
    title, chance = "what it was trained on, noised to t", [1 / config.classes] * len(times)
    curves = {"named rightly": (times, right), "chance": (times, chance)}
    plot.lines(curves, run.folder / "accuracy.png", title, "t", "share")
    return ["accuracy.png"]


def accuracy(run, x, labels, times, rng):
    """The share of x, noised to each t, that a classifier's Run names as labelled."""
    config, chain = run.config, run.config.chain
    found, logits_fn = [], model.predictor(config, run.state.average)
    for t in times:
        x_t = forward.q_sample(chain, x, t, rng.standard_normal(x.shape, "f4"))
        named = np.concatenate([logits_fn(x_t[i : i + 250], t).argmax(axis=1) for i in range(0, len(x), 250)])
        found.append(float((named == labels).mean()))
    return found
