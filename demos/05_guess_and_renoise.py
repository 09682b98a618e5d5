"""Guess the clean image, put back less noise than before, guess again: a blur of ten digits becomes one.

From pure noise the best guess, x̂_0 = E[x_0 | x_t], is the mean of all images. Noise it afresh to some s < t,

    x_s = √ᾱ_s x̂_0 + √(1-ᾱ_s) z          (DDIM's step with the largest σ² it has, 1-ᾱ_s)

and the next guess is sharper. Fresh noise forgets what x_t knew, so early guesses still change their mind.
How far off a guess is has a formula where the data are two images a and b, as likely: only the component of
x_t along a-b tells them apart, and the mean square error of x̂_0, over the D pixels, is

    MMSE_t = ‖a-b‖²/4D [1 - ∫ N(y; 0, 1) tanh(γ + √γ y) dy],    γ = SNR_t ‖a-b‖²/4

With hundreds of pixels that is a cliff: within a few hundred steps "either of them" becomes "this one".

Source: Song, Meng & Ermon 2020, arXiv:2010.02502, eq. (12); Song et al. 2023, arXiv:2303.01469, Algorithm 1
(repeated guessing); Guo, Shamai & Verdú 2004, arXiv:cs/0412108, the example of binary inputs (the error).
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import forward, oracle, plot
from tinydiff.schedule import linear

CHAIN = 1000, 750, 650, 550, 400, 200
TIMES = 600, 650, 700, 800, 900


def main(out=".", quick=False):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng, schedule = np.random.default_rng(5), linear(1000)
    digits = np.stack([draw(character) for character in "0123456789"])
    chain(schedule, digits, rng, Path(out) / "05_chain.png")

    pair, n = digits[[3, 8]].reshape(2, -1), 1_500 if quick else 6_000
    every = np.arange(300, 1001)
    rows = []
    for t in TIMES:
        error = mean_square_error(schedule, pair, t, n, rng)
        rows.append((f"error of the guess, 3 or 8, t = {t}", mmse(schedule, pair, t), *error))
    curves = {"formula": (every, [mmse(schedule, pair, t) for t in every])}
    curves["measured"] = TIMES, [row[2] for row in rows]
    plot.lines(curves, Path(out) / "05_error.png", "Is it a 3 or an 8? The error of the best guess", "t",
               "mean square error of $\\hat{x}_0$, a pixel")
    return rows


def draw(character):
    """One character, white on black, (28, 28, 1) in [-1, 1], in the font that comes with matplotlib."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (28, 28))
    font = ImageFont.truetype(findfont("DejaVu Sans"), 26)
    ImageDraw.Draw(image).text((14, 14), character, fill=255, font=font, anchor="mm")
    return np.asarray(image)[..., None] / 127.5 - 1


def guess(schedule, data, x_t, t):
    """x̂_0 = E[x_0 | x_t] for data that are these images."""
    return forward.x0_from_eps(schedule, x_t, t, oracle.finite(schedule, data)(x_t, t))


def chain(schedule, digits, rng, path, samples=3):
    """Guess and renoise down CHAIN, and draw each x_t above its x̂_0."""
    flat = digits.reshape(10, -1)
    x_t, noisy, guesses = rng.standard_normal((samples, flat.shape[1])), [], []
    for t, s in zip(CHAIN, (*CHAIN[1:], 0), strict=True):
        x0_hat = guess(schedule, flat, x_t, t)
        noisy.append(x_t.reshape(samples, 28, 28, 1))
        guesses.append(x0_hat.reshape(samples, 28, 28, 1))
        x_t = forward.q_sample(schedule, x0_hat, s, rng.standard_normal(x_t.shape))
    titles = [f"$x_t$, t = {t}" for t in CHAIN] + ["$\\hat{x}_0$"] * len(CHAIN)
    plot.panels(noisy + guesses, titles, path, columns=len(CHAIN), image_columns=1,
                title="Guess (below), put back less noise (above, one to the right), guess again")


def mmse(schedule, pair, t, h=0.01):
    """The formula: a sum over y on a grid, exact to rounding for so smooth an integrand."""
    quarter = np.sum((pair[0] - pair[1]) ** 2) / 4
    gamma, y = schedule.snr[t] * quarter, np.arange(-9, 9, h)
    normal = np.exp(-y * y / 2) / np.sqrt(2 * np.pi)
    return quarter / pair.shape[1] * np.sum(normal * (1 - np.tanh(gamma + np.sqrt(gamma) * y))) * h


def mean_square_error(schedule, pair, t, n, rng):
    """Mean over n noised images of the squared error of x̂_0, a pixel, and its standard error."""
    x0 = pair[rng.integers(2, size=n)]
    x_t = forward.q_sample(schedule, x0, t, rng.standard_normal(x0.shape))
    squares = ((x0 - guess(schedule, pair, x_t, t)) ** 2).mean(1)
    return squares.mean(), squares.std() / np.sqrt(n)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
