"""Worker processes: the same step as without them, and nothing left when they are done, however they end."""
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_train import config_of, examples, same

from tinydiff import loss, runs, schedule, workers
from tinydiff.nn import unet
from tinydiff.tensor import autodiff, tree

METHODS = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]
forks = pytest.mark.skipif(workers.METHOD != "fork", reason="needs a system where fork is safe")

TINY = unet.Config(size=4, widths=(8,), groups=4, embed=8)
CHAIN = schedule.cosine(10)


def l_simple(params, batch):
    def predict(x, t):
        return unet.apply(params, x, t, TINY)

    return loss.l_simple(predict, CHAIN, batch["x0"], batch["t"], batch["eps"], "v")


MAKE_STEP = functools.partial(autodiff.value_and_grad, l_simple)
STEP = MAKE_STEP()


def making(step_fn):
    return functools.partial(_itself, step_fn)


def _itself(step_fn):
    return step_fn


@pytest.fixture(params=METHODS)
def method(request):
    """How processes are started: both ways, wherever the system has both."""
    return request.param


def weights(seed=0):
    """A tiny U-Net whose last layers are not zero, so that every gradient is something."""
    rng = np.random.default_rng(seed)
    return tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, "f4"), unet.init(rng, TINY))


def batch_of(size, seed=0):
    rng = np.random.default_rng(seed)
    x0, eps = rng.standard_normal((2, size, 4, 4, 1), "f4")
    return {"x0": x0, "t": rng.integers(1, 11, size), "eps": eps}


@pytest.mark.parametrize("size, n", [(8, 2), (7, 2), (7, 3), (2, 2), (1, 2), (3, 5)])
def test_the_shares_average_to_the_whole(size, n):
    """To rounding: sums in another order."""
    params = weights()
    with workers.Workers(MAKE_STEP, params, n) as spread:
        for step in range(3):
            batch = batch_of(size, step)
            value, gradients = spread(params, batch)
            wanted, right = STEP(params, batch)
            assert value == pytest.approx(float(wanted), rel=1e-6)
            for name, g in tree.flatten(right).items():
                got = tree.flatten(gradients)[name]
                assert got.dtype == np.float32 and got.shape == g.shape
                assert abs(got - g).max() <= 1e-5 * largest(right), name
            params = tree.map(lambda p, g: p - 0.01 * g, params, gradients)


def largest(gradients):
    return max(abs(g).max() for g in tree.leaves(gradients))


def test_the_weights_that_a_worker_uses_are_those_of_the_call():
    """A share's gradient under other weights would differ: the shared copy is refreshed at every step."""
    with workers.Workers(MAKE_STEP, weights(0), 2) as spread:
        first = spread(weights(0), batch_of(4))[0]
        assert spread(weights(1), batch_of(4))[0] == pytest.approx(float(STEP(weights(1), batch_of(4))[0]), rel=1e-6)
        assert spread(weights(0), batch_of(4))[0] == first


def test_two_runs_with_two_workers_are_the_same_bit_for_bit():
    """However the second one is started."""

    def run(method):
        params, losses = weights(), []
        with workers.Workers(MAKE_STEP, params, 2, method) as spread:
            for step in range(10):
                value, gradients = spread(params, batch_of(6, step))
                params = tree.map(lambda p, g: p - 0.05 * g, params, gradients)
                losses.append(value)
        return losses, tree.pack(params).tobytes()

    first, *others = [run(method) for method in (METHODS[0], *METHODS)]
    assert all(other == first for other in others)


def test_a_run_is_the_same_however_its_workers_are_started(tmp_path, monkeypatch):
    ends, config = [], config_of("unet", steps=3)
    for method in METHODS:
        monkeypatch.setattr(runs.workers, "Workers", functools.partial(workers.Workers, method=method))
        ends.append(runs.train_run(tmp_path / method, config, examples(config), n_workers=2)[0])
        monkeypatch.undo()
    assert all(same(end, ends[0]) for end in ends)


def test_gradients_of_one_step_survive_the_next():
    """They are no views of the memory that the workers write into."""
    params = weights()
    with workers.Workers(MAKE_STEP, params, 2) as spread:
        _, first = spread(params, batch_of(4, 0))
        kept = tree.pack(first).copy()
        spread(params, batch_of(4, 1))
        assert np.array_equal(tree.pack(first), kept)


