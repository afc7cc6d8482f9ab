"""How fast the search is, as ratios taken in one run on one machine.

Three planning questions are answered. For each, the plans of the whole space are evaluated as columns, and a random
sample of the same plans one at a time, by the same formulas and by the full simulation. Start-up is set against the
libraries that llmsim stands on.

    python benchmarks/search.py [--json] [--sample 40] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

import numpy as np

from llmsim import Architecture, Cluster, SearchSpace, TrainingPlan, plan_training, simulate_training
from llmsim.search.evaluate import space_evaluators
from llmsim.search.retained import Candidates
from llmsim.search.select import candidate_plan
from llmsim.search.space import enumerate_plans
from llmsim.search.sweep import evaluate_space
from llmsim.timing.step_constants import step_constants
from llmsim.training.build_load import build_load
from llmsim.training.compose import compose_step
from llmsim.training.memory import stage_memory
from llmsim.training.problem import plan_columns, plan_problem

SEED = 20260101


@dataclass(frozen=True)
class Question:
    """A planning question."""

    model: str
    cluster: str
    sequence: int
    global_batch: int

    @property
    def arguments(self) -> list[str]:
        """As the command line wants it."""
        return [
            *("--model", self.model, "--cluster", self.cluster),
            *("--sequence", str(self.sequence), "--global-batch", str(self.global_batch)),
        ]


QUESTIONS = (
    Question("llama-3-70b", "64x8xh100-sxm-80gb", 8192, 512),
    Question("deepseek-v3", "256x8xh800-sxm-80gb", 4096, 15360),
    Question("gpt-3-175b", "512x8xa100-sxm-80gb", 2048, 1536),
)

STARTS = {
    "python alone": "pass",
    "import llmsim": "import llmsim",
    "import numpy, pydantic": "import numpy, pydantic",
    "from llmsim import plan_training": "from llmsim import plan_training",
}


@dataclass(frozen=True)
class Speed:
    """What one question took.

    Attributes
    ----------
    formed, evaluated, fitting
        Combinations formed; plans whose memory was computed; of those, plans that fit and were timed.
    columns_s, whole_s
        Enumerating and evaluating the space; the whole answer, with its finalists simulated.
    formula_s, simulation_s
        One plan by the same closed form and memory; one plan by ``simulate_training``, its schedule node by node.
    command_s
        The command in a fresh process, from start to end.
    """

    question: Question
    formed: int
    evaluated: int
    fitting: int
    columns_s: float
    whole_s: float
    formula_s: float
    simulation_s: float
    command_s: float

    @property
    def plans_per_s(self) -> float:
        """Plans that fit only: the others are not timed, so they would flatter."""
        return self.fitting / self.columns_s

    def to_dict(self) -> dict[str, object]:
        """With the ratios."""
        return {
            **asdict(self),
            "fitting_plans_per_s": self.plans_per_s,
            "evaluated_plans_per_s": self.evaluated / self.columns_s,
            "times_the_same_formulas": self.plans_per_s * self.formula_s,
            "times_the_simulation": self.plans_per_s * self.simulation_s,
        }


def timed(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of some runs, after one that reads profiles and derives terms."""
    run()
    return median(_once(run) for _ in range(repeats))


