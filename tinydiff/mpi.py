"""Several machines, one training step: `mpiexec -n 2 tinydiff train ...`, by MPI, the engine that clusters have.

Rank 0 is the run: it alone reads data, steps, looks at the clock, heeds Ctrl-C, prints and writes. The other ranks are
its workers, as in workers.py, but that what goes through a pipe there is a message here, and weights and gradients go
with it. The shares are added in the same order, so on machines alike n ranks make the same run as `--workers n`, bit
for bit (of pictures, n or more a step: `--workers` takes no more than that, and one for points).
"""
import atexit
import os

import numpy as np

from . import workers
from .tensor import tree

LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # how many ranks: set by Open MPI; by MPICH and its kin


def led(command, options):
    """command(options), where options.ranks are, under mpiexec, its communicator, else None. The other ranks serve it.

    Raises ImportError where mpi4py is missing, ValueError where it is of another MPI than mpiexec.
    """
    options.ranks = comm = _world()
    if comm is None:
        return command(options)
    options.workers, rank = 1, comm.Get_rank()  # a rank is one process
    try:
        return _serve(comm) if rank else command(options)
    except BaseException as problem:
        if rank or not isinstance(problem, Exception):  # the others may be waiting for what will never come
            atexit.register(comm.Abort, 1)  # once it has been said what went wrong
        raise
    finally:
        for other in range(1, 1 if rank else comm.Get_size()):
            comm.send(None, other)


def _world():
    size = max(int(os.environ.get(name, 1)) for name in LAUNCHED)
    if size == 1:
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as problem:  # it is missing, or finds no MPI
        raise ImportError(f"mpiexec started {size} ranks, which need mpi4py ({problem}): pip install mpi4py") from None
    if MPI.COMM_WORLD.Get_size() != size:
        raise ValueError(
            f"mpiexec started {size} ranks, but mpi4py sees {MPI.COMM_WORLD.Get_size()}: it is of another MPI; "
            "use that one's mpiexec"
        )
    return MPI.COMM_WORLD


def _serve(comm):
    """The life of another rank: its share of one run after another, until rank 0 has no more."""
    with workers.signals_ignored():
        while given := comm.recv(source=0):
            make_step, like = given
            vector, gradients = np.empty((2, tree.count(like)), np.float32)
            workers.serve(_Pipe(comm, 0, gradients, vector), make_step, like, vector, gradients)


class Ranks(workers.Workers):
    """Workers that are the other ranks of a communicator; each of them serves (`led`)."""

    def __init__(self, make_step, params, comm):
        if not all(isinstance(leaf, np.ndarray) for leaf in tree.leaves(params)):
            raise ValueError("mpiexec spreads a run over CPUs, got a GPU; add --device cpu, or leave mpiexec out")
        super().__init__(make_step, params, 1)
        self.n = comm.Get_size()
        self.vector, *self.gradients = np.empty((self.n, tree.count(params)), np.float32)
        for rank, gradients in enumerate(self.gradients, 1):
            comm.send((make_step, workers.outline(params)), rank)
            self.pipes.append(_Pipe(comm, rank, self.vector, gradients))

    def __exit__(self, kind=None, *rest):
        if kind is None or issubclass(kind, Exception):  # else at once, by `led`: no answer is waited for
            super().__exit__()


class _Pipe:
    """A pipe to another rank, that takes a vector along: the weights one way, a share's gradients the other."""

    def __init__(self, comm, rank, ours, theirs):
        self.comm, self.rank, self.ours, self.theirs, self.due = comm, rank, ours, theirs, False

    def send(self, message):
        self.comm.send((message, self.ours), self.rank)
        self.due = True

    def recv(self):
        found = self.comm.recv(source=self.rank)
        if found is None:
            raise EOFError
        message, self.theirs[...] = found
        self.due = False
        return message

    def close(self):
        if self.due:  # the other waits until its answer is taken
            self.recv()
        self.comm.send(None, self.rank)