# How they end


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def held():
    """Open files, and whatever has a name in shared memory; less what multiprocessing opens once and keeps."""
    shared = Path("/dev/shm")
    return len(os.listdir("/dev/fd")), sorted(shared.iterdir()) if shared.exists() else []


@pytest.fixture
def leaves_nothing(method):
    """The first spawned process of all leaves a helper of multiprocessing's, and a block of memory for the next."""
    with workers.Workers(MAKE_STEP, weights(), 3, method):
        pass
    before = held()
    yield
    assert held() == before


def pids(spread):
    return [child.pid for child in spread.children]


@pytest.mark.usefixtures("leaves_nothing")
def test_nothing_is_left_after_a_normal_end(method):
    _, named = held()
    with workers.Workers(MAKE_STEP, weights(), 3, method) as spread:
        children = pids(spread)
        assert len(children) == 2 and all(map(alive, children))
        spread(weights(), batch_of(6))
        assert held()[1] == named  # not even while they work
    assert not any(map(alive, children)) and spread.children == []


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(kind, method):
    with pytest.raises(kind), workers.Workers(MAKE_STEP, weights(), 2, method) as spread:
        children = pids(spread)
        raise kind
    assert not any(map(alive, children))


@pytest.mark.usefixtures("leaves_nothing")
def test_nothing_is_left_when_not_all_can_be_started(monkeypatch, method):
    real, started = workers.Workers._start, []

    def start(self, *arguments):
        if self.children:
            started.extend(pids(self))
            raise BlockingIOError("no more processes")
        real(self, *arguments)

    monkeypatch.setattr(workers.Workers, "_start", start)
    with pytest.raises(BlockingIOError):
        workers.Workers(MAKE_STEP, weights(), 3, method)
    assert len(started) == 1 and not alive(started[0])


def test_one_worker_is_the_function_itself():
    with workers.Workers(MAKE_STEP, weights(), 1) as spread:
        assert spread.children == []
        value, gradients = spread(weights(), batch_of(4))
    wanted, right = STEP(weights(), batch_of(4))
    assert value == wanted and np.array_equal(tree.pack(gradients), tree.pack(right))


@pytest.mark.usefixtures("leaves_nothing")
def test_a_killed_worker_is_an_error_and_not_a_wait(method):
    with pytest.raises(ChildProcessError) as info, workers.Workers(MAKE_STEP, weights(), 3, method) as spread:
        children = pids(spread)
        spread(weights(), batch_of(6))
        os.kill(children[0], signal.SIGKILL)
        spread(weights(), batch_of(6))
    assert "\n" not in str(info.value) and "died" in str(info.value)
    assert not any(map(alive, children))


def fails_on_odd_shares(params, batch):
    if batch["x0"][0] % 2:
        raise ArithmeticError("no use\nfor odd numbers")
    return batch["x0"].mean(), params


def odd_workers(params, method=workers.METHOD):
    return workers.Workers(making(fails_on_odd_shares), params, 2, method)


def test_an_exception_within_a_worker_is_told_in_its_own_words(capfd, method):
    params = {"w": np.zeros(2, "f4")}
    with pytest.raises(ChildProcessError) as info, odd_workers(params, method) as spread:
        assert spread(params, {"x0": np.array([2, 4])})[0] == 3
        spread(params, {"x0": np.array([2, 5])})
    assert "ArithmeticError: no use" in str(info.value)
    assert capfd.readouterr().err == ""


def test_an_exception_in_the_first_share_is_itself():
    params = {"w": np.zeros(2, "f4")}
    with odd_workers(params) as spread, pytest.raises(ArithmeticError, match="no use"):
        spread(params, {"x0": np.array([5, 2])})


def raises_an_oserror(params, batch):
    raise FileNotFoundError("mine")


def test_an_oserror_of_the_step_is_no_dead_worker():
    params = {"w": np.zeros(2, "f4")}
    make_step = making(raises_an_oserror)
    with workers.Workers(make_step, params, 2) as spread, pytest.raises(FileNotFoundError, match="mine"):
        spread(params, {"x0": np.array([5, 2])})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("method, moment", [*((method, "at work") for method in METHODS), ("spawn", "hardly born")])
