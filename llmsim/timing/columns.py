"""Plans as flat columns: one row a plan, one array (or number, or symbol) a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

from ..core.numeric import Number, ceil_div, minimum, total, where
from ..core.positions import visible_positions
from ..core.records import map_numbers
from ..core.symbolic import Symbolic
from ..core.terms import Sizes
from ..hardware.network import Stride
from ..layers.base import LayerKind
from .structure import Documents, Structure


@dataclass(frozen=True)
class Columns:
    """The values of plans that share a structure; each an int, an int64 array (one entry a plan) or a symbol.

    Attributes
    ----------
    sequence, micro_batch, micro_batches
        New tokens of a sequence, all of it in training; sequences per data-parallel rank and micro-step; micro-steps
        per step.
    cached
        Tokens of a sequence before the new ones, whose keys, values and states are there; None in training, which keeps
        no cache.
    memory
        Positions of an encoder's output; None where they are as many as the sequence with what is cached of it.
    tp, cp, dp, pp, chunks
        Degrees of tensor, context, data and pipeline parallelism; model chunks per pipeline stage.
    ep, etp
        Expert and expert-tensor parallelism, inside tp x cp x dp.
    ulysses
        Of the context-parallel ranks, those among which heads are spread, where a ring joins such groups.
    shard
        Ranks that a fully sharded state is spread over (dp x cp, or less for hybrid sharding).
    imbalance
        Rows of the busiest expert rank over the mean; below 1 where rows are dropped.
    inner
        Ranks of a pipeline that lie between context- and data-parallel ones: pp under the order tp-cp-pp-dp, else 1.
    """

    sequence: Number
    micro_batch: Number
    micro_batches: Number
    tp: Number = 1
    cp: Number = 1
    dp: Number = 1
    pp: Number = 1
    chunks: Number = 1
    ep: Number = 1
    etp: Number = 1
    ulysses: Number = 1
    shard: Number = 1
    imbalance: Number = 1
    inner: Number = 1
    cached: Number | None = None
    memory: Number | None = None

    @property
    def edp(self) -> Number:
        """Ranks that hold copies of the same experts: tp x cp x dp / (ep x etp)."""
        return self.tp * self.cp * self.dp // (self.ep * self.etp)

    @property
    def dp_cp(self) -> Number:
        """Ranks over which dense gradients are summed."""
        return self.dp * self.cp

    @property
    def devices(self) -> Number:
        """All ranks."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def global_batch(self) -> Number:
        """Sequences per step."""
        return self.micro_batch * self.micro_batches * self.dp

    def __len__(self) -> int:
        return max((np.size(getattr(self, f.name)) for f in fields(self)), default=1)

    def take(self, rows: Number) -> Columns:
        """Some rows (an index array, a mask or a slice)."""
        return map_numbers(self, lambda value: take(value, rows))

    def group(self, axes: tuple[str, ...]) -> tuple[Number, Stride]:
        """Size and stride (in global ranks) of the group spanned by mesh axes.

        Ranks are ordered tp, ulysses, cp, dp, pp from the nearest to the farthest, or with pp between cp and dp; the
        expert axes factor the same ranks as etp, ep, edp (Megatron's two orders).
        """
        present = [a for a in _AXES if a in axes]
        size: Number = 1
        for axis in present:
            size = size * self.degree(axis)
        if "cp" in present and "dp" in present and not (isinstance(self.inner, int) and self.inner == 1):
            return size, ((self.cp, self._stride("ulysses")), (self.dp, self._stride("dp")))
        return size, self._stride(present[0])

    def degree(self, axis: str) -> Number:
        """Ranks along a mesh axis; along ``cp`` those that a ring joins."""
        if axis == "cp":
            return self.cp // self.ulysses
        degree: Number = getattr(self, axis)
        return degree

    def _stride(self, axis: str) -> Number:
        """Distance between neighbours along a mesh axis, in global ranks."""
        match axis:
            case "ulysses":
                return self.tp
            case "cp":
                return self.tp * self.ulysses
            case "dp":
                return self.tp * self.cp * self.inner
            case "pp":
                return self.tp * self.cp * where(self.inner > 1, 1, self.dp)
            case "ep":
                return self.etp
            case "edp":
                return self.etp * self.ep * self.inner
            case _:
                return 1


_AXES = ("tp", "ulysses", "cp", "dp", "pp", "etp", "ep", "edp")
"""Mesh axes from the nearest to the farthest."""

