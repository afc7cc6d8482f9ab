"""Softmax attention with multi-head, grouped or multi-query keys and values, with rotary or other positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.operators import LayerBuilder, Read, Tensor, renamed, weight

HEADS = "batch sequence heads head_dim"
KV_HEADS = "batch sequence kv_heads head_dim"
# Megatron recomputes this module of latent attention; of other attention it takes the query and the rotations.
UP = "mla_up_proj"


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention (Ainslie 2023, arXiv:2305.13245; kv_heads = heads is multi-head, 1 is multi-query).

    Attributes
    ----------
    rotary
        Rotary positions on queries and keys.
    bias, out_bias
        Biases of q, k, v and of the output projection.
    qk_norm
        A norm of each head's queries and keys (``head``), of their whole width (``full``), or one without a gain
        (``gainless``).
    sinks
        One learned score per head that takes part in the softmax.
    gate
        The query projection is doubled: its second half gates the output; or one gate a head (``head``).
    shared_kv, v_norm
        Keys before their norm and rotation are the values too; a norm of the values without a gain.
    """

    rotary: bool = True
    bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["none", "head", "full", "gainless"] = "none"
    sinks: bool = False
    gate: bool | Literal["head"] = False
    shared_kv: bool = False
    v_norm: bool = False

    def __call__(self, b: LayerBuilder, x: Tensor) -> Tensor:
        q = b.linear("q", x, "hidden", "heads head_dim", bias=self.bias, tags=f"attention q {UP}")
        gate = None
        if self.gate:
            width = "heads" if self.gate == "head" else "heads head_dim"
            gate = b.linear("q_gate", x, "hidden", width, bias=self.bias, tags="attention q_gate")
        k = b.linear("k", x, "hidden", "kv_heads head_dim", bias=self.bias, state=True, tags="attention k")
        v = k
        if not self.shared_kv:
            v = b.linear("v", x, "hidden", "kv_heads head_dim", bias=self.bias, state=True, tags="attention v")
        if self.v_norm:
            v = b.op("v_norm", "norm", [v], KV_HEADS, over="head_dim", format="normed", state=True)
        if self.qk_norm in ("head", "full"):
            full = self.qk_norm == "full"
            q = b.norm("q_norm", q, "heads head_dim" if full else "head_dim")
            k = b.norm("k_norm", k, "kv_heads head_dim" if full else "head_dim", state=True)
        if self.rotary:
            q = b.op("q_rotary", "rotary", [q], HEADS, tags=UP)
            k = b.op("k_rotary", "rotary", [k], KV_HEADS, state=True, tags=UP)
        if self.qk_norm == "gainless":
            q = b.op("q_norm", "norm", [q], HEADS, over="head_dim", format="normed")
            k = b.op("k_norm", "norm", [k], KV_HEADS, over="head_dim", format="normed", state=True)
        reads: list[Tensor | Read] = [q, renamed(k, sequence="context"), renamed(v, sequence="context")]
        if self.sinks:
            reads.append(weight("attention.sinks", "heads"))
        o = b.op("attention", "attention", reads, HEADS, over="context", tags="core_attn")
        if gate is not None:
            o = b.op("attention_gate", "gate", [gate, o], HEADS)
        tags = "attention attention_out"
        return b.linear("attention_out", o, "heads head_dim", "hidden", bias=self.out_bias, tags=tags)
