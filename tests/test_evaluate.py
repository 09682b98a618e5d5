"""The measures against closed forms and brute force; the judge against planted classes and planted faults."""
import dataclasses
import math
import statistics

import numpy as np
import pytest

from tinydiff import data, evaluate, glyphs
from tinydiff.nn import classifier
from tinydiff.tensor import ops, tree
from tinydiff.tensor.autodiff import value_and_grad


def refused(call, *args, **kwargs):
    """The message of the refusal: one line."""
    with pytest.raises(ValueError) as info:
        call(*args, **kwargs)
    message = str(info.value)
    assert message and "\n" not in message
    return message


# ------------------------------------------------------------------------------------------ points


def test_energy_distance_is_the_brute_force_sum(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1

    def mean(a, b):
        return math.fsum(math.dist(p, q) for p in a for q in b) / (len(a) * len(b))

    wanted = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    for block in (1, 11, 10**6):  # a row, a few rows, everything at a time
        monkeypatch.setattr(evaluate, "BLOCK", block)
        assert abs(evaluate.energy_distance(x, y) - wanted) < 1e-14
        assert abs(evaluate.energy_distance(y, x) - wanted) < 1e-14


def test_energy_distance_on_the_line_is_twice_cramers():
    """2 ∫ (F - G)² for the two step functions F and G (Székely & Rizzo 2013)."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=40), 2 * rng.normal(size=30)
    edges = np.sort(np.concatenate([x, y]))
    f, g = (np.searchsorted(np.sort(a), edges[:-1], side="right") / len(a) for a in (x, y))
    wanted = 2 * ((f - g) ** 2 * np.diff(edges)).sum()
    assert abs(evaluate.energy_distance(x[:, None], y[:, None]) - wanted) < 1e-14


def mean_abs_normal(mu, var):
    """E|X| for X ~ N(mu, var)."""
    peak = math.sqrt(2 * var / math.pi) * math.exp(-mu * mu / (2 * var))
    return peak + mu * math.erf(mu / math.sqrt(2 * var))


@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 2.0), (1.0, 1.0), (-3.0, 0.5)])
def test_energy_distance_of_two_normals(mu, sigma):
    """The quantiles of N(0, 1) and N(mu, sigma²) at n midpoints: the sums are quadratures, to within 2/n."""
    n = 1000
    levels = [(i + 0.5) / n for i in range(n)]
    z = np.array([statistics.NormalDist().inv_cdf(level) for level in levels])[:, None]
    wanted = 2 * mean_abs_normal(mu, 1 + sigma**2) - mean_abs_normal(0, 2) - mean_abs_normal(0, 2 * sigma**2)
    assert abs(evaluate.energy_distance(z, mu + sigma * z) - wanted) < 2 / n


def test_energy_distance_is_zero_for_a_cloud_and_itself_in_any_order():
    x = np.random.default_rng(2).normal(size=(500, 2))
    assert abs(evaluate.energy_distance(x, x[::-1])) < 1e-13


def test_energy_report_tells_fresh_data_from_shifted():
    """n = 1000, moons, seed 3. The ratio of fresh draws: 0.4 to 2.9 for nine in ten, at most 6.2 of 900."""
    rng = np.random.default_rng(3)
    fresh = evaluate.energy_report(data.moons(1000, rng), data.moons, rng)
    shifted = evaluate.energy_report(data.moons(1000, rng) + 0.3, data.moons, rng)
    assert 0.1 < fresh.ratio < 8
    assert shifted.ratio > 30
    assert shifted.n == 1000 and shifted.between_draws > 0
    assert f"{fresh.ratio:.2f}" in fresh.lines()[0]


def test_two_draws_lie_as_far_apart_as_the_yardstick_says():
    """(1/N + 1/M) E|X-X'|, for N(0, 1): 400 pairs of 20 and 30 points; false-alarm rate 1e-9, 6.1 stds."""
    rng = np.random.default_rng(4)
    found = [evaluate.energy_distance(rng.normal(size=(20, 1)), rng.normal(size=(30, 1))) for _ in range(400)]
    wanted = (1 / 20 + 1 / 30) * mean_abs_normal(0, 2)
    assert min(found) > 0
    assert abs(np.mean(found) - wanted) < 6.1 * np.std(found) / math.sqrt(400)


def test_energy_report_compares_as_many_points_on_every_side():
    asked = []

    def sample_data(n, rng):
        asked.append(n)
        return data.circles(n, rng)

    rng = np.random.default_rng(0)
    evaluate.energy_report(data.circles(70, rng), sample_data, rng, pairs=3)
    assert asked == [70] * 6


@pytest.mark.parametrize(
    "bad",
    [np.zeros((0, 2)), np.zeros(3), np.array([[0.0, np.nan]]), np.array([[np.inf, 0.0]]), np.zeros((4, 3))],
)
def test_energy_distance_refuses(bad):
    good = np.zeros((3, 2))
    refused(evaluate.energy_distance, bad, good)
    refused(evaluate.energy_distance, good, bad)


# ------------------------------------------------------------------------------- Fréchet's distance


def covariance(rng, n, rank=None):
    a = rng.normal(size=(n, rank or n))
    return a @ a.T / n


def test_frechet_distance_is_zero_between_equals_and_symmetric():
    rng = np.random.default_rng(0)
    mu, nu = rng.normal(size=(2, 6))
    for c, d in [(covariance(rng, 6), covariance(rng, 6)), (covariance(rng, 6, 2), covariance(rng, 6, 3))]:
        assert abs(evaluate.frechet_distance(mu, c, mu, c)) < 1e-12
        there, back = evaluate.frechet_distance(mu, c, nu, d), evaluate.frechet_distance(nu, d, mu, c)
        assert there > 0.1 and abs(there - back) < 1e-12 * there


def test_frechet_distance_of_commuting_covariances():
    """C_i = Q diag(s_i²) Qᵀ: |μ₁-μ₂|² + Σ (s₁-s₂)²."""
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    mu, nu = rng.normal(size=(2, 5))
    s, t = rng.uniform(0, 2, size=(2, 5))
    s[0] = t[1] = 0  # a direction without spread
    found = evaluate.frechet_distance(mu, q * s**2 @ q.T, nu, q * t**2 @ q.T)
    assert abs(found - ((mu - nu) ** 2).sum() - ((s - t) ** 2).sum()) < 1e-7


def test_frechet_distance_of_the_plane():
    """In two dimensions tr √M = √(tr M + 2 √det M), and M = C₁ C₂ need not be symmetric."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        c, d = covariance(rng, 2), covariance(rng, 2)
        m = c @ d
        wanted = np.trace(c + d) - 2 * math.sqrt(np.trace(m) + 2 * math.sqrt(np.linalg.det(m)))
        assert abs(evaluate.frechet_distance(np.zeros(2), c, np.zeros(2), d) - wanted) < 1e-9


def test_nearest_distance_is_the_brute_force_minimum(monkeypatch):
    rng = np.random.default_rng(3)
    x, among = rng.uniform(-1, 1, size=(2, 9, 4, 4, 1)).astype(np.float32)
    among = np.concatenate([among, x[2:3]])
    wanted = np.sqrt(((x[:, None].astype(float) - among) ** 2).mean(axis=(2, 3, 4))).min(axis=1)
    for block in (1, 25, 10**6):
        monkeypatch.setattr(evaluate, "BLOCK", block)
        found = evaluate.nearest_distance(x, among)
        assert np.abs(found - wanted).max() < 1e-6
        assert found[2] == 0


# ----------------------------------------------------------------------------------- the classifier


def test_classifier_shapes_and_logits():
    config = classifier.Config(size=10, channels=3, classes=4, widths=[8, 16])
    params = classifier.init(np.random.default_rng(0), config)
    x = np.random.default_rng(1).normal(size=(5, 10, 10, 3)).astype(np.float32)
    f, z = classifier.features(params, x, config), classifier.apply(params, x, None, config)
    assert f.shape == (5, 16) and z.shape == (5, 4) and z.dtype == np.float32
    assert np.array_equal(z, f @ params["out"]["w"] + params["out"]["b"])
    alone = classifier.apply(params, x[3:4], None, config)
    assert np.abs(alone - z[3]).max() < 1e-6


def test_every_parameter_of_the_classifier_matters(backend):
    config = classifier.Config(size=6, classes=3, widths=(16, 16))
    params = tree.map(backend.put, classifier.init(np.random.default_rng(0), config))
    x = backend.put(np.random.default_rng(1).normal(size=(4, 6, 6, 1)).astype(np.float32))

    def loss(params):
        return ops.mean(classifier.apply(params, x, None, config) ** 2)

    _, grads = value_and_grad(loss)(params)
    for path, g in tree.flatten(grads).items():
        assert np.abs(backend.get(g)).max() > 1e-7, path


def test_classifier_refuses():
    assert "even" in refused(classifier.Config, size=7)
    assert "groups" in refused(classifier.Config, widths=(12,))


def test_cross_entropy_is_that_of_the_softmax():
    config = classifier.Config(size=4, classes=3, widths=(8,))
    rng = np.random.default_rng(0)
    params, x = classifier.init(rng, config), rng.normal(size=(5, 4, 4, 1)).astype(np.float32)
    params["out"]["w"] *= 3000  # logits beyond what exp could take
    target = rng.dirichlet(np.ones(3), size=5).astype(np.float32)
    z = classifier.apply(params, x, None, config).astype(float)
    log_p = z - z.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    assert np.abs(z).max() > 100
    wanted = -(target * log_p).sum(axis=1).mean()
    assert abs(evaluate._cross_entropy(params, x, target, config) - wanted) < 1e-5 * wanted


# ---------------------------------------------------------------------------------------- the judge


def bars(n, rng):
    """Four classes of 8 x 8 images: a bar at the top, the bottom, the left or the right, somewhat noisy."""
    labels = rng.integers(4, size=n)
    x = np.full((n, 8, 8, 1), -1.0)
    for i, label in enumerate(labels):
        at = (slice(0, 3), slice(5, 8))[label % 2]
        x[(i, at) if label < 2 else (i, slice(None), at)] = rng.uniform(0.4, 1)
    return (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32), labels


@pytest.fixture(scope="module")
def trained():
    """A judge of bars, its images, and 400 that it never saw."""
    x, labels = bars(1000, np.random.default_rng(0))
    return evaluate.train_judge(x, labels, steps=120), x, bars(400, np.random.default_rng(1))


def test_the_judge_learns_planted_classes(trained):
    judge, _, (held_out, labels) = trained
    p, features = evaluate.ask(judge, held_out)
    assert p.shape == (400, 4) and features.shape == (400, judge.config.widths[-1])
    assert np.abs(p.sum(axis=1) - 1).max() < 1e-6
    assert (p.argmax(axis=1) == labels).mean() > 0.99
    assert judge.accuracy > 0.99


def test_the_accuracy_is_that_on_images_not_trained_on():
    """Labels without meaning can be learnt by heart but not guessed: 25 of 30 at 1/4 has odds below 1e-9."""
    x, _ = bars(150, np.random.default_rng(0))
    labels = np.random.default_rng(1).integers(4, size=150)
    judge = evaluate.train_judge(x, labels, steps=300)
    p, _ = evaluate.ask(judge, x)
    right = (p.argmax(axis=1) == labels).sum()
    assert right - 30 * judge.accuracy > 0.95 * 120
    assert judge.accuracy < 25 / 30


def test_the_seed_decides_the_judge():
    x, labels = bars(100, np.random.default_rng(0))
    first, again, other = (evaluate.train_judge(x, labels, seed=seed, steps=3) for seed in (5, 5, 6))
    pairs = list(zip(*(tree.leaves(judge.params) for judge in (first, again, other)), strict=True))
    assert all(np.array_equal(a, b) for a, b, _ in pairs)
    assert any(not np.array_equal(a, c) for a, _, c in pairs)


def test_the_judge_answers_alike_however_many_it_is_asked(trained, monkeypatch):
    judge, _, (held_out, _) = trained
    p, _ = evaluate.ask(judge, held_out)
    monkeypatch.setattr(evaluate, "BATCH", 37)
    assert np.abs(evaluate.ask(judge, held_out)[0] - p).max() < 1e-5


def test_fresh_images_pass(trained):
    judge, x, (held_out, _) = trained
    fresh, _ = bars(300, np.random.default_rng(2))
    report = evaluate.judge_digits(judge, fresh, x, held_out)
    assert report.sure.samples > 0.97 and report.sure.real > 0.97
    assert abs(report.entropy.samples - 2) < 0.05 and abs(report.entropy.real - 2) < 0.05
    assert report.frechet_n == 200
    assert report.frechet.samples < 3 * report.frechet.real
    assert 0.9 < report.nearest.samples / report.nearest.real < 1.1


def test_noise_and_empty_images_are_not_sure(trained):
    judge, x, (held_out, _) = trained
    noise = np.random.default_rng(3).uniform(-1, 1, size=(200, 8, 8, 1))
    for nothing in (noise, np.full((200, 8, 8, 1), -1.0)):
        report = evaluate.judge_digits(judge, nothing, x, held_out)
        assert report.sure.samples < 0.05
        assert report.frechet.samples > 10 * report.frechet.real


def test_mode_collapse_shows_in_the_entropy(trained):
    judge, x, (held_out, labels) = trained
    one, two = (evaluate.judge_digits(judge, held_out[labels < k], x, held_out) for k in (1, 2))
    assert one.entropy.samples < 0.1 and abs(two.entropy.samples - 1) < 0.1
    assert one.sure.samples > 0.97  # which sureness alone would not have told
    assert one.frechet.samples > 10 * one.frechet.real


def test_copies_show_in_the_nearest_distance(trained):
    judge, x, (held_out, _) = trained
    report = evaluate.judge_digits(judge, x[:100], x, held_out)
    assert report.nearest.samples == 0 and report.nearest.real > 0.05


def test_the_order_of_the_images_does_not_matter_to_the_yardstick(trained):
    """Held-out images sorted by class: halves taken in order would differ in every class."""
    judge, x, (held_out, labels) = trained
    by_class = np.argsort(labels)
    report = evaluate.judge_digits(judge, held_out[by_class], x, held_out[by_class])
    shuffled = evaluate.judge_digits(judge, held_out, x, held_out)
    assert report.frechet.real < 5 * shuffled.frechet.real


def test_a_report_reads_in_aligned_lines(trained):
    judge, x, (held_out, _) = trained
    lines = evaluate.judge_digits(judge, held_out, x, held_out).lines()
    ends = [lines[0].index("samples") + len("samples"), lines[0].index("real") + len("real")]
    for line in lines[1:5]:
        assert all(line[end - 1] in "0123456789%" and line[end : end + 1] in ("", " ") for end in ends)
    assert all(len(line) <= 100 for line in lines)


def test_shifts_and_chimeras_keep_every_pixel_honest():
    """An image of its own row and column numbers shows where each pixel came from."""
    rng = np.random.default_rng(0)
    rows, columns = np.meshgrid(np.arange(6.0), np.arange(6.0), indexing="ij")
    x = np.stack([100 * i + 10 * rows + columns for i in range(5)])[..., None]
    moved = evaluate._shifted(x, 1, rng)[:, 1:-1, 1:-1, 0] - x[:, 1:-1, 1:-1, 0]
    assert (moved == moved[:, :1, :1]).all()
    assert set(np.unique(moved)) <= {10 * i + j for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert np.array_equal(evaluate._shifted(x, 0, rng), x)
    sides = set()
    for _ in range(30):
        chimeras = evaluate._chimeras(x, 7, rng)[..., 0]
        assert chimeras.shape == (7, 6, 6) and (chimeras % 100 == 10 * rows + columns).all()
        parents = chimeras // 100
        whole = {k: parents[:, ::k, ::k].repeat(k, 1).repeat(k, 2) for k in (1, 2, 3)}
        sides.add(max(k for k in whole if np.array_equal(whole[k], parents)))
    assert sides == {1, 2, 3}


IMAGES = np.zeros((10, 8, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("x", "labels", "word"),
    [
        (IMAGES[:0], np.zeros(0, int), "shape"),
        (IMAGES[..., 0], np.zeros(10, int), "shape"),
        (IMAGES[:, :6], np.arange(10), "shape"),
        (IMAGES + np.nan, np.arange(10), "NaN"),
        (IMAGES, np.arange(9), "labels"),
        (IMAGES, np.arange(10.0), "labels"),
        (IMAGES, np.arange(10) - 1, "labels"),
        (IMAGES, np.zeros(10, int), "two classes"),
        (IMAGES[:9], np.arange(9), "ten images"),
        (IMAGES[:, :7, :7], np.arange(10), "even"),
    ],
)
def test_train_judge_refuses(x, labels, word):
    assert word in refused(evaluate.train_judge, x, labels, steps=1)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    "bad", [IMAGES[:0], IMAGES[:, :6], IMAGES + np.inf, np.zeros((10, 6, 6, 1)), IMAGES[..., 0]]
)
def test_judge_digits_refuses(trained, which, bad):
    args = [IMAGES, IMAGES, IMAGES]
    args[which] = bad
    assert ("samples", "real", "held_out")[which] in refused(evaluate.judge_digits, trained[0], *args)


def test_judge_digits_refuses_too_few(trained):
    assert "at least 2" in refused(evaluate.judge_digits, trained[0], IMAGES[:1], IMAGES, IMAGES)
    assert "at least 2" in refused(evaluate.judge_digits, trained[0], IMAGES, IMAGES, IMAGES[:3])


# ----------------------------------------------------------------------------------------- captions

SHOWN = [glyphs.split("test")[i] for i in range(0, 518, 13)]  # 40 glyphs
CAPTIONS = [glyphs.caption(glyph) for glyph in SHOWN]
ATTRIBUTES = {"character": "what", "weight": "bold", "slant": "slanted", "size": "large", "place": "place"}


def pictured(shown, down=0, right=0):
    return np.stack([glyphs.draw(glyph, down, right) for glyph in shown])


def test_pictures_that_are_as_their_captions_say_are_all_right():
    """Also a pixel off, a little noisy, and whatever optional words the captions leave out; numpy strings as well."""
    rng = np.random.default_rng(0)
    short = np.array([glyphs.caption(glyph, rng) for glyph in SHOWN])
    noisy = pictured(SHOWN, -1, 1) + 0.1 * rng.normal(size=(40, 28, 28, 1)).astype("f4")
    for x, captions in ((pictured(SHOWN), CAPTIONS), (noisy, short)):
        report = evaluate.read_glyphs(x, captions)
        assert report.n == 40 and report.shares == {**dict.fromkeys(ATTRIBUTES, 1.0), "all of them": 1.0}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_error_in_one_attribute_shows_in_that_alone(name):
    """A quarter of the pictures shows another value of it."""
    field = ATTRIBUTES[name]
    values = list(dict.fromkeys(getattr(glyph, field) for glyph in glyphs.every()))

    def other(glyph):
        return values[(values.index(getattr(glyph, field)) + 1) % len(values)]

    shown = [dataclasses.replace(g, **{field: other(g)}) if i % 4 == 0 else g for i, g in enumerate(SHOWN)]
    report = evaluate.read_glyphs(pictured(shown), CAPTIONS)
    assert report.shares == {**dict.fromkeys(ATTRIBUTES, 1.0), name: 0.75, "all of them": 0.75}
    assert f"{name:32}    75.0%" in report.lines()


def test_all_of_them_is_the_share_without_any_error_and_not_a_product():
    """Two errors in one picture are one picture; two in two are two."""
    first = dataclasses.replace(SHOWN[0], bold=not SHOWN[0].bold, large=not SHOWN[0].large)
    second = dataclasses.replace(SHOWN[1], slanted=not SHOWN[1].slanted)
    report = evaluate.read_glyphs(pictured([first, second, *SHOWN[2:]]), CAPTIONS)
    wrong = {"weight": 39 / 40, "size": 39 / 40, "slant": 39 / 40, "all of them": 38 / 40}
    assert report.shares == {"character": 1.0, "place": 1.0, **wrong}
    assert report.lines()[0].startswith("40 pictures") and len(report.lines()) == 7


@pytest.mark.parametrize(
    ("x", "captions", "words"),
    [
        (np.zeros((2, 28, 28, 3)), CAPTIONS[:2], "(28, 28, 1), got the shape (2, 28, 28, 3)"),
        (np.zeros((2, 8, 8, 1)), CAPTIONS[:2], "got the shape (2, 8, 8, 1)"),
        (np.zeros((2, 2)), CAPTIONS[:2], "got the shape (2, 2)"),
        (np.full((2, 28, 28, 1), np.nan), CAPTIONS[:2], "NaN"),
        (np.zeros((2, 28, 28, 1)), ["a purple seven", CAPTIONS[0]], "'purple'"),
        (np.zeros((2, 28, 28, 1)), [CAPTIONS[0], "a small seven"], "is no caption"),
        (np.zeros((2, 28, 28, 1)), [CAPTIONS[0], ""], "is no caption"),
        (np.zeros((2, 28, 28, 1)), CAPTIONS[:3], ""),
        (np.zeros((2, 28, 28, 1)), CAPTIONS[:1], ""),
    ],
)
def test_read_glyphs_refuses(x, captions, words):
    assert words in refused(evaluate.read_glyphs, x, captions)
