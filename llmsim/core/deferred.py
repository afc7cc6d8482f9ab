"""A value that is computed when it is first read: what most callers of an answer never look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Deferred(Generic[Value]):
    """A value that is computed when it is first read, and remembered.

    Two of them are equal if their values are. Between processes goes the value, not what it is made from.

    Parameters
    ----------
    compute
        Gives the value.

    Examples
    --------
    >>> answer = Deferred(lambda: 6 * 7)
    >>> answer.value
    42
    >>> answer == Deferred.known(42)
    True
    """

    __slots__ = ("_compute", "_value")
    _value: Value

    def __init__(self, compute: Callable[[], Value]):
        self._compute: Callable[[], Value] | None = compute

    @classmethod
    def known(cls, value: Value) -> Deferred[Value]:
        """One whose value is there already."""
        return cls(lambda: value)

    @property
    def value(self) -> Value:
        """The value."""
        if self._compute is not None:
            self._value, self._compute = self._compute(), None
        return self._value

    def __eq__(self, other: object) -> bool:
        return self.value == other.value if isinstance(other, Deferred) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by a value that comes later

    def __repr__(self) -> str:
        return f"Deferred({'...' if self._compute is not None else repr(self._value)})"

    def __reduce__(self) -> tuple[Callable[[Value], Deferred[Value]], tuple[Value]]:
        return Deferred.known, (self.value,)