QUERIES = ("sequence", "steps")
"""Dimensions that are as long as the new tokens of a sequence."""
CONTEXT = ("context", "index_context", "memory", "cache_span")
"""Dimensions that are as long as the sequence with what is cached of it, unless a cache says otherwise."""


def kind_sizes(kind: LayerKind, columns: Columns, structure: Structure) -> Sizes:
    """The sizes of a layer kind's dimensions for a table of plans.

    ``slots``, the rows after dispatch over all ranks, are an expectation: tokens x top_k x imbalance.
    """
    batch = columns.micro_batch * columns.dp
    dims: dict[str, Number] = {**kind.sizes, "batch": batch, **dict.fromkeys(QUERIES, columns.sequence)}
    whole = columns.sequence if columns.cached is None else columns.cached + columns.sequence
    dims |= dict.fromkeys(CONTEXT, whole)
    if columns.cached is not None:
        dims |= _sizes_over_cache(kind, columns, columns.cached, whole)
    if "conv_kernel" in kind.sizes:
        dims["conv_span"] = columns.sequence + kind.sizes["conv_kernel"] - 1
        dims["conv_taps"] = kind.sizes["conv_kernel"] - 1
    if "chunk_context" in kind.sizes:
        dims["chunks"] = ceil_div(columns.sequence, dims["chunk_context"])
    if "top_k" in kind.sizes:
        slots = batch * columns.sequence * kind.sizes["top_k"]
        dims["slots"] = slots if np.all(columns.imbalance == 1) else slots * columns.imbalance
    degrees = {a: columns.degree(a) for a in ("tp", "ulysses", "cp", "dp", "ep", "etp", "edp")}
    return Sizes(dims, degrees, structure.formats())


def _sizes_over_cache(kind: LayerKind, columns: Columns, cached: Number, whole: Number) -> dict[str, Number]:
    """What a cache changes: the first new token sees a window less itself before it; an encoder's keys are computed in
    the first pass; a recurrence goes on in chunks of what is new."""
    dims: dict[str, Number] = {"memory": whole if columns.memory is None else columns.memory}
    dims["encoded"] = where(cached == 0, dims["memory"], 0)
    if kind.kept_window is not None:
        dims["context"] = minimum(cached, kind.kept_window - 1) + columns.sequence
        dims["cache_span"] = minimum(whole, kind.kept_window)
    if "chunk_context" in kind.sizes:
        dims["chunk_context"] = minimum(kind.sizes["chunk_context"], columns.sequence)
    return dims


def visible_sizes(kind: LayerKind, sizes: Sizes, documents: Documents = ()) -> Sizes:
    """The same sizes with the mean number of positions that a query attends to, and that an indexer scores.

    Parameters
    ----------
    documents
        (length, how many) of those packed into a sequence; none where it is one document.
    """
    sequence, whole = sizes.dims["sequence"], sizes.dims["context"]
    cached = 0 if whole is sequence else whole - sequence

    def mean(window: int | None) -> Number:
        seen = partial(visible_positions, causal=kind.causal, window=window)
        if not documents:
            return seen(sequence, cached)
        return total(n * length * seen(length) for length, n in documents) / sequence

    return sizes.with_dims(context=mean(kind.window), index_context=mean(None))


def distinct(columns: Columns, names: Sequence[str]) -> tuple[Columns, np.ndarray]:
    """The distinct combinations of some columns, and for each row the number of its own."""
    size = len(columns)
    code = np.zeros(size, dtype=np.int64)
    for name in names:
        values, number = np.unique(np.broadcast_to(getattr(columns, name), (size,)), return_inverse=True)
        code = code * len(values) + number.reshape(-1)
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return columns.take(first), inverse.reshape(-1)


def distinct_rows(values: Sequence[Number]) -> tuple[list[tuple[int, ...]], np.ndarray | None]:
    """The distinct combinations of whole numbers side by side, and for each row the number of its own (None where all
    are single numbers)."""
    values = [v if np.ndim(v) else int(v.value if isinstance(v, Symbolic) else v) for v in values]
    if all(np.ndim(v) == 0 for v in values):
        return [tuple(values)], None
    table = np.stack(np.broadcast_arrays(*values)).astype(np.int64)
    code = np.zeros(table.shape[1], dtype=np.int64)
    for row in table:
        found, number = np.unique(row, return_inverse=True)
        code = code * len(found) + number
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return [tuple(map(int, row)) for row in table[:, first].T], inverse.reshape(-1)


def take(value: Number, rows: Number | None) -> Number:
    """Entries of an array; a single number is the same for all, and no rows are all of them in order."""
    return value[rows] if rows is not None and isinstance(value, np.ndarray) and value.ndim else value
