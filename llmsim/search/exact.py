"""Exact step times of many candidates: the longest path through each schedule, pipelines of one shape together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from ..core.numeric import Number
from ..core.pipelines import ScheduleName
from ..core.records import map_numbers, stack_records
from ..plans.offload import Offload
from ..timing.layer_time import KindTime, kind_time
from ..training.build_load import offloading, recomputed_layers, step_load
from ..training.compose import StepTime, compose_step
from ..training.pipeline_time import ChunkTimes, chunk_times
from ..training.problem import Problem
from ..training.saved_activations import KeptTransfers
from .evaluate import Evaluator, own_entries, some_rows
from .retained import Candidates
from .variants import Variant

Shape = tuple[ScheduleName, int, int, int]
"""Schedule, stages, chunks, micro-batches."""


@dataclass(frozen=True)
class _Pipelines:
    """Pipelines of one shape: where their times go, what they are made of, and the rest of their steps."""

    where: np.ndarray
    chunks: ChunkTimes
    hop_s: np.ndarray
    rest_s: np.ndarray


def exact_steps(found: Candidates, chosen: np.ndarray) -> np.ndarray:
    """Seconds of a step of some candidates, as a simulation of each has them; NaN where passes run in pairs, which hide
    transfers stage by stage.

    Parameters
    ----------
    chosen
        Numbers of the candidates.
    """
    result = np.full(len(chosen), np.nan)
    shapes: dict[Shape, list[_Pipelines]] = defaultdict(list)
    for number in np.unique(found.variant[chosen]):
        where = np.flatnonzero(found.variant[chosen] == number)
        if not found.variants[number].problem.facts.paired:
            _collect(found, chosen, where, shapes)
    for (schedule, _, _, m), parts in shapes.items():
        whole = stack_records(parts)
        result[whole.where] = whole.chunks.seconds(schedule, m, whole.hop_s) + whole.rest_s
    return result


def _collect(
    found: Candidates,
    chosen: np.ndarray,
    where: np.ndarray,
    shapes: dict[Shape, list[_Pipelines]],
) -> None:
    """Sort candidates of one variant by the shape of their pipelines."""
    variant = found.variants[int(found.variant[chosen[where[0]]])]
    rows, numbers = found.row[chosen[where]], found.setting[chosen[where]]
    way, step = np.divmod(numbers, len(variant.settings.ladder))
    shares = variant.settings.shares[step]
    offload = Offload(*(getattr(variant.settings.offload, n)[way, 0] for n in ("activations", "optimizer")))
    problem = replace(variant.problem, offload=offload if offload.moves else variant.problem.offload)
    evaluator = variant.evaluator
    times, composed, kept = _composed(evaluator, problem, variant, rows, variant.settings.mode[step], shares)
    table = found.table
    shape = np.stack([table["pp"][rows], table["chunks"][rows], table["micro_batches"][rows]], axis=1)
    for pp, chunks, m in np.unique(shape, axis=0):
        own = np.flatnonzero((shape == (pp, chunks, m)).all(axis=1))
        each, moved = map_numbers((times, kept), lambda v: _entries(v, own, len(rows)))  # noqa: B023
        own_times = chunk_times(
            problem,
            int(pp),
            int(chunks),
            each,
            moved,
            shares[own],
            as_number=lambda v: np.broadcast_to(v, own.shape),  # noqa: B023
        )
        rest = np.broadcast_to(composed.seconds - composed.pipeline_s, rows.shape)[own]
        hop = np.broadcast_to(composed.hop_s, rows.shape)[own]
        key = problem.schedule, int(pp), int(chunks), int(m)
        shapes[key].append(_Pipelines(where[own], own_times, hop, rest))


def _composed(
    evaluator: Evaluator,
    problem: Problem,
    variant: Variant,
    rows: np.ndarray,
    mode: np.ndarray,
    shares: np.ndarray,
) -> tuple[list[KindTime], StepTime, KeptTransfers | None]:
    """The layers of each candidate, its step by the closed form, and what it sends to the host."""
    kinds = variant.kinds
    known = evaluator.keys(variant.ulysses).rows
    keys = rows if known is None else known[rows]
    columns = evaluator.columns(variant.shard_group, variant.ulysses, variant.rank_order).take(rows)
    parameters = [some_rows(p, rows) for p in evaluator.parameters(variant.problem, variant.shard_group)]
    stages = [replace(s, share=shares) for s in problem.stages(columns)]
    load = step_load(problem, columns, stages, parameters, (), evaluator.constants)
    if problem.offload.moves_activations:
        kept = map_numbers(kinds.memories, lambda v: own_entries(v, keys, mode))
        load = offloading(problem, load, kept, evaluator.constants)
    load = load.recomputing(lambda counts: recomputed_layers(problem, counts, shares))
    if problem.fully_sharded:
        seconds = map_numbers(kinds.seconds, lambda v: own_entries(v, keys, mode))
        times = [kind_time(k, u, evaluator.constants).summed() for k, u in zip(seconds, load.units, strict=True)]
    else:
        times = map_numbers(kinds.times, lambda v: own_entries(v, keys, mode))
    return times, compose_step(load, evaluator.constants, times), load.kept


def _entries(value: Number, own: np.ndarray, size: int) -> Number:
    return np.broadcast_to(value, (size,))[own] if isinstance(value, np.ndarray) and value.ndim else value
