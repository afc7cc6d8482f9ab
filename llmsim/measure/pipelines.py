"""The tables of ``torch.distributed.pipelining``, without process groups, and a walk through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch.distributed.pipelining._schedule_visualizer import get_schedule_ops
from torch.distributed.pipelining.schedules import _Action, _ComputationType

from ..core.pipelines import ScheduleName
from ..training.orders import Node, routes

TORCH_NAMES: dict[ScheduleName, str] = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "Interleaved1F1B",
    "interleaved-zb": "InterleavedZeroBubble",
    "zb-v": "ZBVZeroBubble",
    "dualpipe-v": "DualPipeV",
}

_KINDS = {
    _ComputationType.FORWARD: "F",
    _ComputationType.FULL_BACKWARD: "B",
    _ComputationType.BACKWARD_INPUT: "I",
    _ComputationType.BACKWARD_WEIGHT: "W",
}

Table = list[list[_Action]]


def torch_table(schedule: ScheduleName, pp: int, chunks: int, micro_batches: int) -> Table:
    """Torch's actions of each rank in order.

    Raises
    ------
    KeyError
        For a schedule that torch does not have.
    ValueError
        Where torch refuses the numbers.
    """
    single = schedule in ("gpipe", "1f1b")
    ops = get_schedule_ops(TORCH_NAMES[schedule], pp, micro_batches, num_stages_per_rank=None if single else chunks)
    table = [[a for a in rank if a is not None and _computes(a)] for rank in ops]
    if schedule == "1f1b":
        # The table of torch 2.13 (which execution does not read) counts the last rank's forward passes from 1.
        forward = _ComputationType.FORWARD
        if min(a.microbatch_index for a in table[-1] if a.computation_type == forward) == 1:
            table[-1] = [
                a._replace(microbatch_index=a.microbatch_index - 1) if a.computation_type == forward else a
                for a in table[-1]
            ]
    return table


def _computes(action: _Action) -> bool:
    return action.computation_type in _KINDS or action.sub_actions is not None


def torch_orders(schedule: ScheduleName, pp: int, chunks: int, micro_batches: int) -> list[list[Node]]:
    """Torch's table in our nodes."""
    place = dict(enumerate(chunk for _, chunk in routes(schedule, pp, chunks)[0]))
    orders: list[list[Node]] = []
    for rank in torch_table(schedule, pp, chunks, micro_batches):
        nodes: list[Node] = []
        for action in rank:
            parts = [
                (_KINDS[a.computation_type], place[a.stage_index], a.microbatch_index)
                for a in action.sub_actions or (action,)
            ]
            if len(parts) == 2:
                (_, ahead, j), (_, back, k) = parts
                nodes += [("<", ahead, j), ("&", back, k), (">", ahead, j)]
            else:
                nodes += parts
        orders.append(nodes)
    return orders


Seconds = Callable[[str, int], float]
"""Of a kind of computation (``F``, ``B``, ``I``, ``W``) on a part of the model."""


def walk(table: Table, seconds: Seconds, hop_s: float = 0.0) -> float:
    """When the last action of a table ends, action by action as dependencies allow; a pair ends as a whole."""
    parts = 1 + max(a.stage_index for rank in table for action in rank for a in action.sub_actions or (action,))
    owner = {a.stage_index: i for i, rank in enumerate(table) for b in rank for a in b.sub_actions or (b,)}
    done: dict[tuple[str, int, int], float] = {}
    clock, at = [0.0] * len(table), [0] * len(table)

    def needs(action: _Action) -> Iterator[tuple[tuple[str, int, int], int]]:
        kind, part, j = _KINDS[action.computation_type], action.stage_index, action.microbatch_index
        if kind == "F" and part:
            yield ("F", part - 1, j), part - 1
        elif kind in "BI":
            yield (("F", part, j), part) if part == parts - 1 else (("I", part + 1, j), part + 1)
        elif kind == "W":
            yield ("I", part, j), part

    def ready(actions: Sequence[_Action], rank: int) -> float | None:
        free = clock[rank]
        for action in actions:
            for key, part in needs(action):
                if key not in done:
                    return None
                free = max(free, done[key] + hop_s * (owner[part] != rank))
        return free

    while any(n < len(rank) for n, rank in zip(at, table, strict=True)):
        moved = False
        for i, rank in enumerate(table):
            while at[i] < len(rank):
                actions = rank[at[i]].sub_actions or (rank[at[i]],)
                start = ready(actions, i)
                if start is None:
                    break
                clock[i] = start + sum(seconds(_KINDS[a.computation_type], a.stage_index) for a in actions)
                for a in actions:
                    kind = _KINDS[a.computation_type]
                    done["I" if kind == "B" else kind, a.stage_index, a.microbatch_index] = clock[i]
                at[i], moved = at[i] + 1, True
        if not moved:
            raise ValueError("the table deadlocks")
    return max(clock)
