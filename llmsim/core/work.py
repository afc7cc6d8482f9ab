"""Work of a layer: FLOPs, bytes and shapes of what each operator computes, forward and backward.

FLOPs count a multiply-add as 2. Both products of the backward pass of a contraction have the iteration space of the
forward one, hence its FLOPs. Input-gradient and weight-gradient work are separate entries, since schedules may part
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .inventory import Inventory, KernelRow
from .layout import home_term, need_term, result_term, space_term
from .operator_kinds import WorkKind, operator_kind
from .operators import Operator, Read
from .sharding import Sharding
from .terms import Term, Terms

Phase = Literal["forward", "input_gradient", "weight_gradient"]


@dataclass(frozen=True, slots=True)
class Work:
    """What one kernel (or one fused group) does on one rank for one micro-batch.

    Attributes
    ----------
    name, operators
        The first operator of the group, and all of them.
    kind, source
        How it is rated, and the operator kind it came from.
    phase
        ``forward``, ``input_gradient`` or ``weight_gradient``.
    launches
        Kernels launched.
    flops
        Multiply-adds x 2, all of them (attention: the full square).
    masked_flops
        The part of ``flops`` that scales with the attended positions, to be evaluated with ``context`` set to the mean
        number of visible ones where the kernel skips what is masked.
    bytes
        Device memory traffic of one pass; times ``passes``.
    rows, columns, depth, groups
        GEMM shape m, n, k, as terms of elements; ``groups`` local experts of a grouped product.
    low_precision
        Whether the precision recipe's matrix format applies.
    """

    name: str
    operators: tuple[str, ...]
    kind: WorkKind
    source: str
    phase: Phase
    launches: int
    flops: Terms = ()
    masked_flops: bool = False
    bytes: Terms = ()
    passes: float = 1.0
    rows: Terms = ()
    columns: Terms = ()
    depth: Terms = ()
    groups: Terms = ()
    low_precision: bool = False


def derive_work(operators: Sequence[Operator], sharding: Sharding, inventory: Inventory) -> tuple[Work, ...]:
    """The work of all operators, forward entries in order, each followed by its backward entries."""
    result: list[Work] = []
    done: set[str] = set()
    by_name = {op.name: op for op in operators}
    for op in operators:
        if op.name in done:
            continue
        group = [by_name[n] for n in inventory.group(op.name) if n in by_name]
        done.update(o.name for o in group)
        if op.kind == "contract":
            result += _contraction(group, sharding, inventory.row(op.kernel))
        elif op.kind == "attention":
            result += _attention(op, sharding, inventory.row("attention"))
        else:
            for member in group:
                result += _other(member, sharding, inventory.row(member.kind))
    return tuple(result)


def contraction_parts(
    op: Operator,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The dimensions of a contraction as a matrix product: rows, columns, depth and groups.

    Depth is shared by both reads and not written; columns are written and only in the weight; groups are *selected*
    dimensions, in one read only and not written (the expert index of a grouped product); rows are the rest.
    """
    x, w = op.reads[0].dims, op.reads[1].dims
    written = op.write.dims
    depth = tuple(d for d in x if d in w and d not in written)
    columns = tuple(d for d in w if d in written and d not in x)
    groups = tuple(d for d in (*x, *w) if d not in written and (d in x) != (d in w))
    rows = tuple(d for d in written if d not in columns)
    return rows, columns, depth, groups


def _contraction(group: Sequence[Operator], sharding: Sharding, row: KernelRow) -> list[Work]:
    first = group[0]
    parts = [contraction_parts(op) for op in group]
    rows = space_term(first, parts[0][0], sharding)
    depth = space_term(first, parts[0][2], sharding)
    groups = tuple(space_term(first, (d,), sharding) for d in parts[0][3])
    columns = tuple(space_term(op, p[1], sharding) for op, p in zip(group, parts, strict=True))
    flops = tuple(space_term(op, (*p[0], *p[1], *p[2]), sharding).scaled(2) for op, p in zip(group, parts, strict=True))
    read = need_term(first.reads[0], first, sharding)
    weights = tuple(need_term(op.reads[1], op, sharding) for op in group)
    written = tuple(result_term(op, sharding) for op in group)
    gradient = tuple(t.stored("gradient") for t in weights)
    kind: WorkKind = "grouped_gemm" if groups else "gemm"
    names = tuple(op.name for op in group)
    low = all(op.reads[1].tensor.format == "weight" for op in group)
    products: list[Work] = []

    def add(phase: Phase, m: Terms, n: Terms, k: Terms, traffic: Terms, launches: int) -> None:
        products.append(
            Work(
                names[0], names, kind, "contract", phase, launches, flops, bytes=traffic, rows=m, columns=n, depth=k,
                groups=groups, low_precision=low,
            )
        )  # fmt: skip

    add("forward", (rows,), columns, (depth,), (read, *weights, *written), row.forward_launches)
    if first.reads[0].tensor.role == "activation":
        add("input_gradient", (rows,), (depth,), columns, (*written, *weights, read), 1)
    if any(not op.reads[1].tensor.frozen for op in group):
        add("weight_gradient", (depth,), columns, (rows,), (read, *written, *gradient, *gradient), 1)
    return products


