"""Pipeline schedules as orders: which device runs which chunk of the model, and its nodes one after the other.

References
----------
GPipe: Huang 2018, arXiv:1811.06965. One forward one backward, interleaved: Narayanan 2021, arXiv:2104.04473. ZB-H1:
Qi 2023, arXiv:2401.10241. ZB-V: Qi 2024, arXiv:2405.15362. DualPipe: DeepSeek-V3, arXiv:2412.19437, and its
published code; DualPipeV is one half of it. ``torch.distributed.pipelining`` has all but ZB-H1 and DualPipe; orders are
the same as there wherever interleaving takes micro-batches in multiples of the stages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias

from ..core.pipelines import ScheduleName, schedule_facts

Node: TypeAlias = tuple[str, int, int]
"""(kind, chunk on this device, micro-batch).

Kinds: ``F`` forward, ``B`` backward, or apart ``I`` for the gradients of inputs and ``W`` for those of weights. Where
a forward pass runs side by side with a backward pass there are three nodes: ``<`` (its forward has its input), ``&``
(both run), ``>`` (the forward has ended).
"""

Route: TypeAlias = list[tuple[int, int]]
"""(device, chunk) of the parts of the model in order."""


def routes(schedule: ScheduleName, pp: int, chunks: int) -> list[Route]:
    """The ways that micro-batches take: one, or two that share the micro-batches evenly."""
    shape = schedule_facts(schedule).shape
    if shape == "loop":
        return [[(i, c) for c in range(chunks) for i in range(pp)]]
    there: Route = [(i, 0) for i in range(pp)]
    back: Route = [(i, 1) for i in reversed(range(pp))]
    return [there + back] if shape == "v" else [there, back]


def device_order(schedule: ScheduleName, rank: int, pp: int, chunks: int, micro_batches: int) -> list[Node]:
    """The nodes of one device in the order in which it runs them.

    Interleaved schedules take micro-batches in groups of ``pp`` through each chunk in turn; the last group of
    ``interleaved`` may be smaller, those of ``interleaved-zb`` are equal. In ``dualpipe`` chunk 0 belongs to the
    micro-batches that start at the first device, chunk 1 to those that start at the last one, numbered each by
    themselves.

    Raises
    ------
    ValueError
        Where a schedule is not defined for these numbers.
    """
    match schedule:
        case "zb-h1" | "interleaved-zb":
            return _input_gradients_first(rank, pp, chunks, micro_batches)
        case "zb-v":
            return _zero_bubble_v(rank, pp, micro_batches)
        case "dualpipe-v":
            return _dual(rank, pp, micro_batches, 0)
        case "dualpipe":
            if pp % 2 or micro_batches % 2:
                raise ValueError(f"dualpipe needs even numbers of stages and micro-batches: {pp}, {micro_batches}")
            return _dual(min(rank, pp - 1 - rank), pp // 2, micro_batches // 2, int(rank >= pp // 2))
    if schedule in {"gpipe", "1f1b"} or chunks == 1:
        units = [(0, j) for j in range(micro_batches)]
        warm = micro_batches if schedule == "gpipe" else min(pp - rank - 1, micro_batches)
        return _alternate(units, units, warm)
    ahead, back = _interleave(pp, chunks, micro_batches)
    warm = min(2 * (pp - rank - 1) + (chunks - 1) * pp, len(ahead))
    return _alternate(ahead, back, warm)


def _interleave(size: int, chunks: int, micro_batches: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(chunk, micro-batch) in groups of micro-batches, forward and backward."""
    groups = [range(g, min(g + size, micro_batches)) for g in range(0, micro_batches, size)]
    ahead = [(c, j) for group in groups for c in range(chunks) for j in group]
    back = [(c, j) for group in groups for c in reversed(range(chunks)) for j in group]
    return ahead, back


def _alternate(ahead: Sequence[tuple[int, int]], back: Sequence[tuple[int, int]], warm: int) -> list[Node]:
    """Some forward nodes to warm up, then forward and backward in turn."""
    forward: list[Node] = [("F", c, j) for c, j in ahead]
    backward: list[Node] = [("B", c, j) for c, j in back]
    turns = [node for pair in zip(forward[warm:], backward, strict=False) for node in pair]
    return [*forward[:warm], *turns, *backward[len(forward) - warm :]]


