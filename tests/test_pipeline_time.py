"""The passes of each chunk of a pipeline, and what the longest path makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from llmsim import Architecture, Cluster, TrainingPlan
from llmsim.core.records import stack_records
from llmsim.timing.layer_time import kind_time
from llmsim.timing.step_constants import step_constants
from llmsim.training.build_load import build_load
from llmsim.training.longest_path import longest_path
from llmsim.training.pipeline_time import ChunkTimes, chunk_times, pipeline_chunks
from llmsim.training.problem import plan_columns, plan_problem

PLAN = TrainingPlan(
    sequence_length=4096,
    global_batch_size=64,
    pipeline_parallel=4,
    virtual_pipeline=2,
    data_parallel=2,
    recompute="full",
)


@pytest.fixture(scope="module")
def pipeline():
    cluster = Cluster.parse("1x8xh100-sxm-80gb")
    problem = plan_problem(Architecture.from_config("llama-3-8b"), cluster, PLAN)
    constants = step_constants(cluster, problem.structure)
    load = build_load(problem, plan_columns(PLAN), constants).load
    return problem, [kind_time(k, u, constants) for k, u in zip(load.kinds, load.units, strict=True)]


def test_every_layer_is_in_one_chunk(pipeline) -> None:
    problem, _ = pipeline
    chunks = pipeline_chunks(problem, 4, 2)
    assert [len(row) for row in chunks] == [2] * 4
    assert sum(sum(counts) for row in chunks for counts, _ in row) == len(problem.architecture.layers) + 2
    assert {share for row in chunks for _, share in row} == {None}


def test_a_share_that_recomputes_is_a_number_or_one_a_pipeline(pipeline) -> None:
    problem, times = pipeline
    shares = np.array([0.0, 0.5, 1.0])
    many = chunk_times(problem, 4, 2, times, share=shares, as_number=lambda v: np.broadcast_to(v, shares.shape))
    seconds = many.seconds("interleaved", 8, np.full(3, 1e-4))
    for share, expected in zip(shares, seconds, strict=True):
        one = chunk_times(problem, 4, 2, times, share=share)
        assert one.seconds("interleaved", 8, 1e-4) == pytest.approx(expected, rel=1e-12)
    assert chunk_times(problem, 4, 2, times).seconds("interleaved", 8, 1e-4) == pytest.approx(seconds[2], rel=1e-12)


def test_batches_side_by_side_take_what_each_takes_alone() -> None:
    def batch(seed: int, size: int) -> ChunkTimes:
        draw = np.random.default_rng(seed).uniform(1, 2, (4, 3, size))
        return ChunkTimes.of([[(f, f / 2, f / 3)] for f, _, _ in draw])

    first, second = batch(1, 2), batch(2, 3)
    both = stack_records([first, second]).seconds("zb-h1", 12, 0.1)
    alone = [own.seconds("zb-h1", 12, 0.1) for own in (first, second)]
    assert both.tolist() == np.concatenate(alone).tolist()


@pytest.mark.parametrize(("schedule", "chunks"), [("1f1b", 1), ("interleaved", 3), ("zb-v", 2), ("dualpipe", 2)])
def test_numbers_and_arrays_take_the_same_path(schedule, chunks) -> None:
    rng = np.random.default_rng(7)
    forward, backward, weight = rng.uniform(1, 2, (3, 4, chunks))
    backward = backward + weight
    saved = list(rng.uniform(0, 0.2, 4))
    single = longest_path(
        schedule, forward.tolist(), backward.tolist(), 16, 0.3, weight.tolist(), [float(s) for s in saved]
    )
    arrays = [[[np.array([v]) for v in row] for row in own] for own in (forward, backward, weight)]
    many = longest_path(schedule, *arrays[:2], 16, 0.3, arrays[2], saved)
    assert many.seconds.tolist() == [single.seconds]
    assert [float(f[0]) for f in many.finished] == list(single.finished)
