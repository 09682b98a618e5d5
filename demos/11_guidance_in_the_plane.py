"""Guidance makes samples surer of their label and more alike; but what comes out is not p(x) p(y|x)^scale.

At each noise level the guided score is that of a tilted density, p_t(x) p_t(y|x)^scale. At scale = 1 this is p_t(x|y),
the labelled data noised, and p(x|y) is what comes out. At another scale the tilted densities are no noised versions of
one another, and walking down their scores does not end at p(x) p(y|x)^scale. Where the data are N(0, v) and those with
the label N(m, v_y), the guided flow is linear. What comes out of it, in each coordinate, has

    variance v_y (v_y/v)^w,     mean (1+w) m √(v_y/v)^w √(v_y/(v-v_y)) ∫_0^Q (1+q²)^(w/2) dq

with w = scale - 1 and Q² = v/v_y - 1, where the tilted density is N((1+w) m c/v_y, c), 1/c = (1+w)/v_y - w/v: wider.

For six Gaussians, three of them with the label, the gap is measured: the guided flow has a density of its own (demo
10), so KL(samples || tilted) is a mean over samples of ln p - ln tilted. A sum over a grid predicts it.

Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.3; Bradley & Nakkiran 2024, arXiv:2408.09000, section 3 (the
variance, for v_y = v/2); the mean follows from the flow.
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import guidance, oracle, plot, sde, solver

VP = sde.VP()
MEANS = np.array([[-0.8, 0.35], [0.0, 0.7], [0.9, 0.9], [-0.8, -0.35], [0.0, -0.2], [0.9, -0.9]])
SIX, THREE = ((np.full(k, 1 / k), MEANS[:k], np.full(k, 0.06)) for k in (6, 3))  # the upper three have the label
V, V_Y, M = 1.0, 0.25, 0.4
ONE, PART = (np.ones(1), np.zeros((1, 2)), np.full(1, V)), (np.ones(1), np.full((1, 2), M), np.full(1, V_Y))
SCALES = 0.0, 1.0, 2.0, 4.0
EVERY = np.array([0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 7, 8])
HALF, SIDE = 2.0, 40  # of the grid's width; its cells


def main(out=".", quick=False):
    """Three pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng, out = np.random.default_rng(11), Path(out)
    n, steps = (1_600, 16) if quick else (10_000, 32)
    rows = [row for scale in SCALES[1:] for row in moments(scale, rng.standard_normal((2 * n, 2)), steps)]
    noise = rng.standard_normal((n, 2))
    clouds = {scale: sample(SIX, THREE, scale, noise, steps) for scale in EVERY}
    gaps = [gap(scale, clouds[scale], steps) for scale in SCALES[1:]]
    draw_samples(clouds, gaps, out / "11_samples.png")
    draw_trade(clouds, out / "11_trade.png")
    draw_gap(gaps, (0.5, 8) if quick else EVERY, steps, out / "11_gap.png")
    return rows + gaps


def sample(data, labelled, scale, noise, steps):
    """Where the guided flow takes noise."""
    *_, x = solver.rk4(velocity(data, labelled, scale), noise, times(steps)[::-1])
    return x


def velocity(data, labelled, scale):
    """The flow of the guided score, exact at every time: its weights are those of ε̂."""
    return sde.probability_flow(VP, guidance.classifier_free(score_of(labelled), score_of(data), scale - 1))


def score_of(data):
    """∇ ln p_u(x), exactly."""
    return lambda x, u: oracle.noised_score(x, VP.signal(u), VP.noise(u) ** 2, *data)


def times(steps):
    """From 0 to 1, even in √u: short steps where the density has its details."""
    return [u * u for u in solver.uniform(0.0, 1.0, steps)]


def moments(scale, noise, steps):
    """Rows for one Gaussian and its part: the formulas."""
    x, w = sample(ONE, PART, scale, noise, steps), scale - 1
    q, width = np.linspace(0, np.sqrt(V / V_Y - 1), 1001, retstep=True)
    integral = width * (np.sum((1 + q**2) ** (w / 2)) - (1 + (V / V_Y) ** (w / 2)) / 2)
    mean = scale * M * (V_Y / V) ** (w / 2) * np.sqrt(V_Y / (V - V_Y)) * integral
    yield f"mean, one Gaussian, scale {scale:.0f}", mean, x.mean(), x.std() / np.sqrt(x.size)
    squares, var = (x - x.mean()) ** 2, V_Y * (V_Y / V) ** w
    yield f"variance, one Gaussian, scale {scale:.0f}", var, squares.mean(), squares.std() / np.sqrt(x.size)


