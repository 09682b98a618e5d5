"""One jump equals many steps: t small steps and a single q_sample reach the same distribution.

A step keeps √(1-β) of what is there and adds noise of variance β. After t of them

    x_t = √ᾱ_t x_0 + noise of variance 1-ᾱ_t,     ᾱ_t = (1-β_1) (1-β_2) ⋯ (1-β_t)

so a network can be trained at any t without walking there. The noise being Gaussian, two numbers say it all:
how much of x_0 is left (the slope of the least-squares line of x_t on x_0) and the variance of the rest.

Source: Ho et al. 2020, arXiv:2006.11239, eqs. (2) and (4).
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import data, forward, plot
from tinydiff.schedule import linear

TIMES = 15, 50, 400


def main(out=".", quick=False):
    """One picture in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng, schedule = np.random.default_rng(2), linear(1000)
    x0 = data.spiral(3_000 if quick else 30_000, rng).astype(np.float64)
    jumps = {t: forward.q_sample(schedule, x0, t, rng.standard_normal(x0.shape)) for t in TIMES}
    steps = walk(schedule, x0, rng)

    rows = []
    for t in TIMES:
        for way, x_t in ((f"{t} steps", steps[t]), (f"one jump to {t}", jumps[t])):
            rows += compare(way, x0, x_t, schedule.signal_scale[t], 1 - schedule.alpha_bar[t])
    shown = [x0, *steps.values(), x0, *jumps.values()]
    titles = ["the data", *(f"after {t} steps" for t in TIMES)]
    titles += ["the data", *(f"one jump to t = {t}" for t in TIMES)]
    plot.panels([points[:3000] for points in shown], titles, Path(out) / "02_one_jump.png", columns=4,
                title="Above: step by step. Below: in one jump. The dots differ, their distribution does not")
    return rows


def walk(schedule, x0, rng):
    """{t: x_t} at TIMES, one small step after the other, each with noise of its own."""
    x, kept = x0, {}
    for t in range(1, max(TIMES) + 1):
        x = forward.q_step(schedule, x, t, rng.standard_normal(x.shape))
        if t in TIMES:
            kept[t] = x
    return kept


def compare(way, x0, x_t, signal, noise_var):
    """Rows for the slope of x_t on x_0 and for the variance about that line, both coordinates together."""
    slope = np.sum(x0 * x_t) / np.sum(x0 * x0)
    rest = np.mean((x_t - slope * x0) ** 2)
    yield f"signal left, {way}", signal, slope, np.sqrt(noise_var / np.sum(x0 * x0))
    yield f"variance added, {way}", noise_var, rest, noise_var * np.sqrt(2 / x0.size)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
