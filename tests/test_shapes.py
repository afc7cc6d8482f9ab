"""Layers by shape: what is learned from runs, how it is interpolated, and that every way to a step time uses it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_tables import row

from llmsim import SearchSpace, TrainingPlan, plan_training, simulate_training
from llmsim.calibration.runs import plan_run
from llmsim.calibration.shapes import learn_shapes, run_factors
from llmsim.calibration.table import MeasuredRun
from llmsim.core.errors import InputError
from llmsim.hardware.fitted import Fit, shipped_fit
from llmsim.hardware.shapes import REACH, SPREAD, ShapeTable, covariance, shape_key, shape_table, shape_text

POINT = (4096.0, 2.0, 8192.0, 4096.0)


def table(points, slower, noise=0.01):
    """The posterior of independent measurements."""
    where, values = np.log2(np.array(points, dtype=float)), np.asarray(slower, dtype=float)
    solved = np.linalg.solve(covariance(where, where) + noise**2 * np.eye(len(where)), values)
    return ShapeTable(where, np.ones(len(where)), values, np.full(len(where), noise), solved)


def test_a_measured_shape_is_met_and_a_far_one_is_left_alone():
    known = table([POINT], [0.1])
    assert known.factor(*POINT) == pytest.approx(np.exp(0.1), abs=2e-3)
    assert known.known(*POINT) == pytest.approx(1 - 0.01**2 / SPREAD**2)
    far = (4096 * 16, 2, 8192, 4096)
    assert known.factor(*far) == pytest.approx(1, abs=1e-6)
    assert known.known(*far) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("column", range(4))
def test_one_reach_away_it_counts_as_far_as_the_covariance_says(column):
    known = table([POINT], [0.1])
    moved = list(POINT)
    moved[column] *= 2 ** REACH[column]
    here = np.log(known.factor(*POINT))
    assert np.log(known.factor(*moved)) == pytest.approx(here * np.exp(-0.5), rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from([1024, 2048, 4096]), st.sampled_from([1, 2, 4, 8]), st.integers(256, 65536),
                  st.sampled_from([1024, 4096]), st.floats(-0.3, 0.3)),
        min_size=1, max_size=12, unique_by=lambda row: row[:4],
    ),
    st.integers(0, 10**6),
)  # fmt: skip
def test_columns_equal_single_shapes_and_a_file_keeps_them(rows, seed):
    known = table([row[:4] for row in rows], [row[4] for row in rows], noise=0.05)
    draw = np.random.default_rng(seed)
    asked = [2.0 ** draw.uniform(low, high, 6) for low, high in ((9, 13), (0, 3), (8, 16), (9, 13))]
    columns = known.factor(*asked)
    assert columns == pytest.approx([known.factor(*one) for one in zip(*asked, strict=True)], rel=1e-12)
    again = shape_table(shape_text(known))
    assert again.factor(*asked) == pytest.approx(columns, rel=1e-3)
    assert ((known.known(*asked) >= 0) & (known.known(*asked) <= 1)).all()


HEAD = "hidden tensor_parallel tokens sequence runs log_slower error weight"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hidden tokens\n1 2", "hidden tokens"),
        (HEAD, "one line a shape"),
        (f"{HEAD}\n4096 1 8192", "8 numbers"),
        (f"{HEAD}\n4096 1 8192 4096 1 nan 0.05 1", "8 numbers"),
        (f"{HEAD}\n4096 0 8192 4096 1 0.1 0.05 1", "above 0"),
        (f"{HEAD}\n4096 one 8192 4096 1 0.1 0.05 1", "8 numbers"),
    ],
)
def test_a_table_that_is_none_is_refused(text, named):
    with pytest.raises(InputError, match=named):
        shape_table(text)


def test_a_copy_of_a_fit_with_other_tables_has_these():
    known = shipped_fit()
    assert known.shape_tables
    assert known.model_copy(update={"shapes": {}}).shape_tables == {}


# ---- every way to a step time


PLAN = TrainingPlan(
    sequence_length=4096, global_batch_size=64, micro_batch_size=2, tensor_parallel=2, data_parallel=4,
    framework="megatron-core",
)  # fmt: skip


def fit_with(slower: float) -> Fit:
    key = shape_key("megatron-core", "hopper", "16bit", "dense")
    shape = (4096, 2, 8192, 4096)
    return shipped_fit().model_copy(update={"shapes": {key: shape_text(table([shape], [slower], noise=1e-3))}})


def test_layers_of_a_shape_that_runs_slower_take_longer_and_transfers_do_not():
    plain, slow = (
        simulate_training(PLAN, "llama-3-8b", "1x8xh100-sxm-80gb", fit=fit_with(s)).breakdown_s for s in (0.0, 0.1)
    )
    for part in ("gemm", "attention", "memory"):
        assert slow[part] == pytest.approx(plain[part] * np.exp(0.1), rel=1e-3)
    for part in ("optimizer", "fixed", "gradients"):
        assert slow[part] == pytest.approx(plain[part], rel=1e-9)


def test_a_search_times_plans_as_a_simulation_does():
    fit = fit_with(0.15)
    space = SearchSpace(tensor_parallel=(1, 2), micro_batch_size=(1, 2), recompute=("none", "full"))
    asked = {"sequence": 4096, "global_batch": 64, "framework": "megatron-core", "space": space, "fit": fit}
    found = plan_training("llama-3-8b", "1x8xh100-sxm-80gb", **asked)
    for job in found.best:
        own = simulate_training(job.result.plan, "llama-3-8b", "1x8xh100-sxm-80gb", fit=fit)
        assert job.result.step_time_s == pytest.approx(own.step_time_s, rel=1e-12)


def test_the_exact_schedule_of_a_search_is_slowed_too():
    fit = fit_with(0.15)
    space = SearchSpace(tensor_parallel=(2,), pipeline_parallel=(2, 4), micro_batch_size=(2,), recompute=("none",))
    asked = {"sequence": 4096, "global_batch": 64, "framework": "megatron-core", "space": space, "fit": fit}
    found = plan_training("llama-3-8b", "2x8xh100-sxm-80gb", **asked)
    own = simulate_training(found.best[0].result.plan, "llama-3-8b", "2x8xh100-sxm-80gb", fit=fit)
    assert found.counts.proven
    assert found.best[0].result.step_time_s == pytest.approx(own.step_time_s, rel=1e-12)


def test_planted_shapes_are_found():
    """Groups are off together, layers that no rank shares by 10 % besides: that is told apart."""
    items = [
        plan_run(MeasuredRun(n + 2, {k: str(v) for k, v in cells.items()}))
        for n, cells in enumerate(
            row(id=f"s{n}", group=f"g{n % 4}", micro_batch_size=micro, global_batch_size=64, tensor_parallel=tensor,
                data_parallel=8 // tensor)
            for n, (micro, tensor) in enumerate((m, t) for t in (1, 2, 4, 8) for m in (1, 2, 4))
        )
    ]  # fmt: skip
    wide = np.array([item.plan.tensor_parallel == 1 for item in items])
    off = np.array([0.02, -0.02, 0.02, -0.02])[np.arange(len(items)) % 4]
    tables = learn_shapes(items, off + 0.1 * wide, np.ones(len(items)))
    factors = np.log(run_factors(items, tables))
    assert ((factors[wide] > 0.05) & (factors[wide] < 0.1)).all()  # shrunk: single runs are noisy
    assert np.abs(factors[~wide]).max() < 0.03
    unseen = learn_shapes(items, off + 0.1 * wide, np.ones(len(items)), ~wide)
    assert np.abs(np.log(run_factors(items, unseen))[wide]).max() < 0.03


def test_no_table_changes_nothing():
    assert run_factors([], {}).size == 0
    plain = simulate_training(
        PLAN, "llama-3-8b", "1x8xh100-sxm-80gb", fit=shipped_fit().model_copy(update={"shapes": {}})
    )
    flat = simulate_training(PLAN, "llama-3-8b", "1x8xh100-sxm-80gb", fit=fit_with(0.0))
    assert plain.step_time_s == pytest.approx(flat.step_time_s, rel=1e-12)
