"""A run from end to end on every array library: train, save, load, sample, draw pictures, resume."""
import dataclasses

import numpy as np
import pytest

from tinydiff import model, recipes, train
from tinydiff.tensor import tree
from tinydiff.tensor.device import Device

POINTS = {"kind": "mlp", "width": 8, "depth": 2, "embed": 4}
IMAGES = {"kind": "unet", "size": 8, "channels": 1, "patch": 2, "widths": [8, 8], "groups": 4, "embed": 8}


def config_of(network, target):
    images = network["kind"] == "unet"
    name, shape = ("images", (8, 8, 1)) if images else ("moons", (2,))
    settings = train.Settings(steps=3, batch=4, warmup=2)
    source = {"name": name, "folder": None, "split": "train"}
    return model.Config(
        name, source, network, shape, dataclasses.asdict(settings), "cosine", 10, target, "min_snr"
    )


@pytest.mark.parametrize("target", ["eps", "v"])
@pytest.mark.parametrize("network", [POINTS, IMAGES], ids=["mlp", "unet"])
def test_a_run_on_every_backend(backend, network, target, tmp_path):
    """After three steps the weights are NumPy's to 1e-4, and float32; the double refuses what CuPy would refuse."""
    config, device = config_of(network, target), Device(backend.name, backend.xp)
    x = np.random.default_rng(0).uniform(-1, 1, (20, *config.shape)).astype("f4")
    wanted, _ = recipes.train_run(tmp_path / "host", config, x)
    state, _ = recipes.train_run(tmp_path / "there", config, x, device=device)
    for leaf, host in zip(tree.leaves(state.params), tree.leaves(wanted.params), strict=True):
        assert leaf.dtype == np.float32 and np.allclose(leaf, host, rtol=1e-3, atol=1e-4)
    run = recipes.load(tmp_path / "there")
    for method, eta in (("ddpm", 0.0), ("ddim", 0.5)):
        samples = recipes.draw(run, 5, method, eta=eta, device=device)
        assert samples.shape == (5, *config.shape) and samples.dtype == np.float32 and np.isfinite(samples).all()
    recipes.pictures(tmp_path / "there", run, x, device=device)
    earlier = dataclasses.replace(run.state, moments={**run.state.moments, "step": 1})
    again, _ = recipes.train_run(tmp_path / "there", config, x, earlier, device)
    assert again.step == 3


def test_no_two_purposes_share_a_stream():
    """[seed, purpose, number] pads no other: the first draws of all are different."""
    purposes = range(model.TOY_DATA, model.LIKELIHOOD)
    seeds = [[7, p] for p in purposes] + [[7, p, 1] for p in purposes] + [[7], [7, model.LIKELIHOOD]]
    first = {np.random.default_rng(seed).random() for seed in seeds}
    assert len(first) == len(seeds)
