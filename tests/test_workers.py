"""Worker processes: the same step as without them, and nothing left when they are done, however they end."""
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tinydiff import loss, schedule, workers
from tinydiff.nn import unet
from tinydiff.tensor import autodiff, tree

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

TINY = unet.Config(size=4, widths=(8,), groups=4, embed=8)
CHAIN = schedule.cosine(10)


def l_simple(params, batch):
    def predict(x, t):
        return unet.apply(params, x, t, TINY)

    return loss.l_simple(predict, CHAIN, batch["x0"], batch["t"], batch["eps"], "v")


STEP = autodiff.value_and_grad(l_simple)


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
    with workers.Workers(STEP, params, n) as spread:
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
    with workers.Workers(STEP, weights(0), 2) as spread:
        first = spread(weights(0), batch_of(4))[0]
        assert spread(weights(1), batch_of(4))[0] == pytest.approx(float(STEP(weights(1), batch_of(4))[0]), rel=1e-6)
        assert spread(weights(0), batch_of(4))[0] == first


def test_two_runs_with_two_workers_are_the_same_bit_for_bit():
    def run():
        params, losses = weights(), []
        with workers.Workers(STEP, params, 2) as spread:
            for step in range(10):
                value, gradients = spread(params, batch_of(6, step))
                params = tree.map(lambda p, g: p - 0.05 * g, params, gradients)
                losses.append(value)
        return losses, tree.pack(params).tobytes()

    assert run() == run()


def test_gradients_of_one_step_survive_the_next():
    """They are no views of the memory that the workers write into."""
    params = weights()
    with workers.Workers(STEP, params, 2) as spread:
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


def open_files():
    return len(os.listdir("/dev/fd"))


def test_nothing_is_left_after_a_normal_end():
    before = open_files()
    with workers.Workers(STEP, weights(), 3) as spread:
        children = list(spread.children)
        assert len(children) == 2 and all(map(alive, children))
        spread(weights(), batch_of(6))
    assert not any(map(alive, children)) and spread.children == []
    assert open_files() == before


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(kind):
    before = open_files()
    with pytest.raises(kind), workers.Workers(STEP, weights(), 2) as spread:
        children = list(spread.children)
        raise kind
    assert not any(map(alive, children))
    assert open_files() == before


def test_one_worker_is_the_function_itself():
    with workers.Workers(STEP, weights(), 1) as spread:
        assert spread.children == []
        value, gradients = spread(weights(), batch_of(4))
    wanted, right = STEP(weights(), batch_of(4))
    assert value == wanted and np.array_equal(tree.pack(gradients), tree.pack(right))


def test_a_killed_worker_is_an_error_and_not_a_wait():
    with pytest.raises(ChildProcessError) as info, workers.Workers(STEP, weights(), 3) as spread:
        children = list(spread.children)
        spread(weights(), batch_of(6))
        os.kill(children[0], signal.SIGKILL)
        spread(weights(), batch_of(6))
    assert "\n" not in str(info.value) and "died" in str(info.value)
    assert not any(map(alive, children))


def fails_on_odd_shares(params, batch):
    if batch["x0"][0] % 2:
        raise ArithmeticError("no use\nfor odd numbers")
    return batch["x0"].mean(), params


def test_an_exception_within_a_worker_is_told_in_its_own_words(capfd):
    params = {"w": np.zeros(2, "f4")}
    with pytest.raises(ChildProcessError) as info, workers.Workers(fails_on_odd_shares, params, 2) as spread:
        assert spread(params, {"x0": np.array([2, 4])})[0] == 3
        spread(params, {"x0": np.array([2, 5])})
    assert "ArithmeticError: no use" in str(info.value)
    assert capfd.readouterr().err == ""


def test_an_exception_in_the_first_share_is_itself():
    params = {"w": np.zeros(2, "f4")}
    with workers.Workers(fails_on_odd_shares, params, 2) as spread, pytest.raises(ArithmeticError, match="no use"):
        spread(params, {"x0": np.array([5, 2])})


def raises_an_oserror(params, batch):
    raise FileNotFoundError("mine")


def test_an_oserror_of_the_step_is_no_dead_worker():
    params = {"w": np.zeros(2, "f4")}
    with workers.Workers(raises_an_oserror, params, 2) as spread, pytest.raises(FileNotFoundError, match="mine"):
        spread(params, {"x0": np.array([5, 2])})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_first_process(number):
    """Ctrl-C reaches all of them; the step in hand must be finished all the same."""
    with workers.Workers(STEP, weights(), 2) as spread:
        first, _ = spread(weights(), batch_of(4))
        os.kill(spread.children[0], number)
        time.sleep(0.05)
        assert spread(weights(), batch_of(4))[0] == first


ORPHANS = """
import os, sys, time, numpy as np
from tinydiff import workers
params = {"w": np.zeros(1000, "f4")}
spread = workers.Workers(lambda params, batch: (time.sleep(0.2) or 0.0, params), params, 3)
print("ready", flush=True)
while True:
    spread(params, {"x": np.zeros(6)})
"""


def test_workers_end_when_the_first_process_is_killed():
    """They hold its standard output open, so the end of the file is the end of them all."""
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        out, _ = process.communicate(timeout=20)
    assert out == b"" and process.returncode == -signal.SIGKILL


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
    assert all(elsewhere == (n > 1) for _, elsewhere in found)


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


def test_spread_work_that_is_given_up_ends_at_once():
    began, going = time.monotonic(), workers.spread(lambda i: time.sleep(0 if i == 0 else 60), range(4), 2)
    next(going)
    going.close()
    assert time.monotonic() - began < 20
