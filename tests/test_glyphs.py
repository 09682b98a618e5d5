"""Glyphs: every attribute measured on every picture, captions there and back, and what must be refused."""
import hashlib
import itertools
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tinydiff import glyphs
from tinydiff.glyphs import CHARACTERS, DIGITS, PLACES, VOCABULARY, Glyph

ALL = glyphs.every()
AXES = (len(CHARACTERS), 2, 2, 2, len(PLACES))  # of ALL: what, bold, slanted, large, place
JITTER = list(itertools.product((-1, 0, 1), repeat=2))
SEVEN = Glyph("7", bold=True, slanted=True, large=False, place="top left")
FOUR = Glyph("4", bold=False, slanted=False, large=True, place="bottom right")


def ink(pictures):
    """0 where black, 1 where white: (n, 28, 28) float64."""
    return (np.asarray(pictures, np.float64)[..., 0] + 1) / 2


@pytest.fixture(scope="module")
def every_ink():
    """The ink of ALL, each in its place."""
    return ink([glyphs.draw(glyph) for glyph in ALL])


def mass(a):
    """Centre of mass, (n, 2): pixels from the top, pixels from the left."""
    at = np.arange(a.shape[-1]) + 0.5
    total = a.sum(axis=(1, 2))
    return np.stack([a.sum(axis=2) @ at / total, a.sum(axis=1) @ at / total], axis=1)


def height(a):
    """Rows in which some pixel is more than half white."""
    return (a.max(axis=2) > 0.5).sum(axis=1)


def stroke_width(a):
    """Twice the ink over the length of its outline, the latter as total variation: w = 2 (w l) / (2 l)."""
    return 2 * a.sum(axis=(1, 2)) / sum(np.abs(np.diff(a, axis=axis)).sum(axis=(1, 2)) for axis in (1, 2))


def lean(a):
    """How far right the ink goes for each pixel up: -Σ (y-ȳ)(x-x̄) / Σ (y-ȳ)². A shear by k adds k to it."""
    at = np.arange(a.shape[-1]) + 0.5
    y, x = at[:, None] - mass(a)[:, 0, None, None], at - mass(a)[:, 1, None, None]
    return -(a * x * y).sum(axis=(1, 2)) / (a * y * y).sum(axis=(1, 2))


# Pictures


def test_every_glyph_is_there_once():
    assert len(ALL) == len(set(ALL)) == math.prod(AXES) == 36 * 72
    assert glyphs.every("7") == [glyph for glyph in ALL if glyph.what == "7"]


def test_pictures_are_white_ink_on_black_with_grey_edges():
    for glyph in ALL:
        picture = glyphs.draw(glyph)
        assert picture.shape == (28, 28, 1) and picture.dtype == np.float32
        assert picture.min() == -1 and 0.5 < picture.max() <= 1
        assert (picture == -1).mean() > 0.7 and ((picture > -0.9) & (picture < 0.5)).any()


def test_the_centre_of_mass_is_in_the_third_that_the_caption_says():
    """With all jitter; and no nearer than 3 pixels to the centres of the next place."""
    for down, right in JITTER:
        found = mass(ink([glyphs.draw(glyph, down, right) for glyph in ALL]))
        for axis, words in enumerate((("top", "bottom"), ("left", "right"))):
            said = np.array([0 if words[0] in g.place else 2 if words[1] in g.place else 1 for g in ALL])
            assert (np.floor(found[:, axis] / (28 / 3)) == said).all()
            ends = [(found[said == i, axis].min(), found[said == i, axis].max()) for i in range(3)]
            assert ends[1][0] - ends[0][1] > 3 and ends[2][0] - ends[1][1] > 3


def test_ink_is_high_where_the_caption_says_large(every_ink):
    """A capital is 8 or 13 pixels high; Q's tail may hang lower."""
    found, large = height(every_ink), np.array([glyph.large for glyph in ALL])
    assert found[~large].min() == 8 and found[~large].max() <= 10
    assert found[large].min() == 13 and found[large].max() <= 16


def test_strokes_are_wide_where_the_caption_says_bold(every_ink):
    """Against the same glyph, regular: a fifth more ink, and a tenth wider."""
    for measure, ratio in ((lambda a: a.sum(axis=(1, 2)), 1.2), (stroke_width, 1.1)):
        found = measure(np.pad(every_ink, [(0, 0), (1, 1), (1, 1)])).reshape(AXES)
        assert (found[:, 1] > ratio * found[:, 0]).all()


