"""Low-rank adapters: a frozen model with two thin matrices beside each product that is adapted.

References
----------
Hu 2021, LoRA, arXiv:2106.09685: ``y = x W + (x A) B alpha / rank``, W frozen, A and B trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..architecture import Architecture
from ..core.errors import InputError, nearest_names
from ..core.operators import Operator, Read, Tensor, names, weight
from ..layers.base import LayerKind

RANK = "lora_rank"
"""The dimension between an adapter's two matrices; no mesh axis shards it."""

TARGETS: dict[str, tuple[str, ...]] = {
    "attention": (
        "q", "k", "v", "attention_out", "q_gate", "q_down", "q_up", "kv_down", "k_rope", "k_up", "v_up",
    ),
    "mlp": ("gate", "up", "down", "shared_gate", "shared_up", "shared_down"),
    "mixers": (),
}  # fmt: skip
"""Groups of products, and those that can be named one by one; both are tags of operators. ``all`` is all of them: every
dense product of a layer, but no router and no routed experts."""

_INHERITED = frozenset({"moe", "shared_experts"})
"""Tags that an adapter's operators take over from their product: of modules that are recomputed as a whole."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """Which products have adapters, of which rank.

    Attributes
    ----------
    rank
        Columns of A, rows of B.
    targets
        ``all``, groups (``attention``, ``mlp``, ``mixers``) or names of products (``q``, ``v``).
    """

    rank: int
    targets: tuple[str, ...] = ("all",)

    def __str__(self) -> str:
        return f"lora:{self.rank}" if self.targets == ("all",) else f"lora:{self.rank}:{','.join(self.targets)}"

    def adapts(self, operator: Operator) -> bool:
        """Whether a product has an adapter."""
        if operator.kind != "contract" or {"experts", "router_experts", "vocab"} & {*operator.space}:
            return False
        if operator.reads[1].dims != operator.reads[1].tensor.dims:  # inside a recurrence, not on its way in or out
            return False
        wanted = TARGETS if self.targets == ("all",) else self.targets
        return not operator.tags.isdisjoint(wanted)


def parse_adapter(text: str, field: str = "adapter") -> Adapters | None:
    """``none``, ``lora:16`` (all dense products), ``lora:16:attention`` or ``lora:8:q,v``.

    Raises
    ------
    InputError
        For anything else, with the nearest valid text.
    """
    body = str(text).strip().lower()
    if body == "none":
        return None
    method, _, rest = body.partition(":")
    rank, _, chosen = rest.partition(":")
    products = [p for own in TARGETS.values() for p in own]
    targets = tuple(dict.fromkeys(t.strip() for t in chosen.split(","))) if chosen else ("all",)
    unknown = [t for t in targets if t not in ("all", *TARGETS, *products)]
    if method == "lora" and rank.isdecimal() and 1 <= int(rank) <= 65_536 and not unknown:
        return Adapters(int(rank), ("all",) if "all" in targets else targets)
    allowed = f"none, lora:RANK or lora:RANK:TARGETS with targets of all, {', '.join([*TARGETS, *products])}"
    number = rank if rank.isdecimal() and 1 <= int(rank) <= 65_536 else "16"
    nearest = f"lora:{number}"
    if unknown:
        near = nearest_names(unknown[0], ["all", *TARGETS, *products], 1)
        nearest += f":{','.join(near or ['all'])}"
    raise InputError(field, text, allowed, nearest)


@lru_cache(maxsize=64)
def adapted(architecture: Architecture, text: str) -> Architecture:
    """A model with adapters, everything else frozen; the model itself for ``none``.

    Raises
    ------
    InputError
        Where the model has no product that is asked for.
    """
    adapters = parse_adapter(text)
    if adapters is None:
        return architecture
    kinds = {name: _adapted_kind(kind, adapters) for name, kind in architecture.kinds.items()}
    if not any(adapters.adapts(op) for kind in architecture.kinds.values() for op in kind.operators):
        own = [op.name for kind in architecture.kinds.values() for op in kind.operators if op.kind == "contract"]
        raise InputError(
            "adapter", text, f"products of {architecture.name}: {', '.join(dict.fromkeys(own))}", why="adapts nothing"
        )
    return replace(
        architecture,
        kinds=kinds,
        embedding=_frozen_kind(architecture.embedding),
        head=_frozen_kind(architecture.head),
        mtp=tuple(_frozen_kind(kind) for kind in architecture.mtp),
    )


def _adapted_kind(kind: LayerKind, adapters: Adapters) -> LayerKind:
    return replace(
        kind, operators=adapted_operators(kind.operators, adapters), sizes={**kind.sizes, RANK: adapters.rank}
    )


def _frozen_kind(kind: LayerKind) -> LayerKind:
    return replace(kind, operators=tuple(_frozen(op, {}) for op in kind.operators))


def adapted_operators(operators: Sequence[Operator], adapters: Adapters) -> tuple[Operator, ...]:
    """The operators of a layer whose parameters are frozen, with adapters beside its products."""
    found: list[Operator] = []
    instead: dict[str, Tensor] = {}
    for operator in operators:
        op = _frozen(operator, instead)
        if not adapters.adapts(operator):
            found.append(op)
            continue
        plain = replace(op, write=replace(op.write, state=False))
        side = _adapter(plain)
        whole = replace(op.write, name=f"{op.name}.adapted")
        reads = (Read(plain.write, plain.write.dims), Read(side[-1].write, plain.write.dims))
        added = [*side, Operator(f"{op.name}.adapted", "add", reads, whole)]
        found += [plain, *(replace(own, tags=op.tags & _INHERITED) for own in added)]
        instead[op.write.name] = whole
    return tuple(found)


def _frozen(operator: Operator, instead: dict[str, Tensor]) -> Operator:
    """The operator with frozen parameters, reading adapted results instead of plain ones."""

    def read(r: Read) -> Read:
        tensor = r.tensor
        if tensor.role == "weight":
            return Read(replace(tensor, frozen=True), r.dims)
        other = instead.get(tensor.name)
        return r if other is None else Read(replace(other, role=tensor.role), r.dims)

    return replace(operator, reads=tuple(read(r) for r in operator.reads))


def _adapter(operator: Operator) -> list[Operator]:
    """The two products beside a product, and their scaling."""
    x, matrix = operator.reads[:2]
    inputs = " ".join(d for d in x.dims if d in matrix.dims and d not in operator.write.dims)
    outputs = " ".join(d for d in operator.write.dims if d in matrix.dims and d not in x.dims)
    kept = [d for d in x.dims if d not in names(inputs)]
    down = weight(f"{operator.name}.lora_a.weight", inputs, RANK)
    up = weight(f"{operator.name}.lora_b.weight", RANK, outputs)
    format = operator.write.format
    thin = Tensor(f"{operator.name}.lora_a", names([*kept, RANK]), "activation", format)
    wide = Tensor(f"{operator.name}.lora_b", operator.write.dims, "activation", format)
    scaled = replace(wide, name=f"{operator.name}.lora")
    return [
        Operator(thin.name, "contract", (x, Read(down, down.dims)), thin),
        Operator(wide.name, "contract", (Read(thin, thin.dims), Read(up, up.dims)), wide),
        Operator(scaled.name, "scale", (Read(wide, wide.dims),), scaled),
    ]
