"""Many measured runs at once: those that share everything structural become one table of plans."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import LlmsimError
from ..core.records import stack_records
from ..timing.columns import Columns
from ..timing.step_constants import Overlay, overlaid_constants
from ..timing.structure import derivation
from ..training.problem import Problem, plan_columns, plan_problem
from ..training.recompute import lightest_recomputes
from .runs import RunPlan, plan_run, reason
from .table import MeasuredRun


@dataclass(frozen=True)
class Batch:
    """Runs that are one table of plans.

    Attributes
    ----------
    rows
        Their numbers.
    problem, columns
        What they have in common (of the first of them), and their values.
    """

    rows: np.ndarray
    problem: Problem
    columns: Columns


def batches(items: Sequence[RunPlan]) -> Iterator[Batch]:
    """Runs in as few tables as possible: releases and cluster sizes that cost the same kernels and wires go together,
    although composition may treat them differently."""
    problems = [plan_problem(item.architecture, item.cluster, item.plan) for item in items]
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, problem in enumerate(problems):
        alike[_key(problem)].append(number)
    for numbers in alike.values():
        columns = stack_records([plan_columns(items[n].plan) for n in numbers])
        yield Batch(np.asarray(numbers), problems[numbers[0]], columns)


def _key(problem: Problem) -> Hashable:
    cluster, structure = problem.cluster, problem.structure
    software = structure.software
    return (
        problem.architecture,
        cluster.device,
        cluster.tiers(),
        derivation(structure),
        structure.recompute,
        structure.precision,
        software.name,
        software.training.formats,
        software.training.defaults,
        software.training.padded_shards,
        tuple(own.value for key, own in software.constants.items() if key.startswith("memory/")),
        software.training.gradients,
        software.training.update,
        problem.sharding,
        problem.schedule,
        problem.optimizer,
        problem.offload,
        structure.documents,
    )


def plan_runs(
    runs: Sequence[MeasuredRun], search: Sequence[Path] = (), *, overlay: Overlay | None = None
) -> tuple[list[RunPlan], dict[str, str]]:
    """The plans of the rows, and the reasons of those that cannot be simulated by row id.

    Where a row does not say what it recomputes, it is the lightest setting that fits.

    Parameters
    ----------
    overlay
        Fitted constants to use instead of those that ship (memory decides what fits).
    """
    items: list[RunPlan] = []
    skipped: dict[str, str] = {}
    for run in runs:
        try:
            items.append(plan_run(run, search))
        except LlmsimError as error:
            skipped[run.id] = reason(error)
    return settle_recompute(items, overlay), skipped


def settle_recompute(items: Sequence[RunPlan], overlay: Overlay | None = None) -> list[RunPlan]:
    """Runs with the lightest recomputation that fits, where they do not say theirs; offloading is said to make room.

    Tables do not say either how the experts are cut: whole, unless nothing fits then.
    """
    settled = list(items)
    blank = [n for n, item in enumerate(items) if not item.states_recompute and not item.states_offload]
    full = _settle(settled, blank, overlay)
    cut = [n for n in full if settled[n].can_cut_experts]
    for number in cut:
        settled[number] = settled[number].with_cut_experts()
    _settle(settled, cut, overlay)
    return settled


def _settle(items: list[RunPlan], numbers: Sequence[int], overlay: Overlay | None) -> list[int]:
    """Choose the recomputation of some runs in place; the numbers of those that fit with none."""
    overfull: list[int] = []
    for batch in batches([items[n] for n in numbers]):
        constants = overlaid_constants(batch.problem.cluster, batch.problem.structure, overlay)
        choices = lightest_recomputes(batch.problem, batch.columns, constants)
        for row, choice in zip(batch.rows, choices, strict=True):
            number = numbers[row]
            items[number] = items[number].with_recompute(choice.setting, choice.reason)
            if not choice.fits:
                overfull.append(number)
    return overfull
