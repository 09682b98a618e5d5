"""A network that listens: it hears a telephone's tone, and draws the digit whose key was pressed.

A key's tone is two sines, one for its row of the keypad and one for its column. Cut into short frames it becomes a
spectrogram, a sequence of L vectors with D numbers, the power at D pitches. To cross-attention that is a context like
any other: each place of the picture asks, and takes a mixture of what the frames say. Two things follow.

What is heard at a pitch k has a formula, loudness and phase of the sines being random: with h the frame's window times
the tone's envelope and H its Fourier transform, the mean over tones with noise of variance σ² is

    E power_k = σ² Σ window² + Σ_sines E[loudness²] (|H(k-f)|² + |H(k+f)|²)/4

And attention knows no order: the same frames backwards draw the same picture. What a tone leaves open, noise decides:
of the column's sine alone comes any digit of that column, of silence any digit at all.

The last three rows, of the full run only (some ninety seconds), say what a perfect network would do, and what this one
does.

Source: ITU-T 1988, Recommendation Q.23 (the pitches); Rombach et al. 2022, arXiv:2112.10752, section 3.3; the formula:
the squared modulus of a sum of terms whose phases are independent.
"""
import argparse
from pathlib import Path

import numpy as np

from tinydiff import glyphs, loss, plot, sampler, train
from tinydiff.nn import unet
from tinydiff.schedule import cosine
from tinydiff.tensor.autodiff import value_and_grad

