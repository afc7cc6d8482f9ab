"""The cache of an engine in blocks: kinds of layers in groups of as many layers each, which share one pool of pages.

References
----------
Paged attention and blocks: Kwon 2023, arXiv:2309.06180. Groups, the padding of the last one, and blocks of attention as
large as a recurrence's state: vLLM's hybrid cache manager, ``vllm/v1/core/kv_cache_utils.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .layer_counts import LayerCounts
from .served_model import ServedModel

NEARLY_EQUAL = 1.5
"""Kinds whose numbers of layers are closer than this are padded to the larger one (1.25 in releases of 2025)."""


@dataclass(frozen=True)
class EngineSettings:
    """What the command line of an engine says.

    Attributes
    ----------
    max_num_seqs, max_num_batched_tokens
        Sequences that run at a time, and new tokens of a step.
    max_model_len
        Tokens of a sequence at most.
    utilisation, of_free
        Share of memory; whether it is one of what is free once weights are loaded.
    block_tokens
        Tokens of a block of the cache.
    graphs_inside
        Whether memory of graphs counts towards the share.
    shared_pages
        Whether all kinds of layers take pages of one size from one pool.
    state_pages
        Pages of a recurrence's state that a sequence takes from that pool: the one in use, and one to go back to where
        prefixes are cached.
    capacity_of_longest
        Whether the tokens of a cache are those of as many sequences of ``max_model_len`` as fit.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    utilisation: float
    of_free: bool = False
    block_tokens: int = 16
    graphs_inside: bool = False
    shared_pages: bool = True
    state_pages: int = 1
    capacity_of_longest: bool = False


@dataclass(frozen=True)
class CutCache:
    """A cache in blocks.

    Attributes
    ----------
    block_tokens
        Tokens of a block, at least those that were asked for.
    blocks, tokens, concurrency, longest
        Of one attention-data-parallel rank, as :class:`~llmsim.serving.memory.ServingMemory` has them.
    """

    block_tokens: int
    blocks: int
    tokens: int
    concurrency: float
    longest: int


@dataclass(frozen=True)
class CacheGroup:
    """Layers whose caches grow alike.

    Attributes
    ----------
    window
        Positions that are kept, None for all.
    layers, token_bytes
        How many, and bytes of a position in one of them.
    """

    window: int | None
    layers: int
    token_bytes: float

    def held(self, tokens: int, settings: EngineSettings) -> int:
        """Positions that a sequence holds at most: those of a window, and the chunk that is being computed."""
        if self.window is None:
            return tokens
        return min(tokens, self.window - 1 + settings.max_num_batched_tokens)

    def blocks(self, tokens: int, settings: EngineSettings, size: int) -> int:
        """Blocks of so many positions each; a window may begin inside of one."""
        return math.ceil(self.held(tokens, settings) / size) + (self.window is not None)


def cache_groups(model: ServedModel) -> tuple[CacheGroup, ...]:
    """The groups of a model's layers."""
    found: dict[tuple[int | None, float], int] = {}
    for layer, n in model.layers:
        if layer.has_attention:
            key = layer.window, _token_bytes(layer)
            found[key] = found.get(key, 0) + n
    return tuple(CacheGroup(window, n, own) for (window, own), n in found.items())


def cut_cache(model: ServedModel, settings: EngineSettings, size: float) -> CutCache:
    """Blocks of a cache of so many bytes."""
    groups = cache_groups(model)
    if not groups:
        return _states_alone(model, settings, size)
    return (_shared if settings.shared_pages else _apart)(model, groups, settings, size)


def _states_alone(model: ServedModel, settings: EngineSettings, size: float) -> CutCache:
    fixed = sum(n * layer.state_bytes for layer, n in model.layers) / model.degrees.pipeline
    held, length = int(size // fixed) if fixed else 0, settings.max_model_len
    return CutCache(settings.block_tokens, held, held * length, float(held), length if held else 0)


def _shared(model: ServedModel, groups: tuple[CacheGroup, ...], settings: EngineSettings, size: float) -> CutCache:
    """One pool of pages of one size.

    Pages of attention are enlarged to the widest state of a recurrence, and blocks of layers with narrow caches to
    pages of those with wide ones. A group has as many layers as the rarest kind, its last one padded, and a page of
    each of them is a block.
    """
    stages = model.degrees.pipeline
    states: dict[float, int] = {}
    for layer, n in model.layers:
        if layer.state_bytes:
            states[layer.state_bytes] = states.get(layer.state_bytes, 0) + n
    wide = max(group.token_bytes for group in groups)
    tokens = settings.block_tokens * max(1, math.ceil(max(states, default=0) / wide / settings.block_tokens))
    page = wide * tokens
    layers = [math.ceil(n / stages) for n in (*(group.layers for group in groups), *states.values())]
    members = max(layers) if max(layers) < NEARLY_EQUAL * min(layers) else min(layers)
    pools = [math.ceil(n / members) for n in layers]
    blocks = int(size // (page * members))
    own = [(group, int(page // group.token_bytes), n) for group, n in zip(groups, pools, strict=False)]

    def needed(length: int) -> float:
        attention = sum(n * group.blocks(length, settings, block) for group, block, n in own)
        return attention + settings.state_pages * sum(pools[len(groups) :])

    concurrency = blocks / needed(settings.max_model_len) if blocks else 0.0
    held = blocks // sum(pools) * tokens
    if settings.capacity_of_longest:
        held = int(concurrency * settings.max_model_len)
    return CutCache(tokens, blocks, held, concurrency, _longest(blocks, needed, settings))


def _apart(model: ServedModel, groups: tuple[CacheGroup, ...], settings: EngineSettings, size: float) -> CutCache:
    """Blocks of attention, and states of recurrences beside them."""
    fixed = sum(n * layer.state_bytes for layer, n in model.layers) / model.degrees.pipeline
    stages, block = model.degrees.pipeline, settings.block_tokens
    members = min(group.layers for group in groups)
    page = max(group.token_bytes for group in groups) * math.ceil(members / stages) * block
    blocks = int(size // page)
    pools = [(group, math.ceil(group.layers / members)) for group in groups]

    def needed(tokens: int) -> float:
        states = math.ceil(fixed / page) if fixed else 0
        return states + sum(n * math.ceil(group.held(tokens, settings) / block) for group, n in pools)

    concurrency = blocks / needed(settings.max_model_len) if blocks else 0.0
    whole = sum(n for _, n in pools)
    return CutCache(block, blocks, blocks * block // whole, concurrency, _longest(blocks, needed, settings))


def _longest(blocks: int, needed: Callable[[int], float], settings: EngineSettings) -> int:
    """Tokens of the longest sequence that fits, at most ``max_model_len``."""
    if needed(settings.max_model_len) <= blocks:
        return settings.max_model_len
    low, high = 0, settings.max_model_len
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= blocks else (low, middle)
    return low


def _token_bytes(layer: LayerCounts) -> float:
    return layer.kept_bytes + layer.index_bytes
