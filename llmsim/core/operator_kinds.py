"""The registry of operator kinds: what each costs, moves and passes on. A new kind is one entry.

What an implementation keeps for backward is a row of ``hardware_profiles/software/kernels.yaml``; a kind without rows
there has the row of its entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .errors import UnsupportedError
from .inventory import KernelRow

WorkKind = Literal["gemm", "grouped_gemm", "attention", "scan", "recurrence", "memory"]


@dataclass(frozen=True, slots=True)
class OperatorKind:
    """Facts about one kind of operator.

    Attributes
    ----------
    name
        As operators have it.
    rated_as
        What decides its time: ``gemm`` and ``attention`` have formulas of their own; products inside a ``scan`` are of
        matrices, in a ``recurrence`` element by element; an indexer's are those of ``attention`` without values; else
        memory traffic does.
    statistic_reductions
        All-reduces of one value a row, forward and backward, where the dimension that it reduces over is sharded.
    between_layouts
        Stands between the two factorisations of the same ranks, token layout and expert layout; carries its own
        all-to-all.
    sorts_rows
        Moves rows by expert: scattered memory traffic, a class of its own.
    looks_up
        Reads rows of a table, whose gradient is dense.
    sums_gradient
        Passes a gradient on as it is; its backward is the sum that makes the gradient of its parameter.
    passes_gradient
        Its gradients are the gradient that arrives, one storage for all.
    hands_on
        What a pass hands to the next: the inputs that the ``taps`` of a convolution still need, or a state over the
        dimensions that the operator names as its ``states`` or over those of its first ``product``, positions left out.
    selects_from
        The read that is kept of every position, so that later queries can select from it.
    row
        The kernel row where no software profile has one.
    """

    name: str
    rated_as: WorkKind = "memory"
    statistic_reductions: tuple[int, int] | None = None
    between_layouts: bool = False
    sorts_rows: bool = False
    looks_up: bool = False
    sums_gradient: bool = False
    passes_gradient: bool = False
    hands_on: Literal["taps", "states", "product"] = "states"
    selects_from: int | None = None
    row: KernelRow | None = None


def _registry(kinds: Iterable[OperatorKind]) -> dict[str, OperatorKind]:
    return {kind.name: kind for kind in kinds}


OPERATOR_KINDS = _registry(
    (
        OperatorKind("contract", "gemm"),
        OperatorKind("attention", "attention"),
        OperatorKind("index_select", "attention", selects_from=1),
        OperatorKind("ssm_scan", "scan"),
        OperatorKind("delta_rule", "scan"),
        OperatorKind("selective_scan", "recurrence", hands_on="product"),
        OperatorKind("convolution", hands_on="taps"),  # depthwise: so few products that its memory traffic decides
        OperatorKind("norm", statistic_reductions=(1, 1)),
        OperatorKind("layer_norm", statistic_reductions=(2, 2)),
        OperatorKind("gated_norm"),
        OperatorKind("loss", statistic_reductions=(3, 0)),
        OperatorKind("embedding", looks_up=True),
        OperatorKind("bias", sums_gradient=True),
        OperatorKind("add", passes_gradient=True),
        OperatorKind("concat"),
        OperatorKind("scale"),
        OperatorKind("dropout"),
        OperatorKind("rotary"),
        OperatorKind("activation"),
        OperatorKind("gate"),
        OperatorKind("clamped_gate"),
        OperatorKind("route", sorts_rows=True),
        OperatorKind("dispatch", between_layouts=True, sorts_rows=True),
        OperatorKind("combine", between_layouts=True, sorts_rows=True),
    )
)
"""Name -> kind."""


def operator_kind(name: str) -> OperatorKind:
    """The kind of that name.

    Raises
    ------
    UnsupportedError
        For a kind without an entry: its cost is unknown, not zero.
    """
    found = OPERATOR_KINDS.get(name)
    if found is None:
        raise UnsupportedError(f"the cost of operators of kind {name!r} is not modelled")
    return found
