"""How good are the samples? The energy distance for points; for digits a judge that was trained on real ones.

No number here means much alone: each stands beside the same number for real data.
"""
import dataclasses
import math
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from . import glyphs, optim
from .nn import classifier
from .tensor import ops
from .tensor.autodiff import value_and_grad

SURE = 0.9  # what the judge must give its first choice to count as sure of it
BLOCK = 2**17  # distances held at a time: 1 MB of float64
BATCH = 500  # images shown to the judge at a time
FAINT = 0.1  # the most noise, as a standard deviation in data units, that the judge is to look past

# ------------------------------------------------------------------------------------------ points


def energy_distance(x, y):
    """How far apart two clouds of points are: 0 for the same cloud, else above 0.

        2 E|X-Y| - E|X-X'| - E|Y-Y'|

    Each mean is over all pairs, a point with itself included (the V-statistic): the exact energy distance of
    the two clouds as laws, never negative. Without those zeros, Σ_{i≠j} / n(n-1), it is the U-statistic:
    unbiased, but for two draws of one law often below zero, so that nothing could be "twice as far apart".
    There the V-statistic has the mean (1/N + 1/M) E|X-X'|, a yardstick.

    Source : Székely & Rizzo 2013, Energy statistics: a class of statistics based on distances, Journal of
             Statistical Planning and Inference 143(8).
    x, y   : (N, D), (M, D), data units.
    Returns: a number in data units that acts like a squared distance: its root obeys the triangle inequality.
             N M + N² + M² distances are worked out, in blocks, so that memory stays bounded.
    Raises : ValueError if either is empty or not finite, or the dimensions differ.
    """
    x, y = _points(x, "x"), _points(y, "y")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} coordinates and y {y.shape[1]}; compare points of one space")
    return 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)


def _mean_distance(x, y):
    sums = []
    for part in _blocks(len(x), len(y)):
        squares = sum(np.subtract.outer(x[part, k], y[:, k]) ** 2 for k in range(x.shape[1]))
        sums.append(np.sqrt(squares).sum())
    return math.fsum(sums) / (len(x) * len(y))


