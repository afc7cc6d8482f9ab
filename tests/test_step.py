"""A training step: parts that sum, one formula for numbers, arrays and symbols, and what physics demands."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.architecture import Architecture
from llmsim.core.errors import InputError
from llmsim.core.records import stack_records
from llmsim.core.symbolic import Symbolic, symbol
from llmsim.hardware.cluster import Cluster
from llmsim.plans.rules import nearest_divisor, violations
from llmsim.plans.training import TrainingPlan
from llmsim.timing.layer_time import exposed
from llmsim.timing.step_constants import step_constants
from llmsim.training.build_load import build_load
from llmsim.training.compose import STEP_PARTS, compose_step
from llmsim.training.memory import stage_memory
from llmsim.training.problem import plan_columns, plan_problem
from llmsim.training.simulate import simulate_training

LLAMA = Architecture.from_config("llama-3-8b")
MIXTRAL = Architecture.from_config("mixtral-8x7b")
DEEPSEEK = Architecture.from_config("deepseek-v2-lite")
NANO = Architecture.from_config("nemotron-3-nano")
SPARSE = Architecture.from_config("deepseek-v3.2")
CLUSTER = Cluster.parse("8x8xh100-sxm-80gb")


def plan(**changes):
    base = {
        "sequence_length": 4096,
        "global_batch_size": 256,
        "tensor_parallel": 2,
        "pipeline_parallel": 4,
        "data_parallel": 8,
        "expert_tensor_parallel": 1,
    }
    return TrainingPlan(**(base | changes))


def evaluated(model, plan_, columns=None, cluster=CLUSTER):
    problem = plan_problem(model, cluster, plan_)
    constants = step_constants(cluster, problem.structure)
    prepared = build_load(problem, columns or plan_columns(plan_), constants)
    return compose_step(prepared.load, constants), stage_memory(problem, prepared, constants)


VARIETY = [
    (LLAMA, plan()),
    (LLAMA, plan(tensor_parallel=4, context_parallel=2, data_parallel=2, recompute="full")),
    (LLAMA, plan(tensor_parallel=1, pipeline_parallel=1, data_parallel=64, sharding="zero3")),
    (LLAMA, plan(tensor_parallel=1, pipeline_parallel=1, data_parallel=64, sharding="hsdp", shard_group=8)),
    (LLAMA, plan(pipeline_parallel=4, virtual_pipeline=2, precision="fp8-current")),
    (LLAMA, plan(sequence_parallel=False, sharding="ddp", recompute="selective:layernorm,mlp_act")),
    (MIXTRAL, plan(expert_parallel=8, imbalance=1.2)),
    (
        DEEPSEEK,
        plan(tensor_parallel=1, pipeline_parallel=1, data_parallel=64, expert_parallel=8, precision="fp8-block"),
    ),
    (NANO, plan(expert_parallel=8, recompute="selective:layernorm,moe_act")),
    (NANO, plan(context_parallel=4, data_parallel=2, expert_parallel=2)),
    (SPARSE, plan(context_parallel=2, data_parallel=4, expert_parallel=8, recompute="full")),
    (LLAMA, plan(context_kind="ulysses", context_parallel=4, tensor_parallel=2, pipeline_parallel=1)),
    (
        LLAMA,
        plan(
            context_kind="ulysses+ring", ulysses_parallel=2, context_parallel=4, tensor_parallel=2, pipeline_parallel=1
        ),
    ),
]


@pytest.mark.parametrize(("model", "one"), VARIETY, ids=lambda v: str(v) if isinstance(v, TrainingPlan) else v.name)
def test_breakdown_sums_to_the_step(model, one):
    result = simulate_training(one, model, CLUSTER)
    assert set(result.breakdown_s) == set(STEP_PARTS)
    assert sum(result.breakdown_s.values()) == pytest.approx(result.step_time_s, rel=1e-12)
    assert min(result.breakdown_s.values()) >= 0
    for stage in result.stages:
        assert sum(stage.memory_bytes.values()) == pytest.approx(stage.allocated_bytes)
        assert stage.allocated_bytes <= stage.reserved_bytes <= stage.device_bytes
    assert sum(result.provenance.values()) == pytest.approx(1)


@pytest.mark.parametrize(("model", "one"), VARIETY, ids=lambda v: str(v) if isinstance(v, TrainingPlan) else v.name)
def test_scalar_equals_array(model, one):
    single, memory = evaluated(model, one)
    doubled = one.replace(global_batch_size=2 * one.global_batch_size)
    table = stack_records([plan_columns(one), plan_columns(doubled), plan_columns(one)])
    together, memories = evaluated(model, one, table)
    assert together.seconds[0] == pytest.approx(float(single.seconds), rel=1e-12)
    assert together.seconds[2] == together.seconds[0] < together.seconds[1]
    for run, runs in zip(memory, memories, strict=True):
        assert np.broadcast_to(runs.allocated_bytes, 3)[0] == pytest.approx(float(run.allocated_bytes), rel=1e-12)


@pytest.mark.parametrize(("model", "one"), VARIETY, ids=lambda v: str(v) if isinstance(v, TrainingPlan) else v.name)
def test_scalar_equals_symbol_in_its_regime(model, one):
    single, _ = evaluated(model, one)
    numbers = plan_columns(one)
    symbols = {name: symbol(name, getattr(numbers, name)) for name in ("sequence", "micro_batches", "tp", "dp")}
    columns = replace(numbers, **symbols)
    closed = evaluated(model, one, columns)[0].seconds
    assert isinstance(closed, Symbolic)
    assert closed.value == pytest.approx(float(single.seconds), rel=1e-12)
    put_in = {s.expr: s.value for s in symbols.values()}
    if one.imbalance is None:  # whole rows of experts are rounded up in the value only
        assert float(closed.expr.xreplace(put_in)) == pytest.approx(float(single.seconds), rel=1e-9)


def test_the_exact_schedule_is_never_faster_than_the_closed_form():
    for model, one in VARIETY:
        closed, _ = evaluated(model, one)
        assert simulate_training(one, model, CLUSTER).step_time_s >= float(closed.seconds) * (1 - 1e-9)


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1), st.floats(1, 3))
def test_an_exposed_transfer_lies_between_nothing_and_itself(compute, transfer, fraction, contention):
    value = exposed(compute, transfer, fraction, contention)
    assert -1e-12 <= value <= transfer * (1 + 1e-12)
    assert exposed(compute, transfer, 0.0, contention) == pytest.approx(transfer)
    assert exposed(compute + 1, transfer, fraction, 1.0) <= exposed(compute, transfer, fraction, 1.0) + 1e-12


def step(model=LLAMA, cluster=CLUSTER, **changes):
    return simulate_training(plan(**changes), model, cluster)


def test_more_work_takes_longer():
    base = step()
    assert step(global_batch_size=512).step_time_s > base.step_time_s
    assert step(sequence_length=8192).step_time_s > base.step_time_s
    assert step(recompute="full").step_time_s > step(recompute="full@1/2").step_time_s > base.step_time_s
    assert step(MIXTRAL, imbalance=1.5).step_time_s > step(MIXTRAL, imbalance=1.0).step_time_s


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(0, 3))
def test_time_grows_with_layers(extra, power):
    config = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    config |= {"num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": False}
    small, large = (Architecture.from_config(config | {"num_hidden_layers": n}) for n in (2**power, 2**power + extra))
    one = plan(tensor_parallel=1, pipeline_parallel=1, data_parallel=64)
    few, many = (simulate_training(one, m, CLUSTER) for m in (small, large))
    assert many.step_time_s > few.step_time_s
    assert many.device_bytes > few.device_bytes


def test_a_degree_of_one_sends_nothing():
    alone = simulate_training(
        TrainingPlan(sequence_length=4096, global_batch_size=8), LLAMA, Cluster.parse("1x1xh200-sxm-141gb")
    )
    for part in ("tp", "cp", "ep", "fsdp", "gradients", "parameters", "bubble"):
        assert alone.breakdown_s[part] == 0


def test_no_option_is_free():
    """Every switch costs time or memory somewhere, and saves the other; none gains in both over a weaker machine's."""
    base = step()

    def trade(other):
        return other.step_time_s - base.step_time_s, other.device_bytes - base.device_bytes

    for changes in ({"recompute": "full"}, {"recompute": "selective:layernorm,mlp_act"}, {"recompute": "full@1/4"}):
        time, memory = trade(step(**changes))
        assert time > 0 > memory
    time, memory = trade(step(micro_batch_size=2))
    assert memory > 0
    time, memory = trade(step(virtual_pipeline=2))
    assert time < 0 < memory
    time, memory = trade(step(sharding="ddp"))
    assert memory > 0
    time, memory = trade(step(sequence_parallel=False))
    assert memory > 0
    time, memory = trade(step(overlap="none"))
    assert time > 0
    assert memory == 0
    time, memory = trade(step(schedule="gpipe"))
    assert memory > 0
    # Sharding parameters saves memory and moves more bytes.
    plain = step(tensor_parallel=1, pipeline_parallel=1, data_parallel=64)
    shared = step(tensor_parallel=1, pipeline_parallel=1, data_parallel=64, sharding="zero3")
    assert shared.device_bytes < plain.device_bytes
    assert shared.breakdown_s["fsdp"] > 0 == plain.breakdown_s["fsdp"]


