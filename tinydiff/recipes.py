"""Named experiments: data, network, process and budget."""
import dataclasses
from pathlib import Path

import numpy as np

from . import data, glyphs, loss, schedule, sde, train
from .model import TOY_DATA, Config


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A Config less what the data decide, and what it is about.

    data: of what name, unless the recipe's own. first_stage: the recipe of the autoencoder that is trained before it.
    """

    about: str
    network: dict
    settings: train.Settings
    schedule: str = "cosine"
    T: int = 1000
    target: str = "eps"
    weighting: str = "simple"
    process: dict | None = None
    data: str | None = None
    first_stage: str | None = None
    ln_sigma: tuple | None = None


def _points(about, octaves=5, classes=0, **process):
    network = {"kind": "mlp", "width": 128, "depth": 3, "embed": 64, "octaves": octaves, "classes": classes}
    return Recipe(about, network, train.Settings(steps=7000, batch=256, lr=2e-3, average=0.999), **process)


def _pictures(about, classes=0, **process):
    # A narrow network on a quarter of the pixels sees more digits in the time; its coarsest level, 4 x 4, costs little.
    network = {"kind": "unet", "patch": 2, "widths": [32, 64, 64], "blocks": 1, "embed": 128, "classes": classes}
    return Recipe(about, network, train.Settings(minutes=10, batch=32, lr=2e-3, average=0.998), **process)


def _autoencoder(about, **process):
    # Each pixel of the code stands for 4 x 4 of the picture. The noise of p(x|z) is what one can hardly see.
    network = {"kind": "autoencoder", "patch": 2, "widths": [16, 32], "latent": 4}
    process = {"process": {"kind": "vae", "noise_var": 0.01, "beta": 0.1}, **process}
    return Recipe(about, network, train.Settings(minutes=3, batch=64, lr=4e-3, average=0.99), **process)


_OF_CODES = {"patch": 1, "widths": [64, 64], "blocks": 1, "embed": 128}


def _codes(about, minutes, network=None, **process):
    network = network or {"kind": "unet", **_OF_CODES}
    return Recipe(about, network, train.Settings(minutes=minutes, batch=64, lr=2e-3, average=0.998), **process)


def _captions(about, minutes, **process):
    text = {"vocabulary": len(glyphs.VOCABULARY), "length": glyphs.LONGEST, "width": 64, "depth": 2}
    network = {"kind": "captioned", "text": text, "unet": {**_OF_CODES, "attention": [7]}}
    return _codes(about, minutes, network, **process)


def _classifier(about, **process):
    network = {"kind": "classifier", "widths": [16, 32, 64, 128], "embed": 64, "classes": 10}
    settings = train.Settings(minutes=3, batch=64, lr=2e-3, average=0.998)
    return Recipe(about, network, settings, process={"kind": "classifier"}, **process)


# x_0 and not ε or v: an error in x_0 costs the same at every t, and so most is learned where noise is high, where it is
# decided which digit it will be. The price is paid in likelihood, whose bits lie where noise is low (`--target eps`).
_BY_X0 = {"target": "x0"}
# Of digits that nobody named it is decided where noise is one to eight times as strong as the signal (demo 18), and
# what goes wrong there, or just below, no later step mends. Most times trained at are from there; of codes alike.
_WHERE_DECIDED = {**_BY_X0, "ln_sigma": (0.65, 0.65)}
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
    "mnist": _pictures("handwritten digits", **_WHERE_DECIDED),
    "fashion-mnist": _pictures("clothes, 28 x 28", **_BY_X0),
    "images": _pictures("your own pictures", **_BY_X0),
    "mnist-class": _pictures("handwritten digits by their labels", classes=10, data="mnist", **_BY_X0),
    "gaussians-class": _points("eight Gaussians by their labels", octaves=2, classes=8, data="gaussians"),
    "ncsn-mnist": _pictures("handwritten digits by their score", process=_NCSN_PICTURES, data="mnist"),
    "mnist-classifier": _classifier("which digit, at any noise", data="mnist"),
    "mnist-vae": _autoencoder("handwritten digits by codes of 7 x 7", data="mnist"),
    "mnist-latent": _codes(
        "handwritten digits in codes", minutes=8.5, data="mnist", first_stage="mnist-vae", **_WHERE_DECIDED
    ),
    "glyphs": _pictures("characters of a font", **_BY_X0),
    "glyphs-vae": _autoencoder("characters of a font by codes of 7 x 7", data="glyphs"),
    "glyphs-text": _captions("captions to pictures", minutes=17, data="glyphs", first_stage="glyphs-vae", **_BY_X0),
}
FIRST_STAGE = 0.15  # of the minutes of a run that has two stages
GLYPHS = 20_000  # pictures to learn from: each combination some ten times, in different places


def configure(recipe, folder=None, split="train", **changes):
    """(Config, examples, what is asked for of each or None) of a recipe with some of its choices changed.

    changes: schedule, T, target, process (a kind of sde.PROCESSES, for the recipe "sde"), and the fields of
    train.Settings; None changes nothing. Where only one of steps and minutes is given, it is the end; minutes are those
    of both stages. Of a run of codes the scale is yet to be measured: `runs.after_first_stage`.
    Raises ValueError for an unknown recipe or bad choices; what `load` raises.
    """
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; choose one of {', '.join(RECIPES)}")
    chosen, changes = RECIPES[recipe], {name: value for name, value in changes.items() if value is not None}
    if "steps" in changes or "minutes" in changes:
        changes = {"steps": None, "minutes": None, **changes}
    fields = {name: changes.pop(name) for name in ("schedule", "T", "target") if name in changes}
    kind = chosen.process["kind"] if chosen.process else "ddpm"
    used = {"ddpm": ("schedule", "T", "target"), "classifier": ("schedule", "T")}.get(kind, ())
    unused = [name for name in fields if name not in used]
    if unused:
        raise ValueError(f"{recipe} has no use for {' and '.join(unused)}, for it is no DDPM; leave it out")
    if fields.get("target", "eps") not in loss.TARGETS:
        raise ValueError(f"target must be one of {', '.join(loss.TARGETS)}, got {fields['target']!r}")
    if "process" in changes:
        if recipe != "sde" or changes["process"] not in sde.PROCESSES:
            choices = ", ".join(sde.PROCESSES)
            raise ValueError(f"--process is of the recipe sde: {choices}; got {changes['process']!r} for {recipe}")
        fields["process"] = {"kind": changes.pop("process")}
    if chosen.first_stage and changes.get("minutes"):
        changes["minutes"] *= 1 - FIRST_STAGE
    settings = dataclasses.replace(chosen.settings, **changes)
    chosen = dataclasses.replace(chosen, **fields)
    if chosen.target != RECIPES[recipe].target:  # it was for that one's sake that some times were preferred
        chosen = dataclasses.replace(chosen, ln_sigma=None)
    schedule.named(chosen.schedule, chosen.T)
    name = chosen.data or recipe
    if folder and (name in data.TOYS or name == "glyphs"):
        raise ValueError(f"{recipe} is drawn from its formula, got --data {folder}; leave it out, or train images")
    source = {"name": name, "folder": folder and str(Path(folder).resolve()), "split": split}
    x, shown = load(source)
    if x.ndim == 4 and x.shape[1] != x.shape[2]:
        raise ValueError(f"the networks want square images, got {x.shape[1]} x {x.shape[2]}; crop or pad them")
    network, stage = _fitted(chosen.network, x.shape[1:]), None
    if chosen.first_stage:
        stage = {"network": _fitted(RECIPES[chosen.first_stage].network, x.shape[1:]), "scale": 1.0}
    config = Config(
        recipe, source, network, x.shape[1:], dataclasses.asdict(settings), chosen.schedule, chosen.T,
        chosen.target, chosen.weighting, chosen.process, stage, chosen.ln_sigma,
    )  # fmt: skip
    if stage:
        config = dataclasses.replace(config, network=_fitted(network, config.z_shape))
    return config, x, asked_of(config, shown)


def first_stage(config):
    """The Config of the autoencoder that is trained before a run of codes: on the same data, by the same end and seed.

    Its minutes are a share, FIRST_STAGE, of those of both; its steps are as many.
    """
    chosen, minutes = RECIPES[RECIPES[config.recipe].first_stage], config.settings["minutes"]
    minutes = minutes and minutes * FIRST_STAGE / (1 - FIRST_STAGE)
    ends = {name: config.settings[name] for name in ("steps", "seed")}
    settings = dataclasses.replace(chosen.settings, minutes=minutes, **ends)
    return Config(
        RECIPES[config.recipe].first_stage, config.data, config.first_stage["network"], config.shape,
        dataclasses.asdict(settings), process=chosen.process,
    )  # fmt: skip


def _fitted(network, shape):
    """The network's numbers with the size and channels of what it is shown."""
    if len(shape) < 3:
        return dict(network)
    fit = {"size": shape[0], "channels": shape[2]}
    return {**network, "unet": {**network["unet"], **fit}} if "unet" in network else {**network, **fit}


