"""A run from end to end on every array library: train, save, load, sample, draw pictures, resume."""
import dataclasses
import io
import os

import numpy as np
import pytest
import tqdm

from tinydiff import elbo, loss, model, objective, recipes, runs, schedule, sde, train, use
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


def methods_of(config):
    only_of = {"ddpm": "ddpm", "ddim": "ddpm", "langevin": "ncsn"}
    return [method for method in model.METHODS if only_of.get(method, config.kind) == config.kind]


def grey(config, n=20):
    """Examples: of points any, of pictures some of the 256 levels."""
    x = np.random.default_rng(0).uniform(-1, 1, (n, *config.shape))
    return (np.rint(x * 127.5 + 127.5) / 127.5 - 1 if config.images else x).astype("f4")


def any_run(config):
    """A run that was not trained, but whose weights are all alive: they do not start at 0, as the last layer does."""
    rng, state = np.random.default_rng(1), runs.start(config)
    alive = tree.map(lambda leaf: leaf + np.float32(0.05) * rng.standard_normal(leaf.shape, "f4"), state.params)
    return runs.Run(None, config, dataclasses.replace(state, params=alive, average=alive))


@pytest.mark.parametrize("target", ["eps", "v"])
@pytest.mark.parametrize("network", [POINTS, IMAGES], ids=["mlp", "unet"])
def test_a_run_on_every_backend(backend, network, target, tmp_path):
    train_and_sample(backend, config_of(network, target), tmp_path, ["ddpm", "ddim"], with_pictures=True)


def test_a_run_of_every_kind_on_every_backend(backend, any_config, tmp_path):
    train_and_sample(backend, any_config, tmp_path, methods_of(any_config)[-1:], with_pictures=False)


def train_and_sample(backend, config, tmp_path, methods, with_pictures):
    """After three steps the weights are NumPy's to 1e-4, and float32; the double refuses what CuPy would refuse."""
    device, x = Device(backend.name, backend.xp), grey(config)
    wanted, _ = runs.train_run(tmp_path / "host", config, x)
    state, _ = runs.train_run(tmp_path / "there", config, x, device=device)
    for leaf, host in zip(tree.leaves(state.params), tree.leaves(wanted.params), strict=True):
        assert leaf.dtype == np.float32 and np.allclose(leaf, host, rtol=1e-3, atol=1e-4)
    run = runs.load(tmp_path / "there")
    for method in methods:
        samples = use.draw(run, 5, method, 3, eta=0.5, device=device)
        assert samples.shape == (5, *config.shape) and samples.dtype == np.float32 and np.isfinite(samples).all()
    if with_pictures:
        use.pictures(run, x, device=device)
    earlier = dataclasses.replace(run.state, moments={**run.state.moments, "step": 1})
    again, _ = runs.train_run(tmp_path / "there", config, x, earlier, device)
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
    config = config_of(network, kind, steps=6)
    x = grey(config)
    straight, _ = runs.train_run(tmp_path / "straight", config, x)
    settings = train.Settings(**config.settings)
    states = train.train(objective.step_fn(config), objective.batches(config, x, CPU), runs.start(config), settings)
    for state, report in states:
        if report.step == 2:
            (tmp_path / "parts").mkdir()
            runs.save(tmp_path / "parts", config, state)
            break
    loaded = runs.load(tmp_path / "parts")
    assert loaded.config == config and loaded.state.step == 2
    resumed, _ = runs.train_run(tmp_path / "parts", loaded.config, x, loaded.state)
    parts = [(s.params, s.average, s.moments["m"], s.moments["v"]) for s in (straight, resumed)]
    flat = [tree.flatten(part) for part in parts]
    assert resumed.step == 6 and all(flat[0][name].tobytes() == flat[1][name].tobytes() for name in flat[0])


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