def test_workers_leave_signals_to_the_first_process(number, method, moment):
    """Ctrl-C reaches all of them; the step in hand must be finished all the same.

    A forked one is born with its parent's handler, which in a run only takes note.
    """
    before = signal.getsignal(number)
    with workers.Workers(MAKE_STEP, weights(), 2, method) as spread:
        first = spread(weights(), batch_of(4))[0] if moment == "at work" else None
        os.kill(spread.children[0].pid, number)
        time.sleep(0.05)
        assert spread(weights(), batch_of(4))[0] == (first or spread(weights(), batch_of(4))[0])
    assert signal.getsignal(number) == before


ORPHANS = """
import functools, sys, time, numpy as np
from tinydiff import workers
def slow(params, batch):
    time.sleep(0.2)
    return 0.0, params
def make_step():
    return slow
if __name__ == "__main__":
    params = {"w": np.zeros(1000, "f4")}
    spread = workers.Workers(make_step, params, 3, sys.argv[1])
    spread(params, {"x": np.zeros(6)})
    print("ready", flush=True)
    while True:
        spread(params, {"x": np.zeros(6)})
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_workers_end_when_the_first_process_is_killed(tmp_path, method):
    """They hold its standard output open, so the end of the file is the end of them all."""
    (tmp_path / "orphans.py").write_text(ORPHANS)
    (_, before), command = held(), [sys.executable, tmp_path / "orphans.py", method]
    home = {**os.environ, "PYTHONPATH": str(Path(workers.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == (b"", b"", -signal.SIGKILL)
    assert held()[1] == before


# Work that shares nothing


def _squared_but_one_dies(i):
    if i == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return i * i


@pytest.mark.parametrize("n", [1, 2, 9])
def test_spread_work_comes_back_in_order(n):
    seen = os.getpid()
    found = list(workers.spread(lambda i: (i * i, os.getpid() != seen), range(5), n))
    assert [square for square, _ in found] == [0, 1, 4, 9, 16]
    assert all(elsewhere == (n > 1 and workers.METHOD == "fork") for _, elsewhere in found)


def test_where_fork_is_not_safe_work_is_spread_over_this_process_alone(monkeypatch):
    """Closures cannot be sent to a process that is started afresh."""
    monkeypatch.setattr(workers, "METHOD", "spawn")
    here = os.getpid()
    assert list(workers.spread(lambda i: (i, os.getpid()), range(3), 2)) == [(i, here) for i in range(3)]


@pytest.mark.parametrize("platform, method", [("linux", "fork"), ("darwin", "spawn"), ("win32", "spawn")])
def test_fork_is_used_where_it_is_safe(platform, method):
    """macOS has a fork, and libraries that do not bear it; Windows has none."""
    code = f"import multiprocessing.pool, os, sys, tinydiff.tensor.fast; sys.platform = {platform!r}; "
    code += "del os.fork; " if platform == "win32" else ""
    code += "from tinydiff import workers; print(workers.METHOD)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == method, done.stderr


@forks
def test_spread_work_that_fails_or_dies_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        list(workers.spread(lambda i: 1 // i, range(3), 2))
    with pytest.raises(ChildProcessError, match="died"):
        list(workers.spread(_squared_but_one_dies, range(4), 2))


LONG_WORK = """
import os, sys, time
from tinydiff import workers
def work(i):
    os.write(1, b"ready\\n") if i < 2 else None
    time.sleep(60)
list(workers.spread(work, range(4), 2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: elsewhere a child does not learn of its parent's end")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_spread_work_ends_when_the_first_process_is_told_to(number):
    """Told alone, not as a terminal tells a whole group. The end of the file is the end of them all."""
    command = [sys.executable, "-c", LONG_WORK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert out == b"" and process.returncode == -number


@forks
def test_spread_work_that_is_given_up_ends_at_once():
    began, going = time.monotonic(), workers.spread(lambda i: time.sleep(0 if i == 0 else 60), range(4), 2)
    next(going)
    going.close()
    assert time.monotonic() - began < 20