def _blocks(n, m):
    """Slices of n rows, so that a block of m columns holds about BLOCK numbers."""
    rows = max(1, BLOCK // m)
    return [slice(i, i + rows) for i in range(0, n, rows)]


def _points(x, name):
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{name}: got the shape {x.shape}; wanted points, (N, D), at least one")
    return _finite(x, name)


def _finite(x, name):
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: holds NaN or infinity; the model that made it has diverged")
    return x


@dataclasses.dataclass(frozen=True)
class EnergyReport:
    """distance: samples to data; between_draws: data to data; medians over pairs; n points on every side."""

    distance: float
    between_draws: float
    n: int
    pairs: int

    @property
    def ratio(self):
        """About 1 if n points cannot tell samples from data; then still above 2 one time in ten."""
        return self.distance / self.between_draws

    def lines(self):
        """The report, line by line."""
        return [
            f"energy distance to the data    {self.distance:10.5f}   {self.ratio:.2f} times the next",
            f"between two draws of the data  {self.between_draws:10.5f}",
            f"medians of {self.pairs} comparisons of {self.n} points with {self.n}",
        ]


def energy_report(x, sample_data, rng, pairs=5):
    """The energy distance of samples to the data, beside that of a draw of the data to another.

    x      : (N, D) samples; sample_data(n, rng) -> (n, D) draws from the data, e.g. data.TOYS["moons"].
    pairs  : how many fresh draws both are compared with; the medians are reported.
    Returns: EnergyReport.
    Raises : ValueError, as `energy_distance` does.
    """
    ours, theirs = [], []
    for _ in tqdm(range(pairs), disable=None, desc="energy distance"):
        draw, other = sample_data(len(x), rng), sample_data(len(x), rng)
        ours.append(energy_distance(x, draw))
        theirs.append(energy_distance(other, draw))
    return EnergyReport(float(np.median(ours)), float(np.median(theirs)), len(x), pairs)


# ------------------------------------------------------------------------------------------ captions


@dataclasses.dataclass(frozen=True)
class GlyphReport:
    """What `read_glyphs` found: shares of n pictures that show what their captions said, by attribute and in all."""

    n: int
    shares: dict

    def lines(self):
        """The report, line by line."""
        return [f"{self.n} pictures, each read by the nearest of all glyphs in all places: as the caption says",
                *(f"{name:32}{share:9.1%}" for name, share in self.shares.items())]  # fmt: skip


def read_glyphs(x, captions):
    """Do the pictures show what the captions say? Attributes are read off the nearest picture there is (glyphs.read).

    x: (N, 28, 28, 1); captions: N of them. Returns: GlyphReport.
    Raises : ValueError for pictures of another shape, or what is no caption.
    """
    if x.shape[1:] != (glyphs.SIDE, glyphs.SIDE, 1):
        raise ValueError(f"glyphs are ({glyphs.SIDE}, {glyphs.SIDE}, 1), got the shape {x.shape}")
    names = {"character": "what", "weight": "bold", "slant": "slanted", "size": "large", "place": "place"}
    pairs = list(zip(glyphs.read(_finite(x, "pictures")), map(glyphs.parse, captions), strict=True))
    shares = {
        name: float(np.mean([getattr(seen, field) == getattr(said, field) for seen, said in pairs]))
        for name, field in names.items()
    }
    return GlyphReport(len(pairs), {**shares, "all of them": float(np.mean([seen == said for seen, said in pairs]))})


# --------------------------------------------------------------------------------------- the judge


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier of real images, and the share it got right of the fifth that it was not trained on."""

    config: classifier.Config
    params: dict
    accuracy: float


def shares(n, seed=0):
    """Which of n images a judge of this seed learns from, and the fifth that it never sees: two arrays of indices."""
    order = np.random.default_rng([seed, 0]).permutation(n)
    return order[n // 5 :], order[: n // 5]


def train_judge(x, labels, seed=0, steps=1500, batch=100, lr=5e-3):
    """A judge, trained on four fifths of the images (`shares`); its accuracy is that on the last fifth.

    Adam on the cross-entropy, the rate falling to zero. Images are moved at random by up to a fourteenth of
    their side and given faint noise, so that the judge looks past both. A classifier that knows nothing but
    digits is as sure of noise and of empty images, so a ninth of each batch shows nothing: `_chimeras`, which
    it learns to call every class alike. The same seed gives the same judge. Half a minute on one core.

    Source : Hendrycks et al. 2019, Outlier Exposure, arXiv:1812.04606 (the uniform target).
    x      : (N, H, H, C) in data units, about [-1, 1], H even; labels (N,), whole numbers from 0.
    Raises : ValueError for images not square and finite, fewer than ten, or labels unlike the above.
    """
    x, labels = _images(x, "images"), np.asarray(labels)
    if labels.shape != x.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        got = f"{labels.dtype} {labels.shape}"
        raise ValueError(f"labels: got {got}; wanted {len(x)} whole numbers from 0, one per image")
    if len(x) < 10 or labels.max() == 0:
        got = f"{len(x)} of {labels.max() + 1}"
        raise ValueError(f"a judge needs ten images, of two classes, got {got}; add some")
    config = classifier.Config(size=x.shape[1], channels=x.shape[3], classes=int(labels.max()) + 1)
    ours, held_out = shares(len(x), seed)
    params = _train(x[ours], labels[ours], config, np.random.default_rng([seed, 1]), steps, batch, lr)
    probabilities, _ = ask(Judge(config, params, math.nan), x[held_out])
    return Judge(config, params, float((probabilities.argmax(axis=1) == labels[held_out]).mean()))


def _train(x, labels, config, rng, steps, batch, lr):
    params, strange = classifier.init(rng, config), max(1, batch // 8)
    state, of_each_class = optim.adam_init(params), np.eye(config.classes, dtype=np.float32)
    every_class_alike = np.full((strange, config.classes), 1 / config.classes, np.float32)
    slope = value_and_grad(_cross_entropy)
    for step in tqdm(range(steps), disable=None, desc="training the judge"):
        some = rng.integers(len(x), size=batch)
        images = _noisy(_shifted(x[some], config.size // 14, rng), rng)
        images = np.concatenate([images, _chimeras(images, strange, rng)])
        target = np.concatenate([of_each_class[labels[some]], every_class_alike])
        _, grads = slope(params, images, target, config)
        rate = optim.learning_rate(lr, step, warmup=50, progress=step / steps)
        params, state = optim.adam(params, grads, state, rate)
    return params


def _cross_entropy(params, x, target, config):
    """-Σ target ln p over the classes, the mean over the batch; target (B, classes), each row a law."""
    return -ops.mean(ops.sum(target * ops.log_softmax(classifier.apply(params, x, None, config)), axis=1))


def _shifted(x, by, rng):
    """Each image moved by up to `by` pixels each way; its edge is repeated where nothing was."""
    n, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (by, by), (by, by), (0, 0)), mode="edge")
    top, left = rng.integers(2 * by + 1, size=(2, n, 1, 1))
    return padded[np.arange(n)[:, None, None], top + np.arange(h)[:, None], left + np.arange(w)]


def _noisy(x, rng):
    """Each image with N(0, s²) added to its pixels, s uniform in [0, FAINT]."""
    scale = np.float32(FAINT) * rng.random((len(x), 1, 1, 1), np.float32)
    return x + scale * rng.standard_normal(x.shape, np.float32)


def _chimeras(x, n, rng):
    """n images, each square of which is what some image of x, chosen at random, has in that place.

    The side of the squares divides the image's: one pixel makes a chimera noise, half a side a patchwork.
    Its grey values are those of the data, place by place, and so only the shapes give it away.
    """
    h, w = x.shape[1:3]
    k = int(rng.choice([k for k in range(1, h) if h % k == 0]))
    parents = rng.integers(len(x), size=(n, h // k, w // k)).repeat(k, axis=1).repeat(k, axis=2)
    return x[parents, np.arange(h)[:, None], np.arange(w)]


def ask(judge, x):
    """Probabilities of the classes (N, classes) and features (N, F), of images (N, H, H, C).

    Raises : ValueError for images unlike those that the judge knows.
    """
    x = _images(x, "images", judge.config)
    batches = (x[i : i + BATCH] for i in range(0, len(x), BATCH))
    features = np.concatenate([classifier.features(judge.params, batch, judge.config) for batch in batches])
    return ops.softmax(classifier.logits(judge.params, features)), features


def _images(x, name, config=None):
    x = np.asarray(x, np.float32)
    side, channels = (config.size, config.channels) if config else ("H", "C")
    if x.ndim != 4 or not x.size or x.shape[1] != x.shape[2] or config and x.shape[2:] != (side, channels):
        wanted = f"({side}, {side}, {channels})"
        raise ValueError(f"{name}: got the shape {x.shape}; wanted at least one image of {wanted}")
    return _finite(x, name)


# ----------------------------------------------------------------------------------- its judgement


class Beside(NamedTuple):
    """One number of the samples, and the same of real images."""

    samples: float
    real: float


@dataclasses.dataclass(frozen=True)
class DigitReport:
    """What `judge_digits` found: of the samples, and beside it of real images that the judge had not seen.

    sure    : share that the judge is over 90 % sure of.
    entropy : of the classes that it chose, bits: 0 if one only, log2 of their number if equally often.
    frechet : distance of its features to those of `frechet_n` real images.
    nearest : median distance to the nearest training image, root mean square over its pixels, data units.
    classes, accuracy : the judge's.
    agreed  : share of samples that the judge calls what they were asked to be; None where nothing was asked.
    """

    sure: Beside
    entropy: Beside
    frechet: Beside
    nearest: Beside
    frechet_n: int
    classes: int
    accuracy: float
    agreed: float | None = None

    def lines(self):
        """The report, line by line."""
        n, most = self.frechet_n, math.log2(self.classes)
        asked = [] if self.agreed is None else [f"the judge sees in {self.agreed:.1%} of samples the label asked for"]
        return [
            f"{'':32}{'samples':>9}{'real':>9}",
            f"{'judge over 90 % sure':32}{self.sure.samples:9.1%}{self.sure.real:9.1%}",
            _line("variety of classes, bits", self.entropy, f"at most {most:.2f}"),
            _line("Fréchet distance to real", self.frechet, f"{n} images against {n}"),
            _line("distance to nearest in training", self.nearest, "per pixel; much below real: memorised"),
            f"the judge names {self.accuracy:.1%} of real images rightly",
            *asked,
        ]


def _line(name, pair, remark):
    return f"{name:32}{pair.samples:9.3f}{pair.real:9.3f}   {remark}"


def judge_digits(judge, samples, real, held_out, seed=0, labels=None):
    """Are the samples like digits, of every class, distributed as digits are, and new?

    For the Fréchet distance `held_out` is cut at random into two halves; the samples and one half are each
    compared with the other half, n = min(len(samples), ⌊len(held_out)/2⌋) images on every side. Even for
    two draws of one law it is above 0, and falls as n grows (Chong & Forsyth 2020, arXiv:1911.07023).

    judge   : of `train_judge`.
    samples : (N, H, H, C). real: images that the model was trained on. held_out: real images that the judge has not
              seen and that are not among `real`, four at least. labels: (N,), what the samples were asked to show.
    Returns : DigitReport.
    Raises  : ValueError for images unlike the judge's, too few, or not finite.
    """
    samples, real, held_out = (
        _images(x, name, judge.config)
        for x, name in ((samples, "samples"), (real, "real"), (held_out, "held_out"))
    )
    n = min(len(samples), len(held_out) // 2)
    if n < 2:
        got = f"{len(samples)} and {len(held_out)}"
        raise ValueError(f"judging takes at least 2 samples and 4 held-out images, got {got}; give it more")
    rng = np.random.default_rng(seed)
    (p, f), (p_real, f_real) = ask(judge, samples), ask(judge, held_out)
    f, f_real = f[rng.permutation(len(f))], f_real[rng.permutation(len(f_real))]
    yardstick = _mean_and_cov(f_real[:n])
    return DigitReport(
        sure=Beside(_sure(p), _sure(p_real)),
        entropy=Beside(_entropy_bits(p), _entropy_bits(p_real)),
        frechet=Beside(
            frechet_distance(*_mean_and_cov(f[:n]), *yardstick),
            frechet_distance(*_mean_and_cov(f_real[n : 2 * n]), *yardstick),
        ),
        nearest=Beside(*(float(np.median(nearest_distance(x, real))) for x in (samples, held_out))),
        frechet_n=n,
        classes=judge.config.classes,
        accuracy=judge.accuracy,
        agreed=None if labels is None else float((p.argmax(axis=1) == labels).mean()),
    )


def _sure(p):
    return float((p.max(axis=1) > SURE).mean())


def _entropy_bits(p):
    """-Σ q log2 q, q the share of images whose likeliest class it is."""
    counts = np.bincount(p.argmax(axis=1))
    q = counts[counts > 0] / len(p)
    return float(q @ np.log2(1 / q))


def _mean_and_cov(f):
    f = f.astype(np.float64)
    return f.mean(axis=0), np.cov(f, rowvar=False)


def frechet_distance(mu1, cov1, mu2, cov2):
    """Between two Gaussians: |μ₁-μ₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½).

    The root's trace is that of (C₁^½ C₂ C₁^½)^½, the sum of the singular values of C₁^½ C₂^½.

    Source : Heusel et al. 2017, arXiv:1706.08500, eq. (6).
    mu     : (F,); cov: (F, F), symmetric, no negative eigenvalue.
    Returns: the squared distance, in squared units of the features.
    """
    shared = np.linalg.svd(_root(cov1) @ _root(cov2), compute_uv=False).sum()
    return float(((mu1 - mu2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * shared)


def _root(cov):
    """The symmetric R with R R = C."""
    values, vectors = np.linalg.eigh(cov)
    values = np.maximum(values, 0)  # rounding can put an eigenvalue that is zero just below it
    return (vectors * np.sqrt(values)) @ vectors.T


def nearest_distance(x, among):
    """How far each x is from the nearest of `among`: min over y of √(mean over pixels of (x - y)²).

    A matrix product finds the nearest, in blocks; a subtraction gives its distance: a copy is at exactly 0.

    x, among : (N, ...), (M, ...), finite. Returns (N,), float32, data units.
    """
    x, among = (np.asarray(a, np.float32).reshape(len(a), -1) for a in (x, among))
    half_squares = np.einsum("ij,ij->i", among, among) / 2
    found = np.empty(len(x), np.float32)
    for part in tqdm(_blocks(len(x), len(among)), disable=None, desc="nearest training image"):
        closest = (x[part] @ among.T - half_squares).argmax(axis=1)
        found[part] = np.sqrt(((x[part] - among[closest]) ** 2).mean(axis=1))
    return found