KEYPAD = "123456789*0#"
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz: of the rows, of the columns
PITCHES = np.array([(LOW[i // 3], HIGH[i % 3]) for i in map(KEYPAD.index, "0123456789")])
RATE, WINDOW, HOP, FRAMES = 8000, 256, 128, 8
TIME = np.arange(WINDOW + HOP * (FRAMES - 1)) / RATE
FADES = np.exp(-TIME / 0.1)
BELL = np.exp(-0.5 * np.linspace(-3, 3, WINDOW) ** 2)
BELL *= 2 / BELL.sum()  # so that a sine of loudness 1 has the power 1
BINS = np.arange(17, 57)  # 531 to 1750 Hz
QUIETEST, LOUDEST, NOISE = 0.5, 1.0, 0.1
BOTH, ROW, COLUMN, NEITHER = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])  # which sines sound

CHAIN, SIDE = cosine(200), 20
SHAPES = [glyph for glyph in glyphs.every(glyphs.DIGITS)
          if glyph.large and glyph.place == "centre" and not (glyph.bold or glyph.slanted)]
NETWORK = unet.Config(size=SIDE, patch=5, widths=(64,), attention=(4,), embed=64, context=len(BINS))


def main(out=".", quick=False):
    """Two pictures in folder `out`; returns rows (name, predicted, measured, standard error)."""
    rng, n = np.random.default_rng(12), 60 if quick else 200
    rows = [row for digit in (1, 5, 9) for row in powers(digit, tone(rng, np.full(25 * n, digit)))]
    params = learn(40 if quick else 900)
    played = np.arange(n) % 10
    heard, noise = listen(tone(rng, played)), rng.standard_normal((n, SIDE, SIDE, 1), "f4")
    drawn, backwards = (draw(params, context, noise) for context in (heard, heard[:, ::-1]))
    change = np.abs(drawn - backwards).max(axis=(1, 2, 3))
    rows.append(share("pictures that stay, played backwards", change < 0.02))
    if not quick:
        of_row, of_column = (read(draw(params, listen(tone(rng, played * 0 + 5, of)), noise)) for of in (ROW, COLUMN))
        rows.append(share("digits that are those played", read(drawn) == played))
        rows.append(share("770 Hz alone: 4, 5 or 6", np.isin(of_row, (4, 5, 6))))
        rows.append(share("1336 Hz alone: 2, 5, 8 or 0", np.isin(of_column, (2, 5, 8, 0))))
    draw_digits(heard, drawn, rows, Path(out) / "12_digits.png")
    draw_open(params, rng, noise[:10], Path(out) / "12_left_open.png")
    return rows


# Sound


def tone(rng, digits, sines=BOTH):
    """(n, samples): each digit's tone, its sines as loud as chance will have it, in noise."""
    n = len(digits)
    loudness = sines * rng.uniform(QUIETEST, LOUDEST, (n, 2))
    angles = 2 * np.pi * (PITCHES[digits][..., None] * TIME + rng.random((n, 2, 1)))
    return FADES * (loudness[..., None] * np.sin(angles)).sum(1) + NOISE * rng.standard_normal((n, len(TIME)))


def spectrogram(waves):
    """(n, FRAMES, len(BINS)): the power at each pitch, by short-time Fourier transforms."""
    frames = np.lib.stride_tricks.sliding_window_view(waves, WINDOW, axis=1)[:, ::HOP]
    return np.abs(np.fft.rfft(BELL * frames)[..., BINS]) ** 2


def listen(waves):
    """The context: powers on a logarithmic scale, as ears have it; -1 is about the noise, 1 the loudest sine."""
    return (1 + np.log10(1e-4 + spectrogram(waves)) / 1.5).astype(np.float32)


def powers(digit, waves):
    """Rows: the power in the first frame at the digit's two pitches."""
    heard, h = spectrogram(waves)[:, 0], BELL * FADES[:WINDOW]
    loudness_sq = (LOUDEST**3 - QUIETEST**3) / (3 * (LOUDEST - QUIETEST))
    for pitch in PITCHES[digit]:
        k = round(pitch * WINDOW / RATE)
        away = [k / WINDOW * RATE + sign * f for f in PITCHES[digit] for sign in (-1, 1)]
        H = [np.sum(h * np.exp(-2j * np.pi * hertz * TIME[:WINDOW])) for hertz in away]
        predicted = NOISE**2 * np.sum(BELL**2) + loudness_sq * np.sum(np.abs(H) ** 2) / 4
        found = heard[:, k - BINS[0]]
        yield f"power at {pitch} Hz, digit {digit}", predicted, found.mean(), found.std() / np.sqrt(len(found))


# Pictures


def learn(steps):
    """The averaged weights after so many steps. One tone in seven has lost its row's sine, one its column's."""
    def batch(step):
        rng = np.random.default_rng([12, step])
        x, shapes = glyphs.sample(48, rng, SHAPES)
        heard = listen(tone(rng, glyphs.labels(shapes), rng.random((48, 2)) > 1 / 7))
        return middle(x), loss.draw_times(rng, 48, CHAIN.T), rng.standard_normal((48, SIDE, SIDE, 1), "f4"), heard

    def cost(params, x0, t, eps, heard):
        return loss.l_simple(guess(params, heard), CHAIN, x0, t, eps, "x0")

    step_fn, start = value_and_grad(cost), train.State.start(unet.init(np.random.default_rng(12), NETWORK))
    settings = train.Settings(steps=steps, lr=6e-3, warmup=20, average=0.99)
    for state, _ in train.train(lambda params, drawn: step_fn(params, *drawn), batch, start, settings):
        average = state.average
    return average


def middle(x):
    """The middle of glyphs, which holds a large one at the centre whole."""
    edge = (glyphs.SIDE - SIDE) // 2
    return x[:, edge:-edge, edge:-edge]


def guess(params, heard):
    """x̂_0(x_t, t) by the network, which hears a context for each picture."""
    return lambda x, t: unet.apply(params, x, t, NETWORK, context=heard)


def draw(params, heard, noise):
    """A digit for each context and noise, in 30 steps of DDIM; fresh noise (η = 1) mends what a step got wrong."""
    eps_fn, rng = loss.eps_fn(guess(params, heard), CHAIN, "x0", clip=True), np.random.default_rng(12)
    *_, x = sampler.sample_ddim(eps_fn, CHAIN, noise, rng, steps=30, eta=1.0)
    return x


def read(x):
    """Which digit each picture is: that of the nearest glyph, moved by a pixel or not."""
    known = [glyphs.draw(glyph, down, right) for glyph in SHAPES for down in (-1, 0, 1) for right in (-1, 0, 1)]
    known = middle(np.stack(known)).reshape(len(known), -1)
    nearest = ((known**2).sum(1) - 2 * x.reshape(len(x), -1) @ known.T).argmin(1)
    return nearest // 9


def share(name, right):
    """A row: the share of what should be all. Of n digits a share is known to 1/n at best."""
    p, n = right.mean(), len(right)
    return name, 1.0, p, max(np.sqrt(p * (1 - p) / n), 1 / n)


def seen(heard):
    """Spectrograms as pictures: time to the right, pitch upwards."""
    return heard.transpose(0, 2, 1)[:, ::-1].repeat(2 * SIDE // FRAMES, axis=2)[..., None]


def draw_digits(heard, drawn, rows, path):
    """Spectrograms above the digits that were drawn for them."""
    large = drawn.repeat(2, axis=1).repeat(2, axis=2)
    names = ["the tone\n(pitch over time)", "drawn for it", "another tone", "drawn for it"]
    plot.image_table([seen(heard[:10]), large[:10], seen(heard[10:20]), large[10:20]], names, path,
                     f"Two sines for each key; {np.mean(read(drawn) == np.arange(len(drawn)) % 10):.1%} of the digits "
                     "are the key's, 10% by chance", [f"key {digit}" for digit in range(10)])


def draw_open(params, rng, noise, path):
    """What is drawn, from ten noises, when a sine is missing, or both."""
    names = ["key 5: 770 and 1336 Hz", "770 Hz: the row 4, 5, 6", "1336 Hz: the column 2, 5, 8, 0", "silence"]
    lines = []
    for sines in (BOTH, ROW, COLUMN, NEITHER):
        heard = listen(tone(rng, np.full(10, 5), sines))
        large = draw(params, heard, noise).repeat(2, axis=1).repeat(2, axis=2)
        lines.append(np.concatenate([seen(heard[:1]), large]))
    plot.image_table(lines, names, path, "What the tone leaves open, the noise decides",
                     ["heard", *(f"noise {i}" for i in range(1, 11))])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demos", help="folder for the pictures")
    parser.add_argument("--quick", action="store_true", help="hardly any training")
    for name, predicted, measured, error in main(**vars(parser.parse_args())):
        print(f"{name:<36} predicted {predicted:8.5f}   measured {measured:8.5f} ± {error:.5f}")
