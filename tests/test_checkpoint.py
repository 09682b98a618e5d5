"""Checkpoints: what is saved comes back, what is damaged is refused, and the old file outlives any accident."""
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from tinydiff import checkpoint, files
from tinydiff.tensor import tree

RNG = np.random.default_rng(0)
TREES = {
    "params": {"b": np.ones(3), "down": [{"w": RNG.standard_normal((3, 4), "f4")}, {"w": np.zeros((2, 1), "f4")}]},
    "m": np.arange(5, dtype="f4"),
}
WORDS = {"step": 7, "seconds": 1.25, "config": {"name": "a β and a \N{SNOWMAN}", "list": [1, None, 2.5]}}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, TREES, WORDS)
    return path


def refused(path, kind=ValueError):
    """The refusal, which is one line and names the file."""
    with pytest.raises(kind) as info:
        checkpoint.load(path)
    message = str(info.value)
    assert str(path) in message and "\n" not in message
    return message


def same(left, right):
    left, right = tree.flatten(left), tree.flatten(right)
    assert sorted(left) == sorted(right)
    for name in left:
        assert left[name].dtype == right[name].dtype and left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


def test_what_is_saved_comes_back(saved):
    trees, words = checkpoint.load(saved)
    same(trees, TREES)
    assert words == WORDS


def test_every_bit_comes_back(tmp_path):
    """Infinities, a NaN with a payload, both zeros, the smallest number: bits, not values."""
    odd = np.array([np.inf, -np.inf, -0.0, 0.0, 1e-45, 3.4e38], "f4")
    odd = np.append(odd, np.array([0x7FC12345], np.uint32).view("f4"))
    checkpoint.save(tmp_path / "c", {"params": odd}, {})
    same(checkpoint.load(tmp_path / "c")[0], {"params": odd})


@pytest.mark.parametrize(
    "leaf",
    [np.arange(6.0).reshape(2, 3).T, np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(9.0)[::-2]]
    + [np.broadcast_to(np.float32(3), (2, 2)), np.array(5.0), np.zeros((0, 3))],
    ids=["transposed", "Fortran", "strided", "broadcast", "a single number", "empty"],
)
def test_numbers_are_saved_however_they_lie_in_memory(tmp_path, leaf):
    checkpoint.save(tmp_path / "c", {"params": {"w": leaf}}, {})
    got = checkpoint.load(tmp_path / "c")[0]["params"]["w"]
    assert got.shape == leaf.shape and np.array_equal(got, leaf)


def test_more_than_ten_blocks_stay_in_order(tmp_path):
    blocks = [np.full(2, i) for i in range(12)]
    checkpoint.save(tmp_path / "c", {"params": blocks}, {})
    same(checkpoint.load(tmp_path / "c")[0], {"params": blocks})


def test_others_can_read_it(saved):
    """A plain safetensors file: names are paths, and it may be read by whoever may read its folder."""
    flat = safetensors.numpy.load_file(saved)
    assert set(flat) == {"params.down.0.w", "params.down.1.w", "params.b", "m"}
    (saved.parent / "plain").write_bytes(b"")
    assert saved.stat().st_mode == (saved.parent / "plain").stat().st_mode


def test_a_missing_file_is_a_missing_file(tmp_path):
    assert "no checkpoint" in refused(tmp_path / "nothing", FileNotFoundError)


def test_a_truncated_file_is_refused_wherever_it_ends(saved):
    content = saved.read_bytes()
    for end in range(len(content)):
        saved.write_bytes(content[:end])
        refused(saved)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\xff" * 64, b"not a checkpoint at all", b"PK\x03\x04" + b"\0" * 100], ids=repr
)
def test_garbage_is_refused(saved, content):
    saved.write_bytes(content)
    assert "not a whole checkpoint" in refused(saved)


def test_a_longer_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    refused(saved)


