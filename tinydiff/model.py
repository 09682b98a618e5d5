"""What a run's Config stands for: its network, the process that it was trained on, and the ways to sample it.

A model is a noise estimate ε̂(x, u) and the process whose u it knows: the steps of a DDPM, the rungs of NCSN's ladder,
or the continuous time of an SDE. Since one process can borrow another's network (`sde.match`), every solver runs on
every model. What it is a model of may be pictures, or their codes in an autoencoder.
"""
import dataclasses
import math

import numpy as np

from . import glyphs, guidance, latent, loss, sampler, schedule, score, sde, solver
from .forward import coef
from .nn import autoencoder, captioned, classifier, mlp, unet

NETWORKS = {"mlp": mlp, "unet": unet, "captioned": captioned, "autoencoder": autoencoder, "classifier": classifier}

# What a draw is for. A generator is seeded by [seed, purpose, number], so no two of them share a stream.
TOY_DATA, WEIGHTS, BATCH, NOISE, SAMPLES, PICTURES, EVALUATION, EXAMPLES, LIKELIHOOD, CODES = range(1, 11)

SIGMA_MAX = 80.0  # a walk need not begin further out: x_0 adds 1 part in 6400 to the variance there (Karras et al.)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on. Saved whole in its checkpoint, and taken whole when it is resumed.

    data: name, folder and split; network: its kind and its Config's fields; shape: of one example.
    process: None for the DDPM chain of schedule, T, target and weighting; else its kind and numbers, e.g.
    {"kind": "ncsn", "sigma_max": 2.0, "sigma_min": 0.02, "levels": 10, "steps": 100} (Langevin steps at each level) or
    {"kind": "vp"}: the network guesses ε. What is no diffusion has a kind too: {"kind": "classifier"} of what the
    chain noised, and {"kind": "vae", "noise_var": 0.01, "beta": 0.1} (vae.bound).
    first_stage: of a diffusion of codes, {"network": that of the autoencoder, "scale": latent.latent_scale}.
    ln_sigma: (mean, std) of ln σ at the times that a chain is trained at (`loss.log_normal_noise`), None for all alike.
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
    first_stage: dict | None = None
    ln_sigma: tuple | None = None

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.ln_sigma is not None:
            mean, std = map(float, self.ln_sigma)
            object.__setattr__(self, "ln_sigma", (mean, std))
        if set(self.data) != {"name", "folder", "split"}:
            raise ValueError(f"data must have a name, a folder and a split, got {self.data}")
        if self.first_stage and not 0 < self.first_stage["scale"] < math.inf:
            raise ValueError(f"the scale of codes must be more than 0, got {self.first_stage['scale']}")

    @property
    def images(self):
        return len(self.shape) == 3

    @property
    def z_shape(self):
        """Of what begins as noise: a code where there is an autoencoder, else an example itself."""
        return self.coder.shape if self.first_stage or self.kind == "vae" else self.shape

    @property
    def coder(self):
        """The Config of its autoencoder: its first stage, or itself."""
        fields = self.first_stage["network"] if self.first_stage else self.network
        return autoencoder.Config(**{name: value for name, value in fields.items() if name != "kind"})

    @property
    def in_pixels(self):
        """A diffusion of pictures as they are, whose x_0 is in [-1, 1]."""
        return self.images and not self.first_stage

    @property
    def chain(self):
        """The DDPM schedule."""
        return schedule.named(self.schedule, self.T)

    @property
    def classes(self):
        """How many labels its network knows; to a diffusion, that number itself stands for no label."""
        return self.network.get("classes", 0)

    @property
    def captions(self):
        """Does its network read?"""
        return self.network["kind"] == "captioned"

    @property
    def kind(self):
        """ddpm, ncsn, vp, subvp or ve; vae; classifier."""
        return "ddpm" if self.process is None else self.process["kind"]


# The network and the process


def network(config):
    """(module, its Config): module.init(rng, its Config), module.apply(params, x, t, its Config)."""
    fields = dict(config.network)
    module = NETWORKS[fields.pop("kind")]
    return module, module.Config(**fields)