def test_ink_leans_where_the_caption_says_slanted(every_ink):
    """By the shear itself, against the same glyph upright; blur by pixels and bytes takes or gives a twelfth."""
    found = lean(every_ink).reshape(AXES)
    assert np.abs(found[:, :, 1] - found[:, :, 0] - glyphs.SHEAR).max() < glyphs.SHEAR / 12
    mirrored = [CHARACTERS.index(what) for what in "AHIMOTUVWXY"]
    assert np.abs(found[mirrored, :, 0]).max() < 0.02


@pytest.mark.parametrize("bold, slanted, large", [*itertools.product((False, True), repeat=3)])
def test_each_character_is_the_outline_of_its_font(bold, slanted, large):
    """The share of each pixel within the outline as matplotlib reads it, by 34 points (a Fibonacci lattice) in each.

    A fifth of the ink may differ: hinting moves edges by a sixteenth of a pixel; bold has a quarter more than regular.
    """
    from matplotlib import get_data_path
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path as Outline
    from matplotlib.textpath import TextPath

    font = FontProperties(fname=str(Path(get_data_path(), "fonts", "ttf", glyphs.FONTS[bold])))
    # At size 1000, for outlines are simplified to a ninth of a unit; y points down in a picture.
    scale = (glyphs.LARGE if large else glyphs.SMALL) / TextPath((0, 0), "H", size=1000, prop=font).get_extents().height
    turn = scale * np.array([[1, 0], [glyphs.SHEAR * slanted, -1]])
    within = (np.arange(34)[:, None] * [1, 21] % 34 + 0.5) / 34
    points = (np.indices((20, 20))[::-1].reshape(2, -1, 1) + within.T[:, None]).reshape(2, -1).T
    drawn = ink([glyphs.draw(Glyph(what, bold, slanted, large, "centre")) for what in CHARACTERS])[:, 4:24, 4:24]
    expected = []
    for what, (y, x) in zip(CHARACTERS, mass(drawn), strict=True):
        rings = [ring @ turn for ring in TextPath((0, 0), what, size=1000, prop=font).to_polygons()]

        def share(shift, rings=rings):
            inside = [Outline(ring + shift).contains_points(points) for ring in rings]
            return np.logical_xor.reduce(inside).reshape(20, 20, 34).mean(axis=2)

        corner = np.concatenate(rings).min(axis=0)
        first = share(-corner)
        expected.append(share(-corner + [x, y] - mass(first[None])[0, ::-1]))
    error = np.abs(drawn[:, None] - np.array(expected)).sum(axis=(2, 3)) / drawn.sum(axis=(1, 2))[:, None]
    assert (error.argmin(axis=1) == np.arange(36)).all() and error.diagonal().max() < 0.2


def test_what_is_read_off_a_picture_has_every_attribute_through_noise():
    """n = 300, seed 0, noise of std 0.1. No two glyphs are nearer than 1.8, so that one is taken for another of the
    23,327 with a probability below 300 · 23,327 · P(z > 1.8 / 0.2) < 1e-11."""
    rng = np.random.default_rng(0)
    images, chosen = glyphs.sample(300, rng)
    assert glyphs.read(images + 0.1 * rng.standard_normal(images.shape, np.float32)) == chosen


def test_what_is_read_is_the_nearest_of_all_glyphs_in_all_places():
    """Against distances worked out one by one, of pictures that are no glyph: halfway between two, and noise."""
    rng = np.random.default_rng(1)
    images, _ = glyphs.sample(6, rng)
    strange = np.concatenate([(0.6 * images[:3] + 0.4 * images[3:]), rng.uniform(-1, 1, images.shape)[:3]])
    templates = [(glyph, glyphs.draw(glyph, *shift)) for glyph in ALL for shift in JITTER]
    nearest = [min(templates, key=lambda one: ((one[1] - x) ** 2).sum(dtype=float))[0] for x in strange[[0, 1, 3]]]
    assert [glyphs.read(strange)[i] for i in (0, 1, 3)] == nearest


# Samples


def digest(n=50):
    images, chosen = glyphs.sample(n, np.random.default_rng(3))
    return hashlib.sha256(images.tobytes() + repr(chosen).encode()).hexdigest()


def test_the_seed_decides_in_another_process_too_and_importing_draws_nothing():
    root = Path(glyphs.__file__).parents[1]
    code = "import test_glyphs; print(test_glyphs.digest())"
    light = "from tinydiff import glyphs; print({'matplotlib', 'PIL'} & set(sys.modules))"
    for command, wanted in ((code, digest()), (light, "set()")):
        path = f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'tests')!r}]\n"
        done = subprocess.run([sys.executable, "-c", path + command], capture_output=True, text=True)
        assert done.stdout.strip() == wanted, done.stderr
    _, first = glyphs.sample(50, np.random.default_rng(3))
    _, other = glyphs.sample(50, np.random.default_rng(4))
    assert first != other


