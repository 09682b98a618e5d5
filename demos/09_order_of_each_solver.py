"""Twice the steps, and the error falls by 2^p: each solver has its order p, and it shows as a slope.

With n steps a solver of order p errs like c n^-p in the end: on two logarithmic axes, a line of slope -p. In one
dimension the exact end of the probability flow is known, since paths of a flow cannot cross: a point keeps its rank,

    F_u(x_u) = F_1(x_1),     F_u(x) = P(x_u < x): for a mixture Σ_k w_k Φ((x - a m_k)/√(a² v_k + b²))

    Euler 1     Heun 2     RK4 4     EDM 2: Heun, steps even in σ^1/7     DPM-Solver++(2M) 2, steps even in λ

Euler-Maruyama draws noise, so what converges is the law of its points, at order 1. For data N(μ, v) its steps are
linear, and the variance that comes out is followed exactly, no sample drawn.

What takes time is the network: Heun asks it twice a step, RK4 four times, the others once. Nothing here is random:
the ± of a slope is how much it changed at the last doubling.

Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, chapter II; Karras et al. 2022,
arXiv:2206.00364, Algorithm 1; Lu et al. 2022, arXiv:2211.01095, Algorithm 2; Song et al. 2021, arXiv:2011.13456,
eq. (13); Kloeden & Platen 1992, Numerical Solution of Stochastic Differential Equations, section 10.2.
"""
import argparse
import math
from pathlib import Path

import numpy as np

from tinydiff import oracle, plot, sde, solver
from tinydiff.laws.reverse import chain_moments

VP, LAST = sde.VP(), 1e-3  # every path goes from u = 1 to here
EDM = sde.EDM(float(sde.ratio(VP, 1.0)))
MIXTURE = np.array([0.4, 0.6]), np.array([[-0.9], [0.5]]), np.array([0.06, 0.1])
GAUSSIAN = np.array([1.0]), np.array([[0.5]]), np.array([0.2])
STARTS = np.linspace(-2, 2, 8)[:, None]
SOLVERS = {  # order, guesses of the network a step
    "Euler": (1, 1),
    "Heun": (2, 2),
    "RK4": (4, 4),
    "EDM": (2, 2),
    "DPM-Solver++(2M)": (2, 1),
    "Euler-Maruyama": (1, 1),
}


def main(out=".", quick=False):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, change at the last doubling)."""
    steps = [4 * 2**k for k in range(7 if quick else 9)]
    true = np.array([[keep_rank(x, 1.0, LAST)] for x in STARTS[:, 0]])
    errors = {name: np.array([error(name, n, true) for n in steps]) for name in SOLVERS}
    rows = []
    for name, (order, _) in SOLVERS.items():
        slopes = -np.diff(np.log2(errors[name]))
        rows.append((f"order of {name}", order, slopes[-1], abs(slopes[-1] - slopes[-2])))
    title = "Twice the steps: a half of the error, a quarter, a sixteenth"
    draw(errors, {name: np.array(steps) for name in SOLVERS}, Path(out) / "09_steps.png", title, "steps")
    asked = {name: cost * np.array(steps) for name, (_, cost) in SOLVERS.items()}
    title = "The same by cost: RK4 pays, but not where guesses are few"
    draw(errors, asked, Path(out) / "09_guesses.png", title, "guesses of the network")
    return rows


def error(name, n, true):
    """In n steps: the root mean square error of the ends; by Euler-Maruyama, the error of the variance."""
    if name == "Euler-Maruyama":
        return variance_error(n)
    *_, x = walk(name, n)
    return np.sqrt(np.mean((x - true) ** 2))


def walk(name, n):
    """The solver's path from STARTS at u = 1 to u = LAST, in n steps."""
    if name == "EDM":  # its x is that of VP, over a
        sigmas = solver.edm_sigmas(float(sde.ratio(VP, LAST)), EDM.end, n)
        return (VP.signal(LAST) * x for x in solver.heun(flow(EDM), STARTS / VP.signal(1.0), sigmas))
    if name == "DPM-Solver++(2M)":
        return solver.dpmpp_2m(VP, eps_fn, STARTS, solver.uniform_in_lambda(VP, 1.0, LAST, n))
    solve = {"Euler": solver.euler, "Heun": solver.heun, "RK4": solver.rk4}[name]
    return solve(flow(VP), STARTS, solver.uniform(1.0, LAST, n))


def score_of(process, data):
    """The exact score_fn(x, u)."""
    return lambda x, u: oracle.noised_score(x, process.signal(u), process.noise(u) ** 2, *data)


def flow(process):
    """The probability flow of the mixture."""
    return sde.probability_flow(process, score_of(process, MIXTURE))


def eps_fn(x, u):
    """ε̂ = -b s: the exact denoiser of the mixture."""
    return -VP.noise(u) * score_of(VP, MIXTURE)(x, u)


def rank(x, u):
    """F_u(x) of the mixture."""
    weights, means, variances = MIXTURE
    stds = np.sqrt(VP.signal(u) ** 2 * variances + VP.noise(u) ** 2)
    z = (x - VP.signal(u) * means[:, 0]) / stds
    return sum(w * math.erfc(-z_k / math.sqrt(2)) / 2 for w, z_k in zip(weights, z, strict=True))


def keep_rank(x, u, w):
    """The formula: where the flow takes x from time u to w. By bisection."""
    wanted, low, high = rank(x, u), -9.0, 9.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rank(middle, w) < wanted else (low, middle)
    return middle


def variance_error(n):
    """Of Euler-Maruyama on the Gaussian, started as it should be: its variance in the end, less the right one."""
    _, ((mu,),), (var,) = GAUSSIAN

    def std(u):
        return np.sqrt(VP.signal(u) ** 2 * var + VP.noise(u) ** 2)

    def sample(score_fn, x, rng):
        start = VP.signal(1.0) * mu + std(1.0) * x
        return solver.euler_maruyama(VP, score_fn, start, solver.uniform(1.0, LAST, n), rng)

    return abs(chain_moments(sample, score_of(VP, GAUSSIAN), n)[1] - std(LAST) ** 2)


def draw(errors, x, path, title, xlabel):
    """Every solver's error, and slopes of 1, 2 and 4 to compare with, a little below the first that has them."""
    curves = {name: (x[name], errors[name]) for name in SOLVERS}
    for name in ("Euler", "Heun", "RK4"):
        order, (far, error) = SOLVERS[name][0], (x[name][-1], errors[name][-1])
        every = np.geomspace(x[name][0], far, 40)
        curves[f"slope -{order}"] = every, error / 2 * (far / every) ** order
    plot.lines(curves, path, title, xlabel, "error in the end", logx=True, logy=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
