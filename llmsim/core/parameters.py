"""Parameters of a layer: how many, how they are sharded, and over which group their gradients are summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .layout import home_term, read_view
from .operators import Operator
from .sharding import Sharding
from .terms import Term


@dataclass(frozen=True, slots=True)
class Parameter:
    """One stored parameter tensor.

    Attributes
    ----------
    name
        Unique within its layer.
    elements, local
        All elements, and those of one rank before any data-parallel sharding.
    leading, rest
        Dimension 0 of the local tensor, which FSDP shards with padding, and the product of the others.
    gradient_axes
        Axes over which its gradient is a partial sum: ``(dp, cp)`` of a dense weight, also ``tp`` of a norm under
        sequence parallelism, ``edp`` of an expert.
    expert
        Whether it belongs to the expert factorisation of the ranks.
    format
        Storage class: ``weight`` (the precision recipe's matrix format applies) or ``weight_high``.
    frozen
        Whether it is not trained.
    """

    name: str
    elements: Term
    local: Term
    leading: Term
    rest: Term
    gradient_axes: tuple[str, ...]
    expert: bool
    format: str
    frozen: bool


def derive_parameters(operators: Sequence[Operator], sharding: Sharding) -> tuple[Parameter, ...]:
    """The distinct parameters of the operators, in order of first use."""
    found: dict[str, Parameter] = {}
    for op in operators:
        for read in op.weights:
            tensor = read.tensor
            if tensor.name in found:
                continue
            local = home_term(tensor, sharding, None).stored(None)
            lead = Term(tuple(f for f in local.factors if f[0] in tensor.leading))
            rest = Term(tuple(f for f in local.factors if f[0] not in tensor.leading))
            found[tensor.name] = Parameter(
                tensor.name,
                Term(tuple((d, ()) for d in tensor.dims)),
                local,
                lead,
                rest,
                read_view(read, op, sharding).missing,
                "experts" in tensor.dims,
                tensor.format,
                tensor.frozen,
            )
    return tuple(found.values())
