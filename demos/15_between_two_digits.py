"""From one digit to another: halfway between their pixels are two ghosts, halfway between their noises is one drawing.

Three walks from a to b, u from 0 to 1:

    pixels      : (1-u) a + u b
    shared noise: noise both to one t with the same ε, mix, sample down from t
    inversion   : run DDIM backwards to the noises that a and b come from, turn one into the other, sample down

Ink is 1 and paper -1, so call 1 - x² the grey of a pixel. Halfway between pixels it has a formula,

    1 - ((a+b)/2)² = [(1 - a²) + (1 - b²)]/2 + (a-b)²/4

and the last term is the ghosts. The other walks stay among drawings, about as grey as the digits themselves; after
minutes of training those halfway are not always digits. The price: of a and b shared noise forgets some, and inversion,
its steps being finite, brings them back with an error.

It wants a trained run of pictures, and takes half a minute.

Source: Song, Meng & Ermon 2020, arXiv:2010.02502, sections 5.3 and 5.4; Ho et al. 2020, arXiv:2006.11239, section 4.3.
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import plot, recipes, runs, use

PLACES = 9  # along a walk
STRENGTH = 0.6  # of the noise that is shared: t/T


def main(out=".", quick=False, run="runs/mnist"):
    """One picture in folder `out`; returns rows (name, predicted or of the digits, measured, standard error)."""
    if not Path(run).exists():
        raise SystemExit(f"no run at {run}; make one: tinydiff train mnist --out {run}")
    run, pairs = runs.load(run), 2 if quick else 6
    (x, _), steps = recipes.load(run.config.data), min(5 if quick else 100, run.config.T)
    x = x[: 2 * pairs]
    table, names, walks = [], [], {"pixels": [], "shared noise": [], "inversion": []}
    for i in range(0, 2 * pairs, 2):
        walks["pixels"].append(straight(*x[i : i + 2]))
        walks["shared noise"].append(use.edit(run, "blend", x[i : i + 2], PLACES, STRENGTH, steps=steps, seed=i))
        walks["inversion"].append(use.edit(run, "between", x[i : i + 2], PLACES, steps=steps))
        if i < 6:
            table += [walk[-1] for walk in walks.values()]
            names += walks
    headings = ["a", *(f"{k}/{PLACES - 1}" for k in range(1, PLACES - 1)), "b"]
    plot.image_table(table, names, Path(out) / "15_between_two_digits.png",
                     "Halfway between pixels: two ghosts; between noises: one drawing, in ink", headings)
    return list(measure(x, {way: np.stack(found) for way, found in walks.items()}))


def straight(a, b):
    """The walk through pixels."""
    u = np.linspace(0, 1, PLACES, dtype="f4")[:, None, None, None]
    return (1 - u) * a + u * b


def measure(x, walks):
    """Rows: how grey the middles are, and by how much the ends miss a and b. walks: (pairs, PLACES, H, W, C) each."""
    ends = x.reshape(-1, 2, *x.shape[1:])
    real, ghosts = grey(x).mean(), np.mean((ends[:, 0] - ends[:, 1]) ** 2) / 4
    for way, walk in walks.items():
        greys = grey(walk[:, PLACES // 2])
        yield f"{way}: grey halfway", real + ghosts * (way == "pixels"), greys.mean(), error(greys)
    for way, walk in walks.items():
        missed = np.sqrt(np.mean((walk[:, [0, -1]] - ends) ** 2, axis=(1, 2, 3, 4)))
        yield f"{way}: ends miss by", 0.0, missed.mean(), error(missed)


def grey(x):
    """The mean of 1 - x² over each picture's pixels."""
    return np.mean(1 - x * x, axis=(1, 2, 3))


def error(values):
    """Of their mean."""
    return values.std() / np.sqrt(len(values))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer digits, fewer steps")
    parser.add_argument("--run", default="runs/mnist", help="a run of pictures")
    for name, reference, measured, deviation in main(**vars(parser.parse_args())):
        whose = "the digits" if "halfway" in name and "pixels" not in name else "predicted "
        print(f"{name:<36} {whose} {reference:8.5f}   measured {measured:8.5f} ± {deviation:.5f}")
