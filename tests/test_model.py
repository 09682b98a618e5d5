"""What a Config stands for: every sampler on every process, tried on a model that knows the answer.

The data are N(0.3, 0.25 I), so the best ε̂ is known, and most samplers are affine in all the noise that they take: one
example without noise and one for each number drawn give the mean and variance of the samples exactly, nothing drawn.
"""
import dataclasses
import math
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest

from tinydiff import elbo, gaussian, glyphs, loss, model, objective, runs, schedule, sde, train, use
from tinydiff.forward import coef
from tinydiff.nn import autoencoder
from tinydiff.tensor import tree

MU, VAR = 0.3, 0.25
PROCESSES = {
    "ddpm": None,
    "ncsn": {"kind": "ncsn", "sigma_max": 5.0, "sigma_min": 0.02, "levels": 20},
    "vp": {"kind": "vp"},
    "subvp": {"kind": "subvp"},
    "ve": {"kind": "ve"},
}
FLOWS = ("euler", "heun", "rk4", "dpm++")
OF_THE_SDE = ("euler-maruyama", "pc")
ONLY_OF = {"ddpm": "ddpm", "ddim": "ddpm", "langevin": "ncsn"}
PAIRS = [(kind, method) for kind in PROCESSES for method in model.METHODS if ONLY_OF.get(method, kind) == kind]
# What 50 steps of Euler's method and so on may leave: of the mean, in data units, and of the standard deviation, as a
# share of it. The flow's means are off besides because it starts from N(0, σ_max²) and not around 0.3.
BIAS = {"ddpm": 0.01, "ddim": 0.07, "langevin": 0.02, "euler": 0.07, "heun": 0.07, "rk4": 0.02, "dpm++": 0.04,
        "euler-maruyama": 0.01, "pc": 0.03}  # fmt: skip


def config_of(kind, T=200, name="linear", shape=(2,), process=None):
    network = {"kind": "mlp", "width": 8, "depth": 2, "embed": 4}
    place = {"name": "moons", "folder": None, "split": "train"}
    settings = dataclasses.asdict(train.Settings(steps=3))
    return model.Config("moons", place, network, shape, settings, name, T, process=process or PROCESSES[kind])


def run_of(config):
    return runs.Run(None, config, runs.start(config))


def exact(config):
    """E[ε | x_u] for data N(0.3, 0.25 I), on any array library, differentiable."""
    path, _ = model.process(config)

    def eps_hat(x, u):
        a, b = path.signal(u), path.noise(u)
        return coef(b / (a * a * VAR + b * b), x) * (x - coef(a * MU, x))

    return eps_hat


@pytest.fixture
def knows_the_answer(monkeypatch):
    """Every run's network is the exact denoiser."""
    monkeypatch.setattr(model, "eps_fn", lambda config, params, clip=True, given=None: exact(config))


class Impulses:
    """In place of a generator: the k-th draw is 1 for example k+2 and 0 for the others."""

    def __init__(self):
        self.k = 1

    def standard_normal(self, shape, dtype):
        self.k += 1
        noise = np.zeros(shape, dtype)
        noise[self.k] = 1
        return noise


def mean_and_std(film, draws):
    """Those of each x that a walk yields, exactly: example 0 is the mean, the others are a coordinate's noises."""
    film = [x[:, 0] for x in film]
    return [x[0] for x in film], [math.sqrt(((x[1 : draws + 2] - x[0]) ** 2).sum()) for x in film]


# Samplers


