"""Recipes that a device multiplies natively, and those that it is refused for."""

from __future__ import annotations

import pytest

from llmsim import plan_training, simulate_training
from llmsim.architecture import Architecture
from llmsim.core.errors import InputError
from llmsim.core.formats import FORMATS
from llmsim.hardware.cluster import Cluster
from llmsim.hardware.devices import device_names
from llmsim.hardware.named import get_device
from llmsim.plans.defaults import default_framework
from llmsim.plans.precision import PRECISIONS, check_recipe, default_precision, device_recipes
from llmsim.plans.training import TrainingPlan
from llmsim.search.space import SearchSpace

FP8 = ("fp8-delayed", "fp8-current", "fp8-rowwise", "fp8-block")
QUESTION = {"sequence": 4096, "global_batch": 64}


@pytest.mark.parametrize(
    ("device", "recipe", "nearest"),
    [
        ("h100-sxm-80gb", "mxfp8", "fp8-block"),
        ("h200-sxm-141gb", "nvfp4", "fp8-block"),
        ("a100-sxm-80gb", "fp8-current", "bf16"),
        ("a100-sxm-80gb", "mxfp8", "bf16"),
        ("v100-sxm-32gb", "bf16", "fp16"),
        ("v100-sxm-32gb", "tf32", "fp16"),
        ("tpu-v5p", "nvfp4", "bf16"),
        ("tpu-v5p", "fp16", "bf16"),
        ("tpu-v7x", "nvfp4", "fp8-block"),
        ("mi300x-192gb", "nvfp4", "fp8-block"),
        ("mi300x-192gb", "mxfp8", "fp8-block"),
        ("mi355x-288gb", "nvfp4", "mxfp8"),
    ],
)
def test_recipes_that_a_device_lacks_are_refused_everywhere(device: str, recipe: str, nearest: str) -> None:
    machine = get_device(device)
    assert recipe not in device_recipes(machine)
    cluster = f"1x8x{device}"
    plan = TrainingPlan(sequence_length=4096, global_batch_size=64, data_parallel=8, sharding="zero1", precision=recipe)
    space = SearchSpace(precision=(default_precision(machine), recipe))
    for ask in (
        lambda: check_recipe(recipe, machine),
        lambda: simulate_training(plan, "llama-3.2-1b", cluster),
        lambda: plan_training("llama-3.2-1b", cluster, **QUESTION, precision=recipe),
        lambda: plan_training("llama-3.2-1b", cluster, **QUESTION, space=space),
    ):
        with pytest.raises(InputError) as error:
            ask()
        assert error.value.field == "precision"
        assert error.value.nearest == nearest
        assert error.value.allowed == ", ".join(device_recipes(machine))


def test_every_device_runs_what_its_matrix_units_multiply() -> None:
    for name in device_names():
        device = get_device(name)
        recipes = device_recipes(device)
        assert default_precision(device) in recipes
        assert ("bf16" in recipes) == ("bf16" in device.peak)
        assert all(("fp8" in device.peak) == (recipe in recipes) for recipe in FP8)
        for recipe in ("mxfp8", "nvfp4"):
            assert (recipe in recipes) == (recipe in device.block_scaling)
    assert {*device_recipes(get_device("b200-sxm-180gb"))} == {*PRECISIONS}
    assert "mxfp8" in device_recipes(get_device("mi355x-288gb"))


def test_formats_that_store_weights_need_no_matrix_units() -> None:
    assert {"nvfp4", "mxfp8"} <= set(FORMATS)  # a device that does not multiply them converts what it has stored


@pytest.mark.parametrize("device", device_names())
def test_plan_and_simulate_take_the_same_defaults(device: str) -> None:
    shape = "1x4" if get_device(device).devices_per_node >= 4 else "4x1"
    cluster = Cluster.parse(f"{shape}x{device}")
    plan = TrainingPlan(sequence_length=2048, global_batch_size=16, data_parallel=4, sharding="zero3", recompute="full")
    result = simulate_training(plan, "qwen2.5-0.5b", cluster)
    answer = plan_training("qwen2.5-0.5b", cluster, sequence=2048, global_batch=16)
    chosen = answer.best[0].result.plan
    assert result.plan.precision == chosen.precision == default_precision(cluster.profile)
    assert result.plan.framework == chosen.framework == default_framework(cluster.profile)
    for field in ("precision", "framework", "memory"):
        assert result.assumed[field] == answer.assumed[field]
    assert result.memory_limit_bytes == answer.best[0].result.memory_limit_bytes


def test_what_a_plan_sets_is_not_assumed() -> None:
    plan = TrainingPlan(
        sequence_length=2048, global_batch_size=16, data_parallel=8, precision="bf16", framework="torchtitan"
    )
    assert not {"precision", "framework"} & set(simulate_training(plan, "llama-3.2-1b", "1x8xh100-sxm-80gb").assumed)
    assert plan.replace(global_batch_size=32).model_fields_set >= {"precision", "framework"}
    assert "optimizer" not in plan.replace(global_batch_size=32).model_fields_set


def test_labels_name_the_precision() -> None:
    answer = plan_training(
        "llama-3-8b", "1x8xb200-sxm-180gb", **QUESTION, space=SearchSpace(precision=("bf16", "mxfp8"))
    )
    every = [*(job.result.plan for job in answer.best), *(point.plan for point in answer.pareto)]
    assert all(f" {plan.precision} " in str(plan) for plan in every)
    assert {plan.precision for plan in every} == {"bf16", "mxfp8"}


@pytest.mark.parametrize(
    ("framework", "degree"),
    [("megatron-lm", 4), ("megatron-core", 4), ("megatron-bridge", 1), ("torchtitan", 1), ("nemo", 1)],
)
def test_experts_are_cut_as_the_framework_does(framework: str, degree: int) -> None:
    plan = TrainingPlan(
        sequence_length=2048, global_batch_size=128, tensor_parallel=4, data_parallel=4, framework=framework
    )
    result = simulate_training(plan, "mixtral-8x7b", "2x8xh100-sxm-80gb")
    assert result.plan.expert_tensor_parallel == degree
    assert result.assumed["expert_tensor_parallel"] == f"{degree} ({framework} profile)"
    own = simulate_training(plan.replace(expert_tensor_parallel=degree), "mixtral-8x7b", "2x8xh100-sxm-80gb")
    assert own.step_time_s == result.step_time_s
    assert "expert_tensor_parallel" not in own.assumed
    dense = simulate_training(plan, "llama-3-8b", "2x8xh100-sxm-80gb")
    assert dense.plan.expert_tensor_parallel == 1
    assert "expert_tensor_parallel" not in dense.assumed


def test_a_search_knows_both_ways_to_cut_experts() -> None:
    model = Architecture.from_config("mixtral-8x7b")
    space = SearchSpace(tensor_parallel=(4,), pipeline_parallel=(2,), expert_parallel=(4,), recompute=("full",))
    found = {
        d: plan_training(model, "8x8xh100-sxm-80gb", **QUESTION, space=space.model_copy(update=own), simpler_within=0)
        for d, own in ((0, {}), (1, {"expert_tensor_parallel": (1,)}), (4, {"expert_tensor_parallel": (4,)}))
    }
    best = {d: answer.best[0].result.step_time_s for d, answer in found.items()}
    assert best[0] == min(best[1], best[4])
    assert " ETP1 " in str(found[1].best[0].result.plan)
