"""What a run's Config stands for: its network, the process that it was trained on, its loss, and the ways to sample it.

A model is a noise estimate ε̂(x, u) and the process whose u it knows: the steps of a DDPM, the rungs of NCSN's ladder,
or the continuous time of an SDE. Since one process can borrow another's network (`sde.match`), every solver runs on
every model.
"""
import dataclasses
import math

import numpy as np

from . import guidance, loss, sampler, schedule, score, sde, solver
from .forward import coef
from .nn import mlp, unet
from .tensor import autodiff

NETWORKS = {"mlp": mlp, "unet": unet}

# What a draw is for. A generator is seeded by [seed, purpose, number], so no two of them share a stream.
TOY_DATA, WEIGHTS, BATCH, NOISE, SAMPLES, PICTURES, EVALUATION, EXAMPLES, LIKELIHOOD = range(1, 10)

DROPPED = 0.1  # share of labels hidden in training, so that the network learns to do without (Ho & Salimans)
SIGMA_MAX = 80.0  # a flow need not begin further out: x_0 adds 1 part in 6400 to the variance there (Karras et al.)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on. Saved whole in its checkpoint, and taken whole when it is resumed.

    data: name, folder and split; network: its kind and its Config's fields; shape: of one example.
    process: None for the DDPM chain of schedule, T, target and weighting; else its kind and numbers, e.g.
    {"kind": "ncsn", "sigma_max": 2.0, "sigma_min": 0.02, "levels": 10, "steps": 100} (Langevin steps at each level) or
    {"kind": "vp"}: the network guesses ε.
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
    process: dict | None = None

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if set(self.data) != {"name", "folder", "split"}:
            raise ValueError(f"data must have a name, a folder and a split, got {self.data}")

    @property
    def images(self):
        return len(self.shape) == 3

    @property
    def chain(self):
        """The DDPM schedule."""
        return schedule.named(self.schedule, self.T)

    @property
    def classes(self):
        """How many labels its network knows; that number itself stands for no label."""
        return self.network.get("classes", 0)

    @property
    def kind(self):
        """ddpm, ncsn, vp, subvp or ve."""
        return "ddpm" if self.process is None else self.process["kind"]


# The network and the process


def network(config):
    """(module, its Config): module.init(rng, its Config), module.apply(params, x, t, its Config)."""
    fields = dict(config.network)
    module = NETWORKS[fields.pop("kind")]
    return module, module.Config(**fields)


def predictor(config, params, label=None):
    """What the network guesses, f(x_t, t), with these parameters, for (B,) labels or for none."""
    module, shape = network(config)
    return lambda x, t: module.apply(params, x, t, shape, label=label)


def process(config):
    """(process, the smallest time at which the network was trained).

    A ladder of noise levels is EDM's process, whose time is σ. Raises ValueError for numbers that make no process.
    """
    if config.process is None:
        return sde.Chain(config.chain), 1
    if config.kind == "ncsn":
        rungs = ladder(config)
        return sde.EDM(float(rungs[0])), float(rungs[-1])
    if config.kind not in sde.PROCESSES:
        raise ValueError(f"process must be none, for ddpm, or ncsn, {', '.join(sde.PROCESSES)}, got {config.kind!r}")
    numbers = {name: value for name, value in config.process.items() if name != "kind"}
    return sde.PROCESSES[config.kind](**numbers), 1e-3


def ladder(config):
    """NCSN's noise levels."""
    return score.noise_levels(*(config.process[name] for name in ("sigma_max", "sigma_min", "levels")))


def eps_fn(config, params, clip=True, label=None):
    """The trained ε̂(x, u), u in its process's time; of a DDPM on images with x̂_0 kept in [-1, 1], unless not `clip`.

    Other processes show the network x at the scale of data, x / √(a² + b²), and a clock that runs from 0 to 1000.
    """
    guess = predictor(config, params, label)
    if config.kind == "ddpm":
        chain = config.chain
        return loss.eps_fn(guess, chain, config.target, clip=clip and config.images)
    path, low = process(config)
    span = math.log(path.end / low) or 1.0  # of a ladder of one rung, whose clock stands at 0

    def clock(u):
        return 1000 * (np.log(u / low) / span if config.kind == "ncsn" else u)

    return lambda x, u: guess(coef(1 / np.hypot(path.signal(u), path.noise(u)), x) * x, clock(u))


def guided(config, params, label, w=0.0):
    """ε̂ for (B,) labels, leaning on them by classifier-free guidance (guidance.classifier_free); w = 0 only conditions.

    Guided before x̂_0 is clipped, so that what is clipped is what is used.
    """
    if w == 0:
        return eps_fn(config, params, label=label)

    def labelled(x, t, label):
        return eps_fn(config, params, clip=False, label=label)(x, t)

    eps_hat = guidance.classifier_free_at_once(labelled, label, config.classes, w)
    clipped = config.kind == "ddpm" and config.images
    return loss.clip_x0(eps_hat, config.chain) if clipped else eps_hat


