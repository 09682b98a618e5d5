"""A run on disk: made, saved, resumed, loaded.

A run is a folder. `checkpoint.safetensors` holds all that it is (weights, their moving average, Adam's moments, the
step, the full configuration, and the autoencoder of a run of codes); `metrics.jsonl` has a line a step; the rest are
pictures.
"""
import dataclasses
import functools
import json
import math
import os
import time
from pathlib import Path

import numpy as np

from . import checkpoint, data, files, latent, model, mpi, objective, plot, recipes, train, workers
from .model import CODES, PICTURES, WEIGHTS, Config
from .nn import autoencoder
from .tensor import tree
from .tensor.device import device as device_called
from .workers import one_thread


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as it lies on disk: its folder, Config and State (NumPy arrays); frozen: the weights of its first stage."""

    folder: Path
    config: Config
    state: train.State
    frozen: dict | None = None


def is_one(folder):
    """Does the folder hold a run?"""
    return (Path(folder) / "checkpoint.safetensors").exists()


def load(path):
    """The Run in a folder (or of a checkpoint file itself). Raises ValueError or OSError with one line."""
    path = Path(path)
    file = path / "checkpoint.safetensors" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"no run at {path}: there is no {file.name} there; `tinydiff train` makes one")
    trees, words = checkpoint.load(file)
    try:
        config = Config(**words["config"])
        recipes.RECIPES[config.recipe]  # an unknown one raises KeyError
        if not config.images:
            data.TOYS[config.data["name"]]
        module, shape = model.network(config)
        objective.step_fn(config)
        objective.times(config)
        like = module.init(np.random.default_rng(0), shape)
        first = autoencoder.init(np.random.default_rng(0), config.coder) if config.first_stage else None
        train.Settings(**config.settings)
        step, seconds = int(words["step"]), float(words["seconds"])
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{file}: the run's description is damaged ({problem}); train it again") from None
    vector = tree.pack(like)
    wanted = {"params": like, "average": like, "m": vector, "v": vector}
    wanted |= {"first_stage": first} if first else {}
    checkpoint.check_like(file, trees, wanted)

    def in_order(weights):
        """As training leaves them. The file has them by name, and the moments know only the network's own order."""
        return tree.unpack(tree.pack(tree.map(lambda _, leaf: leaf, like, weights)), like)

    params, average, moments = in_order(trees["params"]), in_order(trees["average"]), {"m": trees["m"], "v": trees["v"]}
    state = train.State(params, average, {**moments, "step": step}, seconds)
    return Run(file.parent, config, state, trees.get("first_stage"))


def save(folder, config, state, frozen=None):
    """Write the run's checkpoint; `state` in NumPy arrays, and the weights of its first stage, if it has one."""
    trees = {"params": state.params, "average": state.average, "m": state.moments["m"], "v": state.moments["v"]}
    trees |= {"first_stage": frozen} if frozen else {}
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


def after_first_stage(run, stage, x):
    """The Run of codes, not begun yet, that stands on `stage`, the Run of a VAE: its scale measured on examples x."""
    config = dataclasses.replace(run.config, first_stage={"network": stage.config.network, "scale": 1.0})
    frozen = stage.state.average
    scale = latent.latent_scale(codes(config, frozen, x[:2000]))
    config = dataclasses.replace(config, first_stage={**config.first_stage, "scale": scale})
    return dataclasses.replace(run, config=config, frozen=frozen)


def codes(config, frozen, x, chunk=256):
    """The codes of all examples, made once: (N, *config.z_shape), each a draw from its posterior."""
    drawn = []
    for i in range(0, len(x), chunk):
        some, rng = x[i : i + chunk], np.random.default_rng([config.settings["seed"], CODES, i])
        eps = rng.standard_normal((len(some), *config.z_shape), "f4")
        drawn.append(model.encoded(config, frozen, some, eps))
    return np.concatenate(drawn)


def train_run(
    folder, config, x, state=None, device=None, n_workers=1, every=30.0, asked=None, frozen=None, ranks=None
):  # fmt: skip
    """Train, writing the run folder as it goes; returns (state, the signal that stopped it or None).
    x, asked: the examples, and what each is said to show (`recipes.asked_of`); frozen: the weights of the first stage.
    A checkpoint every `every` seconds and at the end; sample pictures at each tenth of a run of images; a line a step
    in metrics.jsonl. Ctrl-C ends it after the step in hand. ranks: an MPI communicator, whose ranks take the place of
    n_workers (`mpi.led`). Raises what train.train raises; the last checkpoint stays.
    """
    folder, device = Path(folder), device or device_called("cpu")
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / "samples"):
        files.sweep(place)
    state = state or start(config)
    _keep_metrics(folder / "metrics.jsonl", state.step)
    settings = train.Settings(**config.settings)
    x = codes(config, frozen, x) if config.first_stage else x
    n_workers = min(n_workers, settings.batch) if device.name == "cpu" and config.images else 1
    make_step = functools.partial(objective.step_fn, config)
    state, saved, drawn = _on(state, device.put), time.monotonic(), math.floor(10 * train.progress(settings, state))
    with (
        one_thread(),
        np.errstate(over="ignore", invalid="ignore"),  # train.train looks for what is not finite, and names it
        train.interrupts() as stop,
        _spread(make_step, state.params, n_workers, ranks) as spread,
        open(folder / "metrics.jsonl", "a") as log,
        _bar(config, settings, state) as bar,
    ):
        steps = train.train(spread, objective.batches(config, x, device, asked), state, settings)
        for state, report in steps:
            log.write(json.dumps(dataclasses.asdict(report)) + "\n")
            bar(report)
            if stop.signal:
                break
            if config.images and math.floor(10 * report.progress) > drawn:
                drawn = math.floor(10 * report.progress)
                _peek(folder / "samples" / f"step_{report.step:06d}.png", config, state, device, frozen)
            if time.monotonic() - saved > every:
                log.flush()
                save(folder, config, _on(state, device.get), frozen)
                saved = time.monotonic()
        log.flush()
        os.fsync(log.fileno())
        state = _on(state, device.get)
        save(folder, config, state, frozen)
    return state, stop.signal


def _spread(make_step, params, n_workers, ranks):
    return mpi.Ranks(make_step, params, ranks) if ranks else workers.Workers(make_step, params, n_workers)


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


def _peek(path, config, state, device, frozen):
    """A few samples of the averaged weights, always from the same noise."""
    if config.kind == "classifier":
        return
    z = device.rng(0, PICTURES).standard_normal((16, *config.z_shape), "f4")
    if config.kind != "vae":
        method = {"ddpm": "ddim"}.get(config.kind, "heun")
        steps = min(20, config.T) if method == "ddim" else 10
        eps_hat = model.guided(config, state.average, model.condition(config, model.asked_for(config, 16)))
        *_, z = model.walk(config, eps_hat, method, steps).go(z, device.rng(0))
    plot.image_grid(device.get(model.decoder(config, state.average, frozen and device.put(frozen))(z)), path)


def parameters_by_block(run):
    """{top-level block: how many numbers}."""
    return {name: tree.count(block) for name, block in run.state.params.items()}
