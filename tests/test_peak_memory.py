"""Peaks of stacks that free what they no longer need: tables equal single plans, more work needs more."""

import numpy as np
import pytest

from llmsim import TrainingPlan, simulate_training
from llmsim.architecture import Architecture
from llmsim.core.records import stack_records
from llmsim.hardware.cluster import Cluster
from llmsim.timing.step_constants import step_constants
from llmsim.training.build_load import kind_parameters
from llmsim.training.memory import memory_of_stage, model_memory, stage_states
from llmsim.training.problem import plan_columns, plan_problem

CLUSTER = Cluster.parse("2x8xh100-sxm-80gb")


def plan(**fields):
    own = {
        "sequence_length": 4096, "global_batch_size": 64, "data_parallel": 16, "framework": "torch-eager",
        "sharding": "zero3",
    }  # fmt: skip
    return TrainingPlan(**{**own, **fields})


def peak(problem, columns):
    (stage, *_) = problem.stages(columns)
    states = stage_states(problem, columns, stage, kind_parameters(problem, columns))
    constants = step_constants(problem.cluster, problem.structure)
    return memory_of_stage(problem, columns, stage, states, model_memory(problem, columns), constants)


@pytest.mark.parametrize("model", ["llama-3-8b", "qwen3-30b-a3b", "gpt-2", "deepseek-v2-lite"])
@pytest.mark.parametrize("sharding", ["zero3", "ddp"])
@pytest.mark.parametrize("recompute", ["none", "full", "full@1/2"])
def test_a_table_equals_its_plans(model, sharding, recompute):
    architecture = Architecture.from_config(model)
    plans = [
        plan(sharding=sharding, recompute=recompute, micro_batch_size=m, sequence_length=s, data_parallel=d,
             tensor_parallel=16 // d)
        for m, s, d in ((1, 512, 16), (2, 8192, 8), (4, 1024, 16), (1, 64, 8))
    ]  # fmt: skip
    problem = plan_problem(architecture, CLUSTER, plans[0])
    table = peak(problem, stack_records([plan_columns(p) for p in plans]))
    for i, each in enumerate(plans):
        single = peak(plan_problem(architecture, CLUSTER, each), plan_columns(each))
        for name, value in single.parts.items():
            assert np.broadcast_to(table.parts[name], (len(plans),))[i] == pytest.approx(value), name


def test_more_ranks_longer_sequences_and_recomputing():
    model = Architecture.from_config("llama-3-8b")

    def of(**fields):
        p = plan(**fields)
        return peak(plan_problem(model, CLUSTER, p), plan_columns(p)).allocated_bytes

    assert of(sequence_length=8192) > of() > of(recompute="full")
    assert of(sharding="ddp") > of()
    # Gradients of earlier micro-batches wait for the last one.
    assert of(global_batch_size=64) > of(global_batch_size=16)


def test_a_step_of_eager_torch_has_an_answer():
    answer = simulate_training(plan(recompute="full"), "llama-3-8b", "2x8xh100-sxm-80gb")
    (stage,) = answer.stages
    assert stage.allocated_bytes == pytest.approx(sum(stage.memory_bytes.values()))
    assert stage.memory_bytes["parameters"] == pytest.approx(8030261248 * 2 / 16, rel=1e-3)
