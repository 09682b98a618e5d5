"""What one asks of a run: samples, edits, likelihoods, pictures.

Long work is cut into chunks of examples, spread over processes, and shows a progress bar; memory is that of a chunk.
"""
import dataclasses
import json
from collections import deque
from pathlib import Path

import numpy as np

from . import editing, elbo, gaussian, loss, model, plot, sde, workers
from .model import LIKELIHOOD, PICTURES, SAMPLES
from .runs import one_thread
from .tensor.device import device as device_called

# Samples


def draw(
    run, n, method=None, steps=None, eta=0.0, v=1.0, seed=0, device=None, n_workers=1, frames=0, chunk=None,
    label=None, w=0.0,
):  # fmt: skip
    """n samples of a run, NumPy float32 (n, ...) in data units; with `frames`, that many x_s on the way, noise to x_0.

    method, steps, eta, v: see `model.walk`. label: of `model.asked_for`; w: of `guidance.classifier_free`.
    Drawn `chunk` at a time (32 images or 4,000 points unless given) by `n_workers` processes, so memory does not grow
    with n; chunk k's noise depends on (seed, k) alone, so the samples do not depend on how they are spread.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    config, device = run.config, device or device_called("cpu")
    chunk = chunk or (32 if config.images else 4000)
    labels, params = model.asked_for(config, n, label), device.put(run.state.average)
    if w and labels is None:
        raise ValueError(f"guidance leans on labels, and this run knows none, got w = {w:g}; train mnist-class")

    def walk(part):
        eps_hat = model.guided(config, params, None if labels is None else labels[part], w)
        return model.walk(config, eps_hat, method, steps, eta, v)

    length = walk(slice(0, 0)).length
    kept = {round(i) for i in np.linspace(0, length, frames)} if frames else {length}

    def work(part, tick):
        rng = device.rng(seed, SAMPLES, part.start // chunk)
        z = device.put(rng.standard_normal((part.stop - part.start, *config.shape), "f4"))
        film = [device.get(z)] if 0 in kept else []
        for i, x in enumerate(walk(part).go(z, rng), 1):
            if i in kept:
                film.append(device.get(x))
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
    if config.kind != "ddpm" or not config.images:
        raise ValueError(f"editing is for DDPM runs of pictures; this one is {config.kind}, of shape {config.shape}")
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
    if config.kind != "ddpm":
        raise ValueError(f"the bound is of DDPM runs, this one is {config.kind}; `tinydiff likelihood` takes any")
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
    found = seen(np.array([elbo.draw_times(rng, p, len(x)) for _ in range(times)]), 2, "the bound")
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


def pictures(folder, run, x, seed=0, device=None, n_workers=1):
    """The pictures of a finished run: the forward process, samples (beside the data), the reverse process, the loss."""
    folder, config = Path(folder), run.config
    rng, (path, _) = np.random.default_rng([seed, PICTURES]), model.process(config)
    shown = x[rng.permutation(len(x))[: 6 if config.images else 2000]]
    eps = rng.standard_normal(shown.shape, "f4")
    times = [path.end * share for share in (0, 0.1, 0.25, 0.5, 1)]
    times = [round(t) for t in times] if config.kind == "ddpm" else times
    symbol = {"ddpm": "t", "ncsn": "σ"}.get(config.kind, "u")
    noised = [sde.q_sample(path, shown, t, eps) / float(np.hypot(path.signal(t), path.noise(t))) for t in times]
    plot.forward_process(noised, [f"{symbol} = {t:g}" for t in times], folder / "forward.png")
    n = 64 if config.images else 2000
    method = "ddpm" if config.kind == "ddpm" and not config.images else None
    film = draw(run, n, method, seed=seed, device=device, n_workers=n_workers, frames=60)
    if config.images:
        plot.image_grid(film[-1], folder / "samples.png")
    else:
        plot.scatter(film[-1], folder / "samples.png", data=shown)
    plot.reverse_gif(film, folder / "reverse.gif")
    with open(folder / "metrics.jsonl") as file:
        records = [json.loads(line) for line in file]
    if len(records) > 1:
        plot.loss_curve([r["step"] for r in records], [r["loss"] for r in records], folder / "loss.png")
