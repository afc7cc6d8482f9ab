"""Refits know nothing of the runs that they leave out."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from run_tables import row

from llmsim.architecture import Architecture
from llmsim.calibration.architectures import layer_signature
from llmsim.calibration.batches import plan_runs
from llmsim.calibration.fit import RunSet
from llmsim.calibration.folds import block_numbers, fold_numbers, refit_without
from llmsim.calibration.runs import RunPlan, plan_run
from llmsim.calibration.table import MeasuredRun, read_runs

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "validation" / "training_runs.csv"
EACH = 4
"""Runs of a group that are enough here."""


@lru_cache(maxsize=1)
def some_runs() -> RunSet:
    """A few runs of many groups: dense models and mixtures of experts, with pipelines and without."""
    seen: dict[str, int] = {}
    chosen = []
    for run in read_runs(TABLE, repeats=True):
        seen[run.group] = seen.get(run.group, 0) + 1
        if run.step_time_s is not None and seen[run.group] <= EACH and len(chosen) < 160:
            chosen.append(run)
    items, _ = plan_runs(chosen, (TABLE.parent / "architectures",))
    return RunSet.prepare(items)


def test_times_of_left_out_runs_do_not_move_their_own_predictions() -> None:
    runs = some_runs()
    folds = fold_numbers(runs.items, "framework-model")
    assert folds.max() > 4
    before = refit_without(runs, folds, processes=1)
    fold = int(np.argmax(np.bincount(folds)))
    longer = np.where(folds == fold, np.log(1.5), 0.0)
    after = refit_without(replace(runs, log_time=runs.log_time + longer), folds, processes=1)
    assert np.array_equal(before[folds == fold], after[folds == fold])
    assert not np.array_equal(before[folds != fold], after[folds != fold])


def test_models_of_one_lineage_with_the_same_layers_are_left_out_together() -> None:
    def described(framework: str, model: str) -> RunPlan:
        cells = row(id=f"{framework} {model}", group=f"{framework} {model}", framework=framework, model=model)
        return plan_run(MeasuredRun(2, {column: str(cell) for column, cell in cells.items()}))

    items = [
        described("megatron-core", "llama-3-8b"), described("nemo", "llama-3.1-8b"),
        described("torchtitan", "llama-3.1-8b"), described("megatron-core", "llama-2-7b"),
    ]  # fmt: skip
    first, renamed, other_stack, other_model = fold_numbers(items, "lineage-layers")
    assert first == renamed
    assert len({first, other_stack, other_model}) == 3
    assert len(set(fold_numbers(items, "framework-model"))) == 4


def test_layers_are_alike_by_sizes_and_operators_and_not_by_name_or_depth() -> None:
    signature = {
        name: layer_signature(Architecture.from_config(name))
        for name in ("llama-3-8b", "llama-3.1-8b", "llama-3-70b", "llama-3.3-70b", "qwen3-8b", "mixtral-8x7b")
    }
    assert signature["llama-3-8b"] == signature["llama-3.1-8b"]
    assert signature["llama-3-70b"] == signature["llama-3.3-70b"]
    assert len(set(signature.values())) == 4


def test_one_process_or_two_give_the_same() -> None:
    runs = some_runs()
    folds = fold_numbers(runs.items, "framework")
    assert np.array_equal(refit_without(runs, folds, processes=1), refit_without(runs, folds, processes=2))


def test_parts_hold_whole_folds_and_runs_of_no_fold_stay() -> None:
    folds = np.array([0, 0, 0, 1, 1, 2, 3, 4, -1, -1])
    blocks = block_numbers(folds)
    assert len(blocks) == 5
    assert blocks.min() == 0
    assert max(np.bincount(blocks[folds[folds >= 0]])) <= 3
