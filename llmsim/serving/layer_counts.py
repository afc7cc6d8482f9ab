"""What a served layer costs per token, per sequence and per cached position: whole coefficients read off its terms.

A pass over rows of new tokens is linear in them, and attention is bilinear in queries and positions. Each coefficient
is a term of :mod:`llmsim.core` evaluated at sizes that every degree divides, so that a step is priced with a handful of
products, for numbers, arrays and symbols alike.

References
----------
Latent attention with absorbed projections: DeepSeek-V2, arXiv:2405.04434, section 2.1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

from ..core.formats import Format, get_format
from ..core.messages import Message
from ..core.numeric import Number
from ..core.operators import Operator
from ..core.parameters import Parameter, derive_parameters
from ..core.positions import visible_positions
from ..core.state import CACHE
from ..core.terms import Sizes, Term
from ..core.work import Work
from ..layers.base import LayerKind
from ..layers.mla import absorbed, is_latent
from ..timing.columns import Columns, kind_sizes
from ..timing.structure import Structure, layer_state, layer_terms
from .weights import WeightClass, WeightScheme

STRUCTURE = Structure("megatron-core", sequence_parallel=False)
"""Fused kernels and tensors that tensor parallelism leaves whole, as serving engines have them."""

POSITIONS = frozenset({"context", "index_context", "memory", "cache_span", "chunk_context", "chunks"})
MANY = 1 << 20
"""Rows at which coefficients are read off: all degrees of two divide it; others are multiplied in."""


@dataclass(frozen=True)
class Degrees:
    """How the ranks of one replica share a model.

    Attributes
    ----------
    tensor, attention_data
        Ranks that share the heads of a sequence, and groups of them that have sequences of their own.
    expert
        Ranks that share the experts; each expert is cut into ``ranks / expert`` parts.
    pipeline
        Stages, each of ``ranks`` ranks.
    """

    tensor: int = 1
    attention_data: int = 1
    expert: int = 1
    pipeline: int = 1

    @property
    def ranks(self) -> int:
        """Of one stage."""
        return self.tensor * self.attention_data

    @property
    def expert_tensor(self) -> int:
        """Ranks that share each expert."""
        return max(1, self.ranks // self.expert)


@dataclass(frozen=True)
class Linear:
    """Products with weights of one class on one rank.

    Attributes
    ----------
    kind
        Of the weights.
    weight_bytes
        As they are stored; read once a step.
    flops, activation_bytes
        Per row of new tokens of this rank's sequences (of the experts: per token of all ranks).
    products
        How many there are.
    """

    kind: WeightClass
    weight_bytes: float = 0
    flops: float = 0
    activation_bytes: float = 0
    products: int = 0


@dataclass(frozen=True)
class LayerCounts:
    """One layer on one rank.

    Attributes
    ----------
    shared, prompt_only, decode_only, expanded
        Products over all new tokens; over those of prompts alone and of decoding sequences alone, where latent
        attention has two forms; over all positions of a prompt that attention sees (keys and values that expand from a
        latent).
    experts, touched
        Grouped products, and (experts of all ranks, chosen per token).
    row_bytes
        Memory traffic of elementwise kernels per new token.
    query_flops, absorbed_flops
        Of attention per query and visible position, of prompts and of decoding sequences.
    index_flops
        The same of an indexer, over all positions.
    window, selected
        Positions that a query sees at most, None for all; those that an indexer leaves, None without one.
    kept_bytes, index_bytes
        State per cached position, in the window or of all positions, and of an indexer's keys.
    scan_flops, step_scan_flops, state_bytes
        Of recurrences and short convolutions per new token of a prompt, in whole chunks, and of a decoding sequence;
        the state of a sequence.
    held_bytes, widest_bytes
        All parameters on this rank as they are stored; the largest inputs and outputs of a product, per row.
    reduced_bytes, reductions
        Summed over tensor-parallel ranks per row, and in how many messages.
    is_moe, has_attention, is_latent
        What it is.
    """

    shared: tuple[Linear, ...] = ()
    prompt_only: tuple[Linear, ...] = ()
    decode_only: tuple[Linear, ...] = ()
    expanded: tuple[Linear, ...] = ()
    experts: Linear | None = None
    touched: tuple[int, int] = (0, 0)
    row_bytes: float = 0
    query_flops: float = 0
    absorbed_flops: float = 0
    index_flops: float = 0
    window: int | None = None
    selected: int | None = None
    kept_bytes: float = 0
    index_bytes: float = 0
    scan_flops: float = 0
    step_scan_flops: float = 0
    state_bytes: float = 0
    held_bytes: int = 0
    widest_bytes: float = 0
    reduced_bytes: float = 0
    reductions: int = 0
    is_moe: bool = False
    has_attention: bool = False
    is_latent: bool = False

    def seen(self, queries: Number, cached: Number) -> Number:
        """Mean number of positions that each of some new tokens attends to."""
        own = self.window if self.selected is None else self.selected
        return visible_positions(queries, cached, causal=True, window=own)


@dataclass
class _Reader:
    """Terms of one kind, evaluated at many rows and divided by them."""

    kind: LayerKind
    degrees: Degrees
    scheme: WeightScheme
    cache: Format
    sizes: Sizes = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        d = self.degrees
        self.rows = MANY * d.attention_data * d.tensor * d.expert * d.expert_tensor
        self.sizes = self.at(self.rows, 1, None)

    def at(self, rows: int, new: int, cached: int | None) -> Sizes:
        """Sizes of a pass over ``new`` tokens of each of ``rows`` sequences of a rank."""
        d = self.degrees
        columns = Columns(
            new, rows, 1, tp=d.tensor, dp=d.attention_data, ep=d.expert, etp=d.expert_tensor, cached=cached
        )
        own = kind_sizes(self.kind, columns, STRUCTURE)
        return Sizes(own.dims, own.degrees, {**STRUCTURE.formats(), CACHE: self.cache})

    def with_cache(self, format: str) -> Sizes:
        """The sizes with another format of the cache."""
        return Sizes(self.sizes.dims, self.sizes.degrees, {**STRUCTURE.formats(), CACHE: get_format(format)})

    def per_row(self, elements: Number) -> float:
        """Of one row of a rank's sequences; a whole number where it is one."""
        return _plain(Fraction(int(elements), self.rows))

    def per_token(self, elements: Number) -> float:
        """Of one token of all ranks."""
        return _plain(Fraction(int(elements), self.rows * self.degrees.attention_data))


