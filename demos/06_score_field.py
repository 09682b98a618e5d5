"""The score points uphill, and a noisy walk along it samples; but only from large noise to small does it learn weights.

Langevin's step needs no density, only its slope, s = ∇ ln p, in which the weights of modes far apart do not show:

    x <- x + ½a s(x) + √a z

So at one small noise level a walk ends in the mode in whose basin it began. Large noise makes one hill of all modes;
walks that come down from it level by level have the weights nearly right. What share ends on the left is predicted
by pushing the density through every step, on a grid: p(x) <- ∫ N(x; y + ½a s(y), a) p(y) dy. And a step of finite
size settles too wide. On N(0, v) it multiplies x by 1 - a/2v, so its variance V solves

    V = (1 - a/2v)² V + a,     V = v / (1 - a/4v)

Source: Song & Ermon 2019, arXiv:1907.05600, eq. (4), section 3.2.2 (the weights) and Algorithm 1; the variance
follows from eq. (4).
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import gaussian, oracle, plot, score

WEIGHTS, VAR = np.array([0.8, 0.2]), 0.09
MEANS = np.array([[-2.0, 0.0], [2.0, 0.0]])
LEVELS = score.noise_levels(2.0, 0.1, 10)
STEPS = 100  # at each level
SHOWN = 0, 4, 9  # of the levels
SIZES = 0.2, 0.5, 1.0, 1.5, 2.0  # a/v, for the steps on N(0, v)
FOUR = np.array([[-3.5, 3.0], [-0.7, -3.5], [0.7, 3.5], [3.5, -3.0]])  # where the walks that are drawn begin


def main(out=".", quick=False):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng, n = np.random.default_rng(6), 2_000 if quick else 20_000
    starts = LEVELS[0] * rng.standard_normal((n, 2))
    once, items = STEPS * len(LEVELS), []

    clouds, paths = walk(starts, LEVELS[-1:], once, rng, [once], FOUR)
    rows = [share("one level", clouds[-1], LEVELS[-1:], once)]
    items.append((*field(LEVELS[-1]), clouds[-1][:1000], paths[:, :200]))
    titles = [f"σ = {LEVELS[-1]:.1f} alone: {rows[0][2]:.0%} end on the left"]

    shown = [STEPS * (i + 1) for i in SHOWN]
    clouds, paths = walk(starts, LEVELS, STEPS, rng, shown, FOUR[2:])
    rows.append(share("ten levels", clouds[-1], LEVELS, STEPS))
    for i, end, x in zip(SHOWN, shown, clouds, strict=False):
        items.append((*field(LEVELS[i]), x[:1000], paths[:, end - 12 : end]))
        titles.append(f"then σ = {LEVELS[i]:.1f}")
    titles[1] = f"{len(LEVELS)} levels, first σ = {LEVELS[0]:.0f}: one hill"
    titles[-1] = f"at last σ = {LEVELS[-1]:.1f}: {rows[1][2]:.0%} on the left"
    plot.fields(items, titles, Path(out) / "06_score_field.png",
                title="80 % of the data are on the left. Walks that come down from large noise nearly find that out")
    return [*rows, *widths(rng, 5 * n, Path(out) / "06_step_size.png")]


def score_fn(x, sigma):
    """∇ ln p of the data noised by σ, exactly."""
    return oracle.noised_score(x, 1.0, sigma**2, WEIGHTS, MEANS, np.full(2, VAR))


def field(sigma, half=4.5, arrows=13):
    """Places on a grid, and the score there."""
    x = np.linspace(-half, half, arrows)
    where = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2)
    return where, score_fn(where, sigma)


def walk(x, levels, steps, rng, shown, walkers):
    """Where all are after each of `shown` steps and after the last jump; and the walkers' whole paths."""
    clouds, paths, n = [], [walkers], len(x)
    for k, both in enumerate(score.annealed_langevin(score_fn, np.concatenate([x, walkers]), levels, rng, steps), 1):
        paths.append(both[n:])
        if k in shown:
            clouds.append(both[:n])
    return [*clouds, both[:n]], np.stack(paths, axis=1)


def share(name, x, levels, steps):
    """A row: the share of walks that end on the left."""
    left = np.mean(x[:, 0] < 0)
    return f"share on the left, {name}", left_by_grid(levels, steps), left, np.sqrt(left * (1 - left) / len(x))


def left_by_grid(levels, steps, h=0.02):
    """The formula: the density of x_1, on which alone its score depends, through every step and the last jump."""
    x = h * (np.arange(-600, 600) + 0.5)
    p = np.exp(gaussian.log_density(x, 0.0, LEVELS[0] ** 2))
    for sigma in levels:
        a, s = sigma**2 / 5, score_fn(np.stack([x, 0 * x], axis=1), sigma)[:, 0]
        to_from = h * np.exp(gaussian.log_density(x[:, None], x + a / 2 * s, a))
        for _ in range(steps):
            p = to_from @ p
    return h * np.sum(p[x + sigma**2 * s < 0])


def widths(rng, n, path, v=0.5):
    """Rows and a picture: the variance that steps of each size settle at, on N(0, v)."""
    measured = []
    for size in SIZES:
        x = np.sqrt(v) * rng.standard_normal(n)
        for _ in range(100):
            x = score.langevin_step(x, gaussian.score(x, 0.0, v), size * v, rng.standard_normal(n))
        measured.append(np.mean(x**2))
        yield f"variance, a = {size} v", v / (1 - size / 4), measured[-1], measured[-1] * np.sqrt(2 / n)
    every = np.linspace(0, 2.2, 100)
    curves = {"formula": (every, v / (1 - every / 4)), "measured": (SIZES, measured)}
    curves["the target, v"] = every, np.full(100, v)
    plot.lines(curves, path, "Langevin steps of finite size settle too wide", "step a, in units of v", "variance")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
