"""The training loop, as a generator: it yields after every step and knows no particular model.

A step is a pure function of (state, batch). A batch is a function of the step's number alone: its examples, times and
noise come from default_rng([seed, step]), so a resumed run is the same run, and no generator has to be saved.
"""
import dataclasses
import functools
import math
import time
from contextlib import contextmanager

from . import optim
from .tensor import tree
from .tensor.autodiff import xp_of
from .workers import signals_to


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train. The run ends at `steps` or `minutes`, whichever comes first; None means no such end.

    lr      : peak learning rate: up over `warmup` steps, then down to 0 along a half cosine as the run nears its end.
    clip    : longest gradient; average: decay of the moving average of the weights.
    With `steps` alone a run depends on nothing but its settings; with `minutes` the learning rate follows the clock.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 100
    clip: float = 1.0
    average: float = 0.999
    seed: int = 0

    def __post_init__(self):
        if self.steps is None and self.minutes is None:
            raise ValueError("a run needs an end: give steps, minutes, or both")
        for name in ("steps", "minutes", "batch", "lr", "clip"):
            number = getattr(self, name)
            if number is not None and not (number > 0 and math.isfinite(number)):
                raise ValueError(f"{name} must be more than 0, got {number}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be in [0, 1), got {self.average}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


@dataclasses.dataclass(frozen=True)
class State:
    """All that a run is between two steps: weights, their moving average, Adam's moments and step, seconds spent.

    params and average are trees, whose leaves are views of one vector each once a step has been made; the moments are
    vectors in the same order.
    """

    params: dict
    average: dict
    moments: dict
    seconds: float = 0.0

    @property
    def step(self):
        return self.moments["step"]

    @classmethod
    def start(cls, params):
        return cls(params, params, optim.adam_init(tree.pack(params)))


@dataclasses.dataclass(frozen=True)
class Report:
    """What one step found: its number (from 1), loss, gradient norm, learning rate, seconds trained, share done."""

    step: int
    loss: float
    norm: float
    lr: float
    seconds: float
    progress: float


def progress(settings, state):
    """How much of the run is done, 0 to 1: by steps or by the clock, whichever is further."""
    by_steps = state.step / settings.steps if settings.steps else 0.0
    by_clock = state.seconds / (60 * settings.minutes) if settings.minutes else 0.0
    return min(1.0, max(by_steps, by_clock))


def train(step_fn, batches, state, settings):
    """Yield (state, report) after each step, until the run is done.

    step_fn: (params, batch) -> (loss, gradients); batches: step number -> batch.
    The clock runs while the caller has the report, so pictures and checkpoints count as time spent.
    Raises FloatingPointError at the first step whose loss, gradient or new weights are not finite; the state last
    yielded is good.
    """
    began = time.perf_counter() - state.seconds
    while (done := progress(settings, state)) < 1:
        lr = optim.learning_rate(settings.lr, state.step, settings.warmup, done)
        state, loss, norm = _step(step_fn, batches(state.step), state, settings, lr)
        state = dataclasses.replace(state, seconds=time.perf_counter() - began)
        yield state, Report(state.step, loss, norm, lr, state.seconds, progress(settings, state))


def _step(step_fn, batch, state, settings, lr):
    """(state, loss, gradient norm): a function of its own, so that what it leaves behind is gone before the next."""
    loss, grads = step_fn(state.params, batch)
    gradient = tree.pack(grads)
    loss, norm = float(loss), optim.global_norm(gradient)
    update = functools.partial(_update, settings, state.step, lr, norm)
    vectors = tree.pack(state.params), tree.pack(state.average), state.moments["m"], state.moments["v"]
    vector, average, m, v = optim.by_slices(update, gradient, *vectors)
    params = tree.unpack(vector, state.params)
    if not all(map(math.isfinite, (loss, norm, optim.global_norm(vector)))):
        in_order = {"batch": batch, "weight": state.params, "gradient": grads, "new weight": params}
        raise FloatingPointError(
            f"step {state.step + 1} has the loss {loss:g} and a gradient of length {norm:g}; the first tensor that "
            f"is not finite: {first_not_finite(in_order)}; train anew with a smaller --lr"
        )
    moments = {"m": m, "v": v, "step": state.step + 1}
    return State(params, tree.unpack(average, params), moments), loss, norm


def _update(settings, step, lr, norm, gradient, params, average, m, v):
    """(params, average, m, v) after a step: each number by its own gradient, and the length of all."""
    gradient = optim.clip(gradient, norm, settings.clip)
    params, moments = optim.adam(params, gradient, {"m": m, "v": v, "step": step}, lr)
    return params, optim.ema(average, params, step, settings.average), moments["m"], moments["v"]


def first_not_finite(trees):
    """The name of the first leaf that holds a NaN or an infinity, or words to say that none does."""
    for name, leaf in tree.flatten(trees).items():
        if not bool(xp_of(leaf).isfinite(leaf).all()):
            return name
    return "none, but the loss, or a sum of squares"


@contextmanager
def interrupts():
    """Within it, Ctrl-C (or a request to terminate) sets `.signal` and lets the step finish; a second stops at once."""

    class Stop:
        signal = None

    stop = Stop()

    def on_signal(number, frame):
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = number

    with signals_to(on_signal):
        yield stop
