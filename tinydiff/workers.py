"""Several processes, one training step: each works on a share of the batch, and the shares are averaged.

A loss that is a mean over examples is the mean of its shares' losses, and so is its gradient:

    L = Σ_i (B_i / B) L_i,     ∇L = Σ_i (B_i / B) ∇L_i

so nothing that is spread needs to know. Processes and not threads: Python runs one thread at a time, and NumPy's
short calls spend their time handing over. Weights and gradients lie in memory that the processes share; the batch goes
through a pipe. The processes are forked, so they start with everything that the first one knows; where a system cannot
fork, and on a GPU, there is one worker: the function itself.
"""
import ctypes
import math
import mmap
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import Pipe, active_children, get_context

import numpy as np

from .tensor import tree


class Workers:
    """step_fn (params, batch) -> (loss, gradients), spread over `n` processes. A context: they end with it.

    batch: a tree of NumPy arrays whose first axis counts examples. params: for names and shapes, float32.
    Raises ChildProcessError if a worker dies, or fails: then with its own words.
    """

    def __init__(self, step_fn, params, n):
        self.step_fn, self.n = step_fn, n if hasattr(os, "fork") else 1
        self.pipes, self.children = [], []
        if self.n > 1:
            size = tree.count(params)
            self.vector, *self.gradients = (_shared(size) for _ in range(self.n))
            self.params = tree.unpack(self.vector, params)
            for i in range(1, self.n):
                self._fork(self.gradients[i - 1])

    def _fork(self, gradients):
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            try:
                self._serve(ours, theirs, gradients)
            finally:
                os._exit(0)
        theirs.close()
        self.pipes.append(ours)
        self.children.append(pid)

    def _serve(self, ours, theirs, gradients):
        """A worker's life: it ends, without a word, when the other end of its pipe closes."""
        for number in (signal.SIGINT, signal.SIGTERM):  # the first process heeds them, and wants its step finished
            signal.signal(number, signal.SIG_IGN)
        for pipe in [*self.pipes, ours]:  # else this worker would keep them open after the first process dies
            pipe.close()
        with suppress(EOFError, OSError):
            while True:
                theirs.send(self._share(theirs.recv(), gradients))

    def _share(self, batch, gradients):
        """The loss of a share, whose gradients are put in place; or what went wrong, in words."""
        try:
            loss, found = self.step_fn(self.params, batch)
            np.copyto(gradients, tree.pack(found))
            return float(loss)
        except Exception as problem:
            return f"{type(problem).__name__}: {problem}"

    def __call__(self, params, batch):
        size = len(tree.leaves(batch)[0])
        if self.n == 1 or size < self.n:
            return self.step_fn(params, batch)
        np.copyto(self.vector, tree.pack(params))
        ends = [size * i // self.n for i in range(self.n + 1)]
        shares = [tree.map(lambda x, a=a, b=b: x[a:b], batch) for a, b in zip(ends, ends[1:], strict=False)]
        weights = [(b - a) / size for a, b in zip(ends, ends[1:], strict=False)]
        for pipe, share in zip(self.pipes, shares[1:], strict=True):
            _talk(pipe.send, share)
        loss, grads = self.step_fn(params, shares[0])
        losses = [float(loss), *(_talk(pipe.recv) for pipe in self.pipes)]
        for problem in losses:
            if isinstance(problem, str):
                raise ChildProcessError(f"a worker process failed: {problem}")
        mean = weights[0] * tree.pack(grads)
        for w, g in zip(weights[1:], self.gradients, strict=True):
            mean += w * g
        return math.fsum(w * x for w, x in zip(weights, losses, strict=True)), tree.unpack(mean, grads)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for pipe in self.pipes:
            pipe.close()
        for pid in self.children:
            os.waitpid(pid, 0)
        self.pipes, self.children = [], []


def spread(f, items, n):
    """Yield f(item) for each item, in order, worked out by `n` forked processes: for work that shares nothing.

    Raises ChildProcessError if a process dies; what f raises.
    """
    global _task
    n = min(n, len(items)) if hasattr(os, "fork") else 1
    if n == 1:
        yield from map(f, items)
        return
    _task = f  # the processes are forked with it, so it need not be something that can be pickled
    sys.stdout.flush()
    sys.stderr.flush()
    with ProcessPoolExecutor(n, get_context("fork"), _as_a_child) as pool:
        try:
            yield from pool.map(_do_task, items)
        except BrokenProcessPool:
            raise ChildProcessError("a worker process died") from None
        except BaseException:
            for child in active_children():  # else the pool would wait for the work in hand
                child.terminate()
            raise
        finally:
            _task = None
            pool.shutdown(wait=False, cancel_futures=True)


_task = None


def _as_a_child():
    """Ctrl-C ends it without a word, and so does, on Linux, the end of the first process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _do_task(item):
    return _task(item)


def _talk(call, *message):
    try:
        return call(*message)
    except (EOFError, OSError):
        raise ChildProcessError("a worker process died; the last checkpoint is whole: --resume") from None


def _shared(size):
    """A float32 vector in memory that forked processes share; it goes when the last of them does."""
    return np.frombuffer(mmap.mmap(-1, 4 * size), np.float32)
