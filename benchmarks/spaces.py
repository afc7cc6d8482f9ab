"""Whole spaces to their proven best plan, on one core: how many plans, how fast, in how much memory.

    python benchmarks/spaces.py [PROBLEM ...] [--json]

The problems are files of ``benchmarks/problems``. Each runs in a process of its own that may use one core. A few plans
of the space are simulated one by one beside it, so that the ratio is of one run.
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
SAMPLE = 40


def settings(names: list[str], shares: int) -> list[str]:
    """Every recompute setting on every share of the layers."""
    found = [n for n in names if n == "none"]
    return found + [f"{n}@{Fraction(i, shares)}" for n in names if n != "none" for i in range(1, shares + 1)]


def solve(name: str) -> dict[str, Any]:
    """One problem, in this process."""
    import yaml

    from llmsim import Architecture, Cluster, SearchSpace, plan_training, simulate_training
    from llmsim.search.pool import SLACK
    from llmsim.search.space import enumerate_plans
    from llmsim.search.sweep import evaluate_space
    from llmsim.training.problem import plan_problem

    data = yaml.safe_load((PROBLEMS / f"{name}.yaml").read_text(encoding="utf-8"))
    chosen = dict(data["space"])
    chosen["recompute"] = settings(chosen["recompute"], data["recompute_shares"])
    space = SearchSpace(**chosen)
    model, cluster = Architecture.from_config(data["model"]), Cluster.parse(data["cluster"])
    question = {"sequence": data["sequence"], "global_batch": data["global_batch"]}
    start = perf_counter()
    answer = plan_training(model, cluster, **question, precision=data["precision"], space=space)
    cold_s = perf_counter() - start
    best = answer.best[0].result.plan
    start = perf_counter()
    table = enumerate_plans(model, cluster.n_devices, *question.values(), space)
    base = plan_problem(model, cluster, best).structure
    found = evaluate_space(model, cluster, base, table, space, sequence=data["sequence"], imbalance=1.0, slack=SLACK)
    columns_s = perf_counter() - start
    plans = [job.result.plan for job in answer.best]
    start = perf_counter()
    for _ in range(SAMPLE // len(plans)):
        for plan in plans:
            simulate_training(plan, model, cluster)
    one_s = (perf_counter() - start) / (SAMPLE // len(plans) * len(plans))
    counts = answer.counts
    return {
        "problem": name,
        "plans": counts.evaluated,
        "fitting": counts.fitting,
        "columns_s": columns_s,
        "plans_per_s": found.evaluated / columns_s,
        "answer_s": cold_s,
        "simulated": counts.simulated,
        "proven": counts.proven,
        "bound_gap": counts.bound_gap,
        "simulate_training_s": one_s,
        "times_one_by_one": one_s * found.evaluated / columns_s,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "best": str(best),
        "step_s": answer.best[0].result.step_time_s,
    }


def main() -> int:
    """Solve each problem in a process with one core."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("problems", nargs="*", default=[])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.problems or sorted(p.stem for p in PROBLEMS.glob("*.yaml"))
    if options.here:
        print(json.dumps(solve(names[0])))
        return 0
    rows = []
    for name in names:
        command = [sys.executable, __file__, name, "--here"]
        if hasattr(os, "sched_setaffinity"):
            one = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); import runpy, sys; "
            command[1:] = [
                "-c",
                f"{one}sys.argv = {[__file__, name, '--here']!r}; runpy.run_path({__file__!r}, run_name='__main__')",
            ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
        if not options.json:
            row = rows[-1]
            proof = "proven" if row["proven"] else f"not proven, gap {100 * row['bound_gap']:.1f} %"
            print(
                f"{name}: {row['plans']:,} plans ({row['fitting']:,} fit) in {row['columns_s']:.2f} s, "
                f"{row['plans_per_s'] / 1e6:.2f} M plans/s, {row['times_one_by_one']:,.0f} times one by one\n"
                f"  answer in {row['answer_s']:.2f} s from a cold start, {row['simulated']} simulated, {proof}, "
                f"{row['rss_mb']:.0f} MB\n  {row['step_s']:.3f} s: {row['best']}",
                flush=True,
            )
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
