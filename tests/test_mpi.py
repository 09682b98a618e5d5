"""Ranks: the same step as with workers, bit for bit, and no rank that waits for one that has gone.

Most of it on ranks that are forked here and talk through pipes, so that it needs no MPI; at the end under mpiexec.
"""
import argparse
import functools
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_train import config_of, examples, same
from test_workers import MAKE_STEP, batch_of, fails_on_odd_shares, making, weights

from tinydiff import __main__, mpi, runs, workers
from tinydiff.tensor import tree

HERE = Path(__file__).parents[1]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Wires:
    """What of a communicator is used here, over pipes: rank 0 has one to each of the others, and they one to it."""

    def __init__(self, rank, size, ends):
        self.rank, self.size, self.ends = rank, size, ends

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def send(self, message, other):
        self.ends[other].send(message)

    def recv(self, source):
        return self.ends[source].recv()

    def Abort(self, status):
        os._exit(status)


@pytest.fixture
def led(monkeypatch):
    """led(command, n): mpi.led on n ranks; then, the exit status of each of the others."""
    fork, statuses = multiprocessing.get_context("fork"), []

    def other(rank, size, pipes):
        for ours, _ in pipes:
            ours.close()
        pipe = pipes[rank - 1][1]
        monkeypatch.setattr(mpi, "_world", lambda: Wires(rank, size, {0: pipe}))
        mpi.led(None, argparse.Namespace())

    def run(command, n=2, patience=20):
        pipes = [fork.Pipe() for _ in range(1, n)]
        others = [fork.Process(target=other, args=(i, n, pipes)) for i in range(1, n)]
        for process, (_, theirs) in zip(others, pipes, strict=True):
            process.start()
            theirs.close()  # else nobody would learn of its end
        monkeypatch.setattr(mpi, "_world", lambda: Wires(0, n, {i: pipe for i, (pipe, _) in enumerate(pipes, 1)}))
        try:
            return mpi.led(command, argparse.Namespace(workers=7))
        finally:
            for process in others:
                process.join(patience)
                statuses.append(process.exitcode)
                process.kill()

    run.statuses = statuses
    return run


def steps(spread, params, sizes=(6, 5, 1, 7)):
    """Losses and weights of some steps of gradient descent."""
    losses = []
    for step, size in enumerate(sizes):
        value, gradients = spread(params, batch_of(size, step))
        params = tree.map(lambda p, g: p - 0.05 * g, params, gradients)
        losses.append(float(value))
    return losses, tree.pack(params).tobytes()


@forks
@pytest.mark.parametrize("n", [2, 3])
def test_ranks_make_the_steps_that_workers_make_bit_for_bit(led, n):
    with workers.Workers(MAKE_STEP, weights(), n) as spread:
        wanted = steps(spread, weights())

    def command(options):
        assert options.workers == 1  # a rank is one process
        found = []
        for _ in range(2):  # one run after another
            with mpi.Ranks(MAKE_STEP, weights(), options.ranks) as spread:
                found.append(steps(spread, weights()))
        return found

    assert led(command, n) == [wanted, wanted]
    assert led.statuses == [0] * (n - 1)


@forks
def test_a_run_with_ranks_is_the_run_with_workers(led, tmp_path):
    config = config_of("unet", steps=4)
    kept = functools.partial(runs.train_run, config=config, x=examples(config))
    state, _ = led(lambda options: kept(tmp_path / "ranks", ranks=options.ranks))
    assert same(state, kept(tmp_path / "workers", n_workers=2)[0])
    assert led.statuses == [0]


