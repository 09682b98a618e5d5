"""A run from end to end on every array library: train, save, load, sample, draw pictures, resume."""
import dataclasses
import io
import os

import numpy as np
import pytest
import tqdm

from tinydiff import elbo, glyphs, loss, model, objective, recipes, runs, schedule, sde, train, use
from tinydiff.nn import autoencoder
from tinydiff.tensor import tree
from tinydiff.tensor.device import Device, device

CPU = device("cpu")
POINTS = {"kind": "mlp", "width": 8, "depth": 2, "embed": 4}
IMAGES = {"kind": "unet", "size": 8, "channels": 1, "patch": 2, "widths": [8, 8], "groups": 4, "embed": 8}


PROCESSES = {
    "ncsn": {"kind": "ncsn", "sigma_max": 2.0, "sigma_min": 0.1, "levels": 3},
    **{kind: {"kind": kind} for kind in sde.PROCESSES},
}
# What a run may be: a DDPM by what its network guesses, or one of the other processes. Pictures go the same ways.
KINDS = [*loss.TARGETS, *PROCESSES]
SMALL = {"kind": "unet", "size": 4, "channels": 1, "widths": [8], "groups": 4, "embed": 8}
RUNS = {f"points-{kind}": (POINTS, kind) for kind in KINDS}
RUNS |= {f"images-{kind}": (SMALL, kind) for kind in ("eps", "ncsn")}

# The rest: an autoencoder of pictures, diffusions of its codes with captions and without, a classifier of pictures.
CODER = {"kind": "autoencoder", "size": 8, "channels": 1, "latent": 2, "widths": [8, 8], "groups": 4}
OF_CODES = {"size": 2, "channels": 2, "widths": [8], "groups": 4, "embed": 8}
READER = {"vocabulary": len(glyphs.VOCABULARY), "length": glyphs.LONGEST, "width": 8, "depth": 1}
OTHERS = {
    "vae": CODER,
    "codes": {"kind": "unet", **OF_CODES},
    "captions": {"kind": "captioned", "text": READER, "unet": OF_CODES},
    "classifier": {"kind": "classifier", "size": 8, "widths": [8, 8], "groups": 4, "embed": 8, "classes": 3},
}
OTHER_PROCESSES = {"vae": {"kind": "vae", "noise_var": 0.01, "beta": 0.1}, "classifier": {"kind": "classifier"}}


@pytest.fixture(params=RUNS)
def any_config(request):
    return config_of(*RUNS[request.param])


def config_of(network, kind, steps=3):
    images = network["kind"] == "unet"
    name, shape = ("images", (network["size"], network["size"], 1)) if images else ("moons", (2,))
    settings = train.Settings(steps=steps, batch=4, warmup=2)
    source = {"name": name, "folder": None, "split": "train"}
    target, process = ("eps", PROCESSES[kind]) if kind in PROCESSES else (kind, None)
    return model.Config(
        name, source, network, shape, dataclasses.asdict(settings), "cosine", 10, target, "min_snr", process
    )


