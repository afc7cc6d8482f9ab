"""Layers, kernels and sizes that the tests of the counting core share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmsim.core.formats import get_format
from llmsim.core.inventory import Inventory
from llmsim.core.operators import LayerBuilder, Operator
from llmsim.core.saved import Savings
from llmsim.core.terms import Sizes, Term
from llmsim.hardware.software import kernel_rows
from llmsim.layers.attention import Attention
from llmsim.layers.base import Mixer, Norm, layer_input, residual
from llmsim.layers.mla import LatentAttention
from llmsim.layers.mlp import Mlp
from llmsim.layers.moe import MixtureOfExperts

FUSED = (("q", "k", "v"), ("gate", "up"), ("kv_down", "k_rope"), ("k_up", "v_up"), ("expert_gate", "expert_up"))
CLASSES = dict.fromkeys(("activation", "residual", "normed", "operand", "weight", "weight_high", "gradient"), "bf16")
FORMATS = {name: get_format(format) for name, format in CLASSES.items()}


def layer(attention: Mixer, mlp: Mixer, norm: Norm | None = None, *, dropout: bool = False) -> tuple[Operator, ...]:
    """A pre-norm layer."""
    b = LayerBuilder()
    norm = norm or Norm()
    x = residual(b, layer_input(), "attention", attention, norm, dropout=dropout)
    residual(b, x, "mlp", mlp, norm, dropout=dropout)
    return tuple(b.operators)


LAYERS: Mapping[str, tuple[Operator, ...]] = {
    "gqa": layer(Attention(), Mlp()),
    "gpt": layer(
        Attention(rotary=False, bias=True, out_bias=True), Mlp(False, True), Norm("layer_norm", True), dropout=True
    ),
    "moe": layer(Attention(qk_norm="head"), MixtureOfExperts(shared=True, shared_gate=True)),
    "mla": layer(LatentAttention(), Mlp()),
}


def kernels(fused: tuple[tuple[str, ...], ...] = (), **chosen: str) -> Inventory:
    """The first implementation of every kind, but for those chosen."""
    rows = {kind: next(iter(rows.values())) for kind, rows in kernel_rows().items()}
    return Inventory(rows | {kind: kernel_rows()[kind][name] for kind, name in chosen.items()}, fused)


def model_sizes(scale: int = 1, **change: Any) -> dict[str, Any]:
    """Sizes that tp, cp and ep up to 8 divide; ``scale`` changes all widths."""
    sizes: dict[str, Any] = {
        "batch": 16, "sequence": 512, "context": 512, "hidden": 256 * scale, "heads": 16 * scale,
        "kv_heads": 8 * scale, "head_dim": 32, "ffn": 704 * scale, "q_rank": 96, "kv_rank": 64, "nope_dim": 16,
        "rope_dim": 16, "qk_dim": 32, "v_dim": 32, "moe_ffn": 128 * scale, "shared_ffn": 256, "experts": 16,
        "router_experts": 16, "top_k": 4, "one": 1, "vocab": 1024, "slots": 16 * 512 * 4,
    }  # fmt: skip
    return {**sizes, **change}


def values(degrees: Mapping[str, Any] | None = None, **dims: Any) -> Sizes:
    """Sizes to evaluate terms with, 16-bit throughout."""
    return Sizes(model_sizes(**dims), degrees or {}, FORMATS)


def kept_terms(savings: Savings) -> tuple[Term, ...]:
    """All terms of what is kept."""
    return tuple(term for saved in savings.kept for term in saved.terms)


def all_terms(parts: Iterable[Any], *names: str) -> list[Term]:
    """The terms in some fields of work entries or messages."""
    found: list[Term] = []
    for part in parts:
        for name in names:
            value = getattr(part, name)
            found += [value] if isinstance(value, Term) else value
    return found
