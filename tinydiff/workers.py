"""Several processes, one training step: each works on a share of the batch, and the shares are averaged.

A loss that is a mean over examples is the mean of its shares' losses, and so is its gradient:

    L = Σ_i (B_i / B) L_i,     ∇L = Σ_i (B_i / B) ∇L_i

so nothing that is spread needs to know. Processes and not threads: Python runs one thread at a time, and NumPy's
short calls spend their time handing over. Weights and gradients lie in memory that the processes share; the batch goes
through a pipe. Where that is safe the processes are forked, and start with everything that the first one knows; on
macOS, whose own libraries do not bear it, and on Windows, which has no fork, they are spawned: started afresh. On a GPU
there is one worker: the function itself.

The promise: n workers give the gradient that one gives, to rounding, since they add in another order; and two runs
with the same n are the same bit for bit, forked or spawned.
"""
import ctypes
import math
import mmap
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import active_children, get_context

import numpy as np

from .tensor import fast, tree

METHOD = "fork" if hasattr(os, "fork") and sys.platform != "darwin" else "spawn"


def one_thread():
    """One BLAS thread a process: the products are small, and the processes share the cores. And memory is kept."""
    from threadpoolctl import threadpool_limits

    fast.keep_memory()
    return threadpool_limits(1, "blas")


class Workers:
    """step_fn (params, batch) -> (loss, gradients), spread over `n` processes. A context: they end with it.

    make_step: () -> step_fn; each process makes its own. To be spawned it must be something that can be pickled, such
    as functools.partial(a function with a name, what it is given). batch: a tree of NumPy arrays whose first axis
    counts examples. params: for names and shapes, float32. method: fork or spawn.
    Raises ChildProcessError if a worker dies, or fails: then with its own words.
    """

    def __init__(self, make_step, params, n, method=METHOD):
        self.step_fn, self.n = make_step(), n
        self.pipes, self.children = [], []
        if n > 1:
            memory = [_shared(tree.count(params), method) for _ in range(n)]
            self.vector, *self.gradients = (np.frombuffer(part, np.float32) for part in memory)
            try:
                for part in memory[1:]:
                    self._start(get_context(method), make_step, outline(params), memory[0], part)
            except BaseException:
                self.__exit__()
                raise

    def _start(self, context, *given):
        ours, theirs = context.Pipe()
        forked = context.get_start_method() == "fork"
        inherited = [*self.pipes, ours] if forked else []
        child = context.Process(target=_work, args=(theirs, inherited, *given), daemon=True)
        with nullcontext() if forked else signals_ignored():  # a spawned one ignores them from its first moment
            child.start()
        theirs.close()
        self.pipes.append(ours)
        self.children.append(child)

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
        mean = weights[0] * tree.pack(grads)
        losses = [float(loss), *(_talk(pipe.recv) for pipe in self.pipes)]
        for problem in losses:
            if isinstance(problem, str):
                raise ChildProcessError(f"a worker process failed: {problem}")
        for w, g in zip(weights[1:], self.gradients, strict=True):
            mean += w * g
        return math.fsum(w * x for w, x in zip(weights, losses, strict=True)), tree.unpack(mean, grads)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for pipe in self.pipes:
            pipe.close()
        for child in self.children:
            child.join()
            child.close()
        self.pipes, self.children = [], []


def outline(params):
    """Names and shapes alone: arrays of nothing."""
    return tree.map(lambda p: np.empty(p.shape, "V0"), params)


def _work(pipe, inherited, make_step, like, *memory):
    for other in inherited:  # else this worker would keep them open after the first process dies
        other.close()
    with signals_ignored():
        serve(pipe, make_step, like, *(np.frombuffer(part, np.float32) for part in memory))


def serve(pipe, make_step, like, vector, gradients):
    """A worker's life: it ends, without a word, when the other end of its pipe closes.

    Share after share of a batch comes, with weights like `like` in the vector; the loss of each goes back, with the
    gradients in place; or what went wrong, in words.
    """
    with suppress(EOFError, OSError), one_thread(), np.errstate(over="ignore", invalid="ignore"):
        step_fn, params = make_step(), tree.unpack(vector, like)
        while True:
            pipe.send(_share(step_fn, params, pipe.recv(), gradients))


def signals_ignored():
    """Ctrl-C reaches every process; the first one heeds it, and wants its step finished."""
    return signals_to(signal.SIG_IGN)


@contextmanager
def signals_to(handler):
    """Within it, Ctrl-C and a request to terminate go to `handler`."""
    old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


def _share(step_fn, params, batch, gradients):
    try:
        loss, found = step_fn(params, batch)
        np.copyto(gradients, tree.pack(found))
        return float(loss)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"


def spread(f, items, n):
    """Yield f(item) for each item, in order, worked out by `n` forked processes: for work that shares nothing.

    Where fork is not safe this process does it alone: f closes over a whole model, which a spawned one could not get.
    Raises ChildProcessError if a process dies; what f raises.
    """
    global _task
    n = min(n, len(items)) if METHOD == "fork" else 1
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
            pool.shutdown(cancel_futures=True)  # and wait: its thread would else meet the end of the interpreter


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


def _shared(size, method):
    """Memory for float32 numbers that the processes share. It has no name, and goes when the last of them does."""
    return mmap.mmap(-1, 4 * size) if method == "fork" else get_context(method).RawArray("f", size)
