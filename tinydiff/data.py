"""Data: five toy sets in the plane, MNIST and Fashion-MNIST, and your own images.

Wherever it comes from, a network meets float32 in data units: points (N, 2) centred on the origin, or images
(N, H, W, C), both within about [-1, 1]. What comes from a file is checked here, once, and nowhere else.
"""

import gzip
import math
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

# ------------------------------------------------------------------------------------- points in the plane

# The standard deviation of the Gaussian that blurs each set, in data units.
NOISE = {"spiral": 0.04, "moons": 0.05, "gaussians": 0.08, "circles": 0.05}
CELL = 0.5


def spiral(n, rng):
    """A swiss roll: one arm, r ∝ θ, θ uniform in [3π/2, 9π/2], blurred by N(0, 0.04² I). (n, 2) float32."""
    return _along("spiral", n, rng)


def moons(n, rng):
    """Two half circles of radius 0.6 reaching into one another, blurred by N(0, 0.05² I). (n, 2) float32."""
    return _along("moons", n, rng)


def circles(n, rng):
    """Rings of radius 0.45 and 0.9, equally likely, blurred by N(0, 0.05² I). (n, 2) float32."""
    return _along("circles", n, rng)


def gaussians(n, rng):
    """Eight Gaussians N(μ_k, 0.08² I), equally likely, the μ_k on a ring of radius 0.8. (n, 2) float32."""
    _, means, _ = mixture("gaussians")
    return _blur(means[rng.integers(len(means), size=n)], "gaussians", rng)


def checkerboard(n, rng):
    """Uniform on the eight dark cells of a 4 x 4 board that fills [-1, 1]². (n, 2) float32."""
    row = rng.integers(4, size=n)
    column = 2 * rng.integers(2, size=n) + row % 2
    # Multiples of 2^-22 of a cell: float32 holds them exactly, so that no point is rounded over an edge.
    within = rng.integers(2**22, size=(n, 2)) / 2**22
    return (CELL * (np.stack([column, row], axis=1) + within) - 1).astype(np.float32)


TOYS = {f.__name__: f for f in (spiral, moons, gaussians, checkerboard, circles)}


