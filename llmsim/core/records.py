"""Records of numbers: dataclasses, mappings and sequences of them, changed and joined number by number without a line
for each field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from .numeric import Number, where

Record = TypeVar("Record")
Join: TypeAlias = Callable[[Sequence[Any]], Number]
"""One number from those at the same place of several records, None where a record has no such place."""

_Shape: TypeAlias = Literal["number", "word", "mapping", "sequence", "record"]


def map_numbers(record: Record, change: Callable[[Number], Number]) -> Record:
    """The same record with every number changed: a selection of rows, a factor, a name.

    Names, flags and None stay as they are; so does a record whose ``constant`` says that it is told apart by identity.
    """
    found: Record = _mapped(record, change)
    return found


def _mapped(value: Any, change: Callable[[Number], Number]) -> Any:
    kind = value.__class__
    shape, names = _layout(kind)
    if shape == "number":
        return change(value)
    if shape == "word":
        return value
    if shape == "mapping":
        return {key: _mapped(own, change) for key, own in value.items()}
    if shape == "sequence":
        return kind([_mapped(own, change) for own in value])
    if getattr(value, "constant", False):
        return value
    return kind(**{name: _mapped(getattr(value, name), change) for name in names})


def concatenated(values: Sequence[Number]) -> np.ndarray:
    """Arrays one after the other along their last axis; a single number is one entry."""
    return np.concatenate([np.atleast_1d(v) for v in values], axis=-1)


def stack_records(
    records: Sequence[Record], join: Join = concatenated, *, order: Callable[[Iterable[str]], Iterable[str]] = list
) -> Record:
    """One record of several of the same class, their numbers joined place by place.

    Names stay, and flags and what is told apart by identity where all agree. Mappings have the keys of all of them and
    sequences are as long as the longest; where a record has no such entry, ``join`` finds None.

    Parameters
    ----------
    join
        What becomes of the numbers at one place: by default they are put one after the other along the last axis.
    order
        Of the keys of a mapping: by default as they are met.
    """

    def joined(values: Sequence[Any]) -> Any:
        present = [v for v in values if v is not None]
        if not present:
            return None
        first = present[0]
        shape, names = _layout(first.__class__)
        if shape == "word" and (isinstance(first, str) or values.count(first) == len(values)):
            return first
        if shape == "mapping":
            keys = order(dict.fromkeys(key for v in present for key in v))
            return {key: joined([None if v is None else v.get(key) for v in values]) for key in keys}
        if shape == "sequence":
            each = range(max(map(len, present)))
            return type(first)([joined([v[i] if v is not None and i < len(v) else None for v in values]) for i in each])
        if shape == "record":
            if all(getattr(v, "constant", False) for v in present):
                return first
            return type(first)(**{n: joined([None if v is None else getattr(v, n) for v in values]) for n in names})
        return join(values)

    found: Record = joined(records)
    return found


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
    shape, names = _layout(then.__class__)
    if shape == "record":
        return type(then)(**{name: _chosen(condition, getattr(then, name), getattr(otherwise, name)) for name in names})
    return where(condition, then, otherwise)


@lru_cache(maxsize=256)
def _layout(kind: type) -> tuple[_Shape, tuple[str, ...]]:
    """What values of a class are, and the names of a record's fields."""
    if issubclass(kind, (str, bool, type(None))):
        return "word", ()
    if issubclass(kind, Mapping):
        return "mapping", ()
    if issubclass(kind, (list, tuple)):
        return "sequence", ()
    return ("record", tuple(f.name for f in fields(kind))) if is_dataclass(kind) else ("number", ())
