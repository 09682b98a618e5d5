"""Data: the toy sets against their own densities, and every file that a reader must refuse."""

import gzip
import hashlib
import io
import math
import struct
import subprocess
import sys
import threading
import tracemalloc
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tinydiff import data

MIXTURES = ["gaussians", "spiral", "moons", "circles"]


def refused(kind, call, *args, **kwargs):
    """The message of the refusal: of exactly this kind, and one line."""
    with pytest.raises(kind) as info:
        call(*args, **kwargs)
    assert type(info.value) is kind
    message = str(info.value)
    assert message and "\n" not in message
    return message


# ------------------------------------------------------------------------------------- points in the plane


@pytest.mark.parametrize("name", data.TOYS)
def test_a_toy_set_is_float32_points_that_the_seed_decides(name):
    first, again = (data.TOYS[name](1000, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (1000, 2) and first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, data.TOYS[name](1000, np.random.default_rng(4)))
    assert data.TOYS[name](0, np.random.default_rng(0)).shape == (0, 2)


@pytest.mark.parametrize("name", data.TOYS)
def test_a_toy_set_is_centred_and_of_unit_scale(name):
    """n = 100,000: a mean, of std below 0.6/√n = 0.0019, errs by 6.2 of its stds with probability < 1e-9."""
    x = data.TOYS[name](100_000, np.random.default_rng(0))
    assert np.abs(x.mean(axis=0)).max() < 6.2 * 0.6 / math.sqrt(100_000)
    assert np.abs(x).max() < 1.4
    assert 0.25 < x.std(axis=0).min() and x.std(axis=0).max() < 0.6


def grid(step, edge=1.6):
    """Cell midpoints, (m, m, 2). Sums over them integrate a Gaussian of std σ but for exp(-2π² (σ/step)²)."""
    ticks = np.arange(-edge + step / 2, edge, step)
    return np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)


@pytest.mark.parametrize("name", data.TOYS)
def test_a_density_integrates_to_one(name):
    p = data.density(name)(grid(0.02))
    assert p.dtype == np.float64 and p.min() >= 0
    assert abs(p.sum() * 0.02**2 - 1) < 1e-12


def bin_probabilities(name, edges):
    """∫ p over each square, by 4 x 4 Gauss-Legendre nodes."""
    node, weight = np.polynomial.legendre.leggauss(4)
    width = edges[1] - edges[0]
    ticks = ((edges[:-1] + edges[1:])[:, None] / 2 + width / 2 * node).ravel()
    p = data.density(name)(np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1))
    bins = len(edges) - 1
    return np.einsum("iajb,a,b->ij", p.reshape(bins, 4, bins, 4), weight, weight) * (width / 2) ** 2


def chi_squared(counts, expected):
    """Pearson's statistic and a bound that it passes with probability below 1e-9.

    Bins that expect fewer than 50 points are merged. The bound: P(χ²_k > k + 2√(ky) + 2y) <= exp(-y).
    Source : Laurent and Massart 2000, Annals of Statistics 28(5), Lemma 1.
    """
    small = expected < 50
    counts, expected = (np.append(a[~small], a[small].sum()) for a in (counts, expected))
    assert expected[-1] > 50
    k, y = len(counts) - 1, math.log(1e9)
    return ((counts - expected) ** 2 / expected).sum(), k + 2 * math.sqrt(k * y) + 2 * y


def misfit(name, x):
    edges = np.linspace(-1.6, 1.6, 49)
    counts, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=[edges, edges])
    expected = len(x) * bin_probabilities(name, edges)
    outside = [len(x) - counts.sum(), len(x) - expected.sum()]
    return chi_squared(np.append(counts, outside[0]), np.append(expected, outside[1]))


@pytest.mark.parametrize("name", [n for n in data.TOYS if n != "checkerboard"])
def test_samples_agree_with_the_density(name):
    """n = 200,000, seed 1, 48 x 48 bins; false-alarm rate 1e-9."""
    statistic, bound = misfit(name, data.TOYS[name](200_000, np.random.default_rng(1)))
    assert statistic < bound