def test_selective_recomputation_is_never_slower_than_full():
    full = step(recompute="full").step_time_s
    for modules in ("core_attn", "layernorm", "mlp_act", "layernorm,mlp_act", "mlp"):
        assert step(recompute=f"selective:{modules}").step_time_s <= full


def test_a_weaker_fabric_is_never_faster():
    narrow = Cluster.parse("8x8xh100-sxm-80gb", network="ethernet-100-per-node")
    for model, one in VARIETY:
        fast, slow = (simulate_training(one, model, c) for c in (CLUSTER, narrow))
        assert slow.step_time_s >= fast.step_time_s
        assert slow.device_bytes == fast.device_bytes


def test_experts_scale_with_top_k_and_weights_with_experts():
    def mixtral(**changes):
        config = {"model_type": "mixtral", "hidden_size": 2048, "intermediate_size": 4096, "num_hidden_layers": 8}
        config |= {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8}
        return Architecture.from_config(config | {"num_experts_per_tok": 2} | changes)

    one = plan(tensor_parallel=1, pipeline_parallel=1, data_parallel=64, expert_parallel=4)
    base, more, wider = (
        simulate_training(one, m, CLUSTER)
        for m in (mixtral(), mixtral(num_experts_per_tok=4), mixtral(num_local_experts=16))
    )
    assert more.flops_per_token["model-causal"] > base.flops_per_token["model-causal"]
    assert (
        wider.flops_per_token["model-causal, router excluded"] == base.flops_per_token["model-causal, router excluded"]
    )
    assert wider.fullest.memory_bytes["parameters"] > base.fullest.memory_bytes["parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor_parallel": 3, "data_parallel": 8}, "does not divide attention heads 32"),
        ({"global_batch_size": 100}, "nearest: 96"),
        ({"data_parallel": 4}, "the cluster has 64"),
        ({"expert_parallel": 4}, "has no experts"),
        ({"virtual_pipeline": 20}, "parts for 32 layers"),
        ({"sequence_length": 4095}, "sequence_length: 4095"),
        ({"pipeline_parallel": 1, "virtual_pipeline": 2, "data_parallel": 32}, "need a pipeline"),
    ],
)
def test_invalid_plans_say_why(changes, message):
    with pytest.raises(InputError, match="is invalid") as error:
        step(**changes)
    assert message in str(error.value)


