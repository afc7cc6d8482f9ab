"""Which mesh axis shards which dimension: an ordered list per axis, of which a tensor takes the first it finds.

The order is the whole of sequence parallelism: with ``tp: (heads, kv_heads), ffn, vocab, sequence`` a query tensor is
sharded over its heads, and the residual, which has none of the first three, over its sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

Placement: TypeAlias = Mapping[str, tuple[str, ...]]
"""Axis -> the dimensions that carry it (several when aligned, as heads and kv_heads are)."""

ContextKind: TypeAlias = Literal["ring", "all_gather", "ulysses", "ulysses+ring"]
"""How attention crosses context-parallel ranks: keys and values pass around a ring, or are gathered; heads are spread
by all-to-alls; or these among near ranks and a ring between them."""
RankOrder: TypeAlias = Literal["tp-cp-dp-pp", "tp-cp-pp-dp"]
"""Axes of the mesh from the one whose ranks are neighbours to the one whose ranks lie farthest apart."""
CONTEXT_KINDS: tuple[ContextKind, ...] = get_args(ContextKind)

Groups: TypeAlias = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Sharding:
    """The layout rule of a mesh.

    Attributes
    ----------
    rules
        Axis -> ordered groups of aligned dimensions.
    at
        (operator kind, axis) -> groups that hold inside operators of that kind instead (Ulysses: attention is sharded
        over heads by the context axis).
    """

    rules: Mapping[str, Groups]
    at: Mapping[tuple[str, str], Groups] = field(default_factory=dict)
    _known: dict[tuple[tuple[str, ...], str | None], Placement] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def place(self, dims: tuple[str, ...], kind: str | None = None) -> Placement:
        """Where each axis sits among ``dims``; axes that find nothing are absent."""
        if (dims, kind) not in self._known:
            self._known[dims, kind] = self._place(dims, kind)
        return self._known[dims, kind]

    def _place(self, dims: tuple[str, ...], kind: str | None) -> Placement:
        result: dict[str, tuple[str, ...]] = {}
        for axis, usual in self.rules.items():
            groups = self.at.get((kind, axis), usual) if kind else usual
            for group in groups:
                found = tuple(d for d in group if d in dims)
                if found:
                    result[axis] = found
                    break
        return result


CONTEXT: Groups = (("sequence",), ("scan_heads",))


@lru_cache(maxsize=64)
def mesh_sharding(*, sequence_parallel: bool, context_kind: str = "none") -> Sharding:
    """The sharding of a (tp, cp, dp | ep, etp, edp) mesh.

    Parameters
    ----------
    sequence_parallel
        Whether tensor parallelism shards the sequence of tensors that have no head, FFN or vocabulary dimension
        (Korthikanti 2022, arXiv:2205.05198).
    context_kind
        ``all_gather`` and ``ring`` keep attention sharded over the sequence; ``ulysses`` over the heads
        (arXiv:2309.14509). ``ulysses+ring`` splits the axis in two, of which the nearer, ``ulysses``, takes the heads
        (arXiv:2405.07719). ``none`` has no such axis: a gathered copy is a storage of its own, which at degree 1 would
        stand beside the tensor that it is. For the same reason a plan with tp = 1 is not sequence parallel.
    """
    tensor: Groups = (("heads", "kv_heads"), ("ffn",), ("shared_ffn",), ("vocab",), ("ssm_heads",), ("scan_heads",))
    rules: dict[str, Groups] = {
        "dp": (("batch",),),
        **({"ulysses": CONTEXT} if context_kind == "ulysses+ring" else {}),
        **({} if context_kind == "none" else {"cp": CONTEXT}),
        "tp": (*tensor, ("sequence",)) if sequence_parallel else tensor,
        "ep": (("experts", "slots"),),
        "edp": (("slots",),),
        "etp": (("moe_ffn",), ("slots",)),
    }
    at: dict[tuple[str, str], Groups] = {}
    if context_kind == "ulysses":
        at["attention", "cp"] = (("heads", "kv_heads"),)
    if context_kind == "ulysses+ring":
        at["attention", "ulysses"] = (("heads", "kv_heads"),)
    return Sharding(rules, at)
