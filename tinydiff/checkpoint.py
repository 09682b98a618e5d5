"""A run in one file: named arrays and a few words about them, in the safetensors format.

The arrays are the leaves of parameter trees, each under its path ("params.down.0.halve.w"); the words are one JSON
object in the file's header, with a checksum of every array, for the format has none. A file is written beside the old
one and moved into its place when it is whole.
"""
import json
import zlib

import numpy as np

from . import files
from .tensor import tree

FORMAT = "tinydiff 1"


def save(path, trees, words):
    """Write `trees`, a dict of trees of NumPy arrays, and `words`, what JSON can say. The old file stays until then."""
    import safetensors.numpy

    # safetensors writes a strided array's memory, not its numbers: lay each out first
    flat = {name: np.asarray(leaf, order="C") for name, leaf in tree.flatten(trees).items()}
    sums = {name: zlib.crc32(leaf) for name, leaf in flat.items()}
    header = {"format": FORMAT, "words": json.dumps(words), "crc32": json.dumps(sums)}
    content = safetensors.numpy.save(flat, header)
    with files.write_aside(path) as aside:  # not save_file, whose full disk is no OSError
        aside.write_bytes(content)


def load(path):
    """(trees, words) as saved. Raises ValueError for a file that is not such a checkpoint, OSError if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            header = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint at {path}") from None
    except SafetensorError as problem:
        raise ValueError(f"{path} is not a whole checkpoint ({str(problem).splitlines()[0]})") from None
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has format {header.get('format')!r}, this version reads {FORMAT!r}; train it again")
    try:
        words, sums = json.loads(header["words"]), json.loads(header["crc32"])
    except (KeyError, json.JSONDecodeError):
        raise ValueError(f"{path} is not a whole checkpoint (its description cannot be read)") from None
    for name, leaf in flat.items():
        if not isinstance(sums, dict) or zlib.crc32(leaf) != sums.get(name):
            raise ValueError(f"{path} is damaged: tensor {name} is not what was saved; use an older copy")
    return tree.unflatten(flat), words


def check_like(path, got, wanted):
    """Raise ValueError unless the trees agree in names, shapes and types: a missing or misshapen tensor is named."""
    try:
        got, wanted = tree.flatten(got), tree.flatten(wanted)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}; the file is damaged") from None
    for name in [*wanted, *got]:
        if name not in got or name not in wanted:
            problem = "is missing" if name not in got else "does not belong to this network"
            raise ValueError(f"{path}: tensor {name} {problem}; the file is from another network or damaged")
        if got[name].shape != wanted[name].shape or got[name].dtype != wanted[name].dtype:
            raise ValueError(
                f"{path}: tensor {name} is {got[name].dtype}{list(got[name].shape)}, "
                f"this network has {wanted[name].dtype}{list(wanted[name].shape)}"
            )