# Training


def step_fn(config):
    """(params, batch) -> (loss, gradients) for a batch {"x0", "t", "eps"}, or with "label": the process's own loss.

    A mean over coordinates too, so that learning rate and clipping mean the same for points and pictures.
    """
    path, _ = process(config)
    per_coordinate = 2 / math.prod(config.shape)

    def l_simple(params, x0, t, eps, label=None):
        guess = predictor(config, params, label)
        return loss.l_simple(guess, path.schedule, x0, t, eps, config.target, config.weighting)

    def ncsn(params, x0, t, eps, label=None):
        guess = eps_fn(config, params, label=label)
        return per_coordinate * score.ncsn_loss(lambda x, s: score.from_eps(guess(x, s), s), x0, t, eps)

    def continuous(params, x0, t, eps, label=None):
        return per_coordinate * sde.loss(eps_fn(config, params, label=label), path, x0, t, eps)

    chosen = {"ddpm": l_simple, "ncsn": ncsn}.get(config.kind, continuous)
    return autodiff.value_and_grad(lambda params, batch: chosen(params, **batch))


def draw_times(config, rng, n):
    """(n,) times to train at: whole ones, rungs of the ladder, or real ones, each as likely as the others."""
    if config.kind == "ddpm":
        return loss.draw_times(rng, n, config.T)
    if config.kind == "ncsn":
        rungs = ladder(config)
        return rungs[loss.draw_times(rng, n, len(rungs)) - 1]
    path, low = process(config)
    return low + (path.end - low) * loss.even_uniforms(rng, n)


def batches(config, x, device, labels=None):
    """step -> batch: its examples, times and noise depend on (seed, step) alone, and not on the device.

    Drawn on the host: a generator on a GPU is slow to make, and would draw other numbers. Times stay there, and labels,
    of which one in ten is hidden.
    """

    seed, size = config.settings["seed"], config.settings["batch"]

    def batch(step):
        rng = np.random.default_rng([seed, BATCH, step])
        rows = rng.integers(0, len(x), size)
        t = draw_times(config, rng, size)
        eps = np.random.default_rng([seed, NOISE, step]).standard_normal((size, *config.shape), "f4")
        drawn = {"x0": device.put(x[rows]), "t": t, "eps": device.put(eps)}
        if not config.classes:
            return drawn
        return {**drawn, "label": np.where(rng.random(size) < DROPPED, config.classes, labels[rows])}

    return batch


# Sampling

STEPS = {"langevin": 100, "euler": 50, "heun": 20, "rk4": 10, "dpm++": 20, "euler-maruyama": 500, "pc": 250}
METHODS = ("ddpm", "ddim", *STEPS)
FLOWS = {"euler": solver.euler, "heun": solver.heun, "rk4": solver.rk4}


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


@dataclasses.dataclass(frozen=True)
class Walk:
    """A way from noise to data. go(z, rng), z ~ N(0, I), yields `length` x's, at the scale of data, the sample last."""

    length: int
    go: object


def usual(config):
    """The method that a run is sampled by unless another is asked for."""
    return {"ddpm": "ddim", "ncsn": "langevin"}.get(config.kind, "heun")


def walk(config, eps_hat, method=None, steps=None, eta=0.0, v=1.0):
    """The Walk of a sampler on a model whose noise estimate is eps_hat (`eps_fn`, or that wrapped).

    method : ddpm, ddim: of DDPM runs; langevin: of NCSN runs; euler, heun, rk4, dpm++: the probability flow, in EDM's
             coordinates; euler-maruyama, pc: the reverse SDE. Unless given: `usual`.
    steps  : unless given, T for ddpm, 50 for ddim, else STEPS[method]; for langevin, at each level. 1 is the jump to
             x̂_0, and all there is from the one noise level of T = 1 or of a ladder of one rung.
    eta    : of ddim; v: of ddpm (`forward.reverse_var`).
    Raises : ValueError for a method that the model has not got, or bad numbers.
    """
    method = method or usual(config)
    if method not in METHODS:
        raise ValueError(f"sampler must be one of {', '.join(METHODS)}, got {method!r}")
    needs = {"ddpm": "ddpm", "ddim": "ddpm", "langevin": "ncsn"}.get(method, config.kind)
    if needs != config.kind:
        raise ValueError(f"{method} is for {needs} runs, this one is {config.kind}; try euler, heun, dpm++ or pc")
    if not 0 <= v <= 1:
        raise ValueError(f"v must be in [0, 1], got {v}; 1 is the variance beta, 0 beta tilde")
    path, low = process(config)
    alone = low == path.end and method not in ("ddpm", "ddim", "langevin")
    if steps is None:
        usual_steps = {"ddpm": config.T, "ddim": min(50, config.T)}.get(method) or STEPS[method]
        usual_steps = config.process.get("steps", usual_steps) if method == "langevin" else usual_steps
        steps = 1 if alone else usual_steps
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if alone and steps > 1:
        raise ValueError(f"{method} walks between noise levels, this run knows only one: steps must be 1, got {steps}")
    if method in ("ddpm", "ddim"):
        return _chain_walk(config, eps_hat, method, steps, eta, v)
    if method == "langevin":
        return _langevin_walk(config, eps_hat, steps)
    if alone:
        return _flow_walk(config, eps_hat, "euler", 1)
    through = _flow_walk if method in (*FLOWS, "dpm++") else _sde_walk
    return through(config, eps_hat, method, steps)


