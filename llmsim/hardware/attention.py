"""Seconds of attention kernels of an inference engine: prompts or chunks of them, and decoding steps.

Formulas take numbers, arrays or symbols. Constants are fitted to measured tables (:mod:`llmsim.calibration.kernels`).

References
----------
Tiles of queries and the online softmax: Dao 2023, arXiv:2307.08691. Splitting keys of a decoding step over compute
units: Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference".
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.numeric import Number, ceil_div, log2, maximum, minimum, soft_maximum

TILE_ROWS = 128
"""Queries of a tile."""
LEAST_QUERIES = 16
"""Queries that share keys are padded to the rows of a matrix instruction."""


@dataclass(frozen=True, slots=True)
class PrefillConstants:
    """Of a kernel for prompts.

    Attributes
    ----------
    efficiency
        Of the peak, what wide heads and long contexts reach.
    head_half
        Width of a head at which half of that is reached.
    prologue
        Keys that starting a tile is worth.
    longest
        Part of the longest tile's time that a kernel with too few tiles takes.
    memory_efficiency, latency_s, sharpness
        As of other kernels.
    """

    efficiency: Number
    head_half: Number
    prologue: Number
    longest: Number
    memory_efficiency: Number
    latency_s: Number
    sharpness: Number


@dataclass(frozen=True, slots=True)
class DecodeConstants:
    """Of a kernel for decoding steps.

    Attributes
    ----------
    bandwidth_efficiency
        Of the memory bandwidth, what a full device reaches.
    chunk
        Keys of one sequence and head that one compute unit takes at least.
    occupancy
        Such chunks a compute unit needs to draw its share of the bandwidth.
    compute_efficiency
        Of the peak, what products with few queries reach.
    split_s
        Time of joining partial results, for each doubling of the chunks.
    latency_s, sharpness
        As of other kernels.
    """

    bandwidth_efficiency: Number
    chunk: Number
    occupancy: Number
    compute_efficiency: Number
    split_s: Number
    latency_s: Number
    sharpness: Number


def prefill_seconds(
    batch: Number,
    queries: Number,
    cached: Number,
    heads: Number,
    head_dim: Number,
    traffic_bytes: Number,
    k: PrefillConstants,
    *,
    peak: Number,
    bandwidth: Number,
    compute_units: Number,
) -> Number:
    """Time of causal attention of ``queries`` new tokens after ``cached`` ones, seconds.

    Tiles of 128 queries are spread over the compute units, each as long as the keys that its queries see and a
    prologue; with fewer tiles than compute units the longest decides.

    Parameters
    ----------
    batch, heads
        Sequences, and query heads on this rank.
    traffic_bytes
        Queries, keys, values and outputs, each moved once.
    peak, bandwidth
        FLOP/s of the format that scores are computed in, bytes/s.
    """
    rows = ceil_div(queries, TILE_ROWS)
    tiles = batch * heads * rows
    mean_keys = cached + (rows + 1) * (TILE_ROWS / 2)
    longest = k.longest * (cached + maximum(queries, TILE_ROWS)) + k.prologue
    reached = k.efficiency * head_dim / (head_dim + k.head_half) * peak / compute_units
    keys = maximum(tiles / compute_units * (mean_keys + k.prologue), longest)
    compute = 4 * TILE_ROWS * head_dim * keys / reached
    return k.latency_s + soft_maximum(compute, traffic_bytes / (k.memory_efficiency * bandwidth), k.sharpness)


def decode_seconds(
    batch: Number,
    context: Number,
    kv_heads: Number,
    queries_per_kv: Number,
    flops_per_key: Number,
    traffic_bytes: Number,
    k: DecodeConstants,
    *,
    peak: Number,
    bandwidth: Number,
    compute_units: Number,
) -> Number:
    """Time of attention of one new token in each of ``batch`` sequences, seconds.

    Keys are split over the compute units in chunks; few and short sequences leave compute units without work and the
    bandwidth unused.

    Parameters
    ----------
    context
        Tokens that each sequence attends to.
    kv_heads, queries_per_kv
        Heads of keys on this rank, and query heads that share one.
    flops_per_key
        Of one query head and one key: scores and values.
    traffic_bytes
        Of the keys and values read.
    """
    splits = maximum(context / k.chunk, 1.0)
    filled = minimum(batch * kv_heads * splits / (k.occupancy * compute_units), 1.0)
    memory = traffic_bytes / (k.bandwidth_efficiency * bandwidth * filled)
    padded = maximum(queries_per_kv, LEAST_QUERIES)
    compute = batch * kv_heads * padded * context * flops_per_key / (k.compute_efficiency * peak)
    joining = k.split_s * log2(1 + context / k.chunk)
    return k.latency_s + joining + soft_maximum(memory, compute, k.sharpness)
