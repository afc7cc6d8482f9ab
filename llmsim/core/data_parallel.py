"""Messages and shares of the data-parallel family: DDP, ZeRO 1 to 3, hybrid sharding; counted from the parameter list.

Plain functions of numbers: every size and degree may be an int, an int64 array (one entry a plan) or a symbol. What is
fixed per call is structure: the kind of sharding, the units, what is padded how. Payloads follow torch's convention
(the output of an all-gather, the input of a reduce-scatter, the tensor of an all-reduce or a broadcast).

References
----------
Rajbhandari 2019, ZeRO, arXiv:1910.02054; Zhao 2023, PyTorch FSDP, arXiv:2304.11277. Equal to torch 2.13 (DDP buckets,
``ZeroRedundancyOptimizer``, ``fully_shard``) in tests/test_conformance_messages.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .formats import Format
from .numeric import Number, ceil_div, total

ShardingName: TypeAlias = Literal["ddp", "zero1", "zero2", "zero3", "hsdp"]
"""What a training plan can ask for."""

ShardingKind: TypeAlias = ShardingName | Literal["zero1_broadcast"]
"""``ddp``: everything replicated. ``zero1``: optimizer state sharded, gradients reduce-scattered, parameters gathered
(Megatron's distributed optimizer). ``zero1_broadcast``: the same state, gradients as in DDP, each owner broadcasts its
parameters (torch's ``ZeroRedundancyOptimizer``). ``zero2``: gradients sharded too. ``zero3``: parameters too (FSDP).
``hsdp``: as zero3 inside a shard group, replicated over replica groups."""

Padding: TypeAlias = Literal["rows", "flat", "none"]
"""``rows``: dimension 0 of each parameter is split in equal shares, rounded up (FSDP2). ``flat``: the elements of a
unit lie end to end in one buffer, padded to a multiple of the group (FSDP1, Megatron, DeepSpeed). ``none``: elements of
many units in one number, which is padded already or whose padding is not worth a count."""

Accumulation: TypeAlias = Literal["each", "last"]
"""When gradients are reduced: in every micro-batch, or in the last one of a step (``no_sync``)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One parameter tensor of a rank before data-parallel sharding: dimension 0 and the product of the others.

    ``Parameter.leading`` and ``Parameter.rest`` of ``derive_parameters`` evaluate to these.
    """

    leading: Number
    rest: Number = 1

    @property
    def elements(self) -> Number:
        """All of its elements."""
        return self.leading * self.rest


@dataclass(frozen=True, slots=True)
class Unit:
    """Parameters that are communicated together: an FSDP unit, a gradient bucket.

    Attributes
    ----------
    parameters
        Its tensors.
    count
        How many such units there are (layers of one kind).
    reshard
        Whether parameters are freed after forward and gathered once more for backward. FSDP2 frees all units but the
        root by default.
    """

    parameters: tuple[Stored, ...]
    count: Number = 1
    reshard: bool = True


@dataclass(frozen=True, slots=True)
class UnitMessage:
    """One collective of a unit.

    Attributes
    ----------
    collective
        What.
    group
        Over the ranks that share the state (``shard``) or over those that hold equal state (``replica``).
    phase
        ``forward`` and ``backward`` of a micro-batch, or ``update``, after the optimizer step.
    when
        In ``each`` micro-batch, in the ``last`` one, or once a ``step``.
    payload_bytes
        Of one message.
    count
        How many of them, for one such occasion.
    unit
        Position of its unit in the list given.
    """

    collective: Literal["all_gather", "reduce_scatter", "all_reduce", "broadcast"]
    group: Literal["shard", "replica"]
    phase: Literal["forward", "backward", "update"]
    when: Literal["each", "last", "step"]
    payload_bytes: Number
    count: Number
    unit: int

    def per_step(self, microbatches: Number) -> Number:
        """How many such messages a step has."""
        return self.count * microbatches if self.when == "each" else self.count


def shard_elements(unit: Unit, shard: Number, padding: Padding = "rows") -> Number:
    """Elements of one unit that each of ``shard`` ranks holds, padding included."""
    if padding == "rows":
        return total(ceil_div(p.leading, shard) * p.rest for p in unit.parameters)
    if padding == "flat":
        return ceil_div(unit_elements(unit), shard)
    return unit_elements(unit) / shard


def padded_elements(unit: Unit, shard: Number, padding: Padding = "rows") -> Number:
    """Elements of one unit that a collective over ``shard`` ranks moves, padding included."""
    return unit_elements(unit) if padding == "none" else shard_elements(unit, shard, padding) * shard


def unit_elements(unit: Unit) -> Number:
    """Elements of one unit without padding."""
    return total(p.elements for p in unit.parameters)


def data_parallel_messages(
    kind: ShardingKind,
    units: Sequence[Unit],
    *,
    shard: Number,
    parameter_format: Format,
    gradient_format: Format,
    accumulation: Accumulation = "each",
    padding: Padding | None = None,
) -> tuple[UnitMessage, ...]:
    """The collectives of one training step, unit by unit.

    Parameters
    ----------
    kind
        What is sharded.
    units
        In forward order.
    shard
        Ranks that share the state; of no effect for ``ddp`` and ``zero1_broadcast``, whose messages are not padded.
    parameter_format, gradient_format
        What travels: the compute format of the parameters, the reduction format of the gradients.
    accumulation
        In which micro-batches gradients are reduced; DDP and ZeRO-1 usually ``last``.
    padding
        ``rows`` for zero3 and hsdp, ``flat`` for zero1 and zero2 unless said otherwise.
    """
    padding = padding or ("rows" if kind in ("zero3", "hsdp") else "flat")
    result: list[UnitMessage] = []
    for position, unit in enumerate(units):
        plain = gradient_format.bytes(unit_elements(unit))
        padded = padded_elements(unit, shard, padding)
        parameters, gradients = parameter_format.bytes(padded), gradient_format.bytes(padded)
        share = gradient_format.bytes(shard_elements(unit, shard, padding))
        n = unit.count
        gather_forward = UnitMessage("all_gather", "shard", "forward", "each", parameters, n, position)
        gather_backward = UnitMessage("all_gather", "shard", "backward", "each", parameters, n, position)
        gather_update = UnitMessage("all_gather", "shard", "update", "step", parameters, n, position)
        scatter = UnitMessage("reduce_scatter", "shard", "backward", accumulation, gradients, n, position)
        replicate = UnitMessage("all_reduce", "replica", "backward", accumulation, plain, n, position)
        replicate_share = UnitMessage("all_reduce", "replica", "backward", accumulation, share, n, position)
        match kind:
            case "ddp":
                result.append(replicate)
            case "zero1_broadcast":
                result += [replicate, *_broadcasts(unit, parameter_format, position)]
            case "zero1" | "zero2":
                result += [scatter, gather_update]
            case "zero3" | "hsdp":
                result += [gather_forward, *([gather_backward] if unit.reshard else []), scatter]
                result += [replicate_share] if kind == "hsdp" else []
    return tuple(result)


def _broadcasts(unit: Unit, format: Format, position: int) -> list[UnitMessage]:
    return [
        UnitMessage("broadcast", "replica", "update", "step", format.bytes(p.elements), unit.count, position)
        for p in unit.parameters
    ]


def step_bytes(messages: Iterable[UnitMessage], microbatches: Number, collective: str | None = None) -> Number:
    """Payload of a step, of one kind of collective or of all."""
    return total(m.payload_bytes * m.per_step(microbatches) for m in messages if collective in (None, m.collective))


def gradient_buckets(
    sizes_bytes: Sequence[int], bucket_bytes: int = 25 << 20, first_bytes: int | None = 1 << 20
) -> tuple[int, ...]:
    """How many parameters each DDP bucket takes, in the order in which gradients become ready.

    A bucket is closed by the parameter that brings it to its limit. The first one has a limit of its own, so that
    reduction starts early; torch gives it up (None) where the user sets a limit. Grouping is structure: plain ints
    only.
    """
    first_bytes = bucket_bytes if first_bytes is None else first_bytes
    counts: list[int] = []
    filled = taken = 0
    for size in sizes_bytes:
        filled, taken = filled + size, taken + 1
        if filled >= (bucket_bytes if counts else first_bytes):
            counts.append(taken)
            filled = taken = 0
    return tuple([*counts, taken] if taken else counts)
