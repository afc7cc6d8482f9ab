"""A plan, a model and its rates with symbols in place of their numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..architecture import Architecture
from ..core.numeric import Number
from ..layers.base import LayerKind
from ..timing.columns import Columns
from ..timing.step_constants import StepConstants
from .rates import SHAPE, SHAPE_MEANING, change_rates, rate_meaning, rates
from .symbol_table import SymbolTable

SIZES: dict[str, tuple[str, str]] = {
    "hidden": ("h", "width of the residual stream"),
    "heads": ("a", "attention heads"),
    "kv_heads": ("a_kv", "key/value heads"),
    "head_dim": ("d_head", "width of a head"),
    "ffn": ("f", "width of the MLP"),
    "vocab": ("V", "rows of the vocabulary"),
    "experts": ("E", "experts"),
    "router_experts": ("E", "experts"),
    "top_k": ("K", "experts of a token"),
    "moe_ffn": ("f_expert", "width of an expert"),
    "shared_ffn": ("f_shared", "width of the shared experts"),
    "kv_rank": ("r_kv", "rank of the latent keys and values"),
    "q_rank": ("r_q", "rank of the latent queries"),
    "nope_dim": ("d_nope", "width of a head without rotation"),
    "rope_dim": ("d_rope", "width of a head that is rotated"),
    "qk_dim": ("d_qk", "width of a query head"),
    "v_dim": ("d_v", "width of a value head"),
}
"""Dimension of a model -> symbol, and what it is; others have their own name."""

_STRUCTURAL = frozenset({"expert_groups", "groups_per_token", "conv_kernel", "chunk_context"})
"""Sizes that decide which formula holds, and stay numbers."""

DEGREES: dict[str, tuple[str, str]] = {
    "sequence": ("s", "tokens of a sequence"),
    "micro_batch": ("b", "sequences of a micro-batch"),
    "micro_batches": ("m", "micro-batches of a step"),
    "tp": ("t", "tensor-parallel degree"),
    "cp": ("c", "context-parallel degree"),
    "dp": ("d", "data-parallel degree"),
    "pp": ("p", "pipeline stages"),
    "chunks": ("v", "chunks of a stage"),
    "ep": ("ep", "expert-parallel degree"),
    "etp": ("etp", "expert-tensor-parallel degree"),
    "ulysses": ("u", "ranks that spread heads"),
    "imbalance": ("imb", "rows of the busiest expert rank over the mean"),
}
"""Column of a plan -> symbol, and what it is."""

_ALWAYS = frozenset({"sequence", "micro_batch", "micro_batches"})


def symbolic_columns(table: SymbolTable, columns: Columns) -> Columns:
    """A plan's values as symbols; degrees of 1 are left out of formulas, which vanish there."""
    own: dict[str, Number] = {}
    for field, (name, meaning) in DEGREES.items():
        value = getattr(columns, field)
        own[field] = table.base(name, value, meaning) if field in _ALWAYS or value != 1 else value
    shard: Number = own["dp"] * own["cp"]
    if columns.shard != columns.dp * columns.cp:
        shard = table.base("n_shard", columns.shard, "ranks that share a state")
    return Columns(**own, shard=shard)


def symbolic_rates(table: SymbolTable, constants: StepConstants) -> StepConstants:
    """A step's constants as symbols; what is nothing stays nothing."""

    def named(symbol: str, value: Number) -> Number:
        return table.base(symbol, value, rate_meaning(symbol, constants), rates()[symbol].unit) if value else value

    return change_rates(constants, named)


def symbolic_shape(table: SymbolTable, slower: Number | None) -> Number | None:
    """What measured runs say of layers of a shape as a symbol."""
    return None if slower is None else table.base(SHAPE, slower, SHAPE_MEANING)


def symbolic_architecture(table: SymbolTable, architecture: Architecture) -> Architecture:
    """A model whose sizes are symbols: kinds of layers that agree in a size share its symbol."""

    def kind(own: LayerKind) -> LayerKind:
        return replace(own, sizes={dim: _size(table, dim, value) for dim, value in own.sizes.items()})

    return replace(
        architecture,
        kinds={name: kind(own) for name, own in architecture.kinds.items()},
        embedding=kind(architecture.embedding),
        head=kind(architecture.head),
        mtp=tuple(kind(own) for own in architecture.mtp),
        hidden=_size(table, "hidden", architecture.hidden),
    )


def _size(table: SymbolTable, dim: str, value: int) -> Number:
    if dim in _STRUCTURAL:
        return value
    name, meaning = SIZES.get(dim, (dim, dim.replace("_", " ")))
    return table.base(name, value, meaning)


def kind_labels(architecture: Architecture) -> dict[int, tuple[str, str]]:
    """Position of a layer kind among a model's -> its label in symbols, and what it is in words.

    The order is that of :func:`~llmsim.training.stages.model_kinds`.
    """
    body = list(architecture.kinds)
    found = [(name if len(body) > 1 else "layer", f"{name} layer") for name in body]
    found += [("embedding", "the embedding"), ("head", "the head")]
    found += [(f"mtp{i}", f"prediction module {i}") for i, _ in enumerate(architecture.mtp, 1)]
    return {i: (re.sub(r"[^A-Za-z0-9]+", "", label), words) for i, (label, words) in enumerate(found)}


def letters(count: int) -> list[str]:
    """A, B, ... Z, A1, B1, ..."""
    return [chr(65 + i % 26) + (str(i // 26) if i >= 26 else "") for i in range(count)]


def counted(counts: Mapping[str, Number]) -> str:
    """Layers as text: ``10 gqa+mlp layers, the head``."""
    parts = []
    for words, n in counts.items():
        if n:
            one = n == 1
            parts.append(words if one and words.startswith("the ") else f"{n:g} {words}{'' if one else 's'}")
    return ", ".join(parts)
