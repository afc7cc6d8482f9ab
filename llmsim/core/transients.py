"""What is alive while one operator of a layer runs backward, beside everything that was kept."""

from __future__ import annotations

from collections.abc import Sequence

from .inventory import Inventory, Keep
from .layout import need_term, result_term, space_term
from .operators import Operator, names
from .sharding import Sharding
from .terms import Terms


def derive_transients(
    operators: Sequence[Operator], sharding: Sharding, inventory: Inventory, *, weight_gradients: bool
) -> tuple[Terms, ...]:
    """For each fused group of operators, the gradients of what it wrote and of what it read.

    Parameters
    ----------
    weight_gradients
        Whether a product's weight gradient is a tensor of its own before it is added to the accumulated one.
    """
    by_name = {op.name: op for op in operators}
    found: dict[tuple[str, ...], Terms] = {}
    for op in operators:
        group = tuple(n for n in inventory.group(op.name) if n in by_name)
        if group not in found:
            found[group] = _alive([by_name[n] for n in group], sharding, weight_gradients)
    return tuple(found.values())


def _alive(group: Sequence[Operator], sharding: Sharding, weight_gradients: bool) -> Terms:
    written = [result_term(op, sharding) for op in group]
    seen: set[str] = set()
    read = []
    for op in group:
        for r in op.activations:
            if r.tensor.name not in seen:
                seen.add(r.tensor.name)
                read.append(need_term(r, op, sharding))
    matrices = [
        need_term(r, op, sharding, "gradient")
        for op in group
        if weight_gradients and op.kind == "contract"
        for r in op.trained[:1]
    ]
    return (*written, *read, *matrices)


def derive_holds(operators: Sequence[Operator], sharding: Sharding, inventory: Inventory) -> Terms:
    """What the kernels' rows say is alive besides while they run backward."""
    return tuple(t for op in operators for t in hold_terms(op, inventory.row(op.kernel).backward_holds, sharding))


def hold_terms(op: Operator, holds: Sequence[Keep], sharding: Sharding) -> Terms:
    """New tensors of one kernel."""
    found = []
    for hold in holds:
        dims, format = _held(op, hold)
        change = dict(hold.renamed)
        term = space_term(op, tuple(change.get(d, d) for d in dims), sharding)
        found.append(term.stored(hold.format or format).scaled(hold.copies))
    return tuple(found)


def _held(op: Operator, hold: Keep) -> tuple[tuple[str, ...], str]:
    if hold.read is not None:
        return op.reads[hold.read].dims, op.reads[hold.read].tensor.format
    return (op.write.dims if hold.source == "write" else names(hold.source)), op.write.format
