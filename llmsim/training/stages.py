"""How layers are spread over pipeline stages: a stage is a vector of counts per layer kind, stages come in runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from ..architecture import Architecture, body_kinds, model_kinds
from ..core.numeric import Number
from ..core.pipelines import ScheduleName
from .orders import routes

Layout: TypeAlias = tuple[int, ...] | None
"""Layers in each part of a model, in model order; None where they are spread evenly."""

Depths: TypeAlias = tuple[int, ...] | None
"""Layers of each stage that recompute; None where every stage recomputes the same share."""


@dataclass(frozen=True)
class Stage:
    """A run of equal pipeline stages; its values are numbers, or arrays with one entry a plan.

    Attributes
    ----------
    counts
        Layers of each kind in one stage, in the order of :func:`model_kinds`; the ends of the model are kinds too.
    first, repeats
        Index of the first stage of the run, and how many there are (0 where a plan has fewer runs).
    share
        Of its layers, how many recompute; None where the plan says it for all stages at once.
    lead
        Layers of each kind in its first chunk.
    """

    counts: tuple[Number, ...]
    first: Number
    repeats: Number
    share: Number | None = None
    lead: tuple[Number, ...] = ()


def chunk_sizes(layers: int, parts: int) -> tuple[int, ...]:
    """Layers in each of ``parts`` chunks, in model order.

    Equal where they divide; otherwise embedding and head count as one layer each, as published recipes place them,
    and the chunks in the middle take what is left over.
    """
    if layers % parts == 0:
        return (layers // parts,) * parts
    slots = layers + 2
    base, rest = divmod(slots, parts)
    sizes = [base] * parts
    middle = [i for i in range(parts) if i not in (0, parts - 1)] or list(range(parts))
    order = sorted(middle, key=lambda i: abs(i - (parts - 1) / 2)) + [i for i in (0, parts - 1) if i not in middle]
    for i in order[:rest]:
        sizes[i] += 1
    sizes[0] -= 1
    sizes[-1] -= 1
    return tuple(sizes)


@lru_cache(maxsize=4096)
def part_counts(architecture: Architecture, count: int, layout: Layout = None) -> tuple[tuple[int, ...], ...]:
    """Layers of each kind in each part of the model, in model order."""
    names = list(architecture.kinds)
    ends = len(names)
    sizes = layout or chunk_sizes(len(architecture.layers), count)
    parts: list[tuple[int, ...]] = []
    start = 0
    for index, size in enumerate(sizes):
        counts = [0] * len(model_kinds(architecture))
        for name in architecture.layers[start : start + size]:
            counts[names.index(name)] += 1
        start += size
        if index == 0:
            counts[ends] = 1
        if index == len(sizes) - 1:
            counts[ends + 1 :] = [1] * (1 + len(architecture.mtp))
        parts.append(tuple(counts))
    return tuple(parts)


@lru_cache(maxsize=4096)
def chunk_counts(
    architecture: Architecture, pp: int, chunks: int, schedule: ScheduleName = "1f1b", layout: Layout = None
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Layers of each kind, ``[stage][chunk]``: chunk j of stage i is the ``j * pp + i``-th part of the model, or as
    :func:`~llmsim.training.orders.routes` has it.

    Parameters
    ----------
    layout
        Layers in each part, in model order; None spreads them evenly.
    """
    parts = part_counts(architecture, pp * chunks, layout)
    found: list[list[tuple[int, ...]]] = [[] for _ in range(pp)]
    for way in routes(schedule, pp, chunks):
        for part, (i, _) in enumerate(way):
            found[i].append(parts[part])
    return tuple(map(tuple, found))


@lru_cache(maxsize=4096)
def stages(
    architecture: Architecture,
    pp: int,
    chunks: int,
    schedule: ScheduleName = "1f1b",
    layout: Layout = None,
    depths: Depths = None,
) -> tuple[Stage, ...]:
    """The stages of one pipeline in order, runs of equal ones merged."""
    each = chunk_counts(architecture, pp, chunks, schedule, layout)
    return _merged(each, stage_shares(architecture, each, depths))


