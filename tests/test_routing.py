"""Routing of experts: limited to groups, dropped at capacity, unbalanced."""

from __future__ import annotations

from itertools import combinations, pairwise
from statistics import fmean

import pytest

from llmsim import simulate_training
from llmsim.architecture import Architecture
from llmsim.core.errors import InputError
from llmsim.hardware.network import reachable_domains
from llmsim.plans.training import TrainingPlan
from llmsim.training.result import TrainingResult

V3 = Architecture.from_config("deepseek-v3")
PLAN = TrainingPlan(
    sequence_length=4096, global_batch_size=1024, expert_parallel=64, pipeline_parallel=4, data_parallel=64,
    imbalance=1.5, recompute="full",
)  # fmt: skip


def run(**changes: object) -> TrainingResult:
    return simulate_training(PLAN.replace(**changes), V3, "32x8xh800-sxm-80gb")


@pytest.mark.parametrize("groups", [4, 8, 12])
@pytest.mark.parametrize("chosen", [1, 2, 3, 4])
def test_domains_that_groups_reach(groups: int, chosen: int) -> None:
    """Against every choice of groups, counted one by one."""
    for domains in (1, 2, 4, groups, 2 * groups, 4 * groups):
        if domains <= groups and groups % domains:
            continue
        spans = [{g * domains // groups + i for i in range(max(1, domains // groups))} for g in range(groups)]
        exact = fmean(len(set().union(*(spans[g] for g in own))) for own in combinations(range(groups), chosen))
        assert reachable_domains(domains, groups, chosen) == pytest.approx(exact)


def test_limited_routing_is_read_and_saves_traffic() -> None:
    kind = next(k for k in V3.kinds.values() if k.is_moe)
    assert (kind.sizes["expert_groups"], kind.sizes["groups_per_token"]) == (8, 4)
    free = {**V3_CONFIG, "n_group": 1, "topk_group": 1}
    limited, unlimited = (
        simulate_training(PLAN.replace(overlap="none"), Architecture.from_config(c), "32x8xh800-sxm-80gb")
        for c in (V3_CONFIG, free)
    )
    # 8 nodes: 4 (1 - (3/4)^8) = 3.60 distinct ones instead of 8 (1 - (7/8)^8) = 5.25.
    assert limited.breakdown_s["ep"] < unlimited.breakdown_s["ep"]
    assert limited.breakdown_s["ep"] / unlimited.breakdown_s["ep"] == pytest.approx(3.60 / 5.25, abs=0.12)


V3_CONFIG = {
    "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 128, "num_key_value_heads": 128,
    "n_shared_experts": 1, "n_routed_experts": 256, "num_experts_per_tok": 8, "first_k_dense_replace": 0,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
    "n_group": 8, "topk_group": 4, "tie_word_embeddings": False, "num_nextn_predict_layers": 0, "moe_layer_freq": 1,
}  # fmt: skip


def test_more_groups_than_there_are() -> None:
    with pytest.raises(InputError, match="topk_group"):
        Architecture.from_config({**V3_CONFIG, "topk_group": 9})


def test_capacity_bounds_the_busiest_rank() -> None:
    free, loose, tight, even = (run(capacity_factor=c) for c in (None, 2.0, 1.25, 1.0))
    assert free.step_time_s == loose.step_time_s > tight.step_time_s > even.step_time_s
    assert tight.step_time_s == run(imbalance=1.25).step_time_s
    assert even.device_bytes < tight.device_bytes < free.device_bytes


def test_padding_fills_every_expert() -> None:
    padded = run(capacity_factor=2.0, pad_to_capacity=True)
    assert padded.step_time_s == run(imbalance=2.0).step_time_s
    with pytest.raises(InputError, match="false without a capacity_factor"):
        PLAN.replace(pad_to_capacity=True)


def test_imbalance_costs_time_and_memory() -> None:
    results = [run(imbalance=i) for i in (1.0, 1.2, 1.5, 2.0)]
    assert all(a.step_time_s < b.step_time_s and a.device_bytes < b.device_bytes for a, b in pairwise(results))


# ---- dispatchers


HYBRID = {
    "micro_batch_size": 1,
    "expert_parallel": 8,
    "data_parallel": 32,
    "sequence_length": 4096,
    "global_batch_size": 512,
}


def test_a_dispatcher_whose_host_hardly_waits_is_faster():
    waiting, free, usual = (
        simulate_training(TrainingPlan(**HYBRID, dispatcher=d), "qwen3-30b-a3b", "4x8xh100-sxm-80gb").breakdown_s
        for d in ("deepep", "hybridep", "profile")
    )
    assert usual == waiting
    assert free["host"] < waiting["host"]
    assert free["ep"] == pytest.approx(waiting["ep"], rel=1e-12)


def test_racks_run_the_one_whose_host_hardly_waits():
    usual, free = (
        simulate_training(TrainingPlan(**HYBRID, dispatcher=d), "qwen3-30b-a3b", "8x4xgb200-186gb").breakdown_s
        for d in ("profile", "hybridep")
    )
    assert usual == free


@pytest.mark.parametrize(
    ("model", "changes", "why"),
    [
        ("llama-3-8b", {"expert_parallel": 1}, "has no experts; allowed: profile"),
        ("qwen3-30b-a3b", {"framework": "nemo"}, "nemo sends every copy by itself; allowed: profile"),
    ],
)
def test_a_dispatcher_that_a_plan_cannot_have_is_refused(model, changes, why):
    with pytest.raises(InputError, match=why):
        simulate_training(TrainingPlan(**HYBRID, dispatcher="hybridep").replace(**changes), model, "4x8xh100-sxm-80gb")


@pytest.mark.parametrize(
    ("model", "cluster", "changes", "listed"),
    [
        ("qwen3-30b-a3b", "4x8xh100-sxm-80gb", {}, "deepep (scale-up domains are nodes)"),
        ("qwen3-30b-a3b", "8x4xgb200-186gb", {}, "hybridep (a rack is one scale-up domain)"),
        ("qwen3-30b-a3b", "4x8xh100-sxm-80gb", {"dispatcher": "hybridep"}, None),
        ("qwen3-30b-a3b", "4x8xh100-sxm-80gb", {"framework": "nemo"}, None),
        ("llama-3-8b", "4x8xh100-sxm-80gb", {"expert_parallel": 1}, None),
    ],
)
def test_a_dispatcher_that_nobody_named_is_listed(model, cluster, changes, listed):
    result = simulate_training(TrainingPlan(**HYBRID).replace(**changes), model, cluster)
    assert result.assumed.get("dispatcher") == listed