def test_samples_of_the_checkerboard_agree_with_the_density():
    """n = 200,000, seed 1, each dark cell in 8 x 8 bins; false-alarm rate 1e-9. Never a point on light."""
    x = data.checkerboard(200_000, np.random.default_rng(1))
    assert (data.density("checkerboard")(x) == 0.5).all()
    edges = np.linspace(-1, 1, 33)
    counts, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=[edges, edges])
    expected = 200_000 * bin_probabilities("checkerboard", edges)
    assert counts[expected == 0].sum() == 0
    dark = expected > 0
    assert dark.sum() == 512
    statistic = ((counts[dark] - expected[dark]) ** 2 / expected[dark]).sum()
    assert statistic < 511 + 2 * math.sqrt(511 * math.log(1e9)) + 2 * math.log(1e9)


class LargestDraws:
    """A generator at the upper end of all it can draw."""

    def integers(self, high, size):
        return np.full(size, high - 1)

    def random(self, size):
        return np.full(size, 1 - 2.0**-53)


def test_no_point_of_the_checkerboard_is_rounded_over_an_edge():
    x = data.checkerboard(1, LargestDraws())
    assert x.max() < 1 and data.density("checkerboard")(x) == 0.5


@pytest.mark.parametrize("name", MIXTURES)
def test_the_comparison_sees_a_noise_that_is_five_per_cent_off(name, monkeypatch):
    monkeypatch.setitem(data.NOISE, name, 1.05 * data.NOISE[name])
    x = data.TOYS[name](200_000, np.random.default_rng(1))
    monkeypatch.undo()
    statistic, bound = misfit(name, x)
    assert statistic > bound


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_normalised_and_centred(name):
    weights, means, var = data.mixture(name)
    assert weights.shape == means.shape[:1] and means.shape[1:] == (2,) and var == data.NOISE[name] ** 2
    assert weights.min() > 0 and abs(weights.sum() - 1) < 1e-14
    assert np.abs(weights @ means).max() < 1e-14


@pytest.mark.parametrize("name", ["spiral", "moons", "circles"])
def test_the_density_of_a_curve_is_exact_to_rounding(name, monkeypatch):
    """Twice as many nodes move nothing."""
    x = grid(0.05)
    coarse = data.density(name)(x)
    rule = data._gauss_legendre
    monkeypatch.setattr(data, "_gauss_legendre", lambda panels: rule(2 * panels))
    fine = data.density(name)(x)
    assert np.abs(coarse - fine).max() < 1e-12 * fine.max()


def test_the_density_of_the_circles_is_the_closed_form():
    """A ring of radius R blurred by σ: p = exp(-(r² + R²)/2σ²) I_0(r R/σ²) / 2πσ²."""
    x, var = grid(0.05, edge=1.2), data.NOISE["circles"] ** 2
    r = np.sqrt((x**2).sum(axis=-1))
    rings = [np.exp(-(r**2 + R**2) / (2 * var)) * np.i0(r * R / var) / (2 * np.pi * var) for R in (0.45, 0.9)]
    want = sum(rings) / 2
    assert np.abs(data.density("circles")(x) - want).max() < 1e-12 * want.max()


def test_the_gaussians_are_eight_on_a_ring():
    weights, means, var = data.mixture("gaussians")
    assert np.allclose(np.hypot(*means.T), 0.8, rtol=1e-14) and len(means) == 8
    assert np.allclose(weights, 1 / 8) and var == pytest.approx(0.0064)
    apart = np.sqrt(((means[:, None] - means) ** 2).sum(axis=-1))[~np.eye(8, dtype=bool)]
    assert apart.min() == pytest.approx(1.6 * math.sin(math.pi / 8))
    assert data.density("gaussians")(means[0]) == pytest.approx(1 / (8 * 2 * math.pi * 0.0064), rel=1e-6)