def predictor(config, params, given=None):
    """What the network guesses, f(x_t, t), with these parameters. given: a `condition`, or None."""
    module, shape = network(config)
    return lambda x, t: module.apply(params, x, t, shape, *([] if given is None else [given]))


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
        wanted = f"none, for ddpm, or ncsn, {', '.join(sde.PROCESSES)}"
        raise ValueError(f"the process of a diffusion must be {wanted}, got {config.kind!r}")
    numbers = {name: value for name, value in config.process.items() if name != "kind"}
    return sde.PROCESSES[config.kind](**numbers), 1e-3


def ladder(config):
    """NCSN's noise levels."""
    return score.noise_levels(*(config.process[name] for name in ("sigma_max", "sigma_min", "levels")))


def eps_fn(config, params, clip=True, given=None):
    """The trained ε̂(x, u), u in its process's time; of a DDPM in pixels with x̂_0 kept in [-1, 1], unless not `clip`.

    Other processes show the network x at the scale of data, x / √(a² + b²), and a clock that runs from 0 to 1000.
    """
    guess = predictor(config, params, given)
    if config.kind == "ddpm":
        chain = config.chain
        return loss.eps_fn(guess, chain, config.target, clip=clip and config.in_pixels)
    path, low = process(config)
    span = math.log(path.end / low) or 1.0  # of a ladder of one rung, whose clock stands at 0

    def clock(u):
        return 1000 * (np.log(u / low) / span if config.kind == "ncsn" else u)

    return lambda x, u: guess(coef(1 / np.hypot(path.signal(u), path.noise(u)), x) * x, clock(u))


# What a sample is asked to show


def asked_for(config, n, label=None, prompt=None):
    """What each of n samples is to show: (n,) labels, `label` or each in turn; n captions, `prompt` or those of each
    held-out glyph in turn; None for a run that takes neither.

    Raises ValueError for a label or a prompt that the run does not understand.
    """
    if label is not None and not config.classes:
        raise ValueError(f"this run knows no labels, got {label}; train mnist-class")
    if prompt is not None and not config.captions:
        raise ValueError(f"this run does not read, got {prompt!r}; train glyphs-text")
    if config.captions and prompt is None:
        held_out = glyphs.split("test")
        held_out = [held_out[i] for i in np.random.default_rng(0).permutation(len(held_out))]
        return [glyphs.caption(held_out[i % len(held_out)]) for i in range(n)]
    if config.captions:
        glyphs.tokens([prompt])
        return [prompt] * n
    if label is not None and not 0 <= label < config.classes:
        raise ValueError(f"label must be in 0..{config.classes - 1}, got {label}")
    if config.classes:
        return np.arange(n) % config.classes if label is None else np.full(n, label)
    return None


def condition(config, asked):
    """What the network is given for what was `asked_for`: labels as they are, captions as numbers of words."""
    if not config.captions or asked is None:
        return asked
    return dict(zip(("ids", "mask"), glyphs.tokens(asked), strict=True))


def nothing(config):
    """The condition that asks for nothing, for one example; None for a run that is never asked."""
    return {"ids": 0, "mask": False} if config.captions else config.classes or None


def guided(config, params, given, w=0.0):
    """ε̂ for a `condition` of B examples, leaning on it by classifier-free guidance (guidance.classifier_free).

    Guided before x̂_0 is clipped, so that what is clipped is what is used; w = 0 only conditions.
    """
    if w == 0:
        return eps_fn(config, params, given=given)

    def asked(x, t, given):
        return eps_fn(config, params, clip=False, given=given)(x, t)

    return _clipped(config, guidance.classifier_free_at_once(asked, given, nothing(config), w))