@forks
@pytest.mark.parametrize("odd, kind, says", [(1, ChildProcessError, "ArithmeticError: no"), (0, ArithmeticError, "no")])
def test_a_share_that_fails_ends_all_ranks(led, odd, kind, says):
    """Another's in its own words. One's own leaves answers to be taken, of more numbers than a pipe holds."""
    params = {"w": np.zeros(100_000, "f4")}

    def command(options):
        with mpi.Ranks(making(fails_on_odd_shares), params, options.ranks) as spread:
            assert spread(params, {"x0": np.array([2, 4])})[0] == 3
            spread(params, {"x0": np.array([4, 5] if odd else [5, 4])})

    with pytest.raises(kind, match=says):
        led(command)
    assert led.statuses == [0]


@forks
def test_a_command_that_fails_before_it_trains_ends_all_ranks(led):
    def command(options):
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        led(command, 3)
    assert led.statuses == [0, 0]


@forks
def test_what_cannot_wait_ends_all_ranks_by_force_after_the_last_word(led, monkeypatch):
    """A second Ctrl-C may come between any two messages: no answer is waited for."""
    at_exit, params = [], {"w": np.zeros(2, "f4")}

    def command(options):
        with mpi.Ranks(making(fails_on_odd_shares), params, options.ranks) as spread:
            spread.pipes[0].due, spread.pipes[0].recv = True, lambda: pytest.fail("it would never come")
            monkeypatch.setattr(mpi.atexit, "register", lambda *call: at_exit.append(call))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        led(command, patience=0)
    ((abort, status),) = at_exit
    assert abort.__name__ == "Abort" and status != 0


def unknown_here():
    def step_fn(params, batch):
        return 0.0, params

    if multiprocessing.parent_process():
        raise AttributeError("no such loss in this version")
    return step_fn


@forks
def test_a_rank_that_cannot_go_on_takes_all_with_it(led, capfd):
    """Else rank 0 would wait for it: here it learns of the end from its pipe, there from Abort."""
    params = {"w": np.zeros(2, "f4")}

    def command(options):
        with mpi.Ranks(unknown_here, params, options.ranks) as spread:
            spread(params, {"x0": np.zeros(4)})

    with pytest.raises((ChildProcessError, OSError)):
        led(command)
    assert led.statuses == [1]
    assert "no such loss in this version" in capfd.readouterr().err


def test_without_mpiexec_a_command_is_itself(monkeypatch):
    for name in mpi.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    options = argparse.Namespace(workers=7)
    assert mpi.led(lambda options: (options.ranks, options.workers), options) == (None, 7)
    monkeypatch.setenv("PMI_SIZE", "1")
    assert mpi.led(lambda options: (options.ranks, options.workers), options) == (None, 7)


class OneRank:
    COMM_WORLD = Wires(0, 1, {})


@pytest.mark.parametrize("name", mpi.LAUNCHED)
@pytest.mark.parametrize("module, status, says", [(None, 1, "pip install mpi4py"), (OneRank, 2, "another MPI")])
def test_a_launcher_without_its_mpi_is_one_line(monkeypatch, capsys, tmp_path, name, module, status, says):
    """Else each rank would take itself for the whole run, and write over the others."""
    monkeypatch.setitem(sys.modules, "mpi4py", module and argparse.Namespace(MPI=module))
    monkeypatch.setenv(name, "2")
    assert __main__.main(["train", "moons", "--steps", "1", "--out", str(tmp_path / "r")]) == status
    err = capsys.readouterr().err
    assert err.startswith("tinydiff: mpiexec started 2 ranks") and says in err and err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_ranks_are_for_cpus():
    class OnAGpu:
        shape = (2,)

    with pytest.raises(ValueError, match="add --device cpu"):
        mpi.Ranks(MAKE_STEP, {"w": OnAGpu()}, None)


# Under mpiexec


def mpiexec():
    """Its path: that of mpi4py's own environment before another."""
    found = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    return found if importlib.util.find_spec("mpi4py") else None


launched = pytest.mark.skipif(not mpiexec(), reason='needs mpi4py and mpiexec: pip install ".[mpi]" mpich')
RUN = "train images --data x.npy --batch 8 --T 20 --schedule cosine".split()


