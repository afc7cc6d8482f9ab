"""Intervals of steps, memory, jobs and differences, and what risks follow from them."""

from __future__ import annotations

import math
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmsim import InputError, plan_training, simulate_training
from llmsim.calibration.intervals import weighted_quantile
from llmsim.hardware.fitted import Width, shipped_fit
from llmsim.hardware.named import get_device
from llmsim.hardware.software import get_software
from llmsim.report.training import planning_report
from llmsim.timing.intervals import out_of_memory_chance, safe_headroom

QUESTION = {"sequence": 4096, "global_batch": 64, "tokens": 1e12}
NODE = "1x8xh100-sxm-80gb"
KNOWN = shipped_fit().model_copy(
    update={
        "intervals": {
            **shipped_fit().intervals,
            "memory": Width(log80=0.09, groups=20),
            "difference/dense": Width(log80=0.05, groups=20),
        }
    }
)


def test_intervals_of_a_job_are_those_of_its_step():
    best = plan_training("llama-3-8b", NODE, **QUESTION, fit=KNOWN).best[0]
    low, high = best.result.step_interval_s
    assert best.job.days_interval == pytest.approx(
        tuple(best.job.days * v / best.result.step_time_s for v in (low, high))
    )
    assert best.job.cost_interval_usd[0] < best.job.cost_usd < best.job.cost_interval_usd[1]
    inside = best.result.memory_interval_bytes
    assert math.log(inside[1] / best.result.device_bytes) == pytest.approx(0.09)


@given(st.floats(1e-3, 0.5), st.floats(0.01, 0.4))
def test_a_safe_headroom_has_the_chance_that_it_is_for(chance, width):
    used = 80.0 * (1 - safe_headroom(chance, width))
    assert out_of_memory_chance(used, 80.0, width) == pytest.approx(chance, rel=1e-6)
    assert out_of_memory_chance(80.0, 80.0, width) == pytest.approx(0.5)


def test_chances_grow_with_what_is_needed():
    chances = [out_of_memory_chance(used, 80.0, 0.09) for used in (40, 70, 79, 81, 120)]
    assert chances == sorted(chances)
    assert out_of_memory_chance(40, 80, None) is None


def test_a_smaller_risk_takes_a_smaller_plan():
    bold, careful = (plan_training("llama-3-8b", NODE, **QUESTION, fit=KNOWN, oom_risk=r).best[0] for r in (0.4, 0.01))
    assert careful.result.device_bytes <= bold.result.device_bytes
    assert careful.result.out_of_memory_chance <= 0.01 + 1e-9
    assert careful.result.step_time_s >= bold.result.step_time_s
    for wrong, message in (({"oom_risk": 0.7}, "up to 0.5"), ({"oom_risk": 0.1, "headroom": 0.1}, "one of the two")):
        with pytest.raises(InputError, match=message):
            plan_training("llama-3-8b", NODE, **QUESTION, fit=KNOWN, **wrong)
    bare = KNOWN.model_copy(update={"intervals": {}})
    with pytest.raises(InputError, match="needs measured memory"):
        plan_training("llama-3-8b", NODE, **QUESTION, fit=bare, oom_risk=0.1)


@pytest.mark.parametrize(
    ("model", "cluster", "batch"),
    [("llama-3-70b", "64x8xh100-sxm-80gb", 512), ("qwen3-30b-a3b", NODE, 256), ("llama-3-8b", "1x8xv100-sxm-32gb", 64)],
)
def test_answers_run_out_of_memory_in_one_case_of_twenty_at_most(model, cluster, batch):
    answer = plan_training(model, cluster, sequence=4096, global_batch=batch)
    assert all(job.result.out_of_memory_chance <= 0.05 + 1e-9 for job in answer.best)
    assert "at most 5 %" in answer.assumed["memory"]
    plan = answer.best[0].result.plan
    alone = simulate_training(plan, model, cluster)
    assert alone.fits
    assert alone.memory_limit_bytes == answer.best[0].result.memory_limit_bytes


def test_a_stated_headroom_replaces_the_risk_and_the_profile_stands_in_for_what_nobody_measured():
    memory = get_device("h100-sxm-80gb").memory_bytes.value
    said = plan_training("llama-3-8b", NODE, **QUESTION, headroom=0.01)
    assert said.best[0].result.memory_limit_bytes == pytest.approx(0.99 * memory)
    assert "memory" not in said.assumed
    bare = shipped_fit().model_copy(update={"intervals": {}})
    unmeasured = plan_training("llama-3-8b", NODE, **QUESTION, fit=bare)
    headroom = get_software("megatron-core").constants["memory/headroom"].value
    assert unmeasured.best[0].result.memory_limit_bytes == pytest.approx((1 - headroom) * memory)
    assert "megatron-core profile" in unmeasured.assumed["memory"]
    assert unmeasured.best[0].result.out_of_memory_chance is None


def test_plans_within_the_error_of_a_comparison_are_named():
    answer = plan_training("llama-3-8b", NODE, **QUESTION, fit=KNOWN)
    first = answer.best[0].result.step_time_s
    near = [n for n, job in enumerate(answer.best) if n and math.log(job.result.step_time_s / first) < 0.05]
    assert answer.undecided.runners == near
    console = Console(width=200, record=True, file=StringIO())
    console.print(planning_report(answer))
    assert ("would settle" in console.export_text()) == bool(near)


def test_groups_weigh_the_same_in_a_quantile():
    assert weighted_quantile([np.array([1.0] * 100), np.array([2.0])], 0.4) == 1
    assert weighted_quantile([np.array([1.0] * 100), np.array([2.0])], 0.6) == 2
    assert weighted_quantile([np.arange(10.0)], 0.75) == 7
