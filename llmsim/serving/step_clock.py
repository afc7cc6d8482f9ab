"""Durations of an engine's steps as integers, tabulated from the formulas of :mod:`llmsim.serving.step_time`.

A step of ``B`` decoding sequences takes what its rows take, which is tabulated over ``B`` and over the new tokens of
prompts, and what its attention takes, which is affine in the positions that sequences attend to: a rate for each
window, and one for layers without. Chunks of prompts add their own attention. Durations are whole picoseconds, so that
a sum does not depend on the order in which it is taken.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..core.numeric import soft_maximum
from ..core.positions import visible_positions
from .layer_counts import LayerCounts
from .served_model import StepBatch
from .steady_state import Server
from .step_time import SHARPNESS, time_step

PICOSECONDS = 10**12
ROWS = 64
"""Batches that are tabulated at a time, when the first of them occurs."""
OCTAVE = 6
"""Numbers of new tokens that are tabulated between a power of two and the next; between them lines are drawn."""


class StepClock:
    """How long steps of one server take.

    Attributes
    ----------
    server
        What runs, and at which rates.
    token_ps
        Of a position that a decoding sequence attends to in layers without a window.
    windows
        Positions up to which layers look back -> the same in these layers.
    cached_ps
        Of a cached token of a prompt whose keys and values are expanded again, beside attention.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.windows, self.token_ps = _context_rates(server)
        self.cached_ps = _expansion(server)
        self._knots = _knots(int(np.asarray(server.budget)))
        self._blocks: dict[int, list[list[int]]] = {}
        self._attention = _prompt_attention(server)
        self.chunk = lru_cache(maxsize=4096)(self._chunk)

    def rows(self, decoding: int, tokens: int = 0) -> int:
        """Picoseconds of a step without attention to what was there before: ``tokens`` are those of prompts."""
        place, row = divmod(decoding, ROWS)
        block = self._blocks.get(place)
        if block is None:
            block = self._blocks[place] = self._tabulated(place)
        times = block[row]
        if not tokens:
            return times[0]
        knots = self._knots
        upper = bisect_right(knots, tokens)
        low = knots[upper - 1]
        if low == tokens:
            return times[upper - 1]
        if upper == len(knots):  # beyond the budget: a single token of each of more sequences than it has room for
            upper -= 1
            low = knots[upper - 1]
        before, after = times[upper - 1], times[upper]
        return before + (after - before) * (tokens - low) // (knots[upper] - low)

    def _chunk(self, queries: int, cached: int) -> int:
        """Picoseconds of attention of one chunk of a prompt to itself and to what is cached before it."""
        return round(self._attention(queries, cached) * PICOSECONDS) + self.cached_ps * cached

    def _tabulated(self, place: int) -> list[list[int]]:
        decoding = np.arange(place * ROWS, (place + 1) * ROWS, dtype=float)[:, None]
        tokens = np.array(self._knots, dtype=float)[None, :]
        some = (tokens > 0) * 1.0
        batch = StepBatch(decoding, 0.0, some, tokens, 0.0, decoding + some)
        parts = time_step(self.server.model, batch, self.server.machine, self.server.rates).parts
        seconds = sum(np.asarray(value) for part, value in parts.items() if part != "prompt attention")
        rounded = np.rint(np.broadcast_to(seconds, (ROWS, tokens.shape[1])) * PICOSECONDS)
        table: list[list[int]] = rounded.astype(np.int64).tolist()
        return table


def _knots(budget: int) -> list[int]:
    """No token, and numbers of tokens up to the budget, evenly spaced in their logarithm."""
    steps = np.unique(np.rint(2 ** np.arange(0, np.log2(max(budget, 2)) + 1 / OCTAVE, 1 / OCTAVE)).astype(int))
    return [0, *(int(n) for n in steps if n < budget), budget]


def _seconds(server: Server, context: float) -> float:
    batch = StepBatch(1, context, logits=1)
    return float(time_step(server.model, batch, server.machine, server.rates).seconds)


def _context_rates(server: Server) -> tuple[tuple[tuple[int, int], ...], int]:
    """(window, picoseconds of a position) of windowed layers, and of layers without a window.

    The token that is computed belongs to its own window, so that a cached position fewer counts.
    """
    layers = [layer for layer, _ in server.model.layers]
    limits = {own - 1 for layer in layers for own in (layer.window, layer.selected) if own is not None and own > 1}
    ends = [0, *sorted(limits)]
    last = 2 * ends[-1] + 4096
    at = [_seconds(server, end) for end in (*ends, last)]
    spans = zip(ends, (*ends[1:], last), strict=True)
    times = zip(spans, at[:-1], at[1:], strict=True)
    slopes = [(after - before) / (high - low) for (low, high), before, after in times]
    rates = [max(0, round(slope * PICOSECONDS)) for slope in slopes]
    return tuple((end, max(0, rates[n] - rates[n + 1])) for n, end in enumerate(ends[1:])), rates[-1]


def _expansion(server: Server) -> int:
    """Picoseconds of each cached token that a chunk expands again, where a model caches a latent."""
    if not server.model.count("is_latent"):
        return 0
    size = float(np.asarray(server.budget))
    times = []
    for cached in (0.0, size):
        parts = time_step(server.model, StepBatch(0, 0, 1, size, cached, 1), server.machine, server.rates).parts
        times.append(sum(float(value) for part, value in parts.items() if part != "prompt attention"))
    return max(0, round((times[1] - times[0]) / size * PICOSECONDS))


def _prompt_attention(server: Server) -> Callable[[int, int], float]:
    """Seconds of attention of one chunk, the part ``prompt attention`` of a step with nothing else in it."""
    layers = [(layer, n) for layer, n in server.model.layers if layer.has_attention]
    ranks = server.model.degrees.attention_data * server.model.degrees.pipeline
    reached = float(server.rates["rates/cache"]) * float(server.machine.bandwidth)
    peak = float(server.rates["rates/attention"]) * float(server.machine.peak)

    def seconds(queries: int, cached: int) -> float:
        flops = read = 0.0
        for layer, n in layers:
            flops += n * _chunk_flops(layer, queries, cached)
            read += n * _chunk_bytes(layer, queries, cached)
        return float(soft_maximum(read / ranks / reached, flops / ranks / peak, SHARPNESS))

    return seconds


def _chunk_flops(layer: LayerCounts, queries: int, cached: int) -> float:
    flops = layer.query_flops * layer.seen(queries, cached)
    if layer.index_flops:
        flops += layer.index_flops * visible_positions(queries, cached, causal=True)
    return float(queries * flops)


def _chunk_bytes(layer: LayerCounts, queries: int, cached: int) -> float:
    span = cached if layer.window is None else min(cached, layer.window)
    return float(layer.kept_bytes * (span + queries) + layer.index_bytes * (cached + queries))
