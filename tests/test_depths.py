"""Recomputation that differs from stage to stage, and its joint choice with the layers of each stage."""

from __future__ import annotations

from itertools import product

import pytest

from llmsim import plan_training, simulate_training
from llmsim.architecture import Architecture
from llmsim.core.errors import InputError
from llmsim.hardware.cluster import Cluster
from llmsim.plans.training import TrainingPlan
from llmsim.search.space import SearchSpace
from llmsim.training.result import TrainingResult

MODEL, MACHINE = "llama-3-70b", "4x8xh100-sxm-80gb"
PLAN = TrainingPlan(
    sequence_length=8192, global_batch_size=32, micro_batch_size=2, tensor_parallel=8, pipeline_parallel=4,
    recompute="full",
)  # fmt: skip
SETTINGS = [("1f1b", 1), ("gpipe", 1), ("interleaved", 2), ("zb-h1", 1), ("zb-v", 2), ("dualpipe-v", 2)]


def run(**changes: object) -> TrainingResult:
    return simulate_training(PLAN.replace(**changes), MODEL, MACHINE)


@pytest.mark.parametrize(("schedule", "chunks"), SETTINGS)
def test_equal_depths_are_a_share(schedule: str, chunks: int) -> None:
    pipeline = {"schedule": schedule, "virtual_pipeline": chunks}
    for depth, setting in ((0, "none"), (10, "full@1/2"), (20, "full")):
        own, usual = run(recompute_layers=(depth,) * 4, **pipeline), run(recompute=setting, **pipeline)
        assert own.step_time_s == pytest.approx(usual.step_time_s, rel=1e-12)
        assert own.device_bytes == pytest.approx(usual.device_bytes, rel=1e-12)


@pytest.mark.parametrize(("schedule", "chunks"), SETTINGS)
def test_fitted_depths_are_the_fewest_that_fit(schedule: str, chunks: int) -> None:
    fitted = run(recompute_layers="fitted", schedule=schedule, virtual_pipeline=chunks)
    depths = fitted.plan.recompute_layers
    assert isinstance(depths, tuple)
    if fitted.fits:
        for stage, depth in enumerate(depths):
            if depth:
                fewer = tuple(d - (i == stage) for i, d in enumerate(depths))
                assert not run(recompute_layers=fewer, schedule=schedule, virtual_pipeline=chunks).fits
    else:
        assert 20 in depths  # a stage that does not fit with all of its layers
    assert sum(fitted.breakdown_s.values()) == pytest.approx(fitted.step_time_s, rel=1e-12)


def test_early_stages_of_1f1b_recompute_more() -> None:
    depths = run(recompute_layers="fitted").plan.recompute_layers
    assert isinstance(depths, tuple)
    assert depths[0] > depths[-1]
    assert list(depths) == sorted(depths, reverse=True)
    uniform = min(r.step_time_s for s in ("full@1/4", "full@1/2", "full@3/4", "full") if (r := run(recompute=s)).fits)
    assert run(recompute_layers="fitted").step_time_s < uniform


def test_layers_and_depths_together_beat_every_split_and_depth() -> None:
    """Against all splits and depths of a small model: no slowest stage is faster among those that fit."""
    config = {
        "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 9, "num_attention_heads": 64,
        "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256,
    }  # fmt: skip
    model = Architecture.from_config(config)
    plan = PLAN.replace(
        tensor_parallel=1, pipeline_parallel=3, data_parallel=1, micro_batch_size=1, global_batch_size=6
    )

    machine = Cluster.parse("1x3xh100-sxm-80gb").model_copy(update={"memory_headroom": 0.04})

    def slowest(result: TrainingResult) -> float:
        return max(s.forward_s + s.backward_s for s in result.stages)

    def simulate(**changes: object) -> TrainingResult:
        return simulate_training(plan.replace(**changes), model, machine)

    found = simulate(layers_per_stage="balanced", recompute_layers="fitted")
    assert found.fits
    every = []
    for a, b in product(range(10), range(1, 10)):
        if a + b <= 9:
            result = simulate(layers_per_stage=(a, b, 9 - a - b), recompute_layers="fitted")
            every += [slowest(result)] if result.fits else []
    assert len(every) > 1
    assert slowest(found) == pytest.approx(min(every), rel=1e-12)


def test_search_tries_fitted_depths() -> None:
    question = {"sequence": 8192, "global_batch": 64, "top": 3}
    filters = {"pipeline_parallel": (4,), "tensor_parallel": (8,), "micro_batch_size": (2,), "virtual_pipeline": (1,)}
    usual, both = (
        plan_training(MODEL, MACHINE, **question, space=SearchSpace(**filters, recompute_layers=r), simpler_within=0)
        .best[0]
        .result
        for r in (("uniform",), ("uniform", "fitted"))
    )
    assert both.step_time_s <= usual.step_time_s
    only = plan_training(MODEL, MACHINE, **question, space=SearchSpace(**filters, recompute_layers=("fitted",)))
    assert all(isinstance(job.result.plan.recompute_layers, tuple) for job in only.best)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"recompute": "none", "recompute_layers": "fitted"}, "uniform with recompute none"),
        ({"recompute": "full@1/2", "recompute_layers": (1, 1, 1, 1)}, "uniform with a share"),
        ({"recompute_layers": "fitted", "schedule": "dualpipe"}, "uniform with schedule dualpipe"),
    ],
)
def test_what_no_plan_can_say(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        PLAN.replace(**fields)


def test_as_many_depths_as_stages() -> None:
    with pytest.raises(InputError, match="recompute_layers: 2 numbers for 4 stages"):
        run(recompute_layers=(1, 2))
    with pytest.raises(InputError, match="recompute_layers: 21 of the 20 layers of stage 1"):
        run(recompute_layers=(1, 21, 0, 0))