def classified(config, params, classifier, weights, label, scale=1.0):
    """ε̂ of a run without labels, led to (B,) labels by a classifier of what its chain noised (guidance.classifier).

    classifier, weights: the Config of a run that is one, and its parameters.
    Raises ValueError for another chain, or other pictures, than the classifier's; for a run of codes or of no chain.
    """
    if config.kind != "ddpm" or config.first_stage:
        what = "of codes" if config.first_stage else config.kind
        raise ValueError(f"a classifier leads DDPM runs of pictures as they are; this one is {what}")
    for name in ("kind", "shape", "schedule", "T"):
        wanted = "classifier" if name == "kind" else getattr(config, name)
        if getattr(classifier, name) != wanted:
            got = getattr(classifier, name)
            raise ValueError(f"the classifier's {name} must be {wanted}, got {got}; train mnist-classifier to match")
    grad = guidance.log_prob_grad(predictor(classifier, weights), label)
    return _clipped(config, guidance.classifier(eps_fn(config, params, clip=False), process(config)[0], grad, scale))


def _clipped(config, eps_hat):
    return loss.clip_x0(eps_hat, config.chain) if config.kind == "ddpm" and config.in_pixels else eps_hat


# Codes


def encoded(config, frozen, x, eps=None):
    """z_0 of pictures x, for a run with a first stage (latent.encode): a draw from the posterior, with an ε."""
    coder = config.coder
    return latent.encode(lambda x: autoencoder.encode(frozen, x, coder), config.first_stage["scale"], x, eps)


def decoder(config, params, frozen=None):
    """z_0 -> the picture: by the run's own decoder, if it is a VAE, or by that of its first stage, if it has one."""
    if not config.first_stage and config.kind != "vae":
        return lambda z: z
    coder, scale = config.coder, config.first_stage["scale"] if config.first_stage else 1.0
    weights = frozen if config.first_stage else params
    return lambda z: latent.decode(lambda z: autoencoder.decode(weights, z, coder), scale, z)


# Sampling

STEPS = {"langevin": 100, "euler": 50, "heun": 20, "rk4": 10, "dpm++": 20, "euler-maruyama": 500, "pc": 250}
METHODS = ("ddpm", "ddim", *STEPS)
FLOWS = {"euler": solver.euler, "heun": solver.heun, "rk4": solver.rk4}


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
             x̂_0, and all there is from the one noise level of T = 1 or of a ladder of one rung. ddpm and ddim of a
             guess of ε that nothing clips begin at the last t of σ_t <= SIGMA_MAX, and take no more steps than that.
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
    if config.target in ("eps", "mu") and not config.in_pixels:  # x̂_0, σ times as wrong as ε̂, is not clipped
        chain = chain.first(max(1, np.count_nonzero(chain.snr[1:] >= SIGMA_MAX**-2)))
        steps = min(steps, chain.T)

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


def check_density(config):
    """Raise ValueError unless the run has a density of the data: a diffusion, and not of codes."""
    if config.first_stage or config.kind in ("vae", "classifier"):
        what = "of codes" if config.first_stage else f"a {config.kind}"
        raise ValueError(f"ln p is of diffusions of the data themselves, this run is {what}; take another")


def log_likelihood(config, params, x, steps=100, method="rk4", probes=None):
    """ln p(x) of the probability flow, where the model's noise is least: yields after each step, the answer last.

        ln p(x) = ln N(x_σmax; 0, σ_max² I) + ∫ div ε̂ dσ, σ from that of t = 1 to σ_max

    No network knows less noise than that of t = 1: x is taken as x_0 + σ_min ε, a density of slightly blurred data.
    x      : (B, ...), of params' device. probes: None for the exact divergence, or (B, ...) random signs.
    Yields : (x_σ, ln p (B,) nats), `steps` times; the flow is worked out in x's precision.
    Raises : ValueError for a run of one noise level.
    """
    check_density(config)
    edm, guess, sigma_min = flow_of(config, eps_fn(config, params, clip=False))
    if sigma_min >= edm.sigma_max:
        raise ValueError("the flow runs between noise levels, this run knows only one; train with more, a larger T")
    velocity = sde.probability_flow(edm, sde.score_from_eps(edm, guess))
    times = solver.edm_sigmas(sigma_min, edm.sigma_max, steps)[::-1]
    return sde.log_likelihood(velocity, x, times, FLOWS[method], sde.standard(edm), probes)
