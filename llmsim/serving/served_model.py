"""A model as the ranks of one replica hold it, and the counts of a step of an inference engine on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from functools import lru_cache

from ..architecture import Architecture
from ..core.errors import UnsupportedError
from ..core.numeric import Number, minimum, total, where
from ..core.positions import visible_positions
from .layer_counts import Degrees, LayerCounts, Linear, layer_counts
from .weights import CLASSES, WeightClass, WeightScheme, weight_scheme


@dataclass(frozen=True)
class StepBatch:
    """What one iteration of an engine computes, over all ranks of a replica; numbers, arrays or symbols.

    Attributes
    ----------
    decoding, context
        Sequences that get one more token each, and the mean of the tokens that they have cached.
    chunks, queries, cached
        Prompts or chunks of prompts, new tokens of each, and tokens cached before them.
    logits
        Rows whose next token is sampled: those that decode, and the prompts that end in this step.
    """

    decoding: Number = 0
    context: Number = 0
    chunks: Number = 0
    queries: Number = 0
    cached: Number = 0
    logits: Number = 0

    @property
    def prompt_tokens(self) -> Number:
        """New tokens of prompts."""
        return self.chunks * self.queries

    @property
    def rows(self) -> Number:
        """All new tokens."""
        return self.decoding + self.prompt_tokens


@dataclass(frozen=True)
class StepCounts:
    """Counts of one step on the busiest rank.

    Attributes
    ----------
    flops, weight_bytes, activation_bytes
        Class of weights -> of its products; of routed experts the weights that some token is expected to be sent to.
    prompt_flops, prompt_bytes, decode_flops, decode_bytes
        Of attention: of prompts and of decoding sequences; bytes are the keys and values read.
    scan_flops, state_bytes
        Of recurrences; states are read and written.
    row_bytes
        Of elementwise kernels.
    reduced_bytes, reductions
        Payload of all-reduces, and how many.
    exchanged_bytes, exchanges
        Payload of the all-to-alls of experts, and how many.
    sent_bytes, hops
        Between pipeline stages.
    rows, sequences, prompts
        On this rank: new tokens, sequences that decode, prompts.
    layers, moe_layers, attention_layers, latent_layers, converted_layers
        How many layers a row passes: all, those with routed experts, with attention, with latent attention, and those
        whose inputs are converted to a narrow format before they are multiplied.
    experts, expert_ranks, ranks, reducing_ranks
        Routed experts of a layer; ranks that share them; ranks of a stage; ranks that an all-reduce joins.
    """

    flops: dict[WeightClass, Number]
    weight_bytes: dict[WeightClass, Number]
    activation_bytes: dict[WeightClass, Number]
    prompt_flops: Number
    prompt_bytes: Number
    decode_flops: Number
    decode_bytes: Number
    scan_flops: Number
    state_bytes: Number
    row_bytes: Number
    reduced_bytes: Number
    reductions: Number
    exchanged_bytes: Number
    exchanges: Number
    sent_bytes: Number
    hops: Number
    rows: Number
    sequences: Number
    prompts: Number
    layers: Number
    moe_layers: Number
    attention_layers: Number
    latent_layers: Number
    converted_layers: Number
    experts: Number
    expert_ranks: Number
    ranks: Number
    reducing_ranks: Number

    @property
    def total_flops(self) -> Number:
        """All multiply-adds x 2."""
        own = total(self.flops.values())
        return own + self.prompt_flops + self.decode_flops + self.scan_flops


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model as one rank of a replica holds it.

    Attributes
    ----------
    architecture, degrees, scheme, cache
        What is served, how its ranks share it, formats of weights and of the cache.
    layers
        Distinct layers and how many there are of each, over all pipeline stages.
    head, embedding
        The two ends.
    """

    architecture: Architecture
    degrees: Degrees
    scheme: WeightScheme
    cache: str
    layers: tuple[tuple[LayerCounts, int], ...]
    head: LayerCounts
    embedding: LayerCounts

    def count(self, name: str) -> int:
        """How many layers have a flag of :class:`LayerCounts`."""
        return sum(n for layer, n in self.layers if getattr(layer, name))

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return sum(n for _, n in self.layers)

    def step(self, batch: StepBatch) -> StepCounts:
        """The counts of a step.

        Sequences are spread evenly over attention-data-parallel ranks and over the micro-batches of a pipeline, of
        which each passes all stages: the step is what one of them sees from the first to the last.
        """
        parts = self.degrees.attention_data * self.degrees.pipeline
        here = StepBatch(
            batch.decoding / parts, batch.context, batch.chunks / parts, batch.queries, batch.cached,
            batch.logits / parts,
        )  # fmt: skip
        together = (batch.decoding + batch.prompt_tokens) / self.degrees.pipeline
        sums = _Sums()
        for layer, n in self.layers:
            _add_layer(sums, layer, n, here, together)
        _add_linears(sums, self.head.shared, 1, here.logits)
        sums.row_bytes = sums.row_bytes + self.head.row_bytes * here.logits + self.embedding.row_bytes * here.rows
        moe, hidden = self.count("is_moe"), self.architecture.hidden
        exchanged = moe * 2 * _EXCHANGED_BYTES * hidden
        alone = self.degrees.attention_data == 1
        reduced = sums.reduced_bytes + self.embedding.reduced_bytes * here.rows
        reduced = reduced + (moe * 2 * hidden * together if alone else 0)
        several = 1 if self.degrees.ranks > 1 else 0
        between = 1 if self.degrees.pipeline > 1 else 0
        return StepCounts(
            **{f.name: getattr(sums, f.name) for f in fields(_Sums) if f.name not in ("reductions", "reduced_bytes")},
            reduced_bytes=reduced * (1 if self.degrees.tensor > 1 or (alone and several) else 0),
            reductions=(sums.reductions + self.embedding.reductions) * (1 if self.degrees.tensor > 1 else 0)
            + moe * several * (1 if alone else 0),
            exchanged_bytes=0 if alone else exchanged * here.rows * self._copies(),
            exchanges=0 if alone else 2 * moe * several,
            sent_bytes=between * (self.degrees.pipeline - 1) * 2 * hidden * here.rows,
            hops=self.degrees.pipeline - 1,
            rows=here.rows,
            sequences=here.decoding,
            prompts=here.chunks,
            layers=self.depth,
            moe_layers=moe,
            attention_layers=self.count("has_attention"),
            latent_layers=self.count("is_latent"),
            converted_layers=self.depth if self.scheme.quantised and self.scheme.product != "bf16" else 0,
            experts=max((layer.touched[0] for layer, _ in self.layers), default=0),
            expert_ranks=self.degrees.expert,
            ranks=self.degrees.ranks,
            reducing_ranks=self.degrees.ranks if alone else self.degrees.tensor,
        )

    def _copies(self) -> int:
        """Copies of a token that an all-to-all carries at most: one to each rank that has an expert of it."""
        chosen = max((layer.touched[1] for layer, _ in self.layers), default=1)
        return min(chosen, self.degrees.expert)

    def cache_bytes(self, context: Number) -> Number:
        """State of one sequence on one rank at a context length, over all stages."""
        return total(
            n * (layer.kept_bytes * (context if layer.window is None else minimum(context, layer.window))
                 + layer.index_bytes * context + layer.state_bytes)
            for layer, n in self.layers
        )  # fmt: skip


