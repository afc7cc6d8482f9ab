"""The exact time of a pipeline: the longest path through its schedule.

A device runs its nodes in the schedule's order; a node waits for its neighbour's result and for the hop that brings it,
the gradients of weights for those of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from ..core.numeric import Number, maximum
from ..core.pipelines import ScheduleName, schedule_facts
from .orders import Node, device_order, routes

Times: TypeAlias = Sequence[Sequence[Number]]
"""Seconds of one micro-batch, ``[device][chunk]``."""


@dataclass(frozen=True)
class Timeline:
    """The outcome of a longest-path simulation; numbers, or arrays with one entry a pipeline.

    Attributes
    ----------
    seconds
        From the first node's start to the last node's end.
    busy
        Seconds of work of each device.
    finished
        When each device ends its last node.
    """

    seconds: Number
    busy: tuple[Number, ...]
    finished: tuple[Number, ...]


def longest_path(
    schedule: ScheduleName,
    forward: Times,
    backward: Times,
    micro_batches: int,
    hop_s: Number = 0.0,
    weight: Times | None = None,
    saved: Sequence[Number] | None = None,
) -> Timeline:
    """Exact time of a schedule with any times, of one pipeline or (with arrays) of many of one shape.

    Parameters
    ----------
    forward, backward
        Seconds of one micro-batch, ``[device][chunk]``; the way through them is that of
        :func:`~llmsim.training.orders.routes`.
    hop_s
        Seconds from one part to the next; none within a device.
    weight
        The part of ``backward`` that takes the gradients of weights (none by default), for schedules that run it apart.
    saved
        Seconds that a forward and a backward pass side by side take less than one after the other, by device, for
        schedules that pair them.

    Raises
    ------
    ValueError
        If the schedule is not defined for this shape, or deadlocks (it cannot for those built here).
    """
    pp, chunks = len(forward), len(forward[0])
    orders = _orders(schedule, pp, chunks, micro_batches)
    lanes = _lanes(schedule, forward, backward, micro_batches, hop_s, weight, saved)
    many = isinstance(forward[0][0], np.ndarray)
    position: list[int] = [0] * pp
    clock: list[Number] = [0.0] * pp
    left = sum(map(len, orders))
    while left:
        before = left
        for i in range(pp):
            order, lane, now = orders[i], lanes[i], clock[i]
            for at in range(position[i], len(order)):
                kind, chunk, j = order[at]
                ready, wait, cost, ends = lane[kind][chunk]
                free = ready[j]
                if free is None:
                    break
                free = free + wait
                if many:
                    now = np.maximum(now, free)
                elif free > now:
                    now = free
                ends[j] = now = now + cost
            else:
                at = len(order)
            left -= at - position[i]
            position[i], clock[i] = at, now
        if left == before:
            raise ValueError(f"schedule {schedule} deadlocks at p={pp}, v={chunks}, m={micro_batches}")
    each = micro_batches // len(routes(schedule, pp, chunks))
    busy: tuple[Number, ...] = tuple(each * (sum(forward[i]) + sum(backward[i])) for i in range(pp))
    if saved is not None:
        busy = tuple(b - sum(kind == "&" for kind, _, _ in orders[i]) * saved[i] for i, b in enumerate(busy))
    return Timeline(maximum(*clock), busy, tuple(clock))


@lru_cache(maxsize=32)
def _orders(schedule: ScheduleName, pp: int, chunks: int, micro_batches: int) -> list[list[Node]]:
    return [device_order(schedule, i, pp, chunks, micro_batches) for i in range(pp)]


_Lane: TypeAlias = tuple[list[Number], Number, Number, list[Number]]
"""Of one chunk and kind of node: when the results that it waits for end (None: not yet), by micro-batch; the hop that
brings them; its own seconds; when its own results end."""


def _lanes(
    schedule: ScheduleName,
    forward: Times,
    backward: Times,
    micro_batches: int,
    hop_s: Number,
    weight: Times | None,
    saved: Sequence[Number] | None,
) -> list[dict[str, list[_Lane]]]:
    """The lanes of each device, by kind of node and chunk."""
    pp, chunks = len(forward), len(forward[0])
    ways, split = routes(schedule, pp, chunks), schedule_facts(schedule).split
    lanes: list[dict[str, list[_Lane]]] = [{} for _ in range(pp)]
    count = micro_batches // len(ways)
    for way in ways:
        ahead, back = ([[None] * count for _ in way] for _ in range(2))
        now: list[Number] = [0.0] * count
        for part, (i, chunk) in enumerate(way):
            own = lanes[i].setdefault
            start = (ahead[part - 1], _hop(way, part, hop_s)) if part else (now, 0.0)
            behind = (back[part + 1], _hop(way, part + 1, hop_s)) if part < len(way) - 1 else (ahead[part], 0.0)
            whole = backward[i][chunk]
            own("F", []).append((*start, forward[i][chunk], ahead[part]))
            own("B", []).append((*behind, whole, back[part]))
            if not split:
                continue
            later = 0.0 if weight is None else weight[i][chunk]
            own("I", []).append((*behind, whole - later, back[part]))
            own("W", []).append((back[part], 0.0, later, [None] * count))
            own("<", []).append((*start, 0.0, [None] * count))
            own(">", []).append((now, 0.0, 0.0, ahead[part]))
            beside = forward[i][1 - chunk] if chunks == 2 else 0.0
            less = 0.0 if saved is None else saved[i]
            own("&", []).append((*behind, beside + whole - less, back[part]))
    return lanes


def _hop(way: Sequence[tuple[int, int]], part: int, hop_s: Number) -> Number:
    """Seconds that a message needs to reach a part from the one in front of it."""
    return hop_s if way[part - 1][0] != way[part][0] else 0.0


def pipeline_seconds(
    schedule: ScheduleName,
    forward: Times,
    backward: Times,
    micro_batches: int,
    hop_s: Number = 0.0,
    weight: Times | None = None,
    saved: Sequence[Number] | None = None,
) -> Number:
    """Time of a schedule, seconds, of one pipeline or (with arrays) of many of one shape: :func:`longest_path` for as
    many micro-batches as a pipeline needs to repeat itself, and its pace from then on."""
    pp = len(forward)
    if pp == 1:
        return micro_batches * (sum(forward[0]) + sum(backward[0]))

    def exact(count: int) -> Number:
        return longest_path(schedule, forward, backward, count, hop_s, weight, saved).seconds

    groups = max(32, 512 // pp)  # of pp micro-batches, as interleaving takes them
    if micro_batches < (groups + 1) * pp:
        return exact(micro_batches)
    last = groups * pp + micro_batches % pp
    half = last - groups // 2 * pp
    late = exact(last)
    return late + (micro_batches - last) * (late - exact(half)) / (last - half)
