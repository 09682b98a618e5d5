"""The best guess of x_0 is a blur over what is possible: all the data at large t, one sharp point at small t.

The guess with the least mean square error is E[x_0 | x_t]; what it still errs by is the posterior's variance:

    Gaussian data N(μ, σ²) : MMSE_t = σ² (1-ᾱ_t) / (ᾱ_t σ² + 1-ᾱ_t)
    any data               : MMSE_t = (1-ᾱ_t)/ᾱ_t [1 - (1-ᾱ_t) J_t],     J_t = ∫ (d ln q(x_t)/dx)² q(x_t) dx

The second needs the density alone, and a sum over a grid. Why: x_0 - x̂_0 is √((1-ᾱ)/ᾱ) (ε̂ - ε), the mean
ε̂ = E[ε | x_t] leaves E(ε - ε̂)² = 1 - E ε̂², and it is the score: ε̂ = -√(1-ᾱ) d ln q/dx.

Source: Bishop 2006, PRML, eqs. (1.89), (2.116)-(2.117); Efron 2011, Tweedie's formula and selection bias.
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import data, forward, gaussian, oracle, plot
from tinydiff.schedule import linear

TIMES = 20, 100, 300, 600
MU, VAR = 0.3, 0.25
MIXTURE = np.array([0.3, 0.7]), np.array([[-0.9], [0.6]]), np.array([0.01, 0.04])


def main(out=".", quick=False):
    """One picture in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng, schedule = np.random.default_rng(3), linear(1000)
    n = 20_000 if quick else 500_000
    one_bump = MU + np.sqrt(VAR) * rng.standard_normal((n, 1))
    which = rng.choice(2, size=n, p=MIXTURE[0])
    two_bumps = MIXTURE[1][which] + np.sqrt(MIXTURE[2][which])[:, None] * rng.standard_normal((n, 1))
    rows = []
    for t in TIMES:
        ab = schedule.alpha_bar[t]
        _, mmse = gaussian.condition(MU, VAR, np.sqrt(ab), 0.0, 1 - ab)
        eps_fn = oracle.gaussian_data(schedule, MU, VAR)
        rows.append((f"one Gaussian, t = {t}", mmse, *mean_square_error(schedule, eps_fn, one_bump, t, rng)))
        eps_fn = oracle.mixture(schedule, *MIXTURE)
        error = mean_square_error(schedule, eps_fn, two_bumps, t, rng)
        rows.append((f"two Gaussians, t = {t}", mmse_by_quadrature(schedule, t), *error))
    draw(schedule, rng, Path(out) / "03_perfect_denoiser.png")
    return rows


def guess(schedule, eps_fn, x_t, t):
    """x̂_0 = E[x_0 | x_t]."""
    return forward.x0_from_eps(schedule, x_t, t, eps_fn(x_t, t))


def mean_square_error(schedule, eps_fn, x0, t, rng):
    """The mean of (x_0 - x̂_0)² over noised data, and its standard error."""
    x_t = forward.q_sample(schedule, x0, t, rng.standard_normal(x0.shape))
    squares = (x0 - guess(schedule, eps_fn, x_t, t)) ** 2
    return squares.mean(), squares.std() / np.sqrt(squares.size)


def mmse_by_quadrature(schedule, t, h=1e-3):
    """The formula for any data: sums on a grid of step h, slopes by differences."""
    x = np.arange(-8, 8, h)[:, None]
    log_q = oracle.mixture_log_density(schedule, x, t, *MIXTURE)
    fisher = np.sum(np.gradient(log_q, h) ** 2 * np.exp(log_q)) * h
    ab = schedule.alpha_bar[t]
    return (1 - ab) / ab * (1 - (1 - ab) * fisher)


def draw(schedule, rng, path, times=(15, 50, 120, 300)):
    """Two moons: noised above, and guessed back below."""
    weights, means, var = data.mixture("moons")
    eps_fn = oracle.mixture(schedule, weights, means, np.full(len(weights), var))
    x0 = data.moons(600, rng).astype(np.float64)
    noisy = [forward.q_sample(schedule, x0, t, rng.standard_normal(x0.shape)) for t in times]
    guesses = [guess(schedule, eps_fn, x_t, t) for x_t, t in zip(noisy, times, strict=True)]
    titles = [f"$x_t$, t = {t}" for t in times] + ["its best guess $E[x_0 | x_t]$"] * len(times)
    plot.panels(noisy + guesses, titles, path, title="The more noise, the more the best guess is an average")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
