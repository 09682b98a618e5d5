"""Named experiments: data, network, schedule and budget; and what one does with them: train, sample, load.

A run is a folder. `checkpoint.safetensors` holds all that it is (weights, their moving average, Adam's moments, the
step, the full configuration); `metrics.jsonl` has a line a step; the rest are pictures.
"""
import dataclasses
import json
import math
import os
import time
from pathlib import Path

import numpy as np

from . import checkpoint, data, elbo, files, gaussian, loss, model, plot, schedule, sde, train, workers
from .model import LIKELIHOOD, PICTURES, SAMPLES, TOY_DATA, WEIGHTS, Config
from .tensor import fast, tree
from .tensor.device import device as device_called


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A Config less what the data decide, and what it is about. data: of what name, unless the recipe's own."""

    about: str
    network: dict
    settings: train.Settings
    schedule: str = "cosine"
    T: int = 1000
    target: str = "eps"
    weighting: str = "simple"
    process: dict | None = None
    data: str | None = None


def _points(about, octaves=5, classes=0, **process):
    network = {"kind": "mlp", "width": 128, "depth": 3, "embed": 64, "octaves": octaves, "classes": classes}
    return Recipe(about, network, train.Settings(steps=7000, batch=256, lr=2e-3, average=0.999), **process)


def _pictures(about, classes=0, **process):
    # A narrow network on a quarter of the pixels sees more digits in the time; its coarsest level, 4 x 4, costs little.
    network = {"kind": "unet", "patch": 2, "widths": [32, 64, 64], "blocks": 1, "embed": 128, "classes": classes}
    return Recipe(about, network, train.Settings(minutes=10, batch=32, lr=2e-3, average=0.998), **process)


# x_0 and not ε or v: an error in x_0 costs the same at every t, and so most is learned where noise is high, where it is
# decided which digit it will be. The price is paid in likelihood, whose bits lie where noise is low (`--target eps`).
_BY_X0 = {"target": "x0"}
# The ladder of points begins beyond the data's width, for Langevin steps to cross it. That of pictures begins near the
# distance between two of them, and falls so gently that each level overlaps the next (Song & Ermon 2020,
# arXiv:2006.09011, techniques 1 and 2), five steps a level.
_NCSN_POINTS = {"kind": "ncsn", "sigma_max": 2.0, "sigma_min": 0.02, "levels": 10}
_NCSN_PICTURES = {"kind": "ncsn", "sigma_max": 20.0, "sigma_min": 0.02, "levels": 90}

RECIPES = {
    "spiral": _points("a Swiss roll in the plane"),
    "moons": _points("two half moons"),
    "gaussians": _points("eight Gaussians on a ring", octaves=2),  # smooth: finer waves would ripple its density
    "checkerboard": _points("a checkerboard, whose edges are the hard part"),
    "circles": _points("two rings"),
    "ncsn": _points("a Swiss roll by its score at ten noise levels", process=_NCSN_POINTS, data="spiral"),
    "sde": _points("eight Gaussians in continuous time", octaves=2, process={"kind": "vp"}, data="gaussians"),
    "mnist": _pictures("handwritten digits", **_BY_X0),
    "fashion-mnist": _pictures("clothes, 28 x 28", **_BY_X0),
    "images": _pictures("your own pictures", **_BY_X0),
    "mnist-class": _pictures("handwritten digits by their labels", classes=10, data="mnist", **_BY_X0),
    "gaussians-class": _points("eight Gaussians by their labels", octaves=2, classes=8, data="gaussians"),
    "ncsn-mnist": _pictures("handwritten digits by their score", process=_NCSN_PICTURES, data="mnist"),
}