@pytest.mark.parametrize("kind, method", [pair for pair in PAIRS if pair[1] != "pc"])
def test_a_perfect_model_gives_the_data_back(kind, method):
    """Mean and standard deviation, at the usual number of steps. On the way x is at the scale of data: std 0.5 to 1."""
    config = config_of(kind)
    walk = model.walk(config, exact(config), method, eta=0.5 if method == "ddim" else 0.0)
    rng, z = Impulses(), np.zeros((walk.length + 2, 1))
    z[1] = 1
    film = list(walk.go(z, rng))
    means, stds = mean_and_std(film, walk.length)
    assert len(film) == walk.length
    assert abs(means[-1] - MU) < 0.01 + (0.03 if kind == "ncsn" and method in FLOWS else 0)
    assert abs(stds[-1] / math.sqrt(VAR) - 1) < BIAS[method]
    assert abs(stds[0] - 1) < 0.05  # nearly all is noise
    assert 0.45 < min(stds) and max(stds) < (1.3 if method == "langevin" else 1.1)  # which lags behind its levels


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_perfect_model_corrected(kind):
    """The corrector's step depends on the whole batch, so this one is drawn: 10,000 numbers, 1e-9 a side is 6 sigma."""
    config, rng = config_of(kind), np.random.default_rng(0)
    *_, x = model.walk(config, exact(config), "pc", 100).go(rng.standard_normal((10_000, 1)), rng)
    assert abs(x.mean() - MU) < 0.01 + 6 * math.sqrt(VAR) / 100
    assert abs(x.std() / math.sqrt(VAR) - 1) < BIAS["pc"] + 6 / math.sqrt(20_000)


@pytest.mark.parametrize("kind, method", [pair for pair in PAIRS if pair[1] not in ONLY_OF])
def test_one_step_is_the_jump_from_pure_noise(kind, method):
    """To E[x_0 | x_max] = μ + v (x_max - μ) / (v + σ_max²)."""
    config = config_of(kind)
    path, _ = model.process(config)
    [x] = model.walk(config, exact(config), method, 1).go(np.array([[2.0], [-2.0]]), None)
    assert abs(x - MU).max() < 1.1 * 2 * VAR / min(80.0, float(sde.ratio(path, path.end))) + 0.002


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("method, steps, room", [("rk4", 80, 2e-4), ("heun", 120, 5e-3), ("dpm++", 120, 2e-3)])
def test_the_flow_is_solved_from_end_to_end(kind, method, steps, room):
    """x_σ = μ + (x_max - μ) √((v + σ²)/(v + σ_max²)), and then the jump to x̂_0: each noise has its known sample."""
    config = config_of(kind)
    path, low = model.process(config)
    sigma_min, sigma_max = float(sde.ratio(path, low)), min(80.0, float(sde.ratio(path, path.end)))
    z = np.array([[-2.0], [0.0], [1.0]])
    x = MU + (sigma_max * z - MU) * math.sqrt((VAR + sigma_min**2) / (VAR + sigma_max**2))
    wanted = (VAR * x + sigma_min**2 * MU) / (VAR + sigma_min**2)
    *_, got = model.walk(config, exact(config), method, steps).go(z, None)
    assert abs(got - wanted).max() < room


@pytest.mark.parametrize("method", [m for m in model.METHODS if ONLY_OF.get(m, "ddpm") == "ddpm"])
@pytest.mark.parametrize("T", [1, 2])
def test_one_and_two_steps_of_noise_can_be_sampled_by_any_method(T, method):
    """From the one level of T = 1 there is one jump, the same by every method: to E[x_0 | x_1], which is nearly μ."""
    config = config_of("ddpm", T, "cosine")
    walk = model.walk(config, exact(config), method, 20 if T > 1 and method in OF_THE_SDE else None)
    rng = np.random.default_rng(0)
    film = list(walk.go(rng.standard_normal((50, 2), "f4"), rng))
    assert len(film) == walk.length and film[-1].dtype == np.float32 and np.isfinite(film[-1]).all()
    if T == 1:
        assert walk.length == 1 and abs(film[-1] - MU).max() < 0.05


@pytest.mark.parametrize("method", [*FLOWS, *OF_THE_SDE, "langevin"])
def test_a_ladder_of_one_rung_can_be_sampled_by_any_method(method):
    one = {"kind": "ncsn", "sigma_max": 3.0, "sigma_min": 3.0, "levels": 1}
    run = run_of(config_of("ncsn", process=one))
    x = use.draw(run, 6, method)
    assert x.shape == (6, 2) and np.isfinite(x).all()
    if method != "langevin":
        with pytest.raises(ValueError, match="knows only one: steps must be 1, got 2"):
            use.draw(run, 6, method, steps=2)


