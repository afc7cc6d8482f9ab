"""Runs that the model made itself, by constants that nobody told the fit: it finds them within their errors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from run_tables import row

from llmsim.calibration.fit import FitResult, Refits, RunSet, fit
from llmsim.calibration.runs import RunPlan, plan_run
from llmsim.calibration.table import MeasuredRun
from llmsim.hardware.constants import LEARNED

NOISE = 0.03
"""Standard deviation of the logarithm of a measured step time."""
SEED = 20_260_101

STACKS = (("megatron-core", "h100-sxm-80gb", "zero1"), ("megatron-core", "a100-sxm-80gb", "zero1"),
          ("torchtitan", "h100-sxm-80gb", "zero3"))  # fmt: skip
SHAPES = (
    # model, devices, tensor, pipeline, expert parallel
    ("llama-3-8b", 8, 1, 1, 1), ("llama-3-8b", 8, 2, 1, 1), ("llama-3-8b", 8, 8, 1, 1), ("llama-3-8b", 64, 1, 1, 1),
    ("llama-3-70b", 64, 8, 4, 1), ("llama-3-70b", 128, 4, 8, 1), ("llama-3-70b", 256, 8, 2, 1),
    ("mixtral-8x7b", 64, 1, 4, 8), ("mixtral-8x7b", 64, 4, 2, 4),
)  # fmt: skip
SIZES = ((2048, 1, 4), (8192, 1, 2), (8192, 2, 16))
"""Sequence length, micro-batch, micro-batches a step for each stage of the pipeline."""


def planted_items() -> list[RunPlan]:
    items: list[RunPlan] = []
    for (framework, device, sharding), shape, size, recompute in product(STACKS, SHAPES, SIZES, ("none", "full")):
        model, devices, tensor, pipeline, expert = shape
        sequence, micro, many = size
        if framework == "torchtitan" and expert > 1:
            continue
        data = devices // (tensor * pipeline)
        cells = row(
            id=f"planted-{len(items)}", group="", model=model, hardware=device, framework=framework, sharding=sharding,
            n_devices=devices, tensor_parallel=tensor, pipeline_parallel=pipeline, expert_parallel=expert,
            data_parallel=data, sequence_length=sequence, micro_batch_size=micro, recompute=recompute,
            global_batch_size=data * micro * many * pipeline, step_time_s=1000.0,
        )  # fmt: skip
        items.append(plan_run(MeasuredRun(len(items) + 2, {key: str(value) for key, value in cells.items()})))
    return items


@cache
def planted() -> tuple[RunSet, np.ndarray]:
    """Runs with noise, and the logarithms of the constants that made them: drawn from their priors."""
    runs = RunSet.prepare(planted_items())
    rng = np.random.default_rng(SEED)
    plan = runs.layout
    truth = np.minimum(plan.prior + plan.spread * rng.standard_normal(len(plan.prior)), plan.upper - 0.01)
    exact = runs.log_exact(truth)
    return replace(runs, log_time=exact + NOISE * rng.standard_normal(len(runs))), truth


@cache
def found() -> tuple[FitResult, np.ndarray]:
    """The fit to them, and which constants it learned."""
    runs, _ = planted()
    result = fit(runs, noise=NOISE, robust=False)
    for _ in range(3):
        runs.update_gap(result.logarithms)
        result = fit(runs, start=result.logarithms, noise=NOISE, robust=False)
    return result, result.errors < LEARNED * runs.layout.spread


def test_planted_constants_are_found_within_their_errors() -> None:
    """Of the learned constants 95 % should be within two standard errors; nine in ten must be, and the root mean
    square of the distance in standard errors must be that of a unit normal, give or take."""
    _, truth = planted()
    result, learned = found()
    z = ((result.logarithms - truth) / result.errors)[learned]
    assert len(z) >= 20
    assert np.mean(np.abs(z) < 2) >= 0.9
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1, abs=0.35)


def test_constants_move_from_priors_to_the_truth() -> None:
    runs, truth = planted()
    result, learned = found()
    before = np.abs(runs.layout.prior - truth)[learned]
    after = np.abs(result.logarithms - truth)[learned]
    assert np.median(after) < 0.6 * np.median(before)
    assert np.max(before / runs.layout.spread[learned]) > 1.5  # it had somewhere to go


def test_predictions_are_nearer_to_the_truth_than_the_measurements() -> None:
    runs, truth = planted()
    result, _ = found()
    off = runs.log_exact(result.logarithms) - runs.log_exact(truth)
    assert np.std(off) < NOISE / 1.5
    assert np.abs(np.median(off)) < NOISE / 5


def test_a_refit_from_one_jacobian_is_the_refit() -> None:
    """Without a model of one stack: constants by a refit that starts anew and by one that starts at the fit to all."""
    runs, _ = planted()
    full = fit(runs)
    everything = np.ones(len(full.logarithms), bool)
    held = np.array([item.run["model"] == "mixtral-8x7b" for item in runs.items])
    quick = Refits.around(runs, full).without(held, everything)
    whole = fit(runs, ~held)
    apart = np.abs(runs.log_exact(quick) - runs.log_exact(whole.logarithms))
    moved = np.abs(runs.log_exact(full.logarithms) - runs.log_exact(whole.logarithms))
    assert np.median(apart[held]) < 0.002
    assert np.median(moved[held]) > 10 * np.median(apart[held])