def configure(recipe, folder=None, split="train", **changes):
    """(Config, data) of a recipe with some of its choices changed; None changes nothing.

    changes: schedule, T, target, process (a kind of sde.PROCESSES, for the recipe "sde"), and the fields of
    train.Settings. Where only one of steps and minutes is given, it is the end.
    Raises ValueError for an unknown recipe or bad choices; what data.load raises.
    """
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}")
    chosen, changes = RECIPES[recipe], {name: value for name, value in changes.items() if value is not None}
    if "steps" in changes or "minutes" in changes:
        changes = {"steps": None, "minutes": None, **changes}
    fields = {name: changes.pop(name) for name in ("schedule", "T", "target") if name in changes}
    if fields and chosen.process:
        raise ValueError(f"{recipe} has no DDPM schedule, got {' and '.join(fields)}; leave it out")
    if fields.get("target", "eps") not in loss.TARGETS:
        raise ValueError(f"target must be one of {', '.join(loss.TARGETS)}, got {fields['target']!r}")
    if "process" in changes:
        if recipe != "sde" or changes["process"] not in sde.PROCESSES:
            choices = ", ".join(sde.PROCESSES)
            raise ValueError(f"--process is of the recipe sde: {choices}; got {changes['process']!r} for {recipe}")
        fields["process"] = {"kind": changes.pop("process")}
    settings = dataclasses.replace(chosen.settings, **changes)
    chosen = dataclasses.replace(chosen, **fields)
    schedule.named(chosen.schedule, chosen.T)
    name = chosen.data or recipe
    if folder and name in data.TOYS:
        raise ValueError(f"{recipe} is drawn from its formula, got --data {folder}; leave it out, or train images")
    source = {"name": name, "folder": folder and str(Path(folder).resolve()), "split": split}
    x = load_data(source)
    network = dict(chosen.network)
    if x.ndim == 4:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"the U-Net wants square images, got {x.shape[1]} x {x.shape[2]}; crop or pad them")
        network.update(size=x.shape[1], channels=x.shape[3])
    config = Config(
        recipe, source, network, x.shape[1:], dataclasses.asdict(settings), chosen.schedule, chosen.T,
        chosen.target, chosen.weighting, chosen.process,
    )  # fmt: skip
    return config, x


def load_data(source, n=100_000, seed=0):
    """The examples that a Config's `data` names: n fresh points of a toy set, or the images."""
    if source["name"] in data.TOYS:
        return data.TOYS[source["name"]](n, np.random.default_rng([seed, TOY_DATA]))
    return data.load(source["name"], source["folder"], source["split"])[0]


def load_labels(config, n=100_000):
    """The labels of load_data, (N,), for a Config with classes, else None. Raises ValueError if the data have none."""
    source = config.data
    if not config.classes:
        return None
    if source["name"] in data.TOYS:
        x, (_, means, _) = load_data(source, n), data.mixture(source["name"])
        return ((x[:, None] - means) ** 2).sum(-1).argmin(1)
    labels = data.load(source["name"], source["folder"], source["split"])[1]
    if labels is None or labels.max() >= config.classes:
        wanted = f"labels in 0..{config.classes - 1} beside the images"
        raise ValueError(f"{config.recipe} wants {wanted}, and {source['folder'] or source['name']} has not got them")
    return labels


# A run


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as it lies on disk: its folder, Config and State (NumPy arrays)."""

    folder: Path
    config: Config
    state: train.State


def load(path):
    """The Run in a folder (or of a checkpoint file itself). Raises ValueError or OSError with one line."""
    path = Path(path)
    file = path / "checkpoint.safetensors" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"no run at {path}: there is no {file.name} there; `tinydiff train` makes one")
    trees, words = checkpoint.load(file)
    try:
        config = Config(**words["config"])
        RECIPES[config.recipe]  # an unknown one raises KeyError
        if not config.images:
            data.TOYS[config.data["name"]]
        module, shape = model.network(config)
        model.process(config)
        like = module.init(np.random.default_rng(0), shape)
        train.Settings(**config.settings)
        step, seconds = int(words["step"]), float(words["seconds"])
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{file}: the run's description is damaged ({problem}); train it again") from None
    vector = tree.pack(like)
    checkpoint.check_like(file, trees, {"params": like, "average": like, "m": vector, "v": vector})

    def in_order(weights):
        """As training leaves them. The file has them by name, and the moments know only the network's own order."""
        return tree.unpack(tree.pack(tree.map(lambda _, leaf: leaf, like, weights)), like)

    params, average, moments = in_order(trees["params"]), in_order(trees["average"]), {"m": trees["m"], "v": trees["v"]}
    return Run(file.parent, config, train.State(params, average, {**moments, "step": step}, seconds))


