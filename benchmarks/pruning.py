"""Whether pruning loses anything: the same questions with every plan computed exactly, and what that costs.

    python benchmarks/pruning.py [--instances 50] [--json]

Pruned is what a search does: bounds rule plans out, a pool keeps what may matter, the exact schedule is computed where
a bound leaves it open. Unpruned, every plan is timed and the exact schedule of every plan that fits is computed. The
subspaces are files of ``benchmarks/subspaces``; the instances are drawn from other models and clusters. At last one
space is simulated plan by plan, and small ones that spread layers and recomputation unevenly.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import yaml
from spaces import settings

from llmsim import (
    Architecture,
    Cluster,
    InfeasibleError,
    InputError,
    SearchSpace,
    TrainingPlan,
    plan_training,
    simulate_training,
)
from llmsim.search.evaluate import space_evaluators
from llmsim.search.exact import exact_steps
from llmsim.search.finalists import spread_plans
from llmsim.search.select import candidate_plan
from llmsim.search.space import enumerate_plans
from llmsim.search.sweep import evaluate_space

SUBSPACES = Path(__file__).parent / "subspaces"
SEED = 20260401
BATCH = 4096
HEADROOM = 0.04
"""Share of a device that stays free, in the search and without it."""


@dataclass(frozen=True)
class Question:
    """A model on a cluster with a space."""

    model: Architecture
    cluster: Cluster
    sequence: int
    global_batch: int
    precision: str
    space: SearchSpace

    def __post_init__(self) -> None:
        if self.cluster.memory_headroom is None:
            object.__setattr__(self, "cluster", self.cluster.replace(memory_headroom=HEADROOM))

    def arguments(self) -> dict[str, Any]:
        """Of the search."""
        return {
            "sequence": self.sequence, "global_batch": self.global_batch, "precision": self.precision,
            "space": self.space, "cores": 1, "top": 1, "simpler_within": 0,
        }  # fmt: skip


def read(name: str) -> Question:
    """A subspace by name."""
    data = yaml.safe_load((SUBSPACES / f"{name}.yaml").read_text(encoding="utf-8"))
    chosen = {**data["space"], "recompute": settings(data["space"]["recompute"], data["recompute_shares"])}
    return Question(
        Architecture.from_config(data["model"]),
        Cluster.parse(data["cluster"]),
        data["sequence"],
        data["global_batch"],
        data["precision"],
        SearchSpace(**chosen),
    )


def unpruned(question: Question, template: TrainingPlan) -> tuple[float, int, int]:
    """The best exact time of a space, how many plans it has, and how many of them fit."""
    own = question.model, question.cluster
    table = enumerate_plans(
        question.model, question.cluster.n_devices, question.sequence, question.global_batch, question.space
    )
    found = evaluate_space(space_evaluators(*own, template, table, question.space), question.space)
    fitting = np.flatnonzero(found.fits & np.isfinite(found.step_s))
    best = np.inf
    for start in range(0, len(fitting), BATCH):
        seconds = exact_steps(found, fitting[start : start + BATCH])
        for k in np.flatnonzero(np.isnan(seconds)):  # passes in pairs: one by one
            plan = candidate_plan(found, int(fitting[start + k]), template)
            seconds[k] = simulate_training(plan, *own).step_time_s
        best = min(best, float(seconds.min()))
    return best, found.evaluated, len(fitting)


def compare(question: Question) -> dict[str, Any] | None:
    """Both ways; None where nothing fits or divides."""
    start = process_time()
    try:
        answer = plan_training(question.model, question.cluster, **question.arguments())
    except (InfeasibleError, InputError):
        return None
    pruned_s = process_time() - start
    best = answer.best[0].result
    start = process_time()
    exact, plans, fitting = unpruned(question, best.plan)
    unpruned_s = process_time() - start
    return {
        "plans": plans, "fitting": fitting, "pruned_best_s": best.step_time_s, "unpruned_best_s": exact,
        "equal": abs(best.step_time_s / exact - 1) < 1e-9, "proven": answer.counts.proven,
        "bounded": answer.counts.bounded, "exact_schedules": answer.counts.simulated, "pruned_s": pruned_s,
        "unpruned_s": unpruned_s,
    }  # fmt: skip


MODELS = ("llama-3-8b", "llama-3-70b", "gpt-3-175b", "mixtral-8x7b", "deepseek-v2-lite", "gpt-2-xl", "qwen3-30b-a3b")
CLUSTERS = ("1x8xh100-sxm-80gb", "2x8xa100-sxm-80gb", "4x8xh100-sxm-80gb", "8x8xa100-sxm-40gb", "8x8xb200-sxm-180gb")
LADDERS = (["none", "full"], ["none", "full", "selective"], ["full"], ["none", "selective:layernorm,mlp_act"])


def instances(count: int) -> list[Question]:
    """Questions drawn at random."""
    draw = np.random.default_rng(SEED)

    def some(values: Sequence[Any]) -> tuple[Any, ...]:
        number = int(draw.integers(1, len(values) + 1))
        return tuple(values[i] for i in sorted(draw.choice(len(values), number, replace=False)))

    found = []
    for _ in range(count):
        space = SearchSpace(
            recompute=tuple(settings(LADDERS[draw.integers(len(LADDERS))], int(draw.integers(1, 5)))),
            sharding=some(("ddp", "zero1", "zero2", "zero3", "hsdp")),
            sequence_parallel=(True, False),
            schedule=("1f1b", *some(("interleaved", "gpipe", "zb-h1", "zb-v"))),
            context_kind=some(("ring", "ulysses", "all_gather")),
            rank_order=some(("tp-cp-dp-pp", "tp-cp-pp-dp")),
            offload_activations=some((0, 0.5)),
            offload_optimizer=some((0, 1)),
        )
        found.append(
            Question(
                Architecture.from_config(MODELS[draw.integers(len(MODELS))]),
                Cluster.parse(CLUSTERS[draw.integers(len(CLUSTERS))]),
                int(draw.choice([2048, 4096, 8192])),
                int(draw.choice([64, 128, 256])),
                "bf16",
                space,
            )
        )
    return found


def brute_force() -> dict[str, Any]:
    """One space simulated plan by plan, and searched."""
    space = SearchSpace(
        recompute=tuple(settings(["none", "full", "selective"], 8)), sharding=("zero1", "zero3"),
        sequence_parallel=(True, False), context_parallel=(1, 2), micro_batch_size=(1, 2),
    )  # fmt: skip
    question = Question(
        Architecture.from_config("llama-3-8b"), Cluster.parse("4x8xh100-sxm-80gb"), 8192, 128, "bf16", space
    )
    start = process_time()
    answer = plan_training(question.model, question.cluster, **question.arguments())
    search_s, best = process_time() - start, answer.best[0].result
    table = enumerate_plans(question.model, question.cluster.n_devices, 8192, 128, space)
    own = question.model, question.cluster
    found = evaluate_space(space_evaluators(*own, best.plan, table, space), space)
    start = process_time()
    results = [simulate_training(candidate_plan(found, i, best.plan), *own) for i in range(len(found))]
    exact = min(r.step_time_s for r in results if r.fits)
    return {
        "plans": len(results), "search_best_s": best.step_time_s, "brute_force_best_s": exact,
        "equal": best.step_time_s == exact, "search_s": search_s, "brute_force_s": process_time() - start,
    }  # fmt: skip


UNEVEN = {"layers_per_stage": ("even", "balanced"), "recompute_layers": ("uniform", "fitted")}
SMALL_CLUSTERS = ("1x8xv100-sxm-16gb", "2x4xv100-sxm-32gb", "1x8xa100-sxm-40gb", "2x8xh100-sxm-80gb")


def uneven_instances(count: int) -> list[Question]:
    """Small questions with uneven spreads, drawn at random; some leave so much memory free that few plans fit."""
    draw = np.random.default_rng(SEED)
    found = []
    for _ in range(count):
        sizes = {
            "model_type": "llama", "hidden_size": int(draw.choice([2048, 4096, 8192])), "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14336, "num_hidden_layers": int(draw.integers(3, 14)),
            "vocab_size": int(draw.choice([32000, 128256])), "tie_word_embeddings": bool(draw.integers(2)),
        }  # fmt: skip
        cluster = Cluster.parse(SMALL_CLUSTERS[draw.integers(len(SMALL_CLUSTERS))])
        cluster = cluster.model_copy(update={"memory_headroom": float(draw.uniform(0.05, 0.8))})
        names = ("interleaved", "gpipe", "zb-h1", "zb-v", "dualpipe-v")
        space = SearchSpace(
            recompute=tuple(settings(LADDERS[draw.integers(len(LADDERS))], int(draw.integers(1, 3)))),
            schedule=("1f1b", names[draw.integers(len(names))]), tensor_parallel=(1, 2), pipeline_parallel=(2, 4),
            context_parallel=(1,), micro_batch_size=(1, 2), sharding=("zero1",), sequence_parallel=(True,), **UNEVEN,
        )  # fmt: skip
        batch = int(draw.choice([16, 32, 64]))
        found.append(Question(Architecture.from_config(sizes), cluster, 4096, batch, "fp16", space))
    return found


def compare_uneven(question: Question) -> dict[str, Any]:
    """The search, and every plan under every spread simulated: the same best time, or nothing that fits."""
    own = question.model, question.cluster
    sizes = question.sequence, question.global_batch
    start = process_time()
    try:
        answer = plan_training(*own, **question.arguments())
        best, proven, uneven = answer.best[0].result.step_time_s, answer.counts.proven, answer.best[0].result.plan
    except InfeasibleError:
        best, proven, uneven = np.inf, True, None
    search_s = process_time() - start
    template = TrainingPlan(sequence_length=sizes[0], global_batch_size=sizes[1], precision=question.precision)
    table = enumerate_plans(question.model, question.cluster.n_devices, *sizes, question.space)
    found = evaluate_space(space_evaluators(*own, template, table, question.space), question.space)
    start = process_time()
    even = (candidate_plan(found, i, template) for i in range(len(found)))
    plans = dict.fromkeys(p for plan in even for p in spread_plans(plan, question.space))
    exact = min((r.step_time_s for p in plans if (r := simulate_training(p, *own)).fits), default=np.inf)
    return {
        "plans": len(plans), "fits": bool(np.isfinite(exact)), "search_best_s": best, "brute_force_best_s": exact,
        "equal": best == exact or abs(best / exact - 1) < 1e-9, "proven": proven,
        "uneven": uneven is not None and not uneven.spreads_evenly, "search_s": search_s,
        "brute_force_s": process_time() - start,
    }  # fmt: skip


def show(name: str, row: dict[str, Any]) -> None:
    """One line."""
    same = "the same best time" if row["equal"] else "ANOTHER BEST TIME"
    print(
        f"{name}: {row['plans']:,} plans, {row['fitting']:,} fit; {same} ({row['pruned_best_s']:.6f} s); pruned "
        f"{row['pruned_s']:.2f} s ({row['bounded']:,} ruled out by a bound, {row['exact_schedules']:,} exact), "
        f"unpruned {row['unpruned_s']:.2f} s: {row['unpruned_s'] / row['pruned_s']:.0f} times as long",
        flush=True,
    )


def show_uneven(rows: Sequence[dict[str, Any]]) -> None:
    """One line."""
    plans = [row["plans"] for row in rows]
    count = {name: sum(row[name] for row in rows) for name in ("fits", "equal", "proven", "uneven")}
    print(
        f"{len(rows)} random instances with uneven spreads, of {min(plans):,} to {max(plans):,} plans, simulated one "
        f"by one: the same best time in {count['equal']} (in {len(rows) - count['fits']} nothing fits), proven in "
        f"{count['proven']}; {count['uneven']} of the best plans are uneven; "
        f"{sum(row['brute_force_s'] for row in rows):.1f} s, the search {sum(row['search_s'] for row in rows):.1f} s"
    )


def main() -> int:
    """Compare, print, and fail where pruning lost the best plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows: dict[str, Any] = {}
    for path in sorted(SUBSPACES.glob("*.yaml")):
        rows[path.stem] = compare(read(path.stem))
        if not options.json:
            show(path.stem, rows[path.stem])
    drawn = [row for question in instances(options.instances) if (row := compare(question)) is not None]
    alike = sum(row["equal"] for row in drawn)
    rows["instances"] = drawn
    rows["brute_force"] = brute = brute_force()
    small = [compare_uneven(question) for question in uneven_instances(options.instances)]
    rows["uneven_instances"] = small
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
    else:
        plans = [row["plans"] for row in drawn]
        print(
            f"{options.instances} random instances, {len(drawn)} with a plan that fits, of {min(plans):,} to "
            f"{max(plans):,} plans: the same best time in {alike}, proven in {sum(row['proven'] for row in drawn)}"
        )
        same = "the same best time" if brute["equal"] else "ANOTHER BEST TIME"
        print(
            f"brute force over {brute['plans']:,} plans, simulated one by one: {same}; {brute['brute_force_s']:.1f} s, "
            f"the search {brute['search_s']:.2f} s"
        )
        show_uneven(small)
    every = [rows[p.stem]["equal"] for p in SUBSPACES.glob("*.yaml")] + [
        row["equal"] for row in (*drawn, *small, brute)
    ]
    return 0 if all(every) else 1


if __name__ == "__main__":
    sys.exit(main())