def _input_gradients_first(rank: int, pp: int, chunks: int, micro_batches: int) -> list[Node]:
    """ZB-H1, and interleaved: one node less to warm up for each device behind; device i is i weight gradients late, so
    that all of them hold as much as the first."""
    rounds = max(1, micro_batches // pp)
    if micro_batches % rounds and chunks > 1:
        raise ValueError(f"{micro_batches} micro-batches do not go into {rounds} equal groups")
    size = micro_batches // rounds
    ahead, back = _interleave(size, chunks, micro_batches)
    warm = min((chunks - 1) * size + pp - 1 - rank, len(ahead))
    nodes: list[Node] = [("F", c, j) for c, j in ahead[:warm]]
    for k, (chunk, j) in enumerate(back):
        if warm + k < len(ahead):
            nodes.append(("F", *ahead[warm + k]))
        nodes.append(("I", chunk, j))
        if k >= rank:
            nodes.append(("W", *back[k - rank]))
    nodes += [("W", c, j) for c, j in back[max(0, len(back) - rank) :]]
    return nodes


class _Line:
    """A device's nodes in the making; each kind takes its micro-batches in order."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.forward, self.backward = [0, 0], [0, 0]
        self.late: list[tuple[int, int]] = []

    def ahead(self, chunk: int) -> None:
        """A forward pass."""
        self.nodes.append(("F", chunk, self._next(self.forward, chunk)))

    def back(self, chunk: int, *, split: bool) -> None:
        """A backward pass, whole or without the gradients of weights."""
        j = self._next(self.backward, chunk)
        self.nodes.append(("I" if split else "B", chunk, j))
        if split:
            self.late.append((chunk, j))

    def weight(self, chunk: int | None = None) -> None:
        """The gradients of weights that wait longest (of a chunk)."""
        found = next((w for w in self.late if chunk in (None, w[0])), None)
        if found is not None:
            self.late.remove(found)
            self.nodes.append(("W", *found))

    def pair(self, ahead: int, back: int) -> None:
        """A forward pass of one chunk beside a whole backward pass of another."""
        j, k = self._next(self.forward, ahead), self._next(self.backward, back)
        self.nodes += [("<", ahead, j), ("&", back, k), (">", ahead, j)]

    @staticmethod
    def _next(counts: list[int], chunk: int) -> int:
        counts[chunk] += 1
        return counts[chunk] - 1


def _zero_bubble_v(rank: int, pp: int, micro_batches: int) -> list[Node]:
    """ZB-V: chunk 0 on the way there, chunk 1 on the way back. With few micro-batches it is the order of ``2 pp - 1``
    of them without those that are not there."""
    count, line = max(2 * pp - 1, micro_batches), _Line()

    def whole(chunk: int) -> None:
        line.back(chunk, split=True)
        line.weight(chunk)

    for _ in range(2 * (pp - rank) - 1):
        line.ahead(0)
    for _ in range(rank):
        line.ahead(1)
        line.ahead(0)
    for _ in range(pp - rank):
        line.ahead(1)
        whole(1)
    while line.forward[1] < line.forward[0] or line.forward[0] < count:
        if line.forward[0] < count:
            line.ahead(0)
        whole(0)
        line.ahead(1)
        whole(1)
    for _ in range(rank):
        line.back(0, split=True)
        line.back(1, split=True)
    for _ in range(pp - rank):
        line.back(0, split=True)
        line.weight(0)
    for chunk in (1, 0):
        while any(c == chunk for c, _ in line.late):
            line.weight(chunk)
    return [node for node in line.nodes if node[2] < micro_batches]


def _dual(rank: int, pp: int, micro_batches: int, first: int) -> list[Node]:
    """DualPipeV, and each half of DualPipe: ``first`` is the chunk that a device begins with."""
    if micro_batches < 2 * pp:
        raise ValueError(f"{micro_batches} micro-batches, fewer than two for each of {pp} stages")
    one, other, line = first, 1 - first, _Line()
    outer, inner = pp - rank - 1, rank + 1
    for _ in range(2 * outer):
        line.ahead(one)
    for _ in range(inner):
        line.ahead(one)
        line.ahead(other)
    for _ in range(outer):
        line.back(other, split=True)
        line.weight()
        line.ahead(other)
    for n in range(micro_batches - 2 * pp + inner):
        if n == 0 and outer == 0:  # apart, which leaves a smaller bubble than side by side
            line.ahead(one)
            line.back(other, split=False)
        else:
            line.pair(one, other)
        line.pair(other, one)
    for _ in range(outer):
        line.back(other, split=False)
        line.pair(other, one)
    for n in range(2 * inner):  # the second half of these leaves the gradients of weights for later
        line.back((other, one)[n % 2], split=n >= inner)
    for _ in range(outer):
        line.weight()
        line.back(one, split=True)
    for _ in range(inner):
        line.weight()
    return line.nodes


def paired_passes(schedule: ScheduleName, rank: int, pp: int, micro_batches: int) -> int:
    """How many forward passes a device runs side by side with a backward pass."""
    facts = schedule_facts(schedule)
    if not facts.paired or pp == 1:
        return 0
    if facts.shape == "both":
        rank, pp, micro_batches = min(rank, pp - 1 - rank), pp // 2, micro_batches // 2
    return 2 * (micro_batches - 2 * pp + rank + 1) - (rank == pp - 1) + pp - 1 - rank


def most_held(order: Iterable[Node]) -> int:
    """Largest number of forward results (chunk x micro-batch) that a device holds at once, from its order: until the
    gradients of inputs are there."""
    return max(accumulate({"F": 1, "<": 1, "W": 0, ">": 0}.get(kind, -1) for kind, _, _ in order))


@lru_cache(maxsize=65536)
def held(schedule: ScheduleName, rank: int, pp: int, chunks: int, micro_batches: int) -> tuple[tuple[int, int], ...]:
    """What a device holds at once, in chunks of one micro-batch: pairs of (results that wait for the gradients of
    inputs, operands that wait for those of weights), without pairs that another exceeds in both.

    All but GPipe repeat themselves, so that many micro-batches hold as much as some.
    """
    some = micro_batches if schedule == "gpipe" else _some(micro_batches, pp)
    order = device_order(schedule, rank, pp, chunks, some)
    changes = {"F": (1, 0), "<": (1, 0), "B": (-1, 0), "&": (-1, 0), "I": (-1, 1), "W": (0, -1), ">": (0, 0)}
    whole = late = 0
    most: dict[int, int] = {}
    for kind, _, _ in order:
        more, waiting = changes[kind]
        whole, late = whole + more, late + waiting
        most[late] = max(most.get(late, 0), whole)
    found: list[tuple[int, int]] = []
    for late in sorted(most, reverse=True):
        if not found or most[late] > found[-1][0]:
            found.append((most[late], late))
    return tuple(found)


def _some(micro_batches: int, pp: int) -> int:
    return micro_batches if micro_batches <= 6 * pp else 4 * pp + micro_batches % (2 * pp)
