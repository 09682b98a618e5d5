"""Three ways into noise: VP keeps the variance, sub-VP keeps less of it on the way, VE adds noise to data that stay.

A forward process is a drift that shrinks and a noise that spreads, dx = f x du + g dw. Simulated in small steps
(Euler-Maruyama: x + f x h + g √h z), a path from x_0 is jagged and nobody knows where it goes; but the paths together
do what two numbers say, the mean a(u) x_0 and the standard deviation b(u):

    VP    : f = -β/2,  g² = β              a² = e^-B,   b² = 1 - e^-B,    B(u) = ∫ β
    sub-VP: f = -β/2,  g² = β (1 - e^-2B)   the same a,  b = 1 - e^-B: VP's, squared
    VE    : f = 0,     g² = dσ²/du          a = 1,       b² = σ²(u) - σ²(0)

Two sharp bumps become one: in VP and sub-VP because they shrink to 0, in VE because the noise outgrows them. Then
nothing is left to tell where a path began, and sampling can start there.

Source: Song et al. 2021, arXiv:2011.13456, eqs. (5), (9), (11), (12) and (29).
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import oracle, plot, sde

PROCESSES = {"VP": sde.VP(), "sub-VP": sde.SubVP(), "VE": sde.VE(0.01, 5.0)}
TIMES = 0.2, 0.4, 1.0
STARTS = -1.0, 0.8
DATA = [0.5, 0.5], [[x] for x in STARTS], [0.003, 0.003]
HALF = {"VP": 3.2, "sub-VP": 3.2, "VE": 10.0}  # of the picture's height


def main(out=".", quick=False):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng = np.random.default_rng(7)
    n, steps = (4_000, 500) if quick else (40_000, 2_000)
    rows, items, guides, curves, every = [], [], [], {}, np.linspace(0.02, 1, 99)
    for name, process in PROCESSES.items():
        deviations = []
        for i, x in enumerate(walk(process, np.full(n, STARTS[1]), steps, rng), 1):
            if i / steps in TIMES:
                rows += moments(name, process, i / steps, x)
            if i % (steps // 25) == 0:
                deviations.append(x.std())
        items.append(scene(process, rng, HALF[name]))
        guides.append(bands(process))
        curves[f"{name}: formula"] = every, process.noise(every)
        curves[f"{name}: measured"] = np.linspace(0.04, 1, 25), deviations
    title = "Noise swallows two bumps. Dashed: $a(u)\\,x_0 \\pm b(u)$, between which two paths of three are"
    plot.densities(items, list(PROCESSES), Path(out) / "07_paths.png", title, ("time u", "$x_u$"), guides)
    title = "b of sub-VP is that of VP, squared: on this axis twice as far below 1"
    plot.lines(curves, Path(out) / "07_noise.png", title, "time u", "standard deviation b(u)", logy=True)
    return rows


def walk(process, x, steps, rng):
    """Euler-Maruyama forwards, u from 0 to 1 in even steps: yields x after each."""
    h = 1 / steps
    for u in h * np.arange(steps):
        noise = np.sqrt(process.diffusion_sq(u) * h) * rng.standard_normal(x.shape)
        x = x + process.drift(u) * x * h + noise
        yield x


def moments(name, process, u, x):
    """Rows for the variance of x_u given x_0; and for its mean, while there is one to see."""
    squares = (x - x.mean()) ** 2
    yield f"{name}, variance at u = {u}", process.noise(u) ** 2, squares.mean(), squares.std() / np.sqrt(len(x))
    if u == TIMES[0]:
        yield f"{name}, mean at u = {u}", process.signal(u) * STARTS[1], x.mean(), x.std() / np.sqrt(len(x))


def scene(process, rng, half, steps=400):
    """The density of x_u at each u, each u's own peak the darkest, and two paths from either start."""
    u, x = np.linspace(0, 1, 201), np.linspace(-half, half, 401)
    p = [np.exp(oracle.noised_log_density(x[:, None], process.signal(t), process.noise(t) ** 2, *DATA)) for t in u]
    start = np.repeat(STARTS, 2)
    walked = np.stack([start, *walk(process, start, steps, rng)], axis=1)
    times = np.broadcast_to(np.linspace(0, 1, steps + 1), walked.shape)
    return u, x, np.stack([column / column.max() for column in p], axis=1), np.stack([times, walked], axis=2)


def bands(process):
    """a(u) x_0 ± b(u) for either start."""
    u = np.linspace(0, 1, 201)
    edges = [process.signal(u) * x_0 + sign * process.noise(u) for x_0 in STARTS for sign in (-1, 1)]
    return np.stack([np.stack([u, edge], axis=1) for edge in edges])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
