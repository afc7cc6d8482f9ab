"""The space of training plans: what may be chosen, and the columns of all choices that divide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..architecture import Architecture
from ..core.data_parallel import ShardingName
from ..core.errors import InputError
from ..plans.recompute import parse_recompute
from ..plans.training import nearest_divisor

MICRO_BATCH_LIMIT = 64
CONTEXT_LIMIT = 64


class SearchSpace(BaseModel):
    """What a search may choose from; None leaves a choice to the search.

    Attributes
    ----------
    tensor_parallel, pipeline_parallel, virtual_pipeline, context_parallel, expert_parallel, expert_tensor_parallel
        Allowed degrees.
    micro_batch_size
        Allowed sizes.
    recompute, sharding, context_kind, sequence_parallel
        Allowed settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensor_parallel: tuple[int, ...] | None = None
    pipeline_parallel: tuple[int, ...] | None = None
    virtual_pipeline: tuple[int, ...] | None = None
    context_parallel: tuple[int, ...] | None = None
    expert_parallel: tuple[int, ...] | None = None
    expert_tensor_parallel: tuple[int, ...] = (1,)
    micro_batch_size: tuple[int, ...] | None = None
    recompute: tuple[str, ...] | None = None
    sharding: tuple[ShardingName, ...] | None = None
    context_kind: tuple[Literal["ring", "all_gather", "ulysses"], ...] | None = None
    sequence_parallel: tuple[bool, ...] | None = Field(default=None)

    @field_validator(
        "tensor_parallel", "pipeline_parallel", "virtual_pipeline", "context_parallel", "expert_parallel",
        "expert_tensor_parallel", "micro_batch_size",
    )  # fmt: skip
    @classmethod
    def _positive(cls, values: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if values is not None and (not values or min(values) < 1):
            raise ValueError("degrees and sizes are whole numbers from 1")
        return values

    @field_validator("recompute")
    @classmethod
    def _recompute(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if values is None else tuple(str(parse_recompute(v)) for v in values)
        except InputError as error:
            raise ValueError(str(error)) from None


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
    table.cross("tp", space.tensor_parallel or _tensor_degrees(architecture, n_devices))
    table.keep("tensor parallelism does not divide heads or widths", _divides_all(table["tp"], _tensor_sizes(kinds)))
    _require(table, "tensor_parallel", space.tensor_parallel, _tensor_sizes(kinds))
    table.cross("pp", space.pipeline_parallel or divisors(n_devices, layers + 2))
    table.cross("cp", space.context_parallel or _context_degrees(sequence, n_devices))
    model = table["tp"] * table["pp"] * table["cp"]
    table.keep("degrees do not divide the devices", n_devices % model == 0)
    _require(table, "devices", n_devices, None)
    table.keep("context parallelism does not divide the sequence", _context_divides(table, sequence))
    _require(table, "sequence", sequence, None)
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
    table.keep("micro-batch does not divide the batch", (global_batch // table["dp"]) % table["micro_batch"] == 0)
    _require(table, "micro_batch_size", space.micro_batch_size, [global_batch // int(dp.min())])
    table.add("micro_batches", global_batch // (table["dp"] * table["micro_batch"]))
    short = (table["chunks"] > 1) & (table["micro_batches"] % table["pp"] != 0)
    table.keep("interleaving needs micro-batches in multiples of the stages", ~short)
    _cross_experts(table, kinds, space)
    return table


def _tensor_sizes(kinds: Sequence[Any]) -> list[int]:
    names = ("heads", "kv_heads", "ffn", "shared_ffn")
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
    parts = np.where(table["cp"] > 1, 2 * table["cp"], 1)
    divides: np.ndarray = (sequence % parts == 0) & (sequence % (table["cp"] * table["tp"]) == 0)
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
    _require(table, "virtual_pipeline", space.virtual_pipeline, [layers])


def _cross_experts(table: Table, kinds: Sequence[Any], space: SearchSpace) -> None:
    experts = sorted({k.sizes["experts"] for k in kinds if k.is_moe})
    if not experts:
        if space.expert_parallel and max(space.expert_parallel) > 1:
            raise InputError("expert_parallel", space.expert_parallel, "1: the model has no experts", 1)
        table.cross("ep", [1])
        table.cross("etp", [1])
        return
    table.cross("ep", space.expert_parallel or divisors(int(np.gcd.reduce(experts))))
    table.cross("etp", space.expert_tensor_parallel)
    block = table["tp"] * table["cp"] * table["dp"]
    inside = table["ep"] * table["etp"]
    table.keep("expert parallelism does not divide the ranks of a stage", block % inside == 0)
    table.keep("expert parallelism does not divide the experts", _divides_all(table["ep"], experts))
    _require(table, "expert_parallel", space.expert_parallel, experts)


def _require(table: Table, field: str, given: Any, sizes: Sequence[int] | None) -> None:
    """Complain about the value that left nothing over."""
    if len(table):
        return
    near: Any = None
    if sizes and isinstance(given, tuple):
        near = nearest_divisor(int(np.gcd.reduce(sizes)), given[0])
    rules = "; ".join(f"{rule} ({count})" for rule, count in table.dropped.items())
    raise InputError(field, given, "a value that divides", near, why=f"leaves no plan: {rules}")