@pytest.mark.parametrize("kind, method", [(k, m) for k in PROCESSES for m in ONLY_OF if ONLY_OF[m] != k])
def test_a_sampler_of_other_runs_is_refused(kind, method):
    config = config_of(kind)
    with pytest.raises(ValueError, match=f"{method} is for {ONLY_OF[method]} runs, this one is {kind}"):
        model.walk(config, exact(config), method)


@pytest.mark.parametrize("kind, method", PAIRS)
def test_no_steps_are_refused(kind, method):
    config = config_of(kind)
    with pytest.raises(ValueError, match="steps must be"):
        model.walk(config, exact(config), method, 0)
    with pytest.raises(ValueError, match="v must be in"):
        model.walk(config, exact(config), method, v=2.0)


def test_memory_does_not_grow_with_the_number_of_steps(knows_the_answer):
    """36 more steps, each of whose x's has 80 kB: not one is kept."""
    for kind, method in (("vp", "euler"), ("ve", "euler-maruyama"), ("ddpm", "ddpm"), ("ncsn", "langevin")):
        peaks = []
        for steps in (4, 40):
            tracemalloc.start()
            try:
                use.draw(run_of(config_of(kind)), 10_000, method, steps, chunk=10_000)
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
        assert peaks[1] < peaks[0] + 40_000, (method, peaks)


# Processes


@pytest.mark.parametrize(
    "process, says",
    [
        ({"kind": "x"}, "got 'x'"),
        ({"kind": "ddpm"}, "got 'ddpm'"),
        ({"kind": "ve", "sigma_min": 60.0}, "sigma_min < sigma_max"),
        ({"kind": "vp", "beta_min": 0.0}, "0 < beta_min"),
        ({"kind": "ncsn", "sigma_max": 1.0, "sigma_min": 2.0, "levels": 3}, "from large to small"),
        ({"kind": "ncsn", "sigma_max": 2.0, "sigma_min": 1.0, "levels": 1}, "for a single one"),
        ({"kind": "ncsn", "sigma_max": 2.0, "sigma_min": 1.0, "levels": 0}, "at least 1"),
    ],
    ids=str,
)
def test_numbers_that_make_no_process_are_refused(process, says):
    with pytest.raises(ValueError, match=says):
        model.process(config_of("vp", process=process))


@pytest.mark.parametrize("kind", PROCESSES)
def test_times_to_train_at_are_those_of_the_process(kind):
    config = config_of(kind)
    path, low = model.process(config)
    t = objective.times(config)(np.random.default_rng(0), 20_000)
    assert t.shape == (20_000,) and low <= t.min() and t.max() <= path.end
    if kind == "ncsn":
        assert np.array_equal(np.unique(t), np.sort(model.ladder(config)))  # a thousand times each, evenly
    else:
        assert t.min() < low + 0.02 * path.end and t.max() > 0.98 * path.end


def test_times_to_train_at_are_as_noisy_as_the_config_wants():
    """As often as a normal ln σ is, σ_t is below some σ_s, to one draw in 20,000: they are spread evenly."""
    config = dataclasses.replace(config_of("ddpm"), ln_sigma=(0.65, 0.5), schedule="cosine", T=1000)
    t = objective.times(config)(np.random.default_rng(0), 20_000)
    ln_sigma = -0.5 * np.log(config.chain.snr)
    for k in (-2, -1, 0, 1, 2):
        last = np.searchsorted(ln_sigma, 0.65 + k * 0.5, side="right") - 1
        wanted = NormalDist(0.65, 0.5).cdf(ln_sigma[last])
        assert abs((t <= last).sum() - 20_000 * wanted) <= 1


@pytest.mark.parametrize("target", ["eps", "mu"])
@pytest.mark.parametrize("method", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [10, 50])
def test_a_small_error_in_pure_noise_stays_small(target, method, steps):
    """Cosine's x_1000 is 20,000 times as much noise as signal. An error of 0.01 there would move x̂_0 by 200."""
    config = dataclasses.replace(config_of("ddpm"), T=1000, schedule="cosine", target=target)
    right = exact(config)
    walk = model.walk(config, lambda x, t: right(x, t) + np.float32(0.01), method, steps)
    *path, x0 = walk.go(np.random.default_rng(0).standard_normal((2000, 2), "f4"), np.random.default_rng(1))
    assert len(path) + 1 == walk.length == steps
    assert abs(x0.mean() - 0.3) < 0.3 and 0.7 < x0.std() / math.sqrt(VAR) < 1.3


