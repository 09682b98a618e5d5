"""One prompt, changed a word at a time, from one noise: each word changes what it says.

The network looks at the words by cross-attention at every step. Each picture is read back by the nearest of all glyphs,
drawn without any network, and the share of pictures that show what their caption says stands beside chance: one
character of 36, one of two weights, slants and sizes, one of nine places, 1/2592 for all of them. Among the prompts are
combinations that were held out from training; they are marked with a star.

It wants a trained run that reads, and takes half a minute.

Source: Rombach et al. 2022, arXiv:2112.10752, section 3.3.
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import evaluate, glyphs, plot, runs, use

PROMPTS = [
    "a small regular upright three at the top left",
    "a large regular upright three at the top left",
    "a large bold upright three at the top left",
    "a large bold slanted three at the top left",
    "a large bold slanted letter R at the top left",
    "a large bold slanted letter R at the bottom right",
    "a small bold slanted letter R at the bottom right",
    "a small bold slanted seven at the bottom right",
    "a small bold slanted seven at the centre",
]
BY_CHANCE = {"character": 1 / 36, "weight": 1 / 2, "slant": 1 / 2, "size": 1 / 2, "place": 1 / 9}
BY_CHANCE["all of them"] = np.prod(list(BY_CHANCE.values()))


def main(out=".", quick=False, run="runs/glyphs-text", w=1.0):
    """A picture in folder `out`; returns rows (name, by chance, measured, standard error)."""
    if not Path(run).exists():
        raise SystemExit(f"no run at {run}; make one: tinydiff train glyphs-text --out {run}")
    run, n, steps = runs.load(run), 2 if quick else 10, 5 if quick else 50
    if not run.config.captions:
        raise SystemExit(f"{run.folder} does not read; make one that does: tinydiff train glyphs-text")
    held_out = set(glyphs.split("test"))
    drawn = [use.draw(run, n, steps=min(steps, run.config.T), asked=[prompt] * n, w=w) for prompt in PROMPTS]
    names = [prompt + " *" * (glyphs.parse(prompt) in held_out) for prompt in PROMPTS]
    title = f"One noise a column, one word a row (w = {w:g}; * was held out from training)"
    plot.image_table(np.clip([x[:6] for x in drawn], -1, 1), names, Path(out) / "17_word_by_word.png", title)
    report = evaluate.read_glyphs(np.concatenate(drawn), np.repeat(PROMPTS, n))
    error = {name: np.sqrt(share * (1 - share) / report.n) for name, share in report.shares.items()}
    return [(name, BY_CHANCE[name], share, error[name]) for name, share in report.shares.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the picture")
    parser.add_argument("--quick", action="store_true", help="fewer pictures, fewer steps")
    parser.add_argument("--run", default="runs/glyphs-text", help="a run that reads")
    parser.add_argument("--w", type=float, default=1.0, help="how much to lean on the words")
    for name, chance, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<14} by chance {chance:8.5f}   measured {measured:8.5f} ± {error:.5f}")
