"""The flow knows the density of every point: carry the point to the noise, and count how space is squeezed on the way.

A flow neither makes nor loses probability: along a path ln p falls at the rate div v, v the velocity. At u = 1 the
density is that of the noise; the rest is a sum along the path, which the solver of the path adds up as it goes:

    ln p_0(x_0) = ln N(x_1; 0, I) + ∫_0^1 div v(x_u, u) du,      v = f x - ½ g² ∇ ln p_u(x)

The score being exact here, p_0 is the data's own density and KL(data || flow) = 0: over draws from the data the mean
of -ln p_0, a cross-entropy, is their entropy and no more; and that is a sum over a grid. The divergence costs a
derivative for each coordinate. Hutchinson's estimate of it, zᵀ (∂v/∂x) z with one vector z of random signs for the
whole path, costs a single one, and is right on average.

The ± of a number in which nothing is random is how much it changed when the steps were doubled.

Source: Chen et al. 2018, arXiv:1806.07366, eq. (8); Song et al. 2021, arXiv:2011.13456, eqs. (13), (39), (40);
Bishop 2006, PRML, eqs. (1.104), (1.113).
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import data, oracle, plot, sde, solver

VP = sde.VP()
MEANS, VAR = data.mixture("moons")[1][16::64], 0.01  # sixteen places, evenly along two moons
DATA = np.full(16, 1 / 16), MEANS, np.full(16, VAR)
POINTS = np.array([[0.0, 0.0], [0.6, 0.3], [-0.9, 0.5]])  # in the middle, between the horns, outside
HALF = 1.4  # of the picture's width


def main(out=".", quick=False):
    """One picture in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng = np.random.default_rng(10)
    n, steps, probes, side = (1_500, 16, 400, 40) if quick else (3_000, 24, 1_000, 70)
    x = MEANS[rng.integers(16, size=n)] + np.sqrt(VAR) * rng.standard_normal((n, 2))
    true, found, guessed = -true_log_p(x), -log_p(x, steps), -log_p(x, steps, signs(rng, n))
    rows = [("cross-entropy, all draws", entropy(), found.mean(), found.std() / np.sqrt(n))]
    change = abs(found.mean() + log_p(x, steps // 2).mean())
    rows.append(("mean -ln p of these draws", true.mean(), found.mean(), change))
    rows.append(("the same by Hutchinson", true.mean(), guessed.mean(), (guessed - true).std() / np.sqrt(n)))
    for point in POINTS:
        guessed = -log_p(np.tile(point, (probes, 1)), steps, signs(rng, probes))
        name = f"-ln p at ({point[0]}, {point[1]}), Hutchinson"
        rows.append((name, -true_log_p(point[None])[0], guessed.mean(), guessed.std() / np.sqrt(probes)))
    title = f"The flow's density is the data's: KL(data || flow) = {found.mean() - true.mean():.4f} ± {change:.4f} nats"
    draw(rng, side, steps, Path(out) / "10_the_flows_density.png", title)
    return rows


def true_log_p(x):
    """ln p of the data."""
    return oracle.noised_log_density(x, 1.0, 0.0, *DATA)


def score_fn(x, u):
    """∇ ln p_u(x), exactly."""
    return oracle.noised_score(x, VP.signal(u), VP.noise(u) ** 2, *DATA)


def velocity(x, u):
    """v(x, u) of the probability flow."""
    return sde.probability_flow(VP, score_fn)(x, u)


def times(steps):
    """From 0 to 1, even in √u: short steps where the density has its details."""
    return [u * u for u in solver.uniform(0.0, 1.0, steps)]


def log_p(x, steps, probes=None):
    """ln p_0 by the flow: exact divergence, or Hutchinson's with these probes."""
    *_, (_, found) = sde.log_likelihood(velocity, x, times(steps), solver.rk4, sde.standard(VP), probes)
    return found


def signs(rng, n):
    """n vectors of random signs."""
    return rng.choice([-1.0, 1.0], size=(n, 2))


def grid(side):
    """Places in the middles of side x side cells, and one cell's width."""
    width = 2 * HALF / side
    x = width * (np.arange(side) + 0.5) - HALF
    return x, np.stack(np.meshgrid(x, x), -1).reshape(-1, 2), width


def entropy():
    """-∫ p ln p by the midpoint rule, exact to rounding for so smooth an integrand."""
    _, places, width = grid(140)
    log_density = true_log_p(places)
    return -np.sum(np.exp(log_density) * log_density) * width**2


def draw(rng, side, steps, path, title):
    """The density: true, under paths to the noise; by the flow; and by the flow with one probe at each place."""
    x, places, _ = grid(side)
    starts = MEANS[[1, 5, 9, 13]]
    paths = np.stack([starts, *solver.rk4(velocity, starts, times(steps))], axis=1)
    p = [np.exp(log) for log in (true_log_p(places), log_p(places, steps), log_p(places, steps, signs(rng, side**2)))]
    p[2] = np.minimum(p[2], p[0].max())  # one wild guess would pale the rest
    titles = ["the data's density, paths to the noise", "the flow's density", "with one probe of Hutchinson's each"]
    nothing = np.zeros((0, 1, 2))
    items = [(x, x, p_i.reshape(side, side), k) for p_i, k in zip(p, (paths, nothing, nothing), strict=True)]
    plot.densities(items, titles, path, title)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
