"""Data parallelism of a plan: what is sharded over how many ranks, what it moves, and what of the state each rank
holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..core.formats import Format
from ..core.parameters import Parameter
from ..core.shim import Number, ceil_div, where
from ..core.terms import Sizes
from ..hardware.network import NO_TRAFFIC, Tier, WireTime, collective_time
from .columns import Columns

SHARDINGS = ("ddp", "zero1", "zero2", "zero3", "hsdp")
"""What data-parallel ranks share out: nothing; optimizer; and gradients; and parameters; parameters in groups."""


@dataclass(frozen=True)
class LocalParameters:
    """Parameters of one layer kind on one rank, before data-parallel sharding, elements.

    Attributes
    ----------
    dense, expert
        Of the dense part and of routed experts.
    replicated
        The part of ``dense`` whose gradients are also summed over tensor-parallel ranks (norms under sequence
        parallelism).
    dense_shard, expert_shard
        What one rank keeps of them under full sharding, padding included.
    """

    dense: Number
    expert: Number
    replicated: Number
    dense_shard: Number
    expert_shard: Number

    def where(self, condition: Number, otherwise: LocalParameters) -> LocalParameters:
        """These where a condition holds, else others."""
        return LocalParameters(
            **{f.name: where(condition, getattr(self, f.name), getattr(otherwise, f.name)) for f in fields(self)}
        )


def local_parameters(
    parameters: Sequence[Parameter], sizes: Sizes, columns: Columns, *, padded: bool, skip: frozenset[str] = frozenset()
) -> LocalParameters:
    """Parameters of a layer kind on one rank.

    Parameters
    ----------
    padded
        Whether each parameter is padded along its first dimension to the sharding group (FSDP2), or the flat buffer is.
    skip
        Names that another kind owns (a tied head).
    """
    dense: Number = 0
    expert: Number = 0
    replicated: Number = 0
    shards: list[Number] = [0, 0]
    groups = (columns.shard, columns.edp)
    for p in parameters:
        if p.name in skip:
            continue
        count = sizes.elements(p.local)
        if padded:
            kept = ceil_div(sizes.elements(p.leading), groups[p.expert]) * sizes.elements(p.rest)
            shards[p.expert] = shards[p.expert] + kept
        if p.expert:
            expert = expert + count
        else:
            dense = dense + count
            if "tp" in p.gradient_axes:
                replicated = replicated + count
    if not padded:
        shards = [ceil_div(dense, groups[0]), ceil_div(expert, groups[1])]
    return LocalParameters(dense, expert, replicated, shards[0], shards[1])


@dataclass(frozen=True)
class Exchange:
    """Wire time of gathering parameters and of reducing gradients of one layer kind (or stage), dense and expert
    summed."""

    gather: WireTime
    reduce: WireTime


def exchange(
    sharding: str,
    dense: Number,
    expert: Number,
    columns: Columns,
    tiers: Sequence[Tier],
    *,
    parameter: Format,
    reduce: Format,
) -> Exchange:
    """Time alone of moving ``dense`` and ``expert`` parameters and their gradients.

    Parameters
    ----------
    sharding
        ``ddp`` all-reduces gradients; the others reduce-scatter them and all-gather parameters; ``hsdp`` does both
        inside its shard group and all-reduces the shards between groups.
    parameter, reduce
        Formats that they travel in.
    """
    whole = columns.dp_cp
    _, near = columns.group(("cp", "dp"))
    expert_size, expert_near = columns.group(("edp",))
    if sharding == "ddp":
        dense_time = collective_time("all_reduce", reduce.bytes(dense), whole, near, tiers)
        expert_time = collective_time("all_reduce", reduce.bytes(expert), expert_size, expert_near, tiers)
        return Exchange(NO_TRAFFIC, dense_time + expert_time)
    group = columns.shard if sharding == "hsdp" else whole
    times = [
        collective_time(kind, format.bytes(dense), group, near, tiers)
        + collective_time(kind, format.bytes(expert), expert_size, expert_near, tiers)
        for kind, format in (("all_gather", parameter), ("reduce_scatter", reduce))
    ]
    return Exchange(times[0], times[1])


def replica_reduce(dense: Number, columns: Columns, tiers: Sequence[Tier], reduce: Format) -> WireTime:
    """Hybrid sharding: the all-reduce of gradient shards between the groups, once a step."""
    _, near = columns.group(("cp", "dp"))
    replicas = columns.dp_cp / columns.shard
    return collective_time("all_reduce", reduce.bytes(dense) / columns.shard, replicas, near * columns.shard, tiers)


def updated_parameters(
    sharding: str, parameters: Sequence[LocalParameters], counts: Sequence[Number], columns: Columns
) -> Number:
    """Parameters of a stage that one rank updates, elements."""
    result: Number = 0
    for p, count in zip(parameters, counts, strict=True):
        if sharding == "ddp":
            own = p.dense + p.expert
        elif sharding in ("zero3", "hsdp"):
            own = p.dense_shard + p.expert_shard
        else:
            own = p.dense / columns.dp_cp + p.expert / columns.edp
        result = result + own * count
    return result
