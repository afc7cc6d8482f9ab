"""Data parallelism of a plan: what is sharded over how many ranks, what it moves, and what of the state each rank
holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..core.data_parallel import (
    Padding,
    ShardingKind,
    ShardingName,
    Stored,
    Unit,
    data_parallel_messages,
    shard_elements,
)
from ..core.formats import Format
from ..core.parameters import Parameter
from ..core.shim import Number, where
from ..core.terms import Sizes
from ..hardware.network import NO_TRAFFIC, Tier, WireTime, collective_time
from ..hardware.software import Software
from ..plans.optimizer import get_optimizer
from .columns import Columns
from .update import ElementCost, Shares, element_costs


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
    costs
        What updating a dense and an expert element costs.
    """

    dense: Number
    expert: Number
    replicated: Number
    dense_shard: Number
    expert_shard: Number
    costs: tuple[ElementCost, ElementCost]

    def where(self, condition: Number, otherwise: LocalParameters) -> LocalParameters:
        """These where a condition holds, else others."""
        own = (f.name for f in fields(self) if f.name != "costs")
        dense, expert = (mine.where(condition, other) for mine, other in zip(self.costs, otherwise.costs, strict=True))
        numbers = {name: where(condition, getattr(self, name), getattr(otherwise, name)) for name in own}
        return LocalParameters(**numbers, costs=(dense, expert))


def local_parameters(
    parameters: Sequence[Parameter], sizes: Sizes, columns: Columns, *, software: Software, optimizer: str, compute: str
) -> LocalParameters:
    """Parameters of a layer kind on one rank.

    Parameters
    ----------
    software
        It says whether each parameter is padded along its first dimension to the sharding group (FSDP2), or the flat
        buffer is, and the formats of the state.
    compute
        The recipe's 16-bit format.
    """
    dense: Number = 0
    expert: Number = 0
    replicated: Number = 0
    stored: tuple[list[Stored], list[Stored]] = ([], [])
    for p in parameters:
        count = sizes.elements(p.local)
        stored[p.expert].append(Stored(sizes.elements(p.leading), sizes.elements(p.rest)))
        if p.expert:
            expert = expert + count
        else:
            dense = dense + count
            if "tp" in p.gradient_axes:
                replicated = replicated + count
    padding: Padding = "rows" if software.padded_shards else "flat"
    units = zip(stored, (columns.shard, columns.edp), strict=True)
    dense_shard, expert_shard = (shard_elements(Unit(tuple(u)), n, padding) for u, n in units)
    costs = element_costs(get_optimizer(optimizer), parameters, sizes, software.formats, compute)
    return LocalParameters(dense, expert, replicated, dense_shard, expert_shard, costs)


@dataclass(frozen=True)
class Exchange:
    """Wire time of each collective alone, dense and expert parameters summed.

    Attributes
    ----------
    gather, scatter
        Parameters gathered and gradients scattered among the ranks that share a state.
    replicate
        Gradients summed among those that hold equal state.
    """

    gather: WireTime
    scatter: WireTime
    replicate: WireTime


def exchange(
    sharding: ShardingName,
    dense: Number,
    expert: Number,
    columns: Columns,
    tiers: Sequence[Tier],
    *,
    parameter: Format,
    reduce: Format,
) -> Exchange:
    """Time alone of moving ``dense`` and ``expert`` parameters and their gradients once.

    Parameters
    ----------
    parameter, reduce
        Formats that they travel in.
    """
    whole, near = columns.group(("cp", "dp"))
    experts = columns.group(("edp",))
    shard, replica = (whole, near), (whole, near)
    kind: ShardingKind = sharding
    if sharding == "hsdp":  # inside a group and between groups; experts over all ranks that hold them
        shard, replica = (columns.shard, near), (whole / columns.shard, near * columns.shard)
        kind = "zero3"
    times: dict[str, WireTime] = {}
    for elements, own, groups in (
        (dense, sharding, {"shard": shard, "replica": replica}),
        (expert, kind, {"shard": experts, "replica": experts}),
    ):
        unit = Unit((Stored(elements),), reshard=False)
        for message in data_parallel_messages(
            own,
            [unit],
            shard=groups["shard"][0],
            parameter_format=parameter,
            gradient_format=reduce,
            padding="none",
        ):
            wire = collective_time(message.collective, message.payload_bytes, *groups[message.group], tiers)
            times[message.collective] = times.get(message.collective, NO_TRAFFIC) + wire
    return Exchange(*(times.get(c, NO_TRAFFIC) for c in ("all_gather", "reduce_scatter", "all_reduce")))


def updated_shares(sharding: str, parameters: Sequence[LocalParameters], columns: Columns) -> list[Shares]:
    """Elements of each layer kind that one rank updates."""
    found = []
    for p in parameters:
        if sharding == "ddp":
            own = p.dense, p.expert
        elif sharding in ("zero3", "hsdp"):
            own = p.dense_shard, p.expert_shard
        else:
            own = p.dense / columns.dp_cp, p.expert / columns.edp
        found.append(Shares(*own, p.costs))
    return found
