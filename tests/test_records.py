"""Records of numbers are changed and joined number by number."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmsim.core.records import map_numbers, stack_records, where_numbers
from llmsim.hardware.network import NO_TRAFFIC, WireTime
from llmsim.timing.layer_time import UnitTraffic


@dataclass(frozen=True)
class Inner:
    a: float
    name: str = "inner"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    numbers: list[float]
    named: dict[str, float]
    pair: tuple[Inner, Inner]
    flag: bool = True
    nothing: float | None = None
    many: list[Inner] = field(default_factory=list)


def outer(x: float) -> Outer:
    return Outer(Inner(x), [x, 2 * x], {"k": 3 * x}, (Inner(4 * x), Inner(5 * x)), many=[Inner(6 * x)])


@given(st.floats(-1e6, 1e6), st.floats(-1e3, 1e3))
def test_every_number_is_changed_and_nothing_else(x: float, factor: float) -> None:
    assert map_numbers(outer(x), lambda v: v) == outer(x)
    assert map_numbers(outer(1.0), lambda v: v * factor) == Outer(
        Inner(factor), [factor, 2 * factor], {"k": 3 * factor}, (Inner(4 * factor), Inner(5 * factor)),
        many=[Inner(6 * factor)],
    )  # fmt: skip


def test_rows_are_taken_of_all_arrays() -> None:
    rows = np.array([2, 0])
    found = map_numbers(WireTime(np.arange(3.0), np.arange(3.0) * 2, np.arange(3.0) * 3), lambda v: v[rows])
    assert found.inner_s.tolist() == [4, 0]
    assert found.outer_s.tolist() == [6, 0]


def test_what_moves_nothing_stays_itself() -> None:
    unit = UnitTraffic()
    assert map_numbers(unit, lambda v: v + 1) is unit
    assert map_numbers(UnitTraffic(WireTime(1), WireTime(2)), lambda v: v + 1).forward == WireTime(2, 1, 1)
    assert UnitTraffic().forward is NO_TRAFFIC


def test_records_are_chosen_between_number_by_number() -> None:
    condition = np.array([True, False])
    found = where_numbers(condition, (Inner(1), Inner(2)), (Inner(3), Inner(4)))
    assert found[0].a.tolist() == [1, 3]
    assert found[1].a.tolist() == [2, 4]
    same = Inner(7)
    assert where_numbers(condition, same, same) is same


def test_records_are_joined_place_by_place() -> None:
    whole = stack_records([outer(1.0), outer(2.0)])
    assert whole.inner.a.tolist() == [1, 2]
    assert (whole.inner.name, whole.flag, whole.nothing) == ("inner", True, None)
    assert [v.tolist() for v in whole.numbers] == [[1, 2], [2, 4]]
    assert whole.pair[1].a.tolist() == [5, 10]
    rows = stack_records([(np.arange(3), np.ones((2, 3))), (np.arange(2), np.zeros((2, 2)))])
    assert rows[0].tolist() == [0, 1, 2, 0, 1]
    assert rows[1].tolist() == [[1, 1, 1, 0, 0]] * 2


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_taking_a_record_out_of_joined_ones_gives_it_back(values: list[float]) -> None:
    whole = stack_records(list(map(outer, values)))
    for i, x in enumerate(values):
        assert map_numbers(whole, lambda v: float(v[i])) == outer(x)  # noqa: B023


def test_what_a_record_lacks_is_none_to_its_join() -> None:
    first, second = {"b": Inner(1.0), "a": Inner(2.0)}, {"c": Inner(3.0)}
    found = stack_records([first, second], lambda values: sum(v or 0 for v in values), order=sorted)
    assert found == {"a": Inner(2.0), "b": Inner(1.0), "c": Inner(3.0)}
    assert list(found) == ["a", "b", "c"]
    longer = stack_records([[1, 2], [3]], lambda values: [v is None for v in values])  # type: ignore[arg-type,return-value]
    assert longer == [[False, False], [False, True]]
    assert stack_records([True, False], sum) == 1
    unit = UnitTraffic()
    assert stack_records([unit, UnitTraffic()]) is unit