def _once(run: Callable[[], object]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def measure(question: Question, sample: int, repeats: int) -> Speed:
    """One question, in columns and one by one."""
    architecture, cluster = Architecture.from_config(question.model), Cluster.parse(question.cluster)
    space = SearchSpace()

    def whole() -> object:
        return plan_training(
            architecture, cluster, sequence=question.sequence, global_batch=question.global_batch, space=space
        )

    answer = plan_training(architecture, cluster, sequence=question.sequence, global_batch=question.global_batch)
    template = answer.best[0].result.plan

    def columns() -> Candidates:
        table = enumerate_plans(architecture, cluster.n_devices, question.sequence, question.global_batch, space)
        return evaluate_space(space_evaluators(architecture, cluster, template, table, space), space)

    found = columns()
    fitting = np.flatnonzero(found.fits)
    chosen = np.random.default_rng(SEED).choice(fitting, min(sample, len(fitting)), replace=False)
    plans = [candidate_plan(found, int(i), template) for i in chosen]

    def formula(plan: TrainingPlan) -> tuple[object, object]:
        problem = plan_problem(architecture, cluster, plan)
        constants = step_constants(cluster, problem.structure)
        prepared = build_load(problem, plan_columns(plan), constants)
        return compose_step(prepared.load, constants).seconds, stage_memory(problem, prepared, constants)

    return Speed(
        question,
        answer.counts.considered,
        len(found),
        len(fitting),
        timed(columns, repeats),
        timed(whole, repeats),
        timed(lambda: [formula(p) for p in plans], repeats) / len(plans),
        timed(lambda: [simulate_training(p, architecture, cluster) for p in plans], repeats) / len(plans),
        process_s(["-m", "llmsim", "plan", "train", *question.arguments, "--tokens", "15T"], repeats),
    )


def process_s(arguments: Sequence[str], repeats: int) -> float:
    """Median seconds of a fresh interpreter."""
    return timed(lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL), repeats)


def starts(repeats: int) -> dict[str, float]:
    """Median seconds of fresh interpreters that import something, taken in turn so that all see the same machine."""
    found: dict[str, list[float]] = {name: [] for name in STARTS}
    for turn in range(repeats + 1):
        for name, code in STARTS.items():
            seconds = _once(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True))  # type: ignore[misc]
            if turn:  # the first one fills the disk cache
                found[name].append(seconds)
    return {name: median(values) for name, values in found.items()}


def show(speeds: Sequence[Speed], startup: dict[str, float]) -> None:
    """Two small tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120)
    table = Table(
        "", *(f"{s.question.model}\n{s.question.cluster}" for s in speeds), title="Search", title_justify="left"
    )
    lines: list[tuple[str, Callable[[Speed], str]]] = [
        ("combinations formed", lambda s: f"{s.formed:,}"),
        ("plans evaluated / that fit and are timed", lambda s: f"{s.evaluated:,} / {s.fitting:,}"),
        ("all of them, in columns", lambda s: f"{s.columns_s:.3f} s"),
        ("timed plans per second", lambda s: f"{s.plans_per_s:,.0f}"),
        ("one plan by the same formulas", lambda s: f"{s.formula_s * 1e3:.2f} ms"),
        ("  columns are faster by", lambda s: f"{s.plans_per_s * s.formula_s:,.0f} x"),
        ("one plan by simulate_training", lambda s: f"{s.simulation_s * 1e3:.2f} ms"),
        ("  columns are faster by", lambda s: f"{s.plans_per_s * s.simulation_s:,.0f} x"),
        ("plan_training, finalists simulated", lambda s: f"{s.whole_s:.3f} s"),
        ("llmsim plan train, a fresh process", lambda s: f"{s.command_s:.3f} s"),
    ]
    for name, cell in lines:
        table.add_row(name, *(cell(s) for s in speeds))
    console.print(table)
    imports = Table("fresh process", "seconds", "over python alone", "ratio", title="Start", title_justify="left")
    alone, libraries = startup["python alone"], startup["import numpy, pydantic"]
    for name, seconds in startup.items():
        ratio = f"{(seconds - alone) / (libraries - alone):.2f}"
        imports.add_row(name, f"{seconds:.3f}", f"{seconds - alone:.3f}", ratio)
    console.print(imports)


def main() -> None:
    """Measure, then print tables or JSON."""
    parser = argparse.ArgumentParser(description="Speed of the search, as ratios taken in one run.")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("--sample", type=int, default=40, help="plans that are taken one by one")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median counts")
    options = parser.parse_args()
    startup = starts(max(5, options.repeats))
    speeds = [measure(question, options.sample, options.repeats) for question in QUESTIONS]
    if options.json:
        data = {"schema": "llmsim.benchmark-search/1", "start_s": startup, "questions": [s.to_dict() for s in speeds]}
        print(json.dumps(data, indent=1))
    else:
        show(speeds, startup)


if __name__ == "__main__":
    main()
