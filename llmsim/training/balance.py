"""Which layers go to which pipeline stage so that the slowest stage is as fast as can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ..architecture import Architecture, model_kinds
from ..timing.columns import Columns
from ..timing.layer_time import kind_time
from ..timing.step_constants import StepConstants
from .build_load import build_load
from .memory import memory_limit, memory_of_stage, stage_memory, stage_states
from .orders import Route, routes
from .problem import Problem
from .saved_activations import model_memory
from .split import pass_seconds
from .stages import Stage, part_counts

Fits = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
"""Whether a part holds the layers between two bounds: (part, first layers, ends) -> one truth each."""


Extra = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
"""Seconds that a part takes besides for the layers between two bounds; infinite where they do not fit."""


def balanced_layout(
    problem: Problem, columns: Columns, constants: StepConstants, *, fitted: bool = False
) -> tuple[int, ...]:
    """Layers in each part of one plan's model, in model order, embedding and head counted by their own seconds.

    With one chunk a stage the slowest stage is the fastest of all splits under which every stage fits its device, and
    of those the split that is most even; where none fits, memory is not looked at. With several chunks a stage, or two
    copies of the model, it is a local optimum: no layer that moves from the slowest stage to another makes it
    faster; if that does not fit and an even spread does, it is the even one.

    Parameters
    ----------
    fitted
        Stages recompute as few layers as they can: with one chunk a stage, layers and depths are chosen together.

    Returns
    -------
    tuple of int
        As many numbers as parts.
    """
    architecture = problem.architecture
    pp, chunks = int(columns.pp), int(columns.chunks)
    layers, first, last, again = _layer_seconds(problem, columns, constants, fitted=fitted)
    ways = routes(problem.schedule, pp, chunks)
    count = len(ways[0])
    even = tuple(sum(own[: len(architecture.kinds)]) for own in part_counts(architecture, count))
    if len(ways) == 1 and count == pp:
        if fitted:
            extra = _recomputing(problem, columns, constants, again)
            return split_layers(layers, first, last, pp, extra=extra) or split_layers(layers, first, last, pp) or even
        fits = _memory_check(problem, columns, constants)
        return split_layers(layers, first, last, pp, fits) or split_layers(layers, first, last, pp) or even
    found = spread_layers(layers, first, last, ways, even)
    spread, usual = (_fits(replace(problem, layout=layout), columns, constants) for layout in (found, None))
    return even if usual and not spread else found


def _layer_seconds(
    problem: Problem, columns: Columns, constants: StepConstants, *, fitted: bool
) -> tuple[list[float], float, float, list[float]]:
    """Seconds of one micro-batch in each layer, in the embedding and in all behind the last layer; where recomputation
    is to be fitted it is left out of them. Besides, seconds that each layer takes to recompute."""
    load = build_load(problem, columns, constants).load
    times = [kind_time(k, u, constants) for k, u in zip(load.kinds, load.units, strict=True)]
    recompute = problem.structure.recompute
    share = float(recompute.layers) if recompute.mode != "none" and not fitted else 0.0
    body = len(problem.architecture.kinds)
    each = []
    for i in range(len(times)):
        again = [share * (i == k and k < body) for k in range(len(times))]
        each.append(float(sum(pass_seconds([i == k for k in range(len(times))], again, times, load.kept))))
    names = list(problem.architecture.kinds)
    again = [float(times[names.index(n)].recompute.seconds) for n in problem.architecture.layers]
    return [each[names.index(n)] for n in problem.architecture.layers], each[body], sum(each[body + 1 :]), again


def split_layers(
    layers: Sequence[float],
    first: float,
    last: float,
    parts: int,
    fits: Fits | None = None,
    extra: Extra | None = None,
) -> tuple[int, ...] | None:
    """Layers in each of several parts so that the longest part is shortest, and of such splits the one with the least
    sum of squares; None where no split fits.

    Parameters
    ----------
    layers
        Seconds of the layers in order.
    first, last
        Seconds besides in the first and the last part.
    fits
        Which spans of layers a part may hold; any by default. Only the ends of the model may go without layers.
    extra
        What a span takes besides in a part.
    """
    size = len(layers)
    sums = np.concatenate([[0.0], np.cumsum(layers)])
    starts, ends = (grid.reshape(-1) for grid in np.meshgrid(range(size + 1), range(size + 1), indexing="ij"))
    seconds = np.full((parts, size + 1, size + 1), np.inf)
    for part in range(parts):
        own = sums[ends] - sums[starts] + first * (part == 0) + last * (part == parts - 1)
        allowed = (ends > starts) | ((ends == starts) & (part in (0, parts - 1)))
        if fits is not None:
            allowed = allowed & fits(part, starts, ends)
        if extra is not None:
            own = own + extra(part, starts, ends)
        seconds[part] = np.where(allowed, own, np.inf).reshape(size + 1, size + 1)
    slowest = np.full(size + 1, np.inf)
    slowest[0] = 0.0
    for part in range(parts):
        slowest = np.maximum(slowest[:, None], seconds[part]).min(axis=0)
    if not np.isfinite(slowest[size]):
        return None
    squares = np.where(seconds <= slowest[size] * (1 + 1e-12), seconds, np.inf) ** 2
    best = np.full(size + 1, np.inf)
    best[0] = 0.0
    chosen = []
    for part in range(parts):
        whole = best[:, None] + squares[part]
        chosen.append(whole.argmin(axis=0))
        best = whole.min(axis=0)
    bounds = [size]
    for start in reversed(chosen):
        bounds.append(int(start[bounds[-1]]))
    bounds.reverse()
    return tuple(b - a for a, b in pairwise(bounds))


def spread_layers(
    layers: Sequence[float], first: float, last: float, ways: Sequence[Route], start: Sequence[int]
) -> tuple[int, ...]:
    """Layers in each part where a device holds several: from a start, one layer at a time from the slowest device to
    where it makes the slowest faster.

    Parameters
    ----------
    ways
        (device, chunk) of the parts in order, for each way that micro-batches take.
    """
    sums = np.concatenate([[0.0], np.cumsum(layers)])
    owners = np.array([[device for device, _ in way] for way in ways])
    counts = np.array(start)

    def loads(own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bounds = np.concatenate([[0], np.cumsum(own)])
        seconds = sums[bounds[1:]] - sums[bounds[:-1]]
        seconds[0] += first
        seconds[-1] += last
        return np.sum([np.bincount(way, seconds) for way in owners], axis=0), seconds

    def badness(own: np.ndarray) -> tuple[float, ...]:
        device, part = loads(own)
        return tuple(float(f"{v:.12g}") for v in (device.max(), part.max(), (device**2).sum() + (part**2).sum()))

    now = badness(counts)
    for _ in range(len(layers) * len(counts)):
        slowest = int(loads(counts)[0].argmax())
        moves = []
        for giver in {int(part) for way in owners for part in np.flatnonzero(way == slowest)}:
            if counts[giver] > (giver not in (0, len(counts) - 1)):
                for taker in range(len(counts)):
                    other = counts.copy()
                    other[giver] -= 1
                    other[taker] += 1
                    moves.append((badness(other), tuple(other)))
        if not moves or min(moves)[0] >= now:
            break
        now, counts = min(moves)[0], np.array(min(moves)[1])
    return tuple(map(int, counts))


def _recomputing(problem: Problem, columns: Columns, constants: StepConstants, again: Sequence[float]) -> Extra:
    """Seconds that a stage of its own takes to recompute as few of its layers as it must; infinite where it does not
    fit with all of them."""
    spans = _Spans(problem, columns, constants)
    sums = np.concatenate([[0.0], np.cumsum(again)])
    layers = spans.counts.sum(axis=1)[None, :]
    low, high = (np.broadcast_to(v, spans.shape) for v in (0 * layers, layers))
    for _ in range(int(layers.max()).bit_length() + 1):  # memory falls with every layer that recomputes
        middle = (low + high) // 2
        fits = spans.fit(middle / np.maximum(layers, 1))
        low, high = np.where(fits, low, np.minimum(middle + 1, high)), np.where(fits, middle, high)
    fits = spans.fit(high / np.maximum(layers, 1))

    def extra(part: int, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        number = spans.number[starts, ends]
        seconds = (sums[ends] - sums[starts]) * high[part, number] / np.maximum(layers[0, number], 1)
        return np.where(fits[part, number], seconds, np.inf)

    return extra


def _memory_check(problem: Problem, columns: Columns, constants: StepConstants) -> Fits:
    """Whether spans of layers fit a stage of their own."""
    spans = _Spans(problem, columns, constants)
    fits = spans.fit(None)
    return lambda part, starts, ends: fits[part, spans.number[starts, ends]]


class _Spans:
    """Spans of layers as a stage of their own, of one plan: those with as many layers of each kind are one.

    Attributes
    ----------
    counts
        Layers of each kind, ``[span, kind]``.
    number
        Of the span between two bounds, ``[start, end]``.
    shape
        Parts and spans.
    """

    def __init__(self, problem: Problem, columns: Columns, constants: StepConstants):
        architecture, pp = problem.architecture, int(columns.pp)
        before = _layers_before(architecture)
        every = np.maximum(before[None, :] - before[:, None], 0)
        self.counts, number = np.unique(every.reshape(-1, every.shape[-1]), axis=0, return_inverse=True)
        self.number = number.reshape(every.shape[:2])
        self.shape = pp, len(self.counts)
        part = np.repeat(np.arange(pp), len(self.counts))
        ends = len(model_kinds(architecture)) - len(architecture.kinds)
        counts = [*np.tile(self.counts, (pp, 1)).T, *[np.where(part == pp - 1, 1, 0)] * ends]
        counts[len(architecture.kinds)] = np.where(part == 0, 1, 0)
        self._stage = Stage(tuple(counts), part, 1)
        parameters = build_load(problem, columns, constants).parameters
        self._states = stage_states(problem, columns, self._stage, parameters)
        self._given = problem, columns, model_memory(problem, columns), constants

    def fit(self, share: np.ndarray | None) -> np.ndarray:
        """Whether each span fits each part, ``[part, span]``, where a share of its layers recomputes."""
        problem, columns, kinds, constants = self._given
        stage = replace(self._stage, share=None if share is None else np.broadcast_to(share, self.shape).reshape(-1))
        memory = memory_of_stage(problem, columns, stage, self._states, kinds, constants).device_bytes
        limit = memory_limit(problem.cluster, problem.structure.software)
        return np.broadcast_to(memory <= limit, self._stage.first.shape).reshape(self.shape)


def _layers_before(architecture: Architecture) -> np.ndarray:
    """Layers of each kind in front of each layer, and in all."""
    names = list(architecture.kinds)
    table = np.zeros((len(architecture.layers) + 1, len(names)), dtype=np.int64)
    for i, name in enumerate(architecture.layers):
        table[i + 1] = table[i]
        table[i + 1, names.index(name)] += 1
    return table


def _fits(problem: Problem, columns: Columns, constants: StepConstants) -> bool:
    prepared = build_load(problem, columns, constants)
    limit = memory_limit(problem.cluster, problem.structure.software)
    return all(float(m.device_bytes) <= limit for m in stage_memory(problem, prepared, constants))
