"""Pipeline schedules: exact times, closed forms, bounds, what is in flight."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.training.closed_forms import StageTimes, closed_form, in_flight
from llmsim.training.longest_path import longest_path, pipeline_seconds
from llmsim.training.orders import device_order, most_held


def equal(p: int, chunks: int, forward: float = 1.0, backward: float = 2.0):
    return [[forward / chunks] * chunks] * p, [[backward / chunks] * chunks] * p


@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize("m", [8, 16, 32])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_plain_schedules_take_3m_plus_3_p_minus_1(schedule, p, m):
    timeline = longest_path(schedule, *equal(p, 1), m)
    assert timeline.seconds == 3 * m + 3 * (p - 1)
    assert closed_form(schedule, StageTimes([1.0], [2.0], [p]), m, p, 1, 0.0) == timeline.seconds


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (8, 32)])
@pytest.mark.parametrize("chunks", [2, 3, 5])
def test_interleaving_divides_the_bubble_by_the_chunks(p, m, chunks):
    timeline = longest_path("interleaved", *equal(p, chunks), m)
    expected = 3 * m + 3 * (p - 1) / chunks
    assert timeline.seconds == pytest.approx(expected, rel=1e-12)
    assert closed_form("interleaved", StageTimes([1.0], [2.0], [p]), m, p, chunks, 0.0) == pytest.approx(expected)


@pytest.mark.parametrize(("p", "m", "chunks"), [(4, 8, 1), (8, 4, 1), (4, 4, 2), (4, 16, 2), (8, 16, 3), (8, 8, 2)])
def test_in_flight_is_what_the_order_holds(p, m, chunks):
    schedule = "1f1b" if chunks == 1 else "interleaved"
    held = [most_held(device_order(schedule, i, p, chunks, m)) for i in range(p)]
    assert held == [in_flight(schedule, i, p, chunks, m) for i in range(p)]


def test_gpipe_holds_all_micro_batches():
    assert {most_held(device_order("gpipe", i, 4, 1, 12)) for i in range(4)} == {12}


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
@pytest.mark.parametrize("m", [3, 5, 8])
def test_every_node_runs_once(schedule, m):
    chunks = 1 if schedule == "1f1b" else 2
    for rank in range(4):
        order = device_order(schedule, rank, 4, chunks, m)
        assert len(set(order)) == len(order) == 2 * m * chunks


stage_times = st.lists(st.floats(0.1, 10), min_size=1, max_size=7)


@given(stage_times, stage_times, st.integers(1, 20), st.sampled_from(["gpipe", "1f1b"]))
def test_closed_form_never_exceeds_the_longest_path(forward, backward, m, schedule):
    p = min(len(forward), len(backward))
    forward, backward = forward[:p], backward[:p]
    exact = longest_path(schedule, [[f] for f in forward], [[b] for b in backward], m, hop_s=0.05).seconds
    bound = closed_form(schedule, StageTimes(forward, backward, [1] * p), m, p, 1, 0.05 if p > 1 else 0.0)
    assert bound <= exact * (1 + 1e-12)


@given(stage_times, st.integers(1, 12))
def test_unequal_gpipe_is_exact(forward, m):
    p = len(forward)
    backward = [2 * f for f in reversed(forward)]
    exact = longest_path("gpipe", [[f] for f in forward], [[b] for b in backward], m).seconds
    bound = closed_form("gpipe", StageTimes(forward, backward, [1] * p), m, p, 1, 0.0)
    assert bound == pytest.approx(exact, rel=1e-12)


@given(st.integers(1, 6), st.integers(1, 16), st.floats(0, 1))
def test_time_grows_with_micro_batches_and_hops(p, m, hop):
    times = equal(p, 1)
    base = longest_path("1f1b", *times, m, hop).seconds
    assert longest_path("1f1b", *times, m + 1, hop).seconds > base
    assert longest_path("1f1b", *times, m, hop + 0.1).seconds >= base
    assert base >= longest_path("1f1b", *times, m).busy[0]


@given(stage_times, st.integers(1, 8))
def test_one_stage_never_idles(times, m):
    timeline = longest_path("1f1b", [[times[0]]], [[times[-1]]], m)
    assert timeline.seconds == pytest.approx(timeline.busy[0])


@settings(max_examples=20, deadline=None)
@given(stage_times, st.integers(0, 40), st.floats(0, 1), st.sampled_from(["gpipe", "1f1b", "interleaved"]))
def test_a_long_pipeline_keeps_its_pace(times, extra, hop, schedule):
    p, chunks = len(times), 2 if schedule == "interleaved" else 1
    forward, backward = [[t] * chunks for t in times], [[2 * t] * chunks for t in reversed(times)]
    m = 600 + extra * (p if chunks > 1 else 1)
    m -= m % p if chunks > 1 else 0
    exact = longest_path(schedule, forward, backward, m, hop).seconds
    assert pipeline_seconds(schedule, forward, backward, m, hop) == pytest.approx(exact, rel=1e-3)


def test_a_billion_micro_batches_are_no_more_work_than_many():
    times = equal(4, 1)
    assert pipeline_seconds("1f1b", *times, 10**9) == pytest.approx(3 * 10**9 + 9, rel=1e-12)
    assert pipeline_seconds("1f1b", *times, 100) == longest_path("1f1b", *times, 100).seconds
    assert pipeline_seconds("1f1b", *equal(1, 1), 10**9) == 3 * 10**9