def stage_shares(
    architecture: Architecture, each: Sequence[tuple[tuple[int, ...], ...]], depths: Depths
) -> Sequence[float | None]:
    """Share of the layers of each stage that recompute, where stages differ in it.

    Parameters
    ----------
    each
        Of :func:`chunk_counts`.
    """
    if depths is None:
        return [None] * len(each)
    body = body_kinds(architecture)
    layers = [sum(sum(chunk[:body]) for chunk in own) for own in each]
    return [depth / max(n, 1) for depth, n in zip(depths, layers, strict=True)]


@lru_cache(maxsize=4096)
def parts(
    architecture: Architecture, count: int, layout: Layout = None, shares: tuple[float | None, ...] | None = None
) -> tuple[Stage, ...]:
    """The parts of a model in order, runs of equal ones merged; ``shares`` of them recompute."""
    return _merged([(own,) for own in part_counts(architecture, count, layout)], shares or [None] * count)


def _merged(each: Sequence[tuple[tuple[int, ...], ...]], shares: Sequence[float | None]) -> tuple[Stage, ...]:
    found: list[Stage] = []
    before: object = None
    for i, (own, share) in enumerate(zip(each, shares, strict=True)):
        if (own, share) == before:
            last = found[-1]
            found[-1] = replace(last, repeats=last.repeats + 1)
        else:
            found.append(Stage(tuple(sum(c) for c in zip(*own, strict=True)), i, 1, share, own[0]))
        before = own, share
    return tuple(found)


def stage_table(
    architecture: Architecture,
    pp: Number,
    chunks: Number,
    schedule: ScheduleName = "1f1b",
    layout: Layout = None,
    depths: Depths = None,
) -> tuple[Stage, ...]:
    """The stages of many pipelines side by side; plans with fewer runs are padded with runs of no stages."""
    if not isinstance(pp, np.ndarray) and not isinstance(chunks, np.ndarray):
        return stages(architecture, int(pp), int(chunks), schedule, layout, depths)
    return _table(architecture, pp, chunks, lambda p, v: stages(architecture, p, v, schedule, layout))


def part_table(
    architecture: Architecture,
    pp: Number,
    chunks: Number,
    schedule: ScheduleName = "1f1b",
    layout: Layout = None,
    depths: Depths = None,
) -> tuple[Stage, ...]:
    """The parts of the models of many pipelines side by side, as :func:`stage_table` has their stages."""
    if not isinstance(pp, np.ndarray) and not isinstance(chunks, np.ndarray):
        shares = None
        if depths is not None:
            each = chunk_counts(architecture, int(pp), int(chunks), schedule, layout)
            own = stage_shares(architecture, each, depths)
            shares = tuple(own[device] for device, _ in routes(schedule, int(pp), int(chunks))[0])
        return parts(architecture, int(pp * chunks), layout, shares)
    return _table(architecture, pp, chunks, lambda p, v: parts(architecture, p * v, layout))


def _table(
    architecture: Architecture, pp: Number, chunks: Number, runs_of: Callable[[int, int], tuple[Stage, ...]]
) -> tuple[Stage, ...]:
    shape = np.broadcast_shapes(np.shape(pp), np.shape(chunks))
    pairs, inverse = np.unique(
        np.stack([np.broadcast_to(pp, shape), np.broadcast_to(chunks, shape)]).reshape(2, -1),
        axis=1,
        return_inverse=True,
    )
    each = [runs_of(int(p), int(v)) for p, v in pairs.T]
    nothing = (0,) * len(model_kinds(architecture))
    empty = Stage(nothing, 0, 0, lead=nothing)
    inverse = inverse.reshape(shape)
    found: list[Stage] = []
    for run in range(max(map(len, each))):
        own = [runs[run] if run < len(runs) else empty for runs in each]
        counts, lead = np.array([s.counts for s in own]).T, np.array([s.lead for s in own]).T
        found.append(
            Stage(
                tuple(column[inverse] for column in counts),
                np.array([s.first for s in own])[inverse],
                np.array([s.repeats for s in own])[inverse],
                lead=tuple(column[inverse] for column in lead),
            )
        )
    return tuple(found)
