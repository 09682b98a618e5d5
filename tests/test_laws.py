"""Every law on inputs that hypothesis draws; the comparator where it must fail; no function without a law."""
import inspect
import re
from fractions import Fraction
from importlib import import_module, util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_rooms import MATHS

from tinydiff import laws, schedule
from tinydiff.laws import LAWS, LawBroken, compare, domains
from tinydiff.laws.law import Law

# Every law


class Chooser:
    """The twin of laws.Chooser: the same four ways to draw, out of hypothesis."""

    def __init__(self, draw, exact=False):
        self.draw, self.exact = draw, exact

    def integer(self, low, high):
        return self.draw(st.integers(low, high))

    def real(self, low, high):
        return self.draw(st.floats(low, high))

    def array(self, shape, low, high):
        return self.draw(arrays.arrays(np.float64, shape, elements=st.floats(low, high)))

    def one_of(self, options):
        return self.draw(st.sampled_from(options))


def holds(law, examples, exact=False):
    """Check one law on that many drawn inputs."""

    @settings(derandomize=True, deadline=None, database=None, max_examples=examples)
    @given(st.data())
    def check(data):
        law.check(law.draw(Chooser(data.draw, exact)), exact)

    check()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_law(law):
    holds(law, 25 if isinstance(law.kind, str) else 3)


@pytest.mark.parametrize("law", [law for law in LAWS.values() if law.exact], ids=lambda law: law.name)
def test_law_on_fractions(law):
    holds(law, 25, exact=True)


def test_the_twin_choosers_draw_alike():
    ways = [{name for name in vars(chooser) if name[0] != "_"} for chooser in (Chooser, laws.Chooser)]
    assert ways[0] == ways[1] == {"integer", "real", "array", "one_of"}


# The comparator

REVERSED = (np.array([1.0, 2.0, 3.0, 4.0]), np.array([4.0, 3.0, 2.0, 1.0]))


@pytest.mark.parametrize(
    "left, right, scale",
    [
        pytest.param(*REVERSED, None, id="swapped entries, of equal sum"),
        pytest.param(np.array([1.0, -1.0]), np.array([-1.0, 1.0]), None, id="wrong sign, of equal sum"),
        pytest.param(1.0, -1.0, None, id="wrong sign"),
        pytest.param(1.0, 1.0 + 1e-9, None, id="the tenth digit"),
        pytest.param(np.array([1e9, 1.0]), np.array([1e9, 1.1]), None, id="a small entry beside a large one"),
        pytest.param(1e-30, 2e-30, None, id="tiny and wrong by a factor"),
        pytest.param((1.0, 2.0), (1.0, 2.1), None, id="second of a tuple"),
        pytest.param((1.0, (2.0, 3.0)), (1.0, (2.0, 4.0)), None, id="nested tuple"),
        pytest.param(1e-12, 0.0, None, id="nothing where nothing should be"),
        pytest.param(1.0, 2.0, 0.0, id="zero scale"),
        pytest.param(np.ones(2), np.array([1.0, 2.0]), np.array([0.0, 0.0]), id="zero scales"),
        pytest.param(Fraction(1, 3), Fraction(333_333_333, 1_000_000_000), 1, id="fractions nearly alike"),
        pytest.param(Fraction(1, 3), 1 / 3 + 1e-9, 1, id="a fraction and a number"),
    ],
)
def test_a_difference_is_seen(left, right, scale):
    assert compare("==", left, right, scale) > 1e-10
    assert compare("==", right, left, scale) > 1e-10
    assert compare("==", left, left, scale) == 0


@pytest.mark.parametrize(
    "left, right",
    [
        pytest.param(np.nan, np.nan, id="NaN"),
        pytest.param(np.array([1.0, np.nan]), np.array([1.0, np.nan]), id="NaN in an array"),
        pytest.param(np.inf, np.inf, id="infinity"),
        pytest.param(1.0, -np.inf, id="minus infinity"),
        pytest.param(np.zeros(0), np.zeros(0), id="empty arrays"),
        pytest.param((), (), id="empty tuples"),
        pytest.param(np.ones(3), 1.0, id="shapes that would broadcast"),
        pytest.param(np.ones((2, 1)), np.ones((1, 2)), id="shapes that are transposed"),
        pytest.param((1.0, 2.0), (1.0,), id="tuples of different lengths"),
        pytest.param((1.0, 2.0), np.array([1.0, 2.0]), id="tuple and array"),
        pytest.param(np.array([Fraction(1), np.nan]), np.array([Fraction(1), 1.0]), id="NaN among fractions"),
    ],
)
@pytest.mark.parametrize("kind", ["==", "<="])
def test_what_cannot_be_compared_is_broken(kind, left, right):
    with pytest.raises(LawBroken):
        compare(kind, left, right)


