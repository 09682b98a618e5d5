"""Guidance in digits: the larger w, the surer they are what was asked for, and the more alike.

Classifier-free guidance asks one network twice, with the label and without, and leans away from the second answer:

    ε̂ = cond + w (cond - uncond)

At w = -1 no label is heard, so that of ten classes one digit in ten is the one asked for: a number with a formula. The
others stand beside those of real digits. A judge, trained on real ones, says what it sees (fidelity), and how far apart
two digits of a class are in its features (diversity). The Fréchet distance minds both: digits unlike real ones, and
real ones that are missing. It is smallest where w is small. (Of so few digits it is large even for real ones.)

It wants a trained run, and takes two or three minutes.

Source: Ho & Salimans 2022, arXiv:2207.12598, eq. (6) and section 4 (fidelity against diversity); Heusel et al. 2017,
arXiv:1706.08500 (the Fréchet distance).
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import evaluate, plot, recipes, runs, use

WEIGHTS = -1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0


def main(out=".", quick=False, run="runs/mnist-class"):
    """Three pictures in folder `out`; returns rows (name, predicted or of real digits, measured, standard error)."""
    if not Path(run).exists():
        raise SystemExit(f"no run at {run}; make one: tinydiff train mnist-class --out {run}")
    run, out, n = runs.load(run), Path(out), 40 if quick else 200
    classes, steps = run.config.classes, min(25, run.config.T)
    x, labels = recipes.load(run.config.data)
    judge = evaluate.train_judge(x, labels, steps=20 if quick else 1000)
    ours, unseen = (indices[: 2 * n] for indices in evaluate.shares(len(x)))
    real_spread, _ = spread(judge, x[unseen], labels[unseen])
    asked, rows, shown, agreed, spreads, distances = np.arange(n) % classes, [], [], [], [], []
    for w in WEIGHTS:
        digits = use.draw(run, n, steps=steps, w=w)  # of the same noise for every w
        report = evaluate.judge_digits(judge, digits, x[ours], x[unseen], labels=asked)
        apart, error = spread(judge, digits, asked)
        right = 1 / classes if w == -1 else judge.accuracy
        rows.append((f"w = {w:g}: are what was asked", right, report.agreed, deviation(report.agreed, n)))
        rows.append((f"w = {w:g}: distance within a class", real_spread, apart, error))
        shown.append(digits[:classes])
        agreed.append(report.agreed)
        spreads.append(apart / real_spread)
        distances.append(report.frechet.samples)
    names = ["w = -1: unasked", "w = 0: asked", *(f"w = {w:g}" for w in WEIGHTS[2:])]
    plot.image_table(shown, names, out / "13_digits.png", "One noise in each column, and ever more guidance",
                     [f"asked: {k}" for k in range(classes)])
    every = np.array(WEIGHTS)
    plot.lines({"are what was asked, by the judge": (every, agreed),
                "distance within a class, of that of real digits": (every, spreads)},
               out / "13_trade.png", "Fidelity up, diversity down", "w", "share")
    plot.lines({"guided digits": (every, distances), "real digits": (every, every * 0 + report.frechet.real)},
               out / "13_frechet.png", "The Fréchet distance minds both", "w", f"Fréchet distance to {n} real digits")
    return rows


def spread(judge, digits, labels):
    """The mean distance of two digits of a class in the judge's features, and its standard error over the classes."""
    _, features = evaluate.ask(judge, digits)
    means = []
    for k in np.flatnonzero(np.bincount(labels) > 1):
        f = features[labels == k]
        means.append(np.sqrt(((f[:, None] - f) ** 2).sum(-1)).sum() / (len(f) * (len(f) - 1)))
    return np.mean(means), np.std(means) / np.sqrt(len(means))


def deviation(share, n):
    """Of a share among n, which is known to 1/n at best."""
    return max(np.sqrt(share * (1 - share) / n), 1 / n)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples, a judge of little training")
    parser.add_argument("--run", default="runs/mnist-class", help="a run that knows labels")
    for name, reference, measured, error in main(**vars(parser.parse_args())):
        whose = "predicted  " if name.startswith("w = -1: are") else "real digits"
        print(f"{name:<36} {whose} {reference:8.5f}   measured {measured:8.5f} ± {error:.5f}")