def test_a_sample_is_its_glyphs_up_to_a_pixel():
    images, chosen = glyphs.sample(200, np.random.default_rng(1))
    assert images.shape == (200, 28, 28, 1) and images.dtype == np.float32
    seen = set()
    for image, glyph in zip(images, chosen, strict=True):
        shifts = {shift for shift in JITTER if (image == glyphs.draw(glyph, *shift)).all()}
        assert shifts
        if len(shifts) == 1:  # at the edge two shifts may end alike
            seen |= shifts
    assert seen == set(JITTER)
    images, chosen = glyphs.sample(0, np.random.default_rng(0))
    assert images.shape == (0, 28, 28, 1) and chosen == []


def test_what_was_drawn_once_cannot_be_spoilt():
    first = glyphs.draw(SEVEN)
    first[:] = 9
    assert glyphs.draw(SEVEN).max() <= 1


def test_a_sample_is_even_over_what_it_may_draw():
    """n = 10,000 of all digits but a seventh: each attribute's share within 6.2 of its stds, missed once in 1e9.

    And n = 2,000 of 72 miss none, but for once in 72 e^-27.8 < 1e-10. Both in seconds.
    """
    held_out = set(ALL[::7])
    among = [glyph for glyph in glyphs.every(DIGITS) if glyph not in held_out]
    start = time.process_time()
    _, chosen = glyphs.sample(10_000, np.random.default_rng(0), among)
    assert time.process_time() - start < 10
    assert not held_out & set(chosen) and set(chosen) <= set(among)
    for name in ("what", "bold", "slanted", "large", "place"):
        for value in {getattr(glyph, name) for glyph in among}:
            p = np.mean([getattr(glyph, name) == value for glyph in among])
            share = np.mean([getattr(glyph, name) == value for glyph in chosen])
            assert abs(share - p) < 6.2 * math.sqrt(p * (1 - p) / 10_000)
    sevens = glyphs.every("7")
    assert set(glyphs.sample(2000, np.random.default_rng(0), sevens)[1]) == set(sevens)


NAMES = ("what", "bold", "slanted", "large", "place")


def test_a_fifth_of_the_combinations_is_held_out_and_nothing_is_lost():
    ours, held_out = glyphs.split("train"), glyphs.split("test")
    assert len(held_out) == len(ALL) // 5 and not set(ours) & set(held_out)
    assert len(ours) + len(held_out) == len(ALL) and {*ours, *held_out} == set(ALL)
    assert glyphs.split("test") == held_out  # each time the same


@pytest.mark.parametrize("characters", ["7", DIGITS, glyphs.LETTERS])
def test_the_split_of_some_characters_is_that_of_all(characters):
    for name in ("train", "test"):
        found = glyphs.split(name, characters)
        assert found == [glyph for glyph in glyphs.split(name) if glyph.what in characters]
    # A fifth of 72 or more of 2592, dealt without replacement: within 6.2 standard deviations, missed once in 1e9.
    n, held_out = 72 * len(characters), glyphs.split("test", characters)
    assert 0 < len(held_out) and abs(len(held_out) - n / 5) < 6.2 * math.sqrt(0.16 * n * (1 - n / 2592))


def test_what_is_held_out_was_seen_in_parts():
    """Each attribute and each pair of two in training; and in the test each attribute, so that it asks for them all."""
    ours, held_out = glyphs.split("train"), glyphs.split("test")
    for pair in itertools.combinations(NAMES, 2):
        wanted = {tuple(getattr(glyph, name) for name in pair) for glyph in ALL}
        assert {tuple(getattr(glyph, name) for name in pair) for glyph in ours} == wanted
    for name in NAMES:
        assert {getattr(glyph, name) for glyph in held_out} == {getattr(glyph, name) for glyph in ALL}
        for value in {getattr(glyph, name) for glyph in ALL}:  # and none is nearly all held out
            some = [glyph for glyph in ALL if getattr(glyph, name) == value]
            assert len(set(some) & set(held_out)) < len(some) / 2


@pytest.mark.parametrize("name", ["both", "", None, "Train"])
def test_a_split_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=f"unknown split {name!r}; wanted 'train' or 'test'"):
        glyphs.split(name)


