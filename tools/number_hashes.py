"""Hashes of every number in a fixed set of answers: equal before and after a change that must not move any.

    python tools/number_hashes.py

Search times are left out. The answers: all measured runs, the main question of the README, its plan simulated and
explained, a mixture of experts, and the problems of ``benchmarks/problems`` on 512 devices.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

QUESTION = ("llama-3-70b", "64x8xh100-sxm-80gb")
PLAN = {
    "sequence_length": 8192, "global_batch_size": 512, "tensor_parallel": 4, "pipeline_parallel": 4,
    "virtual_pipeline": 5, "data_parallel": 32, "recompute": "full",
}  # fmt: skip


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a JSON value in the order of its keys."""
    if isinstance(value, dict):
        for key in sorted(value):
            if key != "search_s":
                yield from numbers(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, float):
        yield float(value)  # a number of NumPy's is the same number
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def answers() -> Iterator[tuple[str, Any]]:
    """Name -> answer as JSON has it."""
    import yaml
    from spaces import settings

    from llmsim import SearchSpace, TrainingPlan, explain_training, plan_training, simulate_training, validate

    yield "validate", validate(ROOT / "validation" / "training_runs.csv").to_dict()
    yield "search", plan_training(*QUESTION, sequence=8192, global_batch=512, tokens=15e12, cores=1).to_dict()
    yield "simulate", simulate_training(TrainingPlan(**PLAN), *QUESTION).to_dict()
    yield "explain", explain_training(TrainingPlan(**PLAN), *QUESTION).to_dict()
    experts = plan_training("deepseek-v3", "256x8xh800-sxm-80gb", sequence=4096, global_batch=15360, cores=1)
    yield "experts", experts.to_dict()
    for path in sorted((ROOT / "benchmarks" / "problems").glob("*-512.yaml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        space = data["space"] | {"recompute": settings(data["space"]["recompute"], data["recompute_shares"])}
        question = {key: data[key] for key in ("sequence", "global_batch", "precision")}
        answer = plan_training(data["model"], data["cluster"], **question, space=SearchSpace(**space), cores=1)
        yield path.stem, answer.to_dict()


def main() -> None:
    """Print them."""
    for name, answer in answers():
        found = list(numbers(answer))
        print(f"{name:16} {hashlib.sha256(repr(found).encode()).hexdigest()[:20]} of {len(found):,} numbers")


if __name__ == "__main__":
    main()
