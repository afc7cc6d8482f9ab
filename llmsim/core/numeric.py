"""The few functions that a cost formula needs beyond ``+ - * /``, for every kind of number.

A formula written with these functions and the arithmetic operators gives the same answer on a Python number, a NumPy
array (one entry a plan, or a calibration draw) and a SymPy expression, because it is the same code.

SymPy is never imported from here unless a symbol is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .symbolic import Symbolic, choose, log2_of

Number: TypeAlias = Any
"""An int, a float, a NumPy array, a SymPy expression or a :class:`~llmsim.core.symbolic.Symbolic`: formulas do not
ask."""


def is_symbolic(*values: Number) -> bool:
    """Whether any value is a SymPy expression, a symbol with a value, or an object array of either."""
    for v in values:
        if isinstance(v, np.ndarray):
            if v.dtype.hasobject:
                return True
        elif isinstance(v, Symbolic) or hasattr(v, "free_symbols"):
            return True
    return False


_NUMBERS = frozenset({int, float})


def _are_plain(values: tuple[Number, ...]) -> bool:
    return _NUMBERS.issuperset(map(type, values)) or all(map(_is_plain, values))


def _is_plain(value: Number) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, np.generic)


def plain_number(value: Number) -> Number:
    """A single number of NumPy's as Python's own, with which formulas are evaluated faster; all else as it is."""
    return value.item() if isinstance(value, np.number) else value


def _symbolic(name: str, *values: Number) -> Number:
    if any(isinstance(v, np.ndarray) for v in values):
        return np.frompyfunc(lambda *each: _symbolic(name, *each), len(values), 1)(*values)
    if any(isinstance(v, Symbolic) for v in values):
        return choose(name, values)
    if not is_symbolic(*values):
        return max(values) if name == "max" else min(values)
    import sympy

    return sympy.Max(*values) if name == "max" else sympy.Min(*values)


def maximum(first: Number, *others: Number) -> Number:
    """The largest of its arguments, elementwise."""
    if _are_plain((first, *others)):
        return max(first, *others) if others else first
    result = first
    for other in others:
        result = _symbolic("max", result, other) if is_symbolic(result, other) else np.maximum(result, other)
    return result


def minimum(first: Number, *others: Number) -> Number:
    """The smallest of its arguments, elementwise."""
    if _are_plain((first, *others)):
        return min(first, *others) if others else first
    result = first
    for other in others:
        result = _symbolic("min", result, other) if is_symbolic(result, other) else np.minimum(result, other)
    return result


def where(condition: Number, then: Number, otherwise: Number) -> Number:
    """``then`` where the condition holds, else ``otherwise``; a symbolic condition gives a ``Piecewise``."""
    if isinstance(condition, (bool, np.bool_)):
        return then if condition else otherwise
    if isinstance(condition, np.ndarray):
        if condition.dtype == object:
            return np.frompyfunc(where, 3, 1)(condition, then, otherwise)
        return np.where(condition, then, otherwise)
    import sympy

    if condition in (sympy.true, sympy.false):
        return then if condition == sympy.true else otherwise
    return sympy.Piecewise((then, condition), (otherwise, True))


def ceil_div(numerator: Number, divisor: Number) -> Number:
    """``ceil(numerator / divisor)`` on integers; on symbols the regime where it divides, ``numerator / divisor``.

    The symbolic regime is what a reader of a closed form wants; ``sympy.ceiling`` blocks simplification and
    differentiation. The gap to the true value is the padding of this plan.
    """
    if any(hasattr(v, "free_symbols") for v in (numerator, divisor)):
        return numerator / divisor
    return -(-numerator // divisor)


def log2(value: Number) -> Number:
    """The binary logarithm; vanishes at 1, so a group of one costs no steps."""
    if isinstance(value, np.ndarray):
        return np.frompyfunc(log2, 1, 1)(value) if value.dtype == object else np.log2(value)
    if isinstance(value, Symbolic):
        return log2_of(value)
    if is_symbolic(value):
        import sympy

        return sympy.log(value, 2)
    return float(np.log2(value))


def soft_maximum(a: Number, b: Number, sharpness: Number) -> Number:
    """``(a**q + b**q)**(1/q)`` for a, b >= 0: at least max(a, b), smooth, and scaled so that it never overflows."""
    high = maximum(a, b)
    low = minimum(a, b)
    return high * (1 + (low / maximum(high, 1e-300)) ** sharpness) ** (1 / sharpness)


def total(values: Iterable[Number]) -> Number:
    """The sum; 0 for nothing."""
    each = iter(values)
    result: Number = next(each, 0)
    for value in each:
        result = result + value
    return result


def product(values: Iterable[Number]) -> Number:
    """The product; 1 for nothing."""
    result: Number = 1
    for value in values:
        result = result * value
    return result


def stack(values: Sequence[Number], shape: tuple[int, ...] = ()) -> np.ndarray:
    """Values of several operators side by side: shape (operators, *plans), object dtype when symbolic.

    Parameters
    ----------
    shape
        Of the plans; values that do not depend on them are repeated.
    """
    if is_symbolic(*values):
        result = np.empty(len(values), dtype=object)
        result[:] = list(values)
        return result
    if not shape:
        return np.array(values) if values else np.zeros(0)
    whole = [v if getattr(v, "shape", None) == shape else np.broadcast_to(v, shape) for v in values]
    return np.stack(whole) if values else np.zeros((0, *shape))
