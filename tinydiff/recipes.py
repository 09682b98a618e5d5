"""Named experiments: data, network, process and budget."""
import dataclasses
from pathlib import Path

import numpy as np

from . import data, loss, schedule, sde, train
from .model import TOY_DATA, Config


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
# distance between two of them, and falls so gently that levels overlap and few steps at each will do (Song & Ermon
# 2020, arXiv:2006.09011, techniques 1 and 2).
_NCSN_POINTS = {"kind": "ncsn", "sigma_max": 2.0, "sigma_min": 0.02, "levels": 10, "steps": 100}
_NCSN_PICTURES = {"kind": "ncsn", "sigma_max": 20.0, "sigma_min": 0.02, "levels": 90, "steps": 5}

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
