"""Families of architectures: what a fit may have seen of a model without having seen the model."""

from __future__ import annotations

from functools import lru_cache

from ..architecture import Architecture

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