def _attention(op: Operator, sharding: Sharding, row: KernelRow) -> list[Work]:
    q, k, v = op.reads[:3]
    context = tuple(d for d in op.over if d not in q.dims)
    scores = space_term(op, (*q.dims, *context), sharding).scaled(2)
    values = space_term(op, (*op.write.dims, *context), sharding).scaled(2)
    width = tuple(d for d in q.dims if d in k.dims and d not in ("batch", "heads", "kv_heads"))
    square = space_term(op, tuple(d for d in (*q.dims, *context) if d not in width), sharding)
    score_bytes = square.stored(row.score_format)
    tensors = (
        need_term(q, op, sharding),
        need_term(k, op, sharding),
        need_term(v, op, sharding),
        result_term(op, sharding),
    )
    first, second = row.backward_products
    rows = (space_term(op, tuple(d for d in q.dims if d not in width), sharding),)
    depth = (space_term(op, width, sharding),)

    def entry(
        phase: Phase, flops: Terms, products: int, traffic: Terms, score_passes: float, launches: int
    ) -> list[Work]:
        main = Work(
            op.name, (op.name,), "attention", "attention", phase, products if score_passes else launches, flops,
            row.skips_masked, traffic, rows=rows, columns=(space_term(op, context, sharding),), depth=depth,
        )  # fmt: skip
        if not score_passes:
            return [main]
        spill = Work(
            f"{op.name}.scores", (op.name,), "memory", "scores", phase, launches - products, (), row.skips_masked,
            (score_bytes,), score_passes,
        )  # fmt: skip
        return [main, spill]

    return [
        *entry("forward", (scores, values), 2, tensors, row.score_passes[0], row.forward_launches),
        *entry(
            "input_gradient",
            (scores.scaled(first), values.scaled(second)),
            first + second,
            (*tensors, *tensors),
            row.score_passes[1],
            row.backward_launches,
        ),
    ]


def _other(op: Operator, sharding: Sharding, row: KernelRow) -> list[Work]:
    """Operators that are no contraction: each tensor read or written once a pass, and the products they have of their
    own; backward reads the written gradient and what was kept, and writes a gradient for each activation that was
    read."""
    reads = tuple(_traffic(r, op, sharding) for r in op.reads if r.tensor.role != "weight")
    written = result_term(op, sharding)
    facts = operator_kind(op.kind)
    kind = facts.rated_as
    rows, depth = _query_shape(op, sharding) if kind == "attention" else ((), ())
    forward = Work(
        op.name, (op.name,), kind, op.kind, "forward", row.forward_launches, _products(op, sharding, "forward"),
        _is_masked(op), (*reads, written), row.forward_passes, rows, (), depth,
    )  # fmt: skip
    activations = tuple(_traffic(r, op, sharding) for r in op.activations)
    kept = tuple(
        _traffic(op.reads[k.read], op, sharding)
        for k in row.keeps
        if k.read is not None and op.reads[k.read].tensor.role == "activation"
    )
    # The gradient of a table is dense: zeroed as a whole, then added to where rows were looked up.
    tables = tuple(need_term(r, op, sharding, "gradient") for r in op.trained) if facts.looks_up else ()
    scattered = (written.stored("gradient"), *tables) if tables else ()
    if (not activations and not scattered) or (facts.sums_gradient and not op.trained):
        return [forward]
    backward = Work(
        op.name, (op.name,), kind, op.kind, "input_gradient", row.backward_launches,
        _products(op, sharding, "backward"), _is_masked(op), (written, *kept, *activations, *scattered),
        row.backward_passes, rows, (), depth,
    )  # fmt: skip
    return [forward, *_states(op, forward, sharding, row), backward, *_states(op, backward, sharding, row)]


def _query_shape(op: Operator, sharding: Sharding) -> tuple[Terms, Terms]:
    """Rows of queries, over all heads, and their width."""
    *rows, width = op.reads[0].dims
    return (space_term(op, tuple(rows), sharding),), (space_term(op, (width,), sharding),)


def _products(op: Operator, sharding: Sharding, phase: Literal["forward", "backward"]) -> Terms:
    return tuple(space_term(op, p.dims, sharding).scaled(n) for p in op.products if (n := getattr(p, phase)))


def _is_masked(op: Operator) -> bool:
    """Whether its products grow with the positions that a query may see."""
    return any({"context", "index_context"} & {*p.dims} for p in op.products)


def _states(op: Operator, work: Work, sharding: Sharding, row: KernelRow) -> list[Work]:
    """What the kernels of a scan hand from chunk to chunk through memory."""
    passes = row.score_passes[work.phase != "forward"]
    if not op.states or not passes:
        return []
    term = space_term(op, op.states, sharding).stored(row.score_format)
    name = f"{op.name}.states"
    return [Work(name, (op.name,), "memory", "states", work.phase, 0, bytes=(term,), passes=passes)]


def _traffic(read: Read, op: Operator, sharding: Sharding) -> Term:
    if operator_kind(op.kind).between_layouts:
        return home_term(read.tensor, sharding)
    return need_term(read, op, sharding)
