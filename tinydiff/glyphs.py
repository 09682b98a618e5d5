"""Glyphs: pictures that come with words, drawn offline from a font that matplotlib ships.

    "a small bold slanted seven at the top left"

What is said can be measured on the picture again: which character by its shape, size by the height of its ink, weight
by the width of its strokes, slant by its shear, place by its centre of mass. So a model that was given the words can
be asked for a combination that it has never seen, and the answer be marked.
"""
import dataclasses
import itertools
import re
import string
from functools import cache
from pathlib import Path

import numpy as np

SIDE = 28
DIGITS, LETTERS = string.digits, string.ascii_uppercase
CHARACTERS = DIGITS + LETTERS
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
POINTS = (SIDE / 4, SIDE / 2, 3 * SIDE / 4)  # of a place, in pixels from the top or the left: its centre of mass
SMALL, LARGE = 8, 13  # the height of a capital H, in pixels
SHEAR = 0.3  # pixels to the right for each pixel up: 17 degrees
# Of one width for all, W and I too; and its zero has a dot, which tells it from the letter O.
FONTS = {False: "DejaVuSansMono.ttf", True: "DejaVuSansMono-Bold.ttf"}

_NUMBERS = "zero one two three four five six seven eight nine".split()
_NAMES = {**dict(zip(DIGITS, _NUMBERS, strict=True)), **{letter: f"letter {letter}" for letter in LETTERS}}
_WHAT = {name: what for what, name in _NAMES.items()}
_GRAMMAR = f"a small|large [regular|bold] [upright|slanted] zero..nine|letter A..Z at the {'|'.join(PLACES)}"
_LOOK = r"a (small|large)(?: (regular|bold))?(?: (upright|slanted))?"
_CAPTION = re.compile(f"{_LOOK} ({'|'.join(_WHAT)}) at the ({'|'.join(PLACES)})")
# A word's number is its index. The first is the padding.
VOCABULARY = (
    "", "a", "small", "large", "regular", "bold", "upright", "slanted", *_NUMBERS, "letter", *LETTERS,
    "at", "the", "top", "bottom", "left", "centre", "right",
)  # fmt: skip
LONGEST = 10  # words: "a large regular upright letter A at the top left"


@dataclasses.dataclass(frozen=True)
class Glyph:
    """A character and how it looks. what: one of CHARACTERS; place: one of PLACES. Raises ValueError for others."""

    what: str
    bold: bool
    slanted: bool
    large: bool
    place: str

    def __post_init__(self):
        if self.what not in tuple(CHARACTERS):
            raise ValueError(f"a glyph is one digit 0..9 or one letter A..Z, got {self.what!r}")
        if self.place not in PLACES:
            raise ValueError(f"a glyph's place must be one of {', '.join(PLACES)}, got {self.place!r}")


def every(characters=CHARACTERS):
    """All glyphs of these characters, 72 of each, in a fixed order."""
    either = (False, True)
    return [Glyph(*choice) for choice in itertools.product(characters, either, either, either, PLACES)]


