"""How far the longest path of schedules that split backward passes lies above the bound that tables of plans use.

    python benchmarks/schedule_bounds.py [CASES]

Random pipelines: one to eight devices, one to forty micro-batches (or as many as a schedule wants), parts that all
differ, none of which differ, or whose ends do; hops that take no, little or much time; in one of seven cases seconds
between almost nothing and three.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np

from llmsim.core.pipelines import SCHEDULES, ScheduleName, schedule_facts
from llmsim.training.closed_forms import Line, PartTimes, split_bound
from llmsim.training.longest_path import longest_path
from llmsim.training.orders import routes

SPLIT = [s for s in SCHEDULES if schedule_facts(s).split]


def gap(name: ScheduleName, spread: int, wild: bool, rng: np.random.Generator) -> float:
    """Of one random pipeline: the longest path over the bound, less one."""
    facts, p, m = schedule_facts(name), int(rng.integers(1, 9)), int(rng.integers(1, 41))
    chunks = {"one": 1, "two": 2, "several": int(rng.integers(2, 4))}[facts.chunks]
    if facts.shape == "both":
        p += p % 2
    if name == "interleaved-zb":
        m = p * int(rng.integers(1, 6))
    elif facts.paired:
        m = 2 * p + 2 * int(rng.integers(0, 12))
    count = p * chunks

    def seconds(low: float, high: float) -> np.ndarray:
        if spread == 0:
            return rng.uniform(low, high, count)
        same = np.full(count, rng.uniform(low, high))
        if spread == 2:
            same[[0, -1]] = rng.uniform(low, high, 2)
        return same

    ranges = [(0.1, 3), (0.1, 3), (0, 3)] if wild else [(1, 2), (1, 2), (0.5, 1)]
    forward, inputs, weights = (seconds(low, high) for low, high in ranges)
    hop = float(rng.choice([0, 0.05, 0.5]))
    saved = float(rng.choice([0, 0.3])) * min(forward.min(), inputs.min()) * facts.paired
    places = 2 if facts.shape == "both" else chunks
    ahead, back, late = (np.zeros((p, places)) for _ in range(3))
    for way in routes(name, p, chunks):
        for part, place in enumerate(way):
            ahead[place], back[place], late[place] = forward[part], inputs[part] + weights[part], weights[part]
    exact = longest_path(name, ahead.tolist(), back.tolist(), m, hop, late.tolist(), [saved] * p).seconds
    lines = (Line(list(v), range(count), [1] * count) for v in (forward, inputs, weights))
    return float(exact / split_bound(name, PartTimes(*lines), m, p, chunks, hop, saved)) - 1


def main(cases: int) -> None:
    """Print the gaps by schedule."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = defaultdict(list)
    for n in range(cases):
        name = SPLIT[n % len(SPLIT)]
        found[name].append(gap(name, n // len(SPLIT) % 3, n % 7 == 0, rng))
    found["all"] = [value for own in found.values() for value in own]
    for name, values in found.items():
        low, middle, most, high = np.quantile(values, [0, 0.5, 0.9, 1]).round(9) + 0.0
        text = f"least {low:.4f}, median {middle:.4f}, nine of ten {most:.4f}, most {high:.4f}"
        print(f"{name:15} {len(values):6} cases: {text}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
