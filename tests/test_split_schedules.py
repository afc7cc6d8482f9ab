"""Schedules that split backward passes: what their papers say of them, bounds, and what they cost."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.core.pipelines import SCHEDULES, schedule_facts
from llmsim.training.closed_forms import Line, PartTimes, in_flight, split_bound
from llmsim.training.longest_path import longest_path, pipeline_seconds
from llmsim.training.orders import device_order, held, paired_passes, routes

SPLIT = [s for s in SCHEDULES if schedule_facts(s).split]


@st.composite
def pipelines(draw, schedules=tuple(SPLIT), low=0.0):
    """A schedule with its shape and the seconds of each part: (schedule, pp, chunks, m, F, I, W)."""
    name = draw(st.sampled_from(schedules))
    facts = schedule_facts(name)
    p = draw(st.integers(1, 6)) if facts.shape != "both" else 2 * draw(st.integers(1, 4))
    chunks = {"one": 1, "two": 2, "several": draw(st.integers(2, 3))}[facts.chunks]
    m = draw(st.integers(1, 16))
    if facts.paired:
        m = 2 * p + m
    if facts.shape == "both":
        m += m % 2
    if facts.chunks == "several":
        m = p * (1 + m // 4)
    times = st.lists(st.floats(low, 4), min_size=p * chunks, max_size=p * chunks)
    return (name, p, chunks, m, *(draw(times) for _ in range(3)))


def placed(name, p, chunks, values):
    own = [[0.0] * (2 if schedule_facts(name).shape == "both" else chunks) for _ in range(p)]
    for way in routes(name, p, chunks):
        for part, (i, c) in enumerate(way):
            own[i][c] = values[part]
    return own


def timed(name, p, chunks, m, forward, inputs, weights, hop=0.0, saved=0.0):
    whole = [i + w for i, w in zip(inputs, weights, strict=True)]
    own = [placed(name, p, chunks, v) for v in (forward, whole, weights)]
    return longest_path(name, own[0], own[1], m, hop, own[2], [saved] * p)


def bound(name, p, chunks, m, forward, inputs, weights, hop=0.0, saved=0.0):
    lines = (Line(v, range(len(v)), [1] * len(v)) for v in (forward, inputs, weights))
    return split_bound(name, PartTimes(*lines), m, p, chunks, hop, saved)


def alike(name, p, m, times, chunks=None):
    chunks = chunks or {"one": 1, "two": 2, "several": 2}[schedule_facts(name).chunks]
    return (name, p, chunks, m, *([t / chunks] * (p * chunks) for t in times))


@pytest.mark.parametrize(("p", "m"), [(2, 8), (4, 16), (8, 16), (16, 64)])
@pytest.mark.parametrize("times", [(1, 1, 1), (2, 3, 1), (3, 3, 2), (2, 2, 3), (1, 2, 2), (1, 3, 2)])
def test_zb_h1_leaves_the_bubble_of_its_paper(p, m, times):
    f, i, w = times
    seconds = timed(*alike("zb-h1", p, m, times)).seconds
    assert seconds == pytest.approx(m * (f + i + w) + (p - 1) * max(f + i - w, i, f))
    if w <= min(f, i):  # as long as the gradients of weights fit into the gaps
        assert seconds == pytest.approx(m * (f + i + w) + (p - 1) * (f + i - w))


@pytest.mark.parametrize(("p", "m"), [(4, 8), (4, 12), (8, 16), (8, 40), (16, 64)])
@pytest.mark.parametrize("times", [(1, 1, 1), (2, 2, 1), (3, 3, 1), (3, 3, 2)])
def test_dualpipe_leaves_the_bubble_of_its_table(p, m, times):
    """(p/2 - 1)(F&B + B - 3W), where a pair takes as long as its passes one after the other."""
    f, i, w = times
    whole = i + w
    timeline = timed(*alike("dualpipe", p, m, times))
    assert timeline.seconds - timeline.busy[0] == pytest.approx((p / 2 - 1) * (f + whole + whole - 3 * w))


@pytest.mark.parametrize(("p", "m"), [(4, 16), (8, 32), (16, 64)])
def test_equal_times_leave_half_a_stage_a_turn(p, m):
    for name in ("interleaved-zb", "zb-v"):
        seconds = timed(*alike(name, p, m, (1, 1, 1))).seconds
        assert seconds == pytest.approx(3 * m + (p - 1) / 2)


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize(("p", "m"), [(4, 8), (8, 16), (8, 64)])
@pytest.mark.parametrize("times", [(1, 1, 1), (1, 1.25, 0.9), (1, 2.3, 0.9)])
def test_the_bound_is_exact_for_equal_parts(name, p, m, times):
    case = alike(name, p, m, times)
    assert bound(*case) == pytest.approx(timed(*case).seconds)


@settings(max_examples=400, deadline=None)
@given(pipelines(), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0.0, 0.5]))
def test_the_bound_is_never_above_the_longest_path(case, hop, share):
    name, forward, inputs = case[0], case[4], case[5]
    saved = share * min(*forward, *inputs) if schedule_facts(name).paired else 0.0
    assert bound(*case, hop, saved) <= timed(*case, hop, saved).seconds * (1 + 1e-9) + 1e-9


@settings(max_examples=150, deadline=None)
@given(pipelines(), st.floats(0, 1))
def test_no_pipeline_is_faster_than_its_devices_or_its_chain(case, hop):
    name, p, _, _, forward, inputs, weights = case
    timeline = timed(*case, hop)
    hops = 2 * p - 2 if schedule_facts(name).shape == "v" else len(forward) - 1
    chain = sum(forward) + sum(inputs) + weights[0] + 2 * hop * hops * (p > 1)
    assert timeline.seconds >= max(*timeline.busy, chain) - 1e-9
    assert timeline.seconds == max(timeline.finished)


@settings(max_examples=60, deadline=None)
@given(pipelines(), st.floats(0, 1), st.floats(0.1, 10))
def test_time_scales_with_the_costs(case, hop, factor):
    scaled = (*case[:4], *([factor * t for t in own] for own in case[4:]))
    assert timed(*scaled, factor * hop).seconds == pytest.approx(factor * timed(*case, hop).seconds)


@settings(max_examples=60, deadline=None)
@given(pipelines(), st.floats(0, 1))
def test_one_stage_takes_the_plain_sum(case, hop):
    name, _, chunks, m, *times = case
    if schedule_facts(name).shape == "both":
        return
    m = max(m, 2)
    one = (name, 1, chunks, m, *(own[:chunks] for own in times))
    plain = m * sum(map(sum, one[4:]))
    assert timed(*one, hop).seconds == pytest.approx(plain)
    assert bound(*one, hop) == pytest.approx(plain)


@settings(max_examples=80, deadline=None)
@given(pipelines(), st.floats(0, 1))
def test_more_micro_batches_never_take_less(case, hop):
    name, p, chunks, m, *times = case
    more = m + {"both": 2}.get(schedule_facts(name).shape, p if name == "interleaved-zb" else 1)
    assert timed(name, p, chunks, more, *times, hop).seconds >= timed(*case, hop).seconds - 1e-9


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 8), st.integers(1, 24), st.floats(0.1, 2), st.floats(0.1, 2), st.floats(0, 2))
def test_zb_h1_is_never_slower_than_1f1b(p, m, forward, inputs, weights):
    times = (forward, inputs, weights)
    assert timed(*alike("zb-h1", p, m, times)).seconds <= timed(*alike("1f1b", p, m, times)).seconds + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(1, 3), st.floats(0.1, 2))
def test_splitting_is_never_slower_for_equal_costs(p, rounds, unit):
    times, m = (unit,) * 3, 2 * p * rounds
    plain = timed(*alike("1f1b", p, m, times)).seconds
    looped = timed(*alike("interleaved", p, m, times)).seconds
    assert timed(*alike("interleaved-zb", p, m, times)).seconds <= looped + 1e-9
    assert timed(*alike("zb-v", p, m, times)).seconds <= looped + 1e-9
    assert timed(*alike("dualpipe-v", p, m, times)).seconds <= plain + 1e-9
    if p % 2 == 0:
        assert timed(*alike("dualpipe", p, m, times)).seconds <= plain + 1e-9


@settings(max_examples=60, deadline=None)
@given(pipelines())
def test_every_node_runs_once(case):
    name, p, chunks, m, *_ = case
    ways = routes(name, p, chunks)
    places = 2 if len(ways) == 2 else chunks
    for rank in range(p):
        order = device_order(name, rank, p, chunks, m)
        assert len(set(order)) == len(order)
        for kinds in ("F<", "BI&", "BW&"):
            assert sum(kind in kinds for kind, _, _ in order) == places * m // len(ways)
        if p > 1:
            assert sum(kind == "&" for kind, _, _ in order) == paired_passes(name, rank, p, m)
        late = [(c, j) for kind, c, j in order if kind == "I"]
        assert sorted(late) == sorted((c, j) for kind, c, j in order if kind == "W")


@settings(max_examples=60, deadline=None)
@given(pipelines(), st.floats(0, 3), st.floats(0, 3))
def test_held_is_the_most_that_an_order_holds(case, whole, late):
    name, p, chunks, m, *_ = case
    for rank in range(p):
        now = most = 0.0
        for kind, _, _ in device_order(name, rank, p, chunks, m):
            now += {"F": whole, "<": whole, "B": -whole, "&": -whole, "I": late - whole, "W": -late}.get(kind, 0)
            most = max(most, now)
        assert max(a * whole + b * late for a, b in held(name, rank, p, chunks, m)) == pytest.approx(most)


@pytest.mark.parametrize("name", SPLIT)
def test_many_micro_batches_hold_as_much_as_some(name):
    p, chunks = 4, {"one": 1, "two": 2, "several": 3}[schedule_facts(name).chunks]
    for rank in range(p):
        order = device_order(name, rank, p, chunks, 4 * p)
        assert order
        few = held(name, rank, p, chunks, 4 * p)
        assert {held(name, rank, p, chunks, m) for m in (6 * p, 8 * p, 100 * p)} == {few}


@pytest.mark.parametrize("p", [4, 8])
def test_what_is_in_flight_is_what_papers_say(p):
    """In micro-batches of a whole device's layers: ZB-H1 and ZB-V as 1F1B's first stage, DualPipe one more."""
    m = 4 * p

    def most(name, chunks):
        return [max(a + b for a, b in held(name, i, p, chunks, m)) for i in range(p)]

    assert most("zb-h1", 1) == [p] * p
    assert most("zb-v", 2) == [2 * p] * p
    assert most("interleaved-zb", 2) == [2 * p] * p
    assert most("dualpipe", 1) == [p + 1] * p
    assert most("dualpipe-v", 2) == [2 * p + 1] * p


@settings(max_examples=20, deadline=None)
@given(pipelines(low=0.1), st.floats(0, 1))
def test_a_long_pipeline_keeps_its_pace(case, hop):
    name, p, chunks, _, *times = case
    m = 120 * p * 2
    whole = [i + w for i, w in zip(times[1], times[2], strict=True)]
    own = [placed(name, p, chunks, v) for v in (times[0], whole, times[2])]
    exact = longest_path(name, own[0], own[1], m, hop, own[2]).seconds
    assert pipeline_seconds(name, own[0], own[1], m, hop, own[2]) == pytest.approx(exact, rel=1e-3)


def test_many_pipelines_are_walked_at_once():
    rng = np.random.default_rng(0)
    for name in SPLIT:
        case = alike(name, 4, 16, (1, 1, 1))
        times = [[rng.uniform(0.5, 2, 5) for _ in own] for own in case[4:]]
        together = timed(*case[:4], *times).seconds
        for n, _ in enumerate(together):
            single = timed(*case[:4], *([float(t[n]) for t in own] for own in times))
            assert together[n] == pytest.approx(single.seconds, rel=1e-12)


def test_bounds_take_columns():
    shapes = [(4, 2, 16), (2, 3, 8), (8, 4, 8)]
    pp, chunks, m = (np.array(v) for v in zip(*shapes, strict=True))
    names = {"interleaved-zb": chunks, "zb-h1": 1, "zb-v": 2, "dualpipe-v": 2, "dualpipe": 1}
    for name, own in names.items():
        count = 2 * pp * m
        parts = pp * own
        lines = [Line([1.0, 1.5, v], [0, 1, parts - 1], [1, parts - 2, 1]) for v in (2.0, 2.5, 1.2)]
        together = split_bound(name, PartTimes(*lines), count, pp, own, 0.1)
        for n, (p, v, _) in enumerate(shapes):
            k = v if name == "interleaved-zb" else own
            single = [Line(x.values, [0, 1, p * k - 1], [1, p * k - 2, 1]) for x in lines]
            alone = split_bound(name, PartTimes(*single), int(count[n]), p, k, 0.1)
            assert together[n] == pytest.approx(alone, rel=1e-12)


def test_orders_refuse_what_they_are_not_defined_for():
    for name, p, m in (("dualpipe", 3, 8), ("dualpipe", 4, 9), ("dualpipe", 4, 6), ("dualpipe-v", 4, 7)):
        with pytest.raises(ValueError, match=r"dualpipe|stages"):
            device_order(name, 0, p, 2, m)
    with pytest.raises(ValueError, match="splits backward"):
        in_flight("zb-v", 0, 4, 2, 8)
    with pytest.raises(ValueError, match="equal groups"):
        device_order("interleaved-zb", 0, 4, 2, 13)


@pytest.mark.parametrize(("name", "times"), product(SPLIT, [(1, 1, 1), (1, 2, 1)]))
def test_no_schedule_is_free(name, times):
    """What is faster than 1F1B holds more on some device, for longer, or in more copies."""
    p, m = 4, 16
    plain = timed(*alike("1f1b", p, m, times)).seconds
    chunks = {"one": 1, "two": 2, "several": 2}[schedule_facts(name).chunks]
    assert timed(*alike(name, p, m, times)).seconds < plain
    share = 2 if schedule_facts(name).shape == "both" else chunks
    more = sum(max(a + b for a, b in held(name, i, p, chunks, m)) / share for i in range(p))
    before = sum(min(m, p - i) for i in range(p))
    assert more * schedule_facts(name).copies > before