def save(folder, config, state):
    """Write the run's checkpoint; `state` in NumPy arrays."""
    trees = {"params": state.params, "average": state.average, "m": state.moments["m"], "v": state.moments["v"]}
    words = {"config": dataclasses.asdict(config), "step": state.step, "seconds": state.seconds}
    checkpoint.save(Path(folder) / "checkpoint.safetensors", trees, words)


def start(config):
    """The state before the first step: weights drawn from the seed."""
    module, shape = model.network(config)
    return train.State.start(module.init(np.random.default_rng([config.settings["seed"], WEIGHTS]), shape))


def free_folder(name, root="runs"):
    """runs/name, or runs/name-2 and so on: the first that holds nothing."""
    folder, k = Path(root) / name, 1
    while folder.exists():
        k += 1
        folder = Path(root) / f"{name}-{k}"
    return folder


def train_run(folder, config, x, state=None, device=None, n_workers=1, every=30.0, labels=None):
    """Train, writing the run folder as it goes; returns (state, the signal that stopped it or None).

    A checkpoint every `every` seconds and at the end; sample pictures at each tenth of a run of images; a line a step
    in metrics.jsonl. Ctrl-C ends it after the step in hand. Raises what train.train raises; the last checkpoint stays.
    """
    folder, device = Path(folder), device or device_called("cpu")
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / "samples"):
        files.sweep(place)
    state = state or start(config)
    _keep_metrics(folder / "metrics.jsonl", state.step)
    settings = train.Settings(**config.settings)
    n_workers = min(n_workers, settings.batch) if device.name == "cpu" and config.images else 1
    state, saved, drawn = _on(state, device.put), time.monotonic(), math.floor(10 * train.progress(settings, state))
    with (
        _one_thread(),
        np.errstate(over="ignore", invalid="ignore"),  # train.train looks for what is not finite, and names it
        train.interrupts() as stop,
        workers.Workers(model.step_fn(config), state.params, n_workers) as spread,
        open(folder / "metrics.jsonl", "a") as log,
        _bar(config, settings, state) as bar,
    ):
        steps = train.train(spread, model.batches(config, x, device, labels), state, settings)
        for state, report in steps:
            log.write(json.dumps(dataclasses.asdict(report)) + "\n")
            bar(report)
            if stop.signal:
                break
            if config.images and math.floor(10 * report.progress) > drawn:
                drawn = math.floor(10 * report.progress)
                _peek(folder / "samples" / f"step_{report.step:06d}.png", config, state, device)
            if time.monotonic() - saved > every:
                log.flush()
                save(folder, config, _on(state, device.get))
                saved = time.monotonic()
        log.flush()
        os.fsync(log.fileno())
        state = _on(state, device.get)
        save(folder, config, state)
    return state, stop.signal


def _keep_metrics(path, step):
    """Keep the lines of an earlier part of the run, up to the checkpoint that it is resumed from."""
    if not path.exists():
        return
    try:
        lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: not a line of JSON a step; move it away to train without it") from None
    with files.write_aside(path) as aside:
        aside.write_text("".join(kept))


def _on(state, move):
    moments = {**state.moments, "m": move(state.moments["m"]), "v": move(state.moments["v"])}
    return dataclasses.replace(state, params=move(state.params), average=move(state.average), moments=moments)


def _one_thread():
    """One BLAS thread a process: the products are small, and the processes share the cores. And memory is kept."""
    from threadpoolctl import threadpool_limits

    fast.keep_memory()
    return threadpool_limits(1, "blas")


