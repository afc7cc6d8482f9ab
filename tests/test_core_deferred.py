"""Values that are computed when they are first read."""

from __future__ import annotations

import pickle

import pytest

from llmsim import InputError, simulate_training
from llmsim.core.deferred import Deferred

PLAN = {"sequence_length": 4096, "global_batch_size": 64, "data_parallel": 8, "sharding": "zero3"}
MODEL, NODE = "llama-3-8b", "1x8xh100-sxm-80gb"


def test_a_value_is_computed_once_and_only_when_read() -> None:
    calls: list[int] = []
    value = Deferred(lambda: calls.append(1) or len(calls))
    assert not calls
    assert "..." in repr(value)
    assert (value.value, value.value) == (1, 1)
    assert repr(value) == "Deferred(1)"


def test_equal_by_value_and_small_between_processes() -> None:
    large = list(range(100_000))
    value = Deferred(lambda: len(large))
    assert value == Deferred.known(100_000) != Deferred.known(1)
    assert value != 100_000
    assert pickle.loads(pickle.dumps(value)) == value
    assert len(pickle.dumps(value)) < 200


def test_a_failure_is_not_remembered() -> None:
    answers = iter([ValueError("not yet"), 3])

    def compute() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    value = Deferred(compute)
    with pytest.raises(ValueError, match="not yet"):
        _ = value.value
    assert value.value == 3


def test_a_step_does_not_wait_for_what_nobody_reads(monkeypatch) -> None:
    def unread(*_: object) -> None:
        raise AssertionError("nobody asked for memory")

    result = simulate_training(PLAN, MODEL, NODE)
    assert result.fits
    with monkeypatch.context() as patch:
        patch.setattr("llmsim.training.details.stage_memory", unread)
        later = simulate_training(PLAN, MODEL, NODE)
        assert later.step_time_s == result.step_time_s == sum(later.breakdown_s.values())
    assert later == result
    assert later.to_dict() == result.to_dict()


def test_what_the_caller_assumed_is_what_it_was_at_the_call() -> None:
    assumed = {"batch": "from the recipe"}
    result = simulate_training(PLAN, MODEL, NODE, assumed=assumed)
    assumed.clear()
    assert result.assumed["batch"] == "from the recipe"


def test_plans_that_cannot_run_are_refused_at_the_call() -> None:
    with pytest.raises(InputError, match="devices"):
        simulate_training({**PLAN, "data_parallel": 4}, MODEL, NODE)
