"""Messages of a layer, derived from its operators and the sharding: which collective, over which axes, how many bytes.

Payloads follow torch's convention (the output of an all-gather, the input of a reduce-scatter, the tensor of an
all-reduce, the send buffer of an all-to-all), so that they compare with ``==``; what travels on the wire, (n-1)/n of
it and nothing at degree 1, is the rate's business. Backward messages are the transposes of the forward ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .inventory import Inventory
from .layout import home_term, local_term, read_view, view
from .numeric import Number, where
from .operator_kinds import operator_kind
from .operators import Operator
from .sharding import Sharding
from .terms import Term

Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send_recv"]
GatherPolicy = Literal["keep", "again", "stream"]


@dataclass(frozen=True, slots=True)
class Message:
    """One collective of one rank.

    Attributes
    ----------
    collective, axes
        What, and over the group spanned by which mesh axes.
    payload
        Bytes.
    phase
        ``forward`` or ``backward``.
    operator, side
        Where it is issued: ``before`` or ``after`` that operator (in backward: of its backward).
    tensor
        What it carries.
    """

    collective: Collective
    axes: tuple[str, ...]
    payload: Term
    phase: Literal["forward", "backward"]
    operator: str
    side: Literal["before", "after"]
    tensor: str


def derive_messages(
    operators: Sequence[Operator],
    sharding: Sharding,
    inventory: Inventory,
    *,
    shared_input: bool = True,
    gather: Mapping[str, GatherPolicy] | None = None,
) -> tuple[Message, ...]:
    """All messages of the operators' forward and backward, in forward order.

    Parameters
    ----------
    shared_input
        Whether operators that read one tensor in one layout share its gather and its gradient's reduction, or (False,
        the naive per-module plan of torch's tensor parallelism) each do their own.
    gather
        Axis -> what becomes of a gathered copy: ``keep`` saves it for backward, ``again`` gathers it once more,
        ``stream`` passes it around a ring (same bytes, also once more in backward). Default ``keep``.
    """
    policy = gather or {}
    result: list[Message] = []
    seen: set[tuple[object, ...]] = set()
    for op in operators:
        if operator_kind(op.kind).between_layouts:
            result += _border_messages(op, sharding)
            continue
        for read in op.reads:
            if read.tensor.role != "activation":
                continue
            look = read_view(read, op, sharding)
            sharer = "" if shared_input else inventory.group(op.name)[0]
            key = (read.tensor.name, tuple(sorted(look.need.items())), tuple(sorted(look.missing)), sharer)
            if key in seen:
                continue
            seen.add(key)
            whole = local_term(read.dims, look.need, read.tensor.format)
            home = home_term(read.tensor, sharding)
            name = read.tensor.name
            if look.gathered:
                axes = look.gathered
                result.append(Message("all_gather", axes, whole, "forward", op.name, "before", name))
                if any(policy.get(a, "keep") != "keep" for a in axes):
                    result.append(Message("all_gather", axes, whole, "backward", op.name, "before", name))
                result.append(Message("reduce_scatter", axes, whole, "backward", op.name, "after", name))
            if look.exchanged:
                result.append(Message("all_to_all", look.exchanged, home, "forward", op.name, "before", name))
                result.append(Message("all_to_all", look.exchanged, home, "backward", op.name, "after", name))
            if look.reduced:
                result.append(Message("all_reduce", look.reduced, whole, "backward", op.name, "after", name))
        result += _write_messages(op, sharding)
        result += _statistic_messages(op, sharding)
    return tuple(result)


def repeated_messages(messages: Sequence[Message], recomputed: Collection[str]) -> tuple[Message, ...]:
    """The forward messages that recomputing sends once more, in backward: those of the operators executed again."""
    return tuple(m for m in messages if m.phase == "forward" and m.operator in recomputed)


def _write_messages(op: Operator, sharding: Sharding) -> list[Message]:
    look = view(op.write, op.write.dims, op, sharding)
    whole = local_term(op.write.dims, look.need, op.write.format)
    name = op.write.name
    found: list[Message] = []
    scattered = tuple(a for a in look.missing if a in look.home)
    # A scalar per row that is reduced by the operator's own statistic (the loss) is summed by the messages of that
    # kind.
    own = operator_kind(op.kind).statistic_reductions is not None
    summed = () if own else tuple(a for a in look.missing if a not in look.home)
    if scattered and not own:
        found.append(Message("reduce_scatter", scattered, whole, "forward", op.name, "after", name))
        found.append(Message("all_gather", scattered, whole, "backward", op.name, "before", name))
    if look.exchanged:
        found.append(Message("all_to_all", look.exchanged, whole, "forward", op.name, "after", name))
        found.append(Message("all_to_all", look.exchanged, whole, "backward", op.name, "before", name))
    if summed:
        found.append(Message("all_reduce", summed, whole, "forward", op.name, "after", name))
    return found


def _statistic_messages(op: Operator, sharding: Sharding) -> list[Message]:
    place = sharding.place(op.space, op.kind)
    axes = tuple(a for a, dims in place.items() if any(d in op.over for d in dims))
    reductions = operator_kind(op.kind).statistic_reductions
    if not axes or reductions is None:
        return []
    look = view(op.write, op.write.dims, op, sharding)
    whole = local_term(op.write.dims, look.need)
    rows = whole.without(op.over).stored("fp32")
    forward, backward = reductions
    return [
        *[Message("all_reduce", axes, rows, "forward", op.name, "after", f"{op.name}.statistic")] * forward,
        *[Message("all_reduce", axes, rows, "backward", op.name, "after", f"{op.name}.statistic")] * backward,
    ]


def _border_messages(op: Operator, sharding: Sharding) -> list[Message]:
    slots = op.write if op.kind == "dispatch" else op.reads[0].tensor
    payload = home_term(slots, sharding)
    return [
        Message("all_to_all", ("ep",), payload, "forward", op.name, "after", slots.name),
        Message("all_to_all", ("ep",), payload, "backward", op.name, "before", slots.name),
    ]


def stage_transfers(rank: Number, ranks: Number, chunks: Number = 1) -> tuple[Number, Number]:
    """Tensors that a pipeline rank (sends, receives) in the forward of one micro-batch; backward has them exchanged.

    Stages are looped: rank r holds stages r, r + ranks, ... (one each for GPipe and 1F1B), and every boundary between
    stages crosses ranks, unless there is only one.
    """
    crossing = where(ranks > 1, 1, 0)
    sends = chunks - where(rank == ranks - 1, 1, 0)
    receives = chunks - where(rank == 0, 1, 0)
    return sends * crossing, receives * crossing


def wire_share(collective: Collective, size: Number) -> Number:
    """What a rank sends over what is counted as payload, in a group of ``size`` with a ring or direct exchange.

    (n-1)/n of the payload of an all-gather, a reduce-scatter or an all-to-all, twice that of an all-reduce, all of a
    transfer between two; nothing at size 1.
    """
    if collective == "send_recv":
        return where(size > 1, 1, 0)
    return (2 if collective == "all_reduce" else 1) * (size - 1) / size
