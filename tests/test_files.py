"""A file written aside is whole or untouched: after errors, a full disk, kill -9."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tinydiff.files import sweep, write_aside

OLD, NEW = b"old" * 1000, b"new" * 2000
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and process numbers")


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    return path


def run_child(body, *args):
    """A Python process with this package on its path, and whatever it prints."""
    code = "import sys, time\nfrom tinydiff.files import write_aside\n" + body
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True,
                            cwd=root, env={**os.environ, "PYTHONPATH": root})


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_new_file_takes_the_old_ones_place(target):
    with write_aside(target) as aside:
        assert aside.parent == target.parent and aside.suffix == ".bin" and aside.name.startswith(".")
        aside.write_bytes(NEW)
        assert target.read_bytes() == OLD
    assert target.read_bytes() == NEW
    assert os.listdir(target.parent) == ["model.bin"]


def test_missing_folders_are_made(tmp_path):
    with write_aside(str(tmp_path / "a" / "b" / "c")) as aside:
        aside.write_bytes(NEW)
    assert (tmp_path / "a" / "b" / "c").read_bytes() == NEW


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(target, error):
    with pytest.raises(error), write_aside(target) as aside:
        aside.write_bytes(NEW)
        raise error
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == ["model.bin"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_file(target):
    with pytest.raises(OSError, match="No space left"), write_aside(target) as aside:
        aside.symlink_to("/dev/full")
        aside.write_bytes(NEW)
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == ["model.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_late_leaves_the_old_file(target, monkeypatch, call):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space left"), write_aside(target) as aside:
        aside.write_bytes(NEW)
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == ["model.bin"]


def test_the_bytes_are_on_disk_before_the_name_is(target, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(os.fstat(handle).st_ino), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    with write_aside(target) as aside:
        aside.write_bytes(NEW)
    expected = [target.stat().st_ino, "replace"]
    if os.name == "posix":
        expected.append(target.parent.stat().st_ino)
    assert calls == expected


def test_a_block_that_writes_nothing_is_an_error(target):
    with pytest.raises(FileNotFoundError), write_aside(target):
        pass
    assert target.read_bytes() == OLD


def test_a_folder_or_a_device_is_refused(tmp_path):
    for path in (tmp_path, os.devnull):
        with pytest.raises(ValueError, match="must be a file"), write_aside(path):
            pytest.fail("the block must not run")


@posix
def test_a_symbolic_link_stays_a_link(target):
    link = target.with_name("latest.bin")
    link.symlink_to(target.name)
    with write_aside(link) as aside:
        aside.write_bytes(NEW)
    assert link.is_symlink() and target.read_bytes() == NEW


def test_threads_that_write_one_file_leave_one_whole_version(target):
    def write(version):
        with write_aside(target) as aside:
            aside.write_bytes(bytes([version]) * 50_000)

    threads = [threading.Thread(target=write, args=(version,)) for version in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = target.read_bytes()
    assert len(content) == 50_000 and len(set(content)) == 1
    assert os.listdir(target.parent) == ["model.bin"]


@posix
def test_killed_halfway_through_a_write(target):
    child = run_child("with write_aside(sys.argv[1]) as aside, open(aside, 'wb') as file:\n"
                      "    file.write(b'new'); file.flush(); print('half', flush=True); time.sleep(60)",
                      target)
    try:
        assert child.stdout.readline() == "half\n"
        assert sweep(target.parent) == []  # it is alive, so its file stays
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert target.read_bytes() == OLD
    (left,) = set(target.parent.iterdir()) - {target}
    assert left.read_bytes() == b"new"
    assert sweep(target.parent) == [left]
    assert os.listdir(target.parent) == ["model.bin"]


@posix
def test_killed_at_any_moment_the_file_is_one_whole_version(target):
    size = 200_000
    body = ("version = 0\n"
            "while True:\n"
            "    with write_aside(sys.argv[1]) as aside:\n"
            f"        aside.write_bytes(bytes([version % 256]) * {size})\n"
            "    if not version:\n"
            "        print('going', flush=True)\n"
            "    version += 1\n")
    for kill in range(6):
        child = run_child(body, target)
        assert child.stdout.readline() == "going\n"
        time.sleep(0.013 * kill)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        content = target.read_bytes()
        assert len(content) == size and len(set(content)) == 1
    sweep(target.parent)
    assert os.listdir(target.parent) == ["model.bin"]


@posix
def test_sweep_takes_only_what_the_dead_left(tmp_path):
    dead, live = dead_pid(), os.getppid()
    stale = [f".tinydiff-{dead}-0123abcd.png", f".tinydiff-{dead}-0123abcd",
             f".tinydiff-{os.getpid()}-0123abcd.npz", ".tinydiff-99999999999999999999-0123abcd.npz"]
    kept = [f".tinydiff-{live}-0123abcd.png", f".tinydiff-{dead}-notes.txt", ".tinydiff-settings",
            f"tinydiff-{dead}-0123abcd.png", f".tinydiff-{dead}-0123abcdef", ".tinydiff-0-0123abcd",
            "model.bin"]
    for name in stale + kept:
        (tmp_path / name).touch()
    (tmp_path / f".tinydiff-{dead}-ffffffff").mkdir()
    with write_aside(tmp_path / "model.bin") as aside:
        aside.write_bytes(NEW)
        assert [path.name for path in sweep(tmp_path)] == sorted(stale)
        assert aside.exists()
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, f".tinydiff-{dead}-ffffffff"])
    assert sweep(tmp_path) == []


@posix
def test_sweep_leaves_another_users_live_process_alone(tmp_path, monkeypatch):
    def refuse(pid, signal_number):
        raise PermissionError

    (tmp_path / ".tinydiff-12345-0123abcd.png").touch()
    monkeypatch.setattr(os, "kill", refuse)
    assert sweep(tmp_path) == []


def test_sweep_of_a_missing_folder_finds_nothing(tmp_path):
    assert sweep(tmp_path / "none") == []
