"""Typed access to the keys of a config.json, with every spelling of a field and a record of what was read."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from ..core.errors import InputError, nearest_names
from .keys import SPELLINGS, is_neutral, is_off

LARGEST_SIZE = 10**7
LARGEST_CONTEXT = 10**9
MOST_LAYERS = 10_000

T = TypeVar("T")


class Reader:
    """One JSON object of a configuration.

    Every method that reads a field takes its canonical name and knows its other spellings; a value of null counts as
    absent. ``finish`` then refuses what nobody has read.

    Parameters
    ----------
    config
        The object; keys that begin with an underscore are comments.
    path
        Where it stands (``text_config.``), for messages.
    ignore
        Keys, with their path, that are left out.
    """

    def __init__(self, config: Mapping[str, Any], path: str = "", ignore: Iterable[str] = ()):
        self.path, self.ignore = path, frozenset(ignore)
        for key in config:
            if not isinstance(key, str):
                raise InputError(f"{path}key", key, "text")
        self.values = {k: v for k, v in config.items() if f"{path}{k}" not in self.ignore}
        self.done: set[str] = set()
        self.model_type = ""

    def find(self, field: str) -> tuple[str, Any] | None:
        """The key and the value of a field, None if it is absent or null."""
        spellings = SPELLINGS.get(field, (field,))
        self.done.update(spellings)
        found = [(key, self.values[key]) for key in spellings if self.values.get(key) is not None]
        for key, value in found[1:]:
            if value != found[0][1] or isinstance(value, bool) != isinstance(found[0][1], bool):
                self.refuse(key, value, f"contradicts {found[0][0]} = {found[0][1]!r}, which means the same")
        return found[0] if found else None

    def has(self, field: str) -> bool:
        """Whether a field is there and not null."""
        return self.find(field) is not None

    def unused(self, *fields: str) -> None:
        """Name fields that this family does not use, whatever their value."""
        for field in fields:
            self.done.update(SPELLINGS.get(field, (field,)))

    def integer(self, field: str, default: int | None = None, *, low: int = 1, high: int = LARGEST_SIZE) -> int:
        """A whole number; without a default it must be there."""
        value = self.optional(field, low=low, high=high)
        if value is not None:
            return value
        return default if default is not None else self.missing(field, "a whole number")

    def optional(self, field: str, *, low: int = 1, high: int = LARGEST_SIZE) -> int | None:
        """A whole number, None if it is absent or null."""
        found = self.find(field)
        if found is None:
            return None
        key, value = found
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(key, value, allowed=f"a whole number from {low} to {high}", nearest=_whole(value, low, high))
        return value

    def flag(self, field: str, default: bool) -> bool:
        """A truth value."""
        found = self.find(field)
        if found is None:
            return default
        key, value = found
        if not isinstance(value, bool):
            nearest = value == 1 if isinstance(value, (int, float)) and value in (0, 1) else None
            self.refuse(
                key, value, allowed="true or false", nearest=str(nearest).lower() if nearest is not None else ""
            )
        return value

    def choice(self, field: str, meanings: Mapping[str, T], default: T) -> T:
        """A word, as what it means."""
        found = self.find(field)
        return default if found is None else self._meaning(*found, meanings)

    def words(self, field: str, meanings: Mapping[str, T], length: int | None = None) -> list[T] | None:
        """A list of words (or a text of letters), each as what it means; None if it is absent."""
        found = self.find(field)
        if found is None:
            return None
        key, value = found
        if not isinstance(value, (list, tuple, str)) or not value or len(value) > MOST_LAYERS:
            self.refuse(key, value, allowed=f"a list of {', '.join(meanings)}, one a layer")
        if length is not None and len(value) != length:
            self.refuse(key, value, f"has {len(value)} entries", allowed=f"one a layer, {length} in all")
        return [self._meaning(f"{key}[{i}]", item, meanings) for i, item in enumerate(value)]

    def integers(self, field: str, *, low: int, high: int) -> list[int] | None:
        """A list of whole numbers, None if it is absent."""
        found = self.find(field)
        if found is None:
            return None
        key, value = found
        if not isinstance(value, (list, tuple)):
            self.refuse(key, value, allowed="a list of whole numbers")
        for i, item in enumerate(value):
            if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
                self.refuse(f"{key}[{i}]", item, allowed=f"a whole number from {low} to {high}")
        return list(value)

    def nested(self, field: str) -> Reader | None:
        """An object inside this one, None if it is absent."""
        found = self.find(field)
        if found is None:
            return None
        key, value = found
        if not isinstance(value, Mapping):
            self.refuse(key, value, allowed="an object with keys of its own")
        return Reader(value, f"{self.path}{key}.", self.ignore)

    def missing(self, field: str, allowed: str) -> NoReturn:
        """Refuse a configuration that lacks a field."""
        spellings = SPELLINGS.get(field, (field,))
        near = difflib.get_close_matches(field, sorted({*self.values} - self.done), n=1, cutoff=0.75)
        raise InputError(
            f"{self.path}{field}",
            None,
            f"{allowed} under {' or '.join(spellings)}",
            ", ".join(near),
            f"is missing (model type {self.model_type})" if self.model_type else "is missing",
        )

    def refuse(self, key: str, value: Any, why: str = "", allowed: str | None = None, nearest: Any = None) -> NoReturn:
        """Refuse a value."""
        raise InputError(f"{self.path}{key}", value, allowed, nearest, why)

    def finish(self, also_neutral: Callable[[str], bool] = lambda key: False) -> None:
        """Refuse keys that were not read and could change the cost."""
        unknown = [
            key
            for key, value in self.values.items()
            if not (key in self.done or value is None or key.startswith("_"))
            and not (is_neutral(key) or also_neutral(key) or is_off(key, value))
        ]
        if unknown:
            key = unknown[0]
            near = difflib.get_close_matches(key, sorted(self.done - {*self.values}), n=2, cutoff=0.75)
            ignore = ", ".join(f'"{self.path}{k}"' for k in unknown)
            why = f"is not understood for model type {self.model_type} and could change the cost"
            self.refuse(
                key,
                self.values[key],
                f"{why}; pass ignore=[{ignore}] (--ignore-key on the command line) to read the file without",
                nearest=", ".join(near),
            )

    def _meaning(self, key: str, value: Any, meanings: Mapping[str, T]) -> T:
        if not isinstance(value, str) or value not in meanings:
            near = nearest_names(value, meanings, 1) if isinstance(value, str) else []
            self.refuse(key, value, allowed=", ".join(meanings), nearest=", ".join(near))
        return meanings[value]


def _whole(value: Any, low: int, high: int) -> int | str:
    """The nearest whole number in range, nothing where there is none."""
    try:
        return min(max(round(float(value)), low), high)
    except (TypeError, ValueError, OverflowError):
        return ""