_EXCHANGED_BYTES = 2
"""Of an element that is dispatched or combined: 16 bits."""


@dataclass
class _Sums:
    """What layers add up to."""

    flops: dict[WeightClass, Number]
    weight_bytes: dict[WeightClass, Number]
    activation_bytes: dict[WeightClass, Number]
    prompt_flops: Number = 0
    prompt_bytes: Number = 0
    decode_flops: Number = 0
    decode_bytes: Number = 0
    scan_flops: Number = 0
    state_bytes: Number = 0
    row_bytes: Number = 0
    reduced_bytes: Number = 0
    reductions: Number = 0

    def __init__(self) -> None:
        self.flops, self.weight_bytes, self.activation_bytes = (dict.fromkeys(CLASSES, 0) for _ in range(3))


def _add_layer(sums: _Sums, layer: LayerCounts, n: int, here: StepBatch, together: Number) -> None:
    _add_linears(sums, layer.shared, n, here.rows)
    _add_linears(sums, layer.prompt_only, n, here.prompt_tokens)
    _add_linears(sums, layer.decode_only, n, here.decoding)
    whole = here.cached + here.queries
    _add_linears(sums, layer.expanded, n, here.chunks * whole)
    if layer.experts is not None:
        _add_linear(sums, layer.experts, n, together, touched_share(*layer.touched, together))
    sums.row_bytes = sums.row_bytes + n * layer.row_bytes * here.rows
    scanned = layer.scan_flops * here.prompt_tokens + layer.step_scan_flops * here.decoding
    sums.scan_flops = sums.scan_flops + n * scanned
    sums.state_bytes = sums.state_bytes + n * 2 * layer.state_bytes * (here.decoding + here.chunks)
    sums.reduced_bytes = sums.reduced_bytes + n * layer.reduced_bytes * here.rows
    sums.reductions = sums.reductions + n * layer.reductions
    if layer.has_attention:
        _add_attention(sums, layer, n, here)


