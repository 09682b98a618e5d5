"""A picture's code is a smaller picture: where things are stays, how they look is left to the decoder.

The autoencoder of a run makes 7 x 7 pixels of 4 channels of 28 x 28 grey ones. What is not in a code is lost: how much
a picture changes that goes there and back (root mean square) stands beside the spread of the grey levels themselves.
Codes are scaled so that noise of size 1 is as large as they are: drawn from q(z|x) they have a standard deviation of 1,
which is predicted. A code has a sixteenth of the positions, so that a training step of the same network ought to take a
sixteenth of the time; what it takes more is what a step costs whatever it is of. Noise in a code is not noise in a
picture: the decoder makes strokes of it. And halfway between two codes lies a picture with half of each one's strokes.

It wants a trained run of codes, and takes half a minute.

Source: Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G.
"""
import argparse
import functools
import time
from pathlib import Path

import numpy as np

from tinydiff import forward, model, plot, recipes, runs, workers
from tinydiff.nn import unet
from tinydiff.tensor import autodiff, ops

SHARES = (0, 0.2, 0.4, 0.6, 0.8, 1)  # of the way: between two codes, and into the noise


def main(out=".", quick=False, run="runs/mnist-latent"):
    """Three pictures in folder `out`; returns rows (name, predicted or of grey levels, measured, standard error)."""
    if not Path(run).exists():
        raise SystemExit(f"no run at {run}; make one: tinydiff train mnist-latent --out {run}")
    run, out, n = runs.load(run), Path(out), 64 if quick else 2000
    if not run.config.first_stage:
        raise SystemExit(f"{run.folder} is no run of codes; make one: tinydiff train mnist-latent")
    config, show = run.config, model.decoder(run.config, None, run.frozen)
    x = recipes.load(config.data)[0][:n]
    eps = np.random.default_rng(0).standard_normal((len(x), *config.z_shape), "f4")
    means, z = model.encoded(config, run.frozen, x), model.encoded(config, run.frozen, x, eps)
    lost, grey = (np.sqrt(np.mean(np.square(a), axis=(1, 2, 3))) for a in (show(z) - x, x - x.mean()))
    rows = [("lost there and back", grey.mean(), *of_mean(lost)), ("size of a code", 1.0, *of_size(z))]
    positions = np.prod(config.z_shape[:2]) / np.prod(config.shape[:2])
    rows.append(("time of a step, of one on pictures", positions, *of_steps(config, 3 if quick else 9)))

    codes = [np.repeat(np.repeat(means[:6, :, :, k : k + 1], 4, 1), 4, 2) / 3 for k in range(config.z_shape[2])]
    table = [x[:6], *codes, show(z[:6])]
    names = ["pictures", *(f"channel {k + 1} of the code" for k in range(len(codes))), "what comes back"]
    plot.image_table([np.clip(row, -1, 1) for row in table], names, out / "16_codes.png", "A picture's code")
    noised = [show(forward.q_sample(config.chain, means[:4], round(share * config.T), eps[:4])) for share in SHARES]
    table = np.clip(np.stack(noised, axis=1), -1, 1)
    headings = [f"t = {round(share * config.T)}" for share in SHARES]
    plot.image_table(table, [""] * 4, out / "16_noise.png", "Noise in a code becomes strokes, not grain", headings)
    between = [show(np.stack([(1 - s) * means[2 * i] + s * means[2 * i + 1] for s in SHARES])) for i in range(4)]
    headings = [f"{share:.0%}" for share in SHARES]
    plot.image_table(np.clip(between, -1, 1), [""] * 4, out / "16_between.png", "Between two codes", headings)
    return rows


def of_mean(a):
    """The mean and its standard error."""
    return a.mean(), a.std() / np.sqrt(len(a))


def of_size(z):
    """The standard deviation of all numbers of z, and its standard error by examples."""
    squares = np.square(z - z.mean()).mean(axis=(1, 2, 3))
    return np.sqrt(squares.mean()), squares.std() / np.sqrt(len(z)) / 2


def of_steps(config, pairs, batch=16):
    """Time of a training step on codes over that of the same U-Net on pictures: the median of pairs, and its error."""
    network = config.network.get("unet", config.network)
    widths = {name: network[name] for name in ("widths", "blocks", "embed")}

    def step_on(shape):
        u_net = unet.Config(size=shape[0], channels=shape[2], **widths)
        params, x = unet.init(np.random.default_rng(0), u_net), np.ones((batch, *shape), "f4")
        return functools.partial(autodiff.value_and_grad(lambda p: ops.mean(unet.apply(p, x, 1, u_net) ** 2)), params)

    ratios, sides = [], [step_on(config.z_shape), step_on(config.shape)]
    with workers.one_thread():
        for _ in range(pairs + 1):
            took = []
            for step in sides:
                began = time.perf_counter()
                step()
                took.append(time.perf_counter() - began)
            ratios.append(took[0] / took[1])
    return np.median(ratios[1:]), np.std(ratios[1:]) / np.sqrt(pairs)  # the first warms up


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    parser.add_argument("--run", default="runs/mnist-latent", help="a run of codes")
    for name, reference, measured, error in main(**vars(parser.parse_args())):
        whose = "grey levels" if name.startswith("lost") else "predicted  "
        print(f"{name:<36} {whose} {reference:8.5f}   measured {measured:8.5f} ± {error:.5f}")