def mixture(name):
    """The mixture of equally wide Gaussians that a toy set is: p(x) = Σ_k w_k N(x; μ_k, σ² I).

    `gaussians` is one by definition. A blurred curve c is the integral ∫ N(x; c(u), σ² I) du, and 1024
    Gauss-Legendre nodes, many to each stretch of length σ, give it to rounding: 1e-12 of the density's peak.

    name   : 'gaussians', 'spiral', 'moons' or 'circles'.
    Returns: weights (K,), summing to 1; means (K, 2), data units; var = σ². K is 8, or 1024 for a curve.
    Raises : ValueError for 'checkerboard', which is no such mixture, and for unknown names.
    """
    if name not in NOISE:
        raise ValueError(f"{name!r} is no mixture of Gaussians; wanted one of: {', '.join(NOISE)}")
    if name == "gaussians":
        angle = 2 * np.pi * np.arange(8) / 8
        weights, means = np.full(8, 1 / 8), 0.8 * _unit(angle)
    else:
        curve, pieces = CURVES[name]
        u, weight = _gauss_legendre(panels=64 // pieces)
        weights = np.tile(weight / pieces, pieces)
        means = np.concatenate([curve(u, np.full(len(u), piece)) for piece in range(pieces)])
    return weights, means, NOISE[name] ** 2


def density(name):
    """The exact density of a toy set with respect to area, ∫ p(x) dx = 1.

        mixtures     : p(x) = Σ_k w_k exp(-|x - μ_k|² / 2σ²) / 2πσ², see `mixture`
        checkerboard : p(x) = 1 / (8 · 0.5²) on a dark cell, else 0

    name   : a key of TOYS.
    Returns: a function from x (..., 2), data units, to p (...,), float64.
    Raises : ValueError for an unknown name; the function raises it unless the last axis of x is 2.
    """
    if name not in TOYS:
        raise ValueError(f"no density for {name!r}; wanted one of: {', '.join(TOYS)}")
    p = _checkerboard_density if name == "checkerboard" else _mixture_density(*mixture(name))

    def checked(x):
        x = np.asarray(x, dtype=np.float64)
        if x.shape[-1:] != (2,):
            raise ValueError(f"a density wants points of shape (..., 2), got {x.shape}")
        return p(x)

    return checked


def _checkerboard_density(x):
    cell = np.floor((x + 1) / CELL)
    on_board = ((cell >= 0) & (cell < 4)).all(axis=-1)
    dark = cell.sum(axis=-1) % 2 == 0
    return np.where(on_board & dark, 1 / (8 * CELL**2), 0.0)


def _mixture_density(weights, means, var):
    def p(x):
        total = np.zeros(x.shape[:-1])
        # One Gaussian at a time: a fine grid against a thousand of them at once would fill the memory.
        for weight, mean in zip(weights, means, strict=True):
            total += weight * np.exp(((x - mean) ** 2).sum(axis=-1) / (-2 * var))
        return total / (2 * np.pi * var)

    return p


def _roll(u, piece):
    theta = np.pi * (1.5 + 3 * u)
    # The mean of θ (cos θ, sin θ) over [3π/2, 9π/2], in closed form: it puts the origin at the arm's mean.
    mean = np.array([2, 2 / (3 * np.pi)])
    return (theta[:, None] * _unit(theta) - mean) / (4.5 * np.pi)


def _moon(u, piece):
    # The second moon is the first one turned by half a turn about the origin, which is therefore the mean.
    upper = 0.6 * (_unit(np.pi * u) - np.array([0.5, 0.25]))
    return np.where(piece[:, None] == 0, upper, -upper)


def _ring(u, piece):
    return 0.45 * (piece[:, None] + 1) * _unit(2 * np.pi * u)


# name: (c(u, piece) for u uniform in [0, 1], the number of pieces, which are equally likely)
CURVES = {"spiral": (_roll, 1), "moons": (_moon, 2), "circles": (_ring, 2)}


def _unit(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _along(name, n, rng):
    curve, pieces = CURVES[name]
    return _blur(curve(rng.random(n), rng.integers(pieces, size=n)), name, rng)


def _blur(points, name, rng):
    return (points + NOISE[name] * rng.standard_normal(points.shape)).astype(np.float32)


def _gauss_legendre(panels):
    """Nodes and weights on [0, 1]: `panels` equal stretches with 16 nodes each."""
    node, weight = np.polynomial.legendre.leggauss(16)
    u = (np.arange(panels)[:, None] + (node + 1) / 2) / panels
    return u.ravel(), np.tile(weight / 2 / panels, panels)


# --------------------------------------------------------------------------------- MNIST and Fashion-MNIST

MAX_BYTES = 256 * 2**20  # the largest of the files below holds 47 million
PREFIX = {"train": "train", "test": "t10k"}

# Tried in order. It is the sums that vouch for a file, so a mirror without TLS will do.
MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    ),
}
SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}