def _plain(value: Fraction) -> float:
    return int(value) if value.denominator == 1 else float(value)


def layer_counts(kind: LayerKind, degrees: Degrees, scheme: WeightScheme, cache: str = "bf16") -> LayerCounts:
    """The coefficients of a layer kind.

    Parameters
    ----------
    cache
        Format of keys, values and latents; states of recurrences are kept in 32 bits, those of convolutions in 16.
    """
    prompt, decode = kind.over_cache, absorbed(kind).over_cache
    reader = _Reader(prompt, degrees, scheme, get_format(cache))
    low = _Reader(decode, degrees, scheme, get_format(cache))
    own, narrow = _forward(prompt), _forward(decode)
    by_name = {op.name: op for each in (prompt, decode) for op in each.operators}
    common = {w.name for w in own} & {w.name for w in narrow}
    linear = [w for w in own if w.kind == "gemm"]
    grown = [w for w in linear if _of_positions(w)]
    state = layer_state(kind, STRUCTURE)
    cores, narrow_cores = _cores(own), _cores(narrow)
    indexers = [w for w in own if w.source == "index_select"]
    reductions = [m for m in layer_terms(prompt, STRUCTURE).messages if _reduces(m, by_name)]
    scans = [w for w in own if w.flops and w.kind in ("scan", "recurrence", "memory")]
    experts = [w for w in own if w.kind == "grouped_gemm"]
    moved = (w for w in own if w.kind == "memory" and w.source not in ("embedding", "loss") and not _of_positions(w))
    return LayerCounts(
        shared=_linears([w for w in linear if w.name in common and w not in grown], reader, by_name),
        prompt_only=_linears([w for w in linear if w.name not in common and w not in grown], reader, by_name),
        decode_only=_linears([w for w in narrow if w.kind == "gemm" and w.name not in common], low, by_name),
        expanded=_linears(grown, reader, by_name),
        experts=_experts(experts, reader) if experts else None,
        touched=(kind.sizes["experts"], kind.sizes["top_k"]) if experts else (0, 0),
        row_bytes=reader.per_row(sum(reader.sizes.size(w.bytes) for w in moved)),
        query_flops=_per_position(cores, reader),
        absorbed_flops=_per_position(narrow_cores, low),
        index_flops=_per_position(indexers, reader),
        window=kind.kept_window,
        selected=kind.window if kind.kept_window is None else None,
        kept_bytes=_state(state.tokens, reader, "cache_span"),
        index_bytes=_state(state.selected, reader, "index_context"),
        scan_flops=_scan_flops(scans, reader, LONG),
        step_scan_flops=_scan_flops(scans, reader, 1),
        state_bytes=reader.per_row(reader.with_cache("bf16").size(state.sequences)),
        held_bytes=_held(prompt, reader),
        widest_bytes=max(map(partial(_widest, reader=reader), [*linear, *experts]), default=0),
        reduced_bytes=reader.per_row(sum(reader.sizes.bytes(m.payload) for m in reductions)),
        reductions=len(reductions),
        is_moe=bool(experts),
        has_attention=bool(cores),
        is_latent=is_latent(kind),
    )


