"""FLOPs of a forward pass over new tokens of sequences, whatever of them is cached."""

from __future__ import annotations

from collections import Counter

from ..architecture import Architecture
from ..core.numeric import Number, total
from ..layers.base import LayerKind
from .columns import Columns, kind_sizes, visible_sizes
from .structure import Structure, layer_terms


def layer_forward_flops(kind: LayerKind, structure: Structure, columns: Columns) -> Number:
    """Multiply-adds x 2 of one layer on one rank and micro-batch; of masked attention those of visible positions."""
    kind = kind if columns.cached is None else kind.over_cache
    sizes = kind_sizes(kind, columns, structure)
    seen = visible_sizes(kind, sizes, structure.documents)
    works = (w for w in layer_terms(kind, structure).work if w.phase == "forward")
    return total((seen if w.masked_flops else sizes).count(w.flops) for w in works)


def forward_flops(architecture: Architecture, structure: Structure, columns: Columns) -> Number:
    """The same of all layers and the head."""
    layers = (
        count * layer_forward_flops(architecture.kinds[name], structure, columns)
        for name, count in Counter(architecture.layers).items()
    )
    return layer_forward_flops(architecture.head, structure, columns) + total(layers)
