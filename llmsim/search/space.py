"""The space of training plans: what may be chosen, and the columns of all choices that divide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import gcd
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from ..architecture import Architecture
from ..core.data_parallel import ShardingName
from ..core.errors import InputError
from ..core.pipelines import ScheduleName
from ..core.sharding import ContextKind, RankOrder
from ..hardware.profiles import Checked
from ..plans.precision import get_precision
from ..plans.recompute import parse_recompute
from ..plans.rules import nearest_divisor
from ..plans.training import Count, Degree, Overlap, Share, schedule_name

Degrees = Annotated[tuple[Degree, ...], Field(min_length=1)]

MICRO_BATCH_LIMIT = 64
CONTEXT_LIMIT = 64


class SearchSpace(Checked):
    """What a search may choose from; None leaves a choice to the search. A value alone is a choice of one, a text may
    join several by commas (by semicolons where it has some, or commas of its own as ``recompute`` has).

    Attributes
    ----------
    tensor_parallel, pipeline_parallel, virtual_pipeline, context_parallel, expert_parallel, expert_tensor_parallel
        Allowed degrees; of the last None takes 1 and the tensor-parallel degree.
    micro_batch_size
        Allowed sizes.
    recompute, sharding, context_kind, sequence_parallel
        Allowed settings.
    rank_order
        Allowed orders of ranks; the usual one unless others are asked for.
    precision
        Allowed recipes; None takes the one that the question names.
    overlap
        Allowed overlaps of transfers with compute; None takes what the framework has.
    schedule
        Allowed pipeline schedules; None takes 1F1B, and interleaving where there are chunks.
    offload_activations, offload_optimizer
        Allowed shares on the host; nothing unless it is asked for.
    layers_per_stage, recompute_layers
        Allowed ways to spread layers, and recomputation, over the stages of a pipeline. ``fitted`` takes what a setting
        recomputes (everything under ``none``), in as many layers of each stage as must; schedules with two copies of
        the model do without it. Plans without a pipeline have nothing to spread.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    tensor_parallel: Degrees | None = None
    pipeline_parallel: Degrees | None = None
    virtual_pipeline: Degrees | None = None
    context_parallel: Degrees | None = None
    expert_parallel: Degrees | None = None
    expert_tensor_parallel: Degrees | None = None
    micro_batch_size: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    recompute: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    sharding: Annotated[tuple[ShardingName, ...], Field(min_length=1)] | None = None
    context_kind: Annotated[tuple[ContextKind, ...], Field(min_length=1)] | None = None
    rank_order: Annotated[tuple[RankOrder, ...], Field(min_length=1)] = ("tp-cp-dp-pp",)
    precision: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    overlap: Annotated[tuple[Overlap, ...], Field(min_length=1)] | None = None
    sequence_parallel: Annotated[tuple[bool, ...], Field(min_length=1)] | None = None
    schedule: Annotated[tuple[ScheduleName, ...], Field(min_length=1)] | None = None
    offload_activations: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.0,)
    offload_optimizer: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.0,)
    layers_per_stage: Annotated[tuple[Literal["even", "balanced"], ...], Field(min_length=1)] = ("even",)
    recompute_layers: Annotated[tuple[Literal["uniform", "fitted"], ...], Field(min_length=1)] = ("uniform",)

    @property
    def spreads_evenly(self) -> bool:
        """Whether only plans are asked for that spread layers and recomputation evenly over stages."""
        return self.layers_per_stage == ("even",) and self.recompute_layers == ("uniform",)

    @property
    def takes_even_plans(self) -> bool:
        """Whether plans that spread both evenly are among them."""
        return "even" in self.layers_per_stage and "uniform" in self.recompute_layers

    @field_validator("*", mode="before")
    @classmethod
    def _several(cls, values: Any, info: ValidationInfo) -> Any:
        if isinstance(values, str):
            mark = ";" if ";" in values or info.field_name == "recompute" else ","
            parts = tuple(part.strip() for part in values.split(mark))
            return _whole_numbers(values, parts) if info.field_name in _DEGREES else parts
        return (values,) if isinstance(values, (int, float)) else values

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule(cls, values: Any) -> Any:
        try:
            return tuple(schedule_name(v) for v in values) if isinstance(values, (tuple, list)) else values
        except InputError as error:
            raise ValueError(str(error)) from error

    @field_validator("precision")
    @classmethod
    def _precision(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if values is None else tuple(dict.fromkeys(get_precision(v).name for v in values))
        except InputError as error:
            raise ValueError(str(error)) from error

    @field_validator("recompute")
    @classmethod
    def _recompute(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if values is None else tuple(str(parse_recompute(v)) for v in values)
        except InputError as error:
            raise ValueError(str(error)) from error


_DEGREES = {n for n in SearchSpace.model_fields if n.endswith("_parallel")} - {"sequence_parallel"}
_DEGREES |= {"micro_batch_size"}


def _whole_numbers(text: str, parts: tuple[str, ...]) -> tuple[int, ...]:
    if all(re.fullmatch(r"[+-]?[0-9]{1,4000}", part) for part in parts):
        return tuple(map(int, parts))
    error = InputError("", text, "whole numbers joined by commas, such as 1,2,4", "1,2,4")
    raise ValueError(str(error)) from error


def divisors(value: int, limit: int | None = None) -> list[int]:
    """The divisors of a number in order, up to a limit."""
    small = [d for d in range(1, int(value**0.5) + 1) if value % d == 0]
    every = sorted({*small, *(value // d for d in small)})
    return every if limit is None else [d for d in every if d <= limit]


class Table:
    """Columns of plans in the making: each step multiplies them by choices and drops what does not divide.

    Attributes
    ----------
    columns
        Name -> int64 array, one entry a plan.
    dropped
        Rule -> plans that it dropped.
    """

    def __init__(self) -> None:
        self.columns: dict[str, np.ndarray] = {}
        self.dropped: dict[str, int] = {}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 1

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def cross(self, name: str, values: Iterable[int]) -> None:
        """Every row with every value."""
        choices = np.asarray(sorted(set(values)), dtype=np.int64)
        size = len(self)
        self.columns = {n: np.repeat(c, len(choices)) for n, c in self.columns.items()}
        self.columns[name] = np.tile(choices, size)

    def cross_with(self, name: str, first: int, other: str) -> None:
        """Every row with a value, and with what another column holds where that differs."""
        times = np.where(self[other] != first, 2, 1)
        again = np.concatenate([[False], np.diff(np.repeat(np.arange(len(self)), times)) == 0])
        self.columns = {n: np.repeat(c, times) for n, c in self.columns.items()}
        self.columns[name] = np.where(again, self[other], first)

    def add(self, name: str, values: np.ndarray) -> None:
        """A column that follows from the others."""
        self.columns[name] = values

    def keep(self, rule: str, mask: np.ndarray) -> None:
        """Drop the rows where a rule does not hold, and count them under its name."""
        lost = int(np.size(mask) - np.count_nonzero(mask))
        if lost:
            self.dropped[rule] = self.dropped.get(rule, 0) + lost
            self.columns = {n: c[mask] for n, c in self.columns.items()}


def enumerate_plans(
    architecture: Architecture, n_devices: int, sequence: int, global_batch: int, space: SearchSpace
) -> Table:
    """All choices of degrees, chunks and micro-batch that divide.

    Raises
    ------
    InputError
        Where no choice divides, naming the value to change and the nearest that would do.
    """
    table = Table()
    layers, kinds = len(architecture.layers), [*architecture.kinds.values(), *architecture.mtp]
    sizes = _tensor_sizes(kinds)
    table.cross("tp", space.tensor_parallel or _tensor_degrees(architecture, n_devices))
    table.keep("tensor parallelism does not divide heads or widths", _divides_all(table["tp"], sizes))
    _require(table, space, ("tensor_parallel",), f"divisors of {gcd(*sizes)}", gcd(*sizes))
    table.cross("pp", space.pipeline_parallel or divisors(n_devices, layers + 2))
    if architecture.is_encoder_decoder:
        table.keep("pipelines of encoder-decoder models are not modelled", table["pp"] == 1)
        _require(table, space, ("pipeline_parallel",), "1 for an encoder-decoder model", 1)
    table.cross("cp", space.context_parallel or _context_degrees(sequence, n_devices))
    model = table["tp"] * table["pp"] * table["cp"]
    table.keep("degrees do not divide the devices", n_devices % model == 0)
    degrees = ("pipeline_parallel", "tensor_parallel", "context_parallel")
    _require(table, space, degrees, f"degrees whose product divides the {n_devices:,} devices", n_devices)
    table.keep("context parallelism does not divide the sequence", _context_divides(table, sequence))
    _require(table, space, ("context_parallel",), f"1, or divisors of half the sequence of {sequence}", sequence // 2)
    scans = gcd(*(k.sizes["ssm_heads"] for k in kinds if "ssm_heads" in k.sizes))
    table.keep("context parallelism does not divide the heads of scans", scans % (table["tp"] * table["cp"]) == 0)
    _require(table, space, degrees[1:], f"degrees whose product divides the {scans} groups of heads of scans", scans)
    table.add("dp", n_devices // (table["tp"] * table["pp"] * table["cp"]))
    _cross_chunks(table, layers, space)
    dp = table["dp"]
    table.keep("data parallelism does not divide the batch", global_batch % dp == 0)
    if not len(table):
        low = int(dp.min())
        near = max(low, round(global_batch / low) * low)
        raise InputError(
            "global_batch", global_batch, f"multiples of the data-parallel degree, here {low} or more", near
        )
    table.cross("micro_batch", space.micro_batch_size or divisors(global_batch, MICRO_BATCH_LIMIT))
    largest = global_batch // int(table["dp"].min())
    table.keep("micro-batch does not divide the batch", (global_batch // table["dp"]) % table["micro_batch"] == 0)
    _require(table, space, ("micro_batch_size",), f"divisors of the {largest:,} sequences of a rank", largest)
    table.add("micro_batches", global_batch // (table["dp"] * table["micro_batch"]))
    short = (table["chunks"] > 1) & (table["micro_batches"] % table["pp"] != 0)
    if {"zb-v", "dualpipe-v"} & set(space.schedule or ()):
        short = short & (table["chunks"] != 2)
    table.keep("interleaving needs micro-batches in multiples of the stages", ~short)
    _require(table, space, ("virtual_pipeline",), "1 where micro-batches are no multiple of the stages", 1)
    _cross_experts(table, kinds, space)
    return table


def _tensor_sizes(kinds: Sequence[Any]) -> list[int]:
    names = ("heads", "kv_heads", "ffn", "shared_ffn", "ssm_heads")
    return sorted({k.sizes[n] for k in kinds for n in names if n in k.sizes})


def _tensor_degrees(architecture: Architecture, n_devices: int) -> list[int]:
    sizes = _tensor_sizes([*architecture.kinds.values(), *architecture.mtp])
    return [d for d in divisors(n_devices, min(sizes, default=1)) if all(s % d == 0 for s in sizes)]


def _divides_all(degrees: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    mask = np.ones(len(degrees), bool)
    for size in sizes:
        mask &= size % degrees == 0
    return mask


def _context_degrees(sequence: int, n_devices: int) -> list[int]:
    found = [1]
    while (
        (nxt := found[-1] * 2) <= min(CONTEXT_LIMIT, n_devices)
        and sequence % (2 * nxt) == 0
        and sequence // nxt >= 1024
    ):
        found.append(nxt)
    return found


def _context_divides(table: Table, sequence: int) -> np.ndarray:
    divides: np.ndarray = sequence % np.where(table["cp"] > 1, 2 * table["cp"], 1) == 0
    return divides


def _cross_chunks(table: Table, layers: int, space: SearchSpace) -> None:
    """Chunks per stage: those that leave equal parts, embedding and head counted as a layer each or not at all."""
    table.cross("chunks", space.virtual_pipeline or range(1, layers + 1))
    parts = table["pp"] * table["chunks"]
    table.keep(
        "chunks need a pipeline and a layer each", (parts <= layers + 2) & ((table["chunks"] == 1) | (table["pp"] > 1))
    )
    parts = table["pp"] * table["chunks"]
    even = (layers % parts == 0) | ((layers + 2) % parts == 0) | (table["chunks"] == 1)
    table.keep("chunks do not divide the layers", even)
    allowed = f"1, or with a pipeline what splits the {layers} layers (and both ends) into equal parts"
    _require(table, space, ("virtual_pipeline", "pipeline_parallel"), allowed, 1)


def _cross_experts(table: Table, kinds: Sequence[Any], space: SearchSpace) -> None:
    moe = [k for k in kinds if k.is_moe]
    if not moe:
        for field in ("expert_parallel", "expert_tensor_parallel"):
            if max(getattr(space, field) or (1,)) > 1:
                raise InputError(field, max(getattr(space, field)), "1: the model has no experts", 1)
        table.cross("ep", [1])
        table.cross("etp", [1])
        return
    experts, widths = gcd(*(k.sizes["experts"] for k in moe)), gcd(*(k.sizes["moe_ffn"] for k in moe))
    table.cross("ep", space.expert_parallel or divisors(experts))
    if space.expert_tensor_parallel is None:
        table.cross_with("etp", 1, "tp")
    else:
        table.cross("etp", space.expert_tensor_parallel)
    block = table["tp"] * table["cp"] * table["dp"]
    ranks = int(block.max())
    table.keep("expert parallelism does not divide the ranks of a stage", block % (table["ep"] * table["etp"]) == 0)
    table.keep("expert parallelism does not divide the experts", experts % table["ep"] == 0)
    allowed = f"divisors of the {experts} experts and of the {ranks:,} ranks of a stage"
    _require(table, space, ("expert_parallel", "expert_tensor_parallel"), allowed, gcd(experts, ranks))
    table.keep("expert tensor parallelism does not divide the experts' width", widths % table["etp"] == 0)
    _require(table, space, ("expert_tensor_parallel",), f"divisors of the experts' width {widths}", widths)


def _require(table: Table, space: SearchSpace, fields: Sequence[str], allowed: str, divided: int) -> None:
    """Complain about the first of these filters where it left nothing over; ``divided`` is what it should divide."""
    if len(table):
        return
    given = {field: values for field in fields if (values := getattr(space, field)) and values != (1,)}
    field, values = next(iter(given.items()), (fields[0], getattr(space, fields[0])))
    shown = values[0] if values is not None and len(values) == 1 else values
    others = "".join(f" with {name} {list(chosen)}" for name, chosen in given.items() if name != field)
    near = nearest_divisor(divided, values[0]) if values else None
    raise InputError(field, shown, allowed, near, why=f"leaves no plan{others}: {[*table.dropped][-1]}")
