"""The exact time of a pipeline: the longest path through its schedule.

A device runs its nodes in the schedule's order; a node waits for its neighbour's result and for the hop that brings it,
the gradients of weights for those of inputs.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from ..core.numeric import Number, maximum
from ..core.pipelines import ScheduleName, schedule_facts
from .orders import device_order, routes

Times: TypeAlias = Sequence[Sequence[Number]]
"""Seconds of one micro-batch, ``[device][chunk]``."""

_Node: TypeAlias = tuple[int, int, int, int]


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
    program = _program(schedule, pp, chunks, micro_batches)
    costs = _costs(program.lanes, forward, backward, weight, saved)
    arrived: list[Number] = [0.0] * program.slots
    clock: list[Number] = [0.0] * pp
    if isinstance(forward[0][0], np.ndarray):
        for i, ready, cost, end in program.nodes:
            now = np.maximum(clock[i], arrived[ready]) if ready else clock[i]
            clock[i] = now = now + costs[cost]
            arrived[end] = now + hop_s
    else:
        for i, ready, cost, end in program.nodes:
            now, free = clock[i], arrived[ready]
            if free > now:  # noqa: PLR1730 (a call would take as long as all the rest)
                now = free
            clock[i] = now = now + costs[cost]
            arrived[end] = now + hop_s
    each = micro_batches // len(routes(schedule, pp, chunks))
    busy: tuple[Number, ...] = tuple(each * (sum(forward[i]) + sum(backward[i])) for i in range(pp))
    if saved is not None:
        busy = tuple(b - pairs * less for b, pairs, less in zip(busy, program.pairs, saved, strict=True))
    return Timeline(maximum(*clock), busy, tuple(clock))


@dataclass(frozen=True)
class _Lane:
    """One kind of node of one chunk on a device: what it costs, and where its results go.

    ``ready`` and ``ends`` are the numbers of the results that it waits for and of its own, by micro-batch; ``hops`` and
    ``sends``: whether a message brings the former, and takes the latter to another device.
    """

    device: int
    kind: str
    chunk: int
    ready: range | None
    hops: bool
    ends: range
    sends: bool = False


@dataclass(frozen=True)
class _Program:
    """A schedule as a list of steps, each after all that it waits for: (device, slot of the message that it waits for,
    number of its lane, slot of the message with its result). Slot 0 is for those that wait for none: what comes from
    their own device is there, since it runs one node after the other. Slot 1 is for messages that nobody waits for.
    Slots are used again once their message has been read: steps then repeat themselves, so that a long schedule stays
    in the processor's cache."""

    nodes: list[_Node]
    slots: int
    lanes: list[_Lane]
    pairs: tuple[int, ...]


@lru_cache(maxsize=16)
def _program(schedule: ScheduleName, pp: int, chunks: int, micro_batches: int) -> _Program:
    """The steps of a schedule in an order in which they can be taken.

    Raises
    ------
    ValueError
        If the schedule is not defined for this shape, or deadlocks.
    """
    orders = [device_order(schedule, i, pp, chunks, micro_batches) for i in range(pp)]
    lanes, results = _lanes(schedule, pp, chunks, micro_batches)
    number = {(lane.device, lane.kind, lane.chunk): n for n, lane in enumerate(lanes)}
    held = [-1] * results  # result -> slot of its message
    free: dict[int, deque[int]] = defaultdict(deque)
    slots = 2
    nodes: list[_Node] = []
    same: dict[_Node, _Node] = {}
    position, left = [0] * pp, sum(map(len, orders))
    while left:
        before = left
        for i, order in enumerate(orders):
            at = position[i]
            while at < len(order):
                kind, chunk, j = order[at]
                n = number[i, kind, chunk]
                lane = lanes[n]
                message = 0
                if lane.ready is not None:
                    message = held[lane.ready[j]]
                    if message < 0:
                        break
                    if lane.hops:
                        free[lane.ready.start].append(message)
                    else:
                        message = 0
                slot = 1
                if lane.sends:
                    unused = free[lane.ends.start]
                    if unused:
                        slot = unused.popleft()
                    else:
                        slot, slots = slots, slots + 1
                held[lane.ends[j]] = slot
                node = (i, message, n, slot)
                nodes.append(same.setdefault(node, node))
                at += 1
            left -= at - position[i]
            position[i] = at
        if left == before:
            raise ValueError(f"schedule {schedule} deadlocks at p={pp}, v={chunks}, m={micro_batches}")
    pairs = tuple(sum(kind == "&" for kind, _, _ in order) for order in orders)
    return _Program(nodes, slots, lanes, pairs)


def _lanes(schedule: ScheduleName, pp: int, chunks: int, micro_batches: int) -> tuple[list[_Lane], int]:
    """The lanes of a schedule, and how many results they have, numbered from 0."""
    ways, split = routes(schedule, pp, chunks), schedule_facts(schedule).split
    count, results = micro_batches // len(ways), 0
    lanes: list[_Lane] = []

    def fresh() -> range:
        nonlocal results
        results += count
        return range(results - count, results)

    for way in ways:
        ahead, back = ([fresh() for _ in way] for _ in range(2))
        for part, (i, chunk) in enumerate(way):
            before, after = _hops(way, part), _hops(way, part + 1)
            start = ahead[part - 1] if part else None
            behind = back[part + 1] if part < len(way) - 1 else ahead[part]
            lanes += [
                _Lane(i, "F", chunk, start, before, ahead[part], after),
                _Lane(i, "B", chunk, behind, after, back[part], before),
            ]
            if split:
                lanes += [
                    _Lane(i, "I", chunk, behind, after, back[part], before),
                    _Lane(i, "W", chunk, back[part], False, fresh()),
                    _Lane(i, "<", chunk, start, before, fresh()),
                    _Lane(i, ">", chunk, None, False, ahead[part], after),
                    _Lane(i, "&", chunk, behind, after, back[part], before),
                ]
    return lanes, results


def _hops(way: Sequence[tuple[int, int]], part: int) -> bool:
    """Whether a message reaches a part from the one in front of it through a wire."""
    return 0 < part < len(way) and way[part - 1][0] != way[part][0]


def _costs(
    lanes: Sequence[_Lane], forward: Times, backward: Times, weight: Times | None, saved: Sequence[Number] | None
) -> list[Number]:
    """Seconds of a node of each lane."""
    found: list[Number] = []
    for lane in lanes:
        i, chunk = lane.device, lane.chunk
        whole = backward[i][chunk]
        later = 0.0 if weight is None else weight[i][chunk]
        if lane.kind == "F":
            found.append(forward[i][chunk])
        elif lane.kind == "B":
            found.append(whole)
        elif lane.kind == "I":
            found.append(whole - later)
        elif lane.kind == "W":
            found.append(later)
        elif lane.kind == "&":
            beside = forward[i][1 - chunk] if len(forward[i]) == 2 else 0.0
            found.append(beside + whole - (0.0 if saved is None else saved[i]))
        else:
            found.append(0.0)
    return found


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
