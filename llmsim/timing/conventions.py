"""FLOPs per token under the conventions that publications use, side by side.

All are forward and backward, in FLOPs per token with a multiply-add as 2, and follow from the operators of the model.
*Model* conventions never count recomputation; *hardware* ones do.

References
----------
Chowdhery 2022 (PaLM), arXiv:2204.02311, appendix B (model and hardware FLOPs utilisation); Narayanan 2021,
arXiv:2104.04473; Kaplan 2020, arXiv:2001.08361 (6 N).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..architecture import Architecture
from ..core.numeric import Number, minimum, total
from ..core.operators import Operator
from ..core.work import contraction_parts
from ..layers.base import LayerKind
from .structure import Documents


@dataclass(frozen=True)
class Convention:
    """What a convention counts.

    Attributes
    ----------
    attention
        ``causal`` (half of the square), ``full`` or ``none``.
    scan
        Whether recurrences and their short convolutions count.
    router, mtp, head
        Whether router products, multi-token prediction and the vocabulary product count.
    """

    attention: str = "causal"
    scan: bool = True
    router: bool = True
    mtp: bool = True
    head: bool = True


CONVENTIONS: dict[str, Convention] = {
    "model-causal": Convention(),
    "model-full": Convention(attention="full"),
    "model-causal, router excluded": Convention(router=False),
    "model-causal, without MTP": Convention(mtp=False, router=False),
    "matmul only": Convention(attention="none", scan=False),
}
"""Conventions computed from the operators."""


def layer_flops(kind: LayerKind, sequence: Number, convention: Convention) -> Number:
    """Forward FLOPs per token of one layer.

    Causal attention counts half of the square, as publications do (exact is half of s + 1); a window w < s counts
    ``w - w**2 / (2 s)`` positions.
    """
    found: Number = 0
    for op in kind.operators:
        if op.kind == "contract":
            if "router_experts" in op.write.dims and not convention.router:
                continue
            every = {"sequence", "steps", "slots"} & {*op.write.dims}  # a pooler sees one position of the sequence
            found = found + (2 * _per_token(op, kind) if every else 2 * _per_token(op, kind) / sequence)
        elif op.kind == "attention" and convention.attention != "none":
            width = _head_width(op, kind)
            seen = sequence if "memory" in op.over else _positions(kind, sequence, convention.attention)
            found = found + 2 * kind.sizes["heads"] * width * seen
        elif op.kind == "index_select" and convention.attention != "none":
            seen = _positions(replace(kind, window=None), sequence, convention.attention)
            found = found + seen * sum(p.forward * _sizes(p.dims, kind) for p in op.products)
        elif op.kind != "index_select" and convention.scan:
            found = found + sum(p.forward * _sizes(p.dims, kind) for p in op.products)
    return found


def _per_token(op: Operator, kind: LayerKind) -> Number:
    """Multiply-adds of a contraction for one token; routed experts see ``top_k`` rows a token."""
    rows, columns, depth, _ = contraction_parts(op)
    return _sizes((*rows, *columns, *depth), kind) * (kind.sizes["top_k"] if "slots" in rows else 1)


_OF_THE_BATCH = ("batch", "sequence", "steps", "slots", "context", "index_context")


def _sizes(dims: Iterable[str], kind: LayerKind) -> int:
    """The product of the sizes that belong to the model: those of one token."""
    return math.prod(kind.sizes[dim] for dim in dims if dim not in _OF_THE_BATCH)


def _head_width(op: Operator, kind: LayerKind) -> int:
    """Width of a query head plus that of a value head."""
    return kind.sizes[op.reads[0].dims[-1]] + kind.sizes[op.write.dims[-1]]


def _positions(kind: LayerKind, sequence: Number, attention: str) -> Number:
    if not kind.causal:
        return sequence
    if attention == "full":
        return sequence if kind.window is None else minimum(kind.window, sequence)
    window = sequence if kind.window is None else minimum(kind.window, sequence)
    return window - window * window / (2 * sequence)


def flops_per_token(architecture: Architecture, sequence: Number, convention: Convention | str) -> Number:
    """FLOPs per token, forward and backward (three times forward, twice for products with frozen parameters), under one
    convention."""
    chosen = CONVENTIONS[convention] if isinstance(convention, str) else convention
    counts = [(architecture.kinds[name], n) for name, n in Counter(architecture.layers).items()]
    counts += [(architecture.head, 1)] if chosen.head else []
    counts += [(kind, 1) for kind in architecture.mtp] if chosen.mtp else []
    return total(
        count * (3 * layer_flops(kind, sequence, chosen) - _frozen_flops(kind, sequence, chosen))
        for kind, count in counts
    )


def _frozen_flops(kind: LayerKind, sequence: Number, convention: Convention) -> Number:
    """Forward FLOPs per token of the products whose parameters have no gradient."""
    frozen = tuple(op for op in kind.operators if op.kind == "contract" and not op.trained)
    return layer_flops(replace(kind, operators=frozen), sequence, replace(convention, attention="none", scan=False))


def published_flops(
    architecture: Architecture, sequence: Number, recompute: str = "none", documents: Documents = ()
) -> dict[str, Number]:
    """FLOPs per token under every published convention, by name.

    ``hardware`` is model-full with what the plan computes again: a third of the layers' forward for full recomputation,
    the attention core for selective. ``6nd-plus`` is ``6 N + 12 L h s`` with all parameters N (llm-foundry); ``palm``
    is ``6 N + 12 L a d s`` with the parameters in matrices; ``6nd`` is ``6 N`` of the parameters a token uses. Frozen
    parameters count 4 instead of 6. ``model-packed``, with documents in the sequence, is the mean of ``model-causal``
    over their tokens.
    """
    found: dict[str, Number] = {name: flops_per_token(architecture, sequence, name) for name in CONVENTIONS}
    head = 3 * layer_flops(architecture.head, sequence, Convention())
    full = found["model-full"]
    core = full - flops_per_token(architecture, sequence, Convention(attention="none"))
    again = {"full": (full - head) / 3, "selective": core / 3}.get(recompute.partition(":")[0].partition("@")[0], 0)
    found["hardware"] = full + again
    if documents:
        each = (n * length * flops_per_token(architecture, length, "model-causal") for length, n in documents)
        found["model-packed"] = total(each) / sequence
    layers = len(architecture.layers)
    frozen = 2 * (architecture.parameters - architecture.trained_parameters)
    found["6nd"] = 6 * architecture.active_parameters - frozen
    found["6nd-plus"] = 6 * architecture.parameters - frozen + 12 * layers * architecture.hidden * sequence
    found["palm"] = flops_per_token(architecture, sequence, Convention(attention="none")) + core
    return found
