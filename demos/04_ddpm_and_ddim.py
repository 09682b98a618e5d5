"""DDIM goes from noise to data on smooth paths, DDPM on jagged ones, and both pay for few steps as predicted.

For data N(0, σ²) and the exact denoiser every step is linear, so variances are followed exactly. Let u_t be
the arrow (√ᾱ_t σ, √(1-ᾱ_t)): its length is the standard deviation of q(x_t), and from t = 0 to T it turns by
a right angle. A DDIM step from t to s multiplies x by u_s·u_t / |u_t|², where |u_s| / |u_t| would be right:
it loses the cosine of the angle θ between them. So, after all steps,

    DDIM: Var x_0 = σ² Π cos² θ_i / |u_T|²: the part lost is about Σ θ_i², which falls like 1/steps
    DDPM: Var x_s = a² Var x_t + β̃ (too narrow in the end) or β (too wide), a x_t being E[x_s | x_t]

Source: Song, Meng & Ermon 2020, arXiv:2010.02502, eq. (12); Ho et al. 2020, arXiv:2006.11239, eqs. (7), (11)
and section 3.2; the cosines follow from them.
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import forward, oracle, plot, sampler
from tinydiff.schedule import linear

STEPS = 10, 14, 20, 30, 50, 100
SIGMA = 0.5
KINDS = {"DDIM": None, "DDPM, variance β̃": 0.0, "DDPM, variance β": 1.0}  # the v of sample_ddpm


def main(out=".", quick=False):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng, schedule = np.random.default_rng(4), linear(1000)
    n = 20_000 if quick else 200_000
    eps_fn = oracle.gaussian_data(schedule, 0.0, SIGMA**2)
    x_T = rng.standard_normal((n, 1))
    rows, curves, every = [], {}, np.arange(8, 151)
    for kind, v in KINDS.items():
        measured = []
        for steps in STEPS:
            *_, x0 = sample(kind, eps_fn, schedule, x_T, rng, steps)
            measured.append(np.mean(x0**2))
            error = measured[-1] * np.sqrt(2 / n)
            rows.append((f"{kind}, {steps} steps", variance(schedule, steps, v), measured[-1], error))
        formula = [variance(schedule, steps, v) for steps in every]
        curves[f"{kind}: formula"] = every, formula
        curves[f"{kind}: measured"] = STEPS, measured
    curves["the data"] = every, np.full(len(every), SIGMA**2)
    title = "What few steps cost: the variance of the samples"
    plot.lines(curves, Path(out) / "04_few_steps.png", title, "steps", "variance of $x_0$", logx=True)
    draw_paths(schedule, rng, Path(out) / "04_paths.png")
    return rows


def sample(kind, eps_fn, schedule, x_T, rng, steps):
    """The sampler of this kind, a generator of x_s."""
    if kind == "DDIM":
        return sampler.sample_ddim(eps_fn, schedule, x_T, steps=steps)
    return sampler.sample_ddpm(eps_fn, schedule, x_T, rng, steps=steps, v=KINDS[kind])


def variance(schedule, steps, v):
    """Var x_0 after `steps` steps, by the formula: v None for DDIM, else as in sample_ddpm."""
    var, times = 1.0, sampler.timesteps(schedule.T, steps)
    for t, s in zip(times, times[1:], strict=False):
        ab_s, ab_t = schedule.pair(t, s)
        total = ab_t * SIGMA**2 + 1 - ab_t
        if v is None:
            var *= ((np.sqrt(ab_s * ab_t) * SIGMA**2 + np.sqrt((1 - ab_s) * (1 - ab_t))) / total) ** 2
        else:
            of_x0, of_xt = forward.posterior_mean_coefs(ab_s, ab_t)
            noise = sampler.reverse_var(ab_s, ab_t, v) if s > 0 else 0
            var = (of_x0 * np.sqrt(ab_t) * SIGMA**2 / total + of_xt) ** 2 * var + noise
    return var


def draw_paths(schedule, rng, path):
    """Data at -0.7 and 0.7, all 1000 steps from two noises, each followed by DDIM and by DDPM."""
    eps_fn = oracle.mixture(schedule, [0.5, 0.5], [[-0.7], [0.7]], [0.004, 0.004])
    x_T = np.array([[1.2], [-1.2]])
    taken, curves = np.arange(schedule.T + 1), {}
    for kind in ("DDPM, variance β", "DDIM"):
        walks = np.stack([x_T, *sample(kind, eps_fn, schedule, x_T, rng, schedule.T)])[..., 0]
        for walk in walks.T:
            curves[f"{kind[:4]} from {walk[0]}"] = taken, walk
    title = "DDIM's paths are smooth: $x_T$ decides $x_0$. DDPM's are jagged"
    plot.lines(curves, path, title, "steps taken, from noise to data", "$x_t$")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
