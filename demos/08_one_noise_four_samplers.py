"""One noise, four samplers: the two that draw no more noise land on the same points, the others only share their law.

DDPM's steps and the reverse SDE add fresh noise on the way. DDIM and the probability flow do not: they are one ODE,
solved in two manners. Here all walk down the same ladder of noise levels, even in λ = ln a/b, with the exact denoiser
of eight Gaussians N(m_k, v I) on a ring. Turns by 45° and mirrors leave those as they are, so no flow crosses the rays
midway between two of them, and noise in the eighth of the plane about m_k flows to m_k. Where fresh noise comes in, a
path forgets where it began, but for the little that a(1) of the signal says:

    share that stays in its eighth: 1 by the ODE,    1/8 + a(1) |m| sin(π/8)/√2π by the SDE, to first order in a
    variance about the m_k reached: v by all four, E (x - m_k)²
    covariance of two such x - m_k: v between the two ODE samplers, which have the same points

Source: Song et al. 2021, arXiv:2011.13456, sections 4.1 and 4.3; Song, Meng & Ermon 2020, arXiv:2010.02502,
section 4.3.
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import data, oracle, plot, sampler, sde, solver
from tinydiff.schedule import Schedule

WEIGHTS, MEANS, VAR = data.mixture("gaussians")
DATA = WEIGHTS, MEANS, np.full(8, VAR)
VP, LAST = sde.VP(), 1e-5  # the last rung: its noise, of variance 1e-6, does not show
TWO = np.array([[1.3, 0.5], [-1.2, -0.9]])  # the noises whose paths are drawn


def main(out=".", quick=False):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng = np.random.default_rng(8)
    n, steps = (2_400, 240) if quick else (3_000, 1_000)
    noise = rng.standard_normal((n, 2))
    born, paths, ends = nearest(noise), {}, {}
    for name, walk in samplers(np.concatenate([TWO, noise]), steps, rng).items():
        taken = [TWO]
        for both in walk:
            taken.append(both[:2])
        paths[name], ends[name] = np.stack(taken, axis=1), both[2:]

    rows = [stays(name, x, born) for name, x in ends.items()]
    off = {name: x - MEANS[nearest(x)] for name, x in ends.items()}
    rows += [mean(f"variance about m_k, {name}", VAR, x**2) for name, x in off.items()]
    rows.append(mean("covariance of DDIM and flow", VAR, off["DDIM"] * off["flow, Heun"]))

    scenes = [(*truth(), two) for two in paths.values()]
    plot.densities(scenes, list(paths), Path(out) / "08_paths.png",
                   "Two noises (rings), four samplers. Without fresh noise, the same ends (dots): the noise decides")
    eighth = born == 1
    titles = ["noise, an eighth", *(f"{name}: {row[2]:.0%} stay" for name, row in zip(ends, rows, strict=False))]
    plot.panels([noise[eighth], *(x[eighth] for x in ends.values())], titles, Path(out) / "08_eighth.png", columns=5,
                title="Where the noise of one eighth of the plane goes: to one Gaussian, or to all eight alike")
    return rows


def samplers(noise, steps, rng):
    """{name: its walk}, all on one ladder of noise levels: as times of VP, and as a DDPM chain that ends at x_0."""
    times = solver.uniform_in_lambda(VP, LAST, 1.0, steps)
    signal = np.array([1.0, *(VP.signal(u) for u in times)])
    chain = Schedule(1 - (signal[1:] / signal[:-1]) ** 2)
    eps_fn, flow = oracle.mixture(chain, *DATA), sde.probability_flow(VP, score_fn)
    return {
        "DDIM": sampler.sample_ddim(eps_fn, chain, noise),
        "flow, Heun": solver.heun(flow, noise, times[::-10]),
        "DDPM": sampler.sample_ddpm(eps_fn, chain, noise, rng, v=0.0),
        "reverse SDE": solver.euler_maruyama(VP, score_fn, noise, times[::-1], rng),
    }


def score_fn(x, u):
    """∇ ln p_u(x), exactly."""
    return oracle.noised_score(x, VP.signal(u), VP.noise(u) ** 2, *DATA)


def nearest(x):
    """Which of the eight each point is nearest to: for noise, the eighth of the plane it is in."""
    return ((x[:, None] - MEANS) ** 2).sum(-1).argmin(1)


def stays(name, x, born):
    """A row: the share of points that end where their noise was. Of n points a share is known to 1/n at best."""
    share, n = np.mean(nearest(x) == born), len(x)
    fresh = 1 / 8 + VP.signal(1.0) * np.linalg.norm(MEANS[0]) * np.sin(np.pi / 8) / np.sqrt(2 * np.pi)
    predicted = 1.0 if name in ("DDIM", "flow, Heun") else fresh
    return f"share that stays, {name}", predicted, share, max(np.sqrt(share * (1 - share) / n), 1 / n)


def mean(name, predicted, values):
    """A row: the mean of values."""
    return name, predicted, values.mean(), values.std() / np.sqrt(values.size)


def truth(half=2.4):
    """The density of the data, on a grid."""
    x = np.linspace(-half, half, 150)
    places = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2)
    return x, x, np.exp(oracle.noised_log_density(places, 1.0, 0.0, *DATA)).reshape(150, 150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
