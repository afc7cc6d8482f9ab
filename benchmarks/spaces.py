"""Whole spaces to their proven best plan: how many plans, how fast, in how much memory.

    python benchmarks/spaces.py [PROBLEM ...] [--cores 1] [--json]

The problems are files of ``benchmarks/problems``. Each runs in a process of its own that may use so many cores. Beside
the search, all plans of a space are computed with everything that a simulation says of them but its exact schedule, and
a few plans one by one, so that the ratio is of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

PROBLEMS = Path(__file__).parent / "problems"
SAMPLE, SEED = 40, 20260301
MOST_MATERIALISED = 20_000_000
"""Larger spaces are searched only."""


def settings(names: list[str], shares: int) -> list[str]:
    """Every recompute setting on every share of the layers."""
    found = [n for n in names if n == "none"]
    return found + [f"{n}@{Fraction(i, shares)}" for n in names if n != "none" for i in range(1, shares + 1)]


def solve(name: str, cores: int) -> dict[str, Any]:
    """One problem, in this process."""
    import yaml

    from llmsim import Architecture, Cluster, SearchSpace, plan_training, simulate_training
    from llmsim.search.space import enumerate_plans

    data = yaml.safe_load((PROBLEMS / f"{name}.yaml").read_text(encoding="utf-8"))
    chosen = dict(data["space"])
    chosen["recompute"] = settings(chosen["recompute"], data["recompute_shares"])
    space = SearchSpace(**chosen)
    model, cluster = Architecture.from_config(data["model"]), Cluster.parse(data["cluster"])
    question = {"sequence": data["sequence"], "global_batch": data["global_batch"]}
    start = perf_counter()
    answer = plan_training(model, cluster, **question, precision=data["precision"], space=space, cores=cores)
    answer_s = perf_counter() - start
    counts, best = answer.counts, answer.best[0].result
    found = {
        "problem": name,
        "cores": cores,
        "plans": counts.evaluated,
        "fitting": counts.fitting,
        "bounded": counts.bounded,
        "answer_s": answer_s,
        "simulated": counts.simulated,
        "proven": counts.proven,
        "bound_gap": counts.bound_gap,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "best": str(best.plan),
        "step_s": best.step_time_s,
    }
    if cores > 1 or counts.evaluated > MOST_MATERIALISED:
        return found
    table = enumerate_plans(model, cluster.n_devices, *question.values(), space)
    plans, found["columns_s"] = materialise(model, cluster, best.plan, table, space)
    found["plans_per_s"] = plans / found["columns_s"]
    own = [job.result.plan for job in answer.best]
    start = perf_counter()
    for _ in range(SAMPLE // len(own)):
        for plan in own:
            simulate_training(plan, model, cluster)
    found["simulate_training_s"] = (perf_counter() - start) / (SAMPLE // len(own) * len(own))
    found["times_one_by_one"] = found["simulate_training_s"] * found["plans_per_s"]
    found["columns_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def materialise(model: Any, cluster: Any, template: Any, table: Any, space: Any) -> tuple[int, float]:
    """Step time, every part of it and the memory of every run of stages of each plan, those that do not fit too, rows
    in random order: how many plans, and seconds."""
    import numpy as np

    from llmsim.search.blocks import blocks
    from llmsim.search.evaluate import space_evaluators
    from llmsim.search.variants import space_variants

    order = np.random.default_rng(SEED).permutation(len(table))
    table.columns = {name: column[order] for name, column in table.columns.items()}
    start = perf_counter()
    plans = 0
    for variant in space_variants(space_evaluators(model, cluster, template, table, space), space, template.optimizer):
        for block in blocks(variant, parts=True, limit=np.inf):
            plans += block.step_s.size
            one = int(block.step_s.argmin())
            parts = sum(float(values.flat[one]) for values in block.parts.values())
            if np.isfinite(block.step_s.flat[one]) and abs(parts / block.step_s.flat[one] - 1) > 1e-9:
                raise AssertionError("the parts of a step do not sum to it")
    return plans, perf_counter() - start


def main() -> int:
    """Solve each problem in a process with one core."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("problems", nargs="*", default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.problems or sorted(p.stem for p in PROBLEMS.glob("*.yaml"))
    if options.here:
        print(json.dumps(solve(names[0], options.cores)))
        return 0
    rows = []
    for name in names:
        arguments = [name, "--cores", str(options.cores), "--here"]
        command = [sys.executable, __file__, *arguments]
        if hasattr(os, "sched_setaffinity"):
            some = set(sorted(os.sched_getaffinity(0))[: options.cores])
            pin = f"import os, runpy, sys; os.sched_setaffinity(0, {some!r}); sys.argv = {[__file__, *arguments]!r}"
            command[1:] = ["-c", f"{pin}; runpy.run_path({__file__!r}, run_name='__main__')"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
        if not options.json:
            row = rows[-1]
            proof = "proven" if row["proven"] else f"not proven, gap {100 * row['bound_gap']:.1f} %"
            print(
                f"{name}: {row['plans']:,} plans, {row['fitting']:,} fit, {row['bounded']:,} of them ruled out by a "
                f"bound\n  answer in {row['answer_s']:.2f} s from a cold start on {row['cores']} core(s), {proof}, "
                f"{row['simulated']} exact schedules, {row['rss_mb']:.0f} MB\n  {row['step_s']:.3f} s: {row['best']}"
            )
            if "columns_s" in row:
                print(
                    f"  all plans with every part of the step and memory of every stage: {row['columns_s']:.2f} s, "
                    f"{row['plans_per_s'] / 1e6:.2f} M plans/s, {row['columns_rss_mb']:.0f} MB; one simulate_training "
                    f"{1e3 * row['simulate_training_s']:.2f} ms: {row['times_one_by_one']:,.0f} times one by one"
                )
            sys.stdout.flush()
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