def test_densities_say_what_they_know():
    assert "spiral" in refused(ValueError, data.density, "swirl")
    assert "gaussians" in refused(ValueError, data.mixture, "checkerboard")
    p = data.density("moons")
    assert p(np.zeros(2)).shape == () and p(np.zeros((3, 4, 2))).shape == (3, 4)
    for bad in (np.zeros(()), np.zeros(3), np.zeros((2, 1))):
        assert "(..., 2)" in refused(ValueError, p, bad)


# ----------------------------------------------------------------------------------------------- IDX files


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = np.random.default_rng(0).integers(256, size=(6, 4, 8), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 1, 7], np.uint8)
RAW, PACKED = idx(IMAGES), gzip.compress(idx(IMAGES), mtime=0)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("idx") / "file"


def read(path, content, **kwargs):
    path.write_bytes(content)
    return data.read_idx(path, **kwargs)


@pytest.mark.parametrize("array", [IMAGES, LABELS, IMAGES[:1, :1, :1], np.zeros((2, 28, 28), np.uint8)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["plain", "named.gz"])
def test_what_is_written_is_read(tmp_path, array, pack, name):
    got = read(tmp_path / name, pack(idx(array)))
    assert got.dtype == np.uint8 and np.array_equal(got, array)


@pytest.mark.parametrize("content, says", [
    (b"", "not IDX"),
    (b"\0\0\x08", "not IDX"),
    (b"<!DOCTYPE html>\n<p>404</p>", "not IDX"),
    (b"\0\0\x0d\x01" + RAW[4:], "not IDX"),                        # floats
    (b"\0\0\x08\x02" + RAW[4:], "not IDX"),                        # two dimensions
    (b"\x01\0\x08\x03" + RAW[4:], "not IDX"),
    (RAW[:15], "within its header"),
    (RAW[:4], "within its header"),
    (RAW[:-1], "declares 192 bytes but holds only 191"),
    (RAW[:16], "holds only 0"),
    (RAW + b"\0", "holds more"),
    (struct.pack(">4I", 0x803, 0, 28, 28), "(0, 28, 28)"),
    (struct.pack(">4I", 0x803, 5, 0, 28), "(5, 0, 28)"),
    (struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1), "wanted between 1 and"),
    (struct.pack(">4I", 0x803, 2**31, 2**31, 4) + b"abcd", "wanted between 1 and"),     # 2^64, 0 in 64 bits
    (struct.pack(">2I", 0x801, 2**28 + 1), "wanted between 1 and"),
])  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_malformed_file_is_refused_by_name(tmp_path, content, says, pack):
    message = refused(ValueError, read, tmp_path / "x.gz", pack(content))
    assert says in message and str(tmp_path / "x.gz") in message


