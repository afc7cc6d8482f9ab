"""A symbol with a value: closed forms in the regime that a plan is in.

A rate is full of ``max``, ``min`` and conditions. Kept as such in an expression they block simplification and
differentiation; resolved by the numbers of one plan they leave the formula that holds around it. A :class:`Symbolic`
carries both, the expression and the number; every choice is made by the number and can be recorded with its distance
to the switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Switch:
    """A choice between branches that was made by value.

    Attributes
    ----------
    function
        ``max`` or ``min``.
    taken, left
        Expressions of the branch that holds and of the nearest other one.
    ratio
        Value of the one left over that of the one taken: near 1 means near the switch.
    """

    function: str
    taken: Any
    left: Any
    ratio: float


_switches: ContextVar[list[Switch] | None] = ContextVar("switches", default=None)


@contextmanager
def recorded_switches() -> Iterator[list[Switch]]:
    """Collect the choices that are made inside the block."""
    found: list[Switch] = []
    token = _switches.set(found)
    try:
        yield found
    finally:
        _switches.reset(token)


class Symbolic:
    """An expression and its value under a plan's numbers; arithmetic keeps both, comparisons use the value."""

    __slots__ = ("expr", "value")

    def __init__(self, expr: Any, value: float):
        self.expr, self.value = expr, value

    def _with(self, other: Any, combine: Callable[[Any, Any], Any]) -> Symbolic:
        if hasattr(other, "__array__"):
            return NotImplemented  # type: ignore[no-any-return]  # arrays take their elements one by one
        expr, value = _parts(other)
        return Symbolic(combine(self.expr, expr), combine(self.value, value))

    def __add__(self, other: Any) -> Symbolic:
        return self._with(other, lambda a, b: a + b)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Symbolic:
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> Symbolic:
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other: Any) -> Symbolic:
        return self._with(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Symbolic:
        return self._with(other, lambda a, b: a / b)

    def __rtruediv__(self, other: Any) -> Symbolic:
        return self._with(other, lambda a, b: b / a)

    def __floordiv__(self, other: Any) -> Symbolic:
        """Whole division; in the expression what is left over is a number: 0 in the regime where it divides."""
        return NotImplemented if hasattr(other, "__array__") else _whole(self, other)

    def __rfloordiv__(self, other: Any) -> Symbolic:
        return _whole(other, self)

    def __pow__(self, other: Any) -> Symbolic:
        return self._with(other, lambda a, b: a**b)

    def __rpow__(self, other: Any) -> Symbolic:
        return self._with(other, lambda a, b: b**a)

    def __neg__(self) -> Symbolic:
        return Symbolic(-self.expr, -self.value)

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < _parts(other)[1])

    def __le__(self, other: Any) -> bool:
        return bool(self.value <= _parts(other)[1])

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > _parts(other)[1])

    def __ge__(self, other: Any) -> bool:
        return bool(self.value >= _parts(other)[1])

    def __eq__(self, other: object) -> bool:
        return bool(self.value == _parts(other)[1])

    def __hash__(self) -> int:
        return hash((self.expr, self.value))

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return f"Symbolic({self.expr}, {self.value})"


def _parts(value: Any) -> tuple[Any, Any]:
    return (value.expr, value.value) if isinstance(value, Symbolic) else (value, value)


def _whole(numerator: Any, divisor: Any) -> Symbolic:
    (expr, value), (by, number) = _parts(numerator), _parts(divisor)
    return Symbolic((expr - value % number) / by, value // number)


def symbol(name: str, value: float, **assumptions: bool) -> Symbolic:
    """A SymPy symbol (positive unless said otherwise) with its value."""
    import sympy

    return Symbolic(sympy.Symbol(name, **({"positive": True} | assumptions)), value)


def choose(function: str, values: tuple[Any, ...]) -> Any:
    """The largest or smallest by value; the choice is recorded where somebody listens."""
    pick = max if function == "max" else min
    taken = pick(values, key=lambda v: _parts(v)[1])
    listeners = _switches.get()
    rest = [v for v in values if v is not taken]
    if listeners is not None and rest:
        nearest = pick(rest, key=lambda v: _parts(v)[1])
        (expr, value), (other, second) = _parts(taken), _parts(nearest)
        listeners.append(Switch(function, expr, other, float(second) / float(value) if value else 0.0))
    return taken


def log2_of(value: Symbolic) -> Symbolic:
    """Binary logarithm; expressions that are no SymPy ones have a method for it."""
    import math

    number = math.log2(value.value)
    if hasattr(value.expr, "log2"):
        return Symbolic(value.expr.log2(), number)
    import sympy

    return Symbolic(sympy.log(value.expr, 2), number)
