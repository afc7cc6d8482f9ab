"""Composition where a schedule computes gradients of weights apart from those of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.numeric import Number
from ..core.pipelines import ScheduleName, schedule_facts
from ..timing.layer_time import KindTime
from .closed_forms import Line, PartTimes, split_bound
from .saved_activations import KeptTransfers


@dataclass(frozen=True)
class PartLoad:
    """A run of equal parts of the model, for schedules that split backward passes.

    Attributes
    ----------
    counts, recomputed
        Layers of each kind in one of them, and how many of those compute their forward again.
    first, repeats
        Index of the first part, and how many there are.
    """

    counts: Sequence[Number]
    recomputed: Sequence[Number]
    first: Number
    repeats: Number


def pair_share(schedule: ScheduleName) -> float:
    """Share of a device's work for one micro-batch that one pair of passes does."""
    return 1.0 if schedule_facts(schedule).shape == "both" else 0.5


def split_pipeline(
    schedule: ScheduleName,
    parts: Sequence[PartLoad],
    times: Sequence[KindTime],
    shape: tuple[Number, Number, Number],
    hop_s: Number,
    saved_s: Number,
    kept: KeptTransfers | None = None,
) -> Number:
    """Time of the pipeline by :func:`~llmsim.training.closed_forms.split_bound`, seconds.

    Parameters
    ----------
    shape
        Micro-batches, stages, chunks.
    saved_s
        What the passes of one micro-batch take less side by side, on the stage where that is most.
    kept
        Activations that go to the host and come back.
    """
    first, repeats = [p.first for p in parts], [p.repeats for p in parts]
    each = [pass_seconds(p.counts, p.recomputed, times, kept) for p in parts]
    lines = (Line(values, first, repeats) for values in zip(*each, strict=True))
    return split_bound(schedule, PartTimes(*lines), *shape, hop_s, saved_s * pair_share(schedule))


def pass_seconds(
    counts: Sequence[Number],
    recomputed: Sequence[Number],
    times: Sequence[KindTime],
    kept: KeptTransfers | None = None,
) -> tuple[Number, Number, Number]:
    """Seconds of the forward pass, of the gradients of inputs and of those of weights of some layers."""
    forward: Number = 0
    inputs: Number = 0
    weights: Number = 0
    for count, again, kind in zip(counts, recomputed, times, strict=True):
        forward = forward + count * kind.forward.seconds
        inputs = inputs + count * (kind.backward.seconds - kind.weight_s) + again * kind.recompute.seconds
        weights = weights + count * kind.weight_s
    if kept is not None:
        transfer = kept.seconds(counts, recomputed)
        backward = kept.exposed(inputs + weights, transfer)
        forward, inputs = forward + kept.exposed(forward, transfer), inputs + backward
    return forward, inputs, weights
