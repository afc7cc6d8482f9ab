"""How much one measured run of one's own job helps: the error on its other mappings, before and after.

    python validation/own_runs.py [--json] [--runs 4]

Constants are fitted without the job's framework-and-model pair; then one run of the job is given to
:mod:`llmsim.calibration.own`, and the other mappings of the same job are predicted. A job is what shares framework,
model, device and precision. Each job counts once, with the mean over the runs that were given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llmsim.calibration.batches import plan_runs
from llmsim.calibration.fit import FitResult, RunSet, fit, fit_learned
from llmsim.calibration.folds import fold_numbers
from llmsim.calibration.own import job_spread, update
from llmsim.calibration.runs import RunPlan
from llmsim.calibration.shapes import run_factors
from llmsim.calibration.table import read_runs
from llmsim.core.progress import Bar
from llmsim.hardware.fitted import shipped_fit
from llmsim.hardware.shapes import ShapeTable
from llmsim.timing.intervals import model_class

RUNS = Path(__file__).parent / "training_runs.csv"
LARGE = 0.09
MOST_RUNS = 40
SEED = 20260501


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes
    ----------
    name, kind, mappings
        What it is; ``dense`` or ``moe``; how many mappings it has.
    error
        Median error of all its runs before.
    before, after
        Median error of the mappings that were not given, as the mean over the runs that were.
    """

    name: str
    kind: str
    mappings: int
    error: float
    before: float
    after: float


def mapping(item: RunPlan) -> tuple[object, ...]:
    """What makes two runs of a job different mappings."""
    plan = item.plan
    degrees = (plan.tensor_parallel, plan.pipeline_parallel, plan.context_parallel, plan.expert_parallel)
    sizes = (plan.data_parallel, plan.micro_batch_size, plan.virtual_pipeline, plan.sequence_length)
    return (*degrees, *sizes, plan.global_batch_size, plan.recompute, plan.sharding, plan.release)


def job_of(item: RunPlan) -> tuple[str, ...]:
    """Framework, model, device and precision."""
    return item.plan.framework, item.run["model"], item.cluster.device, item.plan.precision


def measure(
    items: list[RunPlan], prior: dict[str, tuple[float, float]], tables: Mapping[str, ShapeTable], given: int
) -> Job | None:
    """One job; None where it has one mapping only.

    Parameters
    ----------
    prior
        Path -> (logarithm, standard error) of the constants fitted without the job.
    tables
        Layers by shape, learned without the job.
    given
        Runs to try.
    """
    draw = np.random.default_rng(SEED)
    if len(items) > MOST_RUNS:
        items = [items[n] for n in sorted(draw.choice(len(items), MOST_RUNS, replace=False))]
    kinds = [mapping(item) for item in items]
    if len(set(kinds)) < 2:
        return None
    runs = RunSet.prepare(items)
    runs = runs.slowed(run_factors(items, tables))
    logarithms, errors = np.array([prior[path] for path in runs.layout.paths]).T
    known = FitResult(runs.layout, logarithms, errors, 0.0)
    runs.update_gap(logarithms)
    before = np.abs(np.expm1(runs.log_prediction(logarithms) - runs.log_time))
    starts, ends = [], []
    for row in draw.choice(len(items), min(given, len(items)), replace=False):
        others = [n for n, kind in enumerate(kinds) if kind != kinds[row]]
        found = update(runs, known, np.array([row]), job_spread(items[row], shipped_fit()))
        after = np.abs(np.expm1(runs.log_prediction(found.logarithms) - runs.log_time))
        starts.append(np.median(before[others]))
        ends.append(np.median(after[others]))
    errors_ = float(np.median(before)), float(np.mean(starts)), float(np.mean(ends))
    return Job(" ".join(job_of(items[0])), model_class(items[0].architecture), len(set(kinds)), *errors_)


def jobs(given: int, bar: Bar) -> list[Job]:
    """Every job with several mappings."""
    items, _ = plan_runs(read_runs(RUNS), (RUNS.parent,))
    done = bar.stage("fitting to all runs")
    runs = RunSet.prepare(items)
    full, learned = fit_learned(runs)
    done()
    folds = fold_numbers(runs.items, "framework-model")
    by_fold: dict[int, dict[tuple[str, ...], list[RunPlan]]] = defaultdict(lambda: defaultdict(list))
    for item, fold in zip(runs.items, folds, strict=True):
        by_fold[int(fold)][job_of(item)].append(item)
    advance = bar.stage("jobs", len(by_fold))
    found: list[Job] = []
    for fold, own in by_fold.items():
        left = fit(runs, folds != fold, full.logarithms, free=learned, max_steps=6)
        prior = {
            p: (float(x), float(e)) for p, x, e in zip(runs.layout.paths, left.logarithms, left.errors, strict=True)
        }
        tables = runs.shapes(left.logarithms, folds != fold)
        found += [job for items_ in own.values() if (job := measure(items_, prior, tables, given)) is not None]
        advance()
    return found


def line(name: str, own: list[Job]) -> str:
    """What happens to some jobs."""
    before, after = (np.array([getattr(job, n) for job in own]) for n in ("before", "after"))
    return (
        f"{name}: {len(own)} jobs, error on other mappings {np.median(before):.1%} before, {np.median(after):.1%} "
        f"after; ratio {np.median(after / before):.2f} in the median"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=4, help="runs of each job that are given, one at a time")
    options = parser.parse_args()
    with Bar(not options.json) as bar:
        found = jobs(options.runs, bar)
    if options.json:
        json.dump([asdict(job) for job in found], sys.stdout, indent=1)
        print()
        return 0
    large = [job for job in found if job.error > LARGE]
    print(line(f"off by more than {LARGE:.0%}", large))
    print(line("off by less", [job for job in found if job.error <= LARGE]))
    for kind in ("dense", "moe"):
        print(line(kind, [job for job in found if job.kind == kind]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
