"""Arguments of public functions: what is no number, no text or of another kind is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from os import PathLike
from typing import Any, TypeVar, overload

from .errors import InputError, unknown_name

Kind = TypeVar("Kind")


def whole(value: Any, field: str, low: int = 1, high: int | None = None) -> int:
    """A whole number within bounds.

    Raises
    ------
    InputError
        For anything else, texts and fractions included.
    """
    allowed = f"a whole number from {low:,}" + ("" if high is None else f" to {high:,}")
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(field, value, allowed, low)
    number = int(value)
    if number < low or (high is not None and number > high):
        raise InputError(field, value, allowed, low if number < low else high)
    return number


def real(value: Any, field: str) -> float:
    """A number, which may still be out of bounds, infinite or none.

    Raises
    ------
    InputError
        For anything else.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(field, value, "a number", why=f"is of type {type(value).__name__}")
    return approximately(value)


def approximately(value: Real) -> float:
    """A number as a float; infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def text(value: Any, field: str, allowed: str = "a text") -> str:
    """A text.

    Raises
    ------
    InputError
        For anything else.
    """
    return of_kind(value, str, field, allowed)


@overload
def of_kind(value: Any, kind: type[Kind], field: str, allowed: str) -> Kind: ...


@overload
def of_kind(value: Any, kind: tuple[type, ...], field: str, allowed: str) -> Any: ...


def of_kind(value: Any, kind: type[Kind] | tuple[type, ...], field: str, allowed: str) -> Any:
    """An object of a class.

    Raises
    ------
    InputError
        For any other.
    """
    if not isinstance(value, kind):
        raise InputError(field, value, allowed, why=f"is of type {type(value).__name__}")
    return value


def listed(value: Any, field: str, allowed: str, alone: tuple[type, ...] = (str, PathLike)) -> list[Any]:
    """The entries of a sequence; one thing alone is a sequence of one.

    Raises
    ------
    InputError
        For what is no sequence.
    """
    if isinstance(value, alone):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, (bytes, dict)):
        raise InputError(field, value, allowed, why=f"is of type {type(value).__name__}")
    return list(value)


def known_arguments(given: Iterable[str], known: Iterable[str], function: str) -> None:
    """Refuse a name that a function does not take.

    Raises
    ------
    InputError
        With the nearest names.
    """
    for name in given:
        if name not in known:
            raise unknown_name(f"argument of {function}", name, known)