class _bar:
    """Loss, examples a second and time left: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, config, settings, state):
        from tqdm import tqdm

        form = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}, {remaining} left]"
        self.bar = tqdm(total=1.0, initial=train.progress(settings, state), disable=None, bar_format=form)
        self.batch, self.unit = settings.batch, "images" if config.images else "points"
        self.tenth = math.floor(10 * train.progress(settings, state))
        self.recent, self.began, self.steps = None, time.monotonic(), 0

    def __call__(self, report):
        self.steps += 1
        self.recent = report.loss if self.recent is None else 0.98 * self.recent + 0.02 * report.loss
        rate = self.steps * self.batch / (time.monotonic() - self.began)
        text = f"step {report.step}  loss {self.recent:.4f}  {rate:,.0f} {self.unit}/s"
        if self.bar.disable:
            if math.floor(10 * report.progress) > self.tenth:
                self.tenth = math.floor(10 * report.progress)
                print(f"{report.progress:4.0%}  {text}", flush=True)
        elif self.steps % 10 == 0 or report.progress == 1:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(report.progress - self.bar.n)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.bar.close()


def _peek(path, config, state, device):
    """A few samples of the averaged weights, always from the same noise."""
    z = device.rng(0, PICTURES).standard_normal((16, *config.shape), "f4")
    method = {"ddpm": "ddim"}.get(config.kind, "heun")
    steps = min(20, config.T) if method == "ddim" else 10
    eps_hat = model.guided(config, state.average, asked_for(config, 16))
    *_, x0 = model.walk(config, eps_hat, method, steps).go(z, device.rng(0))
    plot.image_grid(device.get(x0), path)


# Samples


def asked_for(config, n, label=None):
    """(n,) labels: `label` for all, or each in turn; None for a run without labels.

    Raises ValueError for a label that the run does not know.
    """
    if not config.classes:
        if label is not None:
            raise ValueError(f"this run knows no labels, got {label}; train mnist-class")
        return None
    if label is not None and not 0 <= label < config.classes:
        raise ValueError(f"label must be in 0..{config.classes - 1}, got {label}")
    return np.arange(n) % config.classes if label is None else np.full(n, label)


def draw(
    run, n, method=None, steps=None, eta=0.0, v=1.0, seed=0, device=None, n_workers=1, frames=0, chunk=None,
    label=None, w=0.0,
):  # fmt: skip
    """n samples of a run, NumPy float32 (n, ...) in data units; with `frames`, that many x_s on the way, noise to x_0.

    method, steps, eta, v: see `model.walk`. label: of `asked_for`; w: of `guidance.classifier_free`.
    Drawn `chunk` at a time (32 images or 4,000 points unless given) by `n_workers` processes, so memory does not grow
    with n; chunk k's noise depends on (seed, k) alone, so the samples do not depend on how they are spread.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    config, device = run.config, device or device_called("cpu")
    chunk = chunk or (32 if config.images else 4000)
    labels, params = asked_for(config, n, label), device.put(run.state.average)
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


def _over_chunks(work, n, chunk, steps, desc, device, n_workers):
    """Yield work(a slice of 0..n-1, tick) for each chunk; tick() marks one of its `steps` on a progress bar."""
    from tqdm import tqdm

    slices = [slice(i, min(i + chunk, n)) for i in range(0, n, chunk)]
    n_workers = min(n_workers, len(slices)) if device.name == "cpu" else 1
    with _one_thread(), tqdm(total=len(slices) * steps, disable=None, desc=desc) as bar:
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
    chain, guess = schedule.named(config.schedule, config.T), model.eps_fn(config, device.put(run.state.average))
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
    noised = [sde.q_sample(path, shown, t, eps) for t in times]
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


def parameters_by_block(run):
    """{top-level block: how many numbers}."""
    return {name: tree.count(block) for name, block in run.state.params.items()}