@pytest.fixture
def here(tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype="u1")
    np.save(tmp_path / "x.npy", pictures)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):  # as tests in a container do
        monkeypatch.setenv(name, "1")
    return tmp_path


def command(*arguments, ranks=2):
    """Started in a session of its own, as a terminal does."""
    line = [mpiexec(), "-n", ranks, sys.executable, "-m", "tinydiff", *arguments] if ranks else arguments
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, line)), start_new_session=True, **pipes)


def finished(*arguments, ranks=2):
    with command(*arguments, ranks=ranks) as process:
        out, err = process.communicate(timeout=100)
    return process.returncode, out, err


@launched
def test_two_ranks_make_the_run_that_two_workers_make(here):
    status, out, err = finished(*RUN, "--steps", 6, "--out", "ranks")
    assert (status, err) == (0, ""), err
    done = [sys.executable, "-m", "tinydiff", *RUN, "--steps", 6, "--out", "workers", "--workers", 2]
    status, alone, err = finished(*done, ranks=0)
    assert (status, err) == (0, ""), err
    assert same(runs.load("ranks").state, runs.load("workers").state)
    assert len(out.splitlines()) == len(alone.splitlines())  # one rank speaks
    assert sorted(p.name for p in Path("ranks").rglob("*")) == sorted(p.name for p in Path("workers").rglob("*"))
    losses = [[json.loads(line)["loss"] for line in open(f"{run}/metrics.jsonl")] for run in ("ranks", "workers")]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    status, out, _ = finished(*RUN[:1], "--resume", "--out", "ranks")
    assert status == 0 and "resumed after step 6" in out


@launched
def test_bad_input_under_mpiexec_is_one_line(here):
    status, out, err = finished("train", "images", "--data", "nothing.npy", "--out", "r")
    assert status != 0 and out == "" and not Path("r").exists()
    assert sum(line.startswith("tinydiff: ") for line in err.splitlines()) == 1, err
    assert "Traceback" not in err


def going(process):
    """Its ranks, the first one first, when it has made some steps."""
    log = Path("r/metrics.jsonl")
    for _ in range(600):
        if log.exists() and len(log.read_text().splitlines()) > 3:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    found = {}
    for child in _children(process.pid):
        line, settings = (Path(f"/proc/{child}/{name}").read_bytes().decode() for name in ("cmdline", "environ"))
        named = ("OMPI_COMM_WORLD_RANK=", "PMI_RANK=")
        rank = [entry.split("=")[1] for entry in settings.split("\0") if entry.startswith(named)]
        if rank and line.startswith(sys.executable):
            found[int(rank[0])] = child
    return [found[rank] for rank in sorted(found)]


def _children(pid):
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        yield child
        yield from _children(child)


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the ranks are found in /proc")


@launched
@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_ranks_after_the_same_step_and_saves(here, number):
    """To the ranks, as a terminal's Ctrl-C and a launcher's request reach them; what a launcher adds is its own."""
    with command(*RUN, "--steps", 10**6, "--out", "r") as process:
        ranks = going(process)
        assert len(ranks) == 2
        for rank in reversed(ranks):
            os.kill(rank, number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    step = runs.load("r").state.step
    assert f"stopped after step {step:,}; saved. Continue with: tinydiff train --resume --out r" in out
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == step > 3
    assert not any(map(_alive, ranks))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@launched
@linux
@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_and_leaves_the_last_checkpoint(here, which):
    assert finished(*RUN, "--steps", 2, "--out", "r")[0] == 0
    last = runs.load("r")
    longer = {**last.config.settings, "steps": 10**6}
    runs.save("r", type(last.config)(**{**vars(last.config), "settings": longer}), last.state)
    with command("train", "--resume", "--out", "r") as process:
        ranks = going(process)
        os.kill(ranks[which], signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode != 0 and not any(map(_alive, ranks))
    assert runs.load("r").state.step == 2