@pytest.mark.parametrize("content", [
    PACKED[:1], PACKED[:2], PACKED[:12], PACKED[: len(PACKED) // 2], PACKED[:-1], PACKED[:-8],
    PACKED + b"junk", PACKED + PACKED, b"\x1f\x8b" + bytes(40), PACKED[:-4] + bytes(4),
])  # fmt: skip
def test_a_damaged_gzip_is_refused(tmp_path, content):
    refused(ValueError, read, tmp_path / "x", content)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(bit=st.integers(0, 8 * len(PACKED) - 1))
@example(bit=0)
@example(bit=8 * 3)
def test_a_flipped_bit_never_passes_for_data(scratch, bit):
    """A flip is refused, or (in a header's spare bits, say) changes no pixel."""
    damaged = bytearray(PACKED)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        got = read(scratch, damaged)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert np.array_equal(got, IMAGES)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(cut=st.integers(0, len(RAW) - 1), pack=st.sampled_from([RAW, PACKED]))
def test_a_truncated_file_never_passes_for_data(scratch, cut, pack):
    refused(ValueError, read, scratch, pack[: min(cut, len(pack) - 1)])


@settings(derandomize=True, deadline=None, max_examples=300)
@given(tail=st.binary(min_size=1, max_size=40), packed=st.booleans())
def test_an_extended_file_never_passes_for_other_data(scratch, tail, packed):
    """Zeros after a gzip are padding, as gzip itself has it; anything else is refused."""
    if packed and not tail.strip(b"\0"):
        assert np.array_equal(read(scratch, PACKED + tail), IMAGES)
    else:
        refused(ValueError, read, scratch, (PACKED if packed else RAW) + tail)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(
    at=st.integers(0, 15),
    byte=st.integers(0, 255),
    pack=st.sampled_from([bytes, partial(gzip.compress, mtime=0)]),
)
def test_a_changed_header_never_passes_for_other_data(scratch, at, byte, pack):
    damaged = bytearray(RAW)
    damaged[at] = byte
    if damaged == RAW:
        assert np.array_equal(read(scratch, pack(damaged)), IMAGES)
    else:
        refused(ValueError, read, scratch, pack(damaged))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(content=st.binary(max_size=80), magic=st.sampled_from([b"", RAW[:4], PACKED[:10]]))
def test_arbitrary_bytes_are_read_exactly_or_refused(scratch, content, magic):
    try:
        got = read(scratch, magic + content)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert idx(got) == (magic + content if magic != PACKED[:10] else gzip.decompress(magic + content))


def peak_of(call, *args, **kwargs):
    tracemalloc.start()
    try:
        message = refused(ValueError, call, *args, **kwargs)
        return tracemalloc.get_traced_memory()[1], message
    finally:
        tracemalloc.stop()


def test_a_gzip_bomb_inflates_no_further_than_its_header(tmp_path):
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb") as file:
        file.write(RAW)
        for _ in range(200):
            file.write(bytes(2**20))
    assert bomb.stat().st_size < 2**20
    peak, message = peak_of(data.read_idx, bomb)
    assert peak < 2**20 and "holds more" in message


def test_a_bomb_that_declares_itself_meets_the_cap(tmp_path):
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb") as file:
        file.write(struct.pack(">4I", 0x803, 100, 1024, 1024))
        for _ in range(100):
            file.write(bytes(2**20))
    peak, message = peak_of(data.read_idx, bomb, max_bytes=2**20)
    assert peak < 2**20 and str(2**20) in message
    assert data.read_idx(bomb).shape == (100, 1024, 1024)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_large_claim_in_a_small_file_costs_little(tmp_path, pack):
    (tmp_path / "x").write_bytes(pack(struct.pack(">4I", 0x803, 200, 1024, 1024) + b"abc"))
    peak, message = peak_of(data.read_idx, tmp_path / "x")
    assert peak < 2**22 and "holds only 3" in message


def test_the_cap_is_inclusive(tmp_path):
    assert read(tmp_path / "x", RAW, max_bytes=192).shape == IMAGES.shape
    assert "191" in refused(ValueError, read, tmp_path / "x", RAW, max_bytes=191)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "nothing")


# ------------------------------------------------------------------------------------------------- folders


def write_split(folder, prefix="train", images=IMAGES, labels=LABELS, dot="-", pack=gzip.compress, end=".gz"):
    folder.mkdir(exist_ok=True)
    (folder / f"{prefix}-images{dot}idx3-ubyte{end}").write_bytes(pack(idx(images)))
    (folder / f"{prefix}-labels{dot}idx1-ubyte{end}").write_bytes(pack(idx(labels)))
    return folder


@pytest.mark.parametrize("dot", "-.")
@pytest.mark.parametrize("pack, end", [(gzip.compress, ".gz"), (bytes, ""), (gzip.compress, "")])
@pytest.mark.parametrize("split, prefix", [("train", "train"), ("test", "t10k")])
def test_a_folder_of_idx_files(tmp_path, dot, pack, end, split, prefix):
    x, labels = data.idx_folder(write_split(tmp_path, prefix, dot=dot, pack=pack, end=end), split)
    assert x.shape == (6, 4, 8, 1) and x.dtype == np.float32
    assert np.abs(x[..., 0] - (IMAGES / 127.5 - 1)).max() < 1e-6 and np.abs(x).max() <= 1
    assert labels.dtype == np.int64 and labels.tolist() == LABELS.tolist()
    assert np.array_equal(data.to_uint8(x)[..., 0], IMAGES)