def _chain_walk(config, eps_hat, method, steps, eta, v):
    chain = config.chain
    sampler.timesteps(config.T, steps)

    def go(z, rng):
        if method == "ddpm":
            return sampler.sample_ddpm(eps_hat, chain, z, rng, steps, v)
        return sampler.sample_ddim(eps_hat, chain, z, rng, steps, eta)

    return Walk(steps, go)


def _langevin_walk(config, eps_hat, steps):
    rungs = ladder(config)

    def score_fn(x, sigma):
        return score.from_eps(eps_hat(x, sigma), sigma)

    def go(z, rng):
        path = score.annealed_langevin(score_fn, coef(rungs[0], z) * z, rungs, rng, steps)
        for sigma, x in zip(np.repeat(rungs, steps).tolist(), path, strict=False):  # one more x is to come
            yield x / math.hypot(1, sigma)
        yield next(path)

    return Walk(len(rungs) * steps + 1, go)


def flow_of(config, eps_hat):
    """(EDM process, matched ε̂, σ_min): the model in EDM's coordinates, from its least noise to its most, or 80."""
    path, low = process(config)
    edm = sde.EDM(min(SIGMA_MAX, float(sde.ratio(path, path.end))))
    return edm, sde.match(eps_hat, path, edm), float(sde.ratio(path, low))


def _flow_walk(config, eps_hat, method, steps):
    edm, guess, sigma_min = flow_of(config, eps_hat)
    velocity = sde.probability_flow(edm, sde.score_from_eps(edm, guess))
    times = [edm.sigma_max]
    if steps > 1 and method == "dpm++":
        times = solver.uniform_in_lambda(edm, edm.sigma_max, sigma_min, steps - 1)
    elif steps > 1:
        times = solver.edm_sigmas(sigma_min, edm.sigma_max, steps - 1)

    def go(z, rng):
        x = coef(edm.sigma_max, z) * z
        path = solver.dpmpp_2m(edm, guess, x, times) if method == "dpm++" else FLOWS[method](velocity, x, times)
        for u, x in zip(times[1:], path, strict=True):
            yield x / math.hypot(1, u)
        yield sde.denoise(edm, guess, x, times[-1])

    return Walk(steps, go)


def _sde_walk(config, eps_hat, method, steps):
    path, low = process(config)
    own = sde.VP() if config.kind == "ddpm" else sde.VE(low, path.end) if config.kind == "ncsn" else path
    guess = sde.match(eps_hat, path, own)
    high = min(own.end, float(own.time_of(sde.ratio(path, path.end))))
    times = [high]
    if steps > 1:
        times = solver.uniform(high, float(own.time_of(sde.ratio(path, low))), steps - 1)
    score_fn = sde.score_from_eps(own, guess)

    def go(z, rng):
        x = coef(own.prior_std if high == own.end else own.noise(high), z) * z
        if method == "pc":
            steps_of_x = solver.predictor_corrector(own, score_fn, x, times, rng)
        else:
            steps_of_x = solver.euler_maruyama(own, score_fn, x, times, rng)
        for u, x in zip(times[1:], steps_of_x, strict=True):
            yield x / float(np.hypot(own.signal(u), own.noise(u)))
        yield sde.denoise(own, guess, x, times[-1])

    return Walk(steps, go)


# Likelihood


def log_likelihood(config, params, x, steps=100, method="rk4", probes=None):
    """ln p(x) of the probability flow, where the model's noise is least: yields after each step, the answer last.

        ln p(x) = ln N(x_σmax; 0, σ_max² I) + ∫ div ε̂ dσ, σ from that of t = 1 to σ_max

    No network knows less noise than that of t = 1: x is taken as x_0 + σ_min ε, a density of slightly blurred data.
    x      : (B, ...), of params' device. probes: None for the exact divergence, or (B, ...) random signs.
    Yields : (x_σ, ln p (B,) nats), `steps` times; the flow is worked out in x's precision.
    Raises : ValueError for a run of one noise level.
    """
    edm, guess, sigma_min = flow_of(config, eps_fn(config, params, clip=False))
    if sigma_min >= edm.sigma_max:
        raise ValueError("the flow runs between noise levels, this run knows only one; train with more, a larger T")
    velocity = sde.probability_flow(edm, sde.score_from_eps(edm, guess))
    times = solver.edm_sigmas(sigma_min, edm.sigma_max, steps)[::-1]
    return sde.log_likelihood(velocity, x, times, FLOWS[method], sde.standard(edm), probes)