def load(source, n=100_000, seed=0):
    """(examples, what each shows) of what a Config's `data` names: n fresh points of a toy set, or the images.

    What each shows: labels (N,), the captions of glyphs, or None where nobody said.
    """
    name = source["name"]
    rng = np.random.default_rng([seed, TOY_DATA])
    if name == "glyphs":
        x, shown = glyphs.sample(min(n, GLYPHS), rng, glyphs.split(source["split"]))
        return x, [glyphs.caption(glyph, rng) for glyph in shown]
    if name not in data.TOYS:
        return data.load(name, source["folder"], source["split"])
    x = data.TOYS[name](n, rng)
    if name != "gaussians":
        return x, None
    _, means, _ = data.mixture(name)
    return x, ((x[:, None] - means) ** 2).sum(-1).argmin(1)


def asked_of(config, shown):
    """Of what the examples show, what the run is asked for: all of it, or None.

    Raises ValueError if the run wants labels or captions and there are none.
    """
    if not (config.classes or config.captions):
        return None
    if config.classes and (shown is None or max(shown) >= config.classes):
        wanted, source = f"labels in 0..{config.classes - 1} beside the images", config.data
        raise ValueError(f"{config.recipe} wants {wanted}, and {source['folder'] or source['name']} has not got them")
    return shown
