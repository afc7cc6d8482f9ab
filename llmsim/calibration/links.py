"""Keeping together what must not be parted: rows of one group never stand on both sides of a split."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def linked(rows: Iterable[tuple[Key, Hashable]]) -> dict[Key, frozenset[Key]]:
    """Each key with the keys that it shares a group with, directly or through others.

    Parameters
    ----------
    rows
        (key, group) of each row.
    """
    together: dict[Key, set[Key]] = {}
    of_group: dict[Hashable, Key] = {}
    for key, group in rows:
        own = together.setdefault(key, {key})
        other = together[of_group.setdefault(group, key)]
        if other is not own:
            own |= other
            for member in other:
                together[member] = own
    return {key: frozenset(members) for key, members in together.items()}