def read_idx(path, *, max_bytes=MAX_BYTES):
    """One IDX file of unsigned bytes, raw or gzip (its first bytes tell which, not its name).

    Two zero bytes, the type 0x08, the number of dimensions, each dimension as four bytes with the most
    significant first, then exactly as many bytes as they call for.

    Source : LeCun, Cortes and Burges, The MNIST database of handwritten digits, "File formats".
    max_bytes : the most to accept. Never is more unpacked than the header declares, give or take a buffer.
    Returns: uint8, (N,) for labels, (N, H, W) for images.
    Raises : ValueError if the file is damaged, truncated, too long or too large; OSError if it will not open.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            return _read_stream(gzip.GzipFile(fileobj=file) if packed else file, path, max_bytes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: damaged gzip ({_one_line(error)}); fetch it again") from error


def _read_stream(stream, path, max_bytes):
    magic = stream.read(4)
    if magic not in (b"\0\0\x08\x01", b"\0\0\x08\x03"):
        raise ValueError(f"{path}: not IDX bytes; starts {magic.hex()!r}, wanted 00000801 or 00000803")
    ndim = magic[3]
    header = stream.read(4 * ndim)
    if len(header) < 4 * ndim:
        raise ValueError(f"{path}: ends within its header; fetch it again")
    shape = struct.unpack(f">{ndim}I", header)
    size = math.prod(shape)
    if not 0 < size <= max_bytes:
        raise ValueError(f"{path}: declares the shape {shape}; wanted between 1 and {max_bytes} bytes")
    payload = bytearray()
    # In pieces: a short file that declares a large shape costs no more than what it holds.
    while len(payload) <= size and (piece := stream.read(min(2**20, size + 1 - len(payload)))):
        payload += piece
    if len(payload) != size:
        held = "more" if len(payload) > size else f"only {len(payload)}"
        raise ValueError(f"{path}: declares {size} bytes but holds {held}; fetch it again")
    return np.frombuffer(payload, np.uint8).reshape(shape)


def idx_folder(folder, split):
    """Images and labels of one split, from a folder of IDX files under their usual names.

    folder : holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, ...; .gz at the
             end and .idx for -idx are welcome. Where there are several, the .gz is read, whose sum guards it.
    split  : 'train' or 'test' (the files named t10k).
    Returns: images (N, H, W, 1) float32 in [-1, 1], x = byte/127.5 - 1; labels (N,) int64 in 0..9.
    Raises : FileNotFoundError, with the names looked for; ValueError for damaged or mismatched files.
    """
    folder = Path(folder)
    _check_split(split)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give --data the folder that holds the IDX files")
    image_file, label_file = (_find(folder, split, kind) for kind in ("images-idx3", "labels-idx1"))
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3:
        raise ValueError(f"{image_file}: got the shape {images.shape}; wanted images, (N, H, W)")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{label_file}: got the shape {labels.shape}; wanted one per image, {len(images)}")
    if labels.max() > 9:
        raise ValueError(f"{label_file}: got the label {labels.max()}; wanted 0..9")
    return _data_units(images[..., None], image_file), labels.astype(np.int64)


def _find(folder, split, kind):
    names = _names(split, kind)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    missing = f"{folder}: no {' or '.join(names)}"
    other = "test" if split == "train" else "train"
    if any((folder / name).is_file() for name in _names(other, kind)):
        raise FileNotFoundError(f"{missing}, only the {other} split; use --split {other}")
    raise FileNotFoundError(f"{missing}; give another folder with --data")


def _names(split, kind):
    name = f"{PREFIX[split]}-{kind}-ubyte"
    dotted = name.replace("-idx", ".idx")
    return [f"{name}.gz", name, f"{dotted}.gz", dotted]


def download(name, split):
    """Fetch one split of MNIST or Fashion-MNIST into the user's cache, unless it is there already.

    Each file must have its SHA-256 sum, from the cache too; a download enters the cache only with it.

    name   : 'mnist' or 'fashion-mnist'; split: 'train' or 'test'.
    Returns: the folder, for `idx_folder`.
    Raises : OSError if no mirror gives the right file; ValueError for an unknown name or split.
    """
    import pooch

    if name not in SHA256:
        raise ValueError(f"nothing to download for {name!r}; wanted one of: {', '.join(SHA256)}")
    _check_split(split)
    folder = Path(pooch.os_cache("tinydiff")) / name
    for file, sha256 in SHA256[name].items():
        if file.startswith(PREFIX[split]):
            _fetch(MIRRORS[name], file, sha256, folder)
    return folder


def _fetch(mirrors, file, sha256, folder):
    import pooch

    pooch.get_logger().setLevel("WARNING")  # a bar will do: its notes would stand before our one line
    chosen = {"known_hash": f"sha256:{sha256}", "fname": file, "path": folder, "progressbar": sys.stderr.isatty()}
    tried = []
    for mirror in mirrors:
        try:
            return pooch.retrieve(f"{mirror}/{file}", **chosen)
        except (OSError, ValueError) as error:
            # pooch's ValueError is a wrong sum; of the others the name says enough, their text runs on.
            wrong_sum = isinstance(error, ValueError) and not isinstance(error, OSError)
            tried.append(f"{mirror} ({'wrong checksum' if wrong_sum else type(error).__name__})")
    raise OSError(f"could not download {file}; tried {', '.join(tried)}; give a folder with --data")


# ----------------------------------------------------------------------------------------- your own images

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def own_images(path):
    """Images from a folder of pictures, in the order of their names, or from one .npy array.

    path   : a folder of equally large grey or RGB pictures (hidden files and other suffixes are passed over),
             or a .npy array (N, H, W) or (N, H, W, C), C = 1 or 3, of uint8 or of floats in [-1, 1].
    Returns: (N, H, W, C) float32 in [-1, 1], H and W even; bytes become x = byte/127.5 - 1.
    Raises : FileNotFoundError, or ValueError naming the file at fault.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give --data a folder of images or a .npy file")
    if path.is_dir():
        return _data_units(_read_pictures(path), path)
    if path.suffix.lower() == ".npy":
        return _data_units(_read_npy(path), path)
    raise ValueError(f"{path} is neither a folder of images nor a .npy file")


