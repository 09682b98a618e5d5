"""What a law is, how its inputs are drawn, and how its two sides are compared.

A law is a function that computes one thing in two ways and returns both. Its arguments are annotated with *domains*
(domains.py), so that anybody may draw them: hypothesis in the tests, a seeded generator in `tinydiff check`.

    @law("DDPM (4)", of=[schedule.Schedule])
    def one_jump_is_many_steps(schedule: Schedule, t: Time):
        ...
        return left, right                        # or left, right, scale

kind "==" : |left - right| <= tol · scale, elementwise; the scale is the larger side unless the law gives one (the sum
            of the magnitudes that it added, so that cancellation asks for no wide tolerance)
kind "<=" : left <= right, up to tol · scale
kind p    : a number: the law takes n, and |left - right| must fall like n^-p; n is doubled three times, and the slope
            on log-log paper must be p to within `tol`
exact     : the law also holds on Fractions, with tolerance 0
"""
import dataclasses
import inspect
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

LAWS: dict[str, "Law"] = {}


class LawBroken(AssertionError):
    """A law did not hold, or its sides could not be compared."""


@dataclasses.dataclass(frozen=True)
class Law:
    name: str
    equation: str
    statement: str
    of: tuple
    sides: Callable
    kind: Any
    tol: float
    exact: bool
    domains: dict

    def draw(self, choose, **given):
        """One set of inputs; `given` ones are taken as they are."""
        got = {}
        for name, domain in self.domains.items():
            got[name] = given[name] if name in given else domain(choose, got)
        return got

    def check(self, inputs, exact=False):
        """The worst error, as a share of the scale (of the order, for a rate). Raises LawBroken if beyond `tol`."""
        if isinstance(self.kind, str):
            error, tol = compare(self.kind, *self.sides(**inputs)), 0.0 if exact else self.tol
        else:
            error, tol = abs(self._order(inputs) - self.kind), self.tol
        if not error <= tol:
            raise LawBroken(f"{self.name}: error {error:.3g} exceeds {tol:.3g} ({self.statement}) for {inputs}")
        return error

    def _order(self, inputs):
        n = inspect.signature(self.sides).parameters["n"].default
        sizes = [n, 2 * n, 4 * n, 8 * n]
        errors = []
        for size in sizes:
            left, right, *scale = self.sides(**inputs, n=size)
            errors.append(compare("==", left, right, *(scale or [1.0])))
        if min(errors) < 1e-13:
            raise LawBroken(f"{self.name}: errors {errors} are at round-off: they show no order")
        return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def law(equation, of, kind="==", tol=1e-12, exact=False):
    """Register the decorated function as a law of the functions `of`."""

    def register(sides):
        parameters = inspect.signature(sides).parameters
        domains = {name: p.annotation for name, p in parameters.items() if name != "n"}
        statement = inspect.getdoc(sides).splitlines()[0]
        LAWS[sides.__name__] = Law(sides.__name__, equation, statement, tuple(of), sides, kind, tol, exact, domains)
        return sides

    return register


def compare(kind, left, right, scale=None):
    """The worst of |left - right| / scale ("==") or (left - right)⁺ / scale ("<="), over numbers, arrays or tuples."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        if type(left) is not type(right) or len(left) != len(right) or not left:
            raise LawBroken(f"the sides have different shapes: {left} and {right}")
        scales = scale if isinstance(scale, tuple) else (scale,) * len(left)
        return max(compare(kind, *sides) for sides in zip(left, right, scales, strict=True))
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape or not left.size:
        raise LawBroken(f"the sides have shapes {left.shape} and {right.shape}")
    if not (_finite(left) and _finite(right)):
        raise LawBroken(f"a side is not finite: {left} and {right}")
    gaps, scales = np.broadcast_arrays(left - right, np.maximum(abs(left), abs(right)) if scale is None else scale)
    if not _finite(scales) or (scales < 0).any():
        raise LawBroken(f"a scale is a size, not {scale}")
    return max(_worst(kind, gap, s) for gap, s in zip(gaps.flat, scales.flat, strict=True))


def _finite(numbers):
    return np.isfinite(numbers.astype(float)).all()


def _worst(kind, gap, scale):
    if kind == "<=" and gap <= 0 or gap == 0:
        return 0.0
    return float("inf") if scale == 0 else float(abs(gap) / scale)


class Chooser:
    """Draws with a NumPy generator; tests/test_laws.py has its twin for hypothesis.

    exact: domains make Fractions. Ends of an interval are legal inputs and are drawn one time in ten.
    """

    def __init__(self, rng, exact=False):
        self.rng, self.exact = rng, exact

    def integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def real(self, low, high):
        u = self.rng.random()
        return float(low if u < 0.05 else high if u > 0.95 else self.rng.uniform(low, high))

    def array(self, shape, low, high):
        return self.rng.uniform(low, high, shape)

    def one_of(self, options):
        return options[self.integer(0, len(options) - 1)]


def run(names=None, seed=0, cases=20, **given):
    """Check laws on freshly drawn inputs: yields (law, cases, worst error, None or what broke).

    names: those laws (all unless given); given: inputs to take instead of drawing them, e.g. schedule=...; exact runs
    draw their own. A law about rates is worked out on two cases: each is four runs already.
    Raises ValueError for an unknown name.
    """
    unknown = [name for name in names or [] if name not in LAWS]
    if unknown:
        raise ValueError(f"unknown law {unknown[0]!r}; `tinydiff check` alone lists them all")
    for law in [LAWS[name] for name in names or LAWS]:
        worst, broken, done = 0.0, None, 0
        for exact in (False, True) if law.exact else (False,):
            choose = Chooser(np.random.default_rng([seed, zlib.crc32(law.name.encode()), exact]), exact)
            for _ in range(cases if isinstance(law.kind, str) else 2):
                inputs = law.draw(choose, **({} if exact else given))
                try:
                    worst, done = max(worst, law.check(inputs, exact)), done + 1
                except LawBroken as problem:
                    broken = broken or str(problem)
        yield law, done, worst, broken
