"""Pipeline schedules: the exact longest path of one plan, and closed forms that whole tables of plans share.

Forward and backward of every (chunk, micro-batch) are nodes; a device runs its nodes in the schedule's order; a node
waits for its neighbour's result and for the hop that brings it. The longest path through that graph is the time of
the pipeline.

References
----------
GPipe: Huang 2018, arXiv:1811.06965. One forward one backward, interleaved: Narayanan 2021, arXiv:2104.04473.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeAlias

import numpy as np

from ..core.shim import Number, maximum, minimum

ScheduleName = Literal["gpipe", "1f1b", "interleaved"]
SCHEDULES: tuple[ScheduleName, ...] = ("gpipe", "1f1b", "interleaved")

Node: TypeAlias = tuple[str, int, int]
"""(``F`` or ``B``, chunk on this device, micro-batch)."""


def device_order(schedule: ScheduleName, rank: int, pp: int, chunks: int, micro_batches: int) -> list[Node]:
    """The nodes of one device in the order in which it runs them.

    Interleaved schedules take micro-batches in groups of ``pp`` (the last group may be smaller) through each chunk in
    turn.
    """
    if schedule in {"gpipe", "1f1b"} or chunks == 1:
        units = [(0, j) for j in range(micro_batches)]
        warm = micro_batches if schedule == "gpipe" else min(pp - rank - 1, micro_batches)
        return _alternate(units, units, warm)
    groups = [range(g, min(g + pp, micro_batches)) for g in range(0, micro_batches, pp)]
    ahead = [(c, j) for group in groups for c in range(chunks) for j in group]
    back = [(c, j) for group in groups for c in reversed(range(chunks)) for j in group]
    warm = min(2 * (pp - rank - 1) + (chunks - 1) * pp, len(ahead))
    return _alternate(ahead, back, warm)


def _alternate(ahead: Sequence[tuple[int, int]], back: Sequence[tuple[int, int]], warm: int) -> list[Node]:
    """Some forward nodes to warm up, then forward and backward in turn."""
    forward: list[Node] = [("F", c, j) for c, j in ahead]
    backward: list[Node] = [("B", c, j) for c, j in back]
    turns = [node for pair in zip(forward[warm:], backward, strict=False) for node in pair]
    return [*forward[:warm], *turns, *backward[len(forward) - warm :]]


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
    forward: Sequence[Sequence[Number]],
    backward: Sequence[Sequence[Number]],
    micro_batches: int,
    hop_s: Number = 0.0,
) -> Timeline:
    """Exact time of a schedule with any times, of one pipeline or (with arrays) of many of one shape.

    Parameters
    ----------
    forward, backward
        Seconds of one micro-batch, ``[device][chunk]``; chunk c of device i is part ``c * pp + i`` of the model.
    hop_s
        Seconds from one part to the next; none within a device.

    Raises
    ------
    ValueError
        If the schedule deadlocks (it cannot for those built here).
    """
    pp, chunks = len(forward), len(forward[0])
    orders = [device_order(schedule, i, pp, chunks, micro_batches) for i in range(pp)]
    lanes = _lanes(forward, backward, micro_batches, hop_s)
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
    busy = tuple(micro_batches * (sum(forward[i]) + sum(backward[i])) for i in range(pp))
    return Timeline(maximum(*clock), busy, tuple(clock))


_Lane: TypeAlias = tuple[list[Number], Number, Number, list[Number]]
"""Of one chunk and direction: when the results that it waits for end (None: not yet), by micro-batch; the hop that
brings them; its own seconds; when its own results end."""


def _lanes(
    forward: Sequence[Sequence[Number]], backward: Sequence[Sequence[Number]], micro_batches: int, hop_s: Number
) -> list[dict[str, list[_Lane]]]:
    """The lanes of each device, by direction and chunk."""
    pp, chunks = len(forward), len(forward[0])
    parts, hop = pp * chunks, hop_s if pp > 1 else 0.0
    ahead, back = ([[None] * micro_batches for _ in range(parts)] for _ in range(2))
    lanes: list[dict[str, list[_Lane]]] = [{"F": [], "B": []} for _ in range(pp)]
    for part in range(parts):
        chunk, i = divmod(part, pp)
        before = (ahead[part - 1], hop) if part else ([0.0] * micro_batches, 0.0)
        behind = (back[part + 1], hop) if part < parts - 1 else (ahead[part], 0.0)
        lanes[i]["F"].append((*before, forward[i][chunk], ahead[part]))
        lanes[i]["B"].append((*behind, backward[i][chunk], back[part]))
    return lanes


def pipeline_seconds(
    schedule: ScheduleName,
    forward: Sequence[Sequence[float]],
    backward: Sequence[Sequence[float]],
    micro_batches: int,
    hop_s: float = 0.0,
) -> float:
    """Time of a schedule, seconds: :func:`longest_path` for as many micro-batches as a pipeline needs to repeat itself,
    and its pace from then on."""
    pp = len(forward)
    if pp == 1:
        return micro_batches * (sum(forward[0]) + sum(backward[0]))

    def exact(count: int) -> float:
        return float(longest_path(schedule, forward, backward, count, hop_s).seconds)

    groups = max(32, 512 // pp)  # of pp micro-batches, as interleaving takes them
    if micro_batches < (groups + 1) * pp:
        return exact(micro_batches)
    last = groups * pp + micro_batches % pp
    half = last - groups // 2 * pp
    late = exact(last)
    return late + (micro_batches - last) * (late - exact(half)) / (last - half)


def most_held(order: Iterable[Node]) -> int:
    """Largest number of forward results (chunk x micro-batch) that a device holds at once, from its order."""
    return max(accumulate(1 if kind == "F" else -1 for kind, _, _ in order))


@dataclass(frozen=True)
class StageTimes:
    """Seconds of the stages of a pipeline in runs of equal ones, from the first to the last.

    Attributes
    ----------
    forward, backward
        Of one micro-batch on one stage of each run.
    repeats
        Stages in each run.
    """

    forward: Sequence[Number]
    backward: Sequence[Number]
    repeats: Sequence[Number]


def closed_form(
    schedule: ScheduleName, times: StageTimes, micro_batches: Number, pp: Number, chunks: Number, hop_s: Number
) -> Number:
    """Time of a pipeline without simulating it, seconds: never above the longest path (interleaved: with equal chunks),
    and equal to it for equal stages and free hops.

    GPipe with unequal stages is exact: ``sum F + (m-1) max F + sum B + (m-1) max B``. For 1F1B the bound is
    ``max_i [m T_i + sum_{j<i} T_j]``: stage i cannot start before the stages in front of it have passed the first
    micro-batch on, nor can they end before it has passed the last one back; interleaving divides that part by the
    chunks.
    """
    runs = range(len(times.repeats))
    if schedule == "gpipe":
        total: Number = 2 * (pp - 1) * hop_s
        for part in (times.forward, times.backward):
            total = total + sum(part[s] * times.repeats[s] for s in runs)
            total = total + (micro_batches - 1) * maximum(*(part[s] for s in runs))
        return total
    before: Number = 0
    hops: Number = 0
    best: Number = 0
    for s in runs:
        stage = times.forward[s] + times.backward[s]
        reached = (before + (times.repeats[s] - 1) * stage) / chunks
        hops = hops + times.repeats[s]
        best = maximum(best, micro_batches * stage + reached + 2 * (hops - 1) * hop_s)
        before = before + times.repeats[s] * stage
    return best


def in_flight(schedule: ScheduleName, first: Number, pp: Number, chunks: Number, micro_batches: Number) -> Number:
    """Forward results that a stage holds at once, in units of one chunk of one micro-batch; ``first`` is its index.

    GPipe m; 1F1B ``min(m, p - i)``; interleaved ``min(m v, 2 (p - i - 1) + (v - 1) p + 1)``.
    """
    if schedule == "gpipe":
        return micro_batches
    if schedule == "1f1b":
        return minimum(micro_batches, pp - first)
    return minimum(micro_batches * chunks, 2 * (pp - first - 1) + (chunks - 1) * pp + 1)