@pytest.mark.parametrize("kind", ["ncsn", "vp", "subvp", "ve"])
def test_the_network_sees_the_scale_of_data_and_a_clock_of_a_thousand(kind, monkeypatch):
    config, seen = config_of(kind), []
    monkeypatch.setattr(model, "predictor", lambda config, params, given=None: lambda x, t: seen.append((x, t)) or x)
    path, low = model.process(config)
    u, x = np.array([low, path.end]), np.ones((2, 2), "f4")
    model.eps_fn(config, None)(x, u)
    [(scaled, clock)] = seen
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:, 0] * np.hypot(path.signal(u), path.noise(u)), 1, rtol=1e-6)
    np.testing.assert_allclose(clock, [0 if kind == "ncsn" else 1, 1000], atol=1e-9)


# What a sample is asked to show

UNET = {"size": 4, "channels": 1, "widths": [8], "groups": 4, "embed": 8}
CODER = {"kind": "autoencoder", "size": 8, "channels": 1, "latent": 1, "widths": [8], "groups": 4}
READER = {
    "kind": "captioned", "unet": UNET,
    "text": {"vocabulary": len(glyphs.VOCABULARY), "length": glyphs.LONGEST, "width": 8, "depth": 1},
}  # fmt: skip
NETWORKS = {
    "pictures": {"kind": "unet", **UNET},
    "labels": {"kind": "unet", **UNET, "classes": 3},
    "captions": READER,
    "captions of codes": READER,
    "vae": CODER,
    "classifier": {"kind": "classifier", "size": 4, "widths": [8], "groups": 4, "embed": 8, "classes": 3},
}


