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

from . import checkpoint, data, files, forward, loss, plot, sampler, schedule, train, workers
from .nn import mlp, unet
from .tensor import autodiff, fast, tree
from .tensor.device import device as device_called

NETWORKS = {"mlp": mlp, "unet": unet}

# What a draw is for. A generator is seeded by [seed, purpose, number], so no two of them share a stream.
TOY_DATA, WEIGHTS, BATCH, NOISE, SAMPLES, PICTURES, EVALUATION = range(1, 8)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on. Saved whole in its checkpoint, and taken whole when it is resumed.

    data: name, folder and split; network: its kind and its Config's fields; shape: of one example.
    """

    recipe: str
    data: dict
    network: dict
    shape: tuple
    settings: dict
    schedule: str = "linear"
    T: int = 1000
    target: str = "eps"
    weighting: str = "simple"

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if set(self.data) != {"name", "folder", "split"}:
            raise ValueError(f"data must have a name, a folder and a split, got {self.data}")

    @property
    def images(self):
        return len(self.shape) == 3


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A Config less what the data decide, and what it is about."""

    about: str
    network: dict
    settings: train.Settings
    schedule: str = "linear"
    T: int = 1000
    target: str = "eps"
    weighting: str = "simple"


def _points(about):
    network = {"kind": "mlp", "width": 128, "depth": 3, "embed": 64}
    settings = train.Settings(steps=7000, batch=256, lr=2e-3, average=0.999)
    return Recipe(about, network, settings, schedule="cosine")


def _pictures(about):
    # x_0 and not ε or v: an error in x_0 then costs the same at every t, and so most is learned where noise is high,
    # where it is decided which digit it will be. A narrow network on a quarter of the pixels sees more digits in the
    # time.
    network = {"kind": "unet", "patch": 2, "widths": [32, 64], "blocks": 1, "embed": 128}
    settings = train.Settings(minutes=10, batch=32, lr=2e-3, average=0.998)
    return Recipe(about, network, settings, schedule="cosine", target="x0")


RECIPES = {
    "spiral": _points("a Swiss roll in the plane"),
    "moons": _points("two half moons"),
    "gaussians": _points("eight Gaussians on a ring"),
    "checkerboard": _points("a checkerboard, whose edges are the hard part"),
    "circles": _points("two rings"),
    "mnist": _pictures("handwritten digits"),
    "fashion-mnist": _pictures("clothes, 28 x 28"),
    "images": _pictures("your own pictures"),
}


def configure(recipe, folder=None, split="train", **changes):
    """(Config, data) of a recipe with some of its choices changed; None changes nothing.

    changes: schedule, T, and the fields of train.Settings. Where only one of steps and minutes is given, it is the end.
    Raises ValueError for an unknown recipe or bad choices; what data.load raises.
    """
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}")
    chosen, changes = RECIPES[recipe], {name: value for name, value in changes.items() if value is not None}
    if "steps" in changes or "minutes" in changes:
        changes = {"steps": None, "minutes": None, **changes}
    fields = {name: changes.pop(name) for name in ("schedule", "T") if name in changes}
    settings = dataclasses.replace(chosen.settings, **changes)
    chosen = dataclasses.replace(chosen, **fields)
    schedule.named(chosen.schedule, chosen.T)
    if folder and recipe in data.TOYS:
        raise ValueError(f"{recipe} is drawn from its formula, got --data {folder}; leave it out, or train images")
    source = {"name": recipe, "folder": folder and str(Path(folder).resolve()), "split": split}
    x = load_data(source)
    network = dict(chosen.network)
    if x.ndim == 4:
        if x.shape[1] != x.shape[2]:
            raise ValueError(f"the U-Net wants square images, got {x.shape[1]} x {x.shape[2]}; crop or pad them")
        network.update(size=x.shape[1], channels=x.shape[3])
    config = Config(
        recipe, source, network, x.shape[1:], dataclasses.asdict(settings), chosen.schedule, chosen.T,
        chosen.target, chosen.weighting,
    )  # fmt: skip
    return config, x


def load_data(source, n=100_000, seed=0):
    """The examples that a Config's `data` names: n fresh points of a toy set, or the images."""
    if source["name"] in data.TOYS:
        return data.TOYS[source["name"]](n, np.random.default_rng([seed, TOY_DATA]))
    return data.load(source["name"], source["folder"], source["split"])[0]


# The model that a Config describes


def network(config):
    """(module, its Config): module.init(rng, its Config), module.apply(params, x, t, its Config)."""
    fields = dict(config.network)
    module = NETWORKS[fields.pop("kind")]
    return module, module.Config(**fields)


def predictor(config, params):
    """What the network guesses, f(x_t, t), with these parameters."""
    module, shape = network(config)
    return lambda x, t: module.apply(params, x, t, shape)


def eps_fn(config, params):
    """The trained ε̂(x_t, t); for images with x̂_0 kept in [-1, 1]."""
    chain = schedule.named(config.schedule, config.T)
    return loss.eps_fn(predictor(config, params), chain, config.target, clip=config.images)


def step_fn(config):
    """(params, batch) -> (loss, gradients): L_simple of a batch {"x0", "t", "eps"}."""
    chain = schedule.named(config.schedule, config.T)

    def l_simple(params, batch):
        predict = predictor(config, params)
        x0, t, eps = batch["x0"], batch["t"], batch["eps"]
        return loss.l_simple(predict, chain, x0, t, eps, config.target, config.weighting)

    return autodiff.value_and_grad(l_simple)


