"""Measured times that no machine can have taken, and what the figure may be instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from ..architecture import Architecture
from ..core.errors import InputError
from ..plans.adapters import adapted
from ..plans.precision import get_precision
from ..timing.conventions import flops_per_token

if TYPE_CHECKING:
    from .runs import RunPlan

SLOWEST = 200.0
"""Measured over predicted time beyond which a figure has another unit: milliseconds come out near 1,000, and the
slowest of 2,000 published runs near 2."""
_LIKE_MILLISECONDS = 30.0
"""Measured over predicted time from which a doubtful one is said to look like milliseconds: far above the slowest
published runs, far below 1,000. A choice of wording, not a measurement."""
_USUAL_MFU = 0.4


SIGMAS = 4.0
"""Standard errors of a prediction beyond which a run of one's own is more likely misread than that far off."""


@lru_cache(maxsize=4096)
def _flops(architecture: Architecture, sequence: int) -> float:
    return float(flops_per_token(architecture, sequence, "model-causal"))


def ideal_seconds(item: RunPlan) -> float:
    """Seconds of a step at the peak of its format: FLOPs of the model (causal attention inside documents, no gradients
    of frozen parameters) over peak."""
    plan, device = item.plan, item.cluster.profile
    recipe = get_precision(plan.precision)
    format = recipe.matmul if device.supports(recipe.matmul) else recipe.compute
    model = adapted(item.architecture, plan.adapter)
    documents = plan.documents or ((plan.sequence_length, 1),)
    flops = plan.global_batch_size * sum(length * n * _flops(model, length) for length, n in documents)
    return flops / (plan.n_devices * device.peak_of(format))


def too_fast(item: RunPlan) -> InputError | None:
    """What is wrong with a time that is shorter than the peak FLOP/s of the devices allow, None for any other."""
    measured, least = item.run.step_time_s, ideal_seconds(item)
    if measured is None or measured >= least:
        return None
    where, value = _cell(item)
    plan = item.plan
    if "tokens" in where:
        units = {"tokens/s of all devices?": plan.n_devices, "tokens/s of a node?": item.cluster.devices_per_node}
        allowed = f"up to {plan.global_batch_size * plan.sequence_length / (plan.n_devices * least):.6g}"
    else:
        units = {"minutes?": 60, "hours?": 3600, "seconds of one micro-batch?": plan.micro_batches}
        allowed = f"at least {least:.4g} s"
    why = f"is {least / measured:.3g} times faster than {plan.n_devices} x {item.cluster.profile.name} at peak"
    return InputError(where, value, allowed, _nearest(units, least / _USUAL_MFU / measured), why=why)


def too_slow(item: RunPlan, predicted_s: float) -> InputError | None:
    """What is wrong with a time that is far longer than predicted, None for any other.

    Parameters
    ----------
    predicted_s
        Seconds of a step.
    """
    measured = item.run.step_time_s
    if measured is None or measured < SLOWEST * predicted_s:
        return None
    where, value = _cell(item)
    if "tokens" in where:
        units = {"sequences/s?": item.plan.sequence_length, "thousands of tokens/s?": 1e3}
    else:
        units = {"milliseconds?": 1e3, "microseconds?": 1e6}
    nearest = _nearest(units, measured / predicted_s)
    why = f"means {measured / predicted_s:,.0f} times the predicted step time"
    if nearest.endswith("seconds?"):
        why += f": {value} looks like {nearest.rstrip('?')}; step times are in seconds"
    allowed = f"below {SLOWEST:g} times the predicted {predicted_s:.4g} s a step"
    return InputError(where, value, allowed, nearest, why=why)


def doubtful(item: RunPlan, predicted_s: float, sigma: float) -> str | None:
    """What is strange about a time that is further from its prediction than such predictions are off; None for any
    other.

    Parameters
    ----------
    sigma
        Standard deviation of the logarithm of measured over predicted times.
    """
    measured = item.run.step_time_s
    if measured is None or abs(math.log(measured / predicted_s)) <= SIGMAS * sigma:
        return None
    ratio = measured / predicted_s
    far = f"{ratio:.3g} times the" if ratio > 1 else f"{1 / ratio:.3g} times faster than the"
    off = abs(math.log(ratio)) / sigma
    text = f"{measured:.4g} s is {far} predicted {predicted_s:.4g} s, {off:.1f} standard errors off"
    if ratio > _LIKE_MILLISECONDS:
        return f"{text}: {_cell(item)[1]} looks like milliseconds; step times are in seconds"
    return f"{text}: is it this job's?"


def _cell(item: RunPlan) -> tuple[str, str]:
    run = item.run
    column = "step_time_s" if run["step_time_s"] else "tokens_per_s_per_device"
    return (f"line {run.line}, {column}" if run.line else column), run[column]


def _nearest(units: Mapping[str, float], factor: float) -> str:
    return min(units, key=lambda name: abs(math.log(units[name] / factor)))
