"""Records of numbers: dataclasses, mappings and sequences of them, changed number by number without a line for each
field."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar

from .numeric import Number, where

Record = TypeVar("Record")


def map_numbers(record: Record, change: Callable[[Number], Number]) -> Record:
    """The same record with every number changed: a selection of rows, a factor, a name.

    Names, flags and None stay as they are; so does a record whose ``constant`` says that it is told apart by identity.
    """
    found: Record = _mapped(record, change)
    return found


def _mapped(value: Any, change: Callable[[Number], Number]) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {key: _mapped(own, change) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(own, change) for own in value])
    if names := _fields(value.__class__):
        if getattr(value, "constant", False):
            return value
        return type(value)(**{name: _mapped(getattr(value, name), change) for name in names})
    return change(value)


def where_numbers(condition: Number, then: Record, otherwise: Record) -> Record:
    """A record with the numbers of one where a condition holds, and of another elsewhere; both of one shape. What both
    share stays the same object."""
    found: Record = _chosen(condition, then, otherwise)
    return found


def _chosen(condition: Number, then: Any, otherwise: Any) -> Any:
    if then is otherwise:
        return then
    if isinstance(then, tuple) and isinstance(otherwise, tuple):
        return tuple(_chosen(condition, a, b) for a, b in zip(then, otherwise, strict=True))
    if names := _fields(then.__class__):
        return type(then)(**{name: _chosen(condition, getattr(then, name), getattr(otherwise, name)) for name in names})
    return where(condition, then, otherwise)


@lru_cache(maxsize=256)
def _fields(kind: Hashable) -> tuple[str, ...]:
    """Names of the fields of a record; none for what is no record."""
    return tuple(f.name for f in fields(kind)) if isinstance(kind, type) and is_dataclass(kind) else ()
