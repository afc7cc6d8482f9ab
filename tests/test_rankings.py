"""Rankings of measured alternatives: sets, folds, the rule and what noise allows, on made-up runs."""

from __future__ import annotations

import numpy as np
import pytest
from run_tables import PLAIN, row

from llmsim.calibration.batches import plan_runs
from llmsim.calibration.runs import RunPlan
from llmsim.calibration.table import MeasuredRun
from llmsim.report.rankings import rankings_text
from llmsim.scoring.ranking import ranked_sets, regret, set_keys, tau_b
from llmsim.scoring.rankings import (
    Rankings,
    by_source,
    ceilings,
    ranked_folds,
    repeat_noise,
    rule_scores,
)

MAPPINGS = ((1, 1, 8), (2, 1, 4), (4, 1, 2), (8, 1, 1), (2, 2, 2), (4, 2, 1))
"""Tensor, pipeline, data parallelism."""


def made_up(source: str, times: list[float], **cells: object) -> list[MeasuredRun]:
    """Runs of one model that differ in their mapping."""
    found = []
    for n, (seconds, (tp, pp, dp)) in enumerate(zip(times, MAPPINGS, strict=False)):
        degrees = {"tensor_parallel": tp, "pipeline_parallel": pp, "data_parallel": dp}
        values = {**PLAIN, "id": f"{source}-{n}", "group": f"{source} {n}", "step_time_s": seconds, **degrees, **cells}
        found.append(MeasuredRun(n + 2, {k: str(v) for k, v in values.items()}))
    return found


def planned(runs: list[MeasuredRun]) -> list[RunPlan]:
    items, skipped = plan_runs(runs)
    assert not skipped
    return items


def test_a_set_needs_four_runs_that_share_everything_but_their_mapping() -> None:
    runs = made_up("a", [1, 2, 3, 4])
    (rows,) = set_keys(runs).values()
    assert rows == ["a-0", "a-1", "a-2", "a-3"]
    assert not set_keys(runs[:3])
    for column, other in (("framework", "nemo"), ("framework_release", "b"), ("n_devices", 16), ("model", "gpt")):
        assert not set_keys([*runs[:3], *made_up("b", [4], **{column: other})])


def test_ties_count_as_kendall_has_them() -> None:
    assert tau_b(np.array([1.0, 2, 3, 4]), np.array([1.0, 1, 2, 2])) == pytest.approx(4 / np.sqrt(6 * 4))
    assert regret(np.array([2.0, 1, 3]), np.array([1.0, 1, 2])) == 1.0


def test_true_times_rank_perfectly_and_reversed_ones_not_at_all() -> None:
    runs = made_up("a", [1, 2, 3, 4])
    true = {run.id: run.step_time_s or 0 for run in runs}
    (best,) = by_source(runs, true, "true")
    (worst,) = by_source(runs, {row: -seconds for row, seconds in true.items()}, "reversed")
    assert (best.order.tau_mean, best.order.regret_mean, best.order.sets, best.runs) == (1, 0, 1, 4)
    assert (worst.order.tau_mean, worst.order.regret_mean) == (-1, 3)
    assert [s.tau for s in ranked_sets(runs, true)] == [1]


def test_the_rule_prefers_little_splitting_then_large_micro_batches() -> None:
    cells = [{"tensor_parallel": 2, "micro_batch_size": 1}, {"tensor_parallel": 2, "micro_batch_size": 2},
             {"tensor_parallel": 1, "data_parallel": 8}, {"tensor_parallel": 4, "data_parallel": 2}]  # fmt: skip
    runs = [MeasuredRun(2, {k: str(v) for k, v in row(id=f"r-{n}", **own).items()}) for n, own in enumerate(cells)]
    assert list(np.argsort(rule_scores(planned(runs)))) == [2, 1, 0, 3]


def test_what_shares_a_group_is_left_out_together_or_not() -> None:
    shared = {"group": "both"}
    runs = [*made_up("a", [1, 2, 3, 4], **shared), *made_up("b", [1, 2, 3, 4], model="llama-2-7b", **shared),
            *made_up("c", [5], model="llama-2-13b")]  # fmt: skip
    items = planned([MeasuredRun(2, {**run.values, "sequence_length": "4096"}) for run in runs])
    compared = {row for rows in set_keys([item.run for item in items]).values() for row in rows}
    assert list(ranked_folds(items, compared, grouped=True)) == [0] * 8 + [-1]
    assert list(ranked_folds(items, compared, grouped=False)) == [0] * 4 + [1] * 4 + [-1]


def test_noise_is_that_of_repeats_of_one_configuration() -> None:
    again = [MeasuredRun(2, {**run.values, "id": f"{run.id}-again"}) for run in made_up("a", [1.1, 2, 3, 4])]
    ((sd, repeats),) = repeat_noise([*made_up("a", [1, 2, 3, 4]), *again]).values()
    assert repeats == 4
    assert sd == pytest.approx(np.log(1.1) / np.sqrt(2) / 2)
    assert repeat_noise(made_up("a", [1, 2])) == {}


def test_a_ceiling_falls_with_the_noise_and_is_one_without() -> None:
    close = made_up("a", [1.0, 1.02, 1.04, 1.06])
    (clean,) = ceilings(close, draws=20)
    assert (clean.tau_mean, clean.regret_mean, clean.repeats) == (1, 0, 0)
    again = [MeasuredRun(2, {**run.values, "id": f"{run.id}-b", "step_time_s": "1.2"}) for run in close]
    (noisy,) = ceilings([*close, *again], draws=20)
    assert noisy.tau_mean < 1
    assert noisy.regret_mean > 0


def test_the_page_has_every_score() -> None:
    runs = made_up("a", [1, 2, 3, 4])
    scores = by_source(runs, {run.id: run.step_time_s or 0 for run in runs}, "true times")
    page = rankings_text(Rankings({"anything": scores}, ceilings(runs, draws=2)), "runs.csv")
    assert "| a | 1 (4) | true times | 1.00 | 1.00 | 1.00 | 0.0 % | 0.0 % |" in page
    assert "| a | 0.0 % | 0 | 1.00 | 0.0 % |" in page
