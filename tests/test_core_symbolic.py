"""Symbols with values: arithmetic keeps expression and number together, comparisons and choices go by the number."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.core.numeric import (
    ceil_div,
    is_symbolic,
    log2,
    maximum,
    minimum,
    product,
    soft_maximum,
    stack,
    total,
    where,
)
from llmsim.core.symbolic import Symbolic, recorded_switches, symbol

numbers = st.integers(1, 40)
patient = settings(deadline=None)
ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


def put_in(expr: Any, x: int, y: int) -> Any:
    return sympy.sympify(expr).subs({sympy.Symbol("x", positive=True): x, sympy.Symbol("y", positive=True): y})


@pytest.mark.parametrize("apply", ARITHMETIC)
@patient
@given(numbers, numbers)
def test_expression_and_value_stay_equal(apply: Callable[[Any, Any], Any], x: int, y: int) -> None:
    left, right = symbol("x", x), symbol("y", y)
    for found in (apply(left, right), apply(left, y), apply(x, right), apply(-left, right)):
        assert isinstance(found, Symbolic)
        assert float(found) == pytest.approx(float(put_in(found.expr, x, y)), rel=1e-12)
    assert apply(left, right).value == apply(left, y).value == apply(x, right).value == apply(x, y)


@patient
@given(numbers, numbers)
def test_whole_division_leaves_over_a_number(x: int, y: int) -> None:
    left, right = symbol("x", x), symbol("y", y)
    for found in (left // right, left // y, x // right):
        assert found.value == x // y
        assert put_in(found.expr, x, y) == x // y
    assert sympy.diff((left // y).expr, left.expr) == sympy.Rational(1, y)


@pytest.mark.parametrize("compare", COMPARISONS)
@patient
@given(numbers, numbers)
def test_comparisons_are_those_of_the_values(compare: Callable[[Any, Any], Any], x: int, y: int) -> None:
    left, right = symbol("x", x), symbol("y", y)
    for a, b in ((x, y), (x, x)):
        other = right if b is y else symbol("z", b)
        assert compare(left, other) is compare(a, b)
        assert compare(left, b) is compare(a, b)


@patient
@given(numbers, numbers)
def test_choices_go_by_value_and_are_recorded(x: int, y: int) -> None:
    left, right = symbol("x", x), symbol("y", y)
    with recorded_switches() as switches:
        high, low = maximum(left, right), minimum(left, right)
    assert (high.value, low.value) == (max(x, y), min(x, y))
    assert high is (left if x >= y else right)
    assert low is (left if x <= y else right)
    assert [s.function for s in switches] == ["max", "min"]
    assert [s.taken for s in switches] == [high.expr, low.expr]
    assert {s.taken for s in switches[:1]} | {s.left for s in switches[:1]} == {left.expr, right.expr}
    assert [s.ratio for s in switches] == [min(x, y) / max(x, y), max(x, y) / min(x, y)]
    maximum(left, right)
    assert len(switches) == 2


@patient
@given(numbers, numbers, numbers)
def test_every_kind_of_number_chooses_alike(x: int, y: int, z: int) -> None:
    for choose, plain in ((maximum, max), (minimum, min)):
        expected = plain(x, y, z)
        assert choose(x) == x
        assert choose(x, y, z) == expected
        assert choose(np.array([x, 1]), y, z).tolist() == [expected, plain(1, y, z)]
        assert choose(np.float64(x), y, z) == expected
        assert float(choose(symbol("x", x), y, z)) == expected
        objects = choose(np.array([symbol("x", x), 1], dtype=object), y, z)
        assert [float(v) for v in objects] == [expected, plain(1, y, z)]
        free = choose(sympy.Symbol("f"), y)
        assert free.subs(sympy.Symbol("f"), x) == plain(x, y)


@patient
@given(st.integers(-40, 40), numbers)
def test_rounding_up(n: int, d: int) -> None:
    assert ceil_div(n, d) == math.ceil(n / d)
    assert ceil_div(np.array([n, 7]), d).tolist() == [math.ceil(n / d), math.ceil(7 / d)]
    assert ceil_div(symbol("n", n), d).value == math.ceil(n / d)
    assert ceil_div(sympy.Symbol("n"), d) == sympy.Symbol("n") / d
    assert ceil_div(n, sympy.Symbol("d")) == n / sympy.Symbol("d")


@patient
@given(st.integers(0, 20))
def test_binary_logarithms(power: int) -> None:
    value = 2**power
    assert log2(value) == power
    assert log2(np.array([value, 2])).tolist() == [power, 1]
    symbolic = log2(symbol("x", value))
    assert symbolic.value == power
    for expr in (symbolic.expr, log2(sympy.Symbol("x", positive=True))):
        assert float(put_in(expr, value, 1)) == pytest.approx(power)
    mixed = log2(np.array([symbol("x", value), 8], dtype=object))
    assert [float(v) for v in mixed] == [power, 3]


@patient
@given(numbers, numbers, st.sampled_from([2.0, 4.0, 8.0]))
def test_a_soft_maximum_is_a_norm(a: int, b: int, q: float) -> None:
    expected = (a**q + b**q) ** (1 / q)
    assert soft_maximum(a, b, q) == pytest.approx(expected, rel=1e-12)
    assert soft_maximum(a * 1e-30, b * 1e-30, q) == pytest.approx(expected * 1e-30, rel=1e-12)
    assert soft_maximum(a, 0, q) == a
    assert soft_maximum(0, 0, q) == 0
    assert soft_maximum(1e200, 1e200, q) == pytest.approx(1e200 * 2 ** (1 / q))


def test_conditions_of_every_kind() -> None:
    assert where(True, 1, 2) == where(np.bool_(True), 1, 2) == where(sympy.true, 1, 2) == 1
    assert where(False, 1, 2) == where(np.bool_(False), 1, 2) == where(sympy.false, 1, 2) == 2
    assert where(np.array([True, False]), 1, 2).tolist() == [1, 2]
    assert where(np.array([True, False], dtype=object), 1, 2).tolist() == [1, 2]
    x = sympy.Symbol("x")
    assert [where(x > 1, 1, 2).subs(x, v) for v in (0, 1, 3)] == [2, 2, 1]
    assert where(symbol("x", 3) > 1, 1, 2) == 1


def test_sums_and_products_of_nothing() -> None:
    assert (total([]), product([])) == (0, 1)
    assert (total([2, 3, 4]), product([2, 3, 4])) == (9, 24)


def test_values_side_by_side() -> None:
    assert stack([]).shape == (0,)
    assert stack([], (2, 3)).shape == (0, 2, 3)
    assert stack([1, 2]).tolist() == [1, 2]
    assert stack([np.array([1, 2]), 3], (2,)).tolist() == [[1, 2], [3, 3]]
    x = symbol("x", 2)
    mixed = stack([x, 3])
    assert mixed.dtype == object
    assert list(mixed) == [x, 3]


def test_what_is_a_symbol() -> None:
    x = symbol("x", 2)
    assert is_symbolic(x)
    assert is_symbolic(1, sympy.Symbol("y"))
    assert is_symbolic(np.array([1, x], dtype=object))
    assert not is_symbolic()
    assert not is_symbolic(1, 2.0, np.array([1.0, 2.0]))


def test_equal_symbols_are_one_key() -> None:
    assert repr(symbol("x", 2)) == "Symbolic(x, 2)"
    assert len({symbol("x", 2), symbol("x", 2), symbol("x", 3), symbol("y", 2)}) == 3
    assert symbol("x", 2).expr.is_positive
    assert symbol("x", 2, positive=False).expr.is_positive is False
