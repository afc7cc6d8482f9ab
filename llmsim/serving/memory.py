"""Memory of an engine: what it loads, what a step needs beside, and the cache that the rest is cut into.

The order is that of an engine's start-up log: weights, a profiling run with the most new tokens that a step may have,
what lies outside of torch, captured graphs, and blocks of the cache in what is left.

References
----------
Paged attention and blocks: Kwon 2023, arXiv:2309.06180.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..core.errors import InfeasibleError
from ..core.numeric import Number
from ..core.units import GIB
from ..hardware.devices import Device
from ..models import tower_parameters
from .cache_pool import EngineSettings, cut_cache
from .served_model import ServedModel

MIB = 1 << 20


@dataclass(frozen=True)
class ServingMemory:
    """Memory of the fullest rank of a replica, bytes, and the cache of the replica.

    Attributes
    ----------
    device_bytes, usable_bytes
        Of the device, and what the engine may hold of it.
    weight_bytes, activation_bytes, context_bytes, graph_bytes
        Weights; the peak of a profiling run; driver, libraries and communicators; captured graphs.
    cache_bytes
        What is left for the cache; negative where nothing is.
    block_tokens, blocks, cache_tokens
        Tokens of a block, blocks, and tokens that all of them hold (of all attention-data-parallel ranks).
    max_concurrency
        Sequences of ``max_model_len`` tokens that fit.
    max_model_len
        Tokens of a sequence at most.
    longest
        Tokens of a single sequence that fit.
    """

    device_bytes: float
    usable_bytes: float
    weight_bytes: float
    activation_bytes: float
    context_bytes: float
    graph_bytes: float
    cache_bytes: float
    block_tokens: int
    blocks: int
    cache_tokens: int
    max_concurrency: float
    max_model_len: int
    longest: int
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def starts(self) -> bool:
        """Whether the engine starts: one sequence of ``max_model_len`` tokens fits."""
        return self.blocks > 0 and self.longest >= self.max_model_len

    def check(self, name: str) -> None:
        """Refuse what the engine would refuse at start-up.

        Raises
        ------
        InfeasibleError
            With what is lacking, or the longest ``max_model_len`` that fits.
        """
        if self.cache_bytes <= 0:
            over = -self.cache_bytes
            raise InfeasibleError(
                f"{name}: weights ({self.weight_bytes / GIB:.2f} GiB), activations ({self.activation_bytes / GIB:.2f}) "
                f"and context ({self.context_bytes / GIB:.2f}) do not fit in the {self.usable_bytes / GIB:.2f} GiB "
                f"that the engine may use: {over / GIB:.2f} GiB too much",
                nearest="more tensor-parallel ranks, weights in fewer bits, or a higher utilisation",
                lacking_bytes=over,
            )
        if not self.starts:
            raise InfeasibleError(
                f"{name}: only {self.longest:,} tokens of cache fit in {self.cache_bytes / GIB:.2f} GiB: max_model_len "
                f"must be at most {self.longest:,}, not {self.max_model_len:,}",
                nearest=f"max_model_len {self.longest}",
                lacking_bytes=self.cache_bytes * (self.max_model_len / max(self.longest, 1) - 1),
            )


def serving_memory(
    model: ServedModel,
    device: Device,
    settings: EngineSettings,
    rates: Mapping[str, float],
    *,
    cache_tokens: int | None = None,
) -> ServingMemory:
    """Memory of a replica.

    Parameters
    ----------
    rates
        Key of an engine's constant -> value.
    cache_tokens
        Tokens of cache that the engine itself reports, instead of those that follow from the rest.
    """
    total = device.memory_bytes.value
    weights = stage_weight_bytes(model)
    activation = activation_bytes(model, settings, rates)
    several = model.degrees.tensor * model.degrees.attention_data > 1
    context = rates["memory/context_bytes"] + (rates["memory/group_bytes"] if several else 0)
    graphs = rates["memory/graph_layer_bytes"] * model.depth / model.degrees.pipeline
    inside = graphs if settings.graphs_inside else 0
    usable = settings.utilisation * total
    left = usable - weights - activation - context - inside
    if settings.of_free:
        left = settings.utilisation * (total - weights - activation - context - inside)
    cache = cut_cache(model, settings, max(left, 0.0))
    tokens = cache.tokens if cache_tokens is None else cache_tokens
    scale = model.degrees.attention_data
    concurrency = cache.concurrency if cache_tokens is None else cache_tokens / settings.max_model_len
    return ServingMemory(
        device_bytes=total,
        usable_bytes=usable,
        weight_bytes=weights,
        activation_bytes=activation,
        context_bytes=context,
        graph_bytes=graphs,
        cache_bytes=left,
        block_tokens=cache.block_tokens,
        blocks=cache.blocks,
        cache_tokens=int(tokens * (scale if cache_tokens is None else 1)),
        max_concurrency=concurrency * (scale if cache_tokens is None else 1),
        max_model_len=settings.max_model_len,
        longest=int(cache.longest if cache_tokens is None else cache_tokens),
    )


def stage_weight_bytes(model: ServedModel) -> float:
    """Weights of the fullest pipeline stage on one rank: layers are spread evenly, the first stage has the embedding
    and the last one the head (the same table where they are tied and there is one stage). Towers of other modalities
    lie in the first, in 16 bits and shared by tensor-parallel ranks."""
    stages = model.degrees.pipeline
    towers = 2 * tower_parameters(model.architecture.name) / model.degrees.tensor
    layers = sum(n * layer.held_bytes for layer, n in model.layers)
    embedding, head = model.embedding.held_bytes, model.head.held_bytes
    if stages == 1:
        shared = min(embedding, head) if model.architecture.tied else 0
        return layers + embedding + head - shared + towers
    return layers / model.depth * math.ceil(model.depth / stages) + max(embedding + towers, head)


def activation_bytes(model: ServedModel, settings: EngineSettings, rates: Mapping[str, float]) -> float:
    """The peak of a profiling run beside the weights: of the forward pass over the most new tokens, or of sampling from
    the logits of the most sequences."""
    tokens = settings.max_num_batched_tokens
    widest = max(layer.widest_bytes for layer, _ in model.layers)
    sequences = min(settings.max_num_seqs, tokens)
    sampler = rates["memory/sampler_copies"] * sequences * model.architecture.vocab * 4
    forward = rates["memory/forward_copies"] * tokens * widest
    return max(sampler, forward) + rates["memory/activation_bytes"]


def resident_sequences(model: ServedModel, memory: ServingMemory, tokens: Number) -> Number:
    """Sequences of so many tokens each that a cache holds at a time, over all attention-data-parallel ranks."""
    return memory.cache_bytes * model.degrees.attention_data * model.degrees.pipeline / model.cache_bytes(tokens)
