"""What an answer says beside its winner: misses, orders of ranks, placements, precisions, clusters."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
from command_line import refused, run
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim import (
    InfeasibleError,
    InputError,
    SearchSpace,
    TrainingPlan,
    plan_cluster,
    plan_training,
    simulate_training,
)
from llmsim.hardware.network import members_within
from llmsim.plans.placement import placement
from llmsim.plans.rules import violations
from llmsim.training.problem import plan_columns

QUESTION = {"sequence": 4096, "global_batch": 64}
NODE = "1x8xh100-sxm-80gb"


def test_near_misses_are_faster_and_lack_what_they_say():
    answer = plan_training("llama-3-8b", NODE, **QUESTION)
    assert answer.misses
    for miss in answer.misses:
        result = simulate_training(miss.plan, "llama-3-8b", NODE)
        assert result.step_time_s == miss.step_time_s < answer.best[0].result.step_time_s
        assert result.device_bytes - result.memory_limit_bytes == miss.lacking_bytes > 0


@pytest.mark.parametrize(
    ("model", "cluster"), [("llama-3-70b", "8x8xh100-sxm-80gb"), ("mixtral-8x7b", "4x8xh100-sxm-80gb")]
)
def test_one_plan_has_one_time_wherever_it_stands(model, cluster):
    answer = plan_training(model, cluster, **QUESTION)
    places = [(job.result.plan, job.result.step_time_s) for job in answer.best]
    places += [(point.plan, point.step_time_s) for point in (*answer.pareto, *answer.misses)]
    places.append((answer.preference.fastest, answer.preference.step_time_s))
    assert answer.pareto[0].plan == answer.preference.fastest
    for plan, seconds in places:
        assert simulate_training(plan, model, cluster).step_time_s == seconds
    memory = [point.device_bytes for point in answer.pareto]
    assert memory == sorted(memory, reverse=True)


def test_overlaps_are_searched_where_the_framework_has_them():
    question = {"sequence": 2048, "global_batch": 1536, "simpler_within": 0}
    usual = plan_training("gpt-3-175b", "8x8xa100-sxm-80gb", **question)
    without = plan_training("gpt-3-175b", "8x8xa100-sxm-80gb", **question, space=SearchSpace(overlap=("profile",)))
    best = usual.best[0].result
    assert best.plan.overlap == "tensor"
    assert best.step_time_s < 0.98 * without.best[0].result.step_time_s
    assert usual.counts.proven
    assert " overlap tensor" in str(best.plan)
    other = plan_training("gpt-3-175b", "8x8xa100-sxm-80gb", **question, framework="megatron-deepspeed")
    assert {job.result.plan.overlap for job in other.best} == {"profile"}
    experts = plan_training("deepseek-v2-lite", "1x8xh100-sxm-80gb", **QUESTION, space=SearchSpace(overlap=("expert",)))
    for job in experts.best:
        plan = job.result.plan
        assert plan.overlap == "expert"
        if plan.expert_parallel > 1:
            assert not plan.recompute.startswith("full")
            assert plan.pipeline_parallel == 1 or plan.virtual_pipeline > 1


def test_an_overlap_that_leaves_no_plan_is_refused():
    with pytest.raises(InputError, match="leaves no plan"):
        plan_training("mixtral-8x7b", NODE, **QUESTION,
                      space=SearchSpace(overlap=("expert",), expert_parallel=(2,), recompute=("full",)))  # fmt: skip


def test_headroom_takes_memory_away():
    roomy, tight = (plan_training("llama-3-8b", NODE, **QUESTION, headroom=h).best[0].result for h in (0.02, 0.5))
    assert tight.memory_limit_bytes < roomy.memory_limit_bytes
    assert tight.device_bytes <= tight.memory_limit_bytes
    assert tight.step_time_s >= roomy.step_time_s
    with pytest.raises(InputError, match="memory_headroom"):
        plan_training("llama-3-8b", NODE, **QUESTION, headroom=1.0)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.sampled_from([1, 2, 4])] * 4), st.sampled_from(["tp-cp-dp-pp", "tp-cp-pp-dp"]), st.data())
def test_groups_lie_where_the_placement_puts_them(degrees, order, data):
    tp, cp, dp, pp = degrees
    ep = data.draw(st.sampled_from([e for e in (1, 2, 4, 8, 16) if (tp * cp * dp) % e == 0]))
    if order == "tp-cp-pp-dp" and pp > 1:
        ep = tp * cp
    plan = TrainingPlan(
        sequence_length=4096, global_batch_size=64, tensor_parallel=tp, context_parallel=cp, data_parallel=dp,
        pipeline_parallel=pp, expert_parallel=ep, rank_order=order,
    )  # fmt: skip
    domain = data.draw(st.sampled_from([d for d in (1, 2, 4, 8) if plan.n_devices % d == 0]))
    places = list(placement(plan, domain, domain))
    assert len({(p.pipeline, p.data, p.context, p.tensor) for p in places}) == plan.n_devices
    assert len({(p.pipeline, p.expert_data, p.expert, p.expert_tensor) for p in places}) == plan.n_devices
    columns = plan_columns(plan)
    groups = {
        ("tp",): lambda p: (p.pipeline, p.data, p.context),
        ("cp",): lambda p: (p.pipeline, p.data, p.tensor),
        ("ulysses", "cp", "dp"): lambda p: (p.pipeline, p.tensor),
        ("pp",): lambda p: (p.data, p.context, p.tensor),
        ("ep",): lambda p: (p.pipeline, p.expert_data, p.expert_tensor),
        ("edp",): lambda p: (p.pipeline, p.expert, p.expert_tensor),
    }
    for axes, key in groups.items():
        size, stride = columns.group(axes)
        members = Counter((key(p), p.domain) for p in places)
        assert set(Counter(map(key, places)).values()) == {size}
        assert set(members.values()) == {members_within(size, stride, domain)}


def test_the_order_of_ranks_is_searched_and_changes_what_it_should():
    orders = ("tp-cp-dp-pp", "tp-cp-pp-dp")
    space = {"pipeline_parallel": (4,), "tensor_parallel": (2,), "recompute": ("full",), "virtual_pipeline": (1,)}
    each = {
        o: plan_training("llama-3-8b", "4x8xh100-sxm-80gb", **QUESTION, space=SearchSpace(**space, rank_order=(o,)))
        for o in orders
    }
    both = plan_training("llama-3-8b", "4x8xh100-sxm-80gb", **QUESTION, space=SearchSpace(**space, rank_order=orders))
    assert both.counts.evaluated == sum(a.counts.evaluated for a in each.values())
    assert both.best[0].result.step_time_s == min(a.best[0].result.step_time_s for a in each.values())
    inside = each["tp-cp-pp-dp"].best[0].result
    assert inside.plan.rank_order == "tp-cp-pp-dp"
    usual = simulate_training(inside.plan.replace(rank_order="tp-cp-dp-pp"), "llama-3-8b", "4x8xh100-sxm-80gb")
    assert usual.device_bytes == inside.device_bytes
    assert usual.breakdown_s["gemm"] == inside.breakdown_s["gemm"]
    assert usual.step_time_s != inside.step_time_s


def test_rules_of_the_order_with_the_pipeline_inside():
    plan = TrainingPlan(
        sequence_length=4096, global_batch_size=64, tensor_parallel=2, pipeline_parallel=2, data_parallel=4,
        expert_parallel=8, rank_order="tp-cp-pp-dp",
    )  # fmt: skip
    from llmsim import Architecture

    found = violations(plan, Architecture.from_config("mixtral-8x7b"), 16)
    assert any("rank_order" in text and "nearest: tp-cp-dp-pp" in text for text in found)
    assert not violations(plan.replace(expert_parallel=2), Architecture.from_config("mixtral-8x7b"), 16)


def test_of_several_precisions_the_fastest_is_taken_and_the_loss_is_named():
    both = plan_training("llama-3-8b", NODE, **QUESTION, space=SearchSpace(precision=("bf16", "fp8-current")))
    each = [plan_training("llama-3-8b", NODE, **QUESTION, precision=p) for p in ("bf16", "fp8-current")]
    assert both.best[0].result.step_time_s == min(a.best[0].result.step_time_s for a in each)
    assert both.counts.evaluated == sum(a.counts.evaluated for a in each)
    assert "fp8-current" in both.assumed["loss"]


JOB = {"sequence": 4096, "global_batch": 256, "tokens": 1e12}
SPACE = {"space": SearchSpace(recompute=("none", "full"), micro_batch_size=(1, 2))}


def test_a_cluster_is_chosen_by_objective_under_its_limits():
    clusters = [f"{n}x8xh100-sxm-80gb" for n in (1, 2, 4)]
    cheap = plan_cluster("llama-3-8b", clusters, **JOB, **SPACE, objective="cost")
    costs = [o.job.cost_usd for o in cheap.options]
    assert costs == sorted(costs)
    small = plan_cluster("llama-3-8b", clusters, **JOB, **SPACE, objective="devices")
    assert [o.n_devices for o in small.options] == [8, 16, 32]
    deadline = np.mean([o.job.days for o in small.options[:2]])
    kept = plan_cluster("llama-3-8b", clusters, **JOB, **SPACE, objective="devices", deadline_days=deadline)
    assert kept.chosen.n_devices == 16
    assert "above" in kept.options[-1].broken[0]
    assert kept.mix is None
    fast = plan_cluster("llama-3-8b", clusters, **JOB, **SPACE, objective="days").chosen
    assert fast.n_devices == 32
    assert not fast.dominated
    with pytest.raises(InfeasibleError, match=r"days: .* % above 2.4 h"):
        plan_cluster("llama-3-8b", clusters, **JOB, **SPACE, deadline_days=0.1)
    with pytest.raises(InputError, match="nearest: cost"):
        plan_cluster("llama-3-8b", clusters, **JOB, objective="costs")


def test_a_mix_is_the_cheapest_of_all_splits():
    clusters = [f"{n}x8x{d}" for n in (1, 2, 4) for d in ("h100-sxm-80gb", "a100-sxm-80gb", "b200-sxm-180gb")]
    open_ = plan_cluster("llama-3-8b", clusters, **JOB, **SPACE)
    days = sorted(o.job.days for o in open_.options)
    limit = (days[2] + days[3]) / 2
    answer = plan_cluster("llama-3-8b", clusters, **JOB, **SPACE, deadline_days=limit)
    jobs = [o.job for o in answer.options]
    cheapest = min(
        f * a.cost_usd + (1 - f) * b.cost_usd
        for a in jobs for b in jobs for f in np.linspace(0, 1, 201)
        if f * a.days + (1 - f) * b.days <= limit
    )  # fmt: skip
    least = answer.mix.cost_usd if answer.mix else answer.chosen.job.cost_usd
    assert least <= cheapest <= 1.01 * least
    if answer.mix:
        first, second = (jobs[i] for i in (answer.mix.first, answer.mix.second))
        assert answer.mix.share * first.days + (1 - answer.mix.share) * second.days == pytest.approx(limit)


def test_options_without_a_plan_are_listed_with_the_reason():
    answer = plan_cluster("llama-3-70b", ["1x1xh100-sxm-80gb", "4x8xh100-sxm-80gb"], **JOB, **SPACE)
    assert answer.chosen.n_devices == 32
    assert answer.options[-1].best is None
    assert "no plan fits" in answer.options[-1].broken[0]
    with pytest.raises(InputError, match="tokens"):
        plan_cluster("llama-3-8b", [NODE], sequence=4096, global_batch=8, tokens=-1)


def test_commands_write_the_placement_and_choose_a_cluster(tmp_path):
    path = tmp_path / "ranks.csv"
    run("plan", "train", "-m", "llama-3-8b", "-c", "2x8xh100-sxm-80gb", "-s", "4k", "-b", "64", "--recompute", "full",
        "--placement", str(path))  # fmt: skip
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["rank"]) for r in rows] == list(range(16))
    assert Counter(r["node"] for r in rows) == {"0": 8, "1": 8}
    text = run("plan", "cluster", "-m", "llama-3-8b", "--clusters", "1:2x8xh100-sxm-80gb", "-s", "4k", "-b", "64,128",
               "--tokens", "1T", "--objective", "days")  # fmt: skip
    assert "Take 2x8xh100-sxm-80gb" in text
    assert "same loss" in text
    text = run("plan", "cluster", "-m", "llama-3-8b", "--clusters", "1x8xh100-sxm-80gb", "-s", "4k", "-b", "64",
               "--tokens", "1T", "--precision", "bf16,fp8-current")  # fmt: skip
    assert "the same in bf16, fp8-current" in text
    assert "clusters" in refused("plan", "cluster", "-m", "llama-3-8b", "--clusters", "4:2x8xh100-sxm-80gb", "-s", "4k",
                               "-b", "64", "--tokens", "1T")  # fmt: skip