def batches(config, x, device):
    """step -> batch: its examples, times and noise depend on (seed, step) alone, and not on the device.

    Drawn on the host: a generator on a GPU is slow to make, and would draw other numbers. Times stay there.
    """
    settings = train.Settings(**config.settings)

    def batch(step):
        rng = np.random.default_rng([settings.seed, BATCH, step])
        x0 = x[rng.integers(0, len(x), settings.batch)]
        t = loss.draw_times(rng, settings.batch, config.T)
        eps = np.random.default_rng([settings.seed, NOISE, step]).standard_normal(x0.shape, "f4")
        return {"x0": device.put(x0), "t": t, "eps": device.put(eps)}

    return batch


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
        module, shape = network(config)
        schedule.named(config.schedule, config.T)
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
    module, shape = network(config)
    return train.State.start(module.init(np.random.default_rng([config.settings["seed"], WEIGHTS]), shape))


def free_folder(name, root="runs"):
    """runs/name, or runs/name-2 and so on: the first that holds nothing."""
    folder, k = Path(root) / name, 1
    while folder.exists():
        k += 1
        folder = Path(root) / f"{name}-{k}"
    return folder


def train_run(folder, config, x, state=None, device=None, n_workers=1, every=30.0):
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
        workers.Workers(step_fn(config), state.params, n_workers) as spread,
        open(folder / "metrics.jsonl", "a") as log,
        _bar(config, settings, state) as bar,
    ):
        steps = train.train(spread, batches(config, x, device), state, settings)
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
    x_T = device.rng(0, PICTURES).standard_normal((16, *config.shape), "f4")
    chain = schedule.named(config.schedule, config.T)
    *_, x0 = sampler.sample_ddim(eps_fn(config, state.average), chain, x_T, steps=min(20, config.T))
    plot.image_grid(device.get(x0), path)


# Samples


def draw(run, n, method="ddim", steps=None, eta=0.0, v=1.0, seed=0, device=None, n_workers=1, frames=0, chunk=None):
    """n samples of a run, NumPy float32 (n, ...) in data units; with `frames`, that many x_s on the way, x_T to x_0.

    method: "ddpm" or "ddim"; steps: T for ddpm and 50 for ddim unless given; eta: of DDIM; v: of `sampler.reverse_var`.
    Drawn `chunk` at a time (32 images or 4,000 points unless given) by `n_workers` processes, so memory does not grow
    with n; chunk k's noise depends on (seed, k) alone, so the samples do not depend on how they are spread.
    """
    from tqdm import tqdm

    if method not in ("ddpm", "ddim"):
        raise ValueError(f"sampler must be ddpm or ddim, got {method!r}")
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    if not 0 <= v <= 1:
        raise ValueError(f"v must be in [0, 1], got {v}; 1 is the variance beta, 0 beta tilde")
    config, device = run.config, device or device_called("cpu")
    chunk = chunk or (32 if config.images else 4000)
    chain = schedule.named(config.schedule, config.T)
    steps = steps if steps is not None else config.T if method == "ddpm" else min(50, config.T)
    length = len(sampler.timesteps(config.T, steps)) - 1
    guess = eps_fn(config, device.put(run.state.average))
    kept = {round(i) for i in np.linspace(0, length, frames)} if frames else {length}
    chunks = range(-(-n // chunk))
    n_workers = n_workers if device.name == "cpu" and len(chunks) > 1 else 1

    def work(k):
        rng = device.rng(seed, SAMPLES, k)
        x = device.put(rng.standard_normal((min(chunk, n - k * chunk), *config.shape), "f4"))
        film = [device.get(x)] if 0 in kept else []
        if method == "ddpm":
            walk = sampler.sample_ddpm(guess, chain, x, rng, steps, v)
        else:
            walk = sampler.sample_ddim(guess, chain, x, rng, steps, eta)
        for i, x in enumerate(walk, 1):
            if i in kept:
                film.append(device.get(x))
            if n_workers == 1:
                bar.update()
        return film

    films = []
    with _one_thread(), tqdm(total=len(chunks) * length, disable=None, desc="sampling") as bar:
        for film in workers.spread(work, chunks, n_workers):
            films.append(film)
            bar.update(length if n_workers > 1 else 0)
    whole = [np.concatenate(parts) for parts in zip(*films, strict=True)]
    return whole if frames else whole[-1]


def pictures(folder, run, x, seed=0, device=None, n_workers=1):
    """The pictures of a finished run: the forward process, samples (beside the data), the reverse process, the loss."""
    folder, config = Path(folder), run.config
    chain, rng = schedule.named(config.schedule, config.T), np.random.default_rng([seed, PICTURES])
    shown = x[rng.permutation(len(x))[: 6 if config.images else 2000]]
    eps = rng.standard_normal(shown.shape, "f4")
    times = [round(config.T * share) for share in (0, 0.1, 0.25, 0.5, 1)]
    noised = [forward.q_sample(chain, shown, t, eps) for t in times]
    plot.forward_process(noised, [f"t = {t}" for t in times], folder / "forward.png")
    n = 64 if config.images else 2000
    film = draw(run, n, "ddim" if config.images else "ddpm", seed=seed, device=device, n_workers=n_workers, frames=60)
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

