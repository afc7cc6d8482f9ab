"""Data parallelism of a plan: what is sharded over how many ranks, what it moves, and what of the state each rank
holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from ..core.numeric import Number, total
from ..core.parameters import Parameter
from ..core.terms import Sizes
from ..hardware.network import NO_TRAFFIC, Tier, WireTime, collective_time
from ..hardware.software import Software
from ..plans.optimizer import get_optimizer
from ..timing.columns import Columns
from .update import ElementCost, Shares, element_costs


@dataclass(frozen=True)
class FrozenParameters:
    """Parameters without gradients of one layer kind on one rank, elements; the fields are those of
    :class:`LocalParameters`."""

    dense: Number = 0
    expert: Number = 0
    dense_shard: Number = 0
    expert_shard: Number = 0


NOTHING_FROZEN = FrozenParameters()


@dataclass(frozen=True)
class LocalParameters:
    """Trained parameters of one layer kind on one rank, before data-parallel sharding, elements; frozen ones apart.

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
    frozen
        What is not trained.
    """

    dense: Number
    expert: Number
    replicated: Number
    dense_shard: Number
    expert_shard: Number
    costs: tuple[ElementCost, ElementCost]
    frozen: FrozenParameters = NOTHING_FROZEN

    @property
    def held(self) -> Number:
        """All elements on a rank before data-parallel sharding."""
        return self.dense + self.expert + self.frozen.dense + self.frozen.expert


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
    trained = [p for p in parameters if not p.frozen]
    frozen = NOTHING_FROZEN
    if len(trained) < len(parameters):
        rest = [p for p in parameters if p.frozen]
        frozen = FrozenParameters(*_elements(rest, sizes), *_shards(rest, sizes, columns, software))
    dense, expert = _elements(trained, sizes)
    replicated = total(sizes.elements(p.local) for p in trained if not p.expert and "tp" in p.gradient_axes)
    costs = element_costs(get_optimizer(optimizer), trained, sizes, software.training.formats, compute)
    shards = _shards(trained, sizes, columns, software)
    return LocalParameters(dense, expert, replicated, *shards, costs, frozen)


def _elements(parameters: Sequence[Parameter], sizes: Sizes) -> tuple[Number, Number]:
    """Dense and expert elements on a rank."""
    dense = total(sizes.elements(p.local) for p in parameters if not p.expert)
    return dense, total(sizes.elements(p.local) for p in parameters if p.expert)


def _shards(
    parameters: Sequence[Parameter], sizes: Sizes, columns: Columns, software: Software
) -> tuple[Number, Number]:
    """Dense and expert elements that a rank keeps under full sharding, padding included."""
    stored: tuple[list[Stored], list[Stored]] = ([], [])
    for p in parameters:
        stored[p.expert].append(Stored(sizes.elements(p.leading), sizes.elements(p.rest)))
    padding: Padding = "rows" if software.training.padded_shards else "flat"
    dense, expert = (
        shard_elements(Unit(tuple(u)), n, padding) for u, n in zip(stored, (columns.shard, columns.edp), strict=True)
    )
    return dense, expert


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
    if sharding == "hsdp":  # its groups are neighbours: no pipeline lies between them
        columns = replace(columns, inner=1)
    whole, near = columns.group(("ulysses", "cp", "dp"))
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
