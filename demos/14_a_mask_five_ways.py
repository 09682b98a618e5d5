"""What is hidden of a digit can be filled in many ways: five noises, five fillings, and not a known pixel moved.

Nothing was trained for it. Sampling goes its usual way, and after each step puts back the pixels that are known, noised
afresh to the level that was reached:

    x_s = mask · (√ᾱ_s known + √(1-ᾱ_s) ε) + (1 - mask) · (a step from x_t)

At the last step s = 0, so the known pixels are what they were, to the last bit: that is predicted. How far apart two
fillings are (the root mean square of their difference in the hole) has a yardstick: how far apart two other digits are
there. The less is known, the nearer the fillings come to it.

It wants a trained run of pictures, and takes half a minute.

Source: Song et al. 2021, arXiv:2011.13456, appendix I.2; Lugmayr et al. 2022, arXiv:2201.09865, eq. (8).
"""
import argparse
from itertools import combinations
from pathlib import Path

import numpy as np

from tinydiff import plot, recipes, runs, use

WAYS = 5


def main(out=".", quick=False, run="runs/mnist"):
    """One picture in folder `out`; returns rows (name, predicted or of other digits, measured, standard error)."""
    if not Path(run).exists():
        raise SystemExit(f"no run at {run}; make one: tinydiff train mnist --out {run}")
    run = runs.load(run)
    (x, _), steps = recipes.load(run.config.data), min(10 if quick else 200, run.config.T)
    rows, table, names = [], [], []
    for hole, mask in masks(*run.config.shape).items():
        moved, apart = [], []
        for i in range(2 if quick else 6):
            whole = x[i : i + 1]
            filled = use.edit(run, "inpaint", whole, n=WAYS, mask=mask, steps=steps, seed=i)
            moved.append(np.abs(filled - whole)[:, mask].max())
            apart.append(differences(filled, mask).mean())
            if i < 3:
                table.append(np.concatenate([whole, np.where(mask, whole, 0), filled]))
                names.append(f"hidden: {hole}")
        rows.append((f"{hole}: change of known pixels", 0.0, max(moved), 0.0))
        others = differences(x[-40:], mask).mean()
        rows.append((f"{hole}: fillings apart", others, np.mean(apart), np.std(apart) / np.sqrt(len(apart))))
    headings = ["a digit", "known of it", *(f"filling {k + 1}" for k in range(WAYS))]
    plot.image_table(table, names, Path(out) / "14_a_mask_five_ways.png",
                     "What fits the rest: the less is known, the more ways", headings)
    return rows


def masks(height, width, channels):
    """{what is hidden: mask}: True where a pixel is known, (H, W, C)."""
    square, below = np.ones((2, height, width, channels), bool)
    square[height // 3 : -(height // 3), width // 3 : -(width // 3)] = False
    below[height // 2 :] = False
    return {"a square": square, "the lower half": below}


def differences(x, mask):
    """Of each two pictures, where mask is False: the root mean square."""
    return np.array([np.sqrt(np.mean((a - b)[~mask] ** 2)) for a, b in combinations(x, 2)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer digits, fewer steps")
    parser.add_argument("--run", default="runs/mnist", help="a run of pictures")
    for name, reference, measured, error in main(**vars(parser.parse_args())):
        whose = "other digits" if name.endswith("apart") else "predicted   "
        print(f"{name:<40} {whose} {reference:8.5f}   measured {measured:8.5f} ± {error:.5f}")