def test_all_broken_rules_are_listed():
    broken = violations(plan(tensor_parallel=3, global_batch_size=100, expert_parallel=2), LLAMA, 64)
    assert len(broken) >= 4


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_nearest_divisor(value, wanted):
    found = nearest_divisor(value, wanted)
    assert value % found == 0
    assert all(value % d or abs(d - wanted) >= abs(found - wanted) for d in range(max(1, wanted - 3), wanted + 4))


def test_combined_context_parallelism_lies_between_its_parts() -> None:
    """Groups of one rank are a ring, and a group of all ranks is Ulysses; bytes and FLOPs of the ends agree."""

    def step(kind, ulysses=None):
        own = plan(context_kind=kind, ulysses_parallel=ulysses, context_parallel=8, tensor_parallel=1,
                   pipeline_parallel=1, data_parallel=1, sequence_length=65536)  # fmt: skip
        return simulate_training(own, LLAMA, "1x8xh100-sxm-80gb")

    ring, ulysses = step("ring"), step("ulysses")
    assert step("ulysses+ring", 1).step_time_s == pytest.approx(ring.step_time_s, rel=1e-12)
    assert step("ulysses+ring", 8).step_time_s == pytest.approx(ulysses.step_time_s, rel=0.01)
    for degree in (2, 4):
        both = step("ulysses+ring", degree)
        assert both.breakdown_s["attention"] == pytest.approx(ring.breakdown_s["attention"], rel=0.05)
        assert sum(both.breakdown_s.values()) == pytest.approx(both.step_time_s, rel=1e-12)
    with pytest.raises(InputError, match="a degree with context_kind"):
        step("ulysses+ring")
    with pytest.raises(InputError, match="only with context_kind"):
        step("ring", 2)
    with pytest.raises(InputError, match="ulysses_parallel: 3 does not divide context_parallel 8"):
        step("ulysses+ring", 3)
