"""The exact time of a pipeline from the seconds of its layers: the passes of each chunk, and the longest path through
the schedule that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..core.numeric import Number
from ..core.pipelines import ScheduleName
from ..timing.layer_time import KindTime
from .build_load import Prepared, recomputed_layers
from .compose import StepTime
from .longest_path import Times, pipeline_seconds
from .problem import Problem
from .saved_activations import KeptTransfers
from .split import pair_share, pass_seconds
from .stages import Stage, chunk_counts, stage_shares

Chunk: TypeAlias = tuple[tuple[int, ...], float | None]
"""Layers of each kind, and which share of them recomputes where stages differ in it."""

Passes: TypeAlias = tuple[Number, Number, Number]
"""Seconds of a forward pass, of the gradients of inputs and of those of weights."""


@dataclass(frozen=True)
class ChunkTimes:
    """Seconds of one micro-batch in each chunk of a pipeline, ``[device][chunk]``; numbers, or arrays with one entry a
    pipeline.

    Attributes
    ----------
    forward, backward
        Of both passes.
    weight
        The part of ``backward`` that takes the gradients of weights.
    """

    forward: Times
    backward: Times
    weight: Times

    @classmethod
    def of(cls, passes: Sequence[Sequence[Passes]]) -> ChunkTimes:
        """From the passes of each chunk."""
        return cls(
            [[forward for forward, _, _ in row] for row in passes],
            [[inputs + weights for _, inputs, weights in row] for row in passes],
            [[weights for _, _, weights in row] for row in passes],
        )

    def seconds(
        self,
        schedule: ScheduleName,
        micro_batches: int,
        hop_s: Number = 0.0,
        saved: Sequence[Number] | None = None,
    ) -> Number:
        """Of the whole pipeline, see :func:`~llmsim.training.longest_path.pipeline_seconds`."""
        return pipeline_seconds(schedule, self.forward, self.backward, micro_batches, hop_s, self.weight, saved)


def pipeline_chunks(problem: Problem, pp: int, chunks: int) -> list[list[Chunk]]:
    """What each chunk of a pipeline is made of, ``[device][chunk]``."""
    each = chunk_counts(problem.architecture, pp, chunks, problem.schedule, problem.layout)
    shares = stage_shares(problem.architecture, each, problem.depths)
    return [[(counts, share) for counts in own] for own, share in zip(each, shares, strict=True)]


def chunk_times(
    problem: Problem,
    pp: int,
    chunks: int,
    times: Sequence[KindTime],
    kept: KeptTransfers | None = None,
    share: Number | None = None,
    *,
    as_number: Callable[[Number], Number] = float,
) -> ChunkTimes:
    """The passes of each chunk from the seconds of layer kinds. Most chunks are alike.

    Parameters
    ----------
    kept
        Activations that go to the host and come back.
    share
        Of the layers, how many recompute, where the pipelines differ in it (arrays with one entry each).
    as_number
        What each time becomes: a plain number, or an array with one entry a pipeline.
    """
    known: dict[Chunk, Passes] = {}
    each = pipeline_chunks(problem, pp, chunks)
    for counts, own in {chunk for row in each for chunk in row}:
        again = recomputed_layers(problem, counts, own if share is None else share)
        forward, inputs, weights = map(as_number, pass_seconds(counts, again, times, kept))
        known[counts, own] = forward, inputs, weights
    return ChunkTimes.of([[known[chunk] for chunk in row] for row in each])


def exact_seconds(problem: Problem, prepared: Prepared, time: StepTime, times: Sequence[KindTime]) -> float:
    """Seconds of the longest path through a plan's schedule, every chunk with its own time.

    Parameters
    ----------
    time
        Of the step by the closed form.
    times
        Of the layer kinds.
    """
    load = prepared.load
    own = chunk_times(problem, int(load.pp), int(load.chunks), times, load.kept)
    saved = saved_seconds(problem, prepared.stages, time)
    return float(own.seconds(problem.schedule, int(load.micro_batches), float(time.hop_s), list(map(float, saved))))


def saved_seconds(problem: Problem, stages: Sequence[Stage], time: StepTime) -> list[Number]:
    """What a forward and a backward pass side by side take less than one after the other, stage by stage."""
    share, found = pair_share(problem.schedule), list[Number]()
    for own, run in zip(time.stages, stages, strict=True):
        found += [own.saved_s * share] * int(run.repeats)
    return found