def split(name, characters=CHARACTERS):
    """The glyphs of these characters to learn from, "train", or "test": a fifth of the combinations, held out.

    Dealt out at random, once for all: each pair of attributes is seen in training, but not all of them together.
    """
    if name not in ("train", "test"):
        raise ValueError(f"unknown split {name!r}; wanted 'train' or 'test'")
    held_out = np.random.default_rng(0).permutation(len(CHARACTERS) * 72)[: len(CHARACTERS) * 72 // 5]
    chosen = set(held_out.tolist())
    among = set(characters)
    return [glyph for i, glyph in enumerate(every()) if (i in chosen) == (name == "test") and glyph.what in among]


# Pictures


def draw(glyph, down=0, right=0):
    """The glyph's picture, (28, 28, 1) float32: -1 is black, +1 ink.

    Its centre of mass lies at the place's POINTS to within half a pixel on each axis, moved by whole pixels `down` and
    `right`; where the glyph would stick out, it stops at the edge.
    """
    ink, mass = _ink(glyph.what, glyph.bold, glyph.slanted, glyph.large)
    row, column = divmod(PLACES.index(glyph.place), 3)
    wanted = np.rint(np.array([POINTS[row] + down, POINTS[column] + right]) - mass).astype(int)
    top, left = np.clip(wanted, 0, SIDE - np.array(ink.shape))
    picture = np.zeros((SIDE, SIDE, 1), np.float32)
    picture[top : top + ink.shape[0], left : left + ink.shape[1], 0] = ink
    return picture / 127.5 - 1


def sample(n, rng, among=None):
    """n glyphs drawn evenly from the list `among` (all, unless given), each up to a pixel off its place.

    Returns: images (n, 28, 28, 1) float32 in [-1, 1]; the list of n Glyphs.
    """
    among = every() if among is None else among
    chosen = [among[i] for i in rng.integers(len(among), size=n)]
    images = np.empty((n, SIDE, SIDE, 1), np.float32)
    for image, glyph, shift in zip(images, chosen, rng.integers(-1, 2, size=(n, 2)), strict=True):
        image[:] = draw(glyph, *shift)
    return images, chosen


def labels(glyphs):
    """(n,) int64: the index in CHARACTERS of what each is; a digit's is its value."""
    return np.array([CHARACTERS.index(glyph.what) for glyph in glyphs], np.int64)


def read(pictures):
    """The Glyph that each of (n, 28, 28, 1) pictures is nearest to, of all, in each place that `sample` may put it."""
    x, (shown, templates, half_squares) = np.reshape(pictures, (len(pictures), -1)), _templates()
    blocks = [slice(i, i + 100) for i in range(0, len(x), 100)]
    return [shown[i] for part in blocks for i in (x[part] @ templates.T - half_squares).argmax(axis=1)]


@cache
def _templates():
    shown = [(glyph, down, right) for glyph in every() for down in (-1, 0, 1) for right in (-1, 0, 1)]
    templates = np.array([draw(*one).ravel() for one in shown])
    return [glyph for glyph, _, _ in shown], templates, (templates**2).sum(axis=1) / 2


@cache
def _ink(what, bold, slanted, large, fine=8):
    """The character, bytes cropped to its ink, and its centre of mass: drawn `fine` times too large, then averaged."""
    from PIL import Image, ImageDraw

    baseline, side = 24 * fine, 32 * fine
    picture = Image.new("L", (side, side))
    font = _font(bold, fine * (LARGE if large else SMALL))
    ImageDraw.Draw(picture).text((8 * fine, baseline), what, 255, font, anchor="ls")
    if slanted:
        shear = (1, SHEAR, -SHEAR * baseline, 0, 1, 0)
        picture = picture.transform(picture.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    ink = np.asarray(picture.reduce(fine))
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    middles = np.indices(ink.shape) + 0.5
    return ink, (middles * ink).sum(axis=(1, 2)) / ink.sum()


@cache
def _font(bold, tall):
    """The font in which an H is `tall` pixels high."""
    import matplotlib
    from PIL import ImageFont

    file = str(Path(matplotlib.get_data_path(), "fonts", "ttf", FONTS[bold]))
    _, top, _, _ = ImageFont.truetype(file, 1000, layout_engine=ImageFont.Layout.BASIC).getbbox("H", anchor="ls")
    return ImageFont.truetype(file, round(1000 * tall / -top), layout_engine=ImageFont.Layout.BASIC)


# Words


def caption(glyph, rng=None):
    """All that there is to say: "a large regular upright letter A at the centre".

    With an rng, "regular" and "upright" are each left out half the time. "bold" and "slanted" never are, so that every
    caption has one meaning.
    """
    size = "large" if glyph.large else "small"
    weight = "bold" if glyph.bold else "regular" if rng is None or rng.random() < 0.5 else ""
    slant = "slanted" if glyph.slanted else "upright" if rng is None or rng.random() < 0.5 else ""
    return " ".join(f"a {size} {weight} {slant} {_NAMES[glyph.what]} at the {glyph.place}".split())


def parse(text):
    """The Glyph that a caption describes: regular and upright unless it says otherwise. Capitals do not matter.

    Raises : ValueError for a word that is not in VOCABULARY, or words that make no caption.
    """
    found = _CAPTION.fullmatch(" ".join(_words(text)))
    if not found:
        raise ValueError(f"{text!r} is no caption; wanted {_GRAMMAR}")
    size, weight, slant, name, place = found.groups()
    return Glyph(_WHAT[name], weight == "bold", slant == "slanted", size == "large", place)


def tokens(captions, length=LONGEST):
    """Each caption as the numbers of its words, padded with 0; "" has no words, the caption of a glyph unasked for.

    Returns: ids (n, length) int64; mask (n, length) bool, True where there is a word.
    Raises : ValueError for a word that is not in VOCABULARY, or more than `length` of them.
    """
    ids = np.zeros((len(captions), length), np.int64)
    for row, text in zip(ids, captions, strict=True):
        words = _words(text)
        if len(words) > length:
            raise ValueError(f"a caption has at most {length} words, got {len(words)}: {text!r}; wanted {_GRAMMAR}")
        row[: len(words)] = [VOCABULARY.index(word) for word in words]
    return ids, ids > 0


def _words(text):
    """The words in lower case, but for a letter: "letter a" is not "a"."""
    words = text.lower().split()
    for i, word in enumerate(words):
        if i and words[i - 1] == "letter" and len(word) == 1:
            words[i] = word.upper()
        if words[i] not in VOCABULARY:
            raise ValueError(f"no caption has the word {words[i]!r}; wanted {_GRAMMAR}")
    return words