def test_the_ends_of_the_scale_are_exact(tmp_path):
    ends = np.array([0, 255, 0, 255], np.uint8).reshape(1, 2, 2)
    x, _ = data.idx_folder(write_split(tmp_path, images=ends, labels=LABELS[:1]), "train")
    assert x.ravel().tolist() == [-1, 1, -1, 1]


def test_a_folder_says_what_it_looked_for(tmp_path):
    assert "--data" in refused(FileNotFoundError, data.idx_folder, tmp_path / "no", "train")
    message = refused(FileNotFoundError, data.idx_folder, tmp_path, "test")
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte ", "t10k-images.idx3-ubyte", "--data"):
        assert name in message
    write_split(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    assert "train-labels-idx1-ubyte.gz" in refused(FileNotFoundError, data.idx_folder, tmp_path, "train")


@pytest.mark.parametrize("have, want", [("train", "test"), ("t10k", "train")])
def test_a_folder_with_the_other_split_says_so(tmp_path, have, want):
    write_split(tmp_path, have)
    other = {"train": "test", "test": "train"}[want]
    assert f"use --split {other}" in refused(FileNotFoundError, data.idx_folder, tmp_path, want)


@pytest.mark.parametrize("kwargs, says", [
    ({"labels": LABELS[:5]}, "per image, 6"),
    ({"labels": np.array([0, 1, 2, 3, 4, 10], np.uint8)}, "the label 10"),
    ({"labels": IMAGES}, "per image, 6"),
    ({"images": LABELS}, "(N, H, W)"),
    ({"images": IMAGES[:, :3]}, "8x3"),
    ({"images": IMAGES[:, :, :7]}, "7x4"),
])  # fmt: skip
def test_files_that_do_not_belong_together_are_refused(tmp_path, kwargs, says):
    message = refused(ValueError, data.idx_folder, write_split(tmp_path, **kwargs), "train")
    assert says in message and str(tmp_path) in message


def test_an_unknown_split_or_set_is_refused(tmp_path):
    assert "'train' or 'test'" in refused(ValueError, data.idx_folder, tmp_path, "val")
    assert "'train' or 'test'" in refused(ValueError, data.download, "mnist", "val")
    assert "fashion-mnist" in refused(ValueError, data.download, "cifar", "train")
    assert "fashion-mnist" in refused(ValueError, data.load, "cifar")
    assert "--data" in refused(ValueError, data.load, "images")


# ----------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def mirrors(tmp_path, monkeypatch):
    """Two mirrors on this machine with a small MNIST whose sums are known; the cache is a scratch folder."""
    pooch = pytest.importorskip("pooch")
    pages = tmp_path / "pages"
    pages.mkdir()
    for mirror in ("first", "second"):
        write_split(write_split(pages / mirror), "t10k", images=IMAGES[:2], labels=LABELS[:2])
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=pages))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setitem(data.MIRRORS, "mnist", (f"{at}/first", f"{at}/second"))
    sums = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in (pages / "first").iterdir()}
    monkeypatch.setitem(data.SHA256, "mnist", sums)
    yield pages, asked
    server.shutdown()
    server.server_close()


def test_a_split_is_downloaded_once(mirrors, tmp_path):
    _, asked = mirrors
    x, labels = data.load("mnist")
    assert np.array_equal(data.to_uint8(x)[..., 0], IMAGES) and labels.tolist() == LABELS.tolist()
    assert sorted(asked) == ["/first/train-images-idx3-ubyte.gz", "/first/train-labels-idx1-ubyte.gz"]
    data.load("mnist", split="train")
    assert len(asked) == 2
    assert len(data.load("mnist", split="test")[0]) == 2
    assert {f.name for f in (tmp_path / "cache/tinydiff/mnist").iterdir()} == set(data.SHA256["mnist"])