def asks(name, **changes):
    """The Config of a run of 4 x 4 pictures, or of 8 x 8 whose codes are 4 x 4, asked for what its name says."""
    processes = {"vae": {"kind": "vae", "noise_var": 0.01, "beta": 0.1}, "classifier": {"kind": "classifier"}}
    stage = {"network": CODER, "scale": 0.37} if name == "captions of codes" else None
    config = dataclasses.replace(
        config_of("ddpm", T=200, shape=(8, 8, 1) if stage or name == "vae" else (4, 4, 1)),
        recipe="glyphs-text", network=NETWORKS[name], process=processes.get(name), first_stage=stage,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def alive(config, dtype=np.float32, seed=1):
    """Weights none of which is 0."""
    rng, params = np.random.default_rng(seed), runs.start(config).params
    return tree.map(lambda p: (p + 0.2 * rng.standard_normal(p.shape)).astype(dtype), params)


def noisy_pictures(n=3, dtype=np.float32):
    return (2 * np.random.default_rng(2).standard_normal((n, 4, 4, 1))).astype(dtype)


def test_labels_are_asked_for_in_turn_or_one_for_all():
    config = asks("labels")
    assert model.asked_for(config, 5).tolist() == [0, 1, 2, 0, 1]
    assert model.asked_for(config, 2, label=0).tolist() == [0, 0]
    assert model.asked_for(config, 2, label=2).tolist() == [2, 2]
    assert model.asked_for(asks("pictures"), 5) is None


def test_captions_are_asked_for_of_each_held_out_glyph_in_turn_or_one_for_all():
    config, held_out = asks("captions"), set(glyphs.split("test"))
    captions = model.asked_for(config, len(held_out) + 2)
    assert set(map(glyphs.parse, captions[: len(held_out)])) == held_out and captions[-2:] == captions[:2]
    assert len({glyphs.parse(caption).what for caption in captions[:64]}) > 20  # a few samples show many things
    assert model.asked_for(config, 3) == captions[:3]
    words = "a LARGE seven"  # no whole caption, but words that it knows
    assert model.asked_for(config, 2, prompt=words) == [words] * 2
    assert model.asked_for(config, 2, prompt="") == ["", ""]


@pytest.mark.parametrize(
    "name, wish, says",
    [
        ("labels", {"label": 3}, "label must be in 0..2, got 3"),
        ("labels", {"label": -1}, "label must be in 0..2, got -1"),
        ("pictures", {"label": 0}, "knows no labels, got 0"),
        ("captions", {"label": 0}, "knows no labels, got 0"),
        ("labels", {"prompt": ""}, "does not read, got ''"),
        ("captions", {"prompt": "a purple seven"}, "no caption has the word 'purple'"),
        ("captions", {"prompt": "a " * 11}, "at most 10 words"),
    ],
    ids=str,
)
def test_what_a_run_cannot_be_asked_is_refused(name, wish, says):
    with pytest.raises(ValueError, match=says) as refusal:
        model.asked_for(asks(name), 2, **wish)
    assert "\n" not in str(refusal.value)


def test_a_condition_is_labels_or_numbers_of_words_and_nothing_is_neither():
    labels, captions = np.array([2, 0]), ["a small seven", "a large letter a at the top"]
    assert model.condition(asks("labels"), labels) is labels and model.nothing(asks("labels")) == 3
    found, (ids, mask) = model.condition(asks("captions"), captions), glyphs.tokens(captions)
    assert set(found) == {"ids", "mask"}
    assert np.array_equal(found["ids"], ids) and np.array_equal(found["mask"], mask)
    assert model.nothing(asks("captions")) == {"ids": 0, "mask": False}
    for config in (asks("pictures"), asks("captions")):
        assert model.condition(config, None) is None
    assert model.nothing(asks("pictures")) is None


GIVEN = {"labels": np.array([0, 1, 2]), "captions": ["a small seven", "a large letter A at the top", "a bold four"]}


@pytest.mark.parametrize("name", ["labels", "captions", "captions of codes"])
@pytest.mark.parametrize("t", [7, np.array([1, 90, 200])], ids=["one t", "many"])
def test_guidance_is_the_mixture_with_nothing_and_of_no_weight_the_condition(name, t):
    """(1+w) ε̂(x|y) - w ε̂(x), and of pictures, not codes, x̂_0 is clipped then, once."""
    config, w = asks(name), 1.5
    params, x = alive(config), noisy_pictures()
    given = model.condition(config, GIVEN["labels" if name == "labels" else "captions"])
    none = np.full(3, 3) if name == "labels" else tree.map(np.zeros_like, given)
    asked, unasked = (model.eps_fn(config, params, clip=False, given=some) for some in (given, none))

    def mixture(x, t):
        return (1 + w) * asked(x, t) - w * unasked(x, t)

    clipped = [loss.clip_x0(eps_hat, config.chain) for eps_hat in (asked, mixture)]
    plain, wanted = (asked, mixture) if name == "captions of codes" else clipped
    assert model.guided(config, params, given, 0.0)(x, t).tobytes() == plain(x, t).astype("f4").tobytes()
    np.testing.assert_allclose(model.guided(config, params, given, w)(x, t), wanted(x, t), rtol=1e-4, atol=1e-5)
    assert abs(wanted(x, t) - plain(x, t)).max() > 1e-3 and abs(clipped[1](x, t) - mixture(x, t)).max() > 1e-3


@pytest.mark.parametrize("kind", ["vp", "ncsn"])
def test_guidance_of_another_process_is_not_clipped(kind):
    config = asks("labels", process=PROCESSES[kind])
    params, x, given = alive(config), noisy_pictures(), GIVEN["labels"]
    asked, unasked = (model.eps_fn(config, params, given=some)(x, 0.5) for some in (given, np.full(3, 3)))
    np.testing.assert_allclose(model.guided(config, params, given, 2.0)(x, 0.5), 3 * asked - 2 * unasked, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_a_classifier_leads_by_its_slope(scale):
    """ε̂ - scale √(1-ᾱ_t) ∇ ln p(y|x_t), the slope along a random direction by differences; here nothing is clipped."""
    config, judge = asks("pictures"), asks("classifier")
    params, weights = alive(config, "f8"), alive(judge, "f8", seed=5)
    params["out"]["conv"] = tree.map(lambda p: 0.01 * p, params["out"]["conv"])
    x, t, label = 0.1 * noisy_pictures(dtype="f8"), np.array([10, 20, 60]), np.array([2, 0, 1])
    direction, h = np.random.default_rng(3).standard_normal(x.shape), 1e-5

    def log_p(x):
        logits = model.predictor(judge, weights)(x, t)
        return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[range(3), label]

    slope = (log_p(x + h * direction) - log_p(x - h * direction)) / (2 * h)
    own = model.eps_fn(config, params)(x, t)
    led = model.classified(config, params, judge, weights, label, scale)(x, t)
    wanted = -scale * np.sqrt(1 - config.chain.alpha_bar[t]) * slope
    np.testing.assert_allclose(((led - own) * direction).sum(axis=(1, 2, 3)), wanted, rtol=1e-5, atol=1e-8)
    assert scale == 0 or abs(wanted).min() > 1e-5


def test_what_a_classifier_leads_to_is_clipped():
    config, judge = asks("pictures"), asks("classifier")
    weights, x, chain = alive(judge), noisy_pictures(), config.chain
    led = model.classified(config, alive(config), judge, weights, np.array([0, 1, 2]), 50.0)(x, 100)
    a = chain.alpha_bar[100]
    x0_hat = (x - math.sqrt(1 - a) * led) / math.sqrt(a)
    assert abs(x0_hat).max() <= 1 + 1e-5 and (abs(x0_hat) > 1 - 1e-5).any()


@pytest.mark.parametrize(
    "run, judge, says",
    [
        ({}, {"T": 100}, "the classifier's T must be 200, got 100; train mnist-classifier to match"),
        ({}, {"schedule": "cosine"}, "the classifier's schedule must be linear, got cosine"),
        ({"shape": (8, 8, 1)}, {}, r"the classifier's shape must be \(8, 8, 1\), got \(4, 4, 1\)"),
        ({}, {"process": None}, "the classifier's kind must be classifier, got ddpm"),
        ({"first_stage": {"network": CODER, "scale": 1.0}}, {}, "pictures as they are; this one is of codes"),
        *(({"process": PROCESSES[kind]}, {}, f"this one is {kind}") for kind in ("ncsn", "vp", "subvp", "ve")),
        ({"process": {"kind": "vae", "noise_var": 0.01, "beta": 0.1}}, {}, "this one is vae"),
    ],
    ids=str,
)
def test_a_classifier_of_something_else_is_refused(run, judge, says):
    with pytest.raises(ValueError, match=says):
        model.classified(asks("pictures", **run), None, asks("classifier", **judge), None, np.zeros(2, int))


# Codes


def test_there_and_back_through_codes_undoes_the_scale():
    config = asks("captions of codes")
    frozen, x = alive(asks("vae")), np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype("f4")
    mu, log_var = autoencoder.encode(frozen, x, config.coder)
    eps = np.random.default_rng(1).standard_normal(mu.shape, "f4")
    z, drawn = model.encoded(config, frozen, x), model.encoded(config, frozen, x, eps)
    assert z.shape == (3, *config.z_shape) == (3, 4, 4, 1) and z.dtype == np.float32
    np.testing.assert_allclose(z, 0.37 * mu, rtol=1e-6)
    np.testing.assert_allclose(drawn, 0.37 * (mu + np.exp(0.5 * log_var) * eps), rtol=1e-5)
    back = autoencoder.decode(frozen, mu, config.coder)
    np.testing.assert_allclose(model.decoder(config, None, frozen)(z), back, atol=1e-5)
    np.testing.assert_allclose(model.decoder(asks("vae"), frozen)(mu), back, atol=1e-6)  # whose weights are its own
    assert model.decoder(asks("pictures"), None)(x) is x


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_of_codes_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="the scale of codes must be more than 0"):
        asks("captions", first_stage={"network": CODER, "scale": scale})


# Likelihood


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_flows_likelihood_of_a_perfect_model(kind, knows_the_answer):
    """Of every example, to 2e-4 nats, the ln p of a flow that ends in N(0, σ_max² I); and the entropy, by its mean."""
    config = config_of(kind)
    path, low = model.process(config)
    sigma_min, sigma_max = float(sde.ratio(path, low)), min(80.0, float(sde.ratio(path, path.end)))
    x = (MU + math.sqrt(VAR + sigma_min**2) * np.random.default_rng(0).standard_normal((1000, 2))).astype("f4")
    got = use.log_likelihood(run_of(config), x, steps=80)
    assert got.shape == (1000,) and got.dtype == np.float64
    ratio = (VAR + sigma_max**2) / (VAR + sigma_min**2)
    end = MU + (x.astype("f8") - MU) * math.sqrt(ratio)
    wanted = gaussian.log_density(end, 0.0, sigma_max**2).sum(axis=1) + math.log(ratio)
    assert abs(got - wanted).max() < 2e-4
    # ½ (ν - 1) of χ² with 2 ν: a variance of 1 nat² an example, so 6 sigma are 6/√1000, once in 1e9; the start of the
    # flow at N(0, σ_max²) where the data are N(0.3, σ_max² + 0.25) costs the ladder, which ends at σ = 5, 0.004
    entropy = math.log(2 * math.pi * math.e * (VAR + sigma_min**2))
    assert abs(-got.mean() - entropy) < 6 / math.sqrt(1000) + 0.005


def test_hutchinsons_estimate_is_the_divergence_of_a_linear_field(knows_the_answer):
    """ε̂ is affine in x by a multiple of the identity: any signs give its trace, and pictures are like points."""
    config = config_of("vp", shape=(4, 4, 1))
    x = np.random.default_rng(1).normal(MU, 0.5, (5, 4, 4, 1)).astype("f4")
    by_signs = use.log_likelihood(run_of(config), x, steps=40, chunk=2)
    *_, (_, exactly) = model.log_likelihood(config, None, x.astype("f8"), 40)
    assert by_signs.shape == (5,) and abs(by_signs - exactly).max() < 2e-3  # of about 10, and single precision


def test_samples_of_pictures_are_clipped_and_their_likelihood_is_of_what_is_not(monkeypatch):
    """A clipped guess has no smooth flow."""
    asked = []

    def eps_fn(config, params, clip=True, given=None):
        asked.append(clip)
        return exact(config)

    monkeypatch.setattr(model, "eps_fn", eps_fn)
    run = run_of(config_of("ddpm", 10, "cosine", (2, 2, 1)))
    use.draw(run, 2, "heun", 2)
    use.log_likelihood(run, np.zeros((2, 2, 2, 1), "f4"), 2)
    assert set(asked[:-1]) == {True} and asked[-1] is False


def closed_bound(chain, v):
    """E[L] of a perfect model, two coordinates: each step's E‖ε - ε̂‖² is 2 ᾱ v₀ / (ᾱ v₀ + 1-ᾱ)."""
    t = np.arange(1, chain.T + 1)
    alpha_bar, var = chain.alpha_bar[t], elbo.model_var(chain, t, np.full(chain.T, v))
    error = 2 * alpha_bar * VAR / (alpha_bar * VAR + 1 - alpha_bar)
    constants = np.append(0.5 * np.log(2 * np.pi * var[0]), elbo.variance_cost(chain, t[1:], var[1:]))
    a = chain.alpha_bar[-1]
    prior = 0.5 * (a * (VAR + MU**2) + (1 - a) - 1 - math.log(1 - a))
    return 2 * prior + elbo.eps_weight(chain, t, var) * error + 2 * constants, 2 * prior


@pytest.mark.parametrize("v", [0.0, 1.0])
def test_the_bound_of_a_perfect_model(v, knows_the_answer):
    """The closed form, within 6 standard errors (a false alarm in 1e9), which is the entropy and what 40 steps cost."""
    config, chain = config_of("ddpm", 40), schedule.linear(40)
    x = (MU + math.sqrt(VAR) * np.random.default_rng(0).standard_normal((16_000, 2))).astype("f4")
    found = use.bound(run_of(config), x, times=40, v=v)
    costs, prior = closed_bound(chain, v)
    wanted = costs.sum() - (chain.T - 1) * prior
    error = found.total.std() / math.sqrt(len(x))
    assert found.total.shape == (16_000,) and error < 0.03
    assert abs(found.total.mean() - wanted) < 6 * error
    entropy = math.log(2 * math.pi * math.e * VAR)
    assert entropy < wanted < entropy + (0.5 if v else 5)  # a step of 40 is wider than beta tilde
    assert abs(found.prior.mean() - prior) < 6 * found.prior.std() / math.sqrt(len(x)) + 1e-12
    assert not np.isnan(found.by_t).any() and found.by_t[0] == found.error[0] == 0


def test_an_estimate_of_the_bound_is_unbiased():
    """Of a model that is wrong: four examples, each many times over, beside the whole sum over t, which is drawn too.

    Six standard errors of the difference: a false alarm in 1e9.
    """
    config = config_of("ddpm", 8, "cosine")
    run, chain = run_of(config), schedule.cosine(8)
    four = np.array([[0.0, 0.0], [1.0, -1.0], [0.3, 0.9], [-2.0, 0.1]], "f4")
    x = np.tile(four, (1000, 1))
    found = use.bound(run, x, times=5).total.reshape(1000, 4)
    guess = model.eps_fn(config, run.state.average)
    reverse = elbo.reverse_fn(lambda x_t, t: (guess(x_t, t), 1.0), chain)
    seen = list(elbo.terms(reverse, chain, x, range(8, 0, -1), np.random.default_rng(5), gaussian.log_density))
    summed = (elbo.prior_kl(chain, x) + sum(nats for _, nats, _ in seen)).reshape(1000, 4)
    error = np.sqrt((found.var(axis=0) + summed.var(axis=0)) / 1000)
    assert (abs(found.mean(axis=0) - summed.mean(axis=0)) < 6 * error).all()
    assert (error < 0.1 * summed.mean(axis=0)).all()  # and it says something


@pytest.mark.parametrize("n", [1, 3, 40])
def test_a_few_examples_are_asked_at_every_time(n, knows_the_answer):
    found = use.bound(run_of(config_of("ddpm", 100)), np.zeros((n, 2), "f4"), times=2)
    assert np.isfinite(found.by_t).all() and np.isfinite(found.total).all() and found.total.shape == (n,)


def test_likelihoods_that_cannot_be_are_refused():
    x = np.zeros((3, 2), "f4")
    for kind in ("ncsn", "vp", "subvp", "ve"):
        with pytest.raises(ValueError, match=f"the bound is of DDPM runs, this one is {kind}"):
            use.bound(run_of(config_of(kind)), x)
    for wrong in ({"times": 0}, {"v": 2.0}, {"v": math.nan}):
        with pytest.raises(ValueError, match="v must be in"):
            use.bound(run_of(config_of("ddpm")), x, **wrong)
    with pytest.raises(ValueError, match="knows only one; train with more"):
        use.log_likelihood(run_of(config_of("ddpm", 1, "cosine")), x)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        use.log_likelihood(run_of(config_of("ddpm")), x, steps=0)
    codes = run_of(asks("captions of codes"))
    for job, says in ((use.bound, "this run is of their codes"), (use.log_likelihood, "this run is of codes")):
        with pytest.raises(ValueError, match=says):
            job(codes, np.zeros((3, 8, 8, 1), "f4"))
    for name in ("vae", "classifier"):
        run = run_of(asks(name))
        for job in (use.bound, use.log_likelihood):
            with pytest.raises(ValueError, match=f"the data themselves, this run is a {name}"):
                job(run, np.zeros((3, *run.config.shape), "f4"))


@pytest.mark.parametrize("name", ["vae", "classifier", "captions of codes"])
def test_edits_of_what_is_no_diffusion_of_pixels_are_refused(name):
    run = run_of(asks(name))
    with pytest.raises(ValueError, match="editing is for DDPM runs of pictures as they are; this one is"):
        use.edit(run, "sdedit", np.zeros((1, *run.config.shape), "f4"), amount=0.5)