def test_a_flipped_bit_in_the_header_never_ends_in_a_traceback(saved):
    """300 flips, seed 1."""
    whole, rng = saved.read_bytes(), np.random.default_rng(1)
    for _ in range(300):
        content = bytearray(whole)
        content[rng.integers(8 + int.from_bytes(whole[:8], "little"))] ^= 1 << int(rng.integers(8))
        saved.write_bytes(content)
        try:
            trees, _ = checkpoint.load(saved)
        except ValueError as problem:
            assert "\n" not in str(problem)
        else:  # then the flip was in words or in a name: no number may have changed
            numbers = sorted(leaf.tobytes() for leaf in tree.leaves(trees))
            assert numbers == sorted(leaf.tobytes() for leaf in tree.leaves(TREES))


@pytest.mark.parametrize("header", [None, {}, {"format": "tinydiff 0"}, {"format": "pt"}], ids=repr)
def test_another_format_is_refused_by_its_name(saved, header):
    safetensors.numpy.save_file({"params.w": np.ones(2)}, saved, header)
    assert repr((header or {}).get("format")) in refused(saved)


@pytest.mark.parametrize("header", [{}, {"words": "{"}, {"words": ""}], ids=repr)
def test_a_file_without_its_words_is_refused(saved, header):
    safetensors.numpy.save_file({"params.w": np.ones(2)}, saved, {"format": checkpoint.FORMAT, **header})
    assert "description" in refused(saved)


LIKE = {"a": {"w": np.zeros((2, 3), "f4")}, "b": [np.zeros(2, "f4")]}


def test_a_like_tree_passes():
    checkpoint.check_like("file", {"b": [np.ones(2, "f4")], "a": {"w": np.ones((2, 3), "f4")}}, LIKE)


@pytest.mark.parametrize(
    "got, says",
    [
        ({"a": LIKE["a"]}, "tensor b.0 is missing"),
        ({**LIKE, "c": np.zeros(1)}, "tensor c does not belong"),
        ({**LIKE, "b": [np.zeros(3, "f4")]}, "tensor b.0 is float32[3], this network has float32[2]"),
        ({**LIKE, "b": [np.zeros(2)]}, "tensor b.0 is float64[2], this network has float32[2]"),
        ({}, "a branch of a tree must hold something"),
        ({**LIKE, "a": {"w": LIKE["a"]["w"], "": np.zeros(1)}}, "keys of a tree must be words"),
        ([LIKE["b"]], "tensor a.w is missing"),
    ],
)
def test_a_tree_that_is_unlike_is_named(got, says):
    with pytest.raises(ValueError) as info:
        checkpoint.check_like("file", got, LIKE)
    message = str(info.value)
    assert message.startswith("file: ") and says in message and "\n" not in message


# Accidents


def after_an_accident(path):
    """The old checkpoint is whole and nothing lies about."""
    same(checkpoint.load(path)[0], TREES)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(saved, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError) as info:
        checkpoint.save(saved, {"params": np.zeros(9)}, {})
    assert info.value.errno == errno.ENOSPC
    monkeypatch.undo()
    after_an_accident(saved)


SMALL_FILES = """
import resource, sys, numpy as np
from tinydiff import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    checkpoint.save(sys.argv[1], {"params": np.zeros(100_000)}, {})
except OSError as problem:
    print(problem.strerror)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_disk_that_takes_half_of_it_is_an_oserror(saved):
    done = subprocess.run([sys.executable, "-c", SMALL_FILES, saved], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, os.strerror(errno.EFBIG), "")
    after_an_accident(saved)


KILLED = """
import os, signal, sys, numpy as np
from tinydiff import checkpoint
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save(sys.argv[1], {"params": np.zeros(9)}, {})
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_between_writing_and_replacing(saved):
    done = subprocess.run([sys.executable, "-c", KILLED, saved], capture_output=True)
    assert done.returncode == -9
    assert len(list(saved.parent.iterdir())) == 2
    files.sweep(saved.parent)
    after_an_accident(saved)


def test_words_that_json_cannot_say_leave_the_old_checkpoint(saved):
    with pytest.raises(TypeError):
        checkpoint.save(saved, TREES, {"what": object()})
    after_an_accident(saved)
    assert json.loads(json.dumps(WORDS)) == checkpoint.load(saved)[1]
