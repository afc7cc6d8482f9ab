"""Activation recomputation: what is dropped after forward and computed again in backward.

References
----------
Korthikanti 2022, arXiv:2205.05198 (selective: the attention core); Megatron-LM's ``recompute_modules`` (output
discarding); torch's selective checkpoint policies (keep the results of chosen operators).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..core.errors import InputError, nearest_names
from ..core.operators import Operator
from ..core.saved import Region

Selector = Callable[[Operator], bool]


def _tagged(*tags: str) -> Selector:
    return lambda op: not op.tags.isdisjoint(tags)


MODULES: dict[str, tuple[Selector, bool]] = {
    # module -> operators, and whether their results are discarded even where others keep them
    "core_attn": (_tagged("core_attn"), False),
    "layernorm": (lambda op: op.kind in ("norm", "layer_norm") and "hidden" in op.over, True),
    "moe_act": (_tagged("moe_act"), True),
    "mlp_act": (_tagged("mlp_act"), True),
    "mla_up_proj": (_tagged("mla_up_proj"), True),
    "mlp": (lambda op: "mlp" in op.tags and "moe" not in op.tags, False),
    "moe": (_tagged("moe"), False),
    "shared_experts": (_tagged("shared_experts"), False),
}
"""Modules of selective recomputation by their Megatron names, which are tags of operators."""

POLICIES: dict[str, Selector] = {
    # a checkpointed layer that keeps the results of some operators
    "matmuls": lambda op: op.kind == "contract",
    "projections": _tagged("q", "k", "v", "attention_out"),
    "matmuls+attention": lambda op: op.kind in ("contract", "attention"),
}
"""Checkpoint policies that recompute a layer but for the results of these operators."""


@dataclass(frozen=True, slots=True)
class Recompute:
    """How activations are recomputed.

    Attributes
    ----------
    mode
        ``none``, ``selective`` (modules, or a policy) or ``full``.
    modules
        Of selective recomputation.
    policy
        A checkpointed layer that keeps some results: ``matmuls``, ``matmuls+attention``, or ``alternate`` (every second
        product, and attention).
    layers
        Fraction of each stage's layers that it applies to.
    """

    mode: str = "none"
    modules: tuple[str, ...] = ()
    policy: str = ""
    layers: Fraction = Fraction(1)

    def __str__(self) -> str:
        detail = ",".join(self.modules) or self.policy
        text = f"{self.mode}:{detail}" if detail and self.mode == "selective" else self.mode
        return text if self.layers == 1 else f"{text}@{self.layers}"


NONE, SELECTIVE, FULL = Recompute(), Recompute("selective", ("core_attn",)), Recompute("full")

_KNOWN = ["none", "selective", "full", *(f"selective:{m}" for m in (*MODULES, *POLICIES, "alternate"))]


def parse_recompute(text: str, field: str = "recompute") -> Recompute:
    """``none``, ``full``, ``selective`` (the attention core), ``selective:layernorm,moe_act``, ``selective:alternate``;
    ``@1/2`` at the end applies it to half of the layers.

    Raises
    ------
    InputError
        For anything else, with the nearest valid text.
    """
    body, _, part = str(text).strip().lower().partition("@")
    mode, _, detail = body.partition(":")
    fraction = Fraction(1)
    if part and (not re.fullmatch(r"\d+(/0*[1-9]\d*|\.\d+)?", part) or not 0 < (fraction := Fraction(part)) <= 1):
        raise InputError(field, text, "a fraction of the layers in (0, 1] after @, such as full@1/2", "full@1/2")
    if mode in ("none", "full") and not detail:
        return Recompute(mode, layers=fraction)
    if mode == "selective":
        if detail in POLICIES or detail == "alternate":
            return Recompute(mode, (), detail, fraction)
        modules = tuple(m.strip() for m in detail.split(",")) if detail else ("core_attn",)
        if all(m in MODULES for m in modules):
            return Recompute(mode, modules, "", fraction)
    near = nearest_names(f"{mode}:{detail}" if detail else mode, _KNOWN, 1)
    raise InputError(field, text, ", ".join(_KNOWN), near[0] if near else "full", why="is unknown")


def regions(operators: Sequence[Operator], recompute: Recompute) -> tuple[Region, ...]:
    """The recompute regions of one layer (which it applies to, if to any)."""
    if recompute.mode == "none":
        return ()
    everything = frozenset(op.name for op in operators)
    if recompute.mode == "full":
        return (Region(everything),)
    if recompute.policy == "alternate":
        products = [op.name for op in operators if op.kind == "contract"]
        kept = frozenset(products[::2]) | {op.name for op in operators if op.kind == "attention"}
        return (Region(everything, keep_outputs=frozenset(kept)),)
    if recompute.policy:
        keep = POLICIES[recompute.policy]
        return (Region(everything, keep_outputs=frozenset(op.name for op in operators if keep(op))),)
    found: list[Region] = []
    taken: set[str] = set()
    for module in recompute.modules:
        select, discard = MODULES[module]
        names = frozenset(op.name for op in operators if select(op)) - taken
        if names:
            found.append(Region(names, discard=discard))
            taken |= names
    return tuple(found)
