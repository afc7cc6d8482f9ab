"""Offloading to the host: memory, transfers, what is hidden, and the search over it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from llmsim import plan_training, simulate_training
from llmsim.calibration.normalise_columns import offload_of
from llmsim.core.errors import InputError
from llmsim.core.pipelines import SCHEDULES
from llmsim.plans.training import TrainingPlan
from llmsim.search.space import SearchSpace
from llmsim.training.result import TrainingResult
from llmsim.training.saved_activations import KeptTransfers

MACHINE = "4x8xh100-sxm-80gb"
PLAN = TrainingPlan(sequence_length=8192, global_batch_size=64, tensor_parallel=4, pipeline_parallel=2, data_parallel=4)


def run(model: str = "llama-3-70b", machine: str = MACHINE, **changes: object) -> TrainingResult:
    return simulate_training(PLAN.replace(**changes), model, machine)


def test_what_leaves_the_device_is_on_the_host() -> None:
    none, half, whole = (run(offload_activations=a) for a in (0.0, 0.5, 1.0))
    assert none.offload is None
    for result, share in ((half, 0.5), (whole, 1.0)):
        assert result.offload is not None
        moved = share * none.stages[0].memory_bytes["activations"]
        # Only the two layers at work are on both sides; norms under autocast and the like stay (there are none here).
        layer = none.stages[0].memory_bytes["activations"] / 40 / 2
        left = none.stages[0].memory_bytes["activations"] - result.stages[0].memory_bytes["activations"]
        assert left == pytest.approx(moved - 2 * layer, rel=0.01)
        assert result.offload.host_bytes == pytest.approx(moved, rel=0.01)
    assert whole.device_bytes < half.device_bytes < none.device_bytes


def test_states_on_the_host() -> None:
    none, half, whole = (run(offload_optimizer=o) for o in (0.0, 0.5, 1.0))
    optimizer = none.stages[0].memory_bytes["optimizer"]
    assert half.stages[0].memory_bytes["optimizer"] == pytest.approx(optimizer / 2)
    assert whole.stages[0].memory_bytes["optimizer"] == 0
    assert whole.offload is not None
    # 12 bytes of state and the fp32 gradient for each element that the rank updates.
    assert whole.offload.host_bytes == pytest.approx(max(s.memory_bytes["optimizer"] for s in none.stages) * 16 / 12)
    # Zero-offload's bound: the host reads and writes states in its own memory.
    host = whole.offload.host_bytes / 16
    assert whole.offload.update_s == pytest.approx(host * (4 + 2 * 12 + 2 + 3 * 4) / 76.8e9)
    assert whole.breakdown_s["optimizer"] == pytest.approx(whole.offload.update_s)


def test_a_slow_link_is_waited_for_and_a_fast_one_is_not() -> None:
    slow, fast = (run(machine=f"4x8x{d}", offload_activations=1.0).offload for d in ("h100-sxm-80gb", "gb300-288gb"))
    assert slow is not None
    assert fast is not None
    assert slow.required_bytes_per_s > slow.available_bytes_per_s
    assert fast.required_bytes_per_s < fast.available_bytes_per_s
    assert fast.exposed_s < 0.2 * slow.exposed_s


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_more_is_offloaded_the_longer_the_step_and_parts_add_up(schedule: str) -> None:
    chunks = 2 if schedule in ("interleaved", "interleaved-zb", "zb-v", "dualpipe-v") else 1
    plans = [{"schedule": schedule, "virtual_pipeline": chunks, "offload_activations": a} for a in (0.0, 0.3, 0.6, 1.0)]
    results = [run(**plan) for plan in plans]
    assert all(a.step_time_s <= b.step_time_s for a, b in pairwise(results))
    for result in results:
        assert sum(result.breakdown_s.values()) == pytest.approx(result.step_time_s, rel=1e-12)
    assert results[-1].breakdown_s["offload"] > 0


def test_recomputed_layers_send_only_what_they_keep() -> None:
    plain, again = (run(offload_activations=1.0, recompute=r).offload for r in ("none", "full"))
    assert plain is not None
    assert again is not None
    # One 16-bit tensor of the residual stream a layer, a quarter of it on each tensor-parallel rank.
    assert again.activation_bytes == pytest.approx(40 * 8192 * 8192 * 2 / 4)
    assert again.activation_bytes < 0.1 * plain.activation_bytes


def test_exposure_is_what_compute_cannot_cover() -> None:
    kept = KeptTransfers([2.0], [0.5], hidden=0.9)
    counts = [4]
    assert kept.seconds(counts, [0]) == 8
    assert kept.seconds(counts, [4]) == 2
    assert kept.exposed(5.0, kept.seconds(counts, [0])) == 3.0
    assert kept.exposed(100.0, kept.seconds(counts, [0])) == pytest.approx(0.8)
    assert np.all(kept.exposed(np.array([0.0, 5.0]), kept.seconds(counts, [4])) == [2.0, pytest.approx(0.2)])


def test_search_takes_a_share_only_where_it_helps() -> None:
    question = {"sequence": 4096, "global_batch": 64, "top": 1}
    with pytest.raises(Exception, match="no plan fits"):
        plan_training("llama-3-70b", "1x8xh100-sxm-80gb", **question)
    space = SearchSpace(offload_activations=(0, 0.5, 1), offload_optimizer=(0, 1))
    answer = plan_training("llama-3-70b", "1x8xh100-sxm-80gb", **question, space=space).best[0].result
    assert answer.plan.offload_optimizer == 1
    assert answer.fits
    alone = simulate_training(answer.plan, "llama-3-70b", "1x8xh100-sxm-80gb")
    assert alone.step_time_s == answer.step_time_s
    small = plan_training("llama-3-8b", "1x8xh100-sxm-80gb", **question, space=space).best[0].result.plan
    assert (small.offload_activations, small.offload_optimizer) == (0, 0)


def test_a_host_that_is_too_small() -> None:
    result = run("deepseek-v3", "1x8xh100-sxm-80gb", offload_optimizer=1.0, pipeline_parallel=1, data_parallel=2)
    assert result.offload is not None
    assert result.offload.host_bytes > result.offload.host_limit_bytes
    assert not result.fits


def test_matrices_are_not_multiplied_on_a_host() -> None:
    with pytest.raises(InputError, match="offload_optimizer: muon"):
        run(offload_optimizer=0.5, optimizer="muon")
    with pytest.raises(InputError, match="offload_optimizer"):
        plan_training("llama-3-8b", "1x8xh100-sxm-80gb", sequence=4096, global_batch=64, optimizer="muon",
                      space=SearchSpace(offload_optimizer=(0, 1)))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "notes", "share"),
    [
        ("", "", 0.0),
        ("none", "", 0.0),
        ("activations of 20 of 80 layers", "", 0.25),
        ("activations of 20 (x) or 40 (y) of 80 layers to host", "sets cpu_offloading_num_layers=40", 0.5),
        ("host offload of decoder_layer_input/query_proj", "", 1.0),
        ("activations (expert_fc1, moe_act) to host", "", 0.0),
    ],
)
def test_words_of_run_tables(text: str, notes: str, share: float) -> None:
    assumed: dict[str, str] = {}
    assert offload_of(text, notes, 80, assumed) == share
    assert bool(assumed) == (text not in ("", "none"))
