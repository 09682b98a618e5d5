"""When is it decided which digit it will be? Noise real ones, walk back, and see which still are what they were.

With little noise they all are; from pure noise one in ten is, by chance. In between lies the stretch of the chain on
which the digit is chosen, and it is short. A model that remembers all other digits and draws from them without a fault
comes back from x_t to x_k with the probability

    r_k ∝ exp(-‖x_t - √ᾱ_t x_k‖² / 2(1-ᾱ_t))

so it keeps the digit as often as the r_k of that label add up to: that is the prediction. (The run was trained on the
very digit too. One that remembered it would do better.) What goes wrong on this stretch, and while the strokes are
drawn that follow from it, no later step mends. So it is there that the recipe of digits trains most: the noise of its
times is log-normal.

It wants a trained run, and takes a minute or two.

Source: Meng et al. 2022, arXiv:2108.01073, section 3 (there and back); Karras et al. 2022, arXiv:2206.00364, eq. (57)
(the perfect denoiser) and table 1 (log-normal noise); Choi et al. 2022, arXiv:2204.00227 (that some noise levels
matter more than others to what is seen).
"""
import argparse
from collections import deque
from pathlib import Path

import numpy as np

from tinydiff import editing, evaluate, forward, loss, model, plot, recipes, runs
from tinydiff.forward import coef
from tinydiff.workers import one_thread

SIGMAS = 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 8.0, 16.0  # noise over signal


def main(out=".", quick=False, run="runs/mnist"):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    if not Path(run).exists():
        raise SystemExit(f"no run at {run}; make one: tinydiff train mnist --out {run}")
    run, out, n = runs.load(run), Path(out), 40 if quick else 300
    if run.config.kind != "ddpm" or not run.config.in_pixels:
        raise SystemExit(f"the run in {run.folder} is no DDPM of pictures; make one: tinydiff train mnist")
    (x, labels), chain = recipes.load(run.config.data), run.config.chain
    judge = evaluate.train_judge(x, labels, steps=20 if quick else 1000)
    chosen = evaluate.shares(len(x))[1][:n]  # the judge has not seen them
    eps_hat, steps = model.eps_fn(run.config, run.state.average), min(50, chain.T)
    times = np.unique([min(1 + int(np.searchsorted(chain.snr[1:] ** -0.5, sigma)), chain.T) for sigma in SIGMAS])
    sigmas, rows, table = chain.snr[times] ** -0.5, [], [x[chosen]]
    for t, sigma in zip(times, sigmas, strict=True):
        rng = np.random.default_rng(t)
        kept = remembered(chain, t, x, labels, chosen, rng)
        with one_thread():
            (back,) = deque(editing.sdedit(eps_hat, chain, x[chosen], t / chain.T, rng, steps), maxlen=1)
        same = evaluate.ask(judge, back)[0].argmax(1) == labels[chosen]
        error = max(same.std(), n**-0.5) / n**0.5
        rows.append((f"noise {sigma:.2g}: still the digit it was", kept.mean(), same.mean(), error))
        table.append(back)
    shown = np.unique(labels[chosen], return_index=True)[1]
    names = ["the digit", *(f"from noise {sigma:.2g}" for sigma in sigmas)]
    plot.image_table([some[shown] for some in table], names, out / "18_there_and_back.png",
                     "Noised and drawn again: the more noise, the less is left of what it was")
    curves = {"drawn again by the run": (sigmas, [row[2] for row in rows]),
              "by remembering the others": (sigmas, [row[1] for row in rows]), **trained_at(run.config, sigmas)}
    plot.lines(curves, out / "18_when.png", "Where it is decided which digit it will be", "σ, noise over signal",
               "share that is still the same digit", logx=True)
    return rows


def remembered(chain, t, x, labels, chosen, rng):
    """The sum of r_k over digits k of the same label, for a noised version of each chosen one; (n,)."""
    points, ab = x.reshape(len(x), -1), chain.alpha_bar[t]
    x_t = forward.q_sample(chain, points[chosen], t, rng.standard_normal((len(chosen), points.shape[1]), "f4"))
    log_r = coef(np.sqrt(ab) / (1 - ab), x_t) * x_t @ points.T - coef(ab / (1 - ab) / 2, x_t) * (points**2).sum(1)
    log_r[np.arange(len(chosen)), chosen] = -np.inf
    r = np.exp(log_r - log_r.max(1, keepdims=True))
    return (r * (labels == labels[chosen, None])).sum(1) / r.sum(1)


def trained_at(config, sigmas):
    """The density of ln σ at the times that the run was trained at, of its largest, between these σ."""
    ln_sigma = -0.5 * np.log(config.chain.snr[1:])
    some = np.flatnonzero((ln_sigma > np.log(sigmas[0])) & (ln_sigma < np.log(sigmas[-1])))
    if config.ln_sigma is None or len(some) < 3:
        return {}
    density = loss.log_normal_noise(config.chain, *config.ln_sigma)[1 + some] / np.diff(ln_sigma)[some - 1]
    return {"how often it is trained at, of the most": (np.exp(ln_sigma[some]), density / density.max())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="fewer digits, a judge of little training")
    parser.add_argument("--run", default="runs/mnist", help="a run of digits, not told which")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<38} by remembering {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