def picture(file, shape):
    """One picture (H, W, C) of the given shape, float32 in [-1, 1]: grey becomes RGB where that is wanted.

    Raises : FileNotFoundError, or ValueError for what is no picture, or one of another size.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"no file {file}; give a picture")
    pixels = _read_picture(Path(file))
    if pixels.shape[2] == 1 and shape[2] == 3:
        pixels = pixels.repeat(3, axis=2)
    if pixels.shape != tuple(shape):
        (h, w, c), (height, width, channels) = pixels.shape, shape
        got, wanted = f"{w}x{h} of {c} channels", f"{width}x{height} of {channels}"
        raise ValueError(f"{file}: got {got}, wanted {wanted}; crop it, or save it as grey")
    return _data_units(pixels[None], file)[0]


def _read_npy(path):
    try:
        # Mapped: a header that declares more than the file holds is refused before anything is allocated.
        images = np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except Exception as error:  # the header is parsed as Python, and a damaged one can fail in any way
        raise ValueError(f"{path}: not a readable .npy array ({_one_line(error)})") from error
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.size == 0:
        raise ValueError(f"{path}: got the shape {images.shape}; wanted (N, H, W) or (N, H, W, 1 or 3)")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise ValueError(f"{path}: got {images.dtype}; wanted uint8, or floats in [-1, 1]")
    # Not `max() > 1`, which NaN would pass.
    if images.dtype.kind == "f" and not np.abs(images).max() <= 1:
        raise ValueError(f"{path}: floats must be finite and in [-1, 1]; rescale them, or save uint8")
    return images


def _read_pictures(folder):
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} holds no images; looked for {' '.join(SUFFIXES)}")
    pictures = [_read_picture(file) for file in files]
    (usual, _), *_ = Counter(picture.shape for picture in pictures).most_common(1)
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != usual:
            raise ValueError(f"{file}: (H, W, C) is {picture.shape}, but most are {usual}; make them alike")
    return np.stack(pictures)


def _read_picture(file):
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            # Cameras store what the sensor saw, with a note on how to turn it.
            picture = ImageOps.exif_transpose(picture)
    except Exception as error:  # each of Pillow's decoders fails in its own way
        raise ValueError(f"{file}: not a readable image ({_one_line(error)})") from error
    mode = "transparent" if "transparency" in picture.info else picture.mode
    if mode in ("1", "L"):
        return np.array(picture.convert("L"))[..., None]
    if mode in ("P", "RGB"):
        return np.array(picture.convert("RGB"))
    raise ValueError(f"{file}: its pixels are {mode}; save it as grey or RGB, 8 bits, without transparency")


# ------------------------------------------------------------------------------------------------ the door


def load(name, folder=None, split="train"):
    """Images, and labels where there are any: from `folder` if given, else downloaded.

    name   : 'mnist', 'fashion-mnist', or 'images' for your own, which need `folder` and have no splits.
    Returns: x (N, H, W, C) float32 in [-1, 1]; labels (N,) int64, or None.
    Raises : ValueError or OSError, as `idx_folder`, `download` and `own_images` do.
    """
    if name == "images":
        if folder is None:
            raise ValueError("your own images: give --data a folder of images or a .npy file")
        return own_images(folder), None
    if name not in SHA256:
        raise ValueError(f"unknown data {name!r}; wanted one of: {', '.join(SHA256)}, images")
    return idx_folder(download(name, split) if folder is None else folder, split)


def to_uint8(x):
    """round(127.5 (x + 1)), clipped to 0..255: a quantiser for display, not for likelihoods.

    x      : any shape, data units; what was read from bytes comes back exactly.
    Raises : ValueError on NaN.
    """
    x = np.asarray(x)
    if np.isnan(x).any():
        raise ValueError("NaN has no grey value; wanted a finite picture")
    return np.clip(np.rint(127.5 * (x + 1)), 0, 255).astype(np.uint8)


def _data_units(images, path):
    height, width = images.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: got {width}x{height}; the U-Net halves images: crop or pad to even sides")
    x = images.astype(np.float32, order="C")
    if images.dtype == np.uint8:
        # In place: sixty thousand images need no second copy.
        x /= 127.5
        x -= 1
    return x


def _check_split(split):
    if split not in PREFIX:
        raise ValueError(f"unknown split {split!r}; wanted 'train' or 'test'")


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__