def other(name, steps=3, scale=0.7):
    """(Config, what is asked of `grey`'s examples, the weights of the first stage) of one of OTHERS."""
    stage = {"network": CODER, "scale": scale} if name in ("codes", "captions") else None
    settings = dataclasses.asdict(train.Settings(steps=steps, batch=4, warmup=2))
    source = {"name": "glyphs" if name == "captions" else "images", "folder": None, "split": "train"}
    config = model.Config(
        "images", source, OTHERS[name], (8, 8, 1), settings, "cosine", 10, "x0", "simple", OTHER_PROCESSES.get(name),
        stage,
    )  # fmt: skip
    captions = [glyphs.caption(glyph) for glyph in glyphs.every()[:: 2592 // 20]][:20]
    asked = {"captions": captions, "classifier": np.arange(20) % 3}.get(name)
    rng = np.random.default_rng(3)
    frozen = tree.map(lambda p: p + np.float32(0.1) * rng.standard_normal(p.shape, "f4"), autoencoder_weights(rng))
    return config, asked, frozen if stage else None


def autoencoder_weights(rng):
    return autoencoder.init(rng, autoencoder.Config(**{name: CODER[name] for name in CODER if name != "kind"}))


def methods_of(config):
    only_of = {"ddpm": "ddpm", "ddim": "ddpm", "langevin": "ncsn"}
    return [method for method in model.METHODS if only_of.get(method, config.kind) == config.kind]


def grey(config, n=20):
    """Examples: of points any, of pictures some of the 256 levels."""
    x = np.random.default_rng(0).uniform(-1, 1, (n, *config.shape))
    return (np.rint(x * 127.5 + 127.5) / 127.5 - 1 if config.images else x).astype("f4")


def any_run(config, frozen=None):
    """A run that was not trained, but whose weights are all alive: they do not start at 0, as the last layer does."""
    rng, state = np.random.default_rng(1), runs.start(config)
    alive = tree.map(lambda leaf: leaf + np.float32(0.05) * rng.standard_normal(leaf.shape, "f4"), state.params)
    return runs.Run(None, config, dataclasses.replace(state, params=alive, average=alive), frozen)


@pytest.mark.parametrize("target", ["eps", "v"])
@pytest.mark.parametrize("network", [POINTS, IMAGES], ids=["mlp", "unet"])
def test_a_run_on_every_backend(backend, network, target, tmp_path):
    train_and_sample(backend, config_of(network, target), tmp_path, ["ddpm", "ddim"], with_pictures=True)


def test_a_run_of_every_kind_on_every_backend(backend, any_config, tmp_path):
    train_and_sample(backend, any_config, tmp_path, methods_of(any_config)[-1:], with_pictures=False)


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_of_codes_captions_or_labels_on_every_backend(backend, name, tmp_path):
    """It is loaded with its first stage as that was, and draws what it is asked for."""
    config, asked, frozen = other(name)
    methods = {"vae": [None], "classifier": []}.get(name, ["ddim", "heun"])
    train_and_sample(backend, config, tmp_path, methods, with_pictures=True, asked=asked, frozen=frozen)
    names = {"vae": {"there_and_back.png"}, "classifier": {"accuracy.png"}}.get(name, {"forward.png", "reverse.gif"})
    wanted = {"checkpoint.safetensors", "metrics.jsonl", "loss.png", *names}
    wanted |= set() if name == "classifier" else {"samples.png", "samples"}
    assert {path.name for path in (tmp_path / "there").iterdir()} == wanted
    run = runs.load(tmp_path / "there")
    assert run.config == config and (run.frozen is None) == (frozen is None)
    if frozen:
        kept = tree.flatten(run.frozen)
        assert all(leaf.tobytes() == kept[path].tobytes() for path, leaf in tree.flatten(frozen).items())


def train_and_sample(backend, config, tmp_path, methods, with_pictures, **also):
    """After three steps the weights are NumPy's to 1e-4, and float32; the double refuses what CuPy would refuse."""
    device, x = Device(backend.name, backend.xp), grey(config)
    wanted, _ = runs.train_run(tmp_path / "host", config, x, **also)
    state, _ = runs.train_run(tmp_path / "there", config, x, device=device, **also)
    for leaf, host in zip(tree.leaves(state.params), tree.leaves(wanted.params), strict=True):
        assert leaf.dtype == np.float32 and np.allclose(leaf, host, rtol=1e-3, atol=1e-4)
    run = runs.load(tmp_path / "there")
    for method in methods:
        samples = use.draw(run, 5, method, 3, eta=0.5, device=device)
        assert samples.shape == (5, *config.shape) and samples.dtype == np.float32 and np.isfinite(samples).all()
    if with_pictures:
        use.pictures(run, x, also.get("asked"), device=device)
    earlier = dataclasses.replace(run.state, moments={**run.state.moments, "step": 1})
    again, _ = runs.train_run(tmp_path / "there", config, x, earlier, device, **also)
    assert again.step == 3


def test_no_two_purposes_share_a_stream():
    """[seed, purpose, number] pads no other: the first draws of all are different."""
    purposes = range(model.TOY_DATA, model.LIKELIHOOD + 1)
    seeds = [[7, p] for p in purposes] + [[7, p, 1] for p in purposes] + [[7]]
    first = {np.random.default_rng(seed).random() for seed in seeds}
    assert len(first) == len(seeds)


def test_every_sampler_of_every_run(backend, any_config):
    """The same seed gives the same bytes, chunks have noise of their own, and a film ends in the sample."""
    config, device = any_config, Device(backend.name, backend.xp)
    run = any_run(config)
    for method in methods_of(config):
        few = {"method": method, "steps": 2, "chunk": 2, "device": device}
        x = use.draw(run, 3, **few)
        assert x.shape == (3, *config.shape) and x.dtype == np.float32 and np.isfinite(x).all(), method
        assert len(np.unique(x.reshape(3, -1), axis=0)) == 3
        assert use.draw(run, 3, seed=1, **few).tobytes() != x.tobytes()
        length = 3 * 2 + 1 if method == "langevin" else 2
        film = use.draw(run, 3, frames=60, **few)  # the same seed again
        assert len(film) == length + 1 and film[-1].tobytes() == x.tobytes(), method
        assert all(frame.shape == x.shape and frame.dtype == np.float32 for frame in film)


@pytest.mark.parametrize("frames", [2, 3, 8, 20])
def test_a_film_is_as_long_as_asked_for_and_ends_in_the_sample(frames):
    for kind, method in (("eps", "ddim"), ("vp", "pc"), ("ncsn", "langevin")):
        run = any_run(config_of(POINTS, kind))
        film = use.draw(run, 3, method, 9, frames=frames)
        assert len(film) == min(frames, 3 * 9 + 2 if kind == "ncsn" else 10)
        assert np.array_equal(film[-1], use.draw(run, 3, method, 9))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["eps", "ncsn", "ve"])
def test_work_that_is_spread_is_the_same_work(kind):
    for network in (POINTS, SMALL):
        run = any_run(config_of(network, kind))
        x = grey(run.config, 5)
        method = methods_of(run.config)[-1]
        jobs = [
            lambda n: use.draw(run, 5, method, 3, chunk=2, n_workers=n),  # noqa: B023
            lambda n: use.log_likelihood(run, x, 2, chunk=2, n_workers=n),  # noqa: B023
        ]
        if kind == "eps":
            jobs.append(lambda n: use.bound(run, x, 2, chunk=2, n_workers=n).total)  # noqa: B023
        for job in jobs:
            assert job(2).tobytes() == job(1).tobytes()


@pytest.mark.parametrize("network, kind", [*((POINTS, kind) for kind in PROCESSES), (SMALL, "ncsn")])
def test_a_resumed_run_is_the_same_run_bit_for_bit(tmp_path, network, kind):
    resume(tmp_path, config_of(network, kind, steps=6))


@pytest.mark.parametrize("name", OTHERS)
def test_a_resumed_run_of_codes_captions_or_labels_too(tmp_path, name):
    resume(tmp_path, *other(name, steps=6))


def resume(tmp_path, config, asked=None, frozen=None):
    """Six steps straight, beside two by hand, of the codes if it is a run of codes, and four from their checkpoint."""
    x = grey(config)
    straight, _ = runs.train_run(tmp_path / "straight", config, x, asked=asked, frozen=frozen)
    settings, z = train.Settings(**config.settings), runs.codes(config, frozen, x) if frozen else x
    batches = objective.batches(config, z, CPU, asked)
    for state, report in train.train(objective.step_fn(config), batches, runs.start(config), settings):
        if report.step == 2:
            (tmp_path / "parts").mkdir()
            runs.save(tmp_path / "parts", config, state, frozen)
            break
    loaded = runs.load(tmp_path / "parts")
    assert loaded.config == config and loaded.state.step == 2
    again = {"asked": asked, "frozen": loaded.frozen}
    resumed, _ = runs.train_run(tmp_path / "parts", loaded.config, x, loaded.state, **again)
    parts = [(s.params, s.average, s.moments["m"], s.moments["v"]) for s in (straight, resumed)]
    flat = [tree.flatten(part) for part in parts]
    assert resumed.step == 6 and all(flat[0][name].tobytes() == flat[1][name].tobytes() for name in flat[0])


# Codes, captions, labels


def test_codes_are_each_a_draw_of_its_own_and_as_large_as_the_noise():
    """The scale that a run of codes is given makes their standard deviation 1, of the draws that it learns from."""
    config, _, frozen = other("codes", scale=1.0)
    stage = runs.Run(None, other("vae")[0], train.State.start(frozen))
    x = np.tile(grey(config, 2), (150, 1, 1, 1))
    measured = runs.after_first_stage(runs.Run(None, config, None), stage, x).config
    z = runs.codes(measured, frozen, x, chunk=256)
    assert z.shape == (300, 2, 2, 2) and z.dtype == np.float32 and z.std() == pytest.approx(1, abs=1e-5)
    assert measured.first_stage["scale"] != 1 and measured.first_stage["network"] == CODER
    assert len(np.unique(z.reshape(300, -1), axis=0)) == 300  # across chunks too, of two pictures
    mu = model.encoded(measured, frozen, x[:2])
    _, log_var = autoencoder.encode(frozen, x[:2], config.coder)
    std = measured.first_stage["scale"] * np.exp(0.5 * log_var)
    # 150 draws of each of 16 means: off by 6.5 standard errors once in 16 · 8e-11
    assert (abs(z.reshape(150, 2, 2, 2, 2).mean(0) - mu) < 6.5 * std / np.sqrt(150)).all()


def test_a_sample_is_what_its_own_caption_asks_for_in_whichever_chunk():
    """The same noise with the same caption beside it is the same sample; another caption, another sample."""
    config, _, frozen = other("captions")
    run = any_run(config, frozen)
    ways = [glyphs.caption(glyph) for glyph in (glyphs.every()[0], glyphs.every()[1500])]
    few = {"method": "ddim", "steps": 3, "chunk": 2, "w": 1.0}
    x = use.draw(run, 5, asked=[ways[i % 2] for i in range(5)], **few)
    of_one = [use.draw(run, 5, asked=[way] * 5, **few) for way in ways]
    for i in range(5):
        assert np.allclose(x[i], of_one[i % 2][i], atol=1e-5)
        assert abs(x[i] - of_one[1 - i % 2][i]).max() > 1e-3
    assert np.array_equal(use.draw(run, 5, "ddim", 3), use.draw(run, 5, "ddim", 3, asked=model.asked_for(config, 5)))


def led():
    """A run of pictures and a classifier of the same chain."""
    config = dataclasses.replace(other("classifier")[0], network={**SMALL, "size": 8}, process=None)
    return any_run(config), any_run(other("classifier")[0])


def test_a_classifier_leads_each_sample_to_its_own_label_on_every_backend(backend):
    run, classifier = led()
    few = {"method": "ddim", "steps": 3, "chunk": 2, "w": 9.0, "classifier": classifier}
    there = {**few, "device": Device(backend.name, backend.xp)}
    turns = use.draw(run, 5, **few)
    assert np.array_equal(turns, use.draw(run, 5, asked=np.arange(5) % 3, **few))
    of_one = [use.draw(run, 5, asked=np.full(5, label), **few) for label in range(3)]
    for i in range(5):
        assert np.allclose(turns[i], of_one[i % 3][i], atol=1e-5)
        assert abs(turns[i] - of_one[(i + 1) % 3][i]).max() > 1e-3
    assert abs(turns).max() <= 1 + 1e-5
    again = use.draw(run, 5, **there)
    assert again.shape == turns.shape and again.dtype == np.float32 and np.isfinite(again).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_samples_of_codes_and_led_ones_are_the_same_however_they_are_spread():
    (config, _, frozen), (run, classifier) = other("captions"), led()
    for drawn, how in ((any_run(config, frozen), {"w": 1.0}), (run, {"classifier": classifier})):
        one, two = (use.draw(drawn, 5, "ddim", 2, chunk=2, n_workers=n, **how) for n in (1, 2))
        assert one.tobytes() == two.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", OTHERS)
def test_two_processes_learn_what_one_does(tmp_path, name):
    config, asked, frozen = other(name)
    x, told = grey(config), {"asked": asked, "frozen": frozen}
    one, two = (runs.train_run(tmp_path / str(n), config, x, n_workers=n, **told)[0] for n in (1, 2))
    for leaf, wanted in zip(tree.leaves(two.params), tree.leaves(one.params), strict=True):
        assert np.allclose(leaf, wanted, rtol=1e-3, atol=1e-4)


def test_the_samples_of_an_autoencoder_are_decoded_draws_of_its_prior():
    run = any_run(other("vae")[0])
    x = use.draw(run, 3, seed=4, chunk=2)
    noise = [np.random.default_rng([4, model.SAMPLES, k]).standard_normal((2, 2, 2, 2), "f4") for k in (0, 1)]
    wanted = autoencoder.decode(run.state.average, np.concatenate(noise)[:3], run.config.coder)
    np.testing.assert_allclose(x, wanted, atol=1e-6)


def test_a_classifier_draws_nothing_and_asks_no_one():
    _, classifier = led()
    with pytest.raises(ValueError, match="is a classifier and draws nothing"):
        use.draw(classifier, 2)


def test_what_a_run_is_told_is_hidden_now_and_then_but_not_from_a_classifier():
    """One in ten: of 4000, 400 ± 19; six standard deviations are missed once in 5e8."""
    for name in ("captions", "classifier"):
        config, asked, _ = other(name)
        config = dataclasses.replace(config, settings={**config.settings, "batch": 4000})
        x = np.arange(20 * np.prod(config.z_shape), dtype="f4").reshape(20, *config.z_shape)
        batch = objective.batches(config, x, CPU, asked)(0)
        rows = (batch["x0"].reshape(4000, -1)[:, 0] / np.prod(config.z_shape)).astype(int)
        assert batch["t"].min() == 1 and batch["t"].max() == 10
        if name == "classifier":
            assert np.array_equal(batch["given"], rows % 3)
            continue
        ids, mask = glyphs.tokens(asked)
        hidden = ~batch["given"]["mask"].any(axis=1)
        assert abs(hidden.sum() - 400) < 6 * 19 and not batch["given"]["ids"][hidden].any()
        assert np.array_equal(batch["given"]["ids"][~hidden], ids[rows][~hidden])
        assert np.array_equal(batch["given"]["mask"][~hidden], mask[rows][~hidden])
    batch = objective.batches(other("vae")[0], grey(other("vae")[0]), CPU)(0)
    assert set(batch) == {"x0", "eps"} and batch["eps"].shape == (4, 2, 2, 2)


def test_the_loss_of_an_autoencoder_counts_a_square_error_as_one():
    """mean (x - x̂)² + noise_var ln(2π noise_var) + 2 noise_var β KL / D, D the number of pixels."""
    config, *_ = other("vae")
    params, var, beta = any_run(config).state.params, 0.01, 0.1
    batch = objective.batches(config, grey(config), CPU)(0)
    mu, log_var = autoencoder.encode(params, batch["x0"], config.coder)
    back = autoencoder.decode(params, mu + np.exp(0.5 * log_var) * batch["eps"], config.coder)
    kl = 0.5 * (mu**2 + np.exp(log_var) - 1 - log_var).reshape(4, -1).sum(axis=1).mean()
    wanted = ((batch["x0"] - back) ** 2).mean() + var * np.log(2 * np.pi * var) + 2 * var * beta * kl / 64
    found, _ = objective.step_fn(config)(params, batch)
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_the_loss_of_a_classifier_is_the_cross_entropy_of_what_is_noised():
    config, asked, _ = other("classifier")
    params, batch = any_run(config).state.params, objective.batches(config, grey(config), CPU, asked)(0)
    a = np.sqrt(config.chain.alpha_bar[batch["t"]]).reshape(4, 1, 1, 1)
    x_t = (a * batch["x0"] + np.sqrt(1 - a * a) * batch["eps"]).astype("f4")
    logits = model.predictor(config, params)(x_t, batch["t"]).astype("f8")
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found, _ = objective.step_fn(config)(params, batch)
    assert float(found) == pytest.approx(-log_p[range(4), batch["given"]].mean(), rel=1e-5)


def test_the_accuracy_of_a_classifier_is_asked_at_each_time(monkeypatch):
    """Of one that is right until t = 5, and calls everything 0 from there on; 600 pictures, in blocks."""
    config, _, _ = other("classifier")
    labels = np.arange(600) % 3
    x = np.broadcast_to(labels.reshape(-1, 1, 1, 1) - 1.0, (600, 8, 8, 1)).astype("f4")

    def logits(x_t, t):
        level = x_t.mean(axis=(1, 2, 3)) / np.sqrt(config.chain.alpha_bar[t])
        return -((level[:, None] - np.arange(-1, 2)) ** 2) if t < 5 else np.eye(3)[[0] * len(x_t)]

    monkeypatch.setattr(model, "predictor", lambda config, params: logits)
    run = runs.Run(None, config, runs.start(config))
    # At t = 2 the mean of 64 pixels has the standard deviation 0.336 / 8: half a level is 11 of them.
    assert use.accuracy(run, x, labels, [1, 2, 9], np.random.default_rng(0)) == [1.0, 1.0, 1 / 3]


def test_likelihoods_on_every_backend(backend, any_config):
    """ln p needs no noise, or the host's, so it is NumPy's; the bound has the device's, and is what its parts are."""
    device, run, x = Device(backend.name, backend.xp), any_run(any_config), grey(any_config, 5)
    log_p = use.log_likelihood(run, x, 3, device=device)
    assert log_p.shape == (5,) and log_p.dtype == np.float64 and np.isfinite(log_p).all()
    np.testing.assert_allclose(log_p, use.log_likelihood(run, x, 3), rtol=1e-3)
    if any_config.kind == "ddpm":
        found = use.bound(run, x, 2, device=device)
        assert found.total.shape == found.prior.shape == (5,) and found.by_t.shape == found.error.shape == (11,)
        assert all(np.isfinite(part).all() for part in (found.total, found.by_t, found.error))
        np.testing.assert_allclose(found.prior, elbo.prior_kl(schedule.cosine(10), x), rtol=1e-12)


def test_a_bar_on_every_long_loop(monkeypatch):
    """To its end, on a terminal, by one process or two; elsewhere nothing is said."""
    shown = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, disable, **options):
            assert disable is None  # that is: only on a terminal
            super().__init__(*args, disable=False, file=io.StringIO(), **options)

        def close(self):
            if not self.disable:
                shown.append((self.desc, self.n, self.total))
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    run = any_run(config_of(POINTS, "eps"))
    x = grey(run.config, 5)
    for n in (1, 2):
        use.draw(run, 5, "heun", 4, chunk=2, n_workers=n)
        use.log_likelihood(run, x, 6, chunk=2, n_workers=n)
        use.bound(run, x, 2, chunk=2, n_workers=n)
        wanted = [("sampling", 12, 12), ("along the flow", 18, 18), ("which times matter", 60, 60), ("the bound", 6, 6)]
        assert shown == wanted
        shown.clear()
    use.log_likelihood(any_run(config_of(POINTS, "vp")), x, 7)
    assert shown == [("along the flow", 7, 7)]


@pytest.mark.parametrize("kind", sde.PROCESSES)
def test_the_recipe_sde_has_its_choice_of_process(kind):
    config, x, _ = recipes.configure("sde", process=kind, steps=3)
    assert config.process == {"kind": kind} and config.kind == kind and config.data["name"] == "gaussians"
    assert x.shape[1:] == config.shape == (2,)


@pytest.mark.parametrize(
    "recipe, changes, says",
    [
        ("sde", {"process": "x"}, "--process is of the recipe sde: vp, subvp, ve; got 'x' for sde"),
        ("sde", {"process": "ddpm"}, "got 'ddpm' for sde"),
        ("spiral", {"process": "vp"}, "got 'vp' for spiral"),
        ("ncsn", {"process": "vp"}, "got 'vp' for ncsn"),
        ("ncsn", {"schedule": "cosine"}, "ncsn has no use for schedule"),
        ("sde", {"T": 10, "schedule": "linear"}, "sde has no use for schedule and T"),
    ],
    ids=str,
)
def test_choices_that_a_recipe_has_not_got_are_refused(recipe, changes, says):
    with pytest.raises(ValueError, match=says):
        recipes.configure(recipe, **changes)
