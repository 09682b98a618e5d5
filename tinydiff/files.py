"""Files that are whole or untouched: write beside the target, flush to disk, then replace it in one step."""

import os
import re
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"\.tinydiff-([1-9]\d*)-[0-9a-f]{8}(\..+)?")
_being_written = set()


@contextmanager
def write_aside(path):
    """Yield a temporary path beside `path`; when the block ends well, put it in `path`'s place.

    Whatever happens, a full disk and kill -9 included, `path` holds one complete version: the old or the new.
    The temporary file is hidden and has `path`'s suffix, so writers that go by the suffix work. Missing
    folders are made; a symbolic link stays, and the file that it points to is replaced.

        with write_aside("runs/a.png") as aside:
            figure.savefig(aside)

    Raises : ValueError if `path` is a folder or a device; OSError if the disk refuses, or the block wrote
             no file; whatever the block raises. The old file, if any, is then as it was.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise ValueError(f"a path to write must be a file, got {path}, a folder or a device; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".tinydiff-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    _being_written.add(aside)
    try:
        yield aside
        _flush(aside, os.O_RDWR)
        os.replace(aside, path)
        # Some systems cannot open or flush a folder; the new file is in place all the same.
        with suppress(OSError):
            _flush(path.parent, os.O_RDONLY)
    finally:
        aside.unlink(missing_ok=True)
        _being_written.discard(aside)


def sweep(folder):
    """Remove what killed processes left of `write_aside` in `folder`; return the paths removed.

    A temporary file goes if its process is dead. Process numbers are this machine's: do not sweep a folder
    into which another machine is writing.
    """
    folder = Path(folder).resolve()
    names = {path: _NAME.fullmatch(path.name) for path in folder.glob(".tinydiff-*") if path.is_file()}
    stale = sorted(path for path, name in names.items() if name and not _in_use(path, int(name[1])))
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def _in_use(path, pid):
    if pid == os.getpid():
        # In a container each start gives the same few numbers again, so ours may be a dead process's too.
        return path in _being_written
    if os.name != "posix":
        # On Windows os.kill(pid, 0) does not ask, it sends Ctrl-C: better leave a file than stop a process.
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _flush(path, flags):
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
