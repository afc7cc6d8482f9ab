"""Messages of the data-parallel family: volumes of the ZeRO paper, padding, and one formula for all numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from llmsim.core.data_parallel import (
    ShardingKind,
    Stored,
    Unit,
    data_parallel_messages,
    gradient_buckets,
    padded_elements,
    shard_elements,
    step_bytes,
    unit_elements,
)
from llmsim.core.formats import get_format
from llmsim.core.messages import wire_share

BF16, FP32 = get_format("bf16"), get_format("fp32")
KINDS: tuple[ShardingKind, ...] = ("ddp", "zero1", "zero1_broadcast", "zero2", "zero3", "hsdp")

tensors = st.builds(Stored, st.integers(1, 300), st.integers(1, 50))
units = st.lists(
    st.builds(
        Unit, st.lists(tensors, min_size=1, max_size=4).map(tuple), count=st.integers(1, 5), reshard=st.booleans()
    ),
    min_size=1,
    max_size=3,
)


def messages_of(kind: ShardingKind, given: list[Unit], shard: Any, **options: Any) -> Any:
    return data_parallel_messages(kind, given, shard=shard, parameter_format=BF16, gradient_format=FP32, **options)


def test_volumes_of_the_zero_paper() -> None:
    """Elements sent by a rank in a step (arXiv:1910.02054, section 7): 2N(n-1)/n, and half as much again for ZeRO-3."""
    n, rows, width, m = (sympy.Symbol(x, positive=True) for x in ("n", "rows", "width", "m"))
    unit = Unit((Stored(rows, width),))
    single = Unit((Stored(rows, width),), reshard=False)

    def sent(kind: ShardingKind, unit: Unit, microbatches: Any = 1, **options: Any) -> Any:
        found = data_parallel_messages(kind, [unit], shard=n, parameter_format=BF16, gradient_format=BF16, **options)
        return sum(x.payload_bytes / 2 * x.per_step(microbatches) * wire_share(x.collective, n) for x in found)

    share = rows * width * (n - 1) / n
    assert sympy.simplify(sent("ddp", unit) - 2 * share) == 0
    assert sympy.simplify(sent("zero1", unit) - 2 * share) == 0
    assert sympy.simplify(sent("zero2", unit) - 2 * share) == 0
    assert sympy.simplify(sent("zero3", unit) - 3 * share) == 0
    assert sympy.simplify(sent("zero3", single) - 2 * share) == 0
    assert sympy.simplify(sent("zero3", unit, m) - 3 * m * share) == 0
    assert sympy.simplify(sent("zero3", unit, m, accumulation="last") - (2 * m + 1) * share) == 0
    assert sympy.simplify(sent("zero1", unit, m, accumulation="last") - 2 * share) == 0


@given(units, st.integers(1, 600))
def test_padding(given_units: list[Unit], shard: int) -> None:
    for unit in given_units:
        elements = unit_elements(unit)
        for padding in ("rows", "flat"):
            padded = padded_elements(unit, shard, padding)
            assert padded == shard_elements(unit, shard, padding) * shard
            assert elements <= padded
        assert padded_elements(unit, shard, "none") == elements
        assert padded_elements(unit, shard, "flat") < elements + shard
        assert padded_elements(unit, shard, "flat") <= padded_elements(unit, shard, "rows")
        if all(p.leading % shard == 0 for p in unit.parameters):
            assert padded_elements(unit, shard, "rows") == elements


@given(units, st.sampled_from(KINDS), st.sampled_from(["each", "last"]), st.integers(1, 8))
def test_columns_equal_single_plans(given_units: list[Unit], kind: ShardingKind, when: Any, microbatches: int) -> None:
    shards = np.array([1, 2, 24, 512])
    table = messages_of(kind, given_units, shards, accumulation=when)
    for row, shard in enumerate(shards.tolist()):
        one = messages_of(kind, given_units, shard, accumulation=when)
        assert [int(np.broadcast_to(m.payload_bytes, 4)[row]) for m in table] == [m.payload_bytes for m in one]
        assert [m.per_step(microbatches) for m in table] == [m.per_step(microbatches) for m in one]


@given(units, st.sampled_from(KINDS), st.integers(1, 64))
def test_a_group_of_one_sends_nothing(given_units: list[Unit], kind: ShardingKind, replicas: int) -> None:
    sent = [
        m.payload_bytes * wire_share(m.collective, 1 if m.group == "shard" else replicas)
        for m in messages_of(kind, given_units, 1)
        if m.collective != "broadcast"
    ]
    replicated = kind in ("ddp", "zero1_broadcast", "hsdp") and replicas > 1
    assert any(sent) == replicated


@given(units, st.integers(1, 64), st.integers(1, 6))
def test_every_parameter_and_gradient_travels(given_units: list[Unit], shard: int, microbatches: int) -> None:
    everything = sum(unit_elements(u) * u.count for u in given_units)
    padded = {p: sum(padded_elements(u, shard, p) * u.count for u in given_units) for p in ("rows", "flat")}

    def moved(kind: ShardingKind, collective: str, **options: Any) -> Any:
        return step_bytes(messages_of(kind, given_units, shard, **options), microbatches, collective)

    assert moved("ddp", "all_reduce") == 4 * everything * microbatches
    assert moved("ddp", "all_reduce", accumulation="last") == 4 * everything
    assert moved("zero1_broadcast", "broadcast") == 2 * everything
    assert moved("zero1", "all_gather") == 2 * padded["flat"]
    assert moved("zero1", "all_gather", padding="rows") == 2 * padded["rows"]
    assert moved("zero2", "reduce_scatter") == 4 * padded["flat"] * microbatches
    assert moved("zero3", "reduce_scatter", accumulation="last") == 4 * padded["rows"]
    assert moved("hsdp", "all_reduce") * shard == 4 * padded["rows"] * microbatches
    again = sum(padded_elements(u, shard) * u.count for u in given_units if u.reshard)
    assert moved("zero3", "all_gather") == 2 * (padded["rows"] + again) * microbatches


@given(st.lists(st.integers(1, 100), max_size=30), st.integers(1, 200), st.none() | st.integers(1, 200))
def test_buckets(sizes: list[int], limit: int, first: int | None) -> None:
    counts = gradient_buckets(sizes, limit, first)
    assert sum(counts) == len(sizes)
    start = 0
    for position, count in enumerate(counts):
        inside, start = sizes[start : start + count], start + count
        own = first if position == 0 and first is not None else limit
        assert sum(inside[:-1]) < own
        if position < len(counts) - 1:
            assert sum(inside) >= own


def test_scaled_formats_count_their_scales() -> None:
    unit = Unit((Stored(1024, 64),))
    (message,) = data_parallel_messages(
        "ddp", [unit], shard=1, parameter_format=BF16, gradient_format=get_format("mxfp8")
    )
    assert message.payload_bytes == 1024 * 64 + 1024 * 64 // 32


@pytest.mark.parametrize("kind", KINDS)
def test_messages_name_their_unit(kind: ShardingKind) -> None:
    given_units = [Unit((Stored(8),)), Unit((Stored(16),), count=3)]
    found = messages_of(kind, given_units, 4)
    assert {m.unit for m in found} == {0, 1}
    assert all(m.count == given_units[m.unit].count for m in found)
