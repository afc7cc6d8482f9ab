"""What decoding keeps: keys and values per token, or their latent, and the states of recurrences per sequence.

Read off the operators: tensors marked as state, and what a recurrence hands from chunk to chunk.

References
----------
Windows: Beltagy 2020, arXiv:2004.05150; latent: DeepSeek-V2, arXiv:2405.04434; states: Dao 2024, arXiv:2405.21060.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..architecture import Architecture
from ..core.formats import get_format
from ..core.numeric import Number, minimum
from ..core.operators import Operator
from ..layers.base import LayerKind

STATE_FORMAT = "fp32"
"""Of the states of recurrences: what published kernels keep."""

_POSITIONS = frozenset({"batch", "sequence", "memory", "steps", "chunks", "context", "index_context"})


@dataclass(frozen=True)
class Cache:
    """Bytes that one sequence keeps in all layers.

    Attributes
    ----------
    per_token
        Bytes per token of the layers that see all positions.
    windowed
        Window -> bytes per token of the layers that see so many positions only.
    per_sequence
        Bytes whatever the length.
    """

    per_token: int
    windowed: dict[int, int]
    per_sequence: int

    def bytes(self, context: Number) -> Number:
        """At a context length."""
        near = sum(size * minimum(context, window) for window, size in self.windowed.items())
        return self.per_token * context + near + self.per_sequence


def model_cache(architecture: Architecture, *, format: str = "bf16") -> Cache:
    """The cache of a model.

    Parameters
    ----------
    format
        Of keys, values and latents; states of recurrences are kept in 32 bits.
    """
    per_token, per_sequence = 0, 0
    windowed: dict[int, int] = {}
    for name in architecture.layers:
        kind = architecture.kinds[name]
        size = token_elements(kind) * get_format(format).bits // 8 + index_bytes(kind)
        if kind.window is None or index_bytes(kind):  # what is selected from is kept whole
            per_token += size
        else:
            windowed[kind.window] = windowed.get(kind.window, 0) + size
        per_sequence += sequence_bytes(kind, format)
    return Cache(per_token, windowed, per_sequence)


def token_elements(kind: LayerKind) -> int:
    """Elements that one layer keeps for each token."""
    made = {op.write.name: op for op in kind.operators}
    kept = {name for name, op in made.items() if op.write.state}
    for name in list(kept):  # what a kept tensor was made of is not kept too
        kept -= _ancestors(made, name)
    return sum(_size(kind, made[name].write.dims) for name in kept)


def index_bytes(kind: LayerKind) -> int:
    """Bytes per token of the keys of an indexer that selects what attention sees, kept in 8 bits."""
    selects = [op for op in kind.operators if op.kind == "index_select"]
    return sum(_size(kind, op.reads[1].tensor.dims) for op in selects)


def _ancestors(made: dict[str, Operator], name: str) -> set[str]:
    """Names of all tensors that one was made of."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        op = made.get(ahead.pop())
        new = {read.tensor.name for read in op.reads} - found if op else set()
        found |= new
        ahead += new
    return found


def sequence_bytes(kind: LayerKind, format: str) -> int:
    """Bytes that one layer keeps for a sequence, whatever its length: states, and the inputs that a short convolution
    still needs."""
    found = 0
    for op in kind.operators:
        if op.kind == "convolution":
            taps = kind.sizes["conv_kernel"] - 1
            found += _size(kind, op.write.dims) * taps * get_format(format).bits // 8
        else:
            found += _size(kind, _state_dims(op)) * get_format(STATE_FORMAT).bits // 8 if _state_dims(op) else 0
    return found


def _state_dims(op: Operator) -> tuple[str, ...]:
    if op.kind == "selective_scan":  # its state is the space of its recurrence without the steps
        return op.products[0].dims
    return getattr(op, "states", ())


def _size(kind: LayerKind, dims: Iterable[str]) -> int:
    return math.prod(kind.sizes[dim] for dim in dims if dim not in _POSITIONS)