@pytest.mark.parametrize("scale", [np.nan, np.array([1.0, np.nan]), np.inf, -1.0], ids=str)
def test_a_scale_must_be_a_size(scale):
    with pytest.raises(LawBroken):
        compare("==", np.ones(2), np.zeros(2), scale)


def test_an_inequality_has_a_direction():
    assert compare("<=", 1.0, 2.0) == 0
    assert compare("<=", np.array([1.0, 3.0]), np.array([2.0, 2.0]), 1.0) == 1


def broken(sides, kind="==", tol=1e-10):
    """What the law says of two sides that are given, None where it holds."""
    law = Law("a law", "", "", (), sides, kind, tol, False, {})
    try:
        law.check({})
    except LawBroken as problem:
        return str(problem)


@pytest.mark.parametrize(
    "sides, kind, tol, why",
    [
        (lambda: (1.0, 1.1), "==", 1e-10, "exceeds"),
        (lambda: (1.0, float("nan")), "==", float("inf"), "not finite"),
        (lambda n=10: (1.0 / n, 0.0), 2, 0.1, "exceeds"),
        (lambda n=10: (n**-2.0, 0.0), 1, 0.1, "exceeds"),
        (lambda n=10: (1.0, 0.0), 1, 0.1, "exceeds"),
        (lambda n=10: (1.0 / n, float("inf")), 1, 0.1, "not finite"),
        (lambda n=10: (1e-15 / n, 0.0), 1, 0.1, "round-off"),
        (lambda n=10: (1.0, 1.0), 1, 0.1, "round-off"),
    ],
)
def test_a_law_breaks(sides, kind, tol, why):
    assert why in broken(sides, kind, tol)


def test_a_law_of_order_two_holds():
    assert broken(lambda n=10: (1 + 3.0 / n**2, 1.0), 2, 0.01) is None


# The runner


@pytest.fixture
def register(monkeypatch):
    """Register laws that are forgotten after the test."""
    monkeypatch.setattr(import_module("tinydiff.laws.law"), "LAWS", {})
    return laws.law


def test_run_reports_a_broken_law_and_goes_on(register):
    @register("none", of=[])
    def numbers_are_positive(x: domains.Number):
        """|x| = x."""
        return abs(x), x

    @register("none", of=[])
    def numbers_are_themselves(x: domains.Number):
        """x = x."""
        return x, x

    (bad, done, _, problem), (good, all_done, worst, nothing) = laws.run()
    assert bad.name == "numbers_are_positive" and done < 20 and "|x| = x" in problem and "'x': -" in problem
    assert good.name == "numbers_are_themselves" and all_done == 20 and worst == 0 and nothing is None


def test_run_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="unknown law 'gravity'"):
        list(laws.run(["one_jump_is_many_steps", "gravity"]))


def test_run_draws_by_its_seed_and_takes_what_is_given(register):
    seen = []

    @register("none", of=[], exact=True)
    def anything(schedule: domains.Schedule, t: domains.Time, x: domains.Number):
        """1 = 1."""
        seen.append((schedule.T, t, x))
        return 1, 1

    def inputs(**how):
        seen.clear()
        list(laws.run(cases=5, **how))
        return list(seen)

    assert inputs(seed=3) == inputs(seed=3) != inputs(seed=4)
    assert len(inputs(seed=3)) == 10 and any(isinstance(x, Fraction) for _, _, x in seen)
    own = schedule.Schedule([0.1] * 77)
    floats, fractions = inputs(seed=3, schedule=own)[:5], seen[5:]
    assert {T for T, _, _ in floats} == {77} and max(T for T, _, _ in fractions) < 77


def test_every_law_holds_by_its_own_chooser():
    """What `tinydiff check` does."""
    assert [(law.name, problem) for law, _, _, problem in laws.run(cases=3) if problem] == []


# Nothing without a source and a law


def public(module):
    """The functions and classes that a module defines, and the methods and properties of those classes."""
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__:
            yield f"{module.__name__}.{name}", value
            for n, member in vars(value).items() if inspect.isclass(value) else ():
                if not n.startswith("_") and (callable(member) or isinstance(member, property)):
                    yield f"{module.__name__}.{name}.{n}", member


WING = [import_module(f"tinydiff.{room}") for room in MATHS if util.find_spec(f"tinydiff.{room}")]
PUBLIC = {name: value for module in WING for name, value in public(module)}


def test_the_wing_is_not_empty():
    assert len(WING) >= 6 and len(PUBLIC) > 40


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if name.count(".") == 2])
def test_a_function_names_its_source(name):
    assert re.search(r"^\s*Source : \S", inspect.getdoc(PUBLIC[name]) or "", re.MULTILINE)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_function_is_pinned_by_a_law(name):
    assert any(PUBLIC[name] is pinned for law in LAWS.values() for pinned in law.of)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_states_itself_and_its_functions(law):
    assert law.equation and law.statement.endswith((".", ":", ")")) and law.of