def _add_attention(sums: _Sums, layer: LayerCounts, n: int, here: StepBatch) -> None:
    some = where(here.queries > 0, 1, 0)
    queries = here.queries + (1 - some)
    prompt = here.chunks * here.queries * some
    seen, scored = layer.seen(queries, here.cached), visible_positions(queries, here.cached, causal=True)
    sums.prompt_flops = sums.prompt_flops + n * prompt * (layer.query_flops * seen + layer.index_flops * scored)
    own, whole = layer.seen(1, here.context), here.context + 1
    each = layer.absorbed_flops * own + layer.index_flops * whole
    sums.decode_flops = sums.decode_flops + n * here.decoding * each
    read = layer.kept_bytes * own + layer.index_bytes * whole
    sums.decode_bytes = sums.decode_bytes + n * here.decoding * read
    span = here.cached + here.queries
    if layer.window is not None:
        span = minimum(here.cached, layer.window) + here.queries
    read = (layer.kept_bytes * span + layer.index_bytes * (here.cached + here.queries)) * some
    sums.prompt_bytes = sums.prompt_bytes + n * here.chunks * read


def touched_share(experts: int, chosen: int, tokens: Number) -> Number:
    """Share of the experts that some of ``tokens`` tokens is expected to be sent to under even routing,
    ``1 - (1 - k / E)**tokens``."""
    return 1 - (1 - chosen / experts) ** tokens


def _add_linears(sums: _Sums, linears: tuple[Linear, ...], n: int, rows: Number) -> None:
    for linear in linears:
        _add_linear(sums, linear, n, rows, where(rows > 0, 1, 0))


def _add_linear(sums: _Sums, linear: Linear, n: int, rows: Number, share: Number) -> None:
    kind = linear.kind
    sums.flops[kind] = sums.flops[kind] + n * linear.flops * rows
    sums.weight_bytes[kind] = sums.weight_bytes[kind] + n * linear.weight_bytes * share
    sums.activation_bytes[kind] = sums.activation_bytes[kind] + n * linear.activation_bytes * rows


@lru_cache(maxsize=256)
def _served(architecture: Architecture, degrees: Degrees, scheme: str, cache: str) -> ServedModel:
    if architecture.unsupported:
        raise UnsupportedError(f"{architecture.name}: no cost model for {architecture.unsupported}")
    if architecture.is_encoder_decoder or not any(kind.causal for kind in architecture.kinds.values()):
        raise UnsupportedError(f"{architecture.name}: serving is modelled for decoders that generate text")
    named = weight_scheme(scheme, latent_attention=has_latent(architecture), has_experts=architecture.has_experts)
    counts = {name: layer_counts(kind, degrees, named, cache) for name, kind in architecture.kinds.items()}
    layers = tuple((counts[name], n) for name, n in Counter(architecture.layers).items())
    head, embedding = (layer_counts(kind, degrees, named) for kind in (architecture.head, architecture.embedding))
    return ServedModel(architecture, degrees, named, cache, layers, head, embedding)


def has_latent(architecture: Architecture) -> bool:
    """Whether attention keeps a latent."""
    return any("kv_rank" in kind.sizes for kind in architecture.kinds.values())


def served_model(
    architecture: Architecture, degrees: Degrees | None = None, *, weights: str = "bf16", cache: str = "bf16"
) -> ServedModel:
    """A model as the ranks of one replica hold it.

    Parameters
    ----------
    weights
        A name that :func:`~llmsim.serving.weights.weight_scheme` knows.
    cache
        Format of keys, values and latents.

    Raises
    ------
    InputError
        For an unknown format.
    UnsupportedError
        For a model that does not decode, or without a cost model.
    """
    return _served(architecture, degrees or Degrees(), weights, cache)