def test_labels_are_the_digits_then_the_letters():
    found = glyphs.labels([SEVEN, FOUR, Glyph("A", False, False, False, "top"), Glyph("Z", True, True, True, "left")])
    assert found.dtype == np.int64 and found.tolist() == [7, 4, 10, 35]


@pytest.mark.parametrize("what, place, words", [
    ("a", "top", "got 'a'"), ("12", "top", "got '12'"), ("", "top", "got ''"), (7, "top", "got 7"),
    ("7", "middle", "got 'middle'"),
])
def test_a_glyph_that_is_none_is_refused(what, place, words):
    with pytest.raises(ValueError, match=words) as refusal:
        Glyph(what, False, False, False, place)
    assert "\n" not in str(refusal.value)


# Words


def test_captions_in_full():
    assert glyphs.caption(SEVEN) == "a small bold slanted seven at the top left"
    assert glyphs.caption(FOUR) == "a large regular upright four at the bottom right"
    assert glyphs.caption(Glyph("A", False, True, True, "centre")) == "a large regular slanted letter A at the centre"
    assert len({glyphs.caption(glyph) for glyph in ALL}) == len(ALL)


def test_a_caption_says_its_glyph_with_or_without_its_optional_words():
    rng, left_out = np.random.default_rng(0), 0
    for glyph in ALL:
        full, short = glyphs.caption(glyph), glyphs.caption(glyph, rng)
        assert glyphs.parse(full) == glyphs.parse(short) == glyph
        assert set(full.split()) - set(short.split()) <= {"regular", "upright"}
        left_out += len(full.split()) - len(short.split())
    # Of 2592 words that may be left out, half: within 6.2 stds, missed once in 1e9.
    assert abs(left_out - 1296) < 6.2 * math.sqrt(2592 / 4)


@pytest.mark.parametrize("text, glyph", [
    ("a small bold slanted seven at the top left", SEVEN),
    ("a large upright four at the bottom right", FOUR),
    ("a large four at the bottom right", FOUR),
    ("  A LARGE four\nat the bottom  right ", FOUR),
    ("a small letter a at the top", Glyph("A", False, False, False, "top")),
])
def test_captions_that_people_write(text, glyph):
    assert glyphs.parse(text) == glyph


@pytest.mark.parametrize("text, words", [
    ("a small purple seven at the top left", "no caption has the word 'purple'"),
    ("a small b at the top", "no caption has the word 'b'"),
    ("a small letter AB at the top", "no caption has the word 'ab'"),
    ("a small letter ä at the top", "no caption has the word 'Ä'"),
    ("a small 7 at the top", "no caption has the word '7'"),
    ("a small \x1b[31m seven at the top", r"the word '\\x1b\[31m'"),
    ("a seven at the top left", "is no caption"),
    ("a small seven", "is no caption"),
    ("a slanted small seven at the top", "is no caption"),
    ("a small large seven at the top", "is no caption"),
    ("a small seven at the left top", "is no caption"),
    ("a small seven at the top left right", "is no caption"),
    ("a small A at the top", "is no caption"),
    ("", "'' is no caption"),
])
def test_what_is_no_caption_is_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as refusal:
        glyphs.parse(text)
    assert "wanted a small|large [regular|bold]" in str(refusal.value) and "\n" not in str(refusal.value)


def test_tokens_are_the_words_numbers_and_a_mask():
    captions = ["", *(glyphs.caption(glyph) for glyph in ALL)]
    ids, mask = glyphs.tokens(captions)
    assert ids.shape == mask.shape == (len(captions), glyphs.LONGEST) and ids.dtype == np.int64 and mask.dtype == bool
    assert not ids[0].any() and not mask[0].any()
    for text, row, here in zip(captions, ids, mask, strict=True):
        assert " ".join(VOCABULARY[i] for i in row[here]) == text
        assert (row[~here] == 0).all() and here.tolist() == sorted(here, reverse=True)
    assert mask.sum(axis=1).max() == glyphs.LONGEST and set(ids.ravel()) == set(range(len(VOCABULARY)))
    assert len(set(VOCABULARY)) == len(VOCABULARY)


def test_tokens_tell_the_letter_from_the_article_and_need_no_whole_caption():
    (ids,), _ = glyphs.tokens(["A letter a"], length=4)
    assert [VOCABULARY[i] for i in ids] == ["a", "letter", "A", ""]


@pytest.mark.parametrize("text, words", [("a purple seven", "the word 'purple'"), ("a " * 11, "at most 10 words")])
def test_tokens_refuse(text, words):
    with pytest.raises(ValueError, match=words) as refusal:
        glyphs.tokens(["", text])
    assert "\n" not in str(refusal.value)
