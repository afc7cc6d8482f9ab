"""The update of a stage's parameters on one rank: state held, memory traffic, products and transfers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.numeric import Number, maximum, minimum, total
from ..core.parameters import Parameter
from ..core.terms import Sizes
from ..hardware.software import Formats
from ..plans.optimizer import Optimizer, TensorClass, master_bytes, moment_bytes, traffic_bytes

WHOLE_BYTES = 2
"""Of an element that travels so that a matrix is whole where it is updated: 16 bits (Liu 2025, arXiv:2502.16982)."""

_TABLE_DIMS = frozenset({"vocab", "positions", "token_types", "position_buckets"})


@dataclass(frozen=True)
class ElementCost:
    """What an update costs, as the mean over the dense or the expert elements of one layer kind.

    Attributes
    ----------
    state_bytes
        Moments and preconditioners per element.
    flops
        Matrix products per element.
    largest_flops
        Those of its largest matrix.
    whole
        Fraction of the elements whose matrix must be whole to be updated.
    """

    state_bytes: Number
    flops: Number = 0
    largest_flops: Number = 0
    whole: Number = 0


def element_costs(
    optimizer: Optimizer, parameters: Sequence[Parameter], sizes: Sizes, formats: Formats, compute: str
) -> tuple[ElementCost, ElementCost]:
    """Means over the dense and over the expert elements of a layer kind.

    A matrix that tensor parallelism splits is updated part by part.
    """
    each = moment_bytes(formats, compute)
    if optimizer.uniform:
        cost = ElementCost(optimizer.matrix.moments * each)
        return cost, cost
    dense = _mean(optimizer, [p for p in parameters if not p.expert], sizes, each)
    return dense, _mean(optimizer, [p for p in parameters if p.expert], sizes, each)


def _mean(optimizer: Optimizer, parameters: Sequence[Parameter], sizes: Sizes, each: int) -> ElementCost:
    elements: Number = 0
    state: Number = 0
    flops: Number = 0
    largest: Number = 0
    whole: Number = 0
    for p in parameters:
        count, rows, columns = _matrix(p, sizes)
        rule = optimizer.rule(tensor_class(p))
        products = rule.products_flops(rows, columns)
        own = count * rows * columns
        elements = elements + own
        state = state + count * rule.state_bytes(rows, columns, each)
        flops = flops + count * products
        largest = maximum(largest, products)
        whole = whole + own * rule.whole
    some = maximum(elements, 1)
    return ElementCost(state / some, flops / some, largest, whole / some)


def tensor_class(parameter: Parameter) -> TensorClass:
    """Whether a parameter is a matrix, a table that is looked up or multiplied with (embedding, head), or neither."""
    dims = {d for d, _ in parameter.elements.factors if d != "experts"}
    if dims & _TABLE_DIMS:
        return "table"
    return "matrix" if len(parameter.rest.factors) > 0 and _is_matrix(parameter) else "vector"


def _is_matrix(parameter: Parameter) -> bool:
    dims = [d for d, _ in parameter.elements.factors]
    return "conv_kernel" not in dims and len([d for d in dims if d != "experts"]) > 1


def _matrix(parameter: Parameter, sizes: Sizes) -> tuple[Number, Number, Number]:
    """How many matrices a parameter holds on a rank (one an expert), and their rows and columns."""
    leading, rest = sizes.elements(parameter.leading), sizes.elements(parameter.rest)
    if not parameter.expert:
        return 1, leading, rest
    inner = [f for f in parameter.rest.factors if f[0] != "experts"]
    rows = sizes.elements(type(parameter.rest)(tuple(inner[:1])))
    return leading, rows, rest / maximum(rows, 1)


@dataclass(frozen=True)
class Shares:
    """Elements of one layer kind that a rank updates.

    Attributes
    ----------
    dense, expert
        Elements.
    costs
        Means over the dense and the expert elements.
    """

    dense: Number
    expert: Number
    costs: tuple[ElementCost, ElementCost]


@dataclass(frozen=True)
class Update:
    """One update of a stage on one rank.

    Attributes
    ----------
    state_bytes
        Master copies, moments and preconditioners.
    traffic_bytes
        Device memory.
    flops
        Matrix products; at least those of the largest matrix, which one rank computes as a whole.
    whole_dense, whole_expert
        Elements that travel so that matrices are whole.
    """

    state_bytes: Number
    traffic_bytes: Number
    flops: Number
    whole_dense: Number
    whole_expert: Number


def stage_update(shares: Sequence[Shares], counts: Sequence[Number], formats: Formats, compute: str) -> Update:
    """The update of a stage.

    Parameters
    ----------
    counts
        Layers of each kind.
    """
    master = master_bytes(formats, compute)
    state: Number = 0
    traffic: Number = 0
    flops: Number = 0
    largest: Number = 0
    whole: list[Number] = [0, 0]
    for share, count in zip(shares, counts, strict=True):
        for i, (elements, cost) in enumerate(zip((share.dense, share.expert), share.costs, strict=True)):
            own = elements * count
            held = master + cost.state_bytes
            state = state + own * held
            traffic = traffic + own * traffic_bytes(held, formats, compute)
            flops = flops + own * cost.flops
            largest = maximum(largest, cost.largest_flops * minimum(own, 1))
            whole[i] = whole[i] + own * cost.whole
    return Update(state, traffic, maximum(flops, largest), *whole)


def updated_elements(shares: Sequence[Shares], counts: Sequence[Number]) -> Number:
    """Elements of a stage that a rank updates."""
    return total((s.dense + s.expert) * n for s, n in zip(shares, counts, strict=True))
