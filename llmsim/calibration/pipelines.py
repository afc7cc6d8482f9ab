"""The exact time of the pipelines of many runs, beside the closed form that a fit composes with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..core.numeric import Number
from ..core.pipelines import ScheduleName
from ..core.records import map_numbers
from ..timing.layer_time import KindTime
from ..training.compose import StepLoad, StepTime
from ..training.pipeline_time import ChunkTimes
from ..training.saved_activations import KeptTransfers
from ..training.stages import chunk_counts
from .runs import RunPlan

MOST_NODES = 1_000_000
"""Chunks times micro-batches of a pipeline beyond which the closed form has to do: it is within a bubble then."""


def exact_seconds(
    items: Sequence[RunPlan], load: StepLoad, times: Sequence[KindTime], step: StepTime, rows: np.ndarray
) -> np.ndarray:
    """Step times with the longest path through each run's schedule, as a simulation of the single plan has them.

    Pipelines of one shape are walked together.

    Parameters
    ----------
    load, times, step
        The runs side by side: what they have to do, the seconds of their layer kinds, the step by the closed form.
    rows
        Numbers of the runs that are wanted.
    """
    size = len(items)
    closed, hop = np.broadcast_to(step.pipeline_s, (size,)), np.broadcast_to(step.hop_s, (size,))
    seconds = np.array(np.broadcast_to(step.seconds, (size,)))
    shapes: dict[tuple[ScheduleName, int, int, int], list[int]] = defaultdict(list)
    for number in map(int, rows):
        plan = items[number].plan
        nodes = plan.pipeline_parallel * plan.virtual_pipeline * plan.micro_batches
        if plan.pipeline_parallel > 1 and nodes <= MOST_NODES:
            key = (plan.schedule_name, plan.pipeline_parallel, plan.virtual_pipeline, plan.micro_batches)
            shapes[key].append(number)
    shares = _recomputed_shares(load)
    for (schedule, _, _, micro_batches), numbers in shapes.items():
        own = np.asarray(numbers)
        chunks = _chunk_times([items[n] for n in numbers], times, shares, own, load.kept)
        seconds[own] += chunks.seconds(schedule, micro_batches, hop[own]) - closed[own]
    return np.asarray(seconds[rows])


def _recomputed_shares(load: StepLoad) -> list[np.ndarray]:
    """Of the layers of each kind, how many recompute (the same share in every stage)."""
    shares = []
    for kind in range(len(load.kinds)):
        layers = np.max([s.counts[kind] for s in load.stages], axis=0)
        again = np.max([s.recomputed[kind] for s in load.stages], axis=0)
        shares.append(again / np.maximum(layers, 1))
    return shares


def _chunk_times(
    items: Sequence[RunPlan],
    times: Sequence[KindTime],
    shares: Sequence[np.ndarray],
    rows: np.ndarray,
    kept: KeptTransfers | None,
) -> ChunkTimes:
    """The passes of each chunk, one array entry a run: models differ, so that layers are counted run by run."""
    first = items[0].plan
    pp, chunks, schedule = first.pipeline_parallel, first.virtual_pipeline, first.schedule_name
    per_run = [np.array(chunk_counts(item.architecture, pp, chunks, schedule)) for item in items]
    counts = np.zeros((len(items), *per_run[0].shape[:2], len(times)))
    for n, own in enumerate(per_run):
        counts[n, :, :, : own.shape[-1]] = own

    def chosen(seconds: Sequence[Number]) -> list[list[Number]]:
        each = np.stack([np.broadcast_to(v, s.shape)[rows] for v, s in zip(seconds, shares, strict=True)])
        return [list(device) for device in np.einsum("npck,kn->pcn", counts, each)]

    back = [t.backward.seconds + s * t.recompute.seconds for t, s in zip(times, shares, strict=True)]
    forward, backward = chosen([t.forward.seconds for t in times]), chosen(back)
    if kept is not None:
        mine = map_numbers(kept, lambda v: np.broadcast_to(v, shares[0].shape)[rows])
        for p, c in np.ndindex(*counts.shape[1:3]):
            layers = list(counts[:, p, c].T)
            again = [n * s[rows] for n, s in zip(layers, shares, strict=True)]
            for passes in (forward, backward):
                passes[p][c] = passes[p][c] + mine.exposed(passes[p][c], mine.seconds(layers, again))
    return ChunkTimes(forward, backward, chosen([t.weight_s for t in times]))