def _forward(kind: LayerKind) -> list[Work]:
    return [w for w in layer_terms(kind, STRUCTURE).work if w.phase == "forward"]


def _cores(works: Iterable[Work]) -> list[Work]:
    return [w for w in works if w.kind == "attention" and w.source == "attention"]


def _of_positions(work: Work) -> bool:
    """Whether it grows with the positions that are cached."""
    terms = (*work.flops, *work.bytes)
    return any(dim in POSITIONS for term in terms for dim, _ in term.factors)


def _reduces(message: Message, by_name: dict[str, Operator]) -> bool:
    """Whether a message sums over tensor-parallel ranks; those of experts are summed together, once a layer."""
    op = by_name.get(message.operator)
    inside = op is not None and "moe" in op.tags
    return message.phase == "forward" and message.collective == "all_reduce" and message.axes == ("tp",) and not inside


def _class_of(op: Operator) -> WeightClass:
    if op.name == "logits":
        return "head"
    if all(read.tensor.format != "weight" for read in op.weights):
        return "other"
    return "attention" if op.tags & {"attention", "mixers"} or not op.tags & {"mlp", "moe"} else "mlp"


def _linears(works: Iterable[Work], reader: _Reader, by_name: dict[str, Operator]) -> tuple[Linear, ...]:
    """Products by class of their weights."""
    found: dict[WeightClass, list[Work]] = {}
    for work in works:
        found.setdefault(_class_of(by_name[work.name]), []).append(work)
    return tuple(_linear(kind, own, reader, reader.per_row) for kind, own in found.items())


def _experts(works: list[Work], reader: _Reader) -> Linear:
    return _linear("experts", works, reader, reader.per_token)


def _linear(kind: WeightClass, works: list[Work], reader: _Reader, each: Callable[[Number], float]) -> Linear:
    format = reader.scheme.formats[kind]
    weights = [t for w in works for t in w.bytes if _is_weight(t)]
    others = [t for w in works for t in w.bytes if not _is_weight(t)]
    return Linear(
        kind,
        weight_bytes=sum(int(format.bytes(reader.sizes.elements(t))) for t in weights),
        flops=each(sum(reader.sizes.count(w.flops) for w in works)),
        activation_bytes=each(sum(reader.sizes.bytes(t) for t in others)),
        products=len(works),
    )


def _held(kind: LayerKind, reader: _Reader) -> int:
    """Bytes of all parameters."""
    readers = {read.tensor.name: op for op in kind.operators for read in op.weights}
    total = 0
    for parameter in derive_parameters(kind.operators, STRUCTURE.sharding):
        op = readers[parameter.name]
        format = reader.scheme.formats[_held_class(parameter, op)]
        total += int(format.bytes(reader.sizes.elements(parameter.local)))
    return total


def _held_class(parameter: Parameter, op: Operator) -> WeightClass:
    if parameter.expert:
        return "experts"
    if op.kind == "embedding":
        return "embedding"
    if op.name == "logits":
        return "head"
    return _class_of(op) if parameter.format == "weight" else "other"


def _widest(work: Work, reader: _Reader) -> float:
    """Inputs and outputs of a product, per row of new tokens."""
    return reader.per_row(sum(reader.sizes.bytes(t) for t in work.bytes if not _is_weight(t)))


def _is_weight(term: Term) -> bool:
    return term.format in ("weight", "weight_high")


def _per_position(works: Iterable[Work], reader: _Reader) -> float:
    """FLOPs per query and position."""
    sizes = reader.sizes.with_dims(context=1, index_context=1)
    return reader.per_row(sum(sizes.count(w.flops) for w in works))


def _scan_flops(works: Iterable[Work], reader: _Reader, new: int) -> float:
    """FLOPs of recurrences per token of a pass over so many new ones."""
    rows = reader.degrees.tensor * reader.degrees.attention_data
    sizes = reader.at(rows, new, 0)
    return _plain(Fraction(int(sum(sizes.count(w.flops) for w in works)), rows * new))


LONG = 1 << 16
"""New tokens of a prompt that the chunks of every scan divide."""


def _state(terms: Iterable[Term], reader: _Reader, span: str) -> float:
    sizes = reader.sizes.with_dims(**{span: 1})
    return reader.per_row(sizes.size(terms))