def test_the_second_mirror_stands_in_for_the_first(mirrors):
    pages, asked = mirrors
    (pages / "first/train-images-idx3-ubyte.gz").unlink()
    (pages / "first/train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[::-1])))
    assert data.load("mnist")[1].tolist() == LABELS.tolist()
    assert [path.split("/")[1] for path in asked].count("second") == 2


def test_a_wrong_sum_leaves_nothing_behind(mirrors, tmp_path):
    pages, _ = mirrors
    for mirror in ("first", "second"):
        (pages / mirror / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES[::-1])))
    message = refused(OSError, data.load, "mnist")
    assert message.count("wrong checksum") == 2 and "could not download train-images" in message
    assert "/first" in message and "/second" in message and "--data" in message
    left = {f.name for f in (tmp_path / "cache/tinydiff/mnist").iterdir()}
    assert left <= {"train-labels-idx1-ubyte.gz"}


def test_a_spoilt_cache_is_not_trusted(mirrors, tmp_path):
    pages, _ = mirrors
    good = data.download("mnist", "train") / "train-images-idx3-ubyte.gz"
    good.write_bytes(gzip.compress(idx(IMAGES[::-1])))
    assert np.array_equal(data.to_uint8(data.load("mnist")[0])[..., 0], IMAGES)
    good.write_bytes(gzip.compress(idx(IMAGES[::-1])))
    for mirror in ("first", "second"):
        (pages / mirror / good.name).unlink()
    for _ in range(2):
        assert "HTTPError" in refused(OSError, data.load, "mnist")


def test_no_network_is_one_line(mirrors, monkeypatch):
    # Port 9 of this machine: nobody answers there.
    monkeypatch.setitem(data.MIRRORS, "mnist", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))
    message = refused(OSError, data.load, "mnist")
    assert "/a (ConnectionError)" in message and "/b (ConnectionError)" in message


def test_a_folder_needs_no_network(mirrors, tmp_path):
    _, asked = mirrors
    assert len(data.load("fashion-mnist", write_split(tmp_path / "mine"), "train")[0]) == 6
    assert not asked


def test_every_archive_has_its_sum_and_two_mirrors():
    for name in ("mnist", "fashion-mnist"):
        assert len(set(data.MIRRORS[name])) == 2
        kinds = "images-idx3", "labels-idx1"
        assert set(data.SHA256[name]) == {data._names(s, kind)[0] for s in data.PREFIX for kind in kinds}
        assert all(len(bytes.fromhex(s)) == 32 for s in data.SHA256[name].values())
    assert len({s for sums in data.SHA256.values() for s in sums.values()}) == 8


# ----------------------------------------------------------------------------------------- your own images

GREY = np.random.default_rng(1).integers(256, size=(3, 4, 6), dtype=np.uint8)
RGB = np.random.default_rng(2).integers(256, size=(3, 4, 6, 3), dtype=np.uint8)


def draw(folder, pictures, suffix=".png"):
    folder.mkdir(exist_ok=True)
    for name, pixels in zip("abcdefgh", pictures, strict=False):
        Image.fromarray(pixels).save(folder / f"{name}{suffix}")
    return folder


