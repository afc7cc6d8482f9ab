"""Prefixes that requests share and that stay in the cache until their blocks are wanted, the oldest first.

A prefix is known once the first prompt that begins with it is done. Its blocks belong to the cache from then on:
requests that use it hold on to it, and when none does it may be evicted as a whole.
"""

from __future__ import annotations

from collections import OrderedDict


class PrefixCache:
    """Shared prefixes of one replica, by group of requests."""

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, group: int) -> bool:
        return group in self._blocks

    @property
    def idle_blocks(self) -> int:
        """Blocks that may be evicted."""
        return sum(self._blocks[group] for group in self._idle)

    def add(self, group: int, blocks: int) -> None:
        """The blocks of a prompt that is done and holds on to them."""
        self._blocks[group] = blocks
        self._users[group] = 1

    def hold(self, group: int) -> None:
        """One more request uses it."""
        self._users[group] += 1
        self._idle.pop(group, None)

    def release(self, group: int) -> None:
        """One request fewer does."""
        self._users[group] -= 1
        if not self._users[group]:
            self._idle[group] = None

    def evict(self, wanted: int) -> int:
        """Blocks that are freed: at least as many as wanted, or all that nobody uses."""
        freed = 0
        while freed < wanted and self._idle:
            group, _ = self._idle.popitem(last=False)
            freed += self._blocks.pop(group)
            del self._users[group]
        return freed
