"""Adding noise convolves the *density* of the data with a Gaussian; it does not blur a picture.

x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε is a sum of independent parts: their densities convolve, their variances add,

    q(x_t) = Σ_k w_k N(x_t; √ᾱ_t m_k, ᾱ_t v_k + 1-ᾱ_t)       for data Σ_k w_k N(m_k, v_k)
    Var x_t = a² Var x_0 + noise's variance = ᾱ_t Var x_0 + 1-ᾱ_t

so the histogram of many noised numbers is smooth. One noised picture is not: neighbouring pixels get noise of
their own, and their mean square difference becomes ᾱ_t Δ² + 2 (1-ᾱ_t), where a blur would make it fall.

Source: Bishop 2006, PRML, eq. (2.115); Ho et al. 2020, arXiv:2006.11239, eq. (4).
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import forward, gaussian, oracle, plot
from tinydiff.schedule import linear

WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([-0.9, 0.6]), np.array([0.01, 0.04])
TIMES = 50, 300
VALLEY = -0.5, 0.0  # between the two bumps: nearly empty at t = 0


def main(out=".", quick=False):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng, schedule = np.random.default_rng(1), linear(1000)
    n = 100_000 if quick else 1_000_000
    which = rng.choice(2, size=n, p=WEIGHTS)
    x0 = (MEANS[which] + np.sqrt(VARIANCES[which]) * rng.standard_normal(n))[:, None]
    var_0 = WEIGHTS @ (VARIANCES + MEANS**2) - (WEIGHTS @ MEANS) ** 2

    edges, rows, curves = np.linspace(-3, 3, 49), [], {}
    for t in TIMES:
        x_t = forward.q_sample(schedule, x0, t, rng.standard_normal(x0.shape))
        ab = schedule.alpha_bar[t]
        _, var = gaussian.affine(0.0, var_0, np.sqrt(ab), 0, 1 - ab)
        squares = (x_t - x_t.mean()) ** 2
        rows.append((f"variance of x_t, t = {t}", var, squares.mean(), squares.std() / np.sqrt(n)))
        share = np.mean((x_t > VALLEY[0]) & (x_t < VALLEY[1]))
        error = np.sqrt(share * (1 - share) / n)
        rows.append((f"share in the valley, t = {t}", integral(schedule, t, *VALLEY), share, error))
        height = np.histogram(x_t, edges, density=True)[0]
        curves[f"t = {t}: histogram"] = np.repeat(edges, 2)[1:-1], np.repeat(height, 2)
        x = np.linspace(-3, 3, 601)
        curves[f"t = {t}: formula"] = x, density(schedule, t, x)
    title = "Noise convolves the density: two bumps become one"
    plot.lines(curves, Path(out) / "01_histograms.png", title, "x", "density")

    rows.append(one_picture(schedule, 200, rng, out))
    return rows


def density(schedule, t, x):
    """q(x_t) at each x, by the formula."""
    return np.exp(oracle.mixture_log_density(schedule, x[:, None], t, WEIGHTS, MEANS[:, None], VARIANCES))


def integral(schedule, t, low, high, cells=2000):
    """The probability of low < x_t < high: the midpoint rule on the density."""
    width = (high - low) / cells
    return density(schedule, t, low + width * (np.arange(cells) + 0.5)).sum() * width


def one_picture(schedule, t, rng, out, copies=400):
    """A ring of 28 x 28 pixels, noised, and blurred; the row is about neighbours in the noised one."""
    y, x = np.mgrid[:28, :28] - 13.5
    ring = np.where(abs(np.hypot(x, y) - 8) < 2.5, 0.9, -0.9)[None, :, :, None]
    x_t = forward.q_sample(schedule, np.repeat(ring, copies, 0), t, rng.standard_normal((copies, 28, 28, 1)))
    blurred = np.mean([np.roll(ring, (i, j), (1, 2)) for i in range(-2, 3) for j in range(-2, 3)], axis=0)
    titles = ["the picture", f"noised, t = {t}: grainier", "blurred: not diffusion"]
    plot.panels([ring, x_t[:1], blurred], titles, Path(out) / "01_not_a_blur.png",
                title="Noising a picture is not blurring it")
    roughness = (np.diff(x_t, axis=2) ** 2).mean((1, 2, 3))
    ab = schedule.alpha_bar[t]
    predicted = ab * (np.diff(ring, axis=2) ** 2).mean() + 2 * (1 - ab)
    return f"roughness of a picture, t = {t}", predicted, roughness.mean(), roughness.std() / np.sqrt(copies)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
