"""Closed forms of pipeline schedules, which whole tables of plans share: never above the longest path.

References
----------
GPipe: Huang 2018, arXiv:1811.06965. One forward one backward and interleaved, with its bubble (p - 1) / v: Narayanan
2021, arXiv:2104.04473. Zero bubble: Qi 2023, arXiv:2401.10241, and Qi 2024, arXiv:2405.15362. DualPipe: DeepSeek-V3,
arXiv:2412.19437.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.numeric import Number, ceil_div, maximum, minimum, total, where
from ..core.pipelines import ScheduleName, schedule_facts


@dataclass(frozen=True)
class StageTimes:
    """Seconds of the stages of a pipeline in runs of equal ones, from the first to the last.

    Attributes
    ----------
    forward, backward
        Of one micro-batch on one stage of each run.
    repeats
        Stages in each run.
    lead
        Of both passes of a stage's first chunk; where it is not known, an equal part of the stage.
    """

    forward: Sequence[Number]
    backward: Sequence[Number]
    repeats: Sequence[Number]
    lead: Sequence[Number | None] = ()


def closed_form(
    schedule: ScheduleName, times: StageTimes, micro_batches: Number, pp: Number, chunks: Number, hop_s: Number
) -> Number:
    """Time of a pipeline that does not split its backward passes, seconds: never above the longest path, and equal
    to it for equal stages and free hops.

    GPipe with unequal stages is exact: ``sum F + (m-1) max F + sum B + (m-1) max B``. For 1F1B the bound is
    ``max_i [m T_i + sum_{j<i} T_j]``: stage i cannot start before the stages in front of it have passed the first
    micro-batch on, nor can they end before it has passed the last one back; under interleaving it is their first chunks
    that do so.

    Raises
    ------
    ValueError
        For a schedule that splits them: :func:`split_bound`.
    """
    _whole(schedule)
    runs = range(len(times.repeats))
    if schedule == "gpipe":
        seconds: Number = 2 * (pp - 1) * hop_s
        for part in (times.forward, times.backward):
            seconds = seconds + sum(part[s] * times.repeats[s] for s in runs)
            seconds = seconds + (micro_batches - 1) * maximum(*(part[s] for s in runs))
        return seconds
    before: Number = 0
    hops: Number = 0
    best: Number = 0
    for s in runs:
        stage = times.forward[s] + times.backward[s]
        known = times.lead[s] if times.lead else None
        lead = stage / chunks if known is None else known
        reached = before + (times.repeats[s] - 1) * lead
        hops = hops + times.repeats[s]
        best = maximum(best, micro_batches * stage + reached + 2 * (hops - 1) * hop_s)
        before = before + times.repeats[s] * lead
    return best


def _whole(schedule: ScheduleName) -> None:
    if schedule_facts(schedule).split:
        raise ValueError(f"schedule {schedule} splits backward passes")


@dataclass(frozen=True)
class Line:
    """A quantity along the parts of a model, in runs of equal parts.

    Attributes
    ----------
    values
        Of one part of each run.
    first, repeats
        Index of the first part of each run, and how many there are.
    """

    values: Sequence[Number]
    first: Sequence[Number]
    repeats: Sequence[Number]

    def at(self, part: Number) -> Number:
        """Of one part."""
        inside = [(part >= f) & (part < f + n) for f, n in zip(self.first, self.repeats, strict=True)]
        return total(v * where(one, 1, 0) for v, one in zip(self.values, inside, strict=True))

    def before(self, part: Number) -> Number:
        """Sum over the parts in front of one."""
        counts = [minimum(maximum(part - f, 0), n) for f, n in zip(self.first, self.repeats, strict=True)]
        return total(v * n for v, n in zip(self.values, counts, strict=True))

    def every(self, first: Number, step: Number) -> Number:
        """Sum over one part and every ``step``-th behind it."""

        def ahead(part: Number) -> Number:
            return maximum(0, ceil_div(part - first, step))

        counts = [ahead(f + n) - ahead(f) for f, n in zip(self.first, self.repeats, strict=True)]
        return total(v * n for v, n in zip(self.values, counts, strict=True))


def _sum(a: Line, b: Line) -> Line:
    return Line([x + y for x, y in zip(a.values, b.values, strict=True)], a.first, a.repeats)


@dataclass(frozen=True)
class PartTimes:
    """Seconds of the parts of a pipelined model in model order: of one micro-batch each.

    Attributes
    ----------
    forward, inputs, weights
        Of forward passes, of the gradients of inputs (with what is computed again for them), of those of weights.
    """

    forward: Line
    inputs: Line
    weights: Line


@dataclass(frozen=True)
class _Device:
    """One device of a schedule that splits backward passes.

    Attributes
    ----------
    work_s
        All of its nodes.
    entry, turn, last
        Parts: of its first forward pass, of its first and of its last backward pass.
    early_s
        Its nodes in front of its first backward pass.
    late_s
        What it does behind its last backward pass, at most.
    drained_s
        Where passes run in pairs: what the last micro-batch takes to its end from this device's forward pass of it on,
        less what the device itself still has to do.
    """

    work_s: Number
    entry: Number
    turn: Number
    last: Number
    early_s: Number
    late_s: Number
    drained_s: Number | None = None


def split_bound(
    schedule: ScheduleName,
    parts: PartTimes,
    micro_batches: Number,
    pp: Number,
    chunks: Number,
    hop_s: Number,
    saved_s: Number = 0,
) -> Number:
    """Time of a pipeline that splits its backward passes, seconds: never above the longest path.

    Each device has work for a micro-batch as often as there are micro-batches. It cannot begin before the first one has
    come down to it, nor with backward passes before that one has gone through the whole model and back; it has nothing
    to do in between but the forward passes that its order puts there. When it has ended its last backward pass, the
    gradient still goes down to the first part, whose own weights' gradient comes last. Where passes run in pairs, the
    last micro-batch is forwarded from one pair's end to the next's.

    For equal parts, free hops and micro-batches enough the bound is equal to the longest path: ZB-H1 takes
    ``m (F + I + W) + (p - 1) max(F + I - W, I, F)``, whose first case is that of its paper. In the 10,000 random cases
    of ``benchmarks/schedule_bounds.py`` (unequal parts, hops, few micro-batches) the longest path is above the bound by
    0.8 % in the median, 7 % in nine of ten and 34 % at most; never below.

    Parameters
    ----------
    chunks
        Of each device; ``interleaved-zb`` takes micro-batches in multiples of the stages.
    saved_s
        What a forward and a backward pass side by side take less than one after the other.

    References
    ----------
    Qi 2023, arXiv:2401.10241 (ZB-H1).
    """
    shape = schedule_facts(schedule).shape
    best: Number = 0
    hop_s = hop_s * where(pp > 1, 1, 0)
    ends = pp * chunks if shape == "loop" else (2 * pp if shape == "v" else pp)
    turned = pp if shape == "v" else ends  # no hop where a micro-batch turns round

    def hops(part: Number) -> Number:
        return (part - where(part >= turned, 1, 0)) * hop_s

    for i in _candidates(shape, parts, pp, chunks):
        match schedule:
            case "zb-h1" | "interleaved-zb":
                device = _looped(parts, i, micro_batches, pp, chunks)
            case "zb-v":
                device = _zero_bubble_v(parts, i, micro_batches, pp)
            case _:
                half, count = (pp / 2, micro_batches / 2) if shape == "both" else (pp, micro_batches)
                device = _dual(parts, i, count, half, ends, saved_s)
        through = parts.forward.before(ends) + hops(ends - 1)
        turn = parts.inputs.before(ends) - parts.inputs.before(device.turn + 1) + hops(ends - 1) - hops(device.turn)
        start = maximum(parts.forward.before(device.entry) + hops(device.entry), through + turn - device.early_s)
        down = parts.inputs.before(device.last) + hops(device.last) + parts.weights.at(0)
        best = maximum(best, start + device.work_s + maximum(0, down - device.late_s))
        if device.drained_s is not None:
            drain = device.drained_s + 2 * hops(ends - 1) - hops(i)
            best = maximum(best, start + device.work_s + where(pp > (2 if shape == "both" else 1), drain, 0))
    return best


def _candidates(shape: str, parts: PartTimes, pp: Number, chunks: Number) -> list[Number]:
    """Devices worth asking: between the ends of runs, times change steadily from one device to the next."""
    last = pp / 2 - 1 if shape == "both" else pp - 1
    found: list[Number] = [0, last]
    for first in parts.forward.first[1:]:
        for part in (first, first - 1):
            if shape == "loop":
                found.append(part % pp)
            else:
                ends = 2 * (last + 1)
                found.append(maximum(0, minimum(minimum(part, ends - 1 - part), last)))
    return found


def _looped(parts: PartTimes, i: Number, m: Number, pp: Number, chunks: Number) -> _Device:
    forward, inputs, weights = (line.every(i, pp) for line in (parts.forward, parts.inputs, parts.weights))
    turn = (chunks - 1) * pp + i
    back = parts.forward.at(turn)
    return _Device(
        work_s=m * (forward + inputs + weights),
        entry=i,
        turn=turn,
        last=i,
        early_s=minimum(m, pp) * (forward - back) + minimum(m, pp - i) * back,
        late_s=minimum(m, i + 1) * parts.weights.at(i),
    )


def _zero_bubble_v(parts: PartTimes, i: Number, m: Number, pp: Number) -> _Device:
    there, back = i, 2 * pp - 1 - i
    lines = (parts.forward, parts.inputs, parts.weights)
    return _Device(
        work_s=m * total(line.at(there) + line.at(back) for line in lines),
        entry=there,
        turn=back,
        last=there,
        early_s=minimum(m, back) * parts.forward.at(there) + minimum(m, i + 1) * parts.forward.at(back),
        late_s=minimum(m, i + 1) * parts.weights.at(there) + minimum(m, i) * parts.weights.at(back),
    )


def _dual(parts: PartTimes, i: Number, m: Number, half: Number, ends: Number, saved_s: Number) -> _Device:
    """``half`` devices with ``m`` micro-batches through both parts of each."""
    there, back = i, ends - 1 - i
    lines = (parts.forward, parts.inputs, parts.weights)
    forward, whole = parts.forward, _sum(parts.inputs, parts.weights)
    own = (half - i) * forward.at(back) + half * whole.at(back) + (2 * half - i) * whole.at(there)
    pairs_s = forward.before(ends) - forward.before(i + 1) + whole.before(back)
    down_s = whole.at(ends - 1) + parts.inputs.before(ends - 1) + parts.weights.at(0)
    drained = pairs_s + down_s - own - (half - 1) * saved_s
    middle = where(i >= half - 1, 1, 0)
    pairs = 2 * (m - 2 * half + i + 1) - middle + half - 1 - i
    weights = maximum(parts.weights.at(there), parts.weights.at(back))
    return _Device(
        work_s=m * total(line.at(there) + line.at(back) for line in lines) - pairs * saved_s,
        entry=there,
        turn=back,
        last=there,
        early_s=(2 * half - 1 - i + middle) * parts.forward.at(there) + (i + 1) * parts.forward.at(back),
        late_s=(i + 1) * weights,
        drained_s=drained,
    )


def in_flight(schedule: ScheduleName, first: Number, pp: Number, chunks: Number, micro_batches: Number) -> Number:
    """Forward results that a stage holds at once where backward passes are whole, in units of one chunk of one
    micro-batch; ``first`` is its index.

    GPipe m; 1F1B ``min(m, p - i)``; interleaved ``min(m v, 2 (p - i - 1) + (v - 1) p + 1)``. Schedules that split
    backward passes: :func:`~llmsim.training.orders.held`.

    Raises
    ------
    ValueError
        For one of those.
    """
    _whole(schedule)
    if schedule == "gpipe":
        return micro_batches
    if schedule == "1f1b":
        return minimum(micro_batches, pp - first)
    return minimum(micro_batches * chunks, 2 * (pp - first - 1) + (chunks - 1) * pp + 1)
