"""What a row of the family table may hold in place of a constant: a rule that reads the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from .reader import Reader

T = TypeVar("T")

Rule: TypeAlias = T | Callable[[Reader], T]


@dataclass(frozen=True)
class Switch(Generic[T]):
    """One of two answers, by a flag of the configuration; ``default`` is the flag where the file does not say."""

    key: str
    default: bool
    on: T
    off: T

    def __call__(self, r: Reader) -> T:
        return self.on if r.flag(self.key, self.default) else self.off


def flag(key: str, default: bool = False) -> Switch[bool]:
    """The flag itself."""
    return Switch(key, default, True, False)


def answer(rule: Rule[T], r: Reader) -> T:
    """The constant, or what the rule reads."""
    return rule(r) if callable(rule) else rule
