"""Families and layers of architectures: what a fit may have seen of a model without having seen the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import lru_cache

from ..architecture import Architecture
from ..core.operators import Operator
from ..layers.base import LayerKind

_RECURRENT = frozenset({"selective_scan", "ssm_scan", "delta_rule"})
_GATES = frozenset({"gate", "clamped_gate"})


@lru_cache(maxsize=1024)
def architecture_family(architecture: Architecture) -> str:
    """The family of an architecture, by its operators.

    Returns
    -------
    ``hybrid`` (recurrent layers, with attention or without), ``encoder-decoder``, ``MLA-MoE`` and ``MoE`` (mixtures of
    experts with latent attention and without), ``MLA``, and of dense decoders ``llama-like`` (gated MLP) and
    ``GPT-like`` (plain MLP), with ``sliding`` before where some layers see a window only.
    """
    kinds = architecture.kinds.values()
    operators = {op.kind for kind in kinds for op in kind.operators}
    latent = any("mla" in name for name in architecture.kinds)
    if operators & _RECURRENT:
        return "hybrid"
    if architecture.is_encoder_decoder:
        return "encoder-decoder"
    if any(kind.is_moe for kind in kinds):
        return "MLA-MoE" if latent else "MoE"
    if latent:
        return "MLA"
    dense = "llama-like" if operators & _GATES else "GPT-like"
    return f"sliding {dense}" if any(kind.window is not None for kind in kinds) else dense


@lru_cache(maxsize=1024)
def layer_signature(architecture: Architecture) -> frozenset[Hashable]:
    """What the layers of an architecture are, whatever its name, depth and vocabulary: of each kind of layer how many
    operators of which sizes it has. Models of one signature run the same kernels."""
    return frozenset(_kind_signature(kind) for kind in architecture.kinds.values())


def _kind_signature(kind: LayerKind) -> Hashable:
    operators = Counter(_operator_signature(op, kind) for op in kind.operators)
    return frozenset(operators.items()), kind.window, kind.causal


def _operator_signature(op: Operator, kind: LayerKind) -> Hashable:
    """Its kind and the sizes of what it reads, writes and multiplies; tokens, which a model does not size, by name."""
    shapes = (*(read.dims for read in op.reads), op.write.dims, op.over, *(p.dims for p in op.products), op.states)
    return op.kind, tuple(tuple(kind.sizes.get(dim, dim) for dim in dims) for dims in shapes)