# Six Gaussians


def log_label(x):
    """ln p(y|x)."""
    return np.log(0.5) + log_density(x, THREE) - log_density(x, SIX)


def log_density(x, data):
    """ln p(x) of the data."""
    return oracle.noised_log_density(x, 1.0, 0.0, *data)


def log_tilted(x, scale):
    """ln of p(x) p(y|x)^scale, made to integrate to 1."""
    _, places, cell = grid()
    bare = [log_density(at, SIX) + scale * log_label(at) for at in (x, places)]
    return bare[0] - np.log(np.sum(np.exp(bare[1])) * cell)


def log_flow(x, scale, steps):
    """ln p(x) of what comes out of the guided flow."""
    flow = velocity(SIX, THREE, scale)
    *_, (_, found) = sde.log_likelihood(flow, x, times(steps), solver.rk4, sde.standard(VP))
    return found


def grid():
    """The middles of SIDE x SIDE cells, and the area of one."""
    width = 2 * HALF / SIDE
    x = width * (np.arange(SIDE) + 0.5) - HALF
    return x, np.stack(np.meshgrid(x, x), -1).reshape(-1, 2), width**2


def gap(scale, x, steps):
    """A row: KL(samples || tilted); at scale 1, where it is 0, the samples' -ln p(x|y), which is then an entropy."""
    log_p, root = log_flow(x, scale, steps), np.sqrt(len(x))
    if scale == 1:
        _, places, cell = grid()
        truth = log_density(places, THREE)
        return "-ln p(x|y), scale 1", -np.sum(np.exp(truth) * truth) * cell, -log_p.mean(), log_p.std() / root
    found = log_p - log_tilted(x, scale)
    return f"KL to the tilted, scale {scale:.0f}", by_grid(scale, steps), found.mean(), found.std() / root


def by_grid(scale, steps):
    """KL(samples || tilted) = ∫ p (ln p - ln tilted), by the midpoint rule."""
    _, places, cell = grid()
    log_p = log_flow(places, scale, steps)
    return np.sum(np.exp(log_p) * (log_p - log_tilted(places, scale))) * cell


def draw_samples(clouds, gaps, path):
    """Samples over the tilted density, each density's own peak the darkest."""
    x, places, _ = grid()
    heights = [np.exp(log_tilted(places, scale)).reshape(SIDE, SIDE) for scale in SCALES]
    items = [(x, x, p / p.max(), np.zeros((0, 1, 2))) for p in heights]
    titles = ["scale 0: all data", "scale 1: those with the label"]
    titles += [f"scale {scale:.0f}: KL = {row[2]:.2f} nats" for scale, row in zip(SCALES[2:], gaps[1:], strict=True)]
    title = "Guided samples (dots) over p(x) p(y|x)$^{scale}$ (blue): the same at scales 0 and 1 only"
    plot.densities(items, titles, path, title, points=[clouds[scale][:400] for scale in SCALES])


def draw_trade(clouds, path):
    """Fidelity up, diversity down: of the samples, and of the tilted density."""
    _, places, cell = grid()
    sure, spread = "mean p(y|x)", "RMS distance from the mean"
    curves = {f"{what}: {whose}": [] for what in (sure, spread) for whose in ("samples", "tilted density")}
    for scale, x in clouds.items():
        p = np.exp(log_tilted(places, scale)) * cell
        for whose, at, weight in (("samples", x, np.full(len(x), 1 / len(x))), ("tilted density", places, p)):
            curves[f"{sure}: {whose}"].append(weight @ np.exp(log_label(at)))
            curves[f"{spread}: {whose}"].append(np.sqrt(weight @ ((at - weight @ at) ** 2).sum(1)))
    title = "The more guidance, the surer of the label and the more alike"
    plot.lines({name: (EVERY, y) for name, y in curves.items()}, path, title, "scale", "")


def draw_gap(gaps, scales, steps, path):
    """The gap at each scale."""
    scales = np.array(sorted({*scales, *SCALES}))
    curves = {"by a sum over a grid": (scales, [by_grid(scale, steps) for scale in scales])}
    curves["measured on samples"] = SCALES[2:], [row[2] for row in gaps[1:]]
    plot.lines(curves, path, "What comes out is the tilted density at scales 0 and 1 only", "scale",
               "KL(samples || tilted), nats")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
