"""Plans and models of many kinds for tests of explanations."""

from __future__ import annotations

from functools import cache

from llmsim.architecture import Architecture
from llmsim.explain.closed_form import Form, step_form
from llmsim.explain.memory_form import add_memory
from llmsim.explain.quantities import simulated
from llmsim.hardware.cluster import Cluster
from llmsim.plans.training import TrainingPlan
from llmsim.timing.columns import Columns
from llmsim.timing.step_constants import StepConstants, step_constants
from llmsim.training.problem import Problem, plan_columns, plan_problem
from llmsim.training.result import TrainingResult
from llmsim.training.simulate import simulate_training

MODELS = {
    "llama-3-8b": ("8x8xh100-sxm-80gb", {"sequence_length": 8192}),
    "gpt-3-175b": ("8x8xa100-sxm-80gb", {"sequence_length": 2048}),
    "mixtral-8x7b": ("8x8xh100-sxm-80gb", {"sequence_length": 4096, "expert_parallel": 8}),
    "deepseek-v3": (
        "8x8xh800-sxm-80gb",
        {"expert_parallel": 16, "expert_tensor_parallel": 1, "precision": "fp8-block"},
    ),
    "nemotron-3-nano": ("8x8xh100-sxm-80gb", {"sequence_length": 8192, "expert_parallel": 8}),
    "qwen3-next-80b-a3b": ("8x8xh100-sxm-80gb", {"sequence_length": 8192, "expert_parallel": 8}),
    "t5-base": ("8x8xh100-sxm-80gb", {"sequence_length": 512}),
}
"""Model -> cluster and settings: dense with grouped queries, like GPT-3, mixtures of experts, latent attention, hybrids
with state-space and delta-rule mixers, encoder and decoder."""

PLANS = {
    "plain": {},
    "tensor and context": {"tensor_parallel": 2, "context_parallel": 2, "recompute": "selective"},
    "zero3": {"sharding": "zero3", "recompute": "full"},
    "hsdp": {"sharding": "hsdp", "shard_group": 8, "framework": "torchtitan"},
    "eager": {"sharding": "zero3", "framework": "torch-eager"},
    "1f1b": {"pipeline_parallel": 4, "tensor_parallel": 2, "recompute": "full@1/2"},
    "interleaved": {"pipeline_parallel": 4, "virtual_pipeline": 2},
    "zb-h1": {"pipeline_parallel": 4, "schedule": "zb-h1"},
    "dualpipe": {"pipeline_parallel": 4, "schedule": "dualpipe", "overlap": "expert"},
    "balanced": {"pipeline_parallel": 4, "layers_per_stage": "balanced"},
    "host": {"offload_activations": 0.5, "offload_optimizer": 1.0},
    "packed": {"document_length": 256, "micro_batch_size": 2},
}


def make_plan(model: str, changes: dict[str, object]) -> tuple[TrainingPlan, Architecture, Cluster]:
    """A plan with the data-parallel degree that fills its cluster."""
    cluster, base = MODELS[model]
    machine = Cluster.parse(cluster)
    fields = {"sequence_length": 4096, "global_batch_size": 512, **base, **changes}
    ways = [int(fields.get(f"{axis}_parallel", 1)) for axis in ("tensor", "context", "pipeline")]
    fields["data_parallel"] = machine.n_devices // (ways[0] * ways[1] * ways[2])
    return TrainingPlan.model_validate(fields), Architecture.from_config(model), machine


@cache
def explained(model: str, name: str) -> tuple[TrainingResult, Form, dict[str, float]]:
    """A plan's simulated step, its closed form with memory, and every quantity by the simulation."""
    result, problem, columns, constants = in_numbers(model, name)
    form = step_form(problem, columns, constants, result.plan.global_batch_size)
    add_memory(form)
    return result, form, simulated(problem, columns, constants, result.plan.global_batch_size)


@cache
def in_numbers(model: str, name: str) -> tuple[TrainingResult, Problem, Columns, StepConstants]:
    """A plan's simulated step, and what it was simulated from."""
    plan, architecture, cluster = make_plan(model, PLANS[name])
    result = simulate_training(plan, architecture, cluster)
    problem = plan_problem(architecture, cluster, result.plan)
    return result, problem, plan_columns(result.plan), step_constants(cluster, problem.structure)