@pytest.mark.parametrize("pictures", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("suffix", [".png", ".BMP", ".tiff"])
def test_a_folder_of_pictures(tmp_path, pictures, suffix):
    x, labels = data.load("images", draw(tmp_path, pictures, suffix))
    assert x.dtype == np.float32 and x.shape == (3, 4, 6, pictures[0].size // 24) and labels is None
    assert np.array_equal(data.to_uint8(x).reshape(pictures.shape), pictures)


def test_a_jpeg_is_read_and_others_are_passed_over(tmp_path):
    draw(tmp_path, [np.full((4, 6, 3), 128, np.uint8)], ".jpg")
    (tmp_path / "README.txt").write_text("mine")
    (tmp_path / "._a.jpg").write_bytes(b"a desktop's note")
    x = data.own_images(tmp_path)
    assert x.shape == (1, 4, 6, 3) and np.abs(x).max() < 0.05


def test_pictures_come_in_the_order_of_their_names(tmp_path):
    for name, pixels in (("b", GREY[1]), ("a", GREY[0]), ("c", GREY[2])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    assert np.array_equal(data.to_uint8(data.own_images(tmp_path))[..., 0], GREY)


def test_palettes_and_two_colours_are_read(tmp_path):
    few = (RGB[0] // 128) * 255
    Image.fromarray(few).quantize(8).save(tmp_path / "a.png")
    assert np.array_equal(data.to_uint8(data.own_images(tmp_path))[0], few)
    black = (GREY[0] > 127).astype(np.uint8) * 255
    Image.fromarray(black).convert("1").save(tmp_path / "a.png")
    assert np.array_equal(data.to_uint8(data.own_images(tmp_path))[0, ..., 0], black)


def test_a_turned_photograph_is_turned_back(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    Image.fromarray(GREY[0]).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(data.to_uint8(data.own_images(tmp_path))[0, ..., 0], np.rot90(GREY[0], -1))


def test_the_odd_picture_out_is_named(tmp_path):
    draw(tmp_path, [GREY[0][:, :4], GREY[1], GREY[2]])
    message = refused(ValueError, data.own_images, tmp_path)
    assert "a.png" in message and "(4, 4, 1)" in message and "(4, 6, 1)" in message
    draw(tmp_path, [GREY[0], RGB[1], GREY[2]])
    message = refused(ValueError, data.own_images, tmp_path)
    assert "b.png" in message and "(4, 6, 3)" in message


@pytest.mark.parametrize("spoil", [
    lambda content: b"",
    lambda content: b"not a picture",
    lambda content: content[: len(content) // 2],
    lambda content: content[:60] + bytes([content[60] ^ 0xFF]) + content[61:],
])  # fmt: skip
def test_an_unreadable_picture_is_named(tmp_path, spoil):
    draw(tmp_path, np.random.default_rng(0).integers(256, size=(2, 32, 32), dtype=np.uint8))
    (tmp_path / "b.png").write_bytes(spoil((tmp_path / "b.png").read_bytes()))
    assert "b.png: not a readable image" in refused(ValueError, data.own_images, tmp_path)


def test_pixels_that_are_neither_grey_nor_rgb_are_refused(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(RGB[0]).convert("RGBA").save(file)
    assert "a.png: its pixels are RGBA" in refused(ValueError, data.own_images, tmp_path)
    Image.fromarray(GREY[0]).save(file, transparency=0)
    assert "transparent" in refused(ValueError, data.own_images, tmp_path)
    Image.fromarray(GREY[0].astype(np.uint16) * 257).save(file)
    assert "I;16" in refused(ValueError, data.own_images, tmp_path)


def test_odd_sides_are_refused(tmp_path):
    assert "6x3" in refused(ValueError, data.own_images, draw(tmp_path, GREY[:, :3]))
    np.save(tmp_path / "x.npy", GREY[:, :, :5])
    assert "crop or pad" in refused(ValueError, data.own_images, tmp_path / "x.npy")


def test_a_place_without_images_is_refused(tmp_path):
    assert ".png" in refused(ValueError, data.own_images, tmp_path)
    assert "--data" in refused(FileNotFoundError, data.own_images, tmp_path / "no")
    (tmp_path / "x.mat").write_bytes(b"x")
    assert "x.mat" in refused(ValueError, data.own_images, tmp_path / "x.mat")


@pytest.mark.parametrize("array", [GREY, RGB, RGB[..., :1], np.asfortranarray(RGB)])
def test_an_array_of_bytes(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    x = data.own_images(tmp_path / "x.npy")
    assert type(x) is np.ndarray and x.dtype == np.float32 and x.flags.c_contiguous and x.flags.writeable
    assert x.shape == (array if array.ndim == 4 else array[..., None]).shape
    assert np.array_equal(data.to_uint8(x).reshape(array.shape), array)


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8"])
def test_an_array_of_floats_is_taken_as_it_is(tmp_path, dtype):
    array = np.linspace(-1, 1, 48).reshape(2, 4, 6).astype(dtype)
    np.save(tmp_path / "x.npy", np.asfortranarray(array))
    x = data.own_images(tmp_path / "x.npy")
    assert type(x) is np.ndarray and x.dtype == np.float32 and x.flags.c_contiguous
    assert np.array_equal(x[..., 0], array.astype(np.float32))


def one_bad(value):
    array = np.zeros((2, 4, 4))
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize("array, says", [
    (np.zeros((4, 4)), "(4, 4)"),
    (np.zeros((1, 2, 4, 4, 3)), "(1, 2, 4, 4, 3)"),
    (np.zeros((2, 3, 4, 4)), "(2, 3, 4, 4)"),                       # channels first
    (np.zeros((0, 4, 4)), "(0, 4, 4, 1)"),
    (np.zeros((2, 0, 4)), "(2, 0, 4, 1)"),
    (np.zeros((2, 4, 4), np.int64), "int64"),
    (np.zeros((2, 4, 4), bool), "bool"),
    (np.zeros((2, 4, 4), complex), "complex"),
    (one_bad(np.nan), "finite"),
    (one_bad(np.inf), "finite"),
    (one_bad(-np.inf), "finite"),
    (one_bad(1.001), "[-1, 1]"),
    (one_bad(-1.001), "[-1, 1]"),
])  # fmt: skip
def test_an_array_of_the_wrong_kind_is_refused(tmp_path, array, says):
    np.save(tmp_path / "x.npy", array)
    message = refused(ValueError, data.own_images, tmp_path / "x.npy")
    assert says in message and "x.npy" in message


class Trap:
    """Unpickling it would be seen."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[[Trap()]]], dtype=object), allow_pickle=True)
    assert "x.npy: not a readable" in refused(ValueError, data.own_images, tmp_path / "x.npy")


def npy_header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_other_files_named_npy_are_refused(tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, GREY)
    good = file.read_bytes()
    with open(tmp_path / "z.npz", "wb") as zipped:
        np.savez(zipped, x=GREY)
    huge = [npy_header((10**9, 4, 6)), npy_header((10**30, 4, 6)), npy_header((-3, 4, 6))]
    long_header = b"\x93NUMPY\x02\0" + struct.pack("<I", 20_000) + b" " * 20_000
    zipped = (tmp_path / "z.npz").read_bytes()
    for content in (b"", b"text\n", good[:6], good[:50], good[:-1], zipped, *huge, long_header):
        file.write_bytes(content)
        peak, message = peak_of(data.own_images, file)
        assert "x.npy: not a readable .npy array" in message and peak < 2**20


@settings(derandomize=True, deadline=None, max_examples=300)
@given(at=st.integers(0, 127), byte=st.integers(0, 255))
def test_a_spoilt_npy_header_is_refused_or_harmless(scratch, at, byte):
    file = scratch.with_suffix(".npy")
    np.save(file, GREY)
    damaged = bytearray(file.read_bytes())
    damaged[at] = byte
    file.write_bytes(damaged)
    try:
        x = data.own_images(file)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(x).all() and np.abs(x).max() <= 1


# ---------------------------------------------------------------------------------------------- small change


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bytes_come_back_exactly(dtype):
    byte = np.arange(256)
    assert np.array_equal(data.to_uint8((byte / 127.5 - 1).astype(dtype)), byte)


def test_display_rounds_and_clips():
    x = np.array([-7, -1, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1, 1.01, np.inf, -np.inf])
    got = data.to_uint8(x)
    assert got.dtype == np.uint8 and got.tolist() == [0, 0, 0, 1, 255, 255, 255, 0]
    assert data.to_uint8(np.zeros((2, 3, 1), np.float32)).shape == (2, 3, 1)
    assert "NaN" in refused(ValueError, data.to_uint8, [0.0, np.nan])


def test_importing_data_brings_in_neither_pooch_nor_pillow():
    lines = "import sys, tinydiff.data; print([m for m in ('pooch', 'PIL', 'requests') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
